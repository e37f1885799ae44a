//! Importing: an image of one layer, from a file system's archive.

use super::error as content_error;
use crate::Engine;
use crate::archive::apply_instructions;
use crate::error::Result;
use naru_base::{Digest, Timestamp};
use naru_oci::{History, ImageConfig, Platform, Reference};
use std::io::Read;

/// What an imported image is to be.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub reference: Option<Reference>,
    pub message: String,
    /// Where the archive is from, as its history tells: `-` or a URL.
    pub source: String,
    /// Dockerfile instructions that change the configuration.
    pub changes: Vec<String>,
    pub platform: Platform,
}

impl Engine {
    /// Makes an image of an archive, plain or compressed; blocking.
    pub fn import_image(&self, request: &ImportRequest, archive: impl Read + Send) -> Result<Digest> {
        let comment = if request.message.is_empty() {
            format!("Imported from {}", request.source)
        } else {
            request.message.clone()
        };
        let created = Some(Timestamp::now());
        let mut config = ImageConfig {
            created,
            architecture: request.platform.architecture.clone(),
            os: request.platform.os.clone(),
            variant: request.platform.variant.clone(),
            comment: comment.clone(),
            history: vec![History {
                created,
                comment,
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        apply_instructions(&mut config.config, &request.changes)?;
        let name = request.reference.as_ref().map(Reference::familiar);
        let names: Vec<&str> = name.as_deref().into_iter().collect();
        let imported = self.content.import_image(&names, config, vec![Box::new(archive)]);
        let id = imported.map_err(content_error)?.id;
        self.image_event("import", id.as_str(), &name.unwrap_or_else(|| id.to_string()));
        Ok(id)
    }
}
