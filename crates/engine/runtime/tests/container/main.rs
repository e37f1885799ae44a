//! Containers started for real, from a root filesystem made of busybox. Needs root.
//!
//! No test harness: the runtime forks, which only a single-threaded process may do. `cargo test … -- NAME` runs the
//! tests whose name contains NAME.

mod attacks;
mod attributes;
mod basics;
mod namespaces;
mod support;
mod timing;

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    naru_runtime::warm_up();
    let mut failed = Vec::new();
    for (name, test) in basics::TESTS
        .iter()
        .chain(namespaces::TESTS)
        .chain(attributes::TESTS)
        .chain(attacks::TESTS)
        .chain(timing::TESTS)
    {
        if wanted
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
            continue;
        }
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
