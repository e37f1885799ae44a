"""An application of three containers, driven by Docker's own command line, while the daemon is killed again and again.

A Python web service, PostgreSQL and Redis, each from Debian packages, find each other by name on a network of their own.
Visitors inside the containers and outside, over the published port, look names up and ask the web service all the time;
every answered visit is a row in PostgreSQL and a count in Redis, both on named volumes.
`NARU_APPLICATION_KILLS` says how often the daemon is killed, `NARU_APPLICATION_SEED` at which moments.
"""

import json
import os
import random
import subprocess
import time

import pytest
from application_images import HERE, image_archive

CLIENT = next(path for path in ("/usr/local/bin/docker", "/usr/bin/docker") if os.path.exists(path))
KILLS = int(os.environ.get("NARU_APPLICATION_KILLS", "50"))
SEED = int(os.environ.get("NARU_APPLICATION_SEED", str(random.randrange(1 << 30))))
PORT = 18090
PASSWORD = "a secret of the test's"
OPTIONS = {
    "db": ["-e", "PASSWORD=" + PASSWORD, "-v", "rows:/var/lib/postgresql/data"],
    "cache": ["-v", "counts:/var/lib/redis/data"],
    "web": ["-e", "PASSWORD=" + PASSWORD, "-p", f"127.0.0.1:{PORT}:8000"],
}


class Application:
    def __init__(self, engine, folder):
        self.engine = engine
        self.folder = folder
        self.outside = None

    def docker(self, *arguments):
        result = self.engine.client(*arguments, program=CLIENT)
        assert result.returncode == 0, f"docker {' '.join(arguments)}: {result.stderr}\n{self.engine.log_tail()}"
        return result.stdout.strip()

    def start(self):
        self.docker("network", "create", "application")
        for name in OPTIONS:
            self.run(name)
        self.wait_until_served()

    def run(self, name):
        options = ["--name", name, "--network", "application", "-v", f"{self.folder}:/visits", *OPTIONS[name]]
        self.docker("run", "-d", *options, name + ":test")

    def ask(self, path):
        """Asks the web service over the published port; `None` when there was no good answer."""
        result = self.engine.scope.run("curl", "-sf", "-m", "20", f"http://127.0.0.1:{PORT}{path}")
        return json.loads(result.stdout) if result.returncode == 0 else None

    def wait_until_served(self):
        deadline = time.monotonic() + 60
        while not self.ask("/totals"):
            assert time.monotonic() < deadline, "\n".join(self.docker("logs", "-n", "20", name) for name in OPTIONS)
            time.sleep(0.05)

    def start_visitors(self):
        for name in OPTIONS:
            others = [other for other in OPTIONS if other != name]
            self.docker("exec", "-d", name, "visitor", "/visits", name, *others, f"{others[0]}.application")
        command = ["bash", HERE + "/programs/outside.sh", self.folder, f"http://127.0.0.1:{PORT}"]
        self.outside = subprocess.Popen(self.engine.scope.command(*command))

    def stop_visitors(self):
        """Returns look-ups and answered visits of each visitor, and every line that tells of a failure."""
        with open(self.folder + "/stop", "w"):
            pass
        deadline = time.monotonic() + 40
        visitors = {*OPTIONS, "outside"}
        while not all(os.path.exists(f"{self.folder}/{name}.done") for name in visitors):
            assert time.monotonic() < deadline, f"a visitor never ended: {os.listdir(self.folder)}"
            time.sleep(0.05)
        self.outside.wait(10)
        done = {name: self.progress(name) for name in visitors}
        return done, self.failures()

    def progress(self, name):
        for ending in ("done", "now"):
            try:
                with open(f"{self.folder}/{name}.{ending}") as file:
                    return tuple(map(int, file.read().split()))
            except OSError:
                continue
        return None

    def failures(self):
        found = []
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".failed"):
                with open(os.path.join(self.folder, name)) as file:
                    found += [f"{name}: {line.strip()}" for line in file]
        return found

    def facts(self):
        """What must stay as it is while nobody changes it: each container's state, process, start and addresses."""
        form = "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}} {{json .NetworkSettings.Ports}} {{json .NetworkSettings.Networks}}"
        return {name: self.docker("inspect", "-f", form, name) for name in OPTIONS}

    def close(self):
        if self.outside and self.outside.poll() is None:
            self.outside.kill()
            self.outside.wait()
        names = self.engine.client("ps", "-aq", program=CLIENT).stdout.split()
        if names:
            self.docker("rm", "-f", *names)
        self.docker("network", "rm", "application")
        self.docker("volume", "rm", "rows", "counts")


@pytest.fixture
def application(fresh_naru, tmp_path):
    fresh_naru.client("load", "-qi", image_archive(), program=CLIENT, timeout=300)
    # The containers' users are not root, and each of them writes here.
    for folder in [tmp_path, *list(tmp_path.parents)[:2]]:
        folder.chmod(0o755)
    visits = tmp_path / "visits"
    visits.mkdir()
    visits.chmod(0o777)
    running = Application(fresh_naru, str(visits))
    running.start()
    yield running
    running.close()


@pytest.mark.seconds(120 + 4 * KILLS)
def test_nothing_fails_while_the_daemon_is_killed(application):
    print("seed", SEED)
    choose = random.Random(SEED)
    before = application.facts()
    application.start_visitors()
    slowest = 0.0
    for _ in range(KILLS):
        time.sleep(choose.uniform(0, 0.4))
        application.engine.kill9()
        time.sleep(choose.choice([0, 0, choose.uniform(0, 0.5)]))
        slowest = max(slowest, application.engine.start())
        assert application.facts() == before
        assert application.failures() == []
    done, failures = application.stop_visitors()
    print(f"{KILLS} kills, slowest start {slowest * 1000:.0f} ms; look-ups and visits: {done}")
    assert failures == []
    assert all(look_ups + visits > KILLS for look_ups, visits in done.values()), done
    totals = application.ask("/totals")
    # An answer is a promise: each one is a row and a count, and there are no others.
    assert totals["visitors"] == {name: visits for name, (_, visits) in done.items()}
    assert totals["count"] == totals["rows"]


@pytest.mark.seconds(180)
def test_data_outlive_their_containers(application):
    for number in range(3):
        assert application.ask(f"/visit?by=test{number}") == {"row": number + 1, "count": number + 1}
    before = application.ask("/totals")
    for name in OPTIONS:
        application.docker("rm", "-f", name)
        # Another container may take the address meanwhile: the name is what counts.
        application.docker("run", "-d", "--network", "application", "cache:test")
        application.run(name)
        application.wait_until_served()
        assert application.ask("/totals") == before, f"after {name} was made again"
    # What a crash leaves is one more thing the files must bear, and all three at once.
    application.docker("rm", "-f", *OPTIONS)
    application.engine.kill9()
    application.engine.start()
    for name in OPTIONS:
        application.run(name)
    application.wait_until_served()
    assert application.ask("/totals") == before
    assert application.ask("/visit?by=last")["count"] == before["count"] + 1
