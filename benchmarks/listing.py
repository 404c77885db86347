"""Listing at scale: a pool of a million names, and what it costs to list it, to go by its index,
and to do anything else meanwhile.

    python -m benchmarks.listing [--objects N] [--turns N] [--output FOLDER] [--quick]
    python -m benchmarks.listing --report FILE

Starts a lab of its own. As root: it mounts, and drops the page cache.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.fill import fill
from benchmarks.listing_report import ListingResult, percentile, report, sample_text
from benchmarks.machine import about_this_run
from benchmarks.peers.interface import ROOT, Site
from benchmarks.processes import MountProcess, PeerError, run_quietly
from benchmarks.reader import reading
from benchmarks.runner import drop_page_cache
from radosmount.lab import Lab

rados: Any = importlib.import_module("rados")  # the tests' stub holds only what radosmount uses

NAME: Final = "listing"
NAME_COUNT: Final = 1_000_000
QUICK_NAME_COUNT: Final = 20_000
TURNS: Final = 5
MANY, TEN, SMALL = "million", "ten", "small"  # pools
ABOUT: Final = (
    *("date", "machine", "memory", "kernel", "python", "cluster", "load before", "size"),
    *("radosmount", "ceph"),
)

FEW_COUNT: Final = 100
DIRECTORY_COUNT: Final = 1000  # names in each directory of bulk/
SMALL_COUNT: Final = 20_000
SMALL_BYTES: Final = 4096
PASS_COUNT: Final = 40
LOOKUPS_A_PASS: Final = 10
SECOND_COUNT: Final = 5

# What the index may be old for a listing, and how late the cluster is to tell that something was
# written (vfs/listing.py, vfs/trees.py; mgr_stats_period of the lab is 1 s).
FRESHNESS_S: Final = 1.2
USAGE_LAG_S: Final = 5.0
FORGOTTEN_S: Final = 0.02  # the mount hears late what the kernel forgets
IDLE_S: Final = 3.0
FILL_TIMEOUT_S: Final = 60.0
# Room for all objects. As a lab has it, the OSD keeps some 12,000 objects in mind, and asks its
# database for every other: that is what would be measured.
OSD_CACHE_BYTES: Final = 4 << 30

TIMED_READDIR: Final = """\
import os, sys, time
began_s = time.perf_counter()
count = sum(1 for _ in os.scandir(sys.argv[1]))
print(count, time.perf_counter() - began_s)
"""

Say = Callable[[str], None]


def names_of(count: int) -> Iterator[str]:
    """Those of the long listing at the end: what was just stored is warm in the OSD."""
    yield from (bulk_name(number) for number in range(bulk_count(count)))
    yield from (few_name(number) for number in range(FEW_COUNT))
    yield from (f"many/file-{number:06d}" for number in range(many_count(count)))


def few_name(number: int) -> str:
    return f"few/file-{number:03d}"


def bulk_name(number: int) -> str:
    return f"bulk/{number // DIRECTORY_COUNT:03d}/file-{number % DIRECTORY_COUNT:03d}"


def many_count(count: int) -> int:
    return count // 10


def bulk_count(count: int) -> int:
    return count - many_count(count) - FEW_COUNT


# Programs and what they take


def seconds_of(command: str, expected_lines: int) -> float:
    """Of a pipeline that prints a number of lines. Raises: PeerError for another number."""
    began_s = time.perf_counter()
    output = run_quietly(("sh", "-c", f"LC_ALL=C; export LC_ALL; {command}"), 600.0)
    seconds = time.perf_counter() - began_s
    if int(output) != expected_lines:
        raise PeerError(f"{command}: {output.strip()} lines instead of {expected_lines}")
    return seconds


def list_seconds(directory: Path, count: int) -> float:
    return seconds_of(f"ls -f {directory} | wc -l", count)  # a mount has no . and ..


def long_list_seconds(directory: Path, count: int) -> float:
    return seconds_of(f"ls -l {directory} | wc -l", count + 1)  # total


def readdir_seconds(directory: Path, count: int) -> float:
    """Of readdir(3) alone, by a process of its own."""
    output = run_quietly((sys.executable, "-c", TIMED_READDIR, str(directory)))
    found, seconds = output.split()
    if int(found) != count:
        raise PeerError(f"{directory}: {found} names instead of {count}")
    return float(seconds)


def stat_seconds(path: Path) -> float:
    """Of stat(2) of a file, whether it is there or not, in a directory just looked up."""
    path.parent.stat()
    began_s = time.perf_counter()
    path.exists()
    return time.perf_counter() - began_s


def memory_bytes(mount: MountProcess, field: str) -> int:
    """`VmRSS`, or `VmHWM`: the most since `forget_peak`."""
    for line in Path(f"/proc/{mount.pids()[0]}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise PeerError(f"no {field}")


def forget_peak(mount: MountProcess) -> None:
    Path(f"/proc/{mount.pids()[0]}/clear_refs").write_text("5")


def forget_names() -> None:
    """Let the kernel forget what it has looked up: 2 of proc(5), drop_caches."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    time.sleep(FORGOTTEN_S)


