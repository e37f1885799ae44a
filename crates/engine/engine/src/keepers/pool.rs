//! Work done ahead: keepers whose stem already sits in its namespaces and cgroup, with or without a place on the bridge.
//!
//! ```text
//!  refill ──▶ parked (fresh id) ──▶ offered to a create ──▶ taken by its start
//!                    └───────────────────────────────────▶ taken by any other start (its id is then spent)
//! ```
//! A parked set belongs to this daemon alone: when the daemon ends, however, its socket closes, the keeper and the stem
//! end, and their namespaces with them; the cgroup directory is swept by the next daemon.

use super::{KeeperConnection, Parked, Workshop};
use naru_base::ContainerId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Sets parked with a place on the bridge. Eight cover a burst of starts; each costs about half a MiB.
const BRIDGED_TARGET: usize = 8;
/// Sets parked without one, for `--network none`, `host` and `container:`.
const BARE_TARGET: usize = 2;
/// How long after the last start parking begins again, so that it does not compete with what was started.
const REFILL_DELAY: Duration = Duration::from_millis(20);
/// Below this many the next is parked at once.
const BRIDGED_LOW: usize = 2;

/// The parked sets of one engine.
#[derive(Debug)]
pub struct Pool {
    sets: Mutex<Vec<Slot>>,
    wake: Notify,
}

#[derive(Debug)]
struct Slot {
    parked: Parked,
    /// The id has been given to a container, which may still come for it.
    is_offered: bool,
}

impl Pool {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            sets: Mutex::new(Vec::new()),
            wake: Notify::new(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a new container: that of a parked set, so that its cgroup bears the container's own name, else a
    /// random one.
    pub fn offer_id(&self, wants_bridge: bool) -> ContainerId {
        let mut sets = self.lock();
        let free = sets
            .iter_mut()
            .find(|slot| !slot.is_offered && slot.parked.endpoint.is_some() == wants_bridge);
        free.map_or_else(ContainerId::generate, |slot| {
            slot.is_offered = true;
            slot.parked.id.clone()
        })
    }

    /// The keeper of the set whose id this container was given, while it is parked.
    pub fn offered(&self, container: &ContainerId) -> Option<Arc<KeeperConnection>> {
        let sets = self.lock();
        let slot = sets.iter().find(|slot| slot.parked.id == *container)?;
        Some(Arc::clone(&slot.parked.connection))
    }

    /// A set for a start: the one offered to this container, else any of the right kind. A set that has died while it
    /// was parked is passed over.
    pub fn take(&self, container: &ContainerId, wants_bridge: bool) -> Option<Parked> {
        let mut sets = self.lock();
        sets.retain(|slot| slot.parked.is_alive());
        let fits = |slot: &Slot| slot.parked.endpoint.is_some() == wants_bridge;
        let own = sets.iter().position(|slot| slot.parked.id == *container);
        let position = own
            .filter(|&position| fits(&sets[position]))
            .or_else(|| sets.iter().position(|slot| fits(slot) && !slot.is_offered))
            .or_else(|| sets.iter().position(fits));
        let taken = position.map(|position| sets.swap_remove(position).parked);
        drop(sets);
        self.wake.notify_one();
        taken
    }

    /// Has the refill look around: at new room, or at the end.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Ends every parked set.
    pub fn clear(&self) -> Vec<Parked> {
        self.lock().drain(..).map(|slot| slot.parked).collect()
    }

    fn missing(&self) -> Option<(bool, bool)> {
        let sets = self.lock();
        let bridged = sets.iter().filter(|slot| slot.parked.endpoint.is_some()).count();
        let bare = sets.len() - bridged;
        if bridged < BRIDGED_TARGET {
            Some((true, bridged < BRIDGED_LOW))
        } else if bare < BARE_TARGET {
            Some((false, false))
        } else {
            None
        }
    }
}

/// Keeps the pool full for as long as the workshop is open.
pub async fn refill(pool: Arc<Pool>, workshop: Arc<Workshop>) {
    while workshop.is_open() {
        let Some((with_bridge, is_urgent)) = pool.missing() else {
            pool.wake.notified().await;
            continue;
        };
        // Without need it waits for a quiet moment: every start pushes it on, or makes it urgent.
        if !is_urgent
            && tokio::time::timeout(REFILL_DELAY, pool.wake.notified())
                .await
                .is_ok()
        {
            continue;
        }
        if !workshop.is_open() {
            break;
        }
        match workshop.park(ContainerId::generate(), with_bridge).await {
            Ok(parked) => pool.lock().push(Slot {
                parked,
                is_offered: false,
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot park ahead; containers will start cold");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
