//! Keeps the host's firewall letting containers through: an accept that a reload took away is put back.

use naru_network::{Network, RulesetWatch};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// A reload is a burst of changes; wait for its end.
const SETTLE_DELAY: Duration = Duration::from_millis(100);

/// Watches for as long as the runtime lives. A host without the means has no firewall of that kind either.
pub async fn keep_accepted(network: Arc<Network>) {
    let watch = match network
        .watch_rulesets()
        .map_err(|error| error.to_string())
        .and_then(|watch| register(watch).map_err(|error| error.to_string()))
    {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "cannot watch the host's firewall; after a reload of it containers may be cut off");
            return;
        }
    };
    loop {
        let Ok(mut guard) = watch.readable().await else {
            return;
        };
        guard.clear_ready();
        if !watch.get_ref().0.drain() {
            continue;
        }
        tokio::time::sleep(SETTLE_DELAY).await;
        if let Err(error) = network.ensure_foreign_accept() {
            tracing::warn!(%error, "cannot let containers through the host's firewall");
        }
    }
}

struct Watched(RulesetWatch);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; a RulesetWatch owns its descriptor for as long as it lives"
)]
fn register(watch: RulesetWatch) -> std::io::Result<AsyncFd<Watched>> {
    AsyncFd::new(Watched(watch))
}
