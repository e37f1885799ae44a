"""Health checks over the daemon's own end, which no row of the table can show."""

import time

import pytest
from testkit.api import Api

QUICK = 100_000_000
NEVER = 3600 * 1_000_000_000


def health(api, box):
    return api.inspect(box)["State"]["Health"]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("end", ["kill9", "stop"])
def test_health_outlives_the_daemon(fresh_naru, end):
    """Status, streak and log are there again, and the next check comes when it is due, not at once."""
    engine, api = fresh_naru, Api(fresh_naru.socket)
    none = {"NetworkMode": "none"}
    # Checked often until it is healthy, then once an hour.
    well = api.create(["sleep", "1000"], host=none, Healthcheck={
        "Test": ["CMD-SHELL", "echo well"], "Interval": NEVER, "StartPeriod": NEVER, "StartInterval": QUICK})
    sick = api.create(["sleep", "1000"], host=none, Healthcheck={
        "Test": ["CMD-SHELL", "echo sick; exit 3"], "Interval": QUICK, "Retries": 3})
    for box in (well, sick):
        api.start(box)
    wait_for(lambda: health(api, well)["Status"] == "healthy")
    wait_for(lambda: health(api, sick)["Status"] == "unhealthy" and health(api, sick)["FailingStreak"] >= 4)
    before, streak = health(api, well), health(api, sick)["FailingStreak"]
    getattr(engine, end)()
    api.close()
    engine.start()
    assert health(api, well) == before
    found = health(api, sick)
    assert found["Status"] == "unhealthy" and found["FailingStreak"] >= streak, found
    assert found["Log"][-1]["Output"] == "sick\n" and found["Log"][-1]["ExitCode"] == 3, found
    # The checks go on.
    wait_for(lambda: health(api, sick)["FailingStreak"] > found["FailingStreak"])


def test_health_of_what_ended_meanwhile_is_kept(fresh_naru):
    engine, api = fresh_naru, Api(fresh_naru.socket)
    box = api.create(["sleep", "1000"], host={"NetworkMode": "none"}, Healthcheck={
        "Test": ["CMD-SHELL", "echo well"], "Interval": NEVER, "StartPeriod": NEVER, "StartInterval": QUICK})
    api.start(box)
    wait_for(lambda: health(api, box)["Status"] == "healthy")
    pid = api.inspect(box)["State"]["Pid"]
    engine.kill9()
    api.close()
    engine.scope.run("kill", "-9", str(pid))
    engine.start()
    wait_for(lambda: not api.inspect(box)["State"]["Running"])
    found = health(api, box)
    assert found["Status"] == "unhealthy" and found["Log"][-1]["Output"] == "well\n", found
