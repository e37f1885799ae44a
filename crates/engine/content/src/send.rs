//! Images on their way out: which manifest and blobs stand for one, and the blobs' bytes, checked as they are read.

use crate::annotate::Annotations;
use crate::attest::{AttestedParcel, Document};
use crate::commit::{Ingest, mismatch};
use crate::error::ContentError;
use crate::frame::FrameReader;
use crate::image::Image;
use crate::layout::{KeptBlob, LayerRecord};
use crate::recovery::remove_any;
use crate::stage::Compression;
use crate::store::{ContentStore, digest_of};
use flate2::GzBuilder;
use naru_base::Digest;
use naru_oci::{Descriptor, Manifest, ManifestDocument, Reference, media_type};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// gzip's own default: what registries are full of.
const GZIP_LEVEL: u32 = 6;
/// The host system a gzip header names; 255 is "unknown", so that every host makes the same bytes.
const GZIP_SYSTEM_UNKNOWN: u8 = 255;
/// Layers compressed at once.
const COMPRESSORS: usize = 2;

/// An image as a registry will know it. Its layers stay while this lives.
pub struct Parcel<'a> {
    pub manifest: Document,
    pub config: Descriptor,
    pub layers: Vec<ParcelLayer>,
    /// What goes along, and then stands for all.
    pub attested: Option<AttestedParcel>,
    _pins: Ingest<'a>,
}

/// A layer of a [`Parcel`].
#[derive(Debug, Clone)]
pub struct ParcelLayer {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    /// Names of repositories that have it, as far as this store knows.
    pub found_in: Vec<Reference>,
    chain_id: Digest,
}

