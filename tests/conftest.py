"""Engines and images shared by every end-to-end test."""

import os
import signal
import sys

import pytest
from _pytest.runner import runtestprotocol

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "images")]

import build  # noqa: E402
from testkit.engine import NARU, DebianDocker, Naru  # noqa: E402


@pytest.fixture(scope="session")
def images():
    """The folder with the image archives."""
    return build.build()


@pytest.fixture(scope="session")
def naru(images):
    """One engine with both images loaded, for tests that leave it as they found it."""
    engine = new_naru(images)
    engine.load(images + ("/debian.tar" if engine.name == "docker" else "/debian-oci.tar"))
    yield engine
    close_and_check(engine)


@pytest.fixture(scope="session")
def busybox_naru(images):
    """As `naru`, with busybox:test alone: the other image's many files take seconds to make and to remove."""
    engine = new_naru(images)
    yield engine
    close_and_check(engine)


@pytest.fixture(scope="session")
def build_naru(images):
    """As `busybox_naru`, for builds alone: they leave images without names."""
    engine = new_naru(images)
    yield engine
    close_and_check(engine)


@pytest.fixture
def fresh_naru(images):
    """An engine of the test's own, which it may kill, with busybox:test loaded."""
    engine = new_naru(images)
    yield engine
    close_and_check(engine)


def new_naru(images):
    if os.environ.get("NARU_TEST_ENGINE") == "docker":
        # To prove the tests themselves: what does not concern the product alone must hold for Docker too.
        engine = DebianDocker()
    elif os.path.exists(NARU):
        engine = Naru()
    else:
        pytest.skip(f"{NARU} is not built")
    engine.start()
    engine.load(images + "/busybox.tar")
    return engine


def close_and_check(engine):
    """Whatever a test did, an engine whose containers are removed leaves nothing behind."""
    left = None
    try:
        if engine.process is None:
            engine.start()
        engine.remove_all_containers()
        engine.stop()
        left = engine.settled_leftovers()
    finally:
        engine.close()
    assert left == [] or engine.name == "docker"


@pytest.fixture(scope="session")
def docker(images):
    """The reference engine; started when the first test wants it."""
    engine = DebianDocker()
    engine.start()
    engine.load(images + "/busybox.tar")
    engine.load(images + "/debian.tar")
    yield engine
    engine.close()


def pytest_report_header():
    return f"naru: {NARU} ({'built' if os.path.exists(NARU) else 'missing'})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """No test hangs for ever: after its time it fails where it stands. A mark `seconds(n)` asks for more."""
    mark = item.get_closest_marker("seconds")

    def fail(*_):
        pytest.fail(f"not finished after {limit} s", pytrace=True)

    limit = mark.args[0] if mark else 240
    signal.signal(signal.SIGALRM, fail)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)


# Tests that race on purpose, with a seed they print: there a single failure is a find.
NEVER_AGAIN = ("tests/crash/", "tests/application/", "tests/isolation/")
UNSTEADY = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """In CI a test that fails is run once more, and told of at the end: the machine is shared, and a peer is not always of one mind."""
    if not os.environ.get("CI") or item.nodeid.startswith(NEVER_AGAIN):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        UNSTEADY.append((item.nodeid, next(report.longreprtext for report in reports if report.failed)))
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_sessionfinish(session):
    """One of several that share the work tells the one that reports."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["unsteady"] = UNSTEADY


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    UNSTEADY.extend(getattr(node, "workeroutput", {}).get("unsteady", []))


def pytest_terminal_summary(terminalreporter):
    for name, failure in UNSTEADY:
        terminalreporter.write_line(f"run twice: {name}: " + " ".join(failure.split()[-60:]))


def pytest_configure(config):
    config.addinivalue_line("markers", "seconds(n): how long the test may take")