class Bench:
    """The pools are filled; each method is a part of a turn, on mounts of its own."""

    def __init__(self, site: Site, result: ListingResult, say: Say) -> None:
        self._site = site
        self._result = result
        self._say = say
        self._count = result.name_count
        self._random = random.Random(result.name_count)
        self._extra_count = 0

    def fill(self) -> None:
        began_s = time.monotonic()
        conf = self._site.lab.conf_path
        fill(conf, MANY, ((name, 0) for name in names_of(self._count)))
        rate = self._count / (time.monotonic() - began_s)
        self._result.about["filled"] = f"{rate:,.0f} objects a second"
        self._say(f"filled, {self._result.about['filled']}")
        fill(conf, TEN, ((bulk_name(number), 0) for number in range(LOOKUPS_A_PASS)))
        fill(conf, SMALL, ((f"file-{n:05d}", SMALL_BYTES) for n in range(SMALL_COUNT)))
        self._settle()

    def turn(self) -> None:
        for part in (
            self.complete_listings,
            self.memory,
            self.lookups,
            self.second_listings,
            self.long_listing,
            self.reads_while_listing_flat,
            self.reads_while_indexing,
        ):
            drop_page_cache()
            part()

    # The figures

    def complete_listings(self) -> None:
        conf = self._site.conf
        base_s = seconds_of(f"rados -c {conf} -p {MANY} ls | wc -l", self._count)
        self._add("rados", self._count / base_s)
        with self._mounted(MANY, "flat") as mount:
            self._add("flat", list_seconds(mount.path, self._count) / base_s)
        with self._mounted(MANY, "tree") as mount:
            self._add("tree", list_seconds(mount.path, 3) / base_s)

    def memory(self) -> None:
        with self._mounted(MANY, "tree") as mount:
            mount.path.stat()
            before = memory_bytes(mount, "VmRSS")
            list_seconds(mount.path, 3)
            self._add("memory", (memory_bytes(mount, "VmRSS") - before) / self._count)
            self._add("memory-peak", (memory_bytes(mount, "VmHWM") - before) / self._count)
            forget_peak(mount)
            self._change()
            list_seconds(mount.path, 3)
            self._add("memory-again", (memory_bytes(mount, "VmHWM") - before) / self._count)

    def lookups(self) -> None:
        """Ten names in the one pool and ten in the other, again and again."""
        seconds: dict[str, list[float]] = {}
        numbers = self._random.sample(range(bulk_count(self._count)), PASS_COUNT * LOOKUPS_A_PASS)
        with ExitStack() as stack:
            many = stack.enter_context(self._mounted(MANY, "tree")).path
            ten = stack.enter_context(self._mounted(TEN, "tree")).path
            asked = stack.enter_context(self._asking())
            for directory in (many, ten):
                (directory / bulk_name(0)).parent.stat()  # makes the index
            for number in numbers:
                asked(MANY, bulk_name(number))  # warms the OSD
            for start in range(0, len(numbers), LOOKUPS_A_PASS):
                forget_names()
                for slot, number in enumerate(numbers[start : start + LOOKUPS_A_PASS]):
                    for key, directory, name in (
                        ("ten", ten, bulk_name(slot)),
                        ("many", many, bulk_name(number)),
                        ("ten-missing", ten, f"{bulk_name(slot)}-{number}"),
                        ("many-missing", many, f"{bulk_name(number)}-no"),
                    ):
                        seconds.setdefault(key, []).append(stat_seconds(directory / name))
            for slot, number in enumerate(numbers):
                for key, pool, name in (
                    ("rados-ten", TEN, bulk_name(slot % LOOKUPS_A_PASS)),
                    ("rados-many", MANY, bulk_name(number)),
                ):
                    seconds.setdefault(key, []).append(asked(pool, name))
        medians = {key: median(found) for key, found in seconds.items()}
        self._add("stat", medians["many"] / medians["ten"])
        self._add("stat-us", medians["many"] * 1e6)
        self._add("stat-rados", medians["rados-many"] / medians["rados-ten"])
        self._add("missing", medians["many-missing"] / medians["ten-missing"])
        self._add("missing-us", medians["many-missing"] * 1e6)

    def second_listings(self) -> None:
        with self._mounted(MANY, "tree") as mount:
            directory = mount.path / "few"
            list_seconds(directory, FEW_COUNT)
            found: dict[str, list[float]] = {"few": [], "few-readdir": []}
            for _ in range(SECOND_COUNT):
                time.sleep(FRESHNESS_S)
                found["few"].append(list_seconds(directory, FEW_COUNT) * 1e3)
                time.sleep(FRESHNESS_S)
                found["few-readdir"].append(readdir_seconds(directory, FEW_COUNT) * 1e3)
            for key, values in found.items():
                self._add(key, median(values))

    def long_listing(self) -> None:
        count = many_count(self._count)
        with self._mounted(MANY, "tree") as mount:
            list_seconds(mount.path, 3)  # makes the index
            drop_page_cache()
            self._add("many", count / long_list_seconds(mount.path / "many", count))

    def reads_while_listing_flat(self) -> None:
        with self._mounted("", "flat") as mount:
            self._read("read-flat", mount, lambda: list_seconds(mount.path / MANY, self._count))

    def reads_while_indexing(self) -> None:
        count = many_count(self._count)
        with self._mounted("", "tree") as mount:
            self._read("read", mount, lambda: time.sleep(IDLE_S))
            self._read("read-tree", mount, lambda: list_seconds(mount.path / MANY, 3))
            self._change()
            self._read("read-again", mount, lambda: list_seconds(mount.path / MANY, 3))
            many = mount.path / MANY / "many"
            self._read("read-many", mount, lambda: long_list_seconds(many, count))

    # Inside

    def _add(self, key: str, value: float) -> None:
        self._result.add(key, value)
        self._say(f"    {sample_text(key, value)}")

    def _read(self, key: str, mount: MountProcess, meanwhile: Callable[[], object]) -> None:
        with reading(mount.path / SMALL, SMALL_COUNT, SMALL_BYTES) as durations_s:
            meanwhile()
        self._add(key, percentile(durations_s, 99) * 1e3)

    @contextmanager
    def _mounted(self, pool: str, names: str) -> Iterator[MountProcess]:
        """`pool` empty: all of them."""
        program = str(Path(sys.executable).parent / "radosmount")
        path = self._site.directory / f"mnt-{pool or 'all'}"
        command = [program, "-f", "-c", self._site.conf, f"ceph:{pool}", str(path)]
        mount = MountProcess(
            [*command, "-o", f"names={names}"],
            path,
            self._site.log_path("radosmount"),
            umount=(program, "umount"),
        )
        try:
            yield mount
        finally:
            mount.close()

    @contextmanager
    def _asking(self) -> Iterator[Callable[[str, str], float]]:
        """rados_stat by the binding: its seconds."""
        cluster = rados.Rados(conffile=self._site.conf)
        cluster.connect()
        pools = {pool: cluster.open_ioctx(pool) for pool in (MANY, TEN)}

        def seconds_of_stat(pool: str, name: str) -> float:
            began_s = time.perf_counter()
            pools[pool].stat(name)
            return time.perf_counter() - began_s

        try:
            for pool in pools:
                seconds_of_stat(pool, bulk_name(0))  # makes the connection
            yield seconds_of_stat
        finally:
            for ioctx in pools.values():
                ioctx.close()
            cluster.shutdown()

    def _change(self) -> None:
        """Write to the pool from elsewhere, and wait until the cluster tells of it."""
        self._site.lab.rados("-p", MANY, "put", few_name(0), "/dev/null")
        time.sleep(USAGE_LAG_S)

    def _settle(self) -> None:
        """Wait until the cluster's own counts have come to rest."""
        deadline = time.monotonic() + FILL_TIMEOUT_S
        before = ""
        while (now := self._site.lab.ceph("df", "detail", "--format=json")) != before:
            if time.monotonic() > deadline:
                return
            before = now
            time.sleep(USAGE_LAG_S)


