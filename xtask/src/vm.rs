//! Runs tests on a kernel with cgroup v2 only, in an emulated machine: nearly every user's host has that, and the
//! machine that develops Naru may not.
//!
//! ```text
//!  target/vm/  linux-image-….deb        Debian's cloud kernel, by apt-get download
//!              kernel/                  the package, unpacked
//!              root/                    what becomes the initramfs: busybox, modules, libraries, /init, /test
//!              initramfs                root/ as a cpio archive
//! ```
//!
//! The machine has no disk and no network card. Its /init mounts what a systemd host would, runs /test/run and prints
//! its exit code in a marker line; that code is this command's. `cargo xtask vm crate` runs the tests of the cgroup
//! crate alone, `cargo xtask vm --naru PROGRAM` everything with a program that is built already.

use crate::run::{self, complete, read_output};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// TCG is some twenty times slower than the host; the whole subset takes well under a minute there.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Printed by /init before the exit code.
const MARKER: &str = "naru-vm-exit-code:";

/// What Naru needs of the kernel that Debian builds as modules; what they depend on comes with them.
const MODULES: [&str; 21] = [
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_reject_inet",
    "nft_compat",
    "nf_nat",
    "nf_conntrack",
    "xt_MASQUERADE",
    "tun",
    "dummy",
    "loop",
];

/// Programs for the init script and the tests.
const APPLETS: &str = "sh switch_root mount umount mkdir rmdir rm mv cp ln ls cat head tail grep sed awk sleep echo printf test [ \
    true false kill ps wc cut tr sort env mknod chmod insmod lsmod ip ifconfig poweroff reboot seq dd id hostname \
    readlink touch find uname date wget nc dmesg expr sync timeout tar stat tee md5sum mktemp dirname basename \
    truncate mke2fs";

pub fn run(arguments: &[String]) -> Result<(), String> {
    let work = run::root().join("target/vm");
    make_directory(&work)?;
    let kernel = unpack_kernel(&work)?;
    let root = work.join("root");
    remove_tree(&root)?;
    build_root(&root, &kernel)?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => add_naru(&root, &run::target().join("release/naru"))?,
        ["--naru", program] => add_naru(&root, Path::new(program))?,
        ["crate"] => add_crate_tests(&root)?,
        other => return Err(format!("vm: {other:?}: wanted nothing, crate, or --naru PROGRAM")),
    }
    let initramfs = pack(&root, &work)?;
    match boot(&kernel.image, &initramfs)? {
        0 => Ok(()),
        code => Err(format!("vm: the tests ended with {code}")),
    }
}

struct Kernel {
    image: PathBuf,
    /// `lib/modules/<release>` inside the unpacked package.
    modules: PathBuf,
}

/// Downloads the kernel that Debian's `linux-image-cloud-amd64` stands for, once.
fn unpack_kernel(work: &Path) -> Result<Kernel, String> {
    let folder = work.join("kernel");
    if !folder.join("boot").exists() {
        let package = find_package().or_else(|_| {
            complete(command("apt-get", &["update", "-q"]))?;
            find_package()
        })?;
        println!("vm: downloading {package}");
        let mut download = command("apt-get", &["download", "-q", &package]);
        download.current_dir(work);
        complete(download)?;
        let archive = entries(work)?
            .into_iter()
            .find(|path| path.extension().is_some_and(|suffix| suffix == "deb"))
            .ok_or("vm: apt-get downloaded no kernel")?;
        let partial = work.join("kernel.partial");
        remove_tree(&partial)?;
        let mut unpack = command("dpkg-deb", &["-x"]);
        unpack.arg(&archive).arg(&partial);
        complete(unpack)?;
        remove_tree(&folder)?;
        std::fs::rename(&partial, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        std::fs::remove_file(&archive).map_err(|error| format!("{}: {error}", archive.display()))?;
    }
    let image = find_in(&folder.join("boot"), "vmlinuz-")?;
    let release = file_name(&image).trim_start_matches("vmlinuz-").to_owned();
    let modules = [folder.join("lib/modules"), folder.join("usr/lib/modules")]
        .into_iter()
        .map(|parent| parent.join(&release))
        .find(|path| path.exists())
        .ok_or("vm: the kernel package has no modules")?;
    Ok(Kernel { image, modules })
}

/// The real package behind the name that is always there.
fn find_package() -> Result<String, String> {
    let output = read_output(command("apt-cache", &["depends", "linux-image-cloud-amd64"]))?;
    output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| "vm: apt knows no linux-image-cloud-amd64".to_owned())
}

