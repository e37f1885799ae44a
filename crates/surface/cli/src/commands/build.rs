//! `build`: an image from a Dockerfile and the files it may copy.

use super::build_outputs::{self, Outputs};
use super::{
    Arity, Command, build_agents, build_annotate, build_attest, build_caches, build_call,
    build_extras as extras, build_kept as kept, build_refused, run,
};
use crate::args::Kind::{Bool, Bytes, List, Text};
use crate::args::{self, Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::json::Value;
use crate::options;
use crate::progress::{self, Sink};
use crate::tarball::Pack;
use crate::{Arguments, Session, credentials, terminal};
use naru_build::ignore::Ignore;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const FLAGS: &[Flag] = &[
    long(
        "add-host",
        List("list"),
        "Add a custom host-to-IP mapping (host:ip)",
    ),
    long(
        "allow",
        List("list"),
        "Allow steps what they ask for (network.host: RUN --network=host)",
    ),
    long(
        "annotation",
        List("list"),
        "Annotate the image's documents ([manifest|index|manifest-descriptor|index-descriptor:]KEY=VALUE)",
    ),
    long(
        "attest",
        List("list"),
        "Attestations (type=sbom[,...] or type=provenance[,...])",
    ),
    long("build-arg", List("list"), "Set build-time variables"),
    long(
        "build-context",
        List("list"),
        "Additional build contexts (name=directory, docker-image://NAME or URL)",
    ),
    // Not split at commas: they are part of a value.
    long(
        "cache-from",
        List("list"),
        "Where to look for steps made elsewhere (NAME or type=registry|local,ref=NAME,src=DIRECTORY)",
    ),
    long(
        "cache-to",
        List("list"),
        "Where to send this build's steps (NAME, or type=registry|local|inline with ref=NAME, dest=DIRECTORY, mode=min|max, cache-mounts=true)",
    ),
    long(
        "cgroup-parent",
        Text("string"),
        "Set the parent cgroup for the RUN instructions during build",
    ),
    long(
        "call",
        Text("string"),
        "Build, or only read the Dockerfile: check, outline, targets (default build)",
    ),
    long(
        "check",
        Bool,
        "Check the Dockerfile for what is probably not meant, and build nothing",
    ),
    long(
        "check-reproducible",
        Bool,
        "Build twice without the cache, and fail if the images differ",
    ),
    long("compress", Bool, "Compress the build context using gzip"),
    long(
        "enter",
        Bool,
        "Keep what a failed RUN left and, in a terminal, open a shell in it",
    ),
    flag(
        "file",
        'f',
        Text("string"),
        "Name of the Dockerfile (default is 'PATH/Dockerfile')",
    ),
    long("force-rm", Bool, "Always remove intermediate containers"),
    long("iidfile", Text("string"), "Write the image ID to the file"),
    long("label", List("list"), "Set metadata for an image"),
    long(
        "network",
        Text("string"),
        "Set the networking mode for the RUN instructions during build",
    ),
    long(
        "metadata-file",
        Text("string"),
        "Write the image's digest and names to the file, as JSON",
    ),
    long("no-cache", Bool, "Do not use cache when building the image"),
    long(
        "no-cache-filter",
        List("list"),
        "Do not use cache for these stages",
    ),
    long(
        "load",
        Bool,
        "List the image in the engine, beside other outputs (type=docker)",
    ),
    flag(
        "output",
        'o',
        List("list"),
        "Output destination (DIRECTORY, -, or type=local|tar|oci|docker|image|registry,dest=PATH,name=NAME)",
    ),
    long(
        "platform",
        Text("string"),
        "Set platform if server is multi-platform capable",
    ),
    long(
        "progress",
        Text("string"),
        "Set type of progress output (auto, plain, quiet)",
    ),
    long("push", Bool, "Push the image under its names (type=registry)"),
    long(
        "provenance",
        Text("string"),
        "Attest how the image was built (true, false, or mode=min|max,version=v0.2|v1,builder-id=URI)",
    ),
    long(
        "pull",
        Bool,
        "Always attempt to pull a newer version of the image",
    ),
    flag(
        "quiet",
        'q',
        Bool,
        "Suppress the build output and print image ID on success",
    ),
    long(
        "rm",
        Bool,
        "Remove intermediate containers after a successful build",
    ),
    long(
        "sbom",
        Text("string"),
        "Attest what packages are in the image (true or false)",
    ),
    long(
        "secret",
        List("list"),
        "Secret to expose to the build (id=mysecret[,src=/local/secret][,env=VARIABLE])",
    ),
    long("shm-size", Bytes, "Size of /dev/shm"),
    long(
        "ssh",
        List("list"),
        "Agent for SSH keys to lend to the build (default or ID[=SOCKET])",
    ),
    flag(
        "tag",
        't',
        List("list"),
        "Name and optionally a tag in the 'name:tag' format",
    ),
    long("target", Text("string"), "Set the target build stage to build"),
    long(
        "timestamps",
        Text("string"),
        "Times of files and image: normalized, or real (default normalized)",
    ),
    long("ulimit", List("ulimit"), "Ulimit options"),
];

pub const COMMAND: Command = Command {
    names: &["image build", "build", "builder build"],
    usage: "[OPTIONS] PATH | URL | -",
    about: "Build an image from a Dockerfile",
    flags: &[FLAGS, options::LIMITS, build_refused::FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run: build,
};

/// What is sent when a Dockerfile comes from outside the context: a name that no context has.
const FOREIGN_DOCKERFILE: &str = ".dockerfile.naru";

fn build(session: &Session, arguments: &Arguments) -> Result<u8> {
    if let Some(code) = build_call::call(session, arguments)? {
        return Ok(code);
    }
    build_refused::check(arguments)?;
    let mut extras = extras::read(arguments)?;
    let is_quiet = arguments.is_set("quiet") || arguments.text("progress") == Some("quiet");
    let mut outputs = build_outputs::read(arguments)?;
    let attestations = build_attest::read(arguments)?;
    outputs.set_attested(!attestations.is_empty());
    extras.set_attestations(&attestations, &outputs.all_names());
    extras.set_annotations(&build_annotate::read(arguments, &outputs)?);
    extras.set_unlisted(outputs.is_unlisted());
    let caches = build_caches::read(arguments)?;
    // Before the source, which has to know of directories that travel with it.
    extras.set_caches(&caches)?;
    let agents = build_agents::read(arguments)?;
    extras.set_agents(&agents);
    let source = match arguments.positional[0].as_str() {
        "-" => Source::Stream(from_standard_input(arguments, extras.has_directories())?),
        address if extras::is_address(address) => {
            extras.check_fetched(address)?;
            let file = arguments.text("file").unwrap_or_default();
            Source::Stream((Box::new(io::empty()), file.to_owned()))
        }
        path => Source::Directory(Directory::find(Path::new(path), arguments.text("file"))?),
    };
    let header = credentials::header_for_all(&session.config)?;
    agents.lend(&session.client)?;
    let kept = match &source {
        Source::Directory(directory) if !extras.has_directories() => {
            let query = query(
                "/naru/build",
                arguments,
                &outputs,
                directory.dockerfile_name(),
                is_quiet,
            )?;
            kept::begin(session, directory, query, &header, &extras)?
        }
        _ => None,
    };
    let answer = if let Some(answer) = kept {
        answer
    } else {
        let (context, dockerfile) = source.archive()?;
        let mut context = extras.before(context)?;
        let path = query("/build", arguments, &outputs, &dockerfile, is_quiet)?.build();
        let own = extras.header();
        let body = Body::Context(&mut *context, &header, &own);
        BufReader::new(session.client.send("POST", &path, body)?)
    };
    let mut sink = if outputs.takes_standard_output() {
        Sink::standard_error()
    } else {
        Sink::standard_output()
    };
    let mut left = String::new();
    let id = progress::show_build(answer, &mut sink, &mut left);
    let id = id.or_else(|error| enter(session, &left, error))?;
    if let Some(file) = arguments.text("iidfile") {
        std::fs::write(file, &id).map_err(|error| CliError::message(format!("write {file}: {error}")))?;
    }
    attestations.check(session, &id)?;
    if let Some(file) = arguments.text("metadata-file") {
        let names = arguments.list("tag").chain(outputs.names());
        write_metadata(file, &id, names, attestations.is_empty())?;
    }
    outputs.deliver(session, &id)?;
    caches.deliver(session, &id)?;
    Ok(0)
}

/// By BuildKit's names. An image without attestations is no index, and has one digest, that of its configuration.
fn write_metadata<'a>(
    file: &str,
    id: &str,
    names: impl Iterator<Item = &'a str>,
    is_plain: bool,
) -> Result<()> {
    let mut all = vec![("containerimage.config.digest".to_owned(), Value::from(id))];
    if is_plain {
        all.push(("containerimage.digest".to_owned(), Value::from(id)));
    }
    let names: Vec<&str> = names.collect();
    if !names.is_empty() {
        all.push(("image.name".to_owned(), Value::from(names.join(",").as_str())));
    }
    std::fs::write(file, Value::object(all).to_json())
        .map_err(|error| CliError::message(format!("write {file}: {error}")))
}

/// After a failure: a shell in what the failed step left, if somebody is there to use it. The build failed all the same.
fn enter(session: &Session, left: &str, error: CliError) -> Result<String> {
    if left.is_empty() || !terminal::stdin_is_terminal() {
        return Err(error);
    }
    crate::output::tell!("{}: {error}", session.program);
    let words = ["--rm", "-it", left].map(str::to_owned);
    let arguments = args::parse(run::COMMAND.flags, run::COMMAND.order, &words).map_err(CliError::message)?;
    (run::COMMAND.run)(session, &arguments)?;
    Err(CliError::Status(1))
}

fn query(
    path: &str,
    arguments: &Arguments,
    outputs: &Outputs,
    dockerfile: &str,
    is_quiet: bool,
) -> Result<Query> {
    let pairs = |flag: &str, default: fn(&str) -> Option<String>| {
        let entries = arguments.list(flag).map(|entry| match entry.split_once('=') {
            Some((key, value)) => (key.to_owned(), Value::from(value)),
            None => (
                entry.to_owned(),
                default(entry).map_or(Value::Null, |value| Value::from(value.as_str())),
            ),
        });
        let entries: Vec<(String, Value)> = entries.collect();
        Value::object(entries).to_json()
    };
    let number = |flag: &str| arguments.int(flag).map(|number| number.to_string());
    let bytes = |flag: &str| arguments.bytes(flag).map(|number| number.to_string());
    let mut query = Query::new(path)
        .set("dockerfile", dockerfile)
        .set_some(
            "remote",
            Some(arguments.positional[0].as_str()).filter(|source| extras::is_address(source)),
        )
        .set("rm", "1")
        .set_if(is_quiet, "q", "1")
        .set_if(arguments.is_set("no-cache"), "nocache", "1")
        .set_if(arguments.is_set("pull"), "pull", "1")
        .set_some("networkmode", arguments.text("network"))
        .set_some("target", arguments.text("target"))
        .set_some("platform", arguments.text("platform"))
        .set_some("cgroupparent", arguments.text("cgroup-parent"))
        .set_some("cpusetcpus", arguments.text("cpuset-cpus"))
        .set_some("cpusetmems", arguments.text("cpuset-mems"))
        .set_some("cpuperiod", number("cpu-period").as_deref())
        .set_some("cpuquota", number("cpu-quota").as_deref())
        .set_some("cpushares", number("cpu-shares").as_deref())
        .set_some("memory", bytes("memory").as_deref())
        .set_some("memswap", bytes("memory-swap").as_deref())
        .set_some("shmsize", bytes("shm-size").as_deref())
        // An argument without a value takes the client's own.
        .set("buildargs", &pairs("build-arg", |name| std::env::var(name).ok()))
        .set("labels", &pairs("label", |_| Some(String::new())));
    let limits = options::ulimits(arguments).map_err(CliError::message)?;
    if !limits.is_empty() {
        query = query.set("ulimits", &Value::List(limits).to_json());
    }
    for tag in arguments.list("tag").chain(outputs.names()) {
        query = query.set("t", tag);
    }
    for host in arguments.list("add-host") {
        query = query.set("extrahosts", host);
    }
    Ok(query)
}

/// An archive, and the Dockerfile's name in it.
type Context = (Box<dyn Read>, String);

enum Source {
    Stream(Context),
    Directory(Directory),
}

/// A directory of files that may be sent.
pub(super) struct Directory {
    pub root: PathBuf,
    pub dockerfile: Place,
    /// The file that says what is left out: its name in the directory.
    pub ignore_name: String,
    pub ignore: Ignore,
}

impl Source {
    fn archive(self) -> Result<Context> {
        match self {
            Self::Stream(context) => Ok(context),
            Self::Directory(directory) => directory.archive(),
        }
    }
}

/// An archive, or a Dockerfile alone.
fn from_standard_input(arguments: &Arguments, has_directories: bool) -> Result<Context> {
    let failed = |error| CliError::message(format!("read the standard input: {error}"));
    let mut input = BufReader::with_capacity(64 << 10, io::stdin());
    let head = input.fill_buf().map_err(failed)?;
    let is_archive = head.len() > 262 && &head[257..262] == b"ustar"
        || head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let is_plain = head.len() > 262 && &head[257..262] == b"ustar";
    if is_archive && !is_plain && has_directories {
        return Err(CliError::message(
            "a compressed archive on the standard input cannot be sent together with directories of --build-context: \
             decompress it first, as in `gzip -dc | naru build -`",
        ));
    }
    if is_archive {
        let dockerfile = arguments.text("file").unwrap_or("Dockerfile").to_owned();
        return Ok((Box::new(input), dockerfile));
    }
    let mut text = Vec::new();
    input.read_to_end(&mut text).map_err(failed)?;
    if text.is_empty() {
        return Err(CliError::message(
            "the standard input is empty: it should be a Dockerfile or an archive",
        ));
    }
    Ok((
        Box::new(io::Cursor::new(single_file("Dockerfile", &text)?)),
        "Dockerfile".to_owned(),
    ))
}

fn single_file(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    builder
        .append_data(&mut header, name, content)
        .and_then(|()| builder.into_inner())
        .map_err(|error| CliError::message(format!("pack {name}: {error}")))
}

/// Where a Dockerfile is.
pub(super) enum Place {
    /// In the context, under this name.
    Inside(String),
    /// Elsewhere; its text, and what it is called: its path, if it is a file.
    Outside(Vec<u8>, Origin),
}

/// Where a Dockerfile is from that is not read in its context.
pub(super) enum Origin {
    StandardInput,
    File(PathBuf),
}

impl Directory {
    fn find(directory: &Path, dockerfile: Option<&str>) -> Result<Self> {
        let (root, mut dockerfile) = find_dockerfile(directory, dockerfile)?;
        let (ignore_name, ignore) = read_ignore(&root, &dockerfile)?;
        // One that the context leaves out is for the daemon alone, as one from elsewhere is.
        if let Place::Inside(name) = &dockerfile
            && ignore.excludes(name)
        {
            let text = std::fs::read(root.join(name))
                .map_err(|error| CliError::message(format!("unable to prepare context: {name}: {error}")))?;
            dockerfile = Place::Outside(text, Origin::File(root.join(name)));
        }
        Ok(Self {
            root,
            dockerfile,
            ignore_name,
            ignore,
        })
    }

    /// As the daemon finds it among the files.
    fn dockerfile_name(&self) -> &str {
        match &self.dockerfile {
            Place::Inside(name) => name,
            Place::Outside(..) => FOREIGN_DOCKERFILE,
        }
    }

    fn archive(self) -> Result<Context> {
        let name = self.dockerfile_name().to_owned();
        let pack = Pack::new(&self.root, None)
            .map_err(|error| CliError::message(format!("unable to prepare context: {error}")))?;
        let pack = pack.without(self.ignore);
        let Place::Outside(text, _) = self.dockerfile else {
            return Ok((Box::new(pack), name));
        };
        let mut first = single_file(FOREIGN_DOCKERFILE, &text)?;
        // Without the mark of its end the archive goes on with the context.
        first.truncate(first.len() - 1024);
        Ok((Box::new(io::Cursor::new(first).chain(pack)), name))
    }
}

/// The context's directory, and its Dockerfile.
pub(super) fn find_dockerfile(directory: &Path, dockerfile: Option<&str>) -> Result<(PathBuf, Place)> {
    let failed = |path: &Path, error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => CliError::message(format!(
            "unable to prepare context: path \"{}\" not found",
            path.display()
        )),
        _ => CliError::message(format!("unable to prepare context: {}: {error}", path.display())),
    };
    let root = directory
        .canonicalize()
        .map_err(|error| failed(directory, error))?;
    if !root.is_dir() {
        return Err(CliError::message(format!(
            "unable to prepare context: {} is not a directory",
            directory.display()
        )));
    }
    if dockerfile == Some("-") {
        let mut text = Vec::new();
        io::stdin()
            .read_to_end(&mut text)
            .map_err(|error| failed(Path::new("-"), error))?;
        return Ok((root, Place::Outside(text, Origin::StandardInput)));
    }
    let given = dockerfile.map_or_else(|| root.join("Dockerfile"), PathBuf::from);
    let found = given
        .canonicalize()
        .or_else(|error| root.join(&given).canonicalize().map_err(|_| error));
    let found = found.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::message(format!(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory",
            given.display()
        )),
        _ => failed(&given, error),
    })?;
    let Ok(inside) = found.strip_prefix(&root) else {
        let text = std::fs::read(&found).map_err(|error| failed(&found, error))?;
        let origin = if given.exists() { given } else { root.join(given) };
        return Ok((root, Place::Outside(text, Origin::File(origin))));
    };
    let name = inside.to_string_lossy().into_owned();
    Ok((root, Place::Inside(name)))
}

