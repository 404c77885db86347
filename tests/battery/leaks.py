"""What a mount's process holds after many cycles of what programs do: no more than before them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.battery.behind import other_client
from tests.battery.row import Arena, Row, RowFailed
from tests.mount.mounting import Mount
from tests.support.cluster import SHARED_POOL

SAMPLE_COUNT: Final = 20
LISTED_COUNT: Final = 40
DESCRIPTORS_MAX: Final = 2  # more than before
THREADS_MAX: Final = 2
SLOPE_MAX_BYTES: Final = 100  # of memory a cycle, over the second half
SLACK_KIB: Final = 1024  # what an allocator takes at a time


@dataclass(frozen=True)
class Held:
    descriptors: int
    threads: int
    resident_kib: int


def held_by(mount: Mount) -> Held:
    assert mount.process is not None
    process = Path(f"/proc/{mount.process.pid}")
    lines = (process / "status").read_text().splitlines()
    fields = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)
              if name in ("Threads", "VmRSS")}  # fmt: skip
    descriptors = len(list((process / "fd").iterdir()))
    return Held(descriptors, int(fields["Threads"]), int(fields["VmRSS"]))


# Cycles: each leaves everything as it was. `number`: which it is.


def open_and_close(root: Path, number: int) -> None:
    (root / "file").read_bytes()
    os.close(os.open(root / "file", os.O_RDWR))


def create_and_unlink(root: Path, number: int) -> None:
    path = root / f"new-{number}"
    path.write_bytes(b"content")
    path.unlink()


def unlink_while_open(root: Path, number: int) -> None:
    path = root / f"open-{number}"
    with path.open("w+b", buffering=0) as opened:
        opened.write(b"content")
        path.unlink()
        opened.write(b" and more")


def make_and_remove_directory(root: Path, number: int) -> None:
    (root / f"directory-{number}").mkdir()
    (root / f"directory-{number}").rmdir()


def rename_and_back(root: Path, number: int) -> None:
    os.rename(root / "moved", root / f"moved-{number}")
    os.rename(root / f"moved-{number}", root / "moved")


def rename_over(root: Path, number: int) -> None:
    (root / f"over-{number}").write_bytes(b"content")
    os.rename(root / f"over-{number}", root / "over")


def fail(root: Path, number: int) -> None:
    """Opens, looks and removes what is not there, or not what it would have to be."""
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.open(root / f"missing-{number}", os.O_RDONLY),
        lambda: os.open(root / "file" / "below", os.O_RDONLY),
        lambda: os.open(root / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        lambda: os.rmdir(root / f"missing-{number}"),
        lambda: os.link(root / "file", root / f"link-{number}"),
        lambda: os.getxattr(root / "file", "user.missing"),
    )
    with contextlib.suppress(OSError):
        calls[number % len(calls)]()
        raise RowFailed("what has to fail did not")


def list_directory(root: Path, number: int) -> None:
    entries = list(os.scandir(root / "listed"))
    if len(entries) != LISTED_COUNT:
        raise RowFailed(f"{len(entries)} entries of {LISTED_COUNT}")
    if number % 4 == 0:
        for entry in entries:
            entry.stat()


def set_xattr(root: Path, number: int) -> None:
    os.setxattr(root / "file", "user.key", b"%d" % number)
    os.listxattr(root / "file")
    os.removexattr(root / "file", "user.key")


def grow_and_shrink(root: Path, number: int) -> None:
    with (root / "grown").open("ab", buffering=0) as opened:
        opened.write(b"x" * 10_000)
    os.truncate(root / "grown", 0)


CYCLES: Final = (
    open_and_close,
    create_and_unlink,
    unlink_while_open,
    make_and_remove_directory,
    rename_and_back,
    rename_over,
    fail,
    list_directory,
    set_xattr,
    grow_and_shrink,
)


def prepare(root: Path) -> None:
    for name in ("file", "moved", "over", "grown"):
        (root / name).write_bytes(b"content")
    (root / "listed").mkdir()
    for number in range(LISTED_COUNT):
        (root / "listed" / str(number)).write_bytes(b"")


def repeat(arena: Arena, mount: Mount) -> Iterator[Held]:
    """All cycles in an order by seed; what is held, SAMPLE_COUNT times on the way."""
    count = arena.sizes["cycles"]
    for number in range(count):
        arena.random.choice(CYCLES)(mount.path, number)
        arena.figures.verified += 1
        if (number + 1) % (count // SAMPLE_COUNT) == 0:
            yield held_by(mount)


def look_for_leaks(arena: Arena) -> None:
    source = f"ceph:{SHARED_POOL}/{arena.folder.name}"
    with other_client(arena), arena.mounted(source, "cache_size=16M") as mount:
        prepare(mount.path)
        for cycle in CYCLES:
            cycle(mount.path, -1)
        before = held_by(mount)
        samples = list(repeat(arena, mount))
        if not verify_names(mount.path):
            raise RowFailed(f"left over: {os.listdir(mount.path)[:10]}")
        cycles = arena.sizes["cycles"] // 2
        grown_kib = samples[-1].resident_kib - samples[SAMPLE_COUNT // 2 - 1].resident_kib
        arena.figures.more = {
            "resident_kib": before.resident_kib,
            "grown_kib": samples[-1].resident_kib - before.resident_kib,
            "grown_kib_second_half": grown_kib,
            "descriptors": samples[-1].descriptors - before.descriptors,
            "threads": samples[-1].threads - before.threads,
        }
        text = f"before {before}, then {samples}"
        if samples[-1].descriptors > before.descriptors + DESCRIPTORS_MAX:
            raise RowFailed(f"descriptors leak: {text}")
        if samples[-1].threads > max(s.threads for s in samples[:3]) + THREADS_MAX:
            raise RowFailed(f"threads leak: {text}")
        if grown_kib > SLACK_KIB + cycles * SLOPE_MAX_BYTES // 1024:
            raise RowFailed(f"memory leaks: {text}")


def verify_names(root: Path) -> bool:
    return sorted(os.listdir(root)) == sorted(("file", "moved", "over", "grown", "listed"))


ROWS: Final = (
    Row(
        "leaks",
        "descriptors, threads and memory over many cycles",
        look_for_leaks,
        {"cycles": 5000},
        {"cycles": 200_000},
        limit_s=(300, 7200),
        faults_needed=False,
    ),
)
