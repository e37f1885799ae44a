//! Files of containers: copied from and to them, listed where they changed, exported, committed as images.
//!
//! A container is looked at from outside, through the root of its own tree (see `naru_runtime::view`); none of its
//! programs or libraries take part. One that does not run is put together from its snapshot and its mounts for as long
//! as it is looked at, in a mount namespace that nobody else has.

mod changes;
pub(crate) mod channel;
mod commit;
pub(crate) mod extract;
mod ids;
mod instructions;
pub(crate) mod place;
pub(crate) mod tape;
pub(crate) mod walk;

pub use changes::{Change, ChangeKind};
pub use channel::{ChunkReader, Chunks};
pub use commit::CommitRequest;
pub use instructions::apply_instructions;
pub use naru_oci::ContainerConfig;
pub use place::PathStat;

use crate::Engine;
use crate::containers::Container;
use crate::error::{EngineError, Result};
use crate::plan;
use crate::record::{ContainerRecord, ContainerState};
use crate::spec::NamespaceMode;
use channel::ChunkWriter;
use extract::{ExtractOptions, Target, extract, file_error};
use ids::Ids;
use naru_base::ErrorKind;
use naru_runtime::plan::{RootfsPlan, StartFailure};
use naru_runtime::view::{self, Base, HostIds, Process, View};
use place::{Asked, Found};
use rustix::fs::{AtFlags, FileType, OFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tape::Tape;
use walk::{Form, Walk};

/// How an archive is to be put into a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// A directory never takes the place of something else, nor something else that of a directory.
    pub keep_kinds: bool,
    /// Everything gets the container's user as owner instead of the archive's.
    pub to_container_user: bool,
}

impl Engine {
    /// What a path in a container is.
    pub async fn stat_path(self: &Arc<Self>, name: &str, path: &str) -> Result<PathStat> {
        let (container, asked) = (self.registry.find(name)?, Asked::parse(path));
        let view = self.view_to_read(&container).await?;
        let (name, path) = (name.to_owned(), path.to_owned());
        blocking(move || {
            let found = find(&view, &asked, &path, &name)?;
            describe(&view, &asked, &found)
        })
        .await
    }

    /// A path in a container as an archive, in the names Docker gives its members.
    pub async fn read_archive(self: &Arc<Self>, name: &str, path: &str) -> Result<(PathStat, Chunks)> {
        let (container, asked) = (self.registry.find(name)?, Asked::parse(path));
        let ids = Ids::of(&container.record())?;
        let view = self.view_to_read(&container).await?;
        let (of, path) = (name.to_owned(), path.to_owned());
        let (stat, found, view, asked) = blocking(move || {
            let found = find(&view, &asked, &path, &of)?;
            let stat = describe(&view, &asked, &found)?;
            Ok((stat, found, view, asked))
        })
        .await?;
        self.container_event("archive-path", &container, &[]);
        let chunks = stream(move |output| write_path(&view, &asked, &found, ids, output));
        Ok((stat, chunks))
    }

