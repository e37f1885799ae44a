//! `logout`: forgets the credentials for a registry.

use super::login::server;
use super::{Arity, Command};
use crate::args::Order;
use crate::error::Result;
use crate::{Arguments, Session, credentials, output};

pub const COMMAND: Command = Command {
    names: &["logout"],
    usage: "[SERVER]",
    about: "Log out from a registry",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::AtMost(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let registry = server(arguments);
    if credentials::erase(&session.config, &registry)? {
        output::print_line(&format!("Removing login credentials for {registry}"))?;
    } else {
        output::print_line(&format!("Not logged in to {registry}"))?;
    }
    Ok(0)
}
