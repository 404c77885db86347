"""OSDs and monitors that stop, die and come back, under writers and readers that verify."""

import errno
import functools
import hashlib
import multiprocessing
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from radosmount.config import KIB, MIB
from radosmount.lab import Lab
from tests.battery.kills import Load, Writer
from tests.battery.row import Arena, Objects, Row, RowFailed
from tests.mount import test_memory
from tests.mount.mounting import Mount

KINDS: Final = (
    "osd_stopped",
    "osd_killed",
    "osd_restarted",
    "osd_marked_down",
    "monitor_stopped",
    "monitor_killed",
)
OSD: Final = "osd.0"
MONITOR: Final = "mon.a"
SHORT_TIMEOUT_S: Final = 3
STOPPED_S: Final = (0.5, 6.0)  # some are longer than the shorter time-out
LARGEST_BYTES: Final = 4 * MIB
FILES_A_WRITER: Final = 4
PUBLISHED_BYTES: Final = 16 * KIB  # read by one request
PAGE_BYTES: Final = 4 * KIB
PUBLISHED_COUNT: Final = 4
LAGGY_S: Final = 10.0
PROGRESS_S: Final = 90.0
# What may be loud in the log of a mount whose cluster does not answer.
EXPECTED: Final = ("Connection timed out", "nothing was acknowledged for")


class Publisher(Writer):
    """Gives its files new contents, whole ones; `generations` are all there ever were.

    Even files are renamed over, which a reader on the same mount sees as a whole, too.
    """

    def __init__(self, name: str, dice: random.Random, transient: Collection[int]) -> None:
        super().__init__(name, dice, PUBLISHED_COUNT, PUBLISHED_BYTES, transient)
        self.generations: list[list[bytes]] = [[] for _ in self.files]
        self.generation_of_page: dict[bytes, int] = {}
        self.acknowledged_generation = [-1] * len(self.files)

    def step(self) -> None:
        number = self._dice.randrange(len(self.files))
        content = self._dice.randbytes(PUBLISHED_BYTES)
        generations = self.generations[number]
        for page in pages_of(content):
            self.generation_of_page[page] = len(generations)
        generations.append(hashlib.sha256(content).digest())
        if number % 2 == 0:
            self.replace(self.files[number], self.fresh[number], content)
        else:
            self.rewrite(self.files[number], content)
        self.acknowledged_generation[number] += 1


def pages_of(content: bytes) -> list[bytes]:
    starts = range(0, len(content), PAGE_BYTES)
    return [hashlib.sha256(content[at : at + PAGE_BYTES]).digest() for at in starts]


class Reader(Writer):
    """Reads what a publisher has, and knows what it may be: nothing older than what was
    acknowledged before the open, and no mixture."""

    def __init__(
        self, publisher: Publisher, numbers: range, dice: random.Random, transient: Collection[int]
    ) -> None:
        super().__init__("reader", dice, 0, transient=transient)
        self._publisher = publisher
        self._numbers = numbers

    def step(self) -> None:
        number = self._dice.choice(self._numbers)
        oldest = self._publisher.acknowledged_generation[number]
        if oldest < 0:
            return time.sleep(0.01)
        file = self._publisher.files[number]
        content = self._insist((self._directory / file.name).read_bytes)
        known = self._publisher.generations[number]
        digest = hashlib.sha256(content).digest()
        if digest not in known[oldest:]:
            of_page = self._publisher.generation_of_page
            place = [of_page.get(page, "none") for page in pages_of(content)]
            raise RowFailed(
                f"{file.name}: read generations {place} of {len(content)} bytes, and "
                f"{oldest} was acknowledged before, {len(known) - 1} begun"
            )
        self.acknowledged += 1
        self.verified_bytes += len(content)


class VerifiedLoad:
    """Writers on two mounts, a publisher on the first, a reader on each."""

    def __init__(
        self, arena: Arena, mounts: tuple[Mount, Mount], transient: Collection[int] = ()
    ) -> None:
        def dice() -> random.Random:
            return random.Random(arena.random.getrandbits(64))

        self._arena = arena
        self._paths = tuple(mount.path for mount in mounts)
        self.writers = [
            Writer(f"w{number}", dice(), FILES_A_WRITER, LARGEST_BYTES, transient)
            for number in range(arena.sizes["writers"])
        ]
        publisher = Publisher("published", dice(), transient)
        here = Reader(publisher, range(0, PUBLISHED_COUNT, 2), dice(), transient)
        elsewhere = Reader(publisher, range(PUBLISHED_COUNT), dice(), transient)
        self._places: list[tuple[Writer, Path]] = [
            *((writer, self._paths[at % 2]) for at, writer in enumerate(self.writers)),
            (publisher, self._paths[0]),
            (here, self._paths[0]),
            (elsewhere, self._paths[1]),
        ]

    def works(self, over: threading.Event) -> list[Callable[[], None]]:
        return [functools.partial(worker.work, path, over) for worker, path in self._places]

    def counts(self) -> list[int]:
        return [worker.acknowledged for worker, _ in self._places]

    def verify(self, objects: Objects) -> None:
        """When all has ended: what was acknowledged last is what is there. Fills the figures."""
        figures = self._arena.figures
        refused: Counter[str] = Counter()
        for worker, _ in self._places:
            for path in self._paths:
                worker.verify(objects.read_whole, path, figures)
            figures.verified_bytes += worker.verified_bytes
            refused += worker.refused
        figures.more |= {
            "changes": sum(one.acknowledged for one in self.writers),
            "reads": sum(one.acknowledged for one, _ in self._places if isinstance(one, Reader)),
            "refusals": sum(refused.values()),
            "longest_s": round(max(one.longest_s for one, _ in self._places), 1),
        }
        if not all(self.counts()):
            raise RowFailed(f"someone has done nothing: {self.counts()}")


