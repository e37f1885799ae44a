//! `build --output`: what is made of the result, and where it goes.
//!
//! An image is the engine's to list. Everything else is fetched from it afterwards, by the image's id, and written here:
//! below the destination alone, as the caller's own files.

use super::export;
use crate::error::{CliError, Result};
use crate::http::{Body, Query, escape_reference};
use crate::progress::Sink;
use crate::tarball::unpack;
use crate::{Arguments, Session, credentials, progress, reference};
use std::io::{self, IsTerminal};
use std::path::Path;

#[derive(Debug, PartialEq, Eq)]
enum Output {
    Image {
        names: Vec<String>,
        is_pushed: bool,
    },
    /// The image as an archive, to standard output where there is no place, or as a directory.
    Archive {
        names: Vec<String>,
        place: Option<String>,
        is_directory: bool,
    },
    Files(String),
    FilesArchive(Option<String>),
}

/// What a build is to give; an image where nothing is said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    all: Vec<Output>,
    /// The names of the build itself.
    tags: Vec<String>,
    /// Something is attested of the result, which is then written among its files.
    is_attested: bool,
    /// What outputs want annotated, by attribute.
    annotations: Vec<(String, String)>,
}

/// Reads `--output`, `--push` and `--load`.
pub fn read(arguments: &Arguments) -> Result<Outputs> {
    let texts = arguments.list("output").map(str::to_owned);
    let short = [("push", "type=registry"), ("load", "type=docker")].into_iter();
    let short = short
        .filter(|(flag, _)| arguments.is_set(flag))
        .map(|(_, text)| text.to_owned());
    let mut annotations = Vec::new();
    let outputs = Outputs {
        all: texts
            .chain(short)
            .map(|text| parse(&text, &mut annotations))
            .collect::<Result<_>>()?,
        tags: arguments.list("tag").map(str::to_owned).collect(),
        is_attested: false,
        annotations,
    };
    outputs.check()?;
    Ok(outputs)
}

/// `type=TYPE,key=value,…`; a directory, or `-` for an archive to standard output.
fn parse(text: &str, annotations: &mut Vec<(String, String)>) -> Result<Output> {
    if text == "-" {
        return Ok(Output::FilesArchive(None));
    }
    if !text.contains('=') {
        return Ok(Output::Files(text.to_owned()));
    }
    let wrong = |what: String| CliError::message(format!("invalid output {text:?}: {what}"));
    let (mut kind, mut place, mut names, mut is_tar, mut push) = ("", None, Vec::new(), true, None);
    let fields = fields(text);
    for field in &fields {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| wrong(format!("{field:?} must be key=value")))?;
        match key {
            "type" => kind = value,
            "dest" => place = Some(value.to_owned()),
            "name" => names.extend(value.split(',').map(str::to_owned)),
            "push" | "tar" | "oci-mediatypes" => {
                let truth = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(wrong(format!("{key} must be true or false"))),
                };
                match key {
                    "push" => push = Some(truth),
                    "tar" => is_tar = truth,
                    _ if truth => {}
                    _ => return Err(wrong("only OCI media types are written".to_owned())),
                }
            }
            key if key.starts_with("annotation") => annotations.push((key.to_owned(), value.to_owned())),
            other => return Err(wrong(format!("{other} is not supported"))),
        }
    }
    // `dest=-` is standard output for everything but a directory.
    let written = place.clone().filter(|place| place != "-");
    let output = match (kind, place) {
        ("local", Some(place)) => Output::Files(place),
        ("tar", _) => Output::FilesArchive(written),
        ("image" | "registry", None) => Output::Image {
            names,
            is_pushed: push.unwrap_or(kind == "registry"),
        },
        ("docker", None) => Output::Image {
            names,
            is_pushed: false,
        },
        ("oci", Some(place)) if !is_tar => Output::Archive {
            names,
            place: Some(place),
            is_directory: true,
        },
        ("oci" | "docker", _) if is_tar => Output::Archive {
            names,
            place: written,
            is_directory: false,
        },
        ("local" | "oci", None) => return Err(wrong("it needs a directory: dest=…".to_owned())),
        ("", _) => {
            return Err(wrong(
                "it needs a type: local, tar, oci, docker, image or registry".to_owned(),
            ));
        }
        ("image" | "registry", Some(_)) => {
            return Err(wrong(format!("{kind} has no dest; docker and oci have")));
        }
        ("docker", _) => return Err(wrong("tar=false is not supported: use type=oci".to_owned())),
        (other, _) => {
            return Err(wrong(format!(
                "there is no type {other}; there are local, tar, oci, docker, image and registry"
            )));
        }
    };
    Ok(output)
}

