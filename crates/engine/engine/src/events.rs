//! What happened: sent to whoever listens, and the last of it kept for those who ask later.

use crate::Engine;
use crate::containers::Container;
use crate::views::EngineEvent;
use naru_base::Timestamp;
use std::collections::{BTreeMap, VecDeque};
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
}

impl Events {
    pub fn new() -> Self {
        Self {
            past: Mutex::new(VecDeque::new()),
            sender: broadcast::Sender::new(LISTENER_LAG_MAX),
        }
    }

    fn publish(&self, event: EngineEvent) {
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
        self.event(
            "volume",
            action,
            name.to_owned(),
            BTreeMap::from([("driver".to_owned(), "local".to_owned())]),
        );
    }

    /// `container`: the one that was connected or disconnected.
    pub(crate) fn network_event(&self, action: &str, id: &str, name: &str, container: Option<&str>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), name.to_owned()),
            ("type".to_owned(), "bridge".to_owned()),
        ]);
        attributes.extend(container.map(|container| ("container".to_owned(), container.to_owned())));
        self.event("network", action, id.to_owned(), attributes);
    }

    pub(crate) fn image_event(&self, action: &str, id: &str, name: &str) {
        self.event(
            "image",
            action,
            id.to_owned(),
            BTreeMap::from([("name".to_owned(), name.to_owned())]),
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
