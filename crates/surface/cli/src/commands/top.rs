//! `top`: the processes of a container.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::Result;
use crate::http::Query;
use crate::json::Value;
use crate::session_io::container_path;
use crate::{Arguments, Session, output, table};

pub const COMMAND: Command = Command {
    names: &["container top", "top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    flags: &[],
    order: Order::FlagsFirst,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let options = arguments.positional[1..].join(" ");
    let path = format!("{}/top", container_path(&arguments.positional[0]));
    let top = session.client.get(
        &Query::new(&path)
            .set_if(!options.is_empty(), "ps_args", &options)
            .build(),
    )?;
    let line = |row: &Value| {
        row.items()
            .iter()
            .map(|cell| cell.text().to_owned())
            .collect::<Vec<_>>()
    };
    let mut rows = vec![line(top.get("Titles"))];
    rows.extend(top.get("Processes").items().iter().map(line));
    output::print(&table::align_to(&rows, 20))?;
    Ok(0)
}
