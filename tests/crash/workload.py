"""A workload that goes on while processes of the engine are killed, and the promises it watches.

Three kinds of containers: *steady* ones that must never stop, *steady writers* that print numbered lines, and
short-lived ones that are created, started, given an exec, stopped and removed in a loop. A request may fail while
the daemon is down; what an answered request promised must hold.
"""

import random
import threading
import time

from testkit.api import Api, ApiError

UNAVAILABLE = (OSError, EOFError)
WRITER = "i=0; while :; do echo $i; i=$((i+1)); usleep 2000; done"


class Workload:
    def __init__(self, engine, seed, clients=2):
        self.engine = engine
        self.random = random.Random(seed)
        self.broken = []
        self.finished = 0
        self.refused = 0
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n, self.random.random())) for n in range(clients)]

    def start_steady(self):
        """Starts what must survive everything: two sleepers, a writer, and a published server."""
        api = Api(self.engine.socket)
        ports = {"80/tcp": [{"HostPort": "18080"}]}
        self.steady = {}
        for name, command, host in (
            ("steady-sleep", ["sleep", "100000"], {}),
            ("steady-none", ["sleep", "100000"], {"NetworkMode": "none", "Memory": 64 << 20}),
            ("steady-writer", ["sh", "-c", WRITER], {}),
            ("steady-server", ["sh", "-c", "echo served >/index; httpd -f -p 80 -h /"], {"PortBindings": ports}),
        ):
            api.create(command, name=name, host=host, ExposedPorts={"80/tcp": {}})
            api.start(name)
            self.steady[name] = api.inspect(name)["State"]["Pid"]
        api.close()

    def start(self):
        for thread in self.threads:
            thread.start()

    def finish(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            if thread.is_alive():
                self.broken.append("a request never came back")

    def run(self, number, seed):
        choose = random.Random(seed)
        count = 0
        while not self.stopping.is_set():
            count += 1
            try:
                self.live_one_life(f"short-{number}-{count}", choose)
                self.finished += 1
            except UNAVAILABLE:
                self.refused += 1
                time.sleep(0.01)
            except ApiError as error:
                # The engine said that it could not: allowed while its parts are being killed, if it says so.
                self.refused += 1
                self.note_error(error)

    def note_error(self, error):
        if error.status not in (404, 409, 500, 503):
            self.broken.append(f"unexpected answer: {error}")

    def live_one_life(self, name, choose):
        api = Api(self.engine.socket, timeout=30)
        try:
            code = choose.randrange(3, 100)
            kind = choose.choice(["exit", "stop", "kill", "exec"])
            command = ["sh", "-c", f"exit {code}"] if kind == "exit" else ["sleep", "1000"]
            api.create(command, name=name, host={"NetworkMode": choose.choice(["bridge", "none"])})
            api.start(name)
            expected = None
            if kind == "exit":
                expected = code
            elif kind == "exec":
                output, code = api.exec(name, ["sh", "-c", "echo hello; exit 7"])
                if (output, code) != (b"hello\n", 7) and code is not None:
                    self.broken.append(f"{name}: exec gave {output!r} and {code}")
            elif kind == "stop":
                api.call("POST", f"/containers/{name}/stop?t=0")
                expected = 137
            else:
                api.call("POST", f"/containers/{name}/kill?signal=KILL")
                expected = 137
            if expected is not None:
                found = api.wait(name)
                if found != expected:
                    self.broken.append(f"{name}: exit code {found} instead of {expected} ({kind})")
            api.remove(name)
        finally:
            api.close()

    def check_steady(self):
        """What must hold at every moment at which the daemon answers."""
        api = Api(self.engine.socket, timeout=30)
        for name, pid in self.steady.items():
            state = api.inspect(name)["State"]
            if not state["Running"] or state["Pid"] != pid:
                self.broken.append(f"{name} was {pid} and is now {state}")
        api.close()

    def check_port(self):
        """The published port answers whether or not there is a daemon."""
        result = self.engine.scope.run("curl", "-s", "-m", "5", "http://127.0.0.1:18080/index")
        if result.stdout != "served\n":
            self.broken.append(f"the published port answered {result.stdout!r} ({result.returncode})")

    def check_logs(self):
        """The writer's log holds every number from 0 in order."""
        api = Api(self.engine.socket, timeout=60)
        lines = api.logs("steady-writer").split()
        api.close()
        if not lines:
            self.broken.append("the writer's log is empty")
        for place, line in enumerate(lines):
            if int(line) != place:
                self.broken.append(f"line {place} of the writer's log is {line}")
                return

    def check_listing(self):
        """Every container the daemon lists can be inspected, and none is stuck between states."""
        api = Api(self.engine.socket, timeout=30)
        for entry in api.call("GET", "/containers/json?all=1"):
            try:
                status = api.inspect(entry["Id"])["State"]["Status"]
            except ApiError as error:
                self.broken.append(f"{entry['Names']} is listed but {error}")
                continue
            if status not in ("created", "running", "exited", "dead", "removing"):
                self.broken.append(f"{entry['Names']} is {status}")
        api.close()