# The command


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.listing", description="Listing a million names."
    )
    parser.add_argument("--objects", type=int, help=f"default {NAME_COUNT}")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"default {TURNS}")
    parser.add_argument("--output", type=Path, help="folder (default: docs/, of a full run only)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_NAME_COUNT}: does it work?")
    parser.add_argument("--report", type=Path, metavar="FILE", help="make the report of FILE again")
    arguments = parser.parse_args(words)
    arguments.objects = arguments.objects or (QUICK_NAME_COUNT if arguments.quick else NAME_COUNT)
    arguments.osds = 1
    is_full = arguments.objects == NAME_COUNT or arguments.report
    arguments.output = arguments.output or (
        ROOT / "docs" if is_full else Path(tempfile.mkdtemp(prefix="radosmount-result-"))
    )
    return arguments


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def give_cache(lab: Lab) -> None:
    """An OSD reads its cache's size when it starts, and goes by it unless it sizes it itself."""
    lab.ceph("config", "set", "osd", "bluestore_cache_autotune", "false")
    lab.ceph("config", "set", "osd", "bluestore_cache_size", str(OSD_CACHE_BYTES))
    lab.stop_daemon("osd.0")
    lab.start_daemon("osd.0")
    lab.rados("-p", MANY, "put", few_name(0), "/dev/null")  # waits until it serves


