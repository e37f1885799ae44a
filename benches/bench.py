"""Measures naru against Debian's Docker, Podman and the bare runtimes, and prints medians and ratios.

    cargo xtask bench            everything
    cargo xtask bench lifecycle  one of: lifecycle flags row64 cli exec runtimes many ports memory daemon pull load build

Each engine runs in network and mount namespaces of its own. Requests go over the unix socket by a client that keeps
its connection, so that the client's own cost stays out. NARU_BENCH_N is the number of samples, 30 unless told.
Nothing is written into the repository.
"""

import os
import statistics
import sys
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), folder) for folder in ("tests", "tests/images", "benches")]

import build  # noqa: E402
from measures import MEASURES  # noqa: E402
from testkit.engine import DebianDocker, Naru  # noqa: E402


class Report:
    """Rows of one table: what, each engine's figure, the ratio, and the target."""

    def __init__(self):
        self.rows = []

    def compare(self, what, naru, others, unit="ms", target=None):
        """`naru` and the values of `others` are lists of samples; medians are compared."""
        ours = statistics.median(naru)
        for name, samples in others.items():
            theirs = statistics.median(samples)
            ratio = theirs / ours if ours else 0
            self.add(what, f"{ours:.2f} {unit}", f"{name} {theirs:.2f} {unit}", f"{ratio:.1f} x", target)
            target = None

    def add(self, what, ours, theirs="", ratio="", target=None):
        self.rows.append((what, ours, theirs, ratio, target or ""))
        print("   ", *self.rows[-1], flush=True)

    def show(self):
        rows = [("what", "naru", "compared with", "ratio", "wanted"), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for number, row in enumerate(rows):
            print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
            if number == 0:
                print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


class Bench:
    """The engines, started when first asked for, and ended at the end."""

    def __init__(self):
        self.images = build.build()
        self.samples = int(os.environ.get("NARU_BENCH_N", "30"))
        self.report = Report()
        self.engines = {}

    def engine(self, kind):
        if kind not in self.engines:
            self.engines[kind] = self.new_engine(kind)
        return self.engines[kind]

    def new_engine(self, kind):
        engine = kind()
        try:
            engine.start()
            engine.load(self.images + "/busybox.tar")
        except BaseException:
            engine.close()
            raise
        return engine

    @property
    def naru(self):
        return self.engine(Naru)

    @property
    def docker(self):
        return self.engine(DebianDocker)

    def close(self):
        for engine in self.engines.values():
            engine.close()


def main():
    names = sys.argv[1:] or list(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise SystemExit(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    bench = Bench()
    print(f"{os.cpu_count()} cores, Linux {os.uname().release}, medians of {bench.samples}")
    try:
        for name in names:
            print(name, flush=True)
            began = time.monotonic()
            MEASURES[name](bench)
            print(f"    ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        bench.close()
        bench.report.show()


if __name__ == "__main__":
    main()
