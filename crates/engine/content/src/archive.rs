//! Loads images from archives: what `docker save` writes (old and new form) and OCI layouts.
//!
//! The archive is read once, front to back, whatever its order: layers are unpacked as they come by, small documents
//! are kept in memory, and what belongs together is decided at the end. Nothing in it is believed before its digest
//! was compared.

use crate::commit::{ImagePlan, Ingest, mismatch};
use crate::error::{ContentError, LayerError};
use crate::image::{LoadProgress, LoadedImage};
use crate::stage::{Compression, HashingReader, decompress, read_full};
use crate::store::{ContentStore, digest_of};
use crate::tarball::{EntryKind, NoTap, TarReader, has_valid_checksum};
use naru_base::Digest;
use naru_oci::{Descriptor, ImageConfig, Index, Manifest, ManifestDocument, Platform, Reference, media_type};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

/// Largest document read; Docker's own limit on manifests is 4 MiB, configurations with long histories stay below.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;
/// All documents of an archive together, a bound on memory.
const DOCUMENTS_BYTES_MAX: u64 = 128 << 20;
/// Members of an archive; a bound on memory.
const MEMBERS_MAX: usize = 100_000;
/// Indexes within indexes; the specification needs two.
const INDEX_DEPTH_MAX: u32 = 4;
/// Bytes of a layer between two reports of progress.
const PROGRESS_BYTES: u64 = 512 << 10;

/// One member of the archive, once read.
enum Member {
    Document(Vec<u8>),
    Layer {
        diff_id: Digest,
        blob: Digest,
    },
    /// Another member's name.
    Link(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl ContentStore {
    /// Loads every image of an archive, or none: those for `platform`, or where none is given what an archive of
    /// Docker's has, and of several platforms this machine's.
    pub fn load(
        &self,
        archive: impl Read,
        platform: Option<&Platform>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Vec<LoadedImage>, ContentError> {
        let mut ingest = Ingest::new(self);
        let members = read_members(archive, &mut ingest, progress)?;
        let plans = Members(members).plan(platform)?;
        ingest.commit(plans)
    }
}

/// Reads the whole archive: layers are unpacked, documents kept.
fn read_members(
    archive: impl Read,
    ingest: &mut Ingest<'_>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<HashMap<String, Member>, ContentError> {
    let broken = |source: LayerError| match source {
        LayerError::Read(error) => ContentError::Archive(error.to_string()),
        other => ContentError::Archive(other.to_string()),
    };
    let mut input = BufReader::with_capacity(256 << 10, archive);
    let head = input
        .fill_buf()
        .map_err(|error| broken(LayerError::Read(error)))?;
    let compression = Compression::of(head);
    let input = decompress(input, compression).map_err(|error| broken(LayerError::Read(error)))?;
    let mut reader = TarReader::new(BufReader::with_capacity(256 << 10, input), NoTap);
    let mut members = HashMap::new();
    let mut documents_bytes = 0;
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        let Ok(name) = String::from_utf8(entry.name.clone()) else {
            continue;
        };
        let name = normalise("", &name);
        if members.len() >= MEMBERS_MAX {
            return Err(broken(LayerError::TooMany("members")));
        }
        let target = String::from_utf8_lossy(&entry.link).into_owned();
        match entry.kind {
            EntryKind::Symlink => {
                members.insert(name.clone(), Member::Link(normalise(&name, &target)));
            }
            EntryKind::HardLink => {
                members.insert(name, Member::Link(normalise("", &target)));
            }
            EntryKind::File => {
                let mut content = Content { reader: &mut reader };
                let member = read_member(&mut content, &name, entry.bytes, ingest, progress)?;
                if let Some(Member::Document(bytes)) = &member {
                    documents_bytes += bytes.len() as u64;
                    if documents_bytes > DOCUMENTS_BYTES_MAX {
                        return Err(broken(LayerError::TooMany("documents")));
                    }
                }
                if let Some(member) = member {
                    members.insert(name, member);
                }
            }
            _ => {}
        }
    }
    Ok(members)
}

/// The current entry of an archive, as a reader.
struct Content<'a, R> {
    reader: &'a mut TarReader<R, NoTap>,
}

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let piece = self.reader.content().map_err(|error| match error {
            LayerError::Read(error) => error,
            LayerError::Truncated => io::Error::from(io::ErrorKind::UnexpectedEof),
            other => io::Error::other(other),
        })?;
        let length = piece.len().min(target.len());
        target[..length].copy_from_slice(&piece[..length]);
        self.reader.consume(length);
        Ok(length)
    }
}

