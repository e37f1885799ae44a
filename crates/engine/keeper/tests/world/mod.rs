//! What the tests run in: a spawner of their own, a folder, a cgroup, and the daemon's side of the protocol.

use naru_base::{ContainerId, ExecId};
use naru_cgroup::Cgroup;
use naru_keeper::cause::SignalReason;
use naru_keeper::codec::{receive_message, send_message};
use naru_keeper::protocol::{
    AttachOptions, Event, ExecRequest, ExitRecord, FromKeeper, KeeperPlan, LogPlan, Reply, Request,
    SpawnKeeper, StdioPlan, Target,
};
use naru_logs::{Batch, Format, LogReader, ReadOptions, Rotation, Stream};
use naru_runtime::plan::{
    ContainerPlan, EncodedPlan, ExecPlace, ExecPlan, RootfsPlan, SeccompPlan, StemPlan,
};
use naru_sys::seqpacket::SeqPacket;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static ORDINAL: AtomicU32 = AtomicU32::new(0);

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn is_possible() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists()
}

/// The spawner's side of `World::new`: the socket is standard input.
pub fn become_spawner() -> ! {
    let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).unwrap();
    naru_keeper::run_spawner(socket)
}

/// One spawner and the folder of its containers. Dropping it ends and removes all.
pub struct World {
    folder: PathBuf,
    cgroup: String,
    socket: SeqPacket,
    spawner: Mutex<Child>,
}

impl World {
    pub fn new() -> Self {
        let name = format!(
            "naru-keeper-{}-{}",
            std::process::id(),
            ORDINAL.fetch_add(1, Ordering::Relaxed)
        );
        let folder = std::env::temp_dir().join(&name);
        make_rootfs(&folder.join("rootfs"));
        let (socket, theirs) = SeqPacket::pair().unwrap();
        let spawner = Command::new("/proc/self/exe")
            .arg("--spawner")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Self {
            folder,
            cgroup: format!("/{name}"),
            socket,
            spawner: Mutex::new(spawner),
        }
    }

    pub fn kill_spawner(&self) {
        let mut spawner = self.spawner.lock().unwrap();
        spawner.kill().unwrap();
        spawner.wait().unwrap();
    }

