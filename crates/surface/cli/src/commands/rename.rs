//! `rename`.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::Result;
use crate::http::Query;
use crate::session_io::container_path;
use crate::{Arguments, Session};

pub const COMMAND: Command = Command {
    names: &["container rename", "rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Rename a container",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let path = format!("{}/rename", container_path(&arguments.positional[0]));
    session
        .client
        .post(&Query::new(&path).set("name", &arguments.positional[1]).build())?;
    Ok(0)
}
