"""What `ps` shows of the engine's own processes."""

from testkit.engine import describe_process


def test_processes_of_the_engine_are_told_apart(fresh_naru):
    engine = fresh_naru
    name = engine.client("run", "-d", "busybox:test", "sleep", "60").stdout.strip()
    assert describe_process(engine.keeper(name)) == f"naru-keeper naru-keeper {name[:12]}"
    titles = [describe_process(pid) for pid in engine.processes()]
    assert [title for title in titles if title.startswith("naru-spawner")] == ["naru-spawner naru-spawner"]
    assert all(title == "naru-stem naru-stem" for title in titles if title.startswith("naru-stem"))
    engine.remove_all_containers()
