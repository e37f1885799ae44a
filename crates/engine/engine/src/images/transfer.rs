//! What pull and push share: what is told while they work, how often they try, and where they run.

use crate::error::{EngineError, Result};
use naru_base::{Digest, ErrorKind};
use naru_registry::{RegistryError, RegistryOptions};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Between two tries of a transfer that brought nothing; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A registry that wants to be left alone for longer is not waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two reports on one layer.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// One thing worth telling, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferStep {
    Status {
        /// What it is about: a layer's short digest, a tag.
        id: Option<String>,
        text: String,
    },
    Progress {
        id: String,
        text: &'static str,
        bytes: u64,
        bytes_total: u64,
    },
    /// A push has ended.
    Pushed { tag: String, digest: Digest, bytes: u64 },
}

/// Where steps are told. Whoever listens may leave, which cancels the transfer.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::Sender<TransferStep>);

impl Teller {
    pub fn new(steps: mpsc::Sender<TransferStep>) -> Self {
        Self(steps)
    }

    pub(super) async fn tell(&self, id: &str, text: impl Into<String>) {
        let step = TransferStep::Status {
            id: Some(id.to_owned()).filter(|id| !id.is_empty()),
            text: text.into(),
        };
        // Nobody listens: the transfer is being cancelled.
        drop(self.0.send(step).await);
    }

    pub(super) async fn tell_step(&self, step: TransferStep) {
        drop(self.0.send(step).await);
    }

    async fn abandoned(&self) {
        self.0.closed().await;
    }
}

/// Reports on one layer, not too often; a slow listener misses some.
pub(super) struct Reporter<'a> {
    teller: &'a Teller,
    id: String,
    text: &'static str,
    bytes_total: u64,
    reported_at: Option<Instant>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(teller: &'a Teller, id: &str, text: &'static str, bytes_total: u64) -> Self {
        Self {
            teller,
            id: id.to_owned(),
            text,
            bytes_total,
            reported_at: None,
        }
    }

    pub(super) fn report(&mut self, bytes: u64) {
        if self.reported_at.is_some_and(|at| at.elapsed() < REPORT_PAUSE) {
            return;
        }
        self.reported_at = Some(Instant::now());
        let step = TransferStep::Progress {
            id: self.id.clone(),
            text: self.text,
            bytes,
            bytes_total: self.bytes_total,
        };
        drop(self.teller.0.try_send(step));
    }
}

/// Runs a transfer to its end on this thread, or until nobody listens. It has a runtime of its own, so that its waits
/// for the disk are never the API's.
pub(super) fn run<T>(teller: &Teller, transfer: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| EngineError::system(format!("cannot begin the transfer: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            outcome = transfer => outcome,
            () = teller.abandoned() => Err(EngineError::new(ErrorKind::System, "the transfer was cancelled")),
        }
    })
}

/// Counts tries that brought nothing, and waits between them.
pub(super) struct Tries {
    left: u32,
    max: u32,
    pause: Duration,
}

impl Tries {
    pub(super) fn new(options: &RegistryOptions) -> Self {
        Self {
            left: options.attempts,
            max: options.attempts,
            pause: PAUSE_MIN,
        }
    }

    /// After a try that brought something.
    pub(super) fn renew(&mut self) {
        self.left = self.max;
        self.pause = PAUSE_MIN;
    }

    /// Waits before the next try, or says why there is none.
    pub(super) async fn wait_after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.left = self.left.saturating_sub(1);
        let wait = error.retry_after().unwrap_or(self.pause);
        if !error.is_transient() || self.left == 0 || wait > WAIT_MAX {
            return Err(error);
        }
        tracing::debug!(%error, ?wait, "a transfer is tried again");
        tokio::time::sleep(wait).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Sends a small request, again where that may help. A host that cannot be reached at all is not tried twice.
pub(super) async fn retried<T, F: Future<Output = naru_registry::Result<T>>>(
    options: &RegistryOptions,
    mut request: impl FnMut() -> F,
) -> naru_registry::Result<T> {
    let mut tries = Tries::new(options);
    loop {
        match request().await {
            Err(error @ (RegistryError::Connect { .. } | RegistryError::Timeout { .. })) => {
                return Err(error);
            }
            Err(error) => tries.wait_after(error).await?,
            done => return done,
        }
    }
}

/// One transfer of a blob at a time, whoever wants it.
#[derive(Debug, Default)]
pub(crate) struct BlobLocks(Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>);

impl BlobLocks {
    pub(super) fn of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those nobody holds any more are forgotten here, where the list grows.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(digest.clone()).or_default())
    }
}

/// A registry's error, in the engine's words and kind.
impl From<RegistryError> for EngineError {
    fn from(error: RegistryError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