    /// Unpacks an archive into a directory of a container.
    pub async fn write_archive(
        self: &Arc<Self>,
        name: &str,
        path: &str,
        archive: Chunks,
        options: PutOptions,
    ) -> Result<()> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let process = process_of(&record);
        // A container that does not run must not be started, nor removed, while its layers are mounted here.
        let operation = match process {
            Some(_) => None,
            None => Some(container.operation.lock().await),
        };
        let view = match process {
            Some(process) => running_view(process, view::running).await?,
            None => None,
        };
        let view = match (view, &operation) {
            (Some(view), _) => view,
            (None, Some(_)) => self.view_to_write(&container).await?,
            (None, None) => return Err(ended_meanwhile(&container)),
        };
        let (path, name, user) = (path.to_owned(), name.to_owned(), record.resolved.user.clone());
        let is_read_only = record.spec.read_only_rootfs;
        let ids = Ids::of(&record)?;
        blocking(move || {
            let directory = find_target(&view, &path, &name, is_read_only)?;
            let owner = (options.to_container_user && !user.is_empty())
                .then(|| view::find_user(&view, &user))
                .transpose()
                .map_err(failure)?;
            let target = Target {
                root: &view.root,
                directory,
            };
            let options = ExtractOptions {
                keep_kinds: options.keep_kinds,
                owner,
                ids: ids.clone(),
            };
            let put = || extract(ChunkReader::new(archive), &target, options);
            match ids {
                None => put(),
                Some(ids) => view::on_own_thread(|| naru_runtime::as_mapped_root(ids.root, || Ok(put())))
                    .map_err(failure)?,
            }
        })
        .await?;
        self.container_event("extract-to-dir", &container, &[]);
        Ok(())
    }

    /// What the container changed in its own file system.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<Change>> {
        let container = self.registry.find(name)?;
        let snapshot = self.snapshot_of(&container)?;
        blocking(move || {
            changes::find_changes(&snapshot.upper, &snapshot.lower)
                .map_err(|errno| file_error("compare", &snapshot.upper, errno))
        })
        .await
    }

    /// The container's own file system, without anything mounted on it, as an archive.
    pub async fn export_container(self: &Arc<Self>, name: &str) -> Result<Chunks> {
        let container = self.registry.find(name)?;
        let ids = Ids::of(&container.record())?;
        let view = match process_of(&container.record()) {
            Some(process) => running_view(process, view::running_without_mounts).await?,
            None => None,
        };
        let view = if let Some(view) = view {
            view
        } else {
            let snapshot = self.snapshot_of(&container)?;
            let layers: Vec<_> = std::iter::once(snapshot.upper).chain(snapshot.lower).collect();
            blocking(move || view::layers(&layers).map_err(failure)).await?
        };
        self.container_event("export", &container, &[]);
        Ok(stream(move |output| {
            let mut tape = Tape::new(output).with_ids(ids);
            Walk::new(&mut tape, Form::Plain).write_directory(&view.root, b"", None)?;
            tape.finish()
        }))
    }

    fn snapshot_of(&self, container: &Container) -> Result<naru_content::Snapshot> {
        self.content.snapshot(&container.id).map_err(crate::images::error)
    }

    async fn view_to_read(self: &Arc<Self>, container: &Arc<Container>) -> Result<View> {
        let viewed = self.look_to_read(container).await;
        // Nothing is held for a reader: the files may be on their way out while it looks.
        if viewed.is_err() && container.record().state == ContainerState::Removing {
            return Err(EngineError::not_found(format!(
                "No such container: {}",
                container.id
            )));
        }
        viewed
    }

    async fn look_to_read(self: &Arc<Self>, container: &Arc<Container>) -> Result<View> {
        if let Some(process) = process_of(&container.record())
            && let Some(view) = running_view(process, view::running).await?
        {
            return Ok(view);
        }
        if let Some(view) = self.view_stopped(container).await? {
            return Ok(view);
        }
        // Directories that only a mount needs are made by the first view that may write, as a start makes them.
        let operation = container.operation.lock().await;
        if process_of(&container.record()).is_none() {
            drop(self.view_to_write(container).await?);
        }
        drop(operation);
        match self.view_stopped(container).await? {
            Some(view) => Ok(view),
            None => Err(ended_meanwhile(container)),
        }
    }

    async fn view_stopped(&self, container: &Container) -> Result<Option<View>> {
        let snapshot = self.snapshot_of(container)?;
        let record = container.record();
        let binds = plan::plan_binds(&record, &container.run_directory);
        let ids = self.host_ids(&record);
        blocking(move || {
            let base = Base::ReadOnly {
                lower: &snapshot.lower,
                upper: &snapshot.upper,
            };
            view::on_own_thread(|| view::stopped(&base, &binds, ids.as_ref())).map_err(failure)
        })
        .await
    }

    /// The caller holds the container's operation lock, and goes on holding it while it has the view.
    async fn view_to_write(&self, container: &Container) -> Result<View> {
        let record = container.record();
        if record.state == ContainerState::Removing || container.phase().borrow().is_removed {
            return Err(EngineError::conflict(format!(
                "container {} is being removed",
                container.id
            )));
        }
        let snapshot = self.snapshot_of(container)?;
        let binds = plan::plan_binds(&record, &container.run_directory);
        let rootfs = RootfsPlan::Overlay {
            lower: snapshot.lower,
            upper: snapshot.upper,
            work: snapshot.work,
        };
        let ids = self.host_ids(&record);
        let made = blocking(move || {
            view::on_own_thread(|| view::stopped(&Base::Writable(&rootfs), &binds, ids.as_ref()))
                .map_err(failure)
        });
        made.await?.ok_or_else(|| ended_meanwhile(container))
    }

    /// The ids that the next run of the container will have on the host; `None` where they are the host's own.
    fn host_ids(&self, record: &ContainerRecord) -> Option<HostIds> {
        let remap = self.options.remap.as_ref()?;
        (record.spec.user_mode != NamespaceMode::Host).then(|| remap.host_ids())
    }
}

fn failure(failure: StartFailure) -> EngineError {
    EngineError::system(failure.message)
}

fn ended_meanwhile(container: &Container) -> EngineError {
    EngineError::conflict(format!(
        "container {} ended or was started at this moment: try again",
        container.id
    ))
}

