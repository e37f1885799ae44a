//! Further contexts that the client gave names.

use super::NamedContext;
use super::packed::PackedTree;
use super::solve::Builder;
use super::tree::{Root, SourceTree};
use crate::archive::{ChunkReader, Chunks, blocking};
use crate::error::{EngineError, Result};
use std::sync::Arc;

impl Builder {
    /// The files of a named context; fetched once a build.
    pub(super) async fn named_tree(&self, name: &str) -> Result<SourceTree> {
        let missing = || EngineError::invalid(format!("the named context {name} is not there"));
        let given = self.request.contexts.get(name).ok_or_else(missing)?;
        if let NamedContext::Image(image) = given {
            let image = self.base_image(image, None).await?;
            return self.image_tree(&image, name).await;
        }
        let mut fetched = self.named.lock().await;
        let tree = if let Some(tree) = fetched.get(name) {
            Arc::clone(tree)
        } else {
            let tree = self.fetch_named(given, name).await?;
            fetched.insert(name.to_owned(), Arc::clone(&tree));
            tree
        };
        Ok(SourceTree {
            root: Root::Packed(tree),
            name: format!("context {name}"),
            keeps_owners: false,
        })
    }

    async fn fetch_named(&self, given: &NamedContext, name: &str) -> Result<Arc<PackedTree>> {
        let missing =
            || EngineError::invalid(format!("the client has no files for the named context {name}"));
        match (given, &self.request.client) {
            (NamedContext::Client(theirs), Some(client)) => {
                let kept = client.files(theirs).await?.ok_or_else(missing)?;
                blocking(move || Ok(kept.tree())).await
            }
            (NamedContext::Remote(address), _) => {
                let archive = self.fetch_tree(address).await?;
                Ok(Arc::new(self.context.pack(archive).await?))
            }
            _ => Err(missing()),
        }
    }
}

impl super::context::Context {
    /// Packs an archive beside this context, for as long as the build goes on.
    pub(super) async fn pack(&self, archive: Chunks) -> Result<PackedTree> {
        let pack = self.new_pack()?;
        blocking(move || PackedTree::receive(ChunkReader::new(archive), pack)).await
    }
}