impl ContentStore {
    /// Decides how an image is sent: byte for byte as it came if all of that is here, else with layers compressed
    /// here, once. Blocking, and long where there is something to compress.
    pub fn pack(&self, image: &Image) -> Result<Parcel<'_>, ContentError> {
        let mut pins = Ingest::new(self);
        for chain in &image.chain_ids {
            if !pins.pin_chain(chain) {
                return Err(ContentError::NoSuchImage(image.id.to_string()));
            }
        }
        let is_attested = self.is_attested(&image.id);
        let annotations = self.annotations(image);
        // An index of OCI's with a manifest of Docker's is what not every registry takes.
        let is_right = |known: &Manifest| {
            annotations.suit(known) && !(is_attested && known.media_type == media_type::DOCKER_MANIFEST)
        };
        let known = self.known_manifest(&image.id)?;
        let (manifest, bytes) = match known.filter(|(known, _)| is_right(known)) {
            Some(known) => known,
            None => self.compose(image, is_attested, &annotations)?,
        };
        let layers = manifest.layers.iter().zip(&image.chain_ids).zip(&image.layers);
        let layers = layers.map(|((descriptor, chain_id), diff_id)| ParcelLayer {
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            found_in: self.repositories_with(chain_id),
            chain_id: chain_id.clone(),
        });
        let layers = layers.collect();
        let descriptor = Descriptor::new(manifest.own_type(), digest_of(&bytes), bytes.len() as u64);
        Ok(Parcel {
            layers,
            attested: self.seal(image, &descriptor)?,
            config: manifest.config,
            manifest: Document { descriptor, bytes },
            _pins: pins,
        })
    }

    /// The manifest that an image has, if all it speaks of is here.
    fn known_manifest(&self, image: &Digest) -> Result<Option<(Manifest, Vec<u8>)>, ContentError> {
        let stored = self.read().images.get(image).cloned();
        let known = stored.and_then(|stored| stored.manifest);
        let known = known.filter(|digest| self.has_blobs_of(digest));
        known
            .map(|digest| parse_manifest(self.read_blob(&digest)?))
            .transpose()
    }

    /// The bytes of a layer, as its descriptor says; reading fails at the end if they are not.
    pub fn open_layer(&self, layer: &ParcelLayer) -> Result<Box<dyn Read + Send>, ContentError> {
        let (chain, wanted) = (&layer.chain_id, &layer.descriptor.digest);
        if *wanted == layer.diff_id {
            let archive = self.open_archive(chain)?;
            return Ok(Box::new(VerifyingReader::new(archive, wanted.clone())));
        }
        let records = self.read().layers.clone();
        let has_it =
            |record: &&Arc<LayerRecord>| record.kept.as_ref().is_some_and(|kept| kept.digest == *wanted);
        let record = records
            .get(chain)
            .filter(has_it)
            .or_else(|| records.values().find(has_it));
        let record = record.ok_or_else(|| ContentError::Archive(format!("blob {wanted} is missing")))?;
        let path = self.layout.layer(&record.chain_id).join("blob");
        let file = File::open(&path).map_err(|error| ContentError::io(&path, error))?;
        Ok(Box::new(VerifyingReader::new(file, wanted.clone())))
    }

    pub(crate) fn open_archive(&self, chain: &Digest) -> Result<FrameReader, ContentError> {
        let record = self.read().layers.get(chain).cloned();
        let record = record.ok_or_else(|| ContentError::Archive(format!("layer {chain} is missing")))?;
        let path = self.layout.layer(chain);
        FrameReader::open(&path, record.displaced.clone()).map_err(|error| ContentError::io(&path, error))
    }

    /// An image's configuration, verbatim.
    pub fn image_config(&self, image: &Digest) -> Result<Arc<[u8]>, ContentError> {
        let state = self.read();
        let stored = state.images.get(image);
        stored
            .map(|stored| stored.raw_config.clone())
            .ok_or_else(|| ContentError::NoSuchImage(image.to_string()))
    }

    /// Notes that a registry has the image under this digest.
    pub fn add_digest_name(&self, image: &Digest, name: &Reference) -> Result<(), ContentError> {
        let _change = self.begin_change();
        let mut index = self.read().index();
        if !index.images.contains_key(image) {
            return Err(ContentError::NoSuchImage(image.to_string()));
        }
        index.names.insert(name.to_string(), image.clone());
        self.layout.write_index(&index)?;
        self.write().names.insert(name.to_string(), image.clone());
        Ok(())
    }

    /// Repositories that an image with this layer was pulled from or pushed to.
    fn repositories_with(&self, chain: &Digest) -> Vec<Reference> {
        let state = self.read();
        let names = state.names.iter().filter(|(_, id)| {
            state
                .images
                .get(*id)
                .is_some_and(|image| image.chain_ids.contains(chain))
        });
        names
            .filter_map(|(name, _)| Reference::parse(name).ok())
            .filter(|name| name.digest().is_some())
            .collect()
    }

    /// Makes a manifest of layers that all are compressed, and keeps it. It is Docker's, unless it must be OCI's: only
    /// those have annotations.
    fn compose(
        &self,
        image: &Image,
        is_attested: bool,
        annotations: &Annotations,
    ) -> Result<(Manifest, Vec<u8>), ContentError> {
        let kept = self.compress_layers(&image.chain_ids)?;
        let is_oci = is_attested
            || !annotations.manifest.is_empty()
            || kept.iter().any(|kept| kept.compression != Compression::Gzip);
        let descriptor =
            |media_type: &str, digest: &Digest, size: u64| Descriptor::new(media_type, digest.clone(), size);
        let layer_type = |compression| match compression {
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
            _ if is_oci => media_type::OCI_LAYER_GZIP,
            _ => media_type::DOCKER_LAYER_GZIP,
        };
        let (manifest_type, config_type) = if is_oci {
            (media_type::OCI_MANIFEST, media_type::OCI_CONFIG)
        } else {
            (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG)
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: manifest_type.to_owned(),
            config: descriptor(config_type, &image.id, image.raw_config.len() as u64),
            layers: kept
                .iter()
                .map(|kept| descriptor(layer_type(kept.compression), &kept.digest, kept.bytes))
                .collect(),
            annotations: annotations.manifest.clone(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| ContentError::Config(error.to_string()))?;
        self.keep_manifest(&image.id, &bytes)?;
        Ok((manifest, bytes))
    }

    fn keep_manifest(&self, image: &Digest, bytes: &[u8]) -> Result<(), ContentError> {
        let digest = digest_of(bytes);
        let _change = self.begin_change();
        self.replace_file(&self.layout.blob(&digest), bytes)?;
        let mut index = self.read().index();
        let Some(record) = index.images.get_mut(image) else {
            return remove_any(&self.layout.blob(&digest));
        };
        let before = record.manifest.replace(digest.clone());
        self.layout.write_index(&index)?;
        if let Some(stored) = self.write().images.get_mut(image) {
            stored.manifest = Some(digest.clone());
        }
        match before.filter(|before| *before != digest) {
            Some(unused) => remove_any(&self.layout.blob(&unused)),
            None => Ok(()),
        }
    }

    /// Writes a small file whole or not at all, and past a power loss.
    pub(crate) fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), ContentError> {
        let new = self.layout.temporary();
        let written = File::create(&new)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, path));
        written.map_err(|error| {
            drop(std::fs::remove_file(&new));
            ContentError::io(path, error)
        })
    }

    /// The compressed form of each layer, made where there is none.
    fn compress_layers(&self, chains: &[Digest]) -> Result<Vec<KeptBlob>, ContentError> {
        let results: Vec<Mutex<Option<Result<KeptBlob, ContentError>>>> =
            chains.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((chain, result)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                chains.get(index).zip(results.get(index))
            } {
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.compress_layer(chain));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..COMPRESSORS {
                scope.spawn(work);
            }
            work();
        });
        results
            .into_iter()
            .filter_map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    fn compress_layer(&self, chain: &Digest) -> Result<KeptBlob, ContentError> {
        let record = self.read().layers.get(chain).cloned();
        let record = record.ok_or_else(|| ContentError::Archive(format!("layer {chain} is missing")))?;
        if let Some(kept) = &record.kept {
            return Ok(kept.clone());
        }
        let archive = VerifyingReader::new(self.open_archive(chain)?, record.diff_id.clone());
        let new = self.layout.temporary();
        let kept = compress(archive, &new).map_err(|error| {
            drop(std::fs::remove_file(&new));
            ContentError::io(&self.layout.layer(chain), error)
        })?;
        let _change = self.begin_change();
        let target = self.layout.layer(chain).join("blob");
        std::fs::rename(&new, &target).map_err(|error| ContentError::io(&target, error))?;
        let mut changed = LayerRecord::clone(&record);
        changed.kept = Some(kept.clone());
        let bytes = serde_json::to_vec(&changed).map_err(|error| ContentError::io(&target, error))?;
        self.replace_file(&self.layout.layer(chain).join("layer.json"), &bytes)?;
        self.write().layers.insert(chain.clone(), Arc::new(changed));
        Ok(kept)
    }
}

