//! Reads the archive of an image as a stream: the names and sizes in each layer, and the documents that order them.
//!
//! Which member is a layer is told by `manifest.json`, which may come last: every member is looked at, and what is a tar
//! (plain or compressed) is listed.

use crate::error::{CliError, Result};
use crate::json::Value;
use flate2::bufread::MultiGzDecoder;
use naru_sbom::{FILE_BYTES_MAX, Source, Told};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Without a leading slash.
    pub path: String,
    pub bytes: u64,
    pub kind: Kind,
    /// What the file tells of packages; only when that was asked.
    pub told: Option<Told>,
}

/// What is looked at beyond names and sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Look {
    #[default]
    Names,
    /// The contents of files that tell which packages are installed.
    Packages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    /// Links, devices and all else.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: String,
    /// The instruction that made it, as the image's history tells.
    pub created_by: String,
    /// Bytes of its tar, uncompressed.
    pub tar_bytes: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// Of its configuration.
    pub digest: String,
    /// RFC 3339; empty where the image does not say.
    pub created: String,
    /// The lowest first.
    pub layers: Vec<Layer>,
}

/// Documents are small; anything larger that is no tar is passed over.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// A list of more entries than this would take gigabytes.
const ENTRIES_MAX: usize = 5_000_000;

/// How far symbolic links between members are followed: old archives name a layer twice that way.
const LINKS_MAX: usize = 4;

#[derive(Default)]
struct Members {
    look: Look,
    documents: HashMap<String, Vec<u8>>,
    layers: HashMap<String, (u64, Vec<Entry>)>,
    links: HashMap<String, String>,
    entries: usize,
}

/// Reads the archive to its end; gives the image.
pub fn read_image(archive: impl Read, look: Look) -> Result<Image> {
    let members = read_members(archive, look)
        .map_err(|error| CliError::message(format!("read the image's archive: {error}")))?;
    members.layers_in_order()
}

fn read_members(archive: impl Read, look: Look) -> io::Result<Members> {
    let mut members = Members {
        look,
        ..Members::default()
    };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let entry = entry?;
        let name = name_of(&entry);
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => members.read(name, entry)?,
            tar::EntryType::Symlink | tar::EntryType::Link => {
                if let Some(target) = entry.link_name()? {
                    members.links.insert(name, target.to_string_lossy().into_owned());
                }
            }
            _ => {}
        }
    }
    Ok(members)
}

fn name_of<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let path = path.strip_prefix("./").unwrap_or(&path);
    path.trim_matches('/').to_owned()
}

fn told_by<R: Read>(path: &str, entry: &mut tar::Entry<'_, R>) -> io::Result<Option<Told>> {
    let Some(source) = Source::of(path, entry.header().mode().unwrap_or(0)) else {
        return Ok(None);
    };
    let mut file = BufReader::new(entry);
    if !source.may_tell(file.fill_buf()?) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(source.read(&bytes)).filter(|told| *told != Told::default()))
}

impl Members {
    fn read(&mut self, name: String, member: impl Read) -> io::Result<()> {
        let mut member = BufReader::with_capacity(64 * 1024, member);
        let head = member.fill_buf()?;
        let (is_gzip, is_zstd) = (
            head.starts_with(&[0x1f, 0x8b]),
            head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        );
        let is_tar = head.get(257..262) == Some(b"ustar");
        // An empty layer is nothing but zeros.
        let is_empty_tar = head.len() >= 512 && head[..512].iter().all(|byte| *byte == 0);
        if is_gzip {
            return self.list(name, MultiGzDecoder::new(member));
        }
        if is_zstd {
            return Err(io::Error::other(format!(
                "{name} is compressed with zstd, which archives of `docker save` are not"
            )));
        }
        if is_tar || is_empty_tar {
            return self.list(name, member);
        }
        let mut document = Vec::new();
        member.take(DOCUMENT_BYTES_MAX).read_to_end(&mut document)?;
        self.documents.insert(name, document);
        Ok(())
    }

