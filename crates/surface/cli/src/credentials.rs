//! Registry credentials where Docker's client keeps them: `config.json` and credential helpers.
//!
//! ```text
//! config.json  auths.<registry>.auth           base64 of user:password
//!              auths.<registry>.identitytoken  a token in the password's place
//!              credHelpers.<registry>          the helper for one registry: `docker-credential-NAME`
//!              credsStore                      the helper for all others
//! ```

use crate::connect::Global;
use crate::error::{CliError, Result};
use crate::json::Value;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the hub is called in `config.json`.
pub const HUB: &str = "https://index.docker.io/v1/";
/// The name by which helpers tell a token from a password.
const TOKEN_NAME: &str = "<token>";

/// What is known for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    pub identity_token: String,
}

/// The registry of an image's name, as `config.json` calls it.
pub fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if is_host(first) && first != "docker.io" && first != "index.docker.io" => first,
        _ => HUB,
    }
}

fn is_host(word: &str) -> bool {
    word.contains(['.', ':']) || word == "localhost" || word.bytes().any(|byte| byte.is_ascii_uppercase())
}

impl Credentials {
    /// The body of a login, and what the header holds.
    pub fn to_value(&self, registry: &str) -> Value {
        let mut entries = vec![("serveraddress", Value::from(registry))];
        if self.identity_token.is_empty() {
            entries.push(("username", Value::from(self.username.as_str())));
            entries.push(("password", Value::from(self.password.as_str())));
        } else {
            entries.push(("identitytoken", Value::from(self.identity_token.as_str())));
        }
        Value::object(entries)
    }
}

/// The value of `X-Registry-Auth` for a request about this image; `{}` when nothing is known.
pub fn header_for(config: &Global, reference: &str) -> Result<String> {
    let registry = registry_of(reference);
    let text = match find(config, registry)? {
        Some(found) => found.to_value(registry).to_json(),
        None => "{}".to_owned(),
    };
    Ok(URL_SAFE.encode(text))
}

/// The value of `X-Registry-Config`: what is known for each registry, since a build may need several.
pub fn header_for_all(config: &Global) -> Result<String> {
    let file = config.read_config();
    let known = file
        .get("auths")
        .entries()
        .iter()
        .chain(file.get("credHelpers").entries());
    let mut all = Vec::new();
    for (registry, _) in known {
        if let Some(found) = find(config, registry)? {
            all.push((registry.clone(), found.to_value(registry)));
        }
    }
    Ok(URL_SAFE.encode(Value::object(all).to_json()))
}

/// Looks up what is known for a registry.
pub fn find(config: &Global, registry: &str) -> Result<Option<Credentials>> {
    let file = config.read_config();
    if let Some(helper) = helper_for(&file, registry) {
        return ask_helper(&helper, registry);
    }
    let auths = file.get("auths");
    let entry = auths
        .entries()
        .iter()
        .find(|(name, _)| host_of(name) == host_of(registry));
    let Some((_, entry)) = entry else {
        return Ok(None);
    };
    let decoded = STANDARD.decode(entry.get("auth").text()).unwrap_or_default();
    let text = String::from_utf8_lossy(&decoded).into_owned();
    let (username, password) = text.split_once(':').unwrap_or_default();
    let found = Credentials {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
        identity_token: entry.get("identitytoken").text().to_owned(),
    };
    Ok((found != Credentials::default()).then_some(found))
}

