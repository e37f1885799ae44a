//! Makes layers and image archives, honest and evil.
#![allow(dead_code)]

use naru_content::{ContentError, ContentStore, LoadedImage};
use sha2::{Digest as _, Sha256};
use std::io::Write;

/// What becomes of a layer's bytes before they go into an archive.
pub type Change<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// One tar entry. `name` goes into the archive as it is.
pub struct Item {
    pub kind: tar::EntryType,
    pub name: String,
    pub link: String,
    pub mode: u32,
    pub owner: u64,
    pub data: Vec<u8>,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

fn item(kind: tar::EntryType, name: &str) -> Item {
    let (name, link, data, xattrs) = (name.to_owned(), String::new(), Vec::new(), Vec::new());
    Item {
        kind,
        name,
        link,
        mode: 0o644,
        owner: 0,
        data,
        xattrs,
    }
}

pub fn file(name: &str, data: &str) -> Item {
    Item {
        data: data.as_bytes().to_vec(),
        ..item(tar::EntryType::Regular, name)
    }
}

pub fn directory(name: &str, mode: u32) -> Item {
    Item {
        mode,
        ..item(tar::EntryType::Directory, name)
    }
}

pub fn symlink(name: &str, link: &str) -> Item {
    Item {
        link: link.to_owned(),
        mode: 0o777,
        ..item(tar::EntryType::Symlink, name)
    }
}

pub fn hard_link(name: &str, link: &str) -> Item {
    Item {
        link: link.to_owned(),
        ..item(tar::EntryType::Link, name)
    }
}

pub fn of_kind(kind: tar::EntryType, name: &str) -> Item {
    item(kind, name)
}

/// A plain tar archive of these entries.
pub fn layer(items: &[Item]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let xattrs = item
            .xattrs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()));
        builder.append_pax_extensions(xattrs).unwrap();
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..item.name.len().min(100)]
            .copy_from_slice(&item.name.as_bytes()[..item.name.len().min(100)]);
        header.as_mut_bytes()[157..157 + item.link.len()].copy_from_slice(item.link.as_bytes());
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_uid(item.owner);
        header.set_gid(item.owner);
        header.set_mtime(1_000_000_000);
        header.set_size(item.data.len() as u64);
        if matches!(item.kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, item.data.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn config(layers: &[&[u8]], marker: &str) -> String {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("\"sha256:{}\"", sha256(layer)))
        .collect();
    let history: Vec<String> = layers
        .iter()
        .map(|_| format!("{{\"created_by\":\"{marker}\"}}"))
        .collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/bin/{marker}"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[{}]}}"#,
        ids.join(","),
        history.join(",")
    )
}

/// What `docker save` wrote before version 25, the manifest last.
pub fn docker_archive(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    let config = config(layers, &name.replace([':', '/'], "-"));
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let mut items = Vec::new();
    let mut names = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("{index:064}/layer.tar");
        items.push(Item {
            data: layer.to_vec(),
            ..file(&name, "")
        });
        names.push(format!("\"{name}\""));
    }
    items.push(file(&config_name, &config));
    let manifest = format!(
        r#"[{{"Config":"{config_name}","RepoTags":["{name}"],"Layers":[{}]}}]"#,
        names.join(",")
    );
    items.push(file("manifest.json", &manifest));
    layer(&items)
}

/// An OCI layout with compressed layers.
pub fn oci_archive(name: &str, layers: &[&[u8]], compress: &dyn Fn(&[u8]) -> Vec<u8>, kind: &str) -> Vec<u8> {
    let config = config(layers, "oci");
    let mut items = Vec::new();
    let blob = |bytes: &[u8]| Item {
        data: bytes.to_vec(),
        ..file(&format!("blobs/sha256/{}", sha256(bytes)), "")
    };
    let describe = |bytes: &[u8], kind: &str, more: &str| {
        let (digest, size) = (sha256(bytes), bytes.len());
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":{size}{more}}}"#)
    };
    let mut descriptors = Vec::new();
    for layer in layers {
        let compressed = compress(layer);
        descriptors.push(describe(&compressed, kind, ""));
        items.push(blob(&compressed));
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        describe(config.as_bytes(), "application/vnd.oci.image.config.v1+json", ""),
        descriptors.join(",")
    );
    let annotation = format!(r#","annotations":{{"io.containerd.image.name":"{name}"}}"#);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        describe(
            manifest.as_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
            &annotation
        )
    );
    items.insert(0, file("index.json", &index));
    items.push(blob(config.as_bytes()));
    items.push(blob(manifest.as_bytes()));
    layer(&items)
}

pub fn load(store: &ContentStore, archive: &[u8]) -> Result<Vec<LoadedImage>, ContentError> {
    store.load(archive, None, &mut |_| ())
}

/// Loads a one-layer image and returns the layer's directory.
pub fn load_layer(store: &ContentStore, items: &[Item]) -> Result<std::path::PathBuf, ContentError> {
    let layer = layer(items);
    let loaded = load(store, &docker_archive("test:latest", &[&layer]))?;
    let container = naru_base::ContainerId::generate();
    let snapshot = store.create_snapshot(&container, &loaded[0].id)?;
    Ok(snapshot.lower[1].clone())
}

/// Asserts that nothing is left of a failed load.
pub fn assert_empty(root: &std::path::Path) {
    for name in ["layers", "temporary", "blobs/sha256"] {
        let left: Vec<_> = std::fs::read_dir(root.join(name)).unwrap().collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}
