//! `build --ssh`: agents for SSH keys, lent to the steps of a build that mount them.
//!
//! The keys stay here: for each connection of a step the daemon asks for one to the agent (`agents.rs` of crate
//! `naru-docker-api` has the protocol).

use crate::Arguments;
use crate::error::{CliError, Result};
use crate::http::{Body, Client, Hijacked, Query};
use crate::json::Value;
use naru_base::ContainerId;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

/// Sockets of agents by their ids.
#[derive(Default)]
pub struct Agents {
    /// Tells this build from others.
    build: String,
    sockets: Vec<(String, PathBuf)>,
}

/// `default`, or `ID[=SOCKET]`; without a socket the one that `SSH_AUTH_SOCK` names.
pub fn read(arguments: &Arguments) -> Result<Agents> {
    let mut agents = Agents {
        build: ContainerId::generate().to_string(),
        sockets: Vec::new(),
    };
    for text in arguments.list("ssh") {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, PathBuf::from(path)),
            None => match std::env::var_os("SSH_AUTH_SOCK") {
                Some(path) => (text, PathBuf::from(path)),
                None => {
                    return Err(CliError::message(format!(
                        "--ssh {text}: there is no agent: start one (SSH_AUTH_SOCK is not set), or give {text}=SOCKET"
                    )));
                }
            },
        };
        let kind = std::fs::metadata(&path)
            .map_err(|error| CliError::message(format!("--ssh {text}: {}: {error}", path.display())))?;
        if !kind.file_type().is_socket() {
            return Err(CliError::message(format!(
                "--ssh {text}: {} is not the socket of an agent: add keys to one with ssh-add",
                path.display()
            )));
        }
        agents.sockets.push((id.to_owned(), path));
    }
    Ok(agents)
}

impl Agents {
    /// What the build is told of them.
    pub fn to_value(&self) -> Option<Value> {
        let ids = self.sockets.iter().map(|(id, _)| Value::from(id.as_str()));
        (!self.sockets.is_empty()).then(|| {
            Value::object([
                ("build".to_owned(), Value::from(self.build.as_str())),
                ("ids".to_owned(), Value::List(ids.collect())),
            ])
        })
    }

    /// Lends them from now on, until the process ends.
    pub fn lend(&self, client: &Client) -> Result<()> {
        if self.sockets.is_empty() {
            return Ok(());
        }
        // What lends cannot start a daemon.
        client.call("GET", "/_ping", Body::Empty)?;
        for (id, socket) in &self.sockets {
            let path = Query::new("/naru/build/agents")
                .set("build", &self.build)
                .set("id", id)
                .build();
            let (address, socket) = (client.address.clone(), socket.clone());
            thread::spawn(move || {
                let client = Client::new(address, None, None);
                // One always waits; the daemon that ends, or knows of no agents, ends this.
                while let Ok(lent) = client.hijack(&path, None) {
                    let socket = socket.clone();
                    // An agent that does not answer hangs up on its step.
                    thread::spawn(move || answer(lent, &socket));
                }
            });
        }
        Ok(())
    }
}

/// Carries between a step and the agent until both have ended.
fn answer(lent: Hijacked, socket: &Path) -> io::Result<()> {
    let mut agent = UnixStream::connect(socket)?;
    agent.write_all(&lent.received)?;
    let (mut step, mut to_step) = (lent.stream.try_clone()?, lent.stream);
    let mut to_agent = agent.try_clone()?;
    let asking = thread::spawn(move || {
        let _ = io::copy(&mut step, &mut to_agent);
        let _ = to_agent.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut agent, &mut to_step);
    let _ = to_step.shutdown_write();
    let _ = asking.join();
    Ok(())
}
