//! What a build attests of its result: which packages are in it, and how it was made.
//!
//! ```text
//!  the image's files ──▶ naru-sbom ──▶ SPDX document ─┐
//!                                                     ├──▶ kept with the image (`naru_content`), and sent with it
//!  what steps used ────▶ provenance ─▶ SLSA predicate ┘    or written among its files
//! ```
//! Attestations belong to an image, and so to its bytes: a build that makes the same image and is asked for others puts
//! those in their place, and one that is asked for none leaves them.

mod provenance;
mod request;

pub(super) use provenance::{Gathered, Sum};
pub use request::AttestRequest;

use super::output::{AttestedFile, ImageTree};
use super::redact::redact_address;
use super::solve::{Builder, Stage};
use crate::Engine;
use crate::archive::blocking;
use crate::error::{EngineError, Result};
use naru_base::{Digest, Timestamp};
use naru_build::dockerfile::Run;
use naru_build::{Mount, MountKind};
use naru_content::{Attestation, Image};
use naru_oci::Reference;
use naru_sbom::{Distribution, FILE_BYTES_MAX, Package, Source, Told, spdx};
use provenance::Facts;
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

/// What a list of packages is called among an image's files, and its predicate's type.
const PACKAGES_FILE: &str = "sbom.spdx.json";

/// The argument by which a Dockerfile wants the packages of stages attested that the result does not hold, and the one
/// for its context; BuildKit's names.
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const PACKAGES_TYPE: &str = "https://spdx.dev/Document";

impl Builder {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gathering(&self) -> bool {
        self.request.attest.provenance.is_some()
    }

    /// Notes an image that the build uses: by the digest that a registry has it under or, where none has it, by its id.
    pub(super) fn gather_image(&self, name: &str, image: &Image) {
        if !self.is_gathering() {
            return;
        }
        let Ok(reference) = Reference::parse(name).map(Reference::or_latest) else {
            self.gather(image.id.to_string(), None);
            return;
        };
        let digests = image
            .digests
            .iter()
            .filter_map(|name| Reference::parse(name).ok());
        let of_registry = digests
            .filter(|name| name.repository() == reference.repository())
            .find_map(|name| name.digest().cloned());
        let digest = of_registry.unwrap_or_else(|| image.id.clone());
        let uri = reference.package_url(&image.config.platform());
        self.gather(uri, Some(("sha256", digest.hex().to_owned())));
    }

    /// Notes something that the build has fetched.
    pub(super) fn gather_fetched(&self, address: &str, sum: Option<Sum>) {
        if self.is_gathering() {
            self.gather(redact_address(address), sum);
        }
    }

    fn gather(&self, uri: String, sum: Option<Sum>) {
        self.gathered().materials.insert((uri, sum));
    }

    /// Notes what a command is given that is in no layer; of secrets their ids alone.
    pub(super) fn gather_mounts(&self, run: &Run) {
        if !self.is_gathering() {
            return;
        }
        let mut gathered = self.gathered();
        for mount in run.mounts.iter().filter_map(|text| Mount::parse(text).ok()) {
            let (list, id) = match mount.kind {
                MountKind::Secret => (&mut gathered.secrets, mount.secret_id()),
                MountKind::Ssh => (&mut gathered.agents, mount.agent_id()),
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => continue,
            };
            list.insert((id.to_owned(), !mount.is_required));
        }
    }

    /// Notes a stage that is done, if its packages are wanted as well as the result's.
    pub(super) fn gather_stage(&self, index: usize, stage: &Stage) {
        let (Some(image), true) = (&stage.image, self.request.attest.has_packages) else {
            return;
        };
        let own = self.file.stages[index].name.as_deref();
        if self.is_asked(SCAN_STAGE, own, &stage.state.arguments) {
            let name = own.map_or_else(|| format!("stage{index}"), str::to_owned);
            self.gathered().stages.insert(index, (name, Arc::clone(image)));
        }
    }

