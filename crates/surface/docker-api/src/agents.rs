//! Agents for SSH keys that `naru build`'s clients lend to the steps of a build.
//!
//! ```text
//!  client   POST /naru/build/agents?build=KEY&id=ID  ──▶   and waits, again and again
//!                                          step          connects to its agent
//!                                     ◀── 101            from here on the connection is the agent's
//! ```
//! KEY is a word that the client makes up for one build, and tells in its request too. No daemon has to reach a client.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::Answer;
use crate::stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use naru_engine::{AgentStream, EngineError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a step waits for a client that has said that it lends an agent.
const WAIT: Duration = Duration::from_secs(10);

/// Steps that wait for one agent at a time.
const ASKING_MAX: usize = 16;

/// Agents that are lent, or asked for, by the build's key and their id.
#[derive(Debug, Default)]
pub struct Agents(Mutex<HashMap<(String, String), Weak<Lent>>>);

type Asked = oneshot::Sender<OnUpgrade>;

/// Where steps that ask and a client that lends find each other.
#[derive(Debug)]
pub struct Lent {
    id: String,
    ask: mpsc::Sender<Asked>,
    asked: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
}

impl Agents {
    pub fn find(&self, build: &str, id: &str) -> Arc<Lent> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (build.to_owned(), id.to_owned());
        if let Some(lent) = all.get(&key).and_then(Weak::upgrade) {
            return lent;
        }
        all.retain(|_, lent| lent.strong_count() > 0);
        let (ask, asked) = mpsc::channel(ASKING_MAX);
        let lent = Arc::new(Lent {
            id: id.to_owned(),
            ask,
            asked: tokio::sync::Mutex::new(asked),
        });
        all.insert(key, Arc::downgrade(&lent));
        lent
    }
}

impl Lent {
    /// A new connection to the agent.
    pub async fn connect(&self) -> Result<Box<dyn AgentStream>, EngineError> {
        let absent = || {
            EngineError::invalid(format!(
                "ssh agent {}: the client that was to lend it does not",
                self.id
            ))
        };
        let (asker, lent) = oneshot::channel();
        self.ask.send(asker).await.map_err(|_| absent())?;
        let upgrade = tokio::time::timeout(WAIT, lent).await;
        let upgrade = upgrade.ok().and_then(Result::ok).ok_or_else(absent)?;
        let upgraded = upgrade.await.map_err(|_| absent())?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    /// Hands a client's connection to the next step that asks.
    async fn lend(&self, mut upgrade: OnUpgrade) {
        let mut asked = self.asked.lock().await;
        // There is always one more to come: this one can ask itself.
        while let Some(asker) = asked.recv().await {
            match asker.send(upgrade) {
                Ok(()) => return,
                // It has waited long enough.
                Err(unused) => upgrade = unused,
            }
        }
    }
}

/// `POST /naru/build/agents`.
pub async fn lend(mut call: Call) -> ApiResult<Answer> {
    let missing = |key: &str| ApiError::invalid(format!("the parameter {key} is missing"));
    let build = call.query.non_empty("build").ok_or_else(|| missing("build"))?;
    let id = call.query.non_empty("id").ok_or_else(|| missing("id"))?;
    let lent = call.agents.find(build, id);
    let upgrade = call.upgrade.take();
    let upgrade = upgrade.ok_or_else(|| ApiError::invalid("ask for an upgrade of the connection to tcp"))?;
    lent.lend(upgrade).await;
    Ok(stream::switched())
}
