//! Sessions: connections over which builds reach their clients, found by the ids that clients gave them.

use crate::channel::Channel;
use crate::error::{KitError, Result};
use crate::{Builders, lock};
use hyper::HeaderMap;
use hyper::rt::{Read, Write};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a build waits for its session: clients open both connections at the same time.
const ARRIVAL: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5_000 });

/// What a client tells of its session in headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionDescription {
    pub id: String,
    /// The same for each build of one directory of one client.
    pub shared_key: String,
    /// What can be called: `/moby.filesync.v1.FileSync/DiffCopy` and so on.
    pub methods: Vec<String>,
}

impl SessionDescription {
    /// `None` where they tell no id.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |key: &str| {
            let value = headers.get(format!("x-docker-expose-session-{key}"))?;
            value.to_str().ok().map(str::to_owned)
        };
        let methods = headers.get_all("x-docker-expose-session-grpc-method").iter();
        Some(Self {
            id: text("uuid").filter(|id| !id.is_empty())?,
            shared_key: text("sharedkey").unwrap_or_default(),
            methods: methods
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect(),
        })
    }
}

/// A client that can be asked while it is connected.
#[derive(Debug)]
pub struct Session {
    pub description: SessionDescription,
    pub channel: Channel,
    is_open: watch::Receiver<bool>,
    unwanted: Notify,
}

impl Session {
    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        let _ = self.is_open.clone().wait_for(|is_open| !is_open).await;
    }

    pub fn offers(&self, method: &str) -> bool {
        self.description.methods.iter().any(|offered| offered == method)
    }
}

#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    arrived: Notify,
}

impl Sessions {
    /// The session of this id; one that is on its way is waited for.
    pub async fn find(&self, id: &str) -> Result<Arc<Session>> {
        let found = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(session) = lock(&self.open).get(id) {
                    return Arc::clone(session);
                }
                arrived.await;
            }
        };
        tokio::time::timeout(ARRIVAL, found)
            .await
            .map_err(|_| KitError::NoSession(id.to_owned()))
    }
}

impl Builders {
    /// Ends a session whose build is refused, once it is there: Docker's client 20.10 waits for ever when it hears of the
    /// refusal before it has begun to serve.
    pub async fn end_session(&self, id: &str) {
        if let Ok(session) = self.sessions.find(id).await {
            session.unwanted.notify_one();
        }
    }

    /// Serves a session over a connection that has left HTTP/1, until either side ends it.
    pub async fn serve_session<I>(&self, description: SessionDescription, connection: I) -> Result<()>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let (channel, driven) = Channel::open(connection).await?;
        let (open, is_open) = watch::channel(true);
        let id = description.id.clone();
        let session = Arc::new(Session {
            description,
            channel,
            is_open,
            unwanted: Notify::new(),
        });
        let _registered = Registered::new(&self.sessions, id, Arc::clone(&session));
        tokio::select! {
            () = driven => {}
            () = session.unwanted.notified() => {}
        }
        let _ = open.send(false);
        Ok(())
    }
}

/// A session in the list; out of it when this is dropped.
struct Registered<'a> {
    sessions: &'a Sessions,
    id: String,
    session: Arc<Session>,
}

impl<'a> Registered<'a> {
    fn new(sessions: &'a Sessions, id: String, session: Arc<Session>) -> Self {
        lock(&sessions.open).insert(id.clone(), Arc::clone(&session));
        sessions.arrived.notify_waiters();
        Self {
            sessions,
            id,
            session,
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut open = lock(&self.sessions.open);
        // A client that came back under the same id has replaced it.
        if open
            .get(&self.id)
            .is_some_and(|known| Arc::ptr_eq(known, &self.session))
        {
            open.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    #[test]
    fn descriptions_are_read_from_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(SessionDescription::read(&headers), None);
        for (key, value) in [
            ("uuid", "abc"),
            ("sharedkey", "dir"),
            ("grpc-method", "/a/B"),
            ("grpc-method", "/a/C"),
        ] {
            let name: HeaderName = format!("x-docker-expose-session-{key}").parse().unwrap();
            headers.append(name, HeaderValue::from_static(value));
        }
        let read = SessionDescription::read(&headers).unwrap();
        assert_eq!((read.id.as_str(), read.shared_key.as_str()), ("abc", "dir"));
        assert_eq!(read.methods, ["/a/B", "/a/C"]);
    }

    #[tokio::test]
    async fn a_session_that_does_not_come_is_told_of() {
        let sessions = Sessions::default();
        let missing = sessions.find("nosuch").await.unwrap_err();
        assert!(missing.to_string().contains("no active session for nosuch"));
    }
}
