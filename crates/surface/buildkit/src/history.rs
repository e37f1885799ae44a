//! Builds that were asked for over gRPC, while they run and for a time after: `Control/ListenBuildHistory`.
//!
//! It is in memory alone, and bounded; a new daemon has no history.

use crate::disk::wire_time;
use crate::error::{KitError, Result};
use crate::lock;
use crate::wire::{HistoryEventType, RpcStatus, control};
use naru_base::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use tokio::sync::broadcast;
use tonic::Status;

/// Builds remembered; BuildKit keeps fifty by default.
const RECORDS_MAX: usize = 50;

/// Events that a slow listener may lag behind.
const EVENTS_MAX: usize = 64;

#[derive(Debug)]
pub struct History {
    records: Mutex<VecDeque<control::BuildHistoryRecord>>,
    events: broadcast::Sender<control::BuildHistoryEvent>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
        }
    }
}

/// How far a build has come, in steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepCounts {
    pub begun: i32,
    pub completed: i32,
    pub cached: i32,
}

impl History {
    pub fn begin(&self, request: &control::SolveRequest) {
        let record = control::BuildHistoryRecord {
            r#ref: request.r#ref.clone(),
            frontend: request.frontend.clone(),
            // Arguments may be secrets to whoever reads the history.
            frontend_attrs: request
                .frontend_attrs
                .iter()
                .filter(|(key, _)| !key.starts_with("build-arg:"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            exporters: request.exporters.clone(),
            created_at: Some(wire_time(Timestamp::now())),
            ..control::BuildHistoryRecord::default()
        };
        let mut records = lock(&self.records);
        records.push_back(record.clone());
        while records.len() > RECORDS_MAX {
            let oldest = records.iter().position(|record| !record.pinned).unwrap_or(0);
            records.remove(oldest);
        }
        drop(records);
        self.tell(HistoryEventType::Started, record);
    }

    pub fn complete(
        &self,
        name: &str,
        steps: StepCounts,
        outcome: Result<&HashMap<String, String>, &Status>,
    ) {
        let completed = self.change(name, |record| {
            record.completed_at = Some(wire_time(Timestamp::now()));
            record.num_total_steps = steps.begun;
            record.num_completed_steps = steps.completed;
            record.num_cached_steps = steps.cached;
            match outcome {
                Ok(response) => record.exporter_response.clone_from(response),
                Err(status) => {
                    record.error = Some(RpcStatus {
                        code: status.code() as i32,
                        message: status.message().to_owned(),
                        details: Vec::new(),
                    });
                }
            }
        });
        if let Some(record) = completed {
            self.tell(HistoryEventType::Complete, record);
        }
    }

    fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut control::BuildHistoryRecord),
    ) -> Option<control::BuildHistoryRecord> {
        let mut records = lock(&self.records);
        let record = records.iter_mut().rev().find(|record| record.r#ref == name)?;
        change(record);
        Some(record.clone())
    }

    fn tell(&self, kind: HistoryEventType, record: control::BuildHistoryRecord) {
        // Nobody may be listening.
        let _ = self.events.send(control::BuildHistoryEvent {
            r#type: kind as i32,
            record: Some(record),
        });
    }

    /// Pins a record, or deletes it.
    pub fn update(&self, request: &control::UpdateBuildHistoryRequest) -> Result<()> {
        let missing = || KitError::NoBuild(request.r#ref.clone());
        if request.delete {
            let mut records = lock(&self.records);
            let at = records.iter().position(|record| record.r#ref == request.r#ref);
            let record = at.and_then(|at| records.remove(at)).ok_or_else(missing)?;
            drop(records);
            self.tell(HistoryEventType::Deleted, record);
            return Ok(());
        }
        self.change(&request.r#ref, |record| record.pinned = request.pinned)
            .map(drop)
            .ok_or_else(missing)
    }

    /// What is known now, and the events from now on where they are wanted.
    pub fn listen(
        &self,
        request: &control::BuildHistoryRequest,
    ) -> Result<(
        VecDeque<control::BuildHistoryEvent>,
        Option<broadcast::Receiver<control::BuildHistoryEvent>>,
    )> {
        if !request.filter.is_empty() {
            return Err(KitError::NotSupported(
                "filtering the history".to_owned(),
                "ask for one build by its ref, or for all",
            ));
        }
        // Before the list is read: nothing is missed.
        let coming = (!request.early_exit).then(|| self.events.subscribe());
        let records = lock(&self.records);
        let is_wanted = |record: &&control::BuildHistoryRecord| {
            (request.r#ref.is_empty() || record.r#ref == request.r#ref)
                && !(request.active_only && record.completed_at.is_some())
        };
        let events = records.iter().filter(is_wanted).map(|record| {
            let kind = match record.completed_at {
                Some(_) => HistoryEventType::Complete,
                None => HistoryEventType::Started,
            };
            control::BuildHistoryEvent {
                r#type: kind as i32,
                record: Some(record.clone()),
            }
        });
        let mut events: VecDeque<_> = events.collect();
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        while limit.is_some_and(|limit| events.len() > limit) {
            events.pop_front();
        }
        Ok((events, coming))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(name: &str) -> control::SolveRequest {
        control::SolveRequest {
            r#ref: name.to_owned(),
            frontend_attrs: HashMap::from([("build-arg:TOKEN".to_owned(), "x".to_owned())]),
            ..control::SolveRequest::default()
        }
    }

    fn listed(history: &History, request: &control::BuildHistoryRequest) -> Vec<(String, i32)> {
        let (events, _) = history.listen(request).unwrap();
        let named =
            |event: control::BuildHistoryEvent| (event.record.unwrap_or_default().r#ref, event.r#type);
        events.into_iter().map(named).collect()
    }

    #[test]
    fn builds_are_remembered_until_they_are_deleted_or_too_many() {
        let history = History::default();
        for number in 0..60 {
            history.begin(&solve(&number.to_string()));
        }
        let all = control::BuildHistoryRequest::default();
        assert_eq!(listed(&history, &all).len(), RECORDS_MAX);
        let (_, coming) = history.listen(&all).unwrap();
        history.complete("59", StepCounts::default(), Ok(&HashMap::new()));
        let last = control::BuildHistoryRequest {
            limit: 1,
            ..all.clone()
        };
        assert_eq!(listed(&history, &last), [("59".to_owned(), 1)]);
        let (events, _) = history.listen(&last).unwrap();
        assert!(events[0].record.as_ref().unwrap().frontend_attrs.is_empty());
        let active = control::BuildHistoryRequest {
            active_only: true,
            ..all.clone()
        };
        assert_eq!(listed(&history, &active).len(), RECORDS_MAX - 1);
        let delete = control::UpdateBuildHistoryRequest {
            r#ref: "59".to_owned(),
            delete: true,
            ..control::UpdateBuildHistoryRequest::default()
        };
        history.update(&delete).unwrap();
        assert!(history.update(&delete).is_err());
        let mut coming = coming.unwrap();
        assert_eq!(coming.try_recv().unwrap().r#type, 1);
        assert_eq!(coming.try_recv().unwrap().r#type, 2);
    }
}
