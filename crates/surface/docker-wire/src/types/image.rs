//! Images: list, inspect, history, removal, progress of a load.

use super::{
    ContainerConfig, GraphDriver, Healthcheck, PortSet, Set, StringMap, StringOrList, is_zero, wire,
};

wire! {
    /// An entry of `GET /images/json`.
    pub struct ImageSummary {
        id: String,
        parent_id: String,
        repo_tags: Vec<String>,
        repo_digests: Vec<String>,
        created: i64,
        size: i64,
        shared_size: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        virtual_size: Option<i64>,
        labels: Option<StringMap>,
        containers: i64,
    }

    /// Body of `GET /images/{}/json`.
    pub struct ImageInspect {
        id: String,
        repo_tags: Vec<String>,
        repo_digests: Vec<String>,
        parent: String,
        comment: String,
        created: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        container: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        container_config: Option<ContainerConfig>,
        docker_version: String,
        author: String,
        config: ShownImageConfig,
        architecture: String,
        #[serde(skip_serializing_if = "is_zero")]
        variant: String,
        os: String,
        #[serde(skip_serializing_if = "is_zero")]
        os_version: String,
        size: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        virtual_size: Option<i64>,
        graph_driver: GraphDriver,
        #[serde(rename = "RootFS")]
        root_fs: RootFs,
        metadata: ImageMetadata,
        /// Naru's own: the types of what is attested of it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        attestations: Vec<String>,
    }

    /// What of a container's configuration an image can have, in the same order.
    pub struct ImageOwnConfig {
        user: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        exposed_ports: Option<PortSet>,
        env: Option<Vec<String>>,
        cmd: Option<StringOrList>,
        #[serde(skip_serializing_if = "Option::is_none")]
        healthcheck: Option<Healthcheck>,
        #[serde(skip_serializing_if = "is_zero")]
        args_escaped: bool,
        volumes: Option<Set>,
        working_dir: String,
        entrypoint: Option<StringOrList>,
        on_build: Option<Vec<String>>,
        labels: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        shell: Option<Vec<String>>,
    }

    /// An entry of `GET /naru/images/{}/attestations`.
    pub struct ImageAttestation {
        predicate_type: String,
        predicate: serde_json::Value,
    }

    pub struct RootFs {
        #[serde(rename = "Type")]
        kind: String,
        layers: Vec<String>,
    }

    pub struct ImageMetadata {
        last_tag_time: String,
    }

    pub struct HistoryEntry {
        id: String,
        created: i64,
        created_by: String,
        tags: Option<Vec<String>>,
        size: i64,
        comment: String,
    }

    /// One thing that `DELETE /images/{}` did.
    pub struct ImageDeleteItem {
        #[serde(skip_serializing_if = "is_zero")]
        untagged: String,
        #[serde(skip_serializing_if = "is_zero")]
        deleted: String,
    }

    pub struct PruneImagesResponse {
        images_deleted: Option<Vec<ImageDeleteItem>>,
        space_reclaimed: u64,
    }
}

/// A line of progress, as load, pull and build send them.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ProgressLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    #[serde(skip_serializing_if = "is_zero")]
    pub code: i64,
    pub message: String,
}

/// An image's configuration: its own from API 1.50 on, before that a container's with nothing in what an image cannot have.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum ShownImageConfig {
    Own(Box<ImageOwnConfig>),
    OfContainer(Box<ContainerConfig>),
}

impl Default for ShownImageConfig {
    fn default() -> Self {
        Self::Own(Box::default())
    }
}
