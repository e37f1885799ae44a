//! How an image was built, as a predicate of SLSA provenance. Pure.
//!
//! The parameters and their places are those that BuildKit has (`docs/attestations/slsa-definitions.md` there), so that what
//! reads its provenance reads this; the steps in BuildKit's own low-level form are not there.
//!
//! The same build gives the same bytes: there is no random id of the build in it, and no time, unless real times were asked
//! for. A time of `SOURCE_DATE_EPOCH` would be none at which anything was built; both fields may be left out.

use super::super::BuildRequest;
use super::super::redact::{redact_address, redact_argument, redact_text};
use super::request::{ProvenanceRequest, SlsaVersion};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use naru_base::Timestamp;
use naru_content::Image;
use naru_oci::Platform;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the schema of the parameters is called.
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";

const METADATA_02: &str = "https://mobyproject.org/buildkit@v1#metadata";

const FRONTEND: &str = "dockerfile.v0";

/// A digest of something that was used: algorithm and hexadecimal digits.
pub type Sum = (&'static str, String);

/// What a build has used, gathered while it ran.
#[derive(Debug, Default)]
pub struct Gathered {
    /// By their URIs, without secrets; several of one URI may differ in what is not told of it.
    pub materials: BTreeSet<(String, Option<Sum>)>,
    /// The digest of a context that the engine has fetched.
    pub context: Option<Sum>,
    /// Ids, and whether the build can do without.
    pub secrets: BTreeSet<(String, bool)>,
    pub agents: BTreeSet<(String, bool)>,
    /// Stages whose packages are wanted as well, by their places in the file: what they are called, and hold.
    pub stages: BTreeMap<usize, (String, Arc<Image>)>,
    /// When it began, where that is to be told.
    pub begun: Option<Timestamp>,
}

impl Gathered {
    /// At the beginning: of a context that the engine has fetched, its address and digest.
    pub fn of_context(begun: Option<Timestamp>, remote: Option<&str>, sum: Option<Sum>) -> Self {
        Self {
            materials: remote
                .map(|address| (redact_address(address), sum.clone()))
                .into_iter()
                .collect(),
            context: sum,
            begun,
            ..Self::default()
        }
    }
}

/// All that a provenance is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    pub wanted: &'a ProvenanceRequest,
    pub request: &'a BuildRequest,
    pub gathered: &'a Gathered,
    pub file_name: &'a str,
    pub text: &'a str,
    /// When it ended, where that is to be told.
    pub ended: Option<Timestamp>,
}

impl SlsaVersion {
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

fn digest_set(sum: Option<&Sum>) -> Value {
    let named = sum.map(|(algorithm, hex)| ((*algorithm).to_owned(), Value::from(hex.as_str())));
    Value::Object(named.into_iter().collect())
}

/// A map without its empty members.
fn object<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let is_there = |value: &Value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    let there = members.into_iter().filter(|(_, value)| is_there(value));
    Value::Object(there.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A provenance's predicate.
pub fn predicate(facts: &Facts<'_>) -> Value {
    match facts.wanted.version {
        SlsaVersion::V02 => predicate_02(facts),
        SlsaVersion::V1 => predicate_1(facts),
    }
}

fn predicate_02(facts: &Facts<'_>) -> Value {
    let mut metadata = object([
        ("buildStartedOn", time_of(facts.gathered.begun)),
        ("buildFinishedOn", time_of(facts.ended)),
        ("reproducible", facts.is_reproducible().into()),
    ]);
    metadata["completeness"] = json!({
        "parameters": facts.has_all_parameters(),
        "environment": true,
        "materials": false,
    });
    metadata[METADATA_02] = facts.source();
    json!({
        "builder": { "id": facts.wanted.builder_id },
        "buildType": BUILD_TYPE_02,
        "materials": facts.materials(),
        "invocation": {
            "configSource": facts.config_source("entryPoint"),
            "parameters": facts.parameters(),
            "environment": { "platform": Platform::host().to_string() },
        },
        "metadata": metadata,
    })
}

fn predicate_1(facts: &Facts<'_>) -> Value {
    let mut metadata = object([
        ("startedOn", time_of(facts.gathered.begun)),
        ("finishedOn", time_of(facts.ended)),
        ("buildkit_reproducible", facts.is_reproducible().into()),
    ]);
    metadata["buildkit_completeness"] = json!({
        "request": facts.has_all_parameters(),
        "resolvedDependencies": false,
    });
    metadata["buildkit_metadata"] = facts.source();
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE_1,
            "externalParameters": {
                "configSource": facts.config_source("path"),
                "request": facts.parameters(),
            },
            "internalParameters": { "builderPlatform": Platform::host().to_string() },
            "resolvedDependencies": facts.materials(),
        },
        "runDetails": {
            "builder": { "id": facts.wanted.builder_id },
            "metadata": metadata,
        },
    })
}

