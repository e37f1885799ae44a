//! Installs what the checks need. Skips what is present; fetches from package registries alone.

use crate::run;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program the checks run, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    // What Debian's dockerd answers `docker top` with.
    ("ps", "procps"),
    ("runc", "runc"),
    ("podman", "podman"),
    ("skopeo", "skopeo"),
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("openssl", "openssl"),
    ("crun", "crun"),
    ("debootstrap", "debootstrap"),
    ("busybox", "busybox-static"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("curl", "curl"),
    ("git", "git"),
    ("ssh-add", "openssh-client"),
    ("zstd", "zstd"),
    ("nsenter", "util-linux"),
    ("script", "bsdutils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("python3", "python3"),
    ("docker-compose", "docker-compose"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("cc", "gcc"),
    ("objcopy", "binutils"),
];

/// Packages without a program of their own name to look for.
const PACKAGES: &[&str] = &["python3-venv", "ca-certificates", "libc6-dev"];

/// What the tests import, from `PyPI`.
const PYTHON_PACKAGES: &[&str] = &[
    "pytest",
    "pytest-xdist",
    "docker",
    "aiodocker",
    "testcontainers",
    "spdx-tools",
    "websocket-client",
    "h2",
    "pyyaml",
];

/// Docker's own description of its API is in Debian's package of its source, of which nothing else is wanted.
const DESCRIPTION_PACKAGE: &str = "golang-github-docker-docker-dev";
const DESCRIPTION: &str = "usr/share/gocode/src/github.com/docker/docker/api/swagger.yaml";

/// What the tests of clients for Node.js require, from npm.
const NODE_PACKAGES: &[&str] = &["dockerode@4"];

/// What the guide's Python application is installed from, for the Python of the tests' Debian image.
const WHEELS: &[&str] = &["django==5.2.*", "pip"];

pub fn install() -> Result<(), String> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_on_path(program))
        .map(|(_, package)| *package)
        .collect();
    missing.extend(PACKAGES.iter().filter(|package| !is_package_installed(package)));
    if !missing.is_empty() {
        println!("installing {}", missing.join(" "));
        install_packages(&missing)?;
    }
    install_description()?;
    install_python()?;
    install_wheels()?;
    install_node()
}

/// Puts it at `target/swagger/swagger.yaml`.
fn install_description() -> Result<(), String> {
    let folder = run::root().join("target/swagger");
    let wanted = folder.join("swagger.yaml");
    if wanted.exists() {
        return Ok(());
    }
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let unpacked = folder.join("unpacked");
    std::fs::create_dir_all(&unpacked).map_err(told)?;
    download(DESCRIPTION_PACKAGE, &folder)?;
    let entries = std::fs::read_dir(&folder).map_err(told)?;
    let package = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| format!("{}: no package came", folder.display()))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&package).arg(&unpacked);
    run::complete(unpack)?;
    std::fs::rename(unpacked.join(DESCRIPTION), &wanted).map_err(told)?;
    std::fs::remove_dir_all(&unpacked).map_err(told)?;
    std::fs::remove_file(&package).map_err(told)
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| std::path::Path::new(folder).join(program).exists())
}

fn is_package_installed(package: &str) -> bool {
    Command::new("dpkg")
        .args(["-s", package])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn install_packages(packages: &[&str]) -> Result<(), String> {
    run::complete(apt_get(&["update"]))?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    run::complete(apt_get(&arguments))
}

/// Where the machine has no lists of packages, which images of containers leave out, they are fetched first.
fn download(package: &str, folder: &Path) -> Result<(), String> {
    let download = || {
        let mut download = apt_get(&["download", package]);
        download.current_dir(folder);
        download
    };
    let mut first = download();
    first.stderr(Stdio::null());
    run::complete(first).or_else(|_| {
        run::complete(apt_get(&["update"]))?;
        run::complete(download())
    })
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // RUNLEVEL keeps maintainer scripts from starting the daemons they install.
    command
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn install_python() -> Result<(), String> {
    let environment = run::root().join("target/venv");
    let marker = environment.join("complete");
    let wanted = PYTHON_PACKAGES.join("\n");
    if is_marked(&marker, &wanted) {
        return Ok(());
    }
    let mut create = Command::new("/usr/bin/python3");
    create.args(["-m", "venv", "--clear"]).arg(&environment);
    run::complete(create)?;
    let mut install = Command::new(environment.join("bin/pip"));
    install
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(PYTHON_PACKAGES);
    run::complete(install)?;
    mark(&marker, &wanted)
}

fn install_wheels() -> Result<(), String> {
    let folder = run::root().join("target/wheels");
    let marker = folder.join("complete");
    let wanted = WHEELS.join("\n");
    if is_marked(&marker, &wanted) {
        return Ok(());
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut download = Command::new(run::root().join("target/venv/bin/pip"));
    download
        .args([
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--python-version",
            "3.11",
        ])
        .args(["--only-binary=:all:", "--dest"])
        .arg(&folder)
        .args(WHEELS);
    run::complete(download)?;
    mark(&marker, &wanted)
}

fn install_node() -> Result<(), String> {
    let folder = run::root().join("target/node");
    let marker = folder.join("complete");
    let wanted = NODE_PACKAGES.join("\n");
    if is_marked(&marker, &wanted) {
        return Ok(());
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut install = Command::new("npm");
    install
        .args([
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
        ])
        .arg(&folder)
        .args(NODE_PACKAGES);
    run::complete(install)?;
    mark(&marker, &wanted)
}

/// Whether exactly this was installed here, to its end.
fn is_marked(marker: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(marker).is_ok_and(|found| found == wanted)
}

fn mark(marker: &Path, wanted: &str) -> Result<(), String> {
    std::fs::write(marker, wanted).map_err(|error| format!("{}: {error}", marker.display()))
}
