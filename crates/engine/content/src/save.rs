//! Saving images: one archive that is both what `docker load` reads and an OCI layout, as Docker's since 25.
//!
//! ```text
//! blobs/sha256/<hex>   configurations, layers, manifests
//! index.json           OCI: the manifests, with their names
//! manifest.json        Docker: configurations, names and layers by their paths
//! oci-layout
//! ```
//! Layers are written as registries have them where this store has that, else plain.

use crate::annotate::Annotations;
use crate::error::ContentError;
use crate::image::Image;
use crate::send::{VerifyingReader, parse_manifest};
use crate::stage::Compression;
use crate::store::{ContentStore, digest_of};
use naru_base::Digest;
use naru_oci::{AnyReference, Descriptor, Index, Manifest, Reference, media_type};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// An image that is to be saved, with the names it is asked for by.
#[derive(Debug)]
struct Saved {
    image: Arc<Image>,
    names: Vec<Reference>,
}

impl Saved {
    /// In the layout's index: once for each name, or once without any.
    fn named(&self, descriptor: &Descriptor) -> Vec<Descriptor> {
        if self.names.is_empty() {
            return vec![descriptor.clone()];
        }
        let named = |name: &Reference| {
            let mut named = descriptor.clone();
            named.annotations.extend([
                ("io.containerd.image.name".to_owned(), name.to_string()),
                (
                    "org.opencontainers.image.ref.name".to_owned(),
                    name.tag().unwrap_or_default().to_owned(),
                ),
            ]);
            named
        };
        self.names.iter().map(named).collect()
    }

    /// In Docker's own list.
    fn item<'a>(&self, layers: impl Iterator<Item = &'a Digest>) -> serde_json::Value {
        let names: Vec<String> = self.names.iter().map(Reference::familiar).collect();
        json!({
            "Config": blob_name(&self.image.id),
            "RepoTags": Some(names).filter(|names| !names.is_empty()),
            "Layers": layers.map(blob_name).collect::<Vec<_>>(),
        })
    }
}

/// What a layer is in the archive.
struct SavedLayer {
    descriptor: Descriptor,
    chain_id: Digest,
    is_plain: bool,
}

impl ContentStore {
    /// Finds what these names mean, so that a wrong one is told before anything is written.
    pub fn plan_save(&self, references: &[String]) -> Result<SavePlan, ContentError> {
        let mut saved: Vec<Saved> = Vec::new();
        for text in references {
            let image = self.image(text)?;
            let names = self.names_to_save(text, &image)?;
            match saved.iter_mut().find(|other| other.image.id == image.id) {
                Some(other) => {
                    let new = names.into_iter().filter(|name| !other.names.contains(name));
                    let new: Vec<_> = new.collect();
                    other.names.extend(new);
                }
                None => saved.push(Saved { image, names }),
            }
        }
        Ok(SavePlan(saved))
    }

    /// An image under names that it need not have here.
    pub fn plan_save_as(&self, id: &Digest, names: Vec<Reference>) -> Result<SavePlan, ContentError> {
        let image = self.image(id.as_str())?;
        Ok(SavePlan(vec![Saved { image, names }]))
    }

    /// A name with a tag is saved alone, a repository with all its tags, an id without a name.
    fn names_to_save(&self, text: &str, image: &Image) -> Result<Vec<Reference>, ContentError> {
        let AnyReference::Named(reference) = AnyReference::parse(text)? else {
            return Ok(Vec::new());
        };
        let named = self.read().names_of(&image.id);
        let with_tag = reference.clone().or_latest();
        Ok(named
            .into_iter()
            .filter(|name| name.tag().is_some())
            .filter(|name| {
                *name == with_tag
                    || (reference.tag().is_none() && name.repository() == reference.repository())
            })
            .collect())
    }

