//! `image provenance`: how an image was built, as its builder attests.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::http::escape_reference;
use crate::json::{Value, indent_json};
use crate::{Arguments, Session, output};

/// How the types of provenance begin; versions follow.
const PROVENANCE: &str = "https://slsa.dev/provenance/";

pub const COMMAND: Command = Command {
    names: &["image provenance"],
    usage: "IMAGE",
    about: "Show how an image was built, where that was attested (build --provenance)",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    let predicate = attested(session, name, PROVENANCE)?.ok_or_else(|| {
        CliError::message(format!(
            "nothing is attested of how {name} was built: build it with --provenance=true, or look in its registry"
        ))
    })?;
    output::print_line(&indent_json(&predicate.to_json(), "  "))?;
    Ok(0)
}

/// The predicate of the attestation whose type begins so.
pub(super) fn attested(session: &Session, name: &str, kind: &str) -> Result<Option<Value>> {
    let path = format!("/naru/images/{}/attestations", escape_reference(name));
    let all = match session.client.get(&path) {
        Ok(all) => all,
        // Docker's daemon has no such thing.
        Err(CliError::Daemon { message, .. }) if message.contains("page not found") => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut all = all.into_items().into_iter();
    let found = all.find(|one| one.get("PredicateType").text().starts_with(kind));
    Ok(found.map(|one| one.get("Predicate").clone()))
}
