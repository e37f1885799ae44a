//! What is attested of an image: statements on what is in it and how it was built, which go along when it leaves the
//! store.
//!
//! ```text
//!  store      images.json: names, types, digests ──▶ blobs/sha256/<hex>   one predicate each
//!  sent       index ──┬──▶ the image's manifest   ◀───────────── subject ────────────┐
//!                     └──▶ manifest for unknown/unknown ──▶ in-toto statements, a layer each
//! ```
//! The form is BuildKit's (`docs/attestations/attestation-storage.md` there). Statements name the digest of the image's
//! manifest, which is known once its layers are compressed; so predicates are kept, and statements made of them when the
//! image is sent, each time the same bytes.

use crate::annotate::Annotations;
use crate::error::ContentError;
use crate::image::Image;
use crate::recovery::remove_any;
use crate::store::{ContentStore, State, digest_of};
use naru_base::Digest;
use naru_oci::{Descriptor, Index, Manifest, Platform, Reference, media_type};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version of in-toto's statement that registries' readers know longest.
const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";

/// The name of a subject that has none.
const NAMELESS: &str = "_";

/// In an index: what kind of manifest this is, and which other one it speaks of.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// One thing that is attested of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// A URI that says what the predicate means.
    pub predicate_type: String,
    /// What it is called among the files of the image.
    pub file_name: String,
    /// It goes with images alone, not with their files.
    pub is_inline_only: bool,
    pub predicate: Value,
}

/// What is kept of an image's attestations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttestedRecord {
    /// What statements call the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    predicates: Vec<PredicateRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PredicateRecord {
    predicate_type: String,
    file_name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_inline_only: bool,
    blob: Digest,
}

impl AttestedRecord {
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.predicates.iter().map(|predicate| &predicate.blob)
    }
}

/// A document with its descriptor.
#[derive(Debug, Clone)]
pub struct Document {
    pub descriptor: Descriptor,
    pub bytes: Vec<u8>,
}

impl Document {
    fn of(media_type: &str, value: &impl Serialize) -> Result<Self, ContentError> {
        let bytes = serde_json::to_vec(value).map_err(|error| ContentError::Config(error.to_string()))?;
        let descriptor = Descriptor::new(media_type, digest_of(&bytes), bytes.len() as u64);
        Ok(Self { descriptor, bytes })
    }
}

/// What stands for an image together with its attestations.
#[derive(Debug, Clone)]
pub struct AttestedParcel {
    pub index: Document,
    /// Of the attestations.
    pub manifest: Document,
    /// The configuration of that manifest, and its statements.
    pub blobs: Vec<Document>,
}

/// A statement on a subject: `(name, sha256 in hexadecimal digits)`.
pub fn statement(attestation: &Attestation, subjects: &[(String, String)]) -> Value {
    let subject = |(name, hex): &(String, String)| json!({ "name": name, "digest": { "sha256": hex } });
    json!({
        "_type": STATEMENT,
        "predicateType": attestation.predicate_type,
        "subject": subjects.iter().map(subject).collect::<Vec<_>>(),
        "predicate": attestation.predicate,
    })
}

impl ContentStore {
    /// Notes what is attested of an image, in the place of what was before; nothing, to forget that.
    pub fn attest(
        &self,
        image: &Digest,
        names: &[Reference],
        attestations: &[Attestation],
    ) -> Result<(), ContentError> {
        let predicates = attestations
            .iter()
            .map(|one| Document::of("", &one.predicate))
            .collect::<Result<Vec<_>, _>>()?;
        let records = attestations
            .iter()
            .zip(&predicates)
            .map(|(one, document)| PredicateRecord {
                predicate_type: one.predicate_type.clone(),
                file_name: one.file_name.clone(),
                is_inline_only: one.is_inline_only,
                blob: document.descriptor.digest.clone(),
            });
        let record = AttestedRecord {
            names: names.iter().map(ToString::to_string).collect(),
            predicates: records.collect(),
        };
        let record = (!record.predicates.is_empty()).then(|| Arc::new(record));
        let _change = self.begin_change();
        let (mut index, before) = {
            let state = self.read();
            let before = state.images.get(image).and_then(|stored| stored.attested.clone());
            (state.index(), before)
        };
        // What the disk has damaged is written again.
        let is_whole = |record: &AttestedRecord| record.blobs().all(|blob| self.read_blob(blob).is_ok());
        if before == record && record.as_deref().is_none_or(is_whole) {
            return Ok(());
        }
        let stored = index.images.get_mut(image);
        let stored = stored.ok_or_else(|| ContentError::NoSuchImage(image.to_string()))?;
        for document in &predicates {
            self.replace_file(&self.layout.blob(&document.descriptor.digest), &document.bytes)?;
        }
        stored.attested = record.as_deref().cloned();
        self.layout.write_index(&index)?;
        if let Some(stored) = self.write().images.get_mut(image) {
            stored.attested = record;
        }
        self.remove_predicates(before.as_deref())
    }

