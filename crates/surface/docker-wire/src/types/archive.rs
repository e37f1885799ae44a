//! Files of containers and volumes.

use super::wire;

wire! {
    /// What `X-Docker-Container-Path-Stat` holds, in base64.
    pub struct ContainerPathStat {
        #[serde(rename = "name")]
        name: String,
        #[serde(rename = "size")]
        size: i64,
        /// In the bits of Go's `os.FileMode`.
        #[serde(rename = "mode")]
        mode: u32,
        #[serde(rename = "mtime")]
        mtime: String,
        #[serde(rename = "linkTarget")]
        link_target: String,
    }

    /// An entry of `GET /containers/{}/changes`.
    pub struct FilesystemChange {
        path: String,
        /// 0 modified, 1 added, 2 removed.
        kind: u8,
    }

    /// An entry of `GET /naru/volumes/trash`.
    pub struct RemovedVolume {
        name: String,
        size: u64,
        removed_at: String,
    }
}
