//! `rm`: removes containers.

use super::{Arity, Command};
use crate::args::Kind::Bool;
use crate::args::{Flag, Order, flag};
use crate::error::Result;
use crate::http::{Body, Query};
use crate::output::{for_each_name, print_line};
use crate::session_io::container_path;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag(
        "force",
        'f',
        Bool,
        "Force the removal of a running container (uses SIGKILL)",
    ),
    flag("link", 'l', Bool, "Remove the specified link"),
    flag(
        "volumes",
        'v',
        Bool,
        "Remove anonymous volumes associated with the container",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container rm", "container remove", "rm"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let force = arguments.is_set("force");
    for_each_name(&arguments.positional, |name| {
        let path = Query::new(&container_path(name))
            .set_if(force, "force", "1")
            .set_if(arguments.is_set("link"), "link", "1")
            .set_if(arguments.is_set("volumes"), "v", "1")
            .build();
        match session.client.call("DELETE", &path, Body::Empty) {
            // What is not there needs no force; Docker says so and goes on.
            Err(error) if force && error.status() == Some(404) => {
                crate::output::tell!("{error}");
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => print_line(name.trim_start_matches('/')),
        }
    })
}