/// Busybox, the modules in the order they load in, and /init.
fn build_root(root: &Path, kernel: &Kernel) -> Result<(), String> {
    for folder in [
        "bin",
        "dev",
        "etc",
        "lib/modules",
        "proc",
        "run",
        "sys",
        "test",
        "tmp",
        "var/lib",
        "root",
    ] {
        make_directory(&root.join(folder))?;
    }
    copy(&find_program("busybox")?, &root.join("bin/busybox"))?;
    for applet in APPLETS.split_whitespace() {
        let link = root.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link)
            .map_err(|error| format!("{}: {error}", link.display()))?;
    }
    for (name, text) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("group", "root:x:0:\n"),
    ] {
        write(&root.join("etc").join(name), text, false)?;
    }
    let mut order = String::new();
    for (index, path) in modules_in_order(kernel)?.iter().enumerate() {
        let name = format!("{index:03}-{}", file_name(path));
        copy(path, &root.join("lib/modules").join(&name))?;
        order.extend(["insmod /lib/modules/", &name, "\n"]);
    }
    write(&root.join("lib/modules/load"), &order, true)?;
    write(&root.join("init"), &init_script(), true)
}

/// The wanted modules, each after those it depends on. The package has no `modules.dep` before it is installed, so
/// the modules themselves are asked.
fn modules_in_order(kernel: &Kernel) -> Result<Vec<PathBuf>, String> {
    let mut files = BTreeMap::new();
    collect_modules(&kernel.modules, &mut files)?;
    let mut order = Vec::new();
    for module in MODULES {
        // One that is not there is built in; if it is missing altogether the tests will tell.
        add_module(module, &files, &mut order)?;
    }
    Ok(order)
}