/// The digest that a member's name promises: `blobs/sha256/<hex>`.
fn promised_digest(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("blobs/sha256/")?)
        .parse()
        .ok()
}

/// Whether the first bytes are those of a layer: compressed, or a tar archive, perhaps an empty one.
fn looks_like_layer(head: &[u8]) -> bool {
    Compression::of(head) != Compression::None
        || (head.len() == 512 && (has_valid_checksum(head) || head.iter().all(|b| *b == 0)))
}

fn read_member(
    content: &mut impl Read,
    name: &str,
    bytes: u64,
    ingest: &mut Ingest<'_>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Option<Member>, ContentError> {
    let failed = |error: io::Error| ContentError::Archive(format!("{name}: {error}"));
    let mut head = [0; 512];
    let length = read_full(content, &mut head).map_err(failed)?;
    let input = io::Cursor::new(head[..length].to_vec()).chain(content);
    let promised = promised_digest(name);
    let member = if looks_like_layer(&head[..length]) {
        let label = short_label(name);
        let mut input = ProgressReader {
            input,
            label: &label,
            bytes: 0,
            reported: 0,
            bytes_total: bytes,
            progress,
        };
        let known = promised.as_ref().and_then(|digest| ingest.find_layer(digest));
        let (diff_id, blob) = match known {
            Some(diff_id) => (diff_id, HashingReader::new(input).finish().map_err(failed)?.0),
            None => ingest.add_layer(&mut input, &label)?,
        };
        Member::Layer { diff_id, blob }
    } else if promised.is_some() || has_json_name(name) {
        if bytes > DOCUMENT_BYTES_MAX {
            return Ok(None);
        }
        let mut document = Vec::with_capacity(bytes as usize);
        input.take(bytes).read_to_end(&mut document).map_err(failed)?;
        Member::Document(document)
    } else {
        return Ok(None);
    };
    if let Some(promised) = promised {
        let found = match &member {
            Member::Layer { blob, .. } => blob.clone(),
            Member::Document(document) => digest_of(document),
            Member::Link(_) => promised.clone(),
        };
        if found != promised {
            return Err(mismatch(name, &promised, &found));
        }
    }
    Ok(Some(member))
}

fn has_json_name(name: &str) -> bool {
    std::path::Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "json")
}

/// Twelve characters that tell a layer apart while it loads: of its digest, or of its directory's name.
fn short_label(name: &str) -> String {
    let stem = name.strip_prefix("blobs/sha256/").unwrap_or(name);
    stem.split('/').next().unwrap_or(stem).chars().take(12).collect()
}

/// A member's name as a plain path: relative to the directory of `from`, without `.` and `..`.
fn normalise(from: &str, name: &str) -> String {
    let mut components: Vec<&str> = from.split('/').filter(|c| !c.is_empty()).collect();
    components.pop();
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            other => components.push(other),
        }
    }
    components.join("/")
}

struct ProgressReader<'a, R> {
    input: R,
    label: &'a str,
    bytes: u64,
    reported: u64,
    bytes_total: u64,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(target)?;
        self.bytes += length as u64;
        let is_end = length == 0 && !target.is_empty() && self.reported < self.bytes;
        if is_end || self.bytes - self.reported >= PROGRESS_BYTES {
            self.reported = self.bytes;
            (self.progress)(LoadProgress {
                layer: self.label.to_owned(),
                bytes: self.bytes,
                bytes_total: self.bytes_total,
            });
        }
        Ok(length)
    }
}

/// Parsed, and its bytes.
type FoundManifest<'a> = (Manifest, &'a [u8]);

struct Members(HashMap<String, Member>);