    /// Processes whose parent is the spawner.
    pub fn keepers(&self) -> Vec<i32> {
        let pid = self.spawner.lock().unwrap().id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        text.split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// A keeper with a parked stem.
    pub fn prepare(&self) -> Container {
        let id = ContainerId::generate();
        let folder = self.folder.join(id.short());
        std::fs::create_dir(&folder).unwrap();
        let cgroup = Cgroup::create(&format!("{}/{}", self.cgroup, id.short())).unwrap();
        let (socket, theirs) = SeqPacket::pair().unwrap();
        send_message(
            &self.socket,
            &SpawnKeeper {
                container: id.clone(),
            },
            &[theirs.as_fd()],
        )
        .unwrap();
        drop(theirs);
        let mut container = Container {
            rootfs: self.folder.join("rootfs"),
            cgroup_path: format!("{}/{}", self.cgroup, id.short()),
            id,
            folder,
            cgroup,
            socket,
            pid: 0,
            clients: Vec::new(),
            events: VecDeque::new(),
        };
        let plan = StemPlan {
            cgroup: container.cgroup_path.clone(),
            ..StemPlan::default()
        };
        send_message(&container.socket, &Request::Prepare(plan), &[]).unwrap();
        let (reply, descriptors) = container.reply();
        assert!(matches!(reply, Reply::Prepared), "{reply:?}");
        assert_eq!(descriptors.len(), 2, "the network namespace and a route socket");
        container
    }

    pub fn start(&self, args: &[&str], options: &Options) -> Container {
        let mut container = self.prepare();
        let reply = container.try_start(args, options);
        let Reply::Started { pid, start_time } = reply else {
            panic!("{reply:?}")
        };
        assert!(start_time > 0);
        container.pid = pid;
        container
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mut spawner = self.spawner.lock().unwrap();
        let _ = spawner.kill();
        let _ = spawner.wait();
        if let Ok(cgroup) = Cgroup::open(&self.cgroup) {
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// How a container is started.
#[derive(Default)]
pub struct Options {
    pub attached: Vec<AttachOptions>,
    pub terminal: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
}

/// The daemon's side of one container.
pub struct Container {
    pub id: ContainerId,
    pub folder: PathBuf,
    pub cgroup: Cgroup,
    pub socket: SeqPacket,
    pub pid: i32,
    /// Our ends of the sockets attached at start.
    pub clients: Vec<UnixStream>,
    rootfs: PathBuf,
    cgroup_path: String,
    events: VecDeque<Event>,
}

impl Container {
    pub fn try_start(&mut self, args: &[&str], options: &Options) -> Reply {
        let plan = KeeperPlan {
            container: self.id.clone(),
            runtime: EncodedPlan::encode(&ContainerPlan {
                container: "test".to_owned(),
                spec: spec(args, options.terminal),
                rootfs: RootfsPlan::Directory {
                    path: self.rootfs.clone(),
                },
                user: String::new(),
                additional_groups: Vec::new(),
                with_init: false,
                seccomp: SeccompPlan::Unconfined,
            })
            .unwrap(),
            cgroup: self.cgroup_path.clone(),
            tight_pids: None,
            stdio: StdioPlan {
                terminal: options.terminal,
                open_stdin: options.open_stdin,
                stdin_once: options.stdin_once,
            },
            log: LogPlan::File {
                path: self.folder.join("log"),
                format: Format::JsonFile,
                rotation: Rotation {
                    bytes_max: None,
                    files_max: 1,
                    compress: false,
                },
            },
            exit_record: self.folder.join("exit.json"),
            socket: self.folder.join("keeper.sock"),
            attached: options.attached.clone(),
        };
        let (ours, theirs): (Vec<_>, Vec<_>) = options
            .attached
            .iter()
            .map(|_| UnixStream::pair().unwrap())
            .unzip();
        self.clients = ours;
        let descriptors: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        send_message(&self.socket, &Request::Start(Box::new(plan)), &descriptors).unwrap();
        self.reply().0
    }

    pub fn ask(&mut self, request: &Request) -> Reply {
        send_message(&self.socket, request, &[]).unwrap();
        self.reply().0
    }

    pub fn kill(&mut self) {
        let reply = self.ask(&Request::Signal {
            target: Target::Init,
            signal: 9,
            reason: SignalReason::default(),
        });
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    pub fn attach(&mut self, options: AttachOptions) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_message(&self.socket, &Request::Attach(options), &[theirs.as_fd()]).unwrap();
        assert!(matches!(self.reply().0, Reply::Done));
        ours
    }

    pub fn exec(&mut self, args: &[&str], options: AttachOptions) -> (ExecId, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let exec = ExecId::generate();
        let plan = ExecPlan {
            container: "test".to_owned(),
            process: spec(args, false).process().clone().unwrap(),
            user: String::new(),
            additional_groups: Vec::new(),
            seccomp: SeccompPlan::Unconfined,
            place: ExecPlace {
                cgroup: self.cgroup_path.clone(),
                mapped_root: None,
                has_time_namespace: false,
                has_process_limit: false,
            },
        };
        let stdio = StdioPlan {
            terminal: false,
            open_stdin: options.stdin,
            stdin_once: true,
        };
        let request = ExecRequest {
            exec: exec.clone(),
            plan,
            stdio,
            attached: Some(options),
        };
        send_message(&self.socket, &Request::Exec(Box::new(request)), &[theirs.as_fd()]).unwrap();
        let reply = self.reply().0;
        assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
        (exec, ours)
    }

    /// As a daemon that was killed and replaced.
    pub fn reconnect(&mut self) {
        self.socket = SeqPacket::connect(&self.folder.join("keeper.sock")).unwrap();
    }

    /// The next event, skipping nothing.
    pub fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match self.receive() {
                Some((FromKeeper::Event(event), _)) => self.events.push_back(event),
                other => panic!("no event: {other:?}"),
            }
        }
    }

    /// Waits for the container's end and checks what a keeper leaves behind.
    pub fn wait(&mut self) -> ExitRecord {
        let told = loop {
            if let Event::Exited(record) = self.event() {
                break record;
            }
        };
        let text = std::fs::read(self.folder.join("exit.json")).unwrap();
        let written: ExitRecord = serde_json::from_slice(&text).unwrap();
        assert_eq!(told, written);
        assert!(self.receive().is_none(), "the keeper closes its connections");
        assert!(!self.folder.join("keeper.sock").exists());
        wait_until("the cgroup is empty", || {
            self.cgroup.process_ids().unwrap().is_empty()
        });
        told
    }

    /// All that was logged from one stream.
    pub fn logged(&self, stream: Stream) -> Vec<u8> {
        let options = ReadOptions {
            stdout: stream == Stream::Stdout,
            stderr: stream == Stream::Stderr,
            tail: None,
            since: None,
            until: None,
            follow: false,
        };
        let mut reader = LogReader::open(&self.folder.join("log"), Format::JsonFile, options).unwrap();
        let mut bytes = Vec::new();
        while let Batch::Entries(entries) = reader.next_batch().unwrap() {
            for entry in entries {
                bytes.extend_from_slice(&entry.bytes);
            }
        }
        bytes
    }

    fn reply(&mut self) -> (Reply, Vec<OwnedFd>) {
        loop {
            match self.receive() {
                Some((FromKeeper::Reply(reply), descriptors)) => return (reply, descriptors),
                Some((FromKeeper::Event(event), _)) => self.events.push_back(event),
                None => panic!("the keeper is gone"),
            }
        }
    }

    fn receive(&mut self) -> Option<(FromKeeper, Vec<OwnedFd>)> {
        let timeout = Timespec {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        assert_eq!(
            rustix::event::poll(&mut polled, Some(&timeout)).unwrap(),
            1,
            "the keeper says nothing"
        );
        receive_message(&self.socket).unwrap()
    }
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn read_until(client: &mut UnixStream, wanted: &str) -> String {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

/// Memory that only this process has: written since it was forked. The program's text is left out, because a freshly
/// linked file's pages count as private until they are on disk.
pub fn private_kib(pid: i32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut is_text = false;
    let mut total = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "Private_Dirty:" if !is_text => total += words[1].parse::<u64>().unwrap(),
            name if !name.ends_with(':') => is_text = words[1].contains('x'),
            _ => {}
        }
    }
    total
}

/// Takes Docker's frames apart.
pub fn demultiplex(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let out = if bytes[0] == 1 { &mut stdout } else { &mut stderr };
        out.extend_from_slice(&bytes[8..8 + length]);
        bytes = &bytes[8 + length..];
    }
    (stdout, stderr)
}

/// What `seq 1 last` prints.
pub fn seq_text(last: u32) -> Vec<u8> {
    let mut text = Vec::new();
    for number in 1..=last {
        text.extend_from_slice(number.to_string().as_bytes());
        text.push(b'\n');
    }
    text
}

fn make_rootfs(rootfs: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for name in ["sh", "true", "cat", "seq", "sleep", "echo", "stty", "kill"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
}

fn spec(args: &[&str], terminal: bool) -> oci_spec::runtime::Spec {
    let value = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
        },
        "root": { "path": "/", "readonly": false },
        "hostname": "keeper-test",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        ],
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            { "type": "cgroup" },
        ] },
    });
    serde_json::from_value(value).unwrap()
}
