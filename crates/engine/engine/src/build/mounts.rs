//! `RUN --mount`: what each asks for, and what the step's container gets for it.
//!
//! A secret's bytes are written to memory alone (a directory of `/dev/shm` that only root may enter, gone with the step),
//! or handed to the process as a variable that no record holds. No secret and no agent is part of a step's key.

use super::client::BuildClient;
use super::in_use::MountUse;
use super::solve::{Builder, Stage, wrong};
use super::tree::SourceTree;
use super::{account, cache, transfer};
use crate::archive::tape::Tape;
use crate::archive::{ChunkReader, blocking, stream};
use crate::error::{EngineError, Result};
use crate::spec::{MountSource, MountSpec};
use naru_base::ContainerId;
use naru_build::configure::joined_path;
use naru_build::{Instruction, Line, Mount, MountKind, Sharing};
use naru_sys::file;
use rustix::fs::{AtFlags, Gid, Mode, Uid};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::UnixListener;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

/// Where files are in memory, on every Linux that follows the hierarchy standard.
pub(super) const MEMORY: &str = "/dev/shm";

/// Writers of one `private` cache at once; as many directories may come to be.
const PRIVATE_MAX: usize = 64;

/// Tells apart what the steps of one daemon make.
static ORDINAL: AtomicU64 = AtomicU64::new(0);

/// A mount of a `RUN`, decided.
pub(super) struct Mounted {
    pub spec: Option<MountSpec>,
    /// Of the process, in no record.
    pub secret_variable: Option<String>,
    pub variable: Option<String>,
    /// Kept until the command has ended.
    held: Vec<Held>,
}