/// Splits at commas, those in quotes excepted; a quote around a whole field is taken off, as in CSV.
pub(super) fn fields(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut is_quoted = false;
    for letter in text.chars() {
        match (letter, all.last_mut()) {
            ('"', _) => is_quoted = !is_quoted,
            (',', _) if !is_quoted => all.push(String::new()),
            (letter, Some(field)) => field.push(letter),
            (_, None) => {}
        }
    }
    all
}

impl Outputs {
    fn check(&self) -> Result<()> {
        let to_stdout = |output: &&Output| {
            matches!(
                output,
                Output::FilesArchive(None) | Output::Archive { place: None, .. }
            )
        };
        let count = self.all.iter().filter(to_stdout).count();
        if count > 1 {
            return Err(CliError::message("only one output can go to standard output"));
        }
        if count == 1 && io::stdout().is_terminal() {
            return Err(CliError::message(
                "cowardly refusing to write an archive to a terminal. Use dest=FILE or redirect",
            ));
        }
        let is_nameless = |output: &Output| matches!(output, Output::Image { names, is_pushed: true } if names.is_empty() && self.tags.is_empty());
        if self.all.iter().any(is_nameless) {
            return Err(CliError::message(
                "to push the image it needs a name: give one with --tag or name=…",
            ));
        }
        Ok(())
    }

    /// Whether standard output is an archive's.
    pub fn takes_standard_output(&self) -> bool {
        let to_stdout = |output: &Output| {
            matches!(
                output,
                Output::FilesArchive(None) | Output::Archive { place: None, .. }
            )
        };
        self.all.iter().any(to_stdout)
    }

    /// Whether no image of it is to be listed.
    pub fn is_unlisted(&self) -> bool {
        let is_image = |output: &Output| matches!(output, Output::Image { .. });
        !self.all.is_empty() && !self.all.iter().any(is_image)
    }

