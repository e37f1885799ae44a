//! One image of a list, and how it is written down.

use crate::json::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use naru_oci::media_type;

/// An image's manifest as a registry has it, and the platform it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The whole name it was found under.
    pub reference: String,
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub platform: Platform,
    /// The manifest's own bytes, of which `digest` is the digest.
    pub raw: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    pub os_version: String,
    pub os_features: Vec<String>,
    pub variant: String,
}

impl Platform {
    /// Reads the members that a descriptor's platform and an image's configuration have in common.
    pub fn from_value(value: &Value) -> Self {
        let text = |key: &str| value.get(key).text().to_owned();
        let features = value.get("os.features").items();
        Self {
            architecture: text("architecture"),
            os: text("os"),
            os_version: text("os.version"),
            os_features: features.iter().map(|one| one.text().to_owned()).collect(),
            variant: text("variant"),
        }
    }

    pub fn to_value(&self) -> Value {
        let mut members = vec![
            ("architecture", Value::from(self.architecture.as_str())),
            ("os", Value::from(self.os.as_str())),
        ];
        if !self.os_version.is_empty() {
            members.push(("os.version", Value::from(self.os_version.as_str())));
        }
        if !self.os_features.is_empty() {
            members.push(("os.features", Value::from(self.os_features.clone())));
        }
        if !self.variant.is_empty() {
            members.push(("variant", Value::from(self.variant.as_str())));
        }
        Value::object(members)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Entry {
    /// The manifest as JSON, with its members in their own order.
    pub fn manifest(&self) -> Value {
        Value::parse(&self.raw).unwrap_or_default()
    }

    /// As it is stored, and shown by `inspect --verbose`.
    pub fn to_value(&self) -> Value {
        let mut descriptor = vec![
            ("mediaType", Value::from(self.media_type.as_str())),
            ("digest", Value::from(self.digest.as_str())),
            ("size", Value::Unsigned(self.size)),
        ];
        if !self.platform.is_empty() {
            descriptor.push(("platform", self.platform.to_value()));
        }
        let kind = if self.media_type == media_type::DOCKER_MANIFEST {
            "SchemaV2Manifest"
        } else {
            "OCIManifest"
        };
        Value::object([
            ("Ref", Value::from(self.reference.as_str())),
            ("Descriptor", Value::object(descriptor)),
            ("Raw", Value::from(STANDARD.encode(&self.raw))),
            (kind, self.manifest()),
        ])
    }

    /// Reads what [`Entry::to_value`] or Docker's client wrote; `None` for anything else.
    pub fn from_value(value: &Value) -> Option<Self> {
        let descriptor = value.get("Descriptor");
        let raw = STANDARD.decode(value.get("Raw").text()).ok()?;
        let entry = Self {
            reference: value.get("Ref").text().to_owned(),
            media_type: descriptor.get("mediaType").text().to_owned(),
            digest: descriptor.get("digest").text().to_owned(),
            size: u64::try_from(descriptor.get("size").integer()).ok()?,
            platform: Platform::from_value(descriptor.get("platform")),
            raw,
        };
        (entry.size == entry.raw.len() as u64 && !entry.digest.is_empty()).then_some(entry)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn entry(name: &str, media_type: &str, platform: Platform) -> Entry {
        let raw = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","z":1,"a":2}}"#).into_bytes();
        Entry {
            reference: name.to_owned(),
            media_type: media_type.to_owned(),
            digest: "sha256:00".to_owned(),
            size: raw.len() as u64,
            platform,
            raw,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let platform = Platform {
            architecture: "arm".to_owned(),
            os: "linux".to_owned(),
            os_version: "1".to_owned(),
            os_features: vec!["a".to_owned()],
            variant: "v7".to_owned(),
        };
        for kind in [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST] {
            let written = entry("h:1/a:b", kind, platform.clone());
            let text = written.to_value().to_json();
            let read = Entry::from_value(&Value::parse(text.as_bytes()).unwrap());
            assert_eq!(read, Some(written));
        }
        assert_eq!(Entry::from_value(&Value::Null), None);
        let mut cut = entry("a", media_type::OCI_MANIFEST, platform).to_value();
        if let Value::Map(members) = &mut cut {
            members[2].1 = Value::from("e30=");
        }
        assert_eq!(Entry::from_value(&cut), None);
    }
}