/// `https://host/v1/` and `host` are the same registry.
fn host_of(registry: &str) -> &str {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn helper_for(file: &Value, registry: &str) -> Option<String> {
    let own = file.at(&["credHelpers", registry]).text();
    let name = if own.is_empty() {
        file.get("credsStore").text()
    } else {
        own
    };
    (!name.is_empty()).then(|| format!("docker-credential-{name}"))
}

/// Keeps credentials; returns the file they are in when that is a plain one.
pub fn store(config: &Global, registry: &str, credentials: &Credentials) -> Result<Option<PathBuf>> {
    if let Some(helper) = helper_for(&config.read_config(), registry) {
        let (name, secret) = if credentials.identity_token.is_empty() {
            (credentials.username.as_str(), credentials.password.as_str())
        } else {
            (TOKEN_NAME, credentials.identity_token.as_str())
        };
        let entry = Value::object([
            ("ServerURL", Value::from(registry)),
            ("Username", Value::from(name)),
            ("Secret", Value::from(secret)),
        ]);
        run_helper(&helper, "store", &entry.to_json())?;
        return Ok(None);
    }
    let mut entry = Vec::new();
    if credentials.identity_token.is_empty() {
        let text = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
        entry.push(("auth", Value::from(text)));
    } else {
        let text = STANDARD.encode(format!("{}:", credentials.username));
        entry.push(("auth", Value::from(text)));
        entry.push(("identitytoken", Value::from(credentials.identity_token.as_str())));
    }
    change_auths(config, |auths| {
        auths.retain(|(name, _)| host_of(name) != host_of(registry));
        auths.push((registry.to_owned(), Value::object(entry)));
    })
    .map(Some)
}

/// Forgets what is known for a registry; tells whether there was anything.
pub fn erase(config: &Global, registry: &str) -> Result<bool> {
    let had = find(config, registry)?.is_some();
    if let Some(helper) = helper_for(&config.read_config(), registry) {
        if had {
            run_helper(&helper, "erase", registry)?;
        }
        return Ok(had);
    }
    if had {
        change_auths(config, |auths| {
            auths.retain(|(name, _)| host_of(name) != host_of(registry));
        })?;
    }
    Ok(had)
}

fn change_auths(config: &Global, change: impl FnOnce(&mut Vec<(String, Value)>)) -> Result<PathBuf> {
    let path = config.config_path();
    // What cannot be read must not be replaced by what little is known.
    if let Ok(text) = std::fs::read(&path)
        && !text.trim_ascii().is_empty()
    {
        Value::parse(&text).map_err(|error| CliError::message(format!("{}: {error}", path.display())))?;
    }
    let mut entries = config.read_config().entries().to_vec();
    let mut auths = Vec::new();
    if let Some(at) = entries.iter().position(|(key, _)| key == "auths") {
        auths = entries.remove(at).1.entries().to_vec();
    }
    change(&mut auths);
    entries.insert(0, ("auths".to_owned(), Value::Map(auths)));
    write_private(&path, &Value::Map(entries).to_json())
        .map_err(|error| CliError::message(format!("{}: {error}", path.display())))?;
    Ok(path)
}

/// Replaces a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let partial = path.with_extension(format!("json.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    let written = file
        .write_all(crate::json::indent_json(text, "\t").as_bytes())
        .and_then(|()| file.sync_all())
        // A link to the real file is written through, not replaced.
        .and_then(|()| {
            std::fs::rename(
                &partial,
                std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            )
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn ask_helper(helper: &str, registry: &str) -> Result<Option<Credentials>> {
    let answer = match run_helper(helper, "get", registry) {
        Err(CliError::Message(text)) if text.contains("credentials not found") => return Ok(None),
        other => other?,
    };
    let answer = Value::parse(answer.as_bytes())
        .map_err(|error| CliError::message(format!("{helper} get: unexpected answer: {error}")))?;
    let (name, secret) = (answer.get("Username").text(), answer.get("Secret").text());
    Ok(Some(if name == TOKEN_NAME {
        Credentials {
            identity_token: secret.to_owned(),
            ..Credentials::default()
        }
    } else {
        Credentials {
            username: name.to_owned(),
            password: secret.to_owned(),
            ..Credentials::default()
        }
    }))
}

fn run_helper(helper: &str, action: &str, input: &str) -> Result<String> {
    let failed = |reason: String| CliError::message(format!("{helper} {action}: {reason}"));
    let mut child = Command::new(helper)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not want its input says why by its own exit.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        return Err(failed(text));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path, text: &str) -> Global {
        std::fs::write(folder.join("config.json"), text).unwrap();
        Global {
            exec_root: PathBuf::new(),
            config_dir: Some(folder.to_owned()),
            context_name: String::new(),
            default_host: String::new(),
        }
    }

    #[test]
    fn registries_are_told_from_names() {
        for (reference, registry) in [
            ("debian", HUB),
            ("user/app:1", HUB),
            ("docker.io/library/debian", HUB),
            ("localhost/app", "localhost"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000"),
            ("registry.example.com/a/b", "registry.example.com"),
        ] {
            assert_eq!(registry_of(reference), registry);
        }
    }

    #[test]
    fn what_is_stored_is_found_and_erased_and_the_rest_of_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(
            folder.path(),
            r#"{"psFormat":"x","auths":{"https://a:5000/v2/":{"auth":"dTpw"}}}"#,
        );
        let known = find(&config, "a:5000").unwrap().unwrap();
        assert_eq!((known.username.as_str(), known.password.as_str()), ("u", "p"));
        let token = Credentials {
            username: "v".to_owned(),
            identity_token: "t".to_owned(),
            ..Credentials::default()
        };
        store(&config, HUB, &token).unwrap();
        assert_eq!(find(&config, HUB).unwrap(), Some(token));
        assert!(erase(&config, "a:5000").unwrap());
        assert!(!erase(&config, "a:5000").unwrap());
        assert_eq!(config.read_config().get("psFormat").text(), "x");
        assert!(find(&config, HUB).unwrap().is_some());
    }

    #[test]
    fn a_helper_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), r#"{"credHelpers":{"a:1":"no-such-helper"}}"#);
        let error = find(&config, "a:1").unwrap_err().to_string();
        assert!(error.contains("docker-credential-no-such-helper get"), "{error}");
        assert_eq!(find(&config, "b:1").unwrap(), None);
    }
}
