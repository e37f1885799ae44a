//! `tag`: gives an image another name.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::Result;
use crate::http::{Query, escape_reference};
use crate::{Arguments, Session, reference};

pub const COMMAND: Command = Command {
    names: &["image tag", "tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let (name, tag) = reference::split_tag(&arguments.positional[1]);
    let path = format!("/images/{}/tag", escape_reference(&arguments.positional[0]));
    session.client.post(
        &Query::new(&path)
            .set("repo", name)
            .set("tag", tag.unwrap_or("latest"))
            .build(),
    )?;
    Ok(0)
}