impl Members {
    fn plan(&self, platform: Option<&Platform>) -> Result<Vec<ImagePlan>, ContentError> {
        let is_docker = self.0.contains_key("manifest.json");
        let is_layout = self.0.contains_key("index.json");
        if !is_docker && !is_layout {
            return Err(ContentError::Archive(
                "it has neither manifest.json nor index.json".to_owned(),
            ));
        }
        let is_wanted =
            |plan: &ImagePlan| platform.is_none_or(|platform| platform.fits(&plan.config.platform()));
        let mut plans = if is_docker {
            self.plan_docker()?
        } else {
            Vec::new()
        };
        plans.retain(is_wanted);
        // Docker's own list has one platform of each image; the layout beside it may have more.
        if plans.is_empty() && is_layout {
            plans = self.plan_oci(platform.unwrap_or(&Platform::host()))?;
            plans.retain(is_wanted);
        }
        if plans.is_empty() {
            let platform =
                platform.map_or_else(|| "this platform".to_owned(), |one| format!("platform {one}"));
            return Err(ContentError::Archive(format!("it has no image for {platform}")));
        }
        Ok(plans)
    }

    fn get(&self, name: &str) -> Result<&Member, ContentError> {
        let mut name = normalise("", name);
        // A link to a link is as deep as any writer goes; more is a circle.
        for _ in 0..4 {
            match self.0.get(&name) {
                Some(Member::Link(target)) => name.clone_from(target),
                Some(member) => return Ok(member),
                None => break,
            }
        }
        Err(ContentError::Archive(format!("{name} is missing")))
    }

    fn document(&self, name: &str) -> Result<&[u8], ContentError> {
        match self.get(name)? {
            Member::Document(bytes) => Ok(bytes),
            _ => Err(ContentError::Archive(format!("{name} is not a document"))),
        }
    }

    fn layer(&self, name: &str) -> Result<(&Digest, &Digest), ContentError> {
        match self.get(name)? {
            Member::Layer { diff_id, blob } => Ok((diff_id, blob)),
            _ => Err(ContentError::Archive(format!("{name} is not a layer"))),
        }
    }

    fn plan_docker(&self) -> Result<Vec<ImagePlan>, ContentError> {
        let items: Vec<DockerItem> = serde_json::from_slice(self.document("manifest.json")?)
            .map_err(|error| ContentError::Archive(format!("manifest.json: {error}")))?;
        items
            .into_iter()
            .map(|item| self.plan_docker_item(item))
            .collect()
    }

    fn plan_docker_item(&self, item: DockerItem) -> Result<ImagePlan, ContentError> {
        let raw_config = self.document(&item.config)?;
        let layers: Vec<Digest> = item
            .layers
            .iter()
            .flatten()
            .map(|name| self.layer(name).map(|(diff_id, _)| diff_id.clone()))
            .collect::<Result<_, _>>()?;
        let names = item
            .repo_tags
            .unwrap_or_default()
            .iter()
            .map(|name| Reference::parse(name).map(Reference::or_latest))
            .collect::<Result<_, _>>()?;
        let mut plan = plan_image(raw_config, &layers, names)?;
        plan.manifest = self.find_manifest_of(&digest_of(raw_config), &item.layers.unwrap_or_default());
        Ok(plan)
    }

    /// The manifest in the archive that speaks of this configuration and these very layers, if one does.
    fn find_manifest_of(&self, config: &Digest, layers: &[String]) -> Option<Vec<u8>> {
        let index = ManifestDocument::parse(self.document("index.json").ok()?, None).ok()?;
        let ManifestDocument::Index(index) = index else {
            return None;
        };
        let blobs: Vec<&Digest> = layers
            .iter()
            .map(|name| self.layer(name).map(|(_, blob)| blob))
            .collect::<Result<_, _>>()
            .ok()?;
        index.manifests.iter().find_map(|descriptor| {
            let (manifest, bytes) = self.find_manifest(descriptor, &Platform::host(), 0).ok()??;
            let is_it = manifest.config.digest == *config
                && manifest
                    .layers
                    .iter()
                    .map(|layer| &layer.digest)
                    .eq(blobs.iter().copied());
            (is_it && is_compressed(&manifest)).then(|| bytes.to_vec())
        })
    }