/// `NAME.dockerignore` beside the Dockerfile, wherever that is, else the context's `.dockerignore`; as BuildKit has it.
/// With what the file is called, for the context that is made by it.
pub(super) fn read_ignore(root: &Path, dockerfile: &Place) -> Result<(String, Ignore)> {
    let own = match dockerfile {
        Place::Inside(name) => Some((format!("{name}.dockerignore"), root)),
        // Of the working directory, if it is no whole path.
        Place::Outside(_, Origin::File(path)) => {
            Some((format!("{}.dockerignore", path.display()), Path::new("")))
        }
        Place::Outside(_, Origin::StandardInput) => None,
    };
    let own = own.filter(|(name, folder)| folder.join(name).is_file());
    let (name, folder) = own.unwrap_or_else(|| (".dockerignore".to_owned(), root));
    let ignore = read_ignore_file(&folder.join(&name))?;
    Ok((name, ignore))
}

/// What a file of patterns leaves out; nothing where there is none.
pub(super) fn read_ignore_file(path: &Path) -> Result<Ignore> {
    let wrong =
        |reason: String| CliError::message(format!("error checking context: {}: {reason}", path.display()));
    let mut text = String::new();
    match File::open(path) {
        Ok(mut file) => drop(
            file.read_to_string(&mut text)
                .map_err(|error| wrong(error.to_string()))?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ignore::default()),
        Err(error) => return Err(wrong(error.to_string())),
    }
    Ignore::parse(&text).map_err(wrong)
}
