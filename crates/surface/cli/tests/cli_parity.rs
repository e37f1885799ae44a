//! The same commands through Docker's client and ours, against a dockerd that already runs: set `NARU_PARITY_HOST` to
//! its address (with a `busybox` image in it) and build the example `naru` first. Without it there is nothing to compare.

use std::path::Path;
use std::process::Command;

#[test]
fn output_and_exit_codes_equal_those_of_docker() {
    let Ok(host) = std::env::var("NARU_PARITY_HOST") else {
        return;
    };
    let docker = "/usr/bin/docker";
    // target/<profile>/deps/this-test → target/<profile>/examples/naru
    let test = std::env::current_exe().unwrap();
    let naru = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/naru");
    if !Path::new(docker).exists() || !naru.exists() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli_parity.sh");
    let status = Command::new(script)
        .arg(naru)
        .arg(docker)
        .env("DOCKER_HOST", host)
        .status()
        .unwrap();
    assert!(status.success());
}