fn collect_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), String> {
    for path in entries(folder)? {
        if path.is_dir() && !path.is_symlink() {
            collect_modules(&path, files)?;
        } else if let Some(name) = file_name(&path).strip_suffix(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add_module(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<(), String> {
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if order.contains(path) {
        return Ok(());
    }
    for dependency in dependencies(path)? {
        add_module(&dependency, files, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The word `depends=a,b` among a module's zero-terminated `.modinfo` strings.
fn dependencies(module: &Path) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(module).map_err(|error| format!("{}: {error}", module.display()))?;
    let key = b"\0depends=";
    let Some(at) = bytes.windows(key.len()).position(|window| window == key) else {
        return Ok(Vec::new());
    };
    let value = bytes[at + key.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let names = String::from_utf8_lossy(value).replace('-', "_");
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// The first root of a kernel cannot be pivoted away from, and no real host runs on it: so it moves to a tmpfs first.
fn init_script() -> String {
    format!(
        "#!/bin/sh\n\
         export PATH=/bin HOME=/root\n\
         if [ -z \"$1\" ]; then\n\
             mkdir /new\n\
             mount -t tmpfs -o size=600m root /new\n\
             cp -a /bin /dev /etc /init /lib* /proc /root /run /sys /test /tmp /usr /var /new/ 2>/dev/null\n\
             exec switch_root /new /init second\n\
         fi\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs dev /dev\n\
         mkdir -p /dev/pts /dev/shm\n\
         mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts\n\
         mount -t tmpfs shm /dev/shm\n\
         mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup\n\
         for folder in /run /tmp /var/lib; do mount -t tmpfs tmpfs $folder; done\n\
         . /lib/modules/load\n\
         ip link set lo up\n\
         echo \"vm: Linux $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)\"\n\
         cd /root\n\
         /test/run\n\
         echo \"{MARKER} $?\"\n\
         sync\n\
         poweroff -f\n"
    )
}

/// The cgroup crate's own tests, as cargo built them.
fn add_crate_tests(root: &Path) -> Result<(), String> {
    let output = read_output(run::cargo(&[
        "test",
        "-p",
        "naru-cgroup",
        "--test",
        "host",
        "--no-run",
        "--message-format=json",
    ]))?;
    let program = output
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or("vm: cargo built no test program")?;
    add_program(root, &program, "test/cgroup")?;
    write(
        &root.join("test/run"),
        "#!/bin/sh\nexec /test/cgroup --test-threads=1\n",
        true,
    )
}

/// Naru, an image to run, and the script of the subset; the crate's tests come first.
fn add_naru(root: &Path, program: &Path) -> Result<(), String> {
    add_crate_tests(root)?;
    add_program(root, program, "bin/naru")?;
    add_image(root)?;
    copy(&run::root().join("tests/vm/run.sh"), &root.join("test/subset"))?;
    let both = "#!/bin/sh\n/test/cgroup --test-threads=1\ncrate=$?\n/test/subset\nsubset=$?\n\
                [ $crate = 0 ] && exit $subset\nexit $crate\n";
    write(&root.join("test/run"), both, true)
}

/// Busybox alone as an image in docker-archive form.
fn add_image(root: &Path) -> Result<(), String> {
    let work = run::root().join("target/vm/image");
    remove_tree(&work)?;
    for folder in ["rootfs/bin", "rootfs/tmp", "rootfs/etc"] {
        make_directory(&work.join(folder))?;
    }
    copy(&find_program("busybox")?, &work.join("rootfs/bin/busybox"))?;
    for applet in APPLETS.split_whitespace() {
        let link = work.join("rootfs/bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link)
            .map_err(|error| format!("{}: {error}", link.display()))?;
    }
    write(
        &work.join("rootfs/etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\n",
        false,
    )?;
    let tar = |folder: &Path, archive: &Path, names: &[&str]| {
        let mut tar = command("tar", &["--owner=0", "--group=0", "--numeric-owner", "-cf"]);
        tar.arg(archive).arg("-C").arg(folder).args(names);
        complete(tar)
    };
    tar(&work.join("rootfs"), &work.join("layer.tar"), &["."])?;
    let sum = read_output({
        let mut sum = command("sha256sum", &[]);
        sum.arg(work.join("layer.tar"));
        sum
    })?;
    let layer = sum.split_whitespace().next().unwrap_or_default();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created_by": "busybox" }],
    });
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"] }
    ]);
    write(&work.join("config.json"), &config.to_string(), false)?;
    write(&work.join("manifest.json"), &manifest.to_string(), false)?;
    tar(
        &work,
        &root.join("test/image.tar"),
        &["manifest.json", "config.json", "layer.tar"],
    )
}

/// A program with the libraries that the dynamic linker would load for it, each at its own path.
fn add_program(root: &Path, program: &Path, place: &str) -> Result<(), String> {
    copy(program, &root.join(place))?;
    let mut ldd = command("ldd", &[]);
    ldd.arg(program);
    for word in read_output(ldd)?
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let target = root.join(word.trim_start_matches('/'));
        if let Some(folder) = target.parent() {
            make_directory(folder)?;
        }
        copy(Path::new(word), &target)?;
    }
    Ok(())
}

/// Writes the tree as a cpio archive in the kernel's form (Documentation/driver-api/early-userspace/buffer-format.rst).
fn pack(root: &Path, work: &Path) -> Result<PathBuf, String> {
    let path = work.join("initramfs");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut archive = BufWriter::new(File::create(&path).map_err(failed)?);
    let mut number = 1;
    pack_folder(root, "", &mut archive, &mut number)?;
    write_entry(&mut archive, number, "TRAILER!!!", 0, &[]).map_err(failed)?;
    archive.flush().map_err(failed)?;
    Ok(path)
}

fn pack_folder(
    folder: &Path,
    prefix: &str,
    archive: &mut impl Write,
    number: &mut u32,
) -> Result<(), String> {
    for path in entries(folder)? {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let name = format!("{prefix}{}", file_name(&path));
        let metadata = path.symlink_metadata().map_err(failed)?;
        let content = if metadata.is_symlink() {
            std::fs::read_link(&path)
                .map_err(failed)?
                .into_os_string()
                .into_encoded_bytes()
        } else if metadata.is_file() {
            std::fs::read(&path).map_err(failed)?
        } else {
            Vec::new()
        };
        write_entry(archive, *number, &name, metadata.mode(), &content).map_err(failed)?;
        *number += 1;
        if metadata.is_dir() {
            pack_folder(&path, &format!("{name}/"), archive, number)?;
        }
    }
    Ok(())
}

/// A header of thirteen numbers in eight hexadecimal digits each, the name, the content, each padded to four bytes.
fn write_entry(
    archive: &mut impl Write,
    number: u32,
    name: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let fields = [
        number,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    let padding = |bytes: usize| &[0; 3][..bytes.next_multiple_of(4) - bytes];
    let mut head = b"070701".to_vec();
    for field in fields {
        write!(head, "{field:08x}")?;
    }
    write!(head, "{name}\0")?;
    archive.write_all(&head)?;
    archive.write_all(padding(head.len()))?;
    archive.write_all(content)?;
    archive.write_all(padding(content.len()))
}

/// Runs the machine, showing its console, until it powers off; the code after the marker.
fn boot(image: &Path, initramfs: &Path) -> Result<i32, String> {
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1024",
        ])
        .args([
            "-nographic",
            "-no-reboot",
            "-nodefaults",
            "-serial",
            "stdio",
            "-net",
            "none",
        ])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = machine
        .spawn()
        .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
    let console = child.stdout.take().ok_or("vm: no console")?;
    let child = Arc::new(std::sync::Mutex::new(child));
    let (ended, timer) = mpsc::channel::<()>();
    let is_late = Arc::new(AtomicBool::new(false));
    let watch = {
        let (child, is_late) = (Arc::clone(&child), Arc::clone(&is_late));
        std::thread::spawn(move || {
            if timer.recv_timeout(TIME_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                is_late.store(true, Ordering::Relaxed);
                if let Ok(mut child) = child.lock() {
                    let _ = child.kill();
                }
            }
        })
    };
    let mut code = None;
    for line in BufReader::new(console).split(b'\n') {
        let bytes = line.map_err(|error| format!("vm: console: {error}"))?;
        let line = String::from_utf8_lossy(&bytes);
        let _ = writeln!(std::io::stdout(), "{}", line.trim_end());
        if let Some((_, number)) = line.split_once(MARKER) {
            code = number.trim().parse().ok();
        }
    }
    drop(ended);
    let _ = watch.join();
    if let Ok(mut child) = child.lock() {
        let _ = child.wait();
    }
    if is_late.load(Ordering::Relaxed) {
        return Err(format!("vm: not done after {TIME_MAX:?}"));
    }
    code.ok_or_else(|| "vm: the machine ended without a result".to_owned())
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn find_program(name: &str) -> Result<PathBuf, String> {
    ["/bin", "/usr/bin", "/sbin", "/usr/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| format!("vm: {name} is not installed"))
}

fn find_in(folder: &Path, prefix: &str) -> Result<PathBuf, String> {
    let found = entries(folder)?
        .into_iter()
        .find(|path| file_name(path).starts_with(prefix));
    found.ok_or_else(|| format!("vm: no {prefix}* in {}", folder.display()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn make_directory(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn remove_tree(path: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    std::fs::copy(from, to)
        .map(drop)
        .map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}

fn write(path: &Path, text: &str, is_program: bool) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::write(path, text).map_err(failed)?;
    let mode = if is_program { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(failed)
}
