//! A busybox image, cgroups of its own, and a container started and waited for.

use naru_runtime::plan::{
    ContainerPlan, EncodedPlan, ExecPlace, ExecPlan, RootfsPlan, SeccompPlan, StartFailure, StemPlan,
    UserNamespacePlan,
};
use naru_runtime::{ChildStdio, Init, Stem};
use oci_spec::runtime::Spec;
use rustix::process::{Pid, Signal, WaitOptions};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Removed with everything in it at the end of a test.
pub struct Sandbox {
    directory: tempfile::TempDir,
    cgroup: String,
}

impl Sandbox {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("naru-runtime-")
            .tempdir_in("/tmp")
            .unwrap();
        let root = directory.path().join("lower");
        for name in ["bin", "etc", "tmp", "root", "work"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["upper", "workdir"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in [
            "sh", "true", "false", "cat", "id", "ls", "stat", "sleep", "hostname", "tty", "stty", "mount",
            "grep", "cut", "mkdir", "chown", "ip", "uname", "ionice",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            root.join("etc/group"),
            "root:x:0:\nannies:x:1001:\naudio:x:29:ann\n",
        )
        .unwrap();
        let name = directory.path().file_name().unwrap().to_str().unwrap();
        let cgroup = format!("/{name}");
        for hierarchy in hierarchies() {
            fs::create_dir(hierarchy.join(name)).unwrap();
            // A new cpuset has no processors and takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read_to_string(hierarchy.join(file)) {
                    let _ = fs::write(hierarchy.join(name).join(file), all);
                }
            }
        }
        Self { directory, cgroup }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The image's root directory, to be changed before a start.
    pub fn image(&self) -> PathBuf {
        self.path().join("lower")
    }

    pub fn stem(&self) -> Result<Stem, StartFailure> {
        self.stem_in(None)
    }

    pub fn stem_in(&self, user: Option<UserNamespacePlan>) -> Result<Stem, StartFailure> {
        Stem::prepare(&StemPlan {
            cgroup: self.cgroup.clone(),
            user,
            ..StemPlan::default()
        })
    }

    pub fn plan(&self, arguments: &[&str]) -> Plan {
        Plan {
            spec: default_spec(arguments),
            rootfs: RootfsPlan::Overlay {
                lower: vec![self.image()],
                upper: self.path().join("upper"),
                work: self.path().join("workdir"),
            },
            user: String::new(),
            groups: Vec::new(),
            seccomp: SeccompPlan::Default,
            with_init: false,
            user_namespace: None,
        }
    }

    pub fn shell(&self, script: &str) -> Plan {
        self.plan(&["sh", "-c", script])
    }

    pub fn exec_plan(&self, arguments: &[&str]) -> ExecPlan {
        let process = default_spec(arguments)["process"].take();
        ExecPlan {
            container: "test".to_owned(),
            process: serde_json::from_value(process).unwrap(),
            user: String::new(),
            additional_groups: Vec::new(),
            seccomp: SeccompPlan::Default,
            place: ExecPlace {
                cgroup: self.cgroup.clone(),
                mapped_root: None,
                has_time_namespace: false,
                has_process_limit: false,
            },
        }
    }

    pub fn start(&self, plan: &Plan) -> Result<Running, StartFailure> {
        let (stdio, output) = pipes();
        let (init, ()) = self
            .stem_in(plan.user_namespace.clone())?
            .start(&plan.build(), stdio, || Ok(()))?;
        Ok(Running { init, output })
    }

    /// Starts, waits, and returns exit code and output.
    pub fn run(&self, plan: &Plan) -> (i32, String) {
        self.start(plan)
            .unwrap_or_else(|failure| panic!("{failure:?}"))
            .finish()
    }

    pub fn fails(&self, plan: &Plan) -> StartFailure {
        match self.start(plan) {
            Ok(running) => panic!("started: {:?}", running.finish()),
            Err(failure) => failure,
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for hierarchy in hierarchies() {
            let path = hierarchy.join(self.cgroup.trim_start_matches('/'));
            for _ in 0..100 {
                if fs::remove_dir(&path).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(!path.exists(), "{} is still in use", path.display());
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.contains(" - cgroup")) {
        found.push(PathBuf::from(line.split(' ').nth(4).unwrap()));
    }
    found
}

pub struct Plan {
    pub spec: Value,
    pub rootfs: RootfsPlan,
    pub user: String,
    pub groups: Vec<String>,
    pub seccomp: SeccompPlan,
    pub with_init: bool,
    pub user_namespace: Option<UserNamespacePlan>,
}

impl Plan {
    pub fn build(&self) -> EncodedPlan {
        EncodedPlan::encode(&ContainerPlan {
            container: "test".to_owned(),
            spec: serde_json::from_value::<Spec>(self.spec.clone()).unwrap(),
            rootfs: self.rootfs.clone(),
            user: self.user.clone(),
            additional_groups: self.groups.clone(),
            with_init: self.with_init,
            seccomp: self.seccomp.clone(),
        })
        .unwrap()
    }

    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// One more namespace, as the specification has it.
    pub fn namespace(mut self, namespace: Value) -> Self {
        let namespaces = self.spec.pointer_mut("/linux/namespaces").unwrap();
        namespaces.as_array_mut().unwrap().push(namespace);
        self
    }

    pub fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap()[name] = value;
        self
    }
}

pub struct Running {
    pub init: Init,
    output: OwnedFd,
}

impl Running {
    pub fn finish(self) -> (i32, String) {
        let mut text = String::new();
        fs::File::from(self.output).read_to_string(&mut text).unwrap();
        (wait(self.init.pid), text)
    }

    /// What it writes up to a line that says `end`.
    pub fn read_to_end_mark(&self) -> String {
        let mut text = String::new();
        while !text.ends_with("end\n") {
            let mut part = [0; 1024];
            let length = rustix::io::read(&self.output, &mut part).unwrap();
            assert!(length > 0, "{text}");
            text.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        text
    }

    pub fn kill(self) -> i32 {
        rustix::process::pidfd_send_signal(&self.init.pidfd, Signal::KILL).unwrap();
        wait(self.init.pid)
    }
}

pub fn wait(pid: i32) -> i32 {
    let (_, status) = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())
        .unwrap()
        .unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

/// Input from /dev/null; output and errors into one pipe.
pub fn pipes() -> (ChildStdio, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stdin = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let stderr = write.as_fd().try_clone_to_owned().unwrap();
    (
        ChildStdio::Pipes {
            stdin,
            stdout: write,
            stderr,
        },
        read,
    )
}

/// As the engine builds it: Docker's standard mounts, capabilities and paths.
fn default_spec(arguments: &[&str]) -> Value {
    let capabilities = naru_runtime::default_capabilities();
    let standard = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "testhost",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": standard},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": standard},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"},
                           {"type": "cgroup"}],
            "maskedPaths": naru_runtime::default_masked_paths(),
            "readonlyPaths": naru_runtime::default_readonly_paths(),
        },
    })
}

/// Starts a process beside a container's first.
pub fn start_exec(beside: &Init, plan: &ExecPlan, stdio: ChildStdio) -> Result<Init, StartFailure> {
    naru_runtime::ExecStem::prepare(beside.pidfd.as_fd(), beside.pid, &plan.place)?.start(plan, stdio)
}
