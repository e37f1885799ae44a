//! The client's own terminal: raw mode and size.

use rustix::termios::{self, OptionalActions, Termios};
use std::io;

/// Raw mode of standard input, until it is dropped (on every way out, a panic too).
pub struct RawMode {
    saved: Termios,
}

impl RawMode {
    pub fn enter() -> io::Result<Self> {
        let saved = termios::tcgetattr(io::stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done when the terminal has gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.saved);
    }
}

/// Typed characters are not shown, until it is dropped.
pub struct Quiet(Termios);

impl Quiet {
    pub fn enter() -> io::Result<Self> {
        let saved = termios::tcgetattr(io::stdin())?;
        let mut quiet = saved.clone();
        quiet.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
        Ok(Self(saved))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing can be done when the terminal has gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

pub fn stdin_is_terminal() -> bool {
    termios::isatty(io::stdin())
}

/// `(rows, columns)` of the terminal on standard output, when it is one and knows.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
