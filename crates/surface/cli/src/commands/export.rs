//! `export`: a container's file system as an archive.

use super::{Arity, Command};
use crate::args::Kind::Text;
use crate::args::{Flag, Order, flag};
use crate::error::{CliError, Result};
use crate::http::Body;
use crate::session_io::container_path;
use crate::{Arguments, Session};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

const FLAGS: &[Flag] = &[flag(
    "output",
    'o',
    Text("string"),
    "Write to a file, instead of STDOUT",
)];

pub const COMMAND: Command = Command {
    names: &["container export", "export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let output = arguments.text("output").filter(|path| !path.is_empty());
    if output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::message(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let path = format!("{}/export", container_path(&arguments.positional[0]));
    let response = session.client.send("GET", &path, Body::Empty)?;
    save(response, output)
}

/// Writes a stream to a file, which appears when it is whole, or to standard output.
pub fn save(mut input: impl Read, output: Option<&str>) -> Result<u8> {
    let Some(path) = output else {
        io::copy(&mut input, &mut io::stdout().lock()).map_err(CliError::Output)?;
        return Ok(0);
    };
    let partial = format!("{path}.{}.partial", std::process::id());
    let named = |error: io::Error| CliError::message(format!("{path}: {error}"));
    // Where only the file itself may be written, such as a device, it is written as it is.
    let is_special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    let place = if is_special { path } else { &partial };
    let mut file = File::create(place).map_err(named)?;
    let written = io::copy(&mut input, &mut file).and_then(|_| {
        if is_special {
            Ok(())
        } else {
            std::fs::rename(place, path)
        }
    });
    if let Err(error) = written {
        if !is_special {
            let _ = std::fs::remove_file(Path::new(place));
        }
        return Err(named(error));
    }
    Ok(0)
}
