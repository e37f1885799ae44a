//! What happened: sent to whoever listens, and the last of it kept for those who ask later.

use crate::Engine;
use crate::containers::Container;
use crate::networks::DEFAULT_NETWORK;
use crate::record::{ContainerRecord, EndpointRecord, MountKind};
use crate::spec::NetworkMode;
use crate::views::EngineEvent;
use naru_base::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Past events kept, as Docker does.
const PAST_EVENTS_MAX: usize = 256;

/// How far a listener may fall behind before it loses events.
const LISTENER_LAG_MAX: usize = 1024;

#[derive(Debug)]
pub struct Events {
    past: Mutex<VecDeque<EngineEvent>>,
    sender: broadcast::Sender<EngineEvent>,
    /// Published so far.
    count: AtomicU64,
}

impl Events {
    pub fn new() -> Self {
        Self {
            past: Mutex::new(VecDeque::new()),
            sender: broadcast::Sender::new(LISTENER_LAG_MAX),
            count: AtomicU64::new(0),
        }
    }

    /// Events so far, and listeners now.
    pub fn counts(&self) -> (u64, usize) {
        (self.count.load(Ordering::Relaxed), self.sender.receiver_count())
    }

    fn publish(&self, event: EngineEvent) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == PAST_EVENTS_MAX {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Under the same lock, so that a new listener sees each event once. No listeners is no error.
        let _ = self.sender.send(event);
    }
}

impl Engine {
    /// Past events since the daemon started (bounded), and those to come.
    pub fn subscribe_events(&self) -> (Vec<EngineEvent>, broadcast::Receiver<EngineEvent>) {
        let past = self.events.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.events.sender.subscribe())
    }

    /// Attributes are Docker's: image, name, the labels, and those of the action.
    pub(crate) fn container_event(&self, action: &str, container: &Container, more: &[(&str, &str)]) {
        let record = container.record();
        let mut attributes: BTreeMap<String, String> = record.resolved.labels.clone();
        attributes.insert("image".to_owned(), record.spec.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(
            more.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        self.event("container", action, container.id.to_string(), attributes);
    }

    pub(crate) fn volume_event(&self, action: &str, name: &str) {
        self.event("volume", action, name.to_owned(), pairs(&[("driver", "local")]));
    }

    pub(crate) fn network_event(&self, action: &str, id: &str, name: &str) {
        let attributes = pairs(&[("name", name), ("type", "bridge")]);
        self.event("network", action, id.to_owned(), attributes);
    }

    /// A container came to a network that users made or to the default one, or left it.
    pub(crate) fn connect_event(&self, action: &str, record: &ContainerRecord, endpoint: &EndpointRecord) {
        let id = if endpoint.network == DEFAULT_NETWORK {
            self.network_id(DEFAULT_NETWORK)
        } else {
            endpoint.network_id.clone()
        };
        let container = record.id.as_str();
        let attributes = pairs(&[
            ("name", &endpoint.network),
            ("type", "bridge"),
            ("container", container),
        ]);
        self.event("network", action, id, attributes);
    }

    /// What a start does before the container runs: its volumes are mounted, it comes to its networks.
    pub(crate) fn begin_events(&self, record: &ContainerRecord, endpoints: &[EndpointRecord]) {
        let container = record.id.as_str();
        for mount in record
            .resolved
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let attributes = pairs(&[
                ("driver", "local"),
                ("container", container),
                ("destination", &mount.target),
                ("read/write", if mount.read_only { "false" } else { "true" }),
                ("propagation", &mount.propagation),
            ]);
            let name = mount.volume.clone().unwrap_or_default();
            self.event("volume", "mount", name, attributes);
        }
        self.network_events("connect", record, endpoints);
    }

    /// What follows a run's end: the container leaves its networks, its volumes are let go.
    pub(crate) fn end_events(&self, record: &ContainerRecord, endpoints: &[EndpointRecord]) {
        self.network_events("disconnect", record, endpoints);
        for mount in record
            .resolved
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let attributes = pairs(&[("driver", "local"), ("container", record.id.as_str())]);
            let name = mount.volume.clone().unwrap_or_default();
            self.event("volume", "unmount", name, attributes);
        }
    }

    fn network_events(&self, action: &str, record: &ContainerRecord, endpoints: &[EndpointRecord]) {
        for endpoint in endpoints {
            self.connect_event(action, record, endpoint);
        }
        let (name, driver) = match record.spec.network {
            NetworkMode::Host => ("host", "host"),
            NetworkMode::None => ("none", "null"),
            _ => return,
        };
        let attributes = pairs(&[
            ("name", name),
            ("type", driver),
            ("container", record.id.as_str()),
        ]);
        self.event("network", action, self.network_id(name), attributes);
    }

    pub(crate) fn image_event(&self, action: &str, id: &str, name: &str) {
        self.event(
            "image",
            action,
            id.to_owned(),
            BTreeMap::from([("name".to_owned(), name.to_owned())]),
        );
    }

    /// What a `prune` got back, of things of one kind.
    pub(crate) fn prune_event(&self, kind: &'static str, bytes: u64) {
        self.event(
            kind,
            "prune",
            String::new(),
            pairs(&[("reclaimed", &bytes.to_string())]),
        );
    }

    fn event(&self, kind: &'static str, action: &str, actor: String, attributes: BTreeMap<String, String>) {
        self.events.publish(EngineEvent {
            kind,
            action: action.to_owned(),
            actor,
            attributes,
            time: Timestamp::now(),
        });
    }
}

fn pairs(attributes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    attributes.iter().map(owned).collect()
}
