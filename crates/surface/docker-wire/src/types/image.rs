//! Images: list, inspect, history, removal, progress of a load.

use super::{ContainerConfig, GraphDriver, StringMap, is_zero, wire};
use serde_json::Value;

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
        /// A container's configuration, less what is no image's from API 1.50 on.
        config: Value,
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
