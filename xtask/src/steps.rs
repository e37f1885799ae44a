//! The steps of `ci`, each of them a command of its own too.

use crate::run::{self, Count};
use crate::{setup, tidy};
use std::process::Command;
use std::time::Instant;

/// Runs every check, goes on after a failure where that makes sense, and closes with one line of totals.
pub fn ci() -> Result<(), String> {
    let mut total = Count::default();
    let mut failures = Vec::new();
    let mut note = |name: &str, outcome: Result<Count, String>, total: &mut Count| -> bool {
        let count = outcome.unwrap_or_else(|message| {
            eprintln!("{message}");
            Count::of_check(false)
        });
        total.add(count);
        if count.failed > 0 {
            failures.push(name.to_owned());
        }
        count.failed == 0
    };
    let is_ready = note("setup", step("setup", || check(setup::install())), &mut total);
    note(
        "format",
        step("format", || {
            check(run::complete(run::cargo(&["fmt", "--all", "--check"])))
        }),
        &mut total,
    );
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    note(
        "clippy",
        step("clippy", || check(run::complete(run::cargo(&clippy)))),
        &mut total,
    );
    note(
        "tidy",
        step("tidy", || check(tidy::check_and_report())),
        &mut total,
    );
    let unit = ["test", "--workspace", "--quiet"];
    note(
        "unit tests",
        step("unit tests", || run::count_tests(run::cargo(&unit))),
        &mut total,
    );
    let is_built = note(
        "release build",
        step("release build", || check(build_release())),
        &mut total,
    );
    if is_ready && is_built {
        note(
            "end to end",
            step("end to end", || {
                run::count_tests(pytest(&SIDE_BY_SIDE.map(str::to_owned)))
            }),
            &mut total,
        );
        note(
            "cgroup v2",
            step("cgroup v2", || check(crate::vm::run(&[]))),
            &mut total,
        );
    }
    let Count {
        passed,
        failed,
        skipped,
    } = total;
    if !failures.is_empty() {
        println!("failed: {}", failures.join(", "));
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 && is_ready && is_built {
        Ok(())
    } else {
        Err("the checks did not pass".to_owned())
    }
}

fn step<T>(name: &str, work: impl FnOnce() -> T) -> T {
    println!("== {name}");
    let began = Instant::now();
    let outcome = work();
    println!("== {name}: {:.0} s", began.elapsed().as_secs_f32());
    outcome
}

fn check(outcome: Result<(), String>) -> Result<Count, String> {
    outcome.map(|()| Count::of_check(true))
}

pub fn build_release() -> Result<(), String> {
    run::complete(run::cargo(&["build", "--release", "--quiet", "--bin", "naru"]))
}

pub fn e2e(arguments: &[String]) -> Result<(), String> {
    setup::install()?;
    build_release()?;
    run::complete(pytest(arguments))
}

pub fn vm(arguments: &[String]) -> Result<(), String> {
    setup::install()?;
    // With an argument it tests a crate alone.
    if arguments.is_empty() {
        build_release()?;
    }
    crate::vm::run(arguments)
}

pub fn bench(arguments: &[String]) -> Result<(), String> {
    setup::install()?;
    build_release()?;
    let mut command = Command::new(run::root().join("target/venv/bin/python"));
    command
        .arg(run::root().join("benches/bench.py"))
        .args(arguments)
        .current_dir(run::root());
    name_binary(&mut command);
    run::complete(command)
}

/// Two at a time, each file's by one: much of a test is waiting for a peer, and rows of a table share the host's names.
const SIDE_BY_SIDE: [&str; 2] = ["-n2", "--dist=loadfile"];

fn pytest(arguments: &[String]) -> Command {
    let mut command = Command::new(run::root().join("target/venv/bin/python"));
    command
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .current_dir(run::root());
    if arguments.iter().all(|argument| argument.starts_with('-')) {
        command.arg("tests");
    }
    command.args(arguments);
    name_binary(&mut command);
    command
}

fn name_binary(command: &mut Command) {
    command
        .env("NARU_BINARY", run::target().join("release/naru"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
}