    /// Names of the image beyond those of `--tag`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().flat_map(|output| match output {
            Output::Image { names, .. } => names.iter().map(String::as_str),
            _ => [].iter().map(String::as_str),
        })
    }

    /// Whether an image of it goes anywhere, the list or an archive.
    pub fn has_image(&self) -> bool {
        let is_image = |output: &Output| matches!(output, Output::Image { .. } | Output::Archive { .. });
        self.all.is_empty() || self.all.iter().any(is_image)
    }

    pub fn annotations(&self) -> impl Iterator<Item = &(String, String)> {
        self.annotations.iter()
    }

    pub fn set_attested(&mut self, is_attested: bool) {
        self.is_attested = is_attested;
    }

    /// Every name that the image gets somewhere.
    pub fn all_names(&self) -> Vec<&str> {
        let own = self.all.iter().flat_map(|output| match output {
            Output::Image { names, .. } | Output::Archive { names, .. } => names.as_slice(),
            Output::Files(_) | Output::FilesArchive(_) => &[],
        });
        let mut all: Vec<&str> = Vec::new();
        for name in self.tags.iter().chain(own) {
            if !all.contains(&name.as_str()) {
                all.push(name);
            }
        }
        all
    }

    /// Fetches, writes and pushes, in the order that was asked for.
    pub fn deliver(&self, session: &Session, id: &str) -> Result<()> {
        self.all
            .iter()
            .try_for_each(|output| self.deliver_one(session, id, output))
    }

    fn deliver_one(&self, session: &Session, id: &str, output: &Output) -> Result<()> {
        let query = || Query::new(&format!("/images/{}/get", escape_reference(id)));
        let files = || {
            query()
                .set("files", "1")
                .set_if(self.is_attested, "attested", "1")
        };
        let fetch = |query: Query| session.client.send("GET", &query.build(), Body::Empty);
        match output {
            Output::Image { is_pushed: false, .. } => Ok(()),
            Output::Image { names, .. } => {
                let names = if names.is_empty() { &self.tags } else { names };
                names.iter().try_for_each(|name| push(session, name))
            }
            Output::Archive {
                names,
                place,
                is_directory,
            } => {
                let names = if names.is_empty() { &self.tags } else { names };
                let query = names.iter().fold(query(), |query, name| query.set("as", name));
                let archive = fetch(query)?;
                match place {
                    Some(place) if *is_directory => write_files(archive, place),
                    place => export::save(archive, place.as_deref()).map(drop),
                }
            }
            Output::Files(place) => write_files(fetch(files())?, place),
            Output::FilesArchive(place) => export::save(fetch(files())?, place.as_deref()).map(drop),
        }
    }
}

fn write_files(archive: impl io::Read, place: &str) -> Result<()> {
    let named = |error: io::Error| CliError::message(format!("{place}: {error}"));
    std::fs::create_dir_all(place).map_err(named)?;
    unpack(archive, Path::new(place), None).map_err(named)
}

fn push(session: &Session, name: &str) -> Result<()> {
    let (repository, tag) = reference::split_tag(name);
    let path = Query::new(&format!("/images/{}/push", escape_reference(repository)))
        .set("tag", tag.unwrap_or("latest"))
        .build();
    let header = credentials::header_for(&session.config, repository)?;
    let response = session.client.send("POST", &path, Body::Credentials(&header))?;
    progress::show(response, &mut Sink::standard_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Output> {
        super::parse(text, &mut Vec::new())
    }

    #[test]
    fn outputs_are_read_as_docker_reads_them() {
        let text = |text: &str| Some(text.to_owned());
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse("-").unwrap(), Output::FilesArchive(None));
        assert_eq!(parse("out").unwrap(), Output::Files("out".to_owned()));
        assert_eq!(parse("type=tar,dest=-").unwrap(), Output::FilesArchive(None));
        assert_eq!(
            parse("type=tar,dest=a.tar").unwrap(),
            Output::FilesArchive(text("a.tar"))
        );
        assert_eq!(
            parse("type=image,\"name=a,b\",push=true").unwrap(),
            Output::Image {
                names: names(&["a", "b"]),
                is_pushed: true
            }
        );
        assert_eq!(
            parse("type=oci,dest=d,tar=false").unwrap(),
            Output::Archive {
                names: names(&[]),
                place: text("d"),
                is_directory: true
            }
        );
        for wrong in [
            "type=local",
            "dest=x",
            "type=nosuch",
            "type=image,dest=x",
            "type=docker,dest=x,tar=false",
            "type=tar,compression=zstd",
            "type=tar,push=maybe",
            "type=tar,x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_images_are_listed() {
        let outputs = |texts: &[&str]| Outputs {
            all: texts.iter().map(|text| parse(text).unwrap()).collect(),
            ..Outputs::default()
        };
        assert!(!Outputs::default().is_unlisted());
        assert!(outputs(&["d", "-"]).is_unlisted() && outputs(&["-"]).takes_standard_output());
        assert!(!outputs(&["d", "type=docker"]).is_unlisted());
        assert!(outputs(&["-", "type=oci"]).check().is_err());
        assert!(outputs(&["type=registry"]).check().is_err());
    }
}