    fn plan_oci(&self, platform: &Platform) -> Result<Vec<ImagePlan>, ContentError> {
        let document = parse_document("index.json", self.document("index.json")?, None)?;
        let ManifestDocument::Index(index) = document else {
            return Err(ContentError::Archive("index.json is not an index".to_owned()));
        };
        let mut plans: Vec<ImagePlan> = Vec::new();
        for descriptor in &index.manifests {
            let Some(manifest) = self.find_manifest(descriptor, platform, 0)? else {
                continue;
            };
            let mut plan = self.plan_manifest(manifest)?;
            plan.names.extend(annotated_name(descriptor));
            match plans.iter_mut().find(|other| other.raw_config == plan.raw_config) {
                Some(other) => other.names.append(&mut plan.names),
                None => plans.push(plan),
            }
        }
        Ok(plans)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<&[u8], ContentError> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        let bytes = self.document(&name)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(ContentError::Archive(format!(
                "{name} has not the size its descriptor says"
            )));
        }
        Ok(bytes)
    }

    /// The manifest behind a descriptor: itself, or the one for `platform`. `None` where nothing is for it.
    fn find_manifest(
        &self,
        descriptor: &Descriptor,
        platform: &Platform,
        depth: u32,
    ) -> Result<Option<FoundManifest<'_>>, ContentError> {
        let offered = descriptor.platform.as_ref();
        let is_foreign = offered
            .is_some_and(|other| other.os != platform.os || other.architecture != platform.architecture);
        if is_foreign || depth > INDEX_DEPTH_MAX {
            return Ok(None);
        }
        let bytes = self.blob(descriptor)?;
        match parse_document(descriptor.digest.as_str(), bytes, Some(&descriptor.media_type))? {
            ManifestDocument::Manifest(manifest) => Ok(Some((manifest, bytes))),
            ManifestDocument::Index(index) => self.choose_manifest(&index, platform, depth),
        }
    }

    fn choose_manifest(
        &self,
        index: &Index,
        platform: &Platform,
        depth: u32,
    ) -> Result<Option<FoundManifest<'_>>, ContentError> {
        match index.choose(platform) {
            Some(descriptor) => self.find_manifest(descriptor, platform, depth + 1),
            None => Ok(None),
        }
    }

    fn plan_manifest(&self, (manifest, bytes): FoundManifest<'_>) -> Result<ImagePlan, ContentError> {
        let raw_config = self.blob(&manifest.config)?;
        let mut layers = Vec::new();
        for descriptor in &manifest.layers {
            let (diff_id, blob) = self.layer(&format!("blobs/sha256/{}", descriptor.digest.hex()))?;
            if *blob != descriptor.digest {
                return Err(mismatch("a layer", &descriptor.digest, blob));
            }
            layers.push(diff_id.clone());
        }
        let mut plan = plan_image(raw_config, &layers, Vec::new())?;
        plan.manifest = is_compressed(&manifest).then(|| bytes.to_vec());
        Ok(plan)
    }
}

/// Archives hold layers plain to be simple; nobody wants them pushed so.
fn is_compressed(manifest: &Manifest) -> bool {
    let is_plain = |layer: &Descriptor| {
        matches!(
            layer.media_type.as_str(),
            "" | media_type::OCI_LAYER_TAR | media_type::DOCKER_LAYER_TAR
        )
    };
    !manifest.layers.iter().any(is_plain)
}

fn parse_document(
    name: &str,
    bytes: &[u8],
    expected: Option<&str>,
) -> Result<ManifestDocument, ContentError> {
    ManifestDocument::parse(bytes, expected).map_err(|source| ContentError::Document {
        document: name.to_owned(),
        source,
    })
}

/// The name an index gives a manifest: containerd's whole one, or OCI's where that is more than a bare tag.
fn annotated_name(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key: &str| descriptor.annotations.get(key);
    let text = annotation("io.containerd.image.name").or_else(|| {
        annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
    })?;
    Reference::parse(text).ok().map(Reference::or_latest)
}

/// Compares an image's layers with what its configuration says they are.
pub(crate) fn plan_image(
    raw_config: &[u8],
    layers: &[Digest],
    names: Vec<Reference>,
) -> Result<ImagePlan, ContentError> {
    let config: ImageConfig =
        serde_json::from_slice(raw_config).map_err(|error| ContentError::Config(error.to_string()))?;
    let expected = &config.rootfs.diff_ids;
    if expected.len() != layers.len() {
        return Err(ContentError::Archive(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            expected.len(),
            layers.len()
        )));
    }
    for (expected, found) in expected.iter().zip(layers) {
        if expected != found {
            return Err(mismatch("a layer", expected, found));
        }
    }
    Ok(ImagePlan {
        raw_config: raw_config.to_vec(),
        config,
        names,
        manifest: None,
        is_step: false,
    })
}
