//! What a `RUN --mount` says: its words, read once for whoever plans, outlines or runs the step.
//!
//! Keys and values are those of BuildKit's Dockerfile reference. Values may have variables, which only a step knows; before
//! that, words are read as they are written.

use thiserror::Error;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may write to a cache at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// One mount of a `RUN`. Texts that were not given are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    pub target: String,
    pub source: String,
    pub from: String,
    pub id: String,
    pub read_only: Option<bool>,
    /// The size of a tmpfs.
    pub bytes: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub sharing: Sharing,
    /// Of a secret: the variable that gets it.
    pub variable: Option<String>,
    pub is_required: bool,
}

/// Words that are no mount. Where they stand is known to who read the line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MountError {
    #[error("a mount needs a target: {0:?}")]
    NoTarget(String),
    #[error("a secret needs an id: {0:?}")]
    NoSecretId(String),
    #[error("a cache with a source needs from=: {0:?}")]
    CacheWithoutFrom(String),
    #[error("invalid field {0:?} must be a key=value pair")]
    NoValue(String),
    #[error("unexpected key {key:?} in {text:?}")]
    UnknownKey { key: String, text: String },
    #[error("invalid mount type {0:?}: use bind, cache, tmpfs, secret or ssh")]
    UnknownKind(String),
    #[error("unsupported sharing value {0:?}: use shared, private or locked")]
    UnknownSharing(String),
    #[error("invalid value for {key}: {value}")]
    WrongValue { key: String, value: String },
    #[error("{0}")]
    Expansion(String),
}

impl Mount {
    /// Reads words as they are written. Where a variable is to say what is no text, that is left open, and so is whether
    /// the fields have together what they must.
    pub fn parse(text: &str) -> Result<Self, MountError> {
        let mut mount = Self::default();
        let mut is_open = false;
        for field in text.split(',').map(str::trim) {
            let (key, value) = key_and_value(field);
            if value.is_some_and(|value| value.contains('$')) && !TEXTS.contains(&&*key) {
                is_open = true;
                continue;
            }
            let field = Field {
                text: field,
                key: &key,
                value,
            };
            mount.read(text, &field)?;
        }
        if !is_open {
            mount.check(text)?;
        }
        Ok(mount)
    }

