//! Lists that are not pushed yet: a folder for each, a file for each of its images.

use super::Entry;
use crate::error::{CliError, Result};
use crate::json::Value;
use naru_oci::Reference;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub struct ManifestStore {
    folder: PathBuf,
}

impl ManifestStore {
    /// In the folder of the client's configuration.
    pub fn new(config_folder: &Path) -> Self {
        Self {
            folder: config_folder.join("manifests"),
        }
    }

    fn list_folder(&self, list: &Reference) -> PathBuf {
        self.folder.join(file_name(list))
    }

    /// One image of a list; `None` when there is no such image or list.
    pub fn get(&self, list: &Reference, image: &Reference) -> Result<Option<Entry>> {
        read(&self.list_folder(list).join(file_name(image)))
    }

    /// The images of a list by the names of their files; `None` without such a list.
    pub fn list(&self, list: &Reference) -> Result<Option<Vec<Entry>>> {
        let folder = self.list_folder(list);
        let found = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(at(&folder))?,
        };
        let mut paths: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
        // A file that another client is writing beside has another ending.
        paths.retain(|path| path.extension().is_none_or(|extension| extension != "partial"));
        paths.sort();
        let entries = paths.iter().filter_map(|path| read(path).transpose());
        entries.collect::<Result<_>>().map(Some)
    }

    /// Writes an image of a list, in place of what was known of it.
    pub fn save(&self, list: &Reference, image: &Reference, entry: &Entry) -> Result<()> {
        let folder = self.list_folder(list);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let path = folder.join(file_name(image));
        let partial = folder.join(format!("{}.{}.partial", file_name(image), std::process::id()));
        fs::write(&partial, entry.to_value().to_json())
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|error| {
                let _ = fs::remove_file(&partial);
                at(&path)(error)
            })
    }

    /// Removes a list; `false` without such a list.
    pub fn remove(&self, list: &Reference) -> Result<bool> {
        let folder = self.list_folder(list);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true).map_err(at(&folder)),
        }
    }
}

fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}

fn at(path: &Path) -> impl Fn(io::Error) -> CliError {
    move |error| CliError::message(format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Option<Entry>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(at(path))?,
    };
    let entry = Value::parse(&text).ok().as_ref().and_then(Entry::from_value);
    let wrong = || CliError::message(format!("{}: this is no stored manifest", path.display()));
    entry.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::entry::tests::entry;
    use crate::manifests::{Platform, parse_name};
    use naru_oci::media_type;

    #[test]
    fn lists_are_kept_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let store = ManifestStore::new(folder.path());
        let name = |text: &str| parse_name("manifest", text).unwrap();
        let list = name("localhost:5000/a/list");
        assert_eq!(store.list(&list).unwrap(), None);
        for image in ["localhost:5000/a/b:2", "debian"] {
            let entry = entry(image, media_type::OCI_MANIFEST, Platform::default());
            store.save(&list, &name(image), &entry).unwrap();
        }
        let file = "manifests/localhost-5000_a_list-latest/docker.io_library_debian-latest";
        assert!(folder.path().join(file).exists());
        let references: Vec<_> = store.list(&list).unwrap().unwrap();
        assert_eq!(references.len(), 2);
        assert_eq!(references[0].reference, "debian");
        assert_eq!(store.get(&list, &name("other")).unwrap(), None);
        assert!(store.remove(&list).unwrap());
        assert!(!store.remove(&list).unwrap());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = ManifestStore::new(folder.path());
        let list = parse_name("manifest list", "a").unwrap();
        let path = folder.path().join("manifests/docker.io_library_a-latest");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("x"), "{").unwrap();
        assert!(store.list(&list).unwrap_err().to_string().contains("a-latest/x"));
    }
}
