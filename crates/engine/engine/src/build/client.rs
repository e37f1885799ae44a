//! What a build asks, while it runs, of whoever asked for it: secrets, agents, the files of further contexts.
//!
//! ```text
//!  RUN --mount=type=secret ──▶ secret(id) ──▶ bytes, in memory only
//!  RUN --mount=type=ssh    ──▶ agent(id)  ──▶ a stream to the client's agent, one a connection
//!  FROM, COPY --from=NAME  ──▶ files(name) ─▶ that context
//!  COPY, ADD, --mount=bind ──▶ context() ───▶ the build's own context, where it was not sent along
//!  FROM of a registry      ──▶ credentials(registry)
//!  caches of the client's  ──▶ blob(store, digest), keep_blob(store, …)
//! ```
//! A protocol that can reach its client implements [`BuildClient`]; the build knows none of them. What is answered here
//! never gets into a layer, the history, a log, a cache key or onto a disk.

use super::KeptContext;
use crate::archive::Chunks;
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_oci::Descriptor;
use naru_registry::Credentials;
use std::fmt::Debug;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// An answer on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Both directions of a connection to an agent.
pub trait AgentStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentStream for T {}

/// Whoever asked for a build, as far as it can be asked for more. `None`: it has nothing of this id.
pub trait BuildClient: Debug + Send + Sync {
    /// A secret's content.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Vec<u8>>>;

    /// A new connection to the agent for SSH keys that goes by this id; `default` where the Dockerfile names none.
    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Box<dyn AgentStream>>>;

    /// The files of a named context that is a directory of the client's.
    fn files<'a>(&'a self, name: &'a str) -> Answer<'a, Option<KeptContext>>;

    /// The files of the build's own context, asked for once and only when a step needs any.
    fn context(&self) -> Answer<'_, KeptContext> {
        let error =
            EngineError::invalid("the client sends its context with its request, not when it is asked");
        Box::pin(std::future::ready(Err(error)))
    }

    /// A blob of a store of the client's.
    fn blob<'a>(&'a self, store: &'a str, _digest: &'a Digest) -> Answer<'a, Chunks> {
        let error = EngineError::invalid(format!("the client has no store {store}"));
        Box::pin(std::future::ready(Err(error)))
    }

    /// Has the client keep a blob in a store of its own.
    fn keep_blob<'a>(&'a self, store: &'a str, _blob: &'a Descriptor, _content: Chunks) -> Answer<'a, ()> {
        let error = EngineError::invalid(format!("the client has no store {store}"));
        Box::pin(std::future::ready(Err(error)))
    }

    /// The client has a whole cache: this is its manifest.
    fn note_cache(&self, _manifest: &Descriptor) {}

    /// Credentials for a registry, by its host; `docker.io` for Docker's.
    fn credentials<'a>(&'a self, _registry: &'a str) -> Answer<'a, Option<Credentials>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// What the name of a further context means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// `docker-image://…`
    Image(String),
    /// A repository, an archive or a file that the engine fetches.
    Remote(String),
    /// A directory of the client's; [`BuildClient::files`] has it under this name.
    Client(String),
    /// A directory in the archive of the context, of which it is then no part.
    Archived(String),
}