/// What ends with the step.
enum Held {
    Directory(PathBuf),
    Use(#[expect(dead_code, reason = "held for its drop")] MountUse),
    Turn(#[expect(dead_code, reason = "held for its drop")] OwnedMutexGuard<()>),
    Agent(JoinHandle<()>),
}

impl Drop for Held {
    fn drop(&mut self) {
        match self {
            Self::Directory(path) => drop(file::remove_tree(path)),
            Self::Turn(_) | Self::Use(_) => {}
            Self::Agent(task) => task.abort(),
        }
    }
}

impl Mounted {
    fn nothing() -> Self {
        Self {
            spec: None,
            secret_variable: None,
            variable: None,
            held: Vec::new(),
        }
    }

    fn of(target: String, source: MountSource, read_only: bool) -> Self {
        Self {
            spec: Some(MountSpec {
                target,
                read_only,
                source,
            }),
            ..Self::nothing()
        }
    }

    fn holding(mut self, held: Held) -> Self {
        self.held.push(held);
        self
    }
}

pub(super) fn bind(path: PathBuf) -> MountSource {
    MountSource::Bind {
        path,
        propagation: None,
        create_missing: false,
        non_recursive: false,
        read_only_non_recursive: false,
    }
}

/// A mount whose words are read and expanded; what only a step that is really run needs is not there yet.
pub(super) struct DecidedMount {
    pub words: Mount,
    pub target: String,
    pub digest: String,
    tree: Option<Arc<SourceTree>>,
}

impl DecidedMount {
    /// By which steps share a cache.
    fn cache_id(&self) -> &str {
        if self.words.id.is_empty() {
            &self.target
        } else {
            &self.words.id
        }
    }
}

impl Builder {
    /// Reads a mount's words and finds what of it decides what the command does.
    pub(super) async fn decide_mount(
        &self,
        stage: &Stage,
        line: &Line<Instruction>,
        text: &str,
    ) -> Result<DecidedMount> {
        let words = stage.state.mount(line, text, self.file.escape)?;
        let directory = &stage.state.config.config.working_dir;
        let target = match (words.kind, words.target.is_empty()) {
            (_, false) => joined_path(directory, &words.target),
            (MountKind::Secret, true) if words.variable.is_none() => {
                format!("/run/secrets/{}", words.secret_id())
            }
            (MountKind::Ssh, true) => "/run/buildkit/ssh_agent.0".to_owned(),
            _ => String::new(),
        };
        let needs_tree = words.kind == MountKind::Bind || !words.from.is_empty();
        let mut decided = DecidedMount {
            words,
            target,
            digest: String::new(),
            tree: None,
        };
        if needs_tree {
            let from = Some(decided.words.from.as_str()).filter(|from| !from.is_empty());
            let failed = |error: EngineError| wrong(line, error.message);
            let tree = Arc::new(self.source_tree(from).await.map_err(failed)?);
            decided.tree = Some(Arc::clone(&tree));
            // What a cache begins with is no input of the step, as what is in it is none.
            if decided.words.kind == MountKind::Bind {
                let source = decided.words.source.clone();
                let digest = blocking(move || digest_of(&tree, &source))
                    .await
                    .map_err(failed)?;
                decided.digest = digest;
            }
        }
        Ok(decided)
    }

    /// Makes what a decided mount needs, for a step that is run.
    pub(super) async fn apply_mount(
        &self,
        line: &Line<Instruction>,
        decided: DecidedMount,
    ) -> Result<Mounted> {
        let words = &decided.words;
        let failed = |error: EngineError| wrong(line, error.message);
        match words.kind {
            MountKind::Tmpfs => {
                let source = MountSource::Tmpfs {
                    bytes_max: words.bytes,
                    mode: None,
                    options: Vec::new(),
                };
                Ok(Mounted::of(decided.target, source, false))
            }
            MountKind::Cache => self.cache_mount(decided).await.map_err(failed),
            MountKind::Bind => self.bind_mount(decided).await.map_err(failed),
            MountKind::Secret => self.secret_mount(decided).await.map_err(failed),
            MountKind::Ssh => self.agent_mount(decided).await.map_err(failed),
        }
    }

    /// A copy of what is mounted: whatever the command writes there goes with it.
    async fn bind_mount(&self, decided: DecidedMount) -> Result<Mounted> {
        let Some(tree) = decided.tree else {
            return Err(EngineError::system("the mount has no source"));
        };
        let directory = self.own_directory();
        let held = Held::Directory(directory.clone());
        let source = decided.words.source.clone();
        let path = blocking(move || copy_out(&tree, &source, &directory)).await?;
        let read_only = decided.words.read_only.unwrap_or(true);
        Ok(Mounted::of(decided.target, bind(path), read_only).holding(held))
    }

    fn own_directory(&self) -> PathBuf {
        let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
        self.context.own_file(&format!("mount-{ordinal}"))
    }

    /// A directory that outlives builds.
    async fn cache_mount(&self, decided: DecidedMount) -> Result<Mounted> {
        let words = &decided.words;
        let (id, name) = (decided.cache_id().to_owned(), self.cache_name(&decided));
        let (name, turn) = match words.sharing {
            Sharing::Shared => (name, None),
            Sharing::Locked => {
                let turn = self.engine.builds.mount(&name).lock_owned().await;
                (name, Some(turn))
            }
            Sharing::Private => self.private_cache(&name)?,
        };
        let path = self.engine.builds_directory().join("mounts").join(&name);
        let (mode, owner) = (words.mode.unwrap_or(0o755), (words.uid, words.gid));
        let (tree, source) = (decided.tree, words.source.clone());
        let begun = self.own_directory();
        let at = path.clone();
        let used = self.engine.builds.in_use.mount(&name);
        let is_imported = !path.is_dir() && self.import_mount(&name, &begun).await;
        let tree = tree.filter(|_| !is_imported);
        blocking(move || make_cache(&at, &begun, tree.as_deref(), &source, mode, owner)).await?;
        let record = path.with_file_name(format!("{name}.use"));
        account::note_use(&record, || {
            format!("cached mount {} with id {id:?}", decided.target)
        });
        let mounted = Mounted::of(
            decided.target.clone(),
            bind(path),
            words.read_only.unwrap_or(false),
        );
        let mounted = mounted.holding(Held::Use(used));
        Ok(match turn {
            Some(turn) => mounted.holding(Held::Turn(turn)),
            None => mounted,
        })
    }

    /// What the directory of a cache is called, but for those of private ones.
    fn cache_name(&self, decided: &DecidedMount) -> String {
        let space = self.request.cache_space();
        cache::key_of(&(space, decided.cache_id())).hex().to_owned()
    }

    /// Notes which caches a step mounts, for whoever wants their contents; of private ones it is the first.
    pub(super) fn note_mounts(&self, mounts: &[DecidedMount]) {
        for decided in mounts.iter().filter(|mount| mount.words.kind == MountKind::Cache) {
            let name = self.cache_name(decided);
            self.note_mount(match decided.words.sharing {
                Sharing::Private => format!("{name}-0"),
                Sharing::Shared | Sharing::Locked => name,
            });
        }
    }

    /// The first of a private cache's directories that nobody writes to.
    fn private_cache(&self, name: &str) -> Result<(String, Option<OwnedMutexGuard<()>>)> {
        for number in 0..PRIVATE_MAX {
            let name = format!("{name}-{number}");
            if let Ok(turn) = self.engine.builds.mount(&name).try_lock_owned() {
                return Ok((name, Some(turn)));
            }
        }
        Err(EngineError::conflict(format!(
            "more than {PRIVATE_MAX} steps use this private cache at once"
        )))
    }

    fn client(&self) -> Option<&Arc<dyn BuildClient>> {
        self.request.client.as_ref()
    }

    async fn secret_mount(&self, decided: DecidedMount) -> Result<Mounted> {
        let words = &decided.words;
        let id = words.secret_id();
        let found = match self.client() {
            Some(client) => client.secret(id).await?,
            None => None,
        };
        let Some(secret) = found else {
            if words.is_required {
                return Err(EngineError::invalid(format!(
                    "secret {id}: not found. Give it with --secret id={id},src=FILE"
                )));
            }
            return Ok(Mounted::nothing());
        };
        let mut mounted = Mounted::nothing();
        if let Some(name) = &words.variable {
            let text = std::str::from_utf8(&secret)
                .ok()
                .filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| {
                EngineError::invalid(format!(
                    "secret {id} is no text, so it cannot be the variable {name}"
                ))
            })?;
            mounted.secret_variable = Some(format!("{name}={text}"));
        }
        if decided.target.is_empty() {
            return Ok(mounted);
        }
        let directory = self.memory_directory()?;
        let held = Held::Directory(directory.clone());
        let path = directory.join("secret");
        let (mode, uid, gid) = (words.mode.unwrap_or(0o400), words.uid, words.gid);
        let at = path.clone();
        blocking(move || write_secret(&at, &secret, mode, uid, gid)).await?;
        let secret_variable = mounted.secret_variable.take();
        let mut mounted = Mounted::of(decided.target, bind(path), true).holding(held);
        mounted.secret_variable = secret_variable;
        Ok(mounted)
    }

    /// A directory in memory that only root may enter.
    fn memory_directory(&self) -> Result<PathBuf> {
        let statfs = rustix::fs::statfs(MEMORY).map_err(|errno| {
            EngineError::system(format!("secrets are kept in memory alone, and {MEMORY}: {errno}"))
        })?;
        // TMPFS_MAGIC of linux/magic.h.
        if statfs.f_type != 0x0102_1994 {
            return Err(EngineError::system(format!(
                "secrets are kept in memory alone, and {MEMORY} is not a tmpfs"
            )));
        }
        // A new one, of a name nobody can foretell: everybody may make files there, and what is there is never used.
        let name = format!(
            "{}{}",
            self.engine.secrets_prefix(),
            ContainerId::generate().short()
        );
        let directory = Path::new(MEMORY).join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(file::FileError::at("make directory", &directory))?;
        Ok(directory)
    }

    /// A socket whose connections the client's agent answers.
    async fn agent_mount(&self, decided: DecidedMount) -> Result<Mounted> {
        let words = &decided.words;
        let id = words.agent_id().to_owned();
        let Some(client) = self.client().cloned() else {
            if words.is_required {
                return Err(EngineError::invalid(format!(
                    "ssh agent {id}: not found. This way of building cannot reach the client's agent"
                )));
            }
            return Ok(Mounted::nothing());
        };
        // Asked once before the command is: whether there is such an agent at all.
        if client.agent(&id).await?.is_none() {
            if words.is_required {
                return Err(EngineError::invalid(format!(
                    "ssh agent {id}: not found. Give it with --ssh {id}"
                )));
            }
            return Ok(Mounted::nothing());
        }
        let directory = self.memory_directory()?;
        let held = Held::Directory(directory.clone());
        let path = directory.join("agent");
        let cannot = |error: std::io::Error| EngineError::system(format!("listen for the agent: {error}"));
        let listener = UnixListener::bind(&path).map_err(cannot)?;
        set_access(&path, words.mode.unwrap_or(0o600), words.uid, words.gid)?;
        let task = tokio::spawn(answer_agent(listener, client, id));
        let variable = format!("SSH_AUTH_SOCK={}", decided.target);
        let mut mounted = Mounted::of(decided.target, bind(path), false)
            .holding(held)
            .holding(Held::Agent(task));
        mounted.variable = Some(variable);
        Ok(mounted)
    }
}

/// Takes connections and has the client answer each.
async fn answer_agent(listener: UnixListener, client: Arc<dyn BuildClient>, id: String) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let (client, id) = (Arc::clone(&client), id.clone());
        connections.spawn(async move {
            if let Ok(Some(mut agent)) = client.agent(&id).await {
                // Either end may hang up at any time.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

fn digest_of(tree: &Arc<SourceTree>, source: &str) -> Result<String> {
    let selection = transfer::Selection {
        sources: vec![source_path(source)],
        ..transfer::Selection::default()
    };
    Ok(selection.digest(tree)?.0.to_string())
}

fn source_path(source: &str) -> String {
    joined_path("/", source)
}

/// Copies a path of a tree into a new directory; returns where it is there.
fn copy_out(tree: &Arc<SourceTree>, source: &str, directory: &Path) -> Result<PathBuf> {
    file::make_directories(directory, 0o700)?;
    let source = source_path(source);
    let listed = tree.list(Path::new(&source)).map_err(transfer::read_error)?;
    let writing = Arc::clone(tree);
    let archive = stream(move |output| {
        let mut tape = Tape::new(output);
        for mut one in listed {
            one.member.name = match &one.member.name[..] {
                [] => b"root".to_vec(),
                name => [b"root/", name].concat(),
            };
            match one.member.kind {
                tar::EntryType::Directory => one.member.name.push(b'/'),
                tar::EntryType::Link => one.member.link = [b"root/", &one.member.link[..]].concat(),
                _ => {}
            }
            writing.write(&mut tape, &one)?;
        }
        tape.finish()
    });
    let root = super::context::open_directory(directory)?;
    crate::archive::unpack_into(&root, ChunkReader::new(archive))?;
    Ok(directory.join("root"))
}

/// Makes a cache where there is none; whole, or not at all.
fn make_cache(
    path: &Path,
    begun: &Path,
    tree: Option<&SourceTree>,
    source: &str,
    mode: u32,
    (uid, gid): (Option<u32>, Option<u32>),
) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    file::make_directories(begun, 0o700)?;
    if let Some(tree) = tree {
        let listed = tree
            .list(Path::new(&source_path(source)))
            .map_err(transfer::read_error)?;
        let archive = archive_below(tree, listed)?;
        let root = super::context::open_directory(begun)?;
        crate::archive::unpack_into(&root, &archive[..])?;
    }
    set_access(begun, mode, uid, gid)?;
    match std::fs::rename(begun, path) {
        Ok(()) => Ok(()),
        // Another step was faster; it is as good.
        Err(_) if path.is_dir() => Ok(file::remove_tree(begun)?),
        Err(error) => Err(EngineError::system(format!(
            "make the cache {}: {error}",
            path.display()
        ))),
    }
}

/// What a new cache begins with, as an archive.
fn archive_below(tree: &SourceTree, listed: Vec<super::tree::Listed>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut tape = Tape::new(&mut bytes);
    for mut one in listed.into_iter().filter(|one| !one.member.name.is_empty()) {
        if one.member.kind == tar::EntryType::Directory {
            one.member.name.push(b'/');
        }
        tree.write(&mut tape, &one).map_err(transfer::read_error)?;
    }
    tape.finish().map_err(transfer::read_error)?;
    Ok(bytes)
}

fn write_secret(path: &Path, secret: &[u8], mode: u32, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    file::replace(path, secret)?;
    set_access(path, mode, uid, gid)
}

/// Owner first: a change of owner takes permissions away.
fn set_access(path: &Path, mode: u32, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let failed = |errno: rustix::io::Errno| EngineError::system(format!("{}: {errno}", path.display()));
    let (uid, gid) = (Uid::from_raw(uid.unwrap_or(0)), Gid::from_raw(gid.unwrap_or(0)));
    rustix::fs::chownat(
        rustix::fs::CWD,
        path,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(failed)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777)).map_err(failed)
}