    fn list(&mut self, name: String, layer: impl Read) -> io::Result<()> {
        let mut counted = Counted {
            inner: layer,
            bytes: 0,
        };
        let mut found = Vec::new();
        let mut archive = tar::Archive::new(&mut counted);
        for entry in archive.entries()? {
            let mut entry = entry?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(io::Error::other(format!("more than {ENTRIES_MAX} files")));
            }
            let kind = match entry.header().entry_type() {
                tar::EntryType::Directory => Kind::Directory,
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                    Kind::File
                }
                tar::EntryType::XGlobalHeader => continue,
                _ => Kind::Other,
            };
            let bytes = if kind == Kind::File { entry.size() } else { 0 };
            let path = name_of(&entry);
            let told = match (self.look, kind) {
                (Look::Packages, Kind::File) => told_by(&path, &mut entry)?,
                _ => None,
            };
            found.push(Entry {
                path,
                bytes,
                kind,
                told,
            });
        }
        io::copy(&mut counted, &mut io::sink())?;
        self.layers.insert(name, (counted.bytes, found));
        Ok(())
    }

    fn layers_in_order(self) -> Result<Image> {
        let wrong = |what: &str| CliError::message(format!("the image's archive {what}"));
        let manifest = self
            .documents
            .get("manifest.json")
            .ok_or_else(|| wrong("has no manifest.json"))?;
        let manifest =
            Value::parse(manifest).map_err(|error| wrong(&format!("has a bad manifest.json: {error}")))?;
        let image = manifest.items().first().ok_or_else(|| wrong("holds no image"))?;
        let document = self.documents.get(image.get("Config").text());
        let config = document
            .and_then(|bytes| Value::parse(bytes).ok())
            .unwrap_or_default();
        let names: Vec<&str> = image.get("Layers").items().iter().map(Value::text).collect();
        let made_by: Vec<&str> = config
            .get("history")
            .items()
            .iter()
            .filter(|entry| !entry.get("empty_layer").is_true())
            .map(|entry| entry.get("created_by").text())
            .collect();
        let digests = config.at(&["rootfs", "diff_ids"]).items();
        let mut layers = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let mut name = *name;
            for _ in 0..LINKS_MAX {
                name = self
                    .links
                    .get(name)
                    .map_or(name, |target| target.trim_start_matches("../"));
            }
            // The same layer twice is there once.
            let (tar_bytes, entries) = self
                .layers
                .get(name)
                .cloned()
                .ok_or_else(|| wrong(&format!("lacks the layer {name}")))?;
            layers.push(Layer {
                digest: digests.get(at).map(Value::text).unwrap_or_default().to_owned(),
                created_by: made_by.get(at).copied().unwrap_or_default().to_owned(),
                tar_bytes,
                entries,
            });
        }
        Ok(Image {
            digest: document
                .map(|bytes| format!("sha256:{:x}", Sha256::digest(bytes)))
                .unwrap_or_default(),
            created: config.get("created").text().to_owned(),
            layers,
        })
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn honest() -> Vec<u8> {
        let layer = tar_of(&[("etc/a", b"12345"), ("etc/.wh.b", b"")]);
        let config = br#"{"rootfs":{"diff_ids":["sha256:aa"]},"history":[{"created_by":"ENV","empty_layer":true},{"created_by":"RUN x"}]}"#;
        let manifest = br#"[{"Config":"c.json","Layers":["l.tar"],"RepoTags":["x:1"]}]"#;
        // The documents come after what they speak of.
        tar_of(&[("l.tar", &layer), ("c.json", config), ("manifest.json", manifest)])
    }

    #[test]
    fn layers_are_listed_in_the_order_of_the_manifest() {
        let image = read_image(honest().as_slice(), Look::Names).unwrap();
        let layers = image.layers;
        assert_eq!((layers.len(), layers[0].created_by.as_str()), (1, "RUN x"));
        let paths: Vec<&str> = layers[0]
            .entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect();
        assert_eq!(
            (paths, layers[0].entries[0].bytes),
            (vec!["etc/a", "etc/.wh.b"], 5)
        );
    }

    #[test]
    fn fuzzed_archives_end() {
        naru_fuzz::feed(&[&honest()], |bytes| {
            let _ = read_image(bytes, Look::Packages);
        });
    }
}
