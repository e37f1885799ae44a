//! `rmi`: removes images.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::http::{Body, Query, escape_reference};
use crate::output::{for_each_name, print};
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag("force", 'f', Bool, "Force removal of the image"),
    long("no-prune", Bool, "Do not delete untagged parents"),
    long("platform", List("list"), "Remove only the given platform variant"),
];

pub const COMMAND: Command = Command {
    names: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        let path = Query::new(&format!("/images/{}", escape_reference(name)))
            .set_if(arguments.is_set("force"), "force", "1")
            .set_if(arguments.is_set("no-prune"), "noprune", "1")
            .build();
        let deleted = session.client.json("DELETE", &path, Body::Empty)?;
        let mut text = String::new();
        for entry in deleted.items() {
            match entry.get("Deleted").text() {
                "" => text.push_str(&format!("Untagged: {}\n", entry.get("Untagged").text())),
                id => text.push_str(&format!("Deleted: {id}\n")),
            }
        }
        print(&text)
    })
}