pub(crate) fn parse_manifest(bytes: Vec<u8>) -> Result<(Manifest, Vec<u8>), ContentError> {
    match ManifestDocument::parse(&bytes, None) {
        Ok(ManifestDocument::Manifest(manifest)) => Ok((manifest, bytes)),
        Ok(ManifestDocument::Index(_)) => Err(ContentError::Archive("the manifest is an index".to_owned())),
        Err(source) => Err(ContentError::Document {
            document: "the image's manifest".to_owned(),
            source,
        }),
    }
}

/// Compresses an archive into a new file: the same bytes for the same archive, whenever and wherever.
fn compress(mut archive: impl Read, path: &Path) -> io::Result<KeptBlob> {
    let output = HashingWriter {
        file: File::create_new(path)?,
        hash: Sha256::new(),
        bytes: 0,
    };
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .operating_system(GZIP_SYSTEM_UNKNOWN)
        .write(output, flate2::Compression::new(GZIP_LEVEL));
    let mut piece = vec![0; 128 << 10];
    loop {
        match archive.read(&mut piece)? {
            0 => break,
            length => encoder.write_all(&piece[..length])?,
        }
    }
    let output = encoder.finish()?;
    output.file.sync_data()?;
    Ok(KeptBlob {
        digest: Digest::from_sha256(output.hash.finalize().into()),
        bytes: output.bytes,
        compression: Compression::Gzip,
    })
}

struct HashingWriter {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for HashingWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let length = self.file.write(piece)?;
        self.hash.update(&piece[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Passes bytes on, and fails at their end if they are not those that were promised.
pub(crate) struct VerifyingReader<R> {
    input: R,
    hash: Sha256,
    promised: Digest,
}

impl<R: Read> VerifyingReader<R> {
    pub(crate) fn new(input: R, promised: Digest) -> Self {
        Self {
            input,
            hash: Sha256::new(),
            promised,
        }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(target)?;
        self.hash.update(&target[..length]);
        if length == 0 && !target.is_empty() {
            let found = Digest::from_sha256(self.hash.clone().finalize().into());
            if found != self.promised {
                let error = mismatch("a stored layer", &self.promised, &found);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
            }
        }
        Ok(length)
    }
}