    /// Writes the archive; blocking. What is written was compared with its digest.
    pub fn save(&self, plan: &SavePlan, output: impl Write) -> Result<(), ContentError> {
        let mut writer = Writer {
            archive: tar::Builder::new(output),
            written: HashSet::new(),
        };
        let (mut manifests, mut items) = (Vec::new(), Vec::new());
        for saved in &plan.0 {
            self.save_image(saved, &mut writer, &mut manifests, &mut items)?;
        }
        let index = Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests,
            annotations: BTreeMap::new(),
        };
        writer.document("index.json", &index)?;
        writer.document("manifest.json", &items)?;
        writer.document("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        writer.archive.finish().map_err(broken)
    }

    fn save_image<W: Write>(
        &self,
        saved: &Saved,
        writer: &mut Writer<W>,
        manifests: &mut Vec<Descriptor>,
        items: &mut Vec<serde_json::Value>,
    ) -> Result<(), ContentError> {
        let image = &saved.image;
        if self.is_attested(&image.id) {
            return self.save_attested(saved, writer, manifests, items);
        }
        let layers = image
            .chain_ids
            .iter()
            .map(|chain| self.saved_layer(chain))
            .collect::<Result<Vec<_>, _>>()?;
        let annotations = self.annotations(image);
        let manifest = self.saved_manifest(image, &layers, &annotations)?;
        for layer in &layers {
            self.save_layer(layer, writer)?;
        }
        writer.blob(&image.id, &image.raw_config)?;
        let digest = digest_of(&manifest.1);
        writer.blob(&digest, &manifest.1)?;
        let descriptor = Descriptor {
            platform: Some(image.config.platform()),
            annotations: annotations.manifest_descriptor.clone(),
            ..Descriptor::new(manifest.0.own_type(), digest, manifest.1.len() as u64)
        };
        manifests.extend(saved.named(&descriptor));
        items.push(saved.item(layers.iter().map(|layer| &layer.descriptor.digest)));
        Ok(())
    }

    /// As a registry has it: layers compressed, and an index of the image and of what is attested of it.
    fn save_attested<W: Write>(
        &self,
        saved: &Saved,
        writer: &mut Writer<W>,
        manifests: &mut Vec<Descriptor>,
        items: &mut Vec<serde_json::Value>,
    ) -> Result<(), ContentError> {
        let parcel = self.pack(&saved.image)?;
        for layer in &parcel.layers {
            let descriptor = &layer.descriptor;
            writer.stream(&descriptor.digest, descriptor.size, self.open_layer(layer)?)?;
        }
        writer.blob(&saved.image.id, &saved.image.raw_config)?;
        // Somebody has removed the image meanwhile.
        let Some(attested) = &parcel.attested else {
            return Err(ContentError::NoSuchImage(saved.image.id.to_string()));
        };
        let around = [&parcel.manifest, &attested.manifest, &attested.index];
        for document in attested.blobs.iter().chain(around) {
            writer.blob(&document.descriptor.digest, &document.bytes)?;
        }
        let mut index = attested.index.descriptor.clone();
        index
            .annotations
            .clone_from(&self.annotations(&saved.image).index_descriptor);
        manifests.extend(saved.named(&index));
        items.push(saved.item(parcel.layers.iter().map(|layer| &layer.descriptor.digest)));
        Ok(())
    }

    fn saved_layer(&self, chain: &Digest) -> Result<SavedLayer, ContentError> {
        let record = self.read().layers.get(chain).cloned();
        let record = record.ok_or_else(|| ContentError::Archive(format!("layer {chain} is missing")))?;
        let (media_type, digest, size) = if let Some(kept) = &record.kept {
            let media_type = match kept.compression {
                Compression::Zstd => media_type::OCI_LAYER_ZSTD,
                _ => media_type::OCI_LAYER_GZIP,
            };
            (media_type, kept.digest.clone(), kept.bytes)
        } else {
            let frame = self.open_archive(chain)?;
            let path = self.layout.layer(chain);
            let bytes = frame
                .archive_bytes()
                .map_err(|error| ContentError::io(&path, error))?;
            (media_type::OCI_LAYER_TAR, record.diff_id.clone(), bytes)
        };
        Ok(SavedLayer {
            descriptor: Descriptor::new(media_type, digest, size),
            chain_id: chain.clone(),
            is_plain: record.kept.is_none(),
        })
    }

