//! Docker's contexts: names for daemons, in the files that Docker's own client keeps them in.
//!
//! ```text
//! ~/.docker/config.json                              "currentContext"
//! ~/.docker/contexts/meta/<sha256 of name>/meta.json {"Name":…,"Metadata":{"Description":…},"Endpoints":{"docker":{"Host":…}}}
//! ~/.docker/contexts/tls/<sha256 of name>/docker/    ca.pem, cert.pem, key.pem
//! ```
//! `default` is no file: it stands for the environment and for the daemon on this machine.

use crate::error::{CliError, Result};
use crate::json::{Value, indent_json};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

pub const DEFAULT: &str = "default";

/// Files of a context that are not its description, as Docker names them.
pub const TLS_FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// What a context says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context {
    pub name: String,
    pub description: String,
    pub host: String,
    pub skip_tls_verify: bool,
    /// Of [`TLS_FILES`], those it has.
    pub tls: Vec<(String, Vec<u8>)>,
}

impl Context {
    pub fn from_meta(meta: &Value) -> Self {
        let docker = meta.at(&["Endpoints", "docker"]);
        Self {
            name: meta.get("Name").text().to_owned(),
            description: meta.at(&["Metadata", "Description"]).text().to_owned(),
            host: docker.get("Host").text().to_owned(),
            skip_tls_verify: docker.get("SkipTLSVerify").is_true(),
            tls: Vec::new(),
        }
    }

    pub fn to_meta(&self) -> Value {
        let mut metadata = Vec::new();
        if !self.description.is_empty() {
            metadata.push(("Description".to_owned(), Value::from(self.description.as_str())));
        }
        Value::object([
            ("Name", Value::from(self.name.as_str())),
            ("Metadata", Value::Map(metadata)),
            ("Endpoints", Value::object([("docker", self.endpoint())])),
        ])
    }

    pub fn endpoint(&self) -> Value {
        Value::object([
            ("Host", Value::from(self.host.as_str())),
            ("SkipTLSVerify", Value::Bool(self.skip_tls_verify)),
        ])
    }
}

/// The folder of the client's configuration.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn meta_folder(&self, name: &str) -> PathBuf {
        self.folder.join("contexts/meta").join(hash(name))
    }

    pub fn tls_folder(&self, name: &str) -> PathBuf {
        self.folder.join("contexts/tls").join(hash(name))
    }

    pub fn read(&self, name: &str) -> Result<Context> {
        let path = self.meta_folder(name).join("meta.json");
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CliError::message(format!(
                "context {name:?}: context not found: open {}: no such file or directory",
                path.display()
            )),
            _ => failed("read", &path)(error),
        })?;
        let meta = Value::parse(&bytes)
            .map_err(|error| CliError::message(format!("context {name:?}: {}: {error}", path.display())))?;
        let mut context = Context::from_meta(&meta);
        for file in TLS_FILES {
            if let Ok(bytes) = std::fs::read(self.tls_folder(name).join("docker").join(file)) {
                context.tls.push((file.to_owned(), bytes));
            }
        }
        Ok(context)
    }

    /// All that are kept in files, by name. One that cannot be read is left out.
    pub fn list(&self) -> Vec<Context> {
        let entries = std::fs::read_dir(self.folder.join("contexts/meta"))
            .into_iter()
            .flatten()
            .flatten();
        let mut found: Vec<Context> = entries
            .filter_map(|entry| std::fs::read(entry.path().join("meta.json")).ok())
            .filter_map(|bytes| Value::parse(&bytes).ok())
            .map(|meta| Context::from_meta(&meta))
            .filter(|context| !context.name.is_empty())
            .collect();
        found.sort_by(|left, right| left.name.cmp(&right.name));
        found
    }

    /// Writes a context, whole or not at all as far as its readers can tell.
    pub fn write(&self, context: &Context) -> Result<()> {
        let tls = self.tls_folder(&context.name).join("docker");
        let _ = std::fs::remove_dir_all(self.tls_folder(&context.name));
        for (file, bytes) in &context.tls {
            std::fs::create_dir_all(&tls).map_err(failed("make", &tls))?;
            replace(&tls.join(file), bytes, 0o600)?;
        }
        let folder = self.meta_folder(&context.name);
        std::fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        replace(
            &folder.join("meta.json"),
            context.to_meta().to_json().as_bytes(),
            0o644,
        )
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        for folder in [self.meta_folder(name), self.tls_folder(name)] {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The name that `context use` has chosen.
    pub fn current(&self) -> Option<String> {
        let bytes = std::fs::read(self.config_path()).ok()?;
        let config = Value::parse(&bytes).ok()?;
        let name = config.get("currentContext").text();
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Writes the choice; everything else in the file stays.
    pub fn set_current(&self, name: &str) -> Result<()> {
        let path = self.config_path();
        let mut entries = match std::fs::read(&path) {
            Ok(bytes) => match Value::parse(&bytes) {
                Ok(Value::Map(entries)) => entries,
                _ => {
                    return Err(CliError::message(format!(
                        "{} is not a JSON object",
                        path.display()
                    )));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        entries.retain(|(key, _)| key != "currentContext");
        if name != DEFAULT {
            entries.push(("currentContext".to_owned(), Value::from(name)));
        }
        std::fs::create_dir_all(&self.folder).map_err(failed("make", &self.folder))?;
        let text = indent_json(&Value::Map(entries).to_json(), "\t");
        // The file may hold credentials.
        replace(&path, text.as_bytes(), 0o600)
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join("config.json")
    }
}

/// Docker's rule for a name.
pub fn check_name(name: &str) -> Result<()> {
    let is_start = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let is_good = name.len() > 1
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte));
    if name == DEFAULT {
        return Err(CliError::message("\"default\" is a reserved context name"));
    }
    if is_start && is_good {
        return Ok(());
    }
    Err(CliError::message(format!(
        "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    )))
}

fn hash(name: &str) -> String {
    format!("{:x}", Sha256::digest(name))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    move |error| CliError::message(format!("{action} {}: {error}", path.display()))
}

/// Through a file beside it, so that no reader sees half of it.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    // A configuration that is a link stays one.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = target.clone().into_os_string();
    name.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(name);
    let write = || {
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(bytes)?;
        std::fs::rename(&beside, &target)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        failed("write", &target)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str) -> Context {
        Context {
            name: name.to_owned(),
            description: "over there".to_owned(),
            host: "unix:///there.sock".to_owned(),
            tls: vec![("ca.pem".to_owned(), b"authority".to_vec())],
            ..Context::default()
        }
    }

    #[test]
    fn contexts_are_kept_and_chosen_beside_what_else_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_path_buf());
        store.write(&context("there")).unwrap();
        assert_eq!(store.read("there").unwrap(), context("there"));
        assert_eq!(store.list().len(), 1);
        std::fs::write(
            folder.path().join("config.json"),
            r#"{"auths":{"a":{}},"currentContext":"x"}"#,
        )
        .unwrap();
        store.set_current("there").unwrap();
        assert_eq!(store.current().as_deref(), Some("there"));
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        assert!(text.contains("\"auths\""), "{text}");
        store.set_current(DEFAULT).unwrap();
        assert_eq!(store.current(), None);
        store.remove("there").unwrap();
        assert!(store.read("there").unwrap_err().to_string().contains("not found"));
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in ["", "a", "default", "../x", "a/b", "-x", "a b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("my-context_1.x+y").unwrap();
    }
}
