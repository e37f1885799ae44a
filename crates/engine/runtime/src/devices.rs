//! Device nodes beyond the standard ones.

use crate::failure::{invalid, system};
use crate::mounts;
use crate::plan::StartFailure;
use crate::root::{Root, clean};
use crate::sources::{SourceKind, Sources};
use oci_spec::runtime::{Linux, LinuxDevice};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Makes the specification's devices in the root filesystem, or mounts there what the keeper has made.
pub(crate) fn make(root: &Root, linux: &Linux, sources: &mut Sources) -> Result<(), StartFailure> {
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let path = clean(device.path());
        if let Some(node) = sources.take(SourceKind::Device(index)) {
            mounts::bind(root, &path, &node)?;
            continue;
        }
        let name = path
            .file_name()
            .ok_or_else(|| invalid("devices", "a device has no name"))?;
        let parent = root.make_directories(path.parent().unwrap_or(Path::new("/")))?;
        make_node(parent.as_fd(), name, device)?;
    }
    Ok(())
}

/// Makes one node in a directory. What has that name already, one of the standard devices named again, stays as it is.
pub(crate) fn make_node(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    device: &LinuxDevice,
) -> Result<(), StartFailure> {
    let what = || format!("make {}", device.path().display());
    let kind = match device.typ().as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(invalid("devices", format!("unknown kind of device {other:?}"))),
    };
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    let number = makedev(device.major() as u32, device.minor() as u32);
    match mknodat(directory, name, kind, mode, number) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(error) => return Err(system("devices", what())(error)),
    }
    let uid = device.uid().map(Uid::from_raw);
    let gid = device.gid().map(Gid::from_raw);
    if uid.is_some() || gid.is_some() {
        chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(system("devices", what()))?;
    }
    Ok(())
}