    /// The manifest the image came with, if it speaks of these very blobs; else one made for them.
    fn saved_manifest(
        &self,
        image: &Image,
        layers: &[SavedLayer],
        annotations: &Annotations,
    ) -> Result<(Manifest, Vec<u8>), ContentError> {
        let stored = self
            .read()
            .images
            .get(&image.id)
            .and_then(|stored| stored.manifest.clone());
        if let Some(digest) = stored {
            let found = parse_manifest(self.read_blob(&digest)?)?;
            let is_same = annotations.suit(&found.0)
                && found.0.layers.len() == layers.len()
                && found
                    .0
                    .layers
                    .iter()
                    .zip(layers)
                    .all(|(a, b)| a.digest == b.descriptor.digest);
            if is_same {
                return Ok(found);
            }
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            config: Descriptor::new(
                media_type::OCI_CONFIG,
                image.id.clone(),
                image.raw_config.len() as u64,
            ),
            layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
            annotations: annotations.manifest.clone(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| ContentError::Config(error.to_string()))?;
        Ok((manifest, bytes))
    }

    fn save_layer<W: Write>(&self, layer: &SavedLayer, writer: &mut Writer<W>) -> Result<(), ContentError> {
        let digest = &layer.descriptor.digest;
        let path = self.layout.layer(&layer.chain_id);
        if layer.is_plain {
            let archive = self.open_archive(&layer.chain_id)?;
            writer.stream(digest, layer.descriptor.size, archive)
        } else {
            let file = File::open(path.join("blob")).map_err(|error| ContentError::io(&path, error))?;
            writer.stream(digest, layer.descriptor.size, file)
        }
    }
}

/// What [`ContentStore::save`] will write.
#[derive(Debug)]
pub struct SavePlan(Vec<Saved>);

impl SavePlan {
    /// The images' ids, with a name of each.
    pub fn images(&self) -> impl Iterator<Item = (&Digest, Option<String>)> {
        self.0
            .iter()
            .map(|saved| (&saved.image.id, saved.names.first().map(Reference::familiar)))
    }
}

fn broken(error: io::Error) -> ContentError {
    if error.kind() == io::ErrorKind::InvalidData {
        return ContentError::Archive(error.to_string());
    }
    ContentError::Archive(format!("it could not be written: {error}"))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Writer<W: Write> {
    archive: tar::Builder<W>,
    written: HashSet<Digest>,
}

impl<W: Write> Writer<W> {
    /// The same image gives the same archive: there is no time in it.
    fn header(bytes: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn document(&mut self, name: &str, value: &impl serde::Serialize) -> Result<(), ContentError> {
        let bytes = serde_json::to_vec(value).map_err(|error| ContentError::Archive(error.to_string()))?;
        let mut header = Self::header(bytes.len() as u64);
        self.archive
            .append_data(&mut header, name, &bytes[..])
            .map_err(broken)
    }

    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), ContentError> {
        self.stream(digest, bytes.len() as u64, bytes)
    }

    /// Writes a blob, once.
    fn stream(&mut self, digest: &Digest, bytes: u64, input: impl Read) -> Result<(), ContentError> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let mut header = Self::header(bytes);
        let mut input = VerifyingReader::new(input, digest.clone());
        let name = blob_name(digest);
        let limited = (&mut input).take(bytes);
        self.archive
            .append_data(&mut header, &name, limited)
            .map_err(broken)?;
        // The end is where the digest is compared; more than was announced is as wrong.
        let mut rest = [0; 1];
        match input.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ContentError::Archive(format!("stored blob {digest} is too long"))),
            Err(error) => Err(broken(error)),
        }
    }
}