    /// Whether an argument, of the stage or of the whole file, is true or names the stage.
    fn is_asked(&self, name: &str, stage: Option<&str>, arguments: &BTreeMap<String, String>) -> bool {
        let of_file = || {
            let mut declared = self.file.global_arguments();
            let (_, default, _) = declared.find(|(declared, ..)| *declared == name)?;
            self.request
                .arguments
                .get(name)
                .cloned()
                .flatten()
                .or_else(|| default.map(str::to_owned))
        };
        match arguments.get(name).cloned().or_else(of_file).as_deref() {
            None => false,
            Some("true" | "1") => true,
            Some(names) => stage.is_some_and(|stage| names.split(',').any(|one| one == stage)),
        }
    }

    /// Attests what was asked for, before anybody sees the image.
    pub(super) async fn attest(&self, id: &Digest) -> Result<()> {
        let wanted = &self.request.attest;
        let content = &self.engine.content;
        if wanted.is_empty() {
            // A build whose result was not listed may have made the same image before.
            if !self.request.is_unlisted && content.is_attested(id) && !content.is_listed(id) {
                content.attest(id, &[], &[]).map_err(crate::images::error)?;
            }
            return Ok(());
        }
        let given = if wanted.names.is_empty() {
            &self.request.names
        } else {
            &wanted.names
        };
        let names = given
            .iter()
            .map(|name| Reference::parse(name).map(Reference::or_latest))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| EngineError::invalid(error.to_string()))?;
        let mut attestations = Vec::new();
        if wanted.has_packages {
            attestations.extend(self.attest_all_packages(id, &names).await?);
        }
        if let Some(wanted) = &wanted.provenance {
            let has_times = self.request.real_times;
            let predicate = provenance::predicate(&Facts {
                wanted,
                request: &self.request,
                gathered: &self.gathered(),
                file_name: super::dockerfile_name(&self.request.dockerfile),
                text: &self.file.text,
                ended: has_times.then(Timestamp::now),
            });
            attestations.push(Attestation {
                predicate_type: wanted.version.predicate_type().to_owned(),
                file_name: wanted.file_name.clone(),
                is_inline_only: wanted.is_inline_only,
                predicate,
            });
        }
        let (content, id) = (content.clone(), id.clone());
        blocking(move || {
            let attested = content.attest(&id, &names, &attestations);
            attested.map_err(crate::images::error)
        })
        .await
    }

    /// The packages of the result, and of stages where the Dockerfile wants that.
    async fn attest_all_packages(&self, id: &Digest, names: &[Reference]) -> Result<Vec<Attestation>> {
        let image = self
            .engine
            .content
            .image(id.as_str())
            .map_err(crate::images::error)?;
        let stages = self.gathered().stages.clone();
        let layers = image.chain_ids.clone();
        let name = names.first().map_or_else(|| id.to_string(), Reference::familiar);
        let result = Listed {
            name,
            digest: id.clone(),
            created: image.created,
            file_name: PACKAGES_FILE.to_owned(),
        };
        let mut attestations = vec![self.attest_packages(&image, result).await?];
        for (name, stage) in stages
            .into_values()
            .filter(|(_, stage)| stage.chain_ids != layers)
        {
            // Not the image of its last step: that may be another one where the step came from a cache.
            let Some(digest) = stage.chain_ids.last().cloned() else {
                continue;
            };
            let listed = Listed {
                file_name: format!("sbom-{name}.spdx.json"),
                name,
                digest,
                created: image.created,
            };
            attestations.push(self.attest_packages(&stage, listed).await?);
        }
        if self.is_asked(SCAN_CONTEXT, None, &BTreeMap::new()) {
            let told =
                format!("[Warning] {SCAN_CONTEXT} is not followed: packages are listed of images alone\n");
            self.teller.tell(super::BuildStep::Note(told)).await;
        }
        Ok(attestations)
    }

    async fn attest_packages(&self, image: &Image, listed: Listed) -> Result<Attestation> {
        let tree = self.engine.image_tree(&image.id).await?;
        let file_name = listed.file_name.clone();
        let predicate = blocking(move || {
            let unreadable =
                |error: io::Error| EngineError::system(format!("cannot list the image's packages: {error}"));
            let found = find_packages(&tree).map_err(unreadable)?;
            let packages: Vec<Package> = found.packages.into_iter().collect();
            let document = spdx::document(
                spdx::Subject {
                    name: &listed.name,
                    digest: listed.digest.as_str(),
                    created: &listed.created.map_or_else(String::new, |time| time.to_string()),
                    distribution: found.distribution.as_ref(),
                },
                &packages,
            );
            serde_json::from_str(&document)
                .map_err(|error| EngineError::system(format!("the list of packages is not JSON: {error}")))
        });
        Ok(Attestation {
            predicate_type: PACKAGES_TYPE.to_owned(),
            file_name,
            is_inline_only: false,
            predicate: predicate.await?,
        })
    }
}

