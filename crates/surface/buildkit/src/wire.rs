//! The messages, from the published bindings, and what they mean here.

pub use bollard_buildkit_proto::fsutil::types::packet::PacketType;
pub use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
pub use bollard_buildkit_proto::google::protobuf::Timestamp;
pub use bollard_buildkit_proto::google::rpc::Status as RpcStatus;
pub use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
pub use bollard_buildkit_proto::moby::buildkit::v1::BuildHistoryEventType as HistoryEventType;
pub use bollard_buildkit_proto::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
pub use bollard_buildkit_proto::moby::filesync::v1::BytesMessage as FileBytes;
pub use bollard_buildkit_proto::moby::filesync::v1::{CredentialsRequest, CredentialsResponse};
pub use bollard_buildkit_proto::moby::sshforward::v1::{
    BytesMessage as AgentBytes, CheckAgentRequest, CheckAgentResponse,
};

pub use bollard_buildkit_proto::health::HealthCheckResponse as HealthResponse;
pub use bollard_buildkit_proto::moby::buildkit::v1 as control;
pub use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
pub use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
pub use bollard_buildkit_proto::moby::buildkit::v1::frontend::{Ref, Result as GatewayResult};
pub use bollard_buildkit_proto::moby::buildkit::v1::types::{BuildkitVersion, WorkerRecord};
pub use bollard_buildkit_proto::moby::upload::v1::BytesMessage as UploadBytes;
pub use bollard_buildkit_proto::pb::{Platform, Position, Range, SourceInfo};

use naru_build::listing::{ContextEntry, EntryKind};
use rustix::fs::FileType;

/// Kinds and special bits in Go's `os.FileMode`.
mod go_mode {
    pub const DIRECTORY: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const FIFO: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SET_UID: u32 = 1 << 23;
    pub const SET_GID: u32 = 1 << 22;
    pub const CHARACTER: u32 = 1 << 21;
    pub const STICKY: u32 = 1 << 20;
    pub const IRREGULAR: u32 = 1 << 19;
    pub const KINDS: u32 = DIRECTORY | SYMLINK | DEVICE | FIFO | SOCKET | IRREGULAR;
}

/// Go's special bits and the kernel's.
const SPECIAL: [(u32, u32); 3] = [
    (go_mode::SET_UID, 0o4000),
    (go_mode::SET_GID, 0o2000),
    (go_mode::STICKY, 0o1000),
];

/// What an entry of a client's directory is for a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Described {
    Entry(ContextEntry),
    /// No build can use it.
    Skipped,
    /// A kind of file that does not belong into an image by way of a context.
    Refused(String),
}

/// A client's description of a file, understood.
pub fn describe(stat: Stat) -> Described {
    let kind = match stat.mode & go_mode::KINDS {
        go_mode::DIRECTORY => EntryKind::Directory,
        go_mode::SYMLINK => EntryKind::Symlink(stat.linkname),
        go_mode::FIFO => EntryKind::Fifo,
        go_mode::SOCKET => return Described::Skipped,
        0 if stat.linkname.is_empty() => EntryKind::File {
            bytes: u64::try_from(stat.size).unwrap_or_default(),
        },
        0 => EntryKind::HardLink(stat.linkname.trim_start_matches('/').to_owned()),
        _ => {
            return Described::Refused(format!(
                "{} is a device: name it in .dockerignore, devices are made in a RUN",
                stat.path
            ));
        }
    };
    let special = SPECIAL.iter().filter(|(bit, _)| stat.mode & bit != 0);
    let mut attributes = stat.xattrs;
    Described::Entry(ContextEntry {
        mode: stat.mode & 0o777 | special.map(|(_, bit)| bit).sum::<u32>(),
        modified_ns: stat.mod_time,
        identity: None,
        is_recent: false,
        capability: attributes.remove("security.capability").unwrap_or_default(),
        path: stat.path,
        kind,
    })
}

/// The kernel's mode of a file as Go has it.
pub fn go_mode_of(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => go_mode::DIRECTORY,
        FileType::Symlink => go_mode::SYMLINK,
        FileType::Fifo => go_mode::FIFO,
        FileType::Socket => go_mode::SOCKET,
        FileType::CharacterDevice => go_mode::DEVICE | go_mode::CHARACTER,
        FileType::BlockDevice => go_mode::DEVICE,
        _ => 0,
    };
    let special = SPECIAL.iter().filter(|(_, bit)| mode & bit != 0);
    kind | mode & 0o777 | special.map(|(go_bit, _)| go_bit).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_modes_are_understood() {
        let read = |mode: u32, link: &str| {
            let described = describe(Stat {
                path: "p".to_owned(),
                mode,
                linkname: link.to_owned(),
                size: 3,
                ..Stat::default()
            });
            match described {
                Described::Entry(entry) => Some((entry.kind, entry.mode)),
                _ => None,
            }
        };
        let file = EntryKind::File { bytes: 3 };
        assert_eq!(read(0o644, ""), Some((file.clone(), 0o644)));
        assert_eq!(read(0o755 | 1 << 23 | 1 << 20, ""), Some((file, 0o5755)));
        assert_eq!(
            read(0o644, "/q"),
            Some((EntryKind::HardLink("q".to_owned()), 0o644))
        );
        assert_eq!(
            read(0o777 | 1 << 27, "/q"),
            Some((EntryKind::Symlink("/q".to_owned()), 0o777))
        );
        assert_eq!(read(0o755 | 1 << 31, ""), Some((EntryKind::Directory, 0o755)));
        for mode in [0o40_1777, 0o120_777, 0o10_600, 0o106_755 & 0o7777 | 0o100_000] {
            let described = read(go_mode_of(mode), "q").unwrap();
            assert_eq!(described.1, mode & 0o7777);
        }
        assert_eq!(read(1 << 24, ""), None);
        assert_eq!(read(1 << 26 | 1 << 21, ""), None);
    }
}
