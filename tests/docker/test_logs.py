"""Logs: both drivers, bounded, rotated and compressed, followed by readers of every speed, with Docker's own client."""

import os
import re
import signal
import subprocess
import time

import pytest
from testkit.api import Api
from testkit.engine import NEWEST_DOCKER, parent

DOCKER = NEWEST_DOCKER
DRIVERS = ["json-file", "local"]
COUNT = 'i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; done'


@pytest.fixture
def engine(busybox_naru):
    yield busybox_naru
    busybox_naru.remove_all_containers()


def docker(engine, *words, code=0):
    result = engine.client(*words, program=DOCKER)
    assert result.returncode == code, result
    return result


def run(engine, name, driver, script, *options, detached=False):
    log = [word for option in options for word in ("--log-opt", option)]
    words = ["run", *(["-d"] if detached else []), "--name", name, "--network", "none", "--log-driver", driver, *log, "busybox:test", "sh", "-c", script]
    return docker(engine, *words)


def log_files(engine, name):
    container = docker(engine, "inspect", "-f", "{{.Id}}", name).stdout.strip()
    folder = f"{engine.data_root}/containers/{container}"
    return {file: os.path.getsize(f"{folder}/{file}") for file in os.listdir(folder) if ".log" in file}


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_was_written_is_read_in_every_way(engine, driver):
    run(engine, "plain", driver, "echo one; echo two >&2; sleep 1.1; printf 'three\\377 no end'")
    both = docker(engine, "logs", "plain")
    assert both.stdout.startswith("one\nthree") and both.stderr == "two\n"
    assert docker(engine, "logs", "--tail", "1", "plain").stdout.startswith("three")
    assert docker(engine, "logs", "--tail", "0", "plain").stdout == ""
    stamped = docker(engine, "logs", "-t", "plain").stdout.splitlines()
    assert [re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{18}Z .*", line) is not None for line in stamped] == [True, True]
    since = stamped[1].split()[0]
    assert docker(engine, "logs", "--since", since, "plain").stdout.startswith("three")
    assert docker(engine, "logs", "--until", stamped[0].split()[0], "plain").stdout == "one\n"
    assert docker(engine, "inspect", "-f", "{{.HostConfig.LogConfig.Type}}", "plain").stdout == driver + "\n"
    shown = docker(engine, "inspect", "-f", "{{.LogPath}}", "plain").stdout.strip()
    assert (shown == "") == (driver == "local"), "only json-file has a path that others may read"
    docker(engine, "start", "-a", "plain")
    assert docker(engine, "logs", "plain").stdout.count("one\n") == 2, "a second run goes on in the same log"


def test_local_keeps_bytes_that_are_no_text(engine):
    run(engine, "bytes", "local", "printf 'a\\377\\200b\\0c\\n'")
    result = subprocess.run(engine.scope.command(DOCKER, "-H", engine.host, "logs", "bytes"), capture_output=True)
    assert result.stdout == b"a\xff\x80b\0c\n"


@pytest.mark.parametrize("driver,compress", [("json-file", "false"), ("json-file", "true"), ("local", "false"), ("local", "true")])
def test_a_log_is_rotated_and_what_is_left_is_whole(engine, driver, compress):
    run(engine, "bounded", driver, COUNT % 40000, "max-size=100k", "max-file=4", f"compress={compress}")
    numbers = [int(line) for line in docker(engine, "logs", "bounded").stdout.split()]
    assert numbers == list(range(numbers[0], 40001)) and len(numbers) > 3000
    assert [int(line) for line in docker(engine, "logs", "--tail", "3000", "bounded").stdout.split()] == numbers[-3000:]
    files = log_files(engine, "bounded")
    assert len(files) == 4 and max(files.values()) <= (100 << 10) + (64 << 10), files
    packed = [file for file in files if file.endswith(".gz")]
    # The newest full one may have been under way when the container ended.
    assert len(packed) >= 2 if compress == "true" else not packed, files


@pytest.mark.seconds(180)
def test_a_log_is_bounded_without_being_asked(engine):
    """moby#40207: one log file filled the disk."""
    run(engine, "default", "json-file", "yes $(printf '%01000d' 0) | head -c 130000000")
    files = log_files(engine, "default")
    assert len(files) == 5 and sum(files.values()) < 101 << 20, files
    # The twin: who wants no bound says so.
    run(engine, "unbounded", "json-file", "yes $(printf '%01000d' 0) | head -c 30000000", "max-size=-1")
    assert [size > 30_000_000 for size in log_files(engine, "unbounded").values()] == [True]


@pytest.mark.parametrize("driver", DRIVERS)
def test_following_goes_on_across_rotations(engine, driver):
    run(engine, "followed", driver, "echo 0; until [ -e /go ]; do usleep 10000; done; " + COUNT % 30000, "max-size=200k", "max-file=5", detached=True)
    follower = subprocess.Popen(engine.scope.command(DOCKER, "-H", engine.host, "logs", "-f", "followed"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert follower.stdout.readline() == "0\n"
    docker(engine, "exec", "followed", "touch", "/go")
    output, errors = follower.communicate(timeout=120)
    numbers = [int(line) for line in output.split()]
    missed = re.findall(r"naru: (\d+) bytes of this log were rotated away", errors)
    assert numbers == list(range(1, 30001)) or missed, (len(numbers), errors)
    assert numbers == sorted(numbers) and numbers[-1] == 30000


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_reader_that_stands_still_holds_up_nothing_and_learns_what_it_missed(engine, driver):
    script = "echo 0; until [ -e /go ]; do usleep 10000; done; yes $(printf '%0500d' 0) | head -n 20000; echo last"
    run(engine, "slow", driver, script, "max-size=200k", "max-file=2", detached=True)
    stopped, dead = (
        subprocess.Popen(engine.scope.command(DOCKER, "-H", engine.host, "logs", "-f", "slow"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    assert stopped.stdout.readline() == "0\n"
    assert dead.stdout.readline() == "0\n"
    stopped.send_signal(signal.SIGSTOP)
    dead.kill()
    docker(engine, "exec", "slow", "touch", "/go")
    began = time.monotonic()
    assert docker(engine, "wait", "slow").stdout == "0\n"
    assert time.monotonic() - began < 60
    stopped.send_signal(signal.SIGCONT)
    output, errors = stopped.communicate(timeout=120)
    dead.communicate()
    assert output.endswith("last\n")
    missing = 20000 - (output.count("\n") - 1)
    told = [int(count) for count in re.findall(r"naru: (\d+) bytes of this log were rotated away", errors)]
    assert missing > 0 and len(told) >= 1, (missing, errors)
    assert sum(told) / missing == pytest.approx(500, rel=0.3), "the bytes that are told are those of the lines that are missing"


def test_without_a_log_there_is_none_and_the_program_is_not_held_up(engine):
    output = docker(engine, "run", "--name", "silent", "--network", "none", "--log-driver", "none", "busybox:test", "sh", "-c", "echo out; yes | head -c 5000000 >&2")
    assert output.stdout == "out\n" and len(output.stderr) == 5_000_000
    refused = docker(engine, "logs", "silent", code=1)
    assert "does not support reading" in refused.stderr
    assert log_files(engine, "silent") == {}


def test_details_tell_labels_variables_and_tag(engine):
    words = ["--label", "team=a b", "--label", "other=x", "-e", "STAGE=test", "--log-opt", "labels=team,absent", "--log-opt", "env=STAGE", "--log-opt", "tag={{.Name}}/{{.ImageName}}"]
    docker(engine, "run", "--name", "told", "--network", "none", *words, "busybox:test", "echo", "hi")
    assert docker(engine, "logs", "--details", "told").stdout == "STAGE=test,tag=told%2Fbusybox%3Atest,team=a+b hi\n"
    assert docker(engine, "logs", "told").stdout == "hi\n"


@pytest.mark.parametrize("driver,option", [
    ("json-file", "max-size=much"), ("json-file", "compress=perhaps"), ("json-file", "labels-regex=("), ("json-file", "tag={{.Nosuch}}"),
    ("local", "labels=a"), ("local", "max-file=0"), ("none", "max-size=1m"), ("nosuch", "max-size=1m"),
])
def test_options_that_cannot_be_kept_are_refused(engine, driver, option):
    result = engine.client("create", "--name", "refused", "--log-driver", driver, "--log-opt", option, "busybox:test", program=DOCKER)
    assert result.returncode in (1, 125) and re.search("log|max-file", result.stderr), result
    assert engine.client("ps", "-aq", program=DOCKER).stdout == ""


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_killed_keeper_costs_no_more_than_the_last_message(engine, driver):
    run(engine, "torn", driver, "i=0; while :; do i=$((i+1)); echo $i; done", detached=True)
    api = Api(engine.socket)
    until(lambda: sum(log_files(engine, "torn").values()) > 20_000)
    os.kill(parent(api.inspect("torn")["State"]["Pid"]), signal.SIGKILL)
    api.wait("torn")
    before = [int(line) for line in docker(engine, "logs", "torn").stdout.split()]
    assert before == list(range(1, len(before) + 1)) and len(before) > 100
    written = sum(log_files(engine, "torn").values())
    api.start("torn")
    until(lambda: sum(log_files(engine, "torn").values()) > written + 20_000)
    api.call("POST", "/containers/torn/kill")
    api.wait("torn")
    api.close()
    after = [int(line) for line in docker(engine, "logs", "torn").stdout.split()]
    again = after.index(1, 1)
    assert after[:again] == before and after[again:] == list(range(1, len(after) - again + 1))
