//! Finding the program to run as Docker does, and running it.

use crate::failure::{of, system};
use crate::plan::{StartFailure, StartFailureKind};
use naru_sys::process::{ExecStrings, exec, exec_file};
use rustix::fs::{FileType, MemfdFlags, stat};
use rustix::io::Errno;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

/// The search path when the environment names none (Docker's default for images without one).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static INIT_PROGRAM: OnceLock<&'static [u8]> = OnceLock::new();

/// See [`crate::set_init_program`].
pub(crate) fn set_init_program(bytes: &'static [u8]) {
    let _ = INIT_PROGRAM.set(bytes);
}

/// The init program as a sealed file in memory: a container that reaches it through /proc can change nothing of the
/// host's (CVE-2019-5736). Made while /proc is still the host's.
pub(crate) fn init_file() -> Result<OwnedFd, StartFailure> {
    let bytes = INIT_PROGRAM
        .get()
        .ok_or_else(|| system("init", "run the init program")("none was set"))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd =
        rustix::fs::memfd_create("docker-init", flags).map_err(system("init", "make a file in memory"))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)
        .map_err(system("init", "fill a file in memory"))?;
    naru_sys::memory::seal(&file).map_err(system("init", "seal a file in memory"))?;
    // Executing needs that nobody has it open for writing: open it anew for reading only.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::open(
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(system("init", "open a file in memory"))
}

/// The path of the program that `arguments` name, looked up along the environment's `PATH`.
pub(crate) fn find(arguments: &[String], environment: &[String]) -> Result<String, StartFailure> {
    let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
        return Err(of(StartFailureKind::Invalid, "exec", "no command specified"));
    };
    if name.contains('/') {
        return check_executable(name).map(|()| name.clone());
    }
    let path = environment
        .iter()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| format!("{}/{name}", if directory.is_empty() { "." } else { directory }))
        .find(|candidate| check_executable(candidate).is_ok())
        .ok_or_else(|| {
            let message = format!("exec: {name:?}: executable file not found in $PATH");
            of(StartFailureKind::CommandNotFound, "exec", message)
        })
}

fn check_executable(path: &str) -> Result<(), StartFailure> {
    let cannot = |why: &str| {
        of(
            StartFailureKind::CommandNotExecutable,
            "exec",
            format!("exec: {path:?}: {why}"),
        )
    };
    match stat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => Err(of(
            StartFailureKind::CommandNotFound,
            "exec",
            format!("exec: {path:?}: stat {path}: no such file or directory"),
        )),
        Err(Errno::ACCESS) => Err(cannot("permission denied")),
        Err(error) => Err(cannot(&format!("stat {path}: {error}"))),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(cannot("is a directory: permission denied"))
        }
        Ok(stat) if stat.st_mode & 0o111 == 0 => Err(cannot("permission denied")),
        Ok(_) => Ok(()),
    }
}

/// Everything `execve` needs, so that nothing else has to happen when privileges are gone.
pub(crate) struct Prepared {
    path: String,
    c_path: CString,
    arguments: ExecStrings,
    environment: ExecStrings,
    init: Option<OwnedFd>,
}

impl Prepared {
    pub(crate) fn new(
        path: String,
        arguments: Vec<String>,
        environment: &[String],
        init: Option<OwnedFd>,
    ) -> Result<Self, StartFailure> {
        let failed = |error: std::io::Error| system("exec", "command or environment")(error);
        let mut all = arguments;
        if init.is_some() {
            let own = ["/sbin/docker-init".to_owned(), "--".to_owned()];
            all = own.into_iter().chain(all).collect();
        }
        Ok(Self {
            c_path: CString::new(path.as_str()).map_err(|error| failed(error.into()))?,
            path,
            arguments: ExecStrings::new(&all).map_err(failed)?,
            environment: ExecStrings::new(environment).map_err(failed)?,
            init,
        })
    }

    /// Becomes the program; returns only on failure.
    pub(crate) fn exec(&self) -> Result<(), StartFailure> {
        let error = match &self.init {
            Some(file) => exec_file(file.as_fd(), &self.arguments, &self.environment),
            None => exec(&self.c_path, &self.arguments, &self.environment),
        };
        let path = &self.path;
        let (kind, why) = match error.raw_os_error() {
            // The file was there a moment ago: its interpreter is missing.
            Some(libc::ENOENT) => (
                StartFailureKind::InterpreterMissing,
                "no such file or directory".to_owned(),
            ),
            Some(libc::EACCES) => (
                StartFailureKind::CommandNotExecutable,
                "permission denied".to_owned(),
            ),
            Some(libc::ENOEXEC) => (StartFailureKind::FormatUnknown, "exec format error".to_owned()),
            _ => (StartFailureKind::CommandNotExecutable, error.to_string()),
        };
        Err(of(kind, "exec", format!("exec {path}: {why}")))
    }
}
