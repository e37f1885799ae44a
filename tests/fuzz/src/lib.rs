//! Feeds a parser mutated examples for a bounded time, as an ordinary test: on stable Rust, in every run of the tests.
//!
//! ```text
//!  examples ──▶ pick one ──▶ mutate 1..8 times ──▶ parser ──▶ no panic, no second spent, no memory gone
//! ```
//! Every input follows from the seed and its number alone. A failure prints both:
//! `NARU_FUZZ_SEED=17 NARU_FUZZ_INPUT=4711 cargo test -p CRATE NAME` does that one input again, and
//! `NARU_FUZZ_SECONDS=600` goes on for longer. It knows nothing of what it feeds.

mod mutate;

use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// What a target gets by default. A dozen targets, two at a time, then take under a minute.
const SECONDS: u64 = 4;

/// The longest a parser may take over one input of at most [`mutate::BYTES_MAX`]; unoptimised code on a loaded machine
/// stays far below.
const INPUT_TIME_MAX: Duration = Duration::from_secs(5);

/// What the process may grow by while a target runs; several targets share a process.
const MEMORY_KIB_MAX: u64 = 768 << 10;

/// How many inputs pass between looks at the memory: a look costs as much as a small input.
const LOOK_EVERY: u64 = 512;

/// Feeds `target` with examples and what becomes of them. Panics, with the input's number, when `target` does, when it
/// takes too long, or when memory grows out of bounds.
pub fn feed(examples: &[&[u8]], mut target: impl FnMut(&[u8])) {
    let seed = variable("NARU_FUZZ_SEED").unwrap_or_else(seed_of_now);
    if let Some(number) = variable("NARU_FUZZ_INPUT") {
        let input = mutate::input(examples, seed, number);
        eprintln!("input {number} of seed {seed}: {}", input.escape_ascii());
        target(&input);
        return;
    }
    let end = Instant::now() + Duration::from_secs(variable("NARU_FUZZ_SECONDS").unwrap_or(SECONDS));
    let memory_before = memory_peak_kib();
    // Where a failure takes the whole process (a stack overflow), this is how its number is found.
    let note = Note(std::env::temp_dir().join(format!("naru-fuzz-{}-{seed}", std::process::id())));
    let mut noted = std::fs::File::create(&note.0).expect("a note of the number of the input");
    // Not by the macro, whose output is lost when the process is.
    let told = format!(
        "fuzz: seed {seed}; should the process die, {} has the number of the input\n",
        note.0.display()
    );
    let _ = std::io::stderr().write_all(told.as_bytes());
    let mut number = 0;
    while Instant::now() < end {
        let input = mutate::input(examples, seed, number);
        let _ = noted.rewind().and_then(|()| writeln!(noted, "{number:<20}"));
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let replay = format!(
            "NARU_FUZZ_SEED={seed} NARU_FUZZ_INPUT={number} does it again; the input, {} bytes: {}",
            input.len(),
            shorten(&input)
        );
        if let Err(panic) = outcome {
            eprintln!("panicked: {replay}");
            resume_unwind(panic);
        }
        assert!(
            began.elapsed() < INPUT_TIME_MAX,
            "took {:?}: {replay}",
            began.elapsed()
        );
        if number % LOOK_EVERY == 0 {
            let grown = memory_peak_kib().saturating_sub(memory_before);
            assert!(
                grown < MEMORY_KIB_MAX,
                "{grown} KiB more memory by this input or the {LOOK_EVERY} before it: {replay}"
            );
        }
        number += 1;
    }
    assert!(number > 0, "no input was tried");
    println!("{number} inputs of seed {seed}");
}

/// A file that only a process which dies leaves behind: what fails in any other way says its number itself.
struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// As [`feed`], for parsers of text.
pub fn feed_text(examples: &[&str], mut target: impl FnMut(&str)) {
    let examples: Vec<&[u8]> = examples.iter().map(|example| example.as_bytes()).collect();
    feed(&examples, |input| target(&String::from_utf8_lossy(input)));
}

fn shorten(input: &[u8]) -> String {
    /// Enough to see what it is; the number brings all of it back.
    const SHOWN: usize = 2000;
    let shown = &input[..input.len().min(SHOWN)];
    format!(
        "{}{}",
        shown.escape_ascii(),
        if shown.len() < input.len() { "…" } else { "" }
    )
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |since| u64::from(since.subsec_nanos()) + 1)
}

/// The most memory this process has had in use.
fn memory_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_comes_back_by_its_number() {
        let examples: &[&[u8]] = &[b"{\"a\":[1,2]}", b"name:tag"];
        for number in [0, 1, 77, 5000] {
            assert_eq!(
                mutate::input(examples, 9, number),
                mutate::input(examples, 9, number)
            );
        }
        assert_ne!(
            mutate::input(examples, 9, 1000),
            mutate::input(examples, 10, 1000)
        );
    }

    #[test]
    #[should_panic(expected = "found")]
    fn a_byte_that_no_example_has_is_found() {
        feed(&[b"aaaa"], |input| assert!(!input.contains(&b'\n'), "found"));
    }
}