    /// Reads words whose variables `expand` knows.
    pub fn parse_expanded(
        text: &str,
        expand: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, MountError> {
        let mut mount = Self::default();
        for field in text.split(',').map(str::trim) {
            let (key, value) = key_and_value(field);
            let value = value.map(&expand).transpose().map_err(MountError::Expansion)?;
            let field = Field {
                text: field,
                key: &key,
                value: value.as_deref(),
            };
            mount.read(text, &field)?;
        }
        mount.check(text)?;
        Ok(mount)
    }

    fn read(&mut self, text: &str, field: &Field<'_>) -> Result<(), MountError> {
        match field.key {
            "type" => self.kind = kind_of(field.given()?)?,
            "target" | "dst" | "destination" => field.given()?.clone_into(&mut self.target),
            "source" | "src" => field.given()?.clone_into(&mut self.source),
            "from" => field.given()?.clone_into(&mut self.from),
            "id" => field.given()?.clone_into(&mut self.id),
            "readonly" | "ro" => self.read_only = Some(field.switch()?),
            "rw" | "readwrite" => self.read_only = Some(!field.switch()?),
            "size" => {
                let bytes = bytes_of(field.given()?).ok_or_else(|| field.wrong(field.text))?;
                self.bytes = Some(bytes);
            }
            "mode" => self.mode = Some(field.number(8)?),
            "uid" => self.uid = Some(field.number(10)?),
            "gid" => self.gid = Some(field.number(10)?),
            "sharing" => self.sharing = sharing_of(field.given()?)?,
            "env" => self.variable = Some(field.given()?.to_owned()),
            "required" => self.is_required = field.switch()?,
            other => {
                return Err(MountError::UnknownKey {
                    key: other.to_owned(),
                    text: text.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// What the fields must have together.
    fn check(&self, text: &str) -> Result<(), MountError> {
        let wrong = match self.kind {
            MountKind::Secret if self.secret_id().is_empty() => MountError::NoSecretId,
            MountKind::Secret | MountKind::Ssh => return Ok(()),
            _ if self.target.is_empty() => MountError::NoTarget,
            MountKind::Cache if self.from.is_empty() && !self.source.is_empty() => {
                MountError::CacheWithoutFrom
            }
            _ => return Ok(()),
        };
        Err(wrong(text.to_owned()))
    }

    /// By which the client is asked for a secret; one that only has a target is called as that is.
    pub fn secret_id(&self) -> &str {
        let base = self.target.rsplit('/').next().unwrap_or_default();
        let names = [self.id.as_str(), &self.source, base];
        names
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default()
    }

    /// By which the client is asked for an agent.
    pub fn agent_id(&self) -> &str {
        if self.id.is_empty() { "default" } else { &self.id }
    }
}

/// Keys whose values are texts, in which a variable can be kept as it is written.
const TEXTS: &[&str] = &[
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "id",
    "env",
];

/// The key in small letters.
fn key_and_value(field: &str) -> (String, Option<&str>) {
    let (key, value) = match field.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (field, None),
    };
    (key.to_ascii_lowercase(), value)
}

/// One `key=value`, or a key alone.
struct Field<'a> {
    text: &'a str,
    /// In small letters.
    key: &'a str,
    value: Option<&'a str>,
}

impl<'a> Field<'a> {
    fn given(&self) -> Result<&'a str, MountError> {
        let value = self.value.filter(|value| !value.is_empty());
        value.ok_or_else(|| MountError::NoValue(self.text.to_owned()))
    }

    fn number(&self, radix: u32) -> Result<u32, MountError> {
        let text = self.given()?;
        u32::from_str_radix(text, radix).map_err(|_| self.wrong(text))
    }

    fn switch(&self) -> Result<bool, MountError> {
        match self.value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(self.wrong(other)),
        }
    }

    fn wrong(&self, value: &str) -> MountError {
        MountError::WrongValue {
            key: self.key.to_owned(),
            value: value.to_owned(),
        }
    }
}

fn kind_of(word: &str) -> Result<MountKind, MountError> {
    match word {
        "bind" => Ok(MountKind::Bind),
        "cache" => Ok(MountKind::Cache),
        "tmpfs" => Ok(MountKind::Tmpfs),
        "secret" => Ok(MountKind::Secret),
        "ssh" => Ok(MountKind::Ssh),
        other => Err(MountError::UnknownKind(other.to_owned())),
    }
}

fn sharing_of(word: &str) -> Result<Sharing, MountError> {
    match word {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        other => Err(MountError::UnknownSharing(other.to_owned())),
    }
}

/// `1048576`, `64k`, `100MB`, `1GiB`.
fn bytes_of(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let shift = match lower[digits..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_they_are_written() {
        let mount = Mount::parse("type=cache,target=/c,id=x,mode=0700,uid=5,sharing=locked,ro").unwrap();
        assert_eq!(
            (mount.kind, mount.target.as_str(), mount.id.as_str()),
            (MountKind::Cache, "/c", "x")
        );
        assert_eq!(
            (mount.mode, mount.uid, mount.read_only, mount.sharing),
            (Some(0o700), Some(5), Some(true), Sharing::Locked)
        );
        let mount = Mount::parse("type=secret,target=/a/b,env=X,required").unwrap();
        assert_eq!(
            (mount.secret_id(), mount.variable.as_deref(), mount.is_required),
            ("b", Some("X"), true)
        );
        assert_eq!(
            Mount::parse("type=tmpfs,dst=/t,size=64m").unwrap().bytes,
            Some(64 << 20)
        );
    }

    #[test]
    fn variables_are_kept_in_texts_and_left_open_elsewhere() {
        const WORDS: &str = "type=$KIND,from=made,target=/$NAME,uid=$ID,readonly=$RO";
        let written = Mount::parse(WORDS).unwrap();
        assert_eq!(
            (written.from.as_str(), written.target.as_str(), written.uid),
            ("made", "/$NAME", None)
        );
        let known = |value: &str| {
            let known = [
                ("$KIND", "cache"),
                ("$ID", "7"),
                ("$NAME", "x,y"),
                ("$RO", "false"),
            ];
            Ok(known
                .iter()
                .fold(value.to_owned(), |text, (name, value)| text.replace(name, value)))
        };
        let mount = Mount::parse_expanded(WORDS, known).unwrap();
        assert_eq!(
            (mount.kind, mount.target.as_str(), mount.uid, mount.read_only),
            (MountKind::Cache, "/x,y", Some(7), Some(false))
        );
        let wrong = Mount::parse_expanded("target=/x,uid=$NAME", known).unwrap_err();
        assert_eq!(wrong.to_string(), "invalid value for uid: x,y");
    }

    #[test]
    fn secrets_and_agents_have_ids() {
        for (text, id) in [
            ("type=secret,id=one,target=/a/two", "one"),
            ("type=secret,source=three,target=/a/two", "three"),
            ("type=secret,target=/a/two", "two"),
        ] {
            assert_eq!(Mount::parse(text).unwrap().secret_id(), id, "{text}");
        }
        assert_eq!(Mount::parse("type=ssh").unwrap().agent_id(), "default");
        assert_eq!(Mount::parse("type=ssh,id=work").unwrap().agent_id(), "work");
    }

    #[test]
    fn what_is_no_mount_is_told_with_the_reason() {
        for (text, reason) in [
            ("type=cache", "a mount needs a target: \"type=cache\""),
            (
                "type=bind,target=/x,colour=red",
                "unexpected key \"colour\" in \"type=bind,target=/x,colour=red\"",
            ),
            ("target=/x,mode=9", "invalid value for mode: 9"),
            ("target", "invalid field \"target\" must be a key=value pair"),
            ("type=secret", "a secret needs an id: \"type=secret\""),
            ("type=secret,env=X", "a secret needs an id"),
            (
                "type=floppy,target=/x",
                "invalid mount type \"floppy\": use bind, cache, tmpfs, secret or ssh",
            ),
            (
                "type=cache,target=/x,sharing=loud",
                "unsupported sharing value \"loud\": use shared, private or locked",
            ),
            (
                "type=tmpfs,target=/x,size=1parsec",
                "invalid value for size: size=1parsec",
            ),
            (
                "type=cache,target=/x,source=/y",
                "a cache with a source needs from=",
            ),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
        ] {
            let error = Mount::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
    }
}