/// PID 1 of a container that runs.
fn process_of(record: &ContainerRecord) -> Option<Process> {
    match record.state {
        ContainerState::Running { pid, start_time, .. } | ContainerState::Paused { pid, start_time, .. } => {
            Some(Process { pid, start_time })
        }
        _ => None,
    }
}

async fn running_view(
    process: Process,
    look: fn(Process) -> std::result::Result<Option<View>, StartFailure>,
) -> Result<Option<View>> {
    blocking(move || view::on_own_thread(|| look(process)).map_err(failure)).await
}

/// Runs work that may wait for a disk on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(EngineError::system(format!("the work did not finish: {error}"))))
}

/// Runs a writer on a thread of its own; what it writes is read from the chunks, and its failure is the last of them.
pub(crate) fn stream(write: impl FnOnce(&mut ChunkWriter) -> io::Result<()> + Send + 'static) -> Chunks {
    let (mut writer, chunks) = channel::pipe();
    tokio::task::spawn_blocking(move || {
        let written = write(&mut writer).and_then(|()| writer.flush());
        match written {
            Ok(()) => {}
            // Whoever read has gone away.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                tracing::warn!(%error, "an archive could not be written to its end");
                writer.fail(error);
            }
        }
    });
    chunks
}

fn find(view: &View, asked: &Asked, path: &str, container: &str) -> Result<Found> {
    place::find(&view.root, asked).map_err(|errno| match errno {
        Errno::NOENT => missing_file(path, container),
        errno => file_error("lstat", &asked.path, errno),
    })
}

fn missing_file(path: &str, container: &str) -> EngineError {
    EngineError::not_found(format!("Could not find the file {path} in container {container}"))
}

fn describe(view: &View, asked: &Asked, found: &Found) -> Result<PathStat> {
    place::describe(&view.root, asked, found).map_err(|errno| file_error("lstat", &asked.path, errno))
}

/// A directory's members begin with its own name; a single file is the only member.
fn write_path(
    view: &View,
    asked: &Asked,
    found: &Found,
    ids: Option<Ids>,
    output: &mut ChunkWriter,
) -> io::Result<()> {
    let mut tape = Tape::new(output).with_ids(ids);
    let mut walk = Walk::new(&mut tape, Form::Plain);
    if FileType::from_raw_mode(found.stat.st_mode) == FileType::Directory {
        let base = if asked.base() == b"/" { b"" } else { asked.base() };
        let own = [base, b"/"].concat();
        walk.write_directory(&found.fd, &own.clone(), Some(own))?;
    } else {
        let name = asked.path.file_name().unwrap_or(OsStr::new("/"));
        let directory = open_parent(&view.root, &asked.path)?;
        walk.write_file(&directory, name, name.as_bytes().to_vec(), &found.stat)?;
    }
    tape.finish()
}

fn open_parent(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    place::open(root, parent, OFlags::PATH | OFlags::DIRECTORY)
}

/// The directory an archive goes into, as a path without links; refused where Docker refuses it.
fn find_target(view: &View, path: &str, container: &str, is_read_only: bool) -> Result<std::path::PathBuf> {
    let asked = Asked::parse(path);
    let failed = |errno| match errno {
        Errno::NOENT => missing_file(path, container),
        errno => file_error("stat", &asked.path, errno),
    };
    let found = place::open(&view.root, &asked.path, OFlags::PATH).map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(EngineError::invalid("extraction point is not a directory"));
    }
    let mount = |fd: &OwnedFd| {
        rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
    };
    let is_own = mount(&found).map_err(failed)? == mount(&view.root).map_err(failed)?;
    let is_mount_read_only = rustix::fs::fstatvfs(&found)
        .map_err(failed)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY);
    if is_own && (is_read_only || is_mount_read_only) {
        return Err(EngineError::new(
            ErrorKind::Forbidden,
            "container rootfs is marked read-only",
        ));
    }
    if is_mount_read_only {
        return Err(EngineError::new(
            ErrorKind::Forbidden,
            "mounted volume is marked read-only",
        ));
    }
    place::resolve(&view.root, &asked.path).map_err(failed)
}

/// Everything in a directory as an archive.
pub(crate) fn directory_archive(root: OwnedFd) -> Chunks {
    stream(move |output| {
        let mut tape = Tape::new(output);
        Walk::new(&mut tape, Form::Plain).write_directory(&root, b"", None)?;
        tape.finish()
    })
}

/// Unpacks an archive into a directory, which is its root.
pub(crate) fn unpack_into(root: &OwnedFd, archive: impl io::Read) -> Result<()> {
    let target = Target {
        root,
        directory: "/".into(),
    };
    extract(archive, &target, ExtractOptions::default())
}