    /// Deletes the predicates of an image that is gone or has others now, but for those that another image has too.
    /// The caller holds the lock on changes.
    pub(crate) fn remove_predicates(&self, before: Option<&AttestedRecord>) -> Result<(), ContentError> {
        for blob in before.into_iter().flat_map(AttestedRecord::blobs) {
            if !self.read().needs_blob(blob) {
                remove_any(&self.layout.blob(blob))?;
            }
        }
        Ok(())
    }

    /// What is attested of an image.
    pub fn attestations(&self, image: &Digest) -> Result<Vec<Attestation>, ContentError> {
        let Some(record) = self.attested(image) else {
            return Ok(Vec::new());
        };
        let read = |one: &PredicateRecord| {
            let bytes = self.read_blob(&one.blob)?;
            let predicate =
                serde_json::from_slice(&bytes).map_err(|error| ContentError::Config(error.to_string()))?;
            Ok(Attestation {
                predicate_type: one.predicate_type.clone(),
                file_name: one.file_name.clone(),
                is_inline_only: one.is_inline_only,
                predicate,
            })
        };
        record.predicates.iter().map(read).collect()
    }

    /// The types of what is attested of an image.
    pub fn attestation_types(&self, image: &Digest) -> Vec<String> {
        let record = self.attested(image);
        let predicates = record.iter().flat_map(|record| &record.predicates);
        predicates.map(|one| one.predicate_type.clone()).collect()
    }

    fn attested(&self, image: &Digest) -> Option<Arc<AttestedRecord>> {
        let state = self.read();
        state.images.get(image).and_then(|stored| stored.attested.clone())
    }

    /// Whether anything is attested of it.
    pub fn is_attested(&self, image: &Digest) -> bool {
        self.attested(image).is_some()
    }

    /// Puts an image and what is attested of it together. `manifest` stands for the image.
    pub(crate) fn seal(
        &self,
        image: &Image,
        manifest: &Descriptor,
    ) -> Result<Option<AttestedParcel>, ContentError> {
        let Some(record) = self.attested(&image.id) else {
            return Ok(None);
        };
        let platform = image.config.platform();
        let names = record.names.iter().filter_map(|name| Reference::parse(name).ok());
        let mut names: Vec<String> = names.map(|name| name.package_url(&platform)).collect();
        if names.is_empty() {
            names.push(NAMELESS.to_owned());
        }
        let hex = manifest.digest.hex();
        let subjects: Vec<(String, String)> = names.into_iter().map(|name| (name, hex.to_owned())).collect();
        let mut blobs = Vec::new();
        for one in self.attestations(&image.id)? {
            let mut document = Document::of(media_type::IN_TOTO, &statement(&one, &subjects))?;
            let annotation = (PREDICATE_TYPE.to_owned(), one.predicate_type);
            document.descriptor.annotations.extend([annotation]);
            blobs.push(document);
        }
        seal_blobs(blobs, manifest, platform, &self.annotations(image)).map(Some)
    }
}

/// The documents around the statements.
fn seal_blobs(
    statements: Vec<Document>,
    image: &Descriptor,
    platform: Platform,
    annotations: &Annotations,
) -> Result<AttestedParcel, ContentError> {
    let digests: Vec<&Digest> = statements.iter().map(|one| &one.descriptor.digest).collect();
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": digests },
    });
    let config = Document::of(media_type::OCI_CONFIG, &config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config: config.descriptor.clone(),
        layers: statements.iter().map(|one| one.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    };
    let manifest = Document::of(media_type::OCI_MANIFEST, &manifest)?;
    let mut attesting = manifest.descriptor.clone();
    attesting.platform = Some(Platform {
        architecture: "unknown".to_owned(),
        os: "unknown".to_owned(),
        variant: String::new(),
    });
    attesting.annotations = BTreeMap::from([
        (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
    ]);
    let attested = Descriptor {
        platform: Some(platform),
        annotations: annotations.manifest_descriptor.clone(),
        ..image.clone()
    };
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: vec![attested, attesting],
        annotations: annotations.index.clone(),
    };
    let mut blobs = vec![config];
    blobs.extend(statements);
    Ok(AttestedParcel {
        index: Document::of(media_type::OCI_INDEX, &index)?,
        manifest,
        blobs,
    })
}

impl State {
    /// Whether an image needs this small blob.
    pub(crate) fn needs_blob(&self, digest: &Digest) -> bool {
        self.images.contains_key(digest)
            || self.images.values().any(|image| {
                let mut predicates = image.attested.iter().flat_map(|record| record.blobs());
                image.manifest.as_ref() == Some(digest) || predicates.any(|blob| blob == digest)
            })
    }
}