def act(directory: Path, kind: str, seconds: float) -> None:
    """Do something to the lab in `directory` that it recovers from by itself, by and by."""
    lab = Lab.attach(directory)
    daemon = MONITOR if kind.startswith("monitor") else OSD
    match kind.rpartition("_")[2]:
        case "down":  # it is up again at once, and its placement groups peer anew
            lab.ceph("osd", "down", "0")
        case "stopped":
            lab.signal(daemon, signal.SIGSTOP)
            time.sleep(seconds)
            lab.signal(daemon, signal.SIGCONT)
        case how:
            lab.stop_daemon(daemon, signal.SIGKILL if how == "killed" else signal.SIGTERM)
            time.sleep(seconds / 2)
            lab.start_daemon(daemon)


class Thrasher:
    """Does it from another process: a child of this one, until its exec, would close what the
    writers have open, wait for that, and hear of their errors."""

    def __init__(self, lab: Lab, pool: ProcessPoolExecutor) -> None:
        self._lab = lab
        self._pool = pool

    def act(self, kind: str, seconds: float = 0) -> None:
        self._pool.submit(act, self._lab.directory, kind, seconds).result()


def thrash(arena: Arena) -> None:
    """Whatever happens to the cluster, nothing that was acknowledged is lost, no reader sees a
    mixture, and all go on by themselves."""
    transient = (errno.ETIMEDOUT,)
    counts: Counter[str] = Counter()
    recovery_s = 0.0
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        arena.mounted(arena.source, f"timeout={SHORT_TIMEOUT_S}", EXPECTED) as impatient,
        arena.mounted(arena.source, expected=EXPECTED) as patient,
        arena.objects() as objects,
    ):
        thrasher = Thrasher(arena.lab, pool)
        thrasher.act("osd_marked_down")
        load = VerifiedLoad(arena, (impatient, patient), transient)
        runner = Load()
        with runner.running(load.works(runner.over)) as check:
            end_s = time.monotonic() + arena.sizes["seconds"]
            while time.monotonic() < end_s:
                for kind in arena.random.sample(KINDS, len(KINDS)):
                    check()
                    seconds = arena.random.uniform(*STOPPED_S)
                    arena.note(f"{kind} for {seconds:.1f} s: {load.counts()}")
                    thrasher.act(kind, seconds)
                    counts[kind] += 1
                    arena.figures.faults += 1
                    began_s = time.monotonic()
                    wait_for_progress(load, check, thrasher)
                    recovery_s = max(recovery_s, time.monotonic() - began_s)
                    if time.monotonic() > end_s:
                        break
        load.verify(objects)
    arena.figures.more |= {**counts, "longest_recovery_s": round(recovery_s, 1)}


def wait_for_progress(load: VerifiedLoad, check: Callable[[], None], thrasher: Thrasher) -> None:
    """Until everyone has got something done. Placement groups may stay laggy until they peer
    anew, which Ceph does not do for an OSD that was never missed."""
    before = load.counts()
    began_s = time.monotonic()
    deadline_s, laggy_s = began_s + PROGRESS_S, began_s + LAGGY_S
    while not all(now > then for now, then in zip(load.counts(), before, strict=True)):
        check()
        if time.monotonic() > deadline_s:
            raise RowFailed(f"no progress of some: {before}, {load.counts()}")
        if time.monotonic() > laggy_s:
            thrasher.act("osd_marked_down")
            laggy_s = deadline_s
        time.sleep(0.05)


def memory(arena: Arena) -> None:
    """The test of that name, again and again."""
    arena.lab.create_pool(test_memory.POOL)
    for _ in range(arena.sizes["rounds"]):
        writers: list[subprocess.Popen[str]] = []
        try:
            test_memory.test_memory_is_bounded(arena.lab, writers)
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
        arena.figures.faults += 1
        arena.figures.verified += test_memory.WRITER_COUNT * test_memory.FILES_A_WRITER


THRASH: Final = Row(
    "cluster-thrash",
    "the OSD stopped, killed, restarted and marked down, the monitor stopped and killed, under "
    "verified writers and readers on two mounts, one with timeout=3: nothing acknowledged is "
    "lost, no reader sees an older or mixed content, and all go on by themselves",
    thrash,
    {"seconds": 60, "writers": 4},
    {"seconds": 900, "writers": 6},
    limit_s=(400, 3600),
    needs_own_lab=True,
)
MEMORY: Final = Row(
    "memory",
    "eight writers of 500 MiB each through cache_size=64M, with the OSD stopped for 10 s: the "
    "process stays below cache_size and 120 MiB, and every byte is stored",
    memory,
    None,  # tests/mount/test_memory.py
    {"rounds": 5},
    needs_own_lab=True,
)
ROWS = (THRASH, MEMORY)