def measure(arguments: argparse.Namespace) -> ListingResult:
    """What was measured is written after each turn."""
    about = about_this_run(arguments, seed="")
    result = ListingResult({key: about[key] for key in ABOUT}, arguments.objects)
    result.about["cluster"] += f", {OSD_CACHE_BYTES >> 30} GiB of cache"
    directory = Path(tempfile.mkdtemp(prefix="rml-"))  # short: it holds Ceph's sockets
    try:
        with Lab(directory / "lab", pools=(MANY, TEN, SMALL), progress=say) as lab:
            give_cache(lab)
            bench = Bench(Site(lab, directory), result, say)
            bench.fill()
            for number in range(arguments.turns):
                say(f"turn {number + 1} of {arguments.turns}")
                bench.turn()
                result.about["load after"] = " ".join(f"{load:.2f}" for load in os.getloadavg())
                write(result, arguments.output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return result


def write(result: ListingResult, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(result.to_json())
    (folder / f"{NAME}.md").write_text(report(result))


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(sys.argv[1:] if words is None else words)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    if arguments.report:
        result = ListingResult.from_json(arguments.report.read_text())
        write(result, arguments.output)
    else:
        result = measure(arguments)
    print(report(result))
    say(f"{arguments.output}: {NAME}.json, {NAME}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