fn time_of(time: Option<Timestamp>) -> Value {
    time.map_or(Value::Null, |time| time.to_string().into())
}

impl Facts<'_> {
    /// Said by the client, or seen by this very build.
    fn is_reproducible(&self) -> bool {
        self.wanted.is_reproducible || self.request.check_reproducible
    }

    fn materials(&self) -> Value {
        let materials = self.gathered.materials.iter();
        let material = |(uri, sum): &(String, Option<Sum>)| {
            object([("uri", uri.as_str().into()), ("digest", digest_set(sum.as_ref()))])
        };
        materials.map(material).collect()
    }

    fn config_source(&self, file: &str) -> Value {
        let uri = self.request.remote.as_deref().map(redact_address);
        object([
            ("digest", digest_set(self.gathered.context.as_ref())),
            ("uri", uri.unwrap_or_default().into()),
            (file, self.file_name.into()),
        ])
    }

    /// The arguments with their values as everybody may read them.
    fn told_arguments(&self) -> impl Iterator<Item = (&str, Option<String>)> {
        let told = |name, value: &Option<String>| value.as_ref().map(|value| redact_argument(name, value));
        let arguments = self.request.arguments.iter();
        arguments.map(move |(name, value)| (name.as_str(), told(name, value)))
    }

    /// Whether nothing of them is left out or hidden.
    fn has_all_parameters(&self) -> bool {
        let request = self.request;
        if !self.wanted.is_full {
            return request.arguments.is_empty() && request.labels.is_empty();
        }
        let mut told = self.told_arguments();
        told.all(|(name, value)| request.arguments.get(name) == Some(&value))
    }

    fn parameters(&self) -> Value {
        let used = |ids: &BTreeSet<(String, bool)>| -> Value {
            let ids = ids.iter().filter(|_| self.wanted.is_full);
            let one = |(id, is_optional): &(String, bool)| {
                let optional = if *is_optional {
                    Value::Bool(true)
                } else {
                    Value::Null
                };
                object([("id", id.as_str().into()), ("optional", optional)])
            };
            ids.map(one).collect()
        };
        let local = |name: &str| json!({ "name": name });
        let locals: Vec<Value> = ["context", "dockerfile"]
            .into_iter()
            .filter(|_| self.request.remote.is_none())
            .map(local)
            .collect();
        let mut parameters = object([
            ("frontend", FRONTEND.into()),
            ("locals", locals.into()),
            ("secrets", used(&self.gathered.secrets)),
            ("ssh", used(&self.gathered.agents)),
        ]);
        parameters["args"] = self.arguments();
        parameters
    }

    /// The frontend's options, by BuildKit's names; without those that only say what is made anew (`no-cache`,
    /// `image-resolve-mode`): what is built is the same, and so is the digest.
    fn arguments(&self) -> Value {
        let request = self.request;
        let mut all = Map::new();
        let mut set = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                all.insert(key.to_owned(), value.into());
            }
        };
        set("target", request.target.as_deref());
        set("force-network-mode", request.network.as_deref());
        let platform = request.platform.as_ref().map(ToString::to_string);
        set("platform", platform.as_deref());
        if self.wanted.is_full {
            for (name, value) in self.told_arguments() {
                set(&format!("build-arg:{name}"), value.as_deref());
            }
            for (name, value) in &request.labels {
                set(&format!("label:{name}"), Some(value));
            }
        }
        Value::Object(all)
    }

    /// The Dockerfile itself, line by line, without the secrets of the addresses in it.
    fn source(&self) -> Value {
        if !self.wanted.is_full {
            return json!({});
        }
        let info = json!({
            "filename": self.file_name,
            "language": "Dockerfile",
            "data": BASE64_STANDARD.encode(redact_text(self.text)),
        });
        json!({ "source": { "infos": [info] } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(fields: &str) -> Value {
        let mut attest = super::super::AttestRequest::default();
        attest.add("provenance", fields).unwrap();
        let arguments = [
            ("A", Some("one")),
            ("B", None),
            ("INDEX", Some("https://me:word@host/x?key=word")),
            ("MY_TOKEN", Some("word")),
        ]
        .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        let request = BuildRequest {
            arguments: arguments.into(),
            target: Some("last".to_owned()),
            remote: Some("https://me:word@host/x.git#main".to_owned()),
            ..BuildRequest::default()
        };
        let sum = Some(("sha1", "ab".to_owned()));
        let gathered = Gathered {
            secrets: [("token".to_owned(), true)].into(),
            ..Gathered::of_context(None, request.remote.as_deref(), sum)
        };
        predicate(&Facts {
            wanted: &attest.provenance.unwrap(),
            request: &request,
            gathered: &gathered,
            file_name: "Dockerfile",
            text: "FROM x\nADD https://me:word@host/y?key=word /y\n",
            ended: None,
        })
    }

    #[test]
    fn the_least_has_no_arguments_and_no_secrets() {
        let least = made("mode=min");
        let text = least.to_string();
        assert!(
            !["one", "token", "word", "Qk9N", "Started"]
                .iter()
                .any(|secret| text.contains(secret)),
            "{text}"
        );
        let source = &least["invocation"]["configSource"];
        assert_eq!(source["digest"]["sha1"], "ab");
        assert_eq!(
            least["invocation"]["parameters"]["args"],
            json!({ "target": "last" })
        );
        assert_eq!(least["metadata"]["completeness"]["parameters"], false);
    }

    #[test]
    fn the_most_has_the_file_and_what_it_was_given() {
        for version in ["v0.2", "v1"] {
            let most = made(&format!("mode=max,version={version},reproducible=true"));
            let (parameters, metadata) = if version == "v1" {
                let definition = &most["buildDefinition"];
                let metadata = &most["runDetails"]["metadata"];
                (
                    &definition["externalParameters"]["request"],
                    &metadata["buildkit_metadata"],
                )
            } else {
                (&most["invocation"]["parameters"], &most["metadata"][METADATA_02])
            };
            let arguments = &parameters["args"];
            assert_eq!(
                (
                    &arguments["build-arg:A"],
                    &arguments["build-arg:INDEX"],
                    &arguments["build-arg:MY_TOKEN"]
                ),
                (&json!("one"), &json!("https://host/x?key=xxxxx"), &json!("xxxxx"))
            );
            let is_complete = most
                .pointer("/metadata/completeness/parameters")
                .or_else(|| most.pointer("/runDetails/metadata/buildkit_completeness/request"));
            assert_eq!(is_complete, Some(&json!(false)));
            assert_eq!(
                parameters["secrets"],
                json!([{ "id": "token", "optional": true }])
            );
            assert_eq!(
                metadata["source"]["infos"][0]["data"],
                BASE64_STANDARD.encode("FROM x\nADD https://host/y?key=xxxxx /y\n")
            );
            assert!(!most.to_string().contains("word"));
        }
    }
}
