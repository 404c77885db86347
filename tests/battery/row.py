"""The battery: rows that break things on purpose, and verify what programs were promised.

Each row is a function that makes its own mounts on a lab, injects faults, and counts them. The
short form runs with the tests, the long one by scripts/soak. A row that injected nothing, or
verified nothing, has failed; one that hangs fails with the stacks of this process and its mounts.
"""

import contextlib
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import rados

from radosmount.lab import Lab
from tests.mount.mounting import Mount
from tests.support.cluster import SHARED_POOL, temporary_lab

Sizes = Mapping[str, int]
STACK_WAIT_S = 2.0
CONNECT_S = 30
LOG_SHOWN_BYTES = 8000
STACKS_SHOWN_BYTES = 20_000


class RowFailed(AssertionError):
    """A promise was broken, or the row proved nothing."""


@dataclass
class Figures:
    """What a row counts. `faults`: how many were injected, or where programs are the fault of each
    other, how often they met. `verified_bytes`, `verified`: bytes and facts (names, operations,
    errnos) that were compared with what they had to be. `more`: the row's own numbers."""

    faults: int = 0
    verified_bytes: int = 0
    verified: int = 0
    more: dict[str, int | float | str] = field(default_factory=dict)


class Objects:
    """The objects that a row's mounts show, past them: by the `rados` binding."""

    def __init__(self, ioctx: rados.Ioctx) -> None:
        self.ioctx = ioctx

    def read_whole(self, name: str) -> bytes | None:
        try:
            size, _ = self.ioctx.stat(name)
            return self.ioctx.read(name, size + 1)
        except rados.ObjectNotFound:
            return None


@dataclass
class Arena:
    """What a row works with. `sizes`: its parameters in this form. `mounts`: by the row, for the
    stacks. Everything random comes from `random`, so that the seed repeats it."""

    lab: Lab
    folder: Path
    random: random.Random
    sizes: Sizes
    figures: Figures = field(default_factory=Figures)
    mounts: list[Mount] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """What a failure shows: what was done until then, and when."""
        self.notes.append(f"{time.strftime('%T')} {text}")

    @property
    def source(self) -> str:
        """A namespace of the row's own."""
        return f"ceph:{SHARED_POOL}/{self.folder.name}"

    @contextlib.contextmanager
    def objects(self) -> Iterator[Objects]:
        """What `source` shows."""
        cluster = rados.Rados(name="client.admin", conffile=str(self.lab.conf_path))
        cluster.connect(timeout=CONNECT_S)
        try:
            with contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as ioctx:
                ioctx.set_namespace(self.folder.name)
                yield Objects(ioctx)
        finally:
            cluster.shutdown()

    def make_mount(self) -> Mount:
        """One that is not started. Ended with the row at the latest."""
        mount = Mount(Path(tempfile.mkdtemp(prefix="mount.", dir=self.folder)))
        self.mounts.append(mount)
        return mount

    @contextlib.contextmanager
    def mounted(
        self,
        source: str,
        options: str = "",
        expected: tuple[str, ...] = (),
        words: tuple[str, ...] = (),
    ) -> Iterator[Mount]:
        """A mount, ended by SIGTERM. `expected`: what may be loud in its log."""
        mount = self.make_mount()
        mount.start(self.lab, source, options, words)
        yield mount
        mount.stop()
        mount.check_log(expected)

    def end(self) -> None:
        while self.mounts:
            self.mounts.pop().clean_up()


@dataclass(frozen=True)
class Row:
    """`what` is for docs/reliability.md. `short` None: it has a long form only. `faults_needed`:
    whether injecting none is a failure. `limit_s`: when it counts as hanging. `needs_own_lab`: it
    stops daemons, or changes what other tests rely on."""

    name: str
    what: str
    run: Callable[[Arena], None]
    short: Sizes | None
    long: Sizes
    limit_s: tuple[int, int] = (120, 3600)  # short, long
    faults_needed: bool = True
    needs_own_lab: bool = False
    osd_count: int = 1


def perform(row: Row, form: str, seed: int, lab: Lab | None = None) -> str:
    """Run it; return its line of figures, as JSON. Without a `lab` it starts its own.

    Raises: RowFailed, or what the row raises.
    """
    sizes = row.short if form == "short" else row.long
    if sizes is None:
        raise RowFailed(f"{row.name} has no short form")
    begin_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        lab = lab or stack.enter_context(temporary_lab(row.osd_count, (SHARED_POOL,)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="battery.")))
        arena = Arena(lab, folder, random.Random(seed), sizes)
        stack.callback(arena.end)
        with watched(arena, row.limit_s[form != "short"]):
            try:
                row.run(arena)
            except BaseException:
                show_logs(arena, LOG_SHOWN_BYTES)
                raise
    figures = arena.figures
    if row.faults_needed and not figures.faults:
        raise RowFailed(f"{row.name}: no fault was injected")
    if not figures.verified_bytes and not figures.verified:
        raise RowFailed(f"{row.name}: nothing was verified")
    return json.dumps(
        {
            "row": row.name,
            "form": form,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seed": seed,
            "seconds": round(time.monotonic() - begin_s, 1),
            "faults": figures.faults,
            "verified_bytes": figures.verified_bytes,
            "verified": figures.verified,
            "sizes": dict(sizes),
            "more": figures.more,
        }
    )


def show_logs(arena: Arena, length_max: int) -> None:
    print("\n".join(arena.notes), arena.figures, sep="\n", file=sys.stderr)
    for mount in arena.mounts:
        if mount.log_path.exists():
            print(f"{mount.path}: the log ends:\n{mount.log()[-length_max:]}", file=sys.stderr)


@contextlib.contextmanager
def watched(arena: Arena, limit_s: int) -> Iterator[None]:
    """After `limit_s`: the stacks of all mounts and of this process, then the end of all."""

    def on_alarm(number: int, frame: object) -> None:
        for mount in arena.mounts:
            if mount.process is not None and mount.process.poll() is None:
                mount.process.send_signal(signal.SIGABRT)  # PYTHONFAULTHANDLER: stacks to its log
        time.sleep(STACK_WAIT_S)
        show_logs(arena, STACKS_SHOWN_BYTES)
        faulthandler.dump_traceback(file=2)
        raise RowFailed(f"hangs: not done after {limit_s} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    os.environ["PYTHONFAULTHANDLER"] = "1"
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        del os.environ["PYTHONFAULTHANDLER"]
