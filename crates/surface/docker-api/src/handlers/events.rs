//! The stream of events, past and to come.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use crate::translate::time::parse_time;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use naru_base::Timestamp;
use naru_docker_wire::types::{EventActor, EventMessage};
use naru_engine::EngineEvent;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

const FILTERS: [&str; 17] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "label!",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
    "reference",
    "since",
];

pub fn events(call: Call) -> ApiResult<Answer> {
    let filters = Arc::new(Filters::parse(call.query.get("filters"), &FILTERS)?);
    let since = call
        .query
        .non_empty("since")
        .filter(|text| *text != "0")
        .map(parse_time)
        .transpose()?;
    let until = call
        .query
        .non_empty("until")
        .filter(|text| *text != "0")
        .map(parse_time)
        .transpose()?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let (past, receiver) = call.engine.subscribe_events();
    let is_wanted_past = {
        let filters = Arc::clone(&filters);
        // Without `since` (and without `until`) only what is yet to come is told.
        let from = since.or_else(|| until.map(|_| Timestamp::from_parts(0, 0)));
        move |event: &EngineEvent| {
            from.is_some_and(|from| event.time >= from)
                && until.is_none_or(|until| event.time <= until)
                && is_wanted(event, &filters)
        }
    };
    let past: Vec<EngineEvent> = past.into_iter().filter(is_wanted_past).collect();
    let deadline = until.map(|until| {
        let left = until.as_nanosecond() - Timestamp::now().as_nanosecond();
        tokio::time::Instant::now() + Duration::from_nanos(u64::try_from(left.max(0)).unwrap_or(u64::MAX))
    });
    let live = stream::unfold((receiver, filters), move |(mut receiver, filters)| async move {
        loop {
            let next = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, receiver.recv()).await.ok()?,
                None => receiver.recv().await,
            };
            match next {
                Ok(event) if is_wanted(&event, &filters) => return Some((event, (receiver, filters))),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "a client reads events too slowly"),
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let lines = stream::iter(past)
        .chain(live)
        .map(|event| Ok::<Bytes, std::io::Error>(event_line(&event)));
    Ok(respond::stream(respond::JSON, lines))
}

fn event_line(event: &EngineEvent) -> Bytes {
    let is_old_kind = matches!(event.kind, "container" | "image");
    let from = if event.kind == "container" {
        event.attributes.get("image").cloned().unwrap_or_default()
    } else {
        String::new()
    };
    let message = EventMessage {
        status: if is_old_kind {
            event.action.clone()
        } else {
            String::new()
        },
        id: if is_old_kind {
            event.actor.clone()
        } else {
            String::new()
        },
        from,
        kind: event.kind.to_owned(),
        action: event.action.clone(),
        actor: EventActor {
            id: event.actor.clone(),
            attributes: event.attributes.clone(),
        },
        scope: "local".to_owned(),
        time: event.time.as_second(),
        time_nano: event.time.as_nanosecond() as i64,
    };
    respond::json_line(&message)
}

fn is_wanted(event: &EngineEvent, filters: &Filters) -> bool {
    let named = |kind: &str| {
        filters.any(kind, |wanted| {
            let name = event.attributes.get("name").map(String::as_str);
            // As Docker, by how an id or a name begins.
            let is_actor = event.kind == kind
                && (event.actor.starts_with(wanted) || name.is_some_and(|name| name.starts_with(wanted)));
            is_actor || (kind == "image" && is_of_image(event, wanted))
        })
    };
    filters.any("type", |kind| kind == event.kind)
        // `exec_create: sh -c true` is found as `exec_create`, `health_status: healthy` as `health_status`.
        && filters.any("event", |action| event.action == action || event.action.split(':').next() == Some(action))
        && filters.any("scope", |scope| scope == "local")
        && filters.labels_match(&event.attributes)
        && ["container", "image", "volume", "network", "daemon", "plugin"].iter().all(|kind| named(kind))
        && ["config", "node", "secret", "service"].iter().all(|kind| !filters.has(kind))
}

/// A container's image by its name, with or without the tag.
fn is_of_image(event: &EngineEvent, wanted: &str) -> bool {
    let image = event.attributes.get("image").map(String::as_str);
    image.is_some_and(|image| {
        image == wanted || image.rsplit_once(':').is_some_and(|(name, _)| name == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_filtered() {
        let event = EngineEvent {
            kind: "container",
            action: "exec_create: true".to_owned(),
            actor: "abcdef".to_owned(),
            attributes: [
                ("name".to_owned(), "web".to_owned()),
                ("image".to_owned(), "busybox".to_owned()),
            ]
            .into(),
            time: Timestamp::from_parts(1, 0),
        };
        let wanted = |text: &str| is_wanted(&event, &Filters::parse(Some(text), &FILTERS).unwrap());
        assert!(wanted("{}"));
        assert!(wanted(
            r#"{"container":["web"],"event":["exec_create"],"type":["container"]}"#
        ));
        assert!(wanted(r#"{"image":["busybox"]}"#));
        assert!(wanted(r#"{"container":["we"]}"#));
        assert!(!wanted(r#"{"container":["other"]}"#));
        assert!(!wanted(r#"{"type":["image"]}"#));
    }
}
