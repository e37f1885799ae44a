//! Two small static programs that Naru carries inside its own binary and puts into containers.
//!
//! They are compiled by this crate's build script, straight with `rustc` for the ordinary gnu target, so that building
//! Naru needs no second toolchain. Their sources are under `embedded/`; they share no code with Naru and know nothing
//! of it. `unsafe` is allowed there, with its reasons, because they stand alone on the kernel.

/// PID 1 of a container started with `--init`: `init -- PROGRAM ARGUMENT…`. Forwards signals, reaps orphans and ends
/// as its program does. Without a C library: it starts in microseconds and takes a few pages of memory.
pub static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// The program of the `welcome` image: an HTTP server that shows what isolates it. Port 80, or `PORT`.
pub static WELCOME: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/welcome"));

#[cfg(test)]
mod tests {
    use super::{INIT, WELCOME};

    /// The program headers' kinds: a static program asks for no interpreter (`PT_INTERP`, 3).
    fn asks_for_interpreter(program: &[u8]) -> bool {
        let number = |at: usize, bytes: usize| {
            program[at..at + bytes]
                .iter()
                .rev()
                .fold(0usize, |value, byte| value << 8 | usize::from(*byte))
        };
        let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        (0..count).any(|index| number(table + index * size, 4) == 3)
    }

    #[test]
    fn programs_are_static_and_small() {
        for (program, bytes_max) in [(INIT, 32 * 1024), (WELCOME, 2 * 1024 * 1024)] {
            assert_eq!(&program[..4], b"\x7fELF");
            assert!(!asks_for_interpreter(program));
            assert!(program.len() <= bytes_max, "{} bytes", program.len());
        }
    }
}
