//! Printing to standard output, and telling on standard error.

use crate::error::{CliError, Result};
use std::io::{self, Write};

/// `eprintln!` that minds nothing: who closed standard error does not want to be told, least of all by a panic.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use tell;

/// Writes text at once; a reader that has gone away is an error which ends the command quietly.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(CliError::Output)
}

pub fn print_line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Does something to each name; every failure is reported, and any makes the exit code 1.
pub fn for_each_name(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<u8> {
    let mut code = 0;
    for name in names {
        match act(name) {
            Ok(()) => {}
            Err(error @ (CliError::Output(_) | CliError::Connect { .. })) => return Err(error),
            Err(error) => {
                crate::output::tell!("{error}");
                code = 1;
            }
        }
    }
    Ok(code)
}