/// What a list of packages is of.
struct Listed {
    name: String,
    digest: Digest,
    created: Option<Timestamp>,
    file_name: String,
}

#[derive(Default)]
struct Found {
    packages: BTreeSet<Package>,
    distribution: Option<Distribution>,
}

/// What the files of an image tell of packages.
fn find_packages(tree: &ImageTree) -> io::Result<Found> {
    let mut found = Found::default();
    tree.walk(|entry| {
        let is_file = FileType::from_raw_mode(entry.mode) == FileType::RegularFile && entry.link.is_none();
        let source = entry.path.to_str().filter(|_| is_file);
        if let Some(source) = source.and_then(|path| Source::of(path, entry.mode)) {
            let told = read_told(tree, &entry.path, source)?;
            found.packages.extend(told.packages);
            found.distribution = told.distribution.or(found.distribution.take());
        }
        Ok(())
    })?;
    Ok(found)
}

fn read_told(tree: &ImageTree, path: &Path, source: Source) -> io::Result<Told> {
    let mut file = BufReader::new(tree.open(path)?.take(FILE_BYTES_MAX));
    if !source.may_tell(file.fill_buf()?) {
        return Ok(Told::default());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(source.read(&bytes))
}

impl Engine {
    /// What is attested of an image, as files to be put among its own: statements on each of those.
    pub async fn attested_files(&self, id: &Digest) -> Result<Vec<AttestedFile>> {
        let image = self.content.image(id.as_str()).map_err(crate::images::error)?;
        let mut attestations = self.content.attestations(id).map_err(crate::images::error)?;
        attestations.retain(|one| !one.is_inline_only);
        if attestations.is_empty() {
            return Ok(Vec::new());
        }
        let tree = self.image_tree(id).await?;
        blocking(move || {
            let unreadable =
                |error: io::Error| EngineError::system(format!("cannot read the image's files: {error}"));
            let subjects = sum_files(&tree).map_err(unreadable)?;
            attestations
                .iter()
                .map(|one| {
                    if subjects.iter().any(|(path, _)| *path == one.file_name) {
                        return Err(EngineError::conflict(format!(
                            "the image has a file {} of its own: an attestation cannot be written beside its files \
                             under that name",
                            one.file_name
                        )));
                    }
                    let statement = naru_content::statement(one, &subjects);
                    let text = serde_json::to_string_pretty(&statement).unwrap_or_default() + "\n";
                    Ok(AttestedFile {
                        name: one.file_name.clone(),
                        bytes: text.into_bytes(),
                        modified_at: image.created.map_or(0, Timestamp::as_second),
                    })
                })
                .collect()
        })
        .await
    }
}

/// Every plain file of an image with its SHA-256.
fn sum_files(tree: &ImageTree) -> io::Result<Vec<(String, String)>> {
    let mut sums = Vec::new();
    tree.walk(|entry| {
        if FileType::from_raw_mode(entry.mode) == FileType::RegularFile {
            let mut hash = Sha256::new();
            io::copy(&mut tree.open(&entry.path)?, &mut hash)?;
            let mut hex = String::with_capacity(64);
            for byte in hash.finalize() {
                let _ = write!(hex, "{byte:02x}");
            }
            sums.push((entry.path.to_string_lossy().into_owned(), hex));
        }
        Ok(())
    })?;
    Ok(sums)
}
