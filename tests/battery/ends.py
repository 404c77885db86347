"""Every orderly end of a mount while it is dirty, is being written to, and its OSD is slow."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from radosmount.config import KIB, MIB
from radosmount.fuse.mounts import find_mount
from radosmount.lab import Lab
from tests.battery.kills import DEAD_MOUNT
from tests.battery.row import Arena, Objects, Row, RowFailed
from tests.mount.mounting import Mount

OPTIONS: Final = "flush=lazy,dirty_expire=3600"
DELAY_S: Final = 0.02  # of every message that the OSD takes
SMALL_COUNT: Final = 8
SMALLEST_BYTES: Final = 4 * KIB
FACTOR: Final = 4 * KIB  # of the largest small file, to the smallest
BIG_BYTES: Final = 40 * MIB
PIECE_BYTES: Final = 256 * KIB
PIECE_COUNT_MAX: Final = 400  # within the size of one object
PIECE_PAUSE_S: Final = 0.005
END_LIMIT_S: Final = 60.0


@contextlib.contextmanager
def slow_osd(lab: Lab) -> Iterator[None]:
    """By its admin socket: ceph(8) takes as long to start as a whole end does."""

    def delay(probability: int) -> None:
        for name, value in (("duration", DELAY_S), ("probability", probability)):
            key = f"osd_debug_inject_dispatch_delay_{name}"
            command = {"prefix": "config set", "var": key, "val": [str(value)]}
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(str(lab.directory / "run" / "osd.0.asok"))
                admin.sendall(json.dumps(command).encode() + b"\0")
                reply = admin.makefile("rb").read()
            if b"success" not in reply:
                raise RowFailed(f"the OSD refuses {command}: {reply!r}")

    delay(1)
    try:
        yield
    finally:
        delay(0)


class OpenFile:
    """A file that is written all the time, until its mount goes or `finish`."""

    def __init__(self, path: Path, common: bytes) -> None:
        self.path = path
        self.written_bytes = 0  # write(2) has returned
        self._common = common
        self._over = threading.Event()
        self._has_begun = threading.Event()

    @contextlib.contextmanager
    def being_written(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(self._write)
            try:
                while not self._has_begun.wait(0.1) and not future.done():
                    pass
                yield
            finally:
                self._over.set()
        future.result()

    def _write(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        try:
            for number in range(PIECE_COUNT_MAX):
                piece = self.content((number + 1) * PIECE_BYTES, number * PIECE_BYTES)
                if os.write(descriptor, piece) != len(piece):
                    raise RowFailed("a write was cut short")
                self.written_bytes += len(piece)
                if number == 20:
                    self._has_begun.set()
                if self._over.wait(PIECE_PAUSE_S):
                    break
            self._over.wait()
        except OSError as failure:
            if failure.errno not in DEAD_MOUNT:
                raise
        finally:
            self._has_begun.set()
            with contextlib.suppress(OSError):  # flush=lazy: it tells nothing of the bytes
                os.close(descriptor)

    def content(self, end: int, begin: int = 0) -> bytes:
        """Every piece has its number first."""
        numbers = range(begin // PIECE_BYTES, -(-end // PIECE_BYTES))
        content = b"".join(number.to_bytes(8, "big") + self._common for number in numbers)
        return content[: end - begin]

    def check(self, found: bytes | None) -> int:
        """Every write that returned is in it; of the next one any part may be."""
        size = len(found or b"")
        if not self.written_bytes <= size <= self.written_bytes + PIECE_BYTES:
            raise RowFailed(f"{self.path.name}: {self.written_bytes} written, {size} stored")
        if found != self.content(size):
            raise RowFailed(f"{self.path.name}: other bytes than were written")
        return size


def by_signal(mount: Mount, open_file: OpenFile, objects: Objects) -> None:
    with open_file.being_written():
        mount.stop(signal.SIGTERM)


def by_fusermount(mount: Mount, open_file: OpenFile, objects: Objects) -> None:
    """It refuses while a file is open."""
    with open_file.being_written():
        if run("fusermount3", "-u", str(mount.path)).returncode == 0:
            raise RowFailed("fusermount3 -u took a mount away that is in use")
    succeed("fusermount3", "-u", str(mount.path))


def by_lazy_umount(mount: Mount, open_file: OpenFile, objects: Objects) -> None:
    """Who has a file open goes on with it."""
    with open_file.being_written():
        written_bytes = open_file.written_bytes
        succeed("umount", "-l", str(mount.path))
        if find_mount(str(mount.path)):
            raise RowFailed("still mounted")
        time.sleep(20 * PIECE_PAUSE_S)
    if open_file.written_bytes == written_bytes:
        raise RowFailed("nothing was written to a mount that is away")


def by_radosmount(mount: Mount, open_file: OpenFile, objects: Objects) -> None:
    """In use it is flushed, and stays."""
    command = (sys.executable, "-m", "radosmount", "umount", str(mount.path))
    with open_file.being_written():
        written_bytes = open_file.written_bytes
        refused = run(*command)
        if refused.returncode != 32 or "in use" not in refused.stderr:
            raise RowFailed(f"radosmount umount of a mount in use: {refused}")
        stored = objects.read_whole(open_file.path.name) or b""
        if stored[:written_bytes] != open_file.content(written_bytes):
            raise RowFailed("radosmount umount has not flushed an open file")
    succeed(*command)
    if mount.process is None or mount.process.poll() is None:
        raise RowFailed("radosmount umount did not wait")


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=END_LIMIT_S)


def succeed(*command: str) -> None:
    result = run(*command)
    if result.returncode:
        raise RowFailed(f"{command}: {result}")


ENDS: Final[dict[str, Callable[[Mount, OpenFile, Objects], None]]] = {
    "SIGTERM": by_signal,
    "fusermount3 -u": by_fusermount,
    "umount -l": by_lazy_umount,
    "radosmount umount": by_radosmount,
}


def orderly_ends(arena: Arena) -> None:
    """Every write that returned is in RADOS when the process has ended with 0."""
    expected: dict[str, bytes] = {}
    with arena.objects() as objects:
        for number in range(arena.sizes["rounds"]):
            for kind, end in ENDS.items():
                prefix = f"{kind.replace(' ', '-')}-{number}"
                expected |= end_while_dirty(arena, objects, prefix, end)
    with arena.mounted(arena.source) as mount:
        for name, content in expected.items():
            if (mount.path / name).read_bytes() != content:
                raise RowFailed(f"{name} reads wrong on a new mount")
            arena.figures.verified_bytes += len(content)


def end_while_dirty(
    arena: Arena,
    objects: Objects,
    prefix: str,
    end: Callable[[Mount, OpenFile, Objects], None],
) -> dict[str, bytes]:
    """Returns what has to be there."""
    objects.ioctx.write_full(f"{prefix}-old", arena.random.randbytes(SMALLEST_BYTES * 10))
    contents = {f"{prefix}-old": objects.read_whole(f"{prefix}-old") or b""}
    mount = arena.make_mount()
    mount.start(arena.lab, arena.source, OPTIONS)
    with (mount.path / f"{prefix}-old").open("r+b") as file:
        file.write(b"overwritten")
    contents[f"{prefix}-old"] = b"overwritten" + contents[f"{prefix}-old"][11:]
    sizes = [int(SMALLEST_BYTES * FACTOR ** arena.random.random()) for _ in range(SMALL_COUNT)]
    for number, size in enumerate([*sizes, BIG_BYTES]):
        name = f"{prefix}-{number}"
        contents[name] = arena.random.randbytes(size)
        (mount.path / name).write_bytes(contents[name])
    unstored = [name for name, content in contents.items() if objects.read_whole(name) != content]
    if len(unstored) < SMALL_COUNT:
        raise RowFailed(f"only these are dirty: {unstored}")
    common = arena.random.randbytes(PIECE_BYTES - 8)
    open_file = OpenFile(mount.path / f"{prefix}-open", common)
    began_s = time.monotonic()
    with slow_osd(arena.lab):
        end(mount, open_file, objects)
        code = mount.process.wait(END_LIMIT_S) if mount.process else None
    if code != 0:
        raise RowFailed(f"{prefix}: the process did not end with 0")
    took_s = round(time.monotonic() - began_s, 1)
    more = arena.figures.more
    more["longest_s"] = max(took_s, float(more.get("longest_s", 0)))
    mount.check_log()
    if find_mount(str(mount.path)) or list(mount.folder.glob("spool/*")):
        raise RowFailed(f"{prefix}: it is still mounted, or something was not stored")
    for name, content in contents.items():
        if (stored := objects.read_whole(name)) != content:
            raise RowFailed(f"{name}: {len(stored or b'')} of {len(content)} bytes, or wrong ones")
        arena.figures.verified_bytes += len(content)
    size = open_file.check(objects.read_whole(open_file.path.name))
    arena.figures.verified_bytes += size
    arena.figures.verified += len(contents) + 1
    arena.figures.faults += 1
    return {**contents, open_file.path.name: open_file.content(size)}


ROWS = (
    Row(
        "ends-while-dirty",
        "SIGTERM, fusermount3 -u, umount -l and radosmount umount of a mount with flush=lazy that "
        "is full of unstored files, while a big file is being written and the OSD is slow: every "
        "write that returned is in RADOS when the process ends, and it ends with 0",
        orderly_ends,
        {"rounds": 2},
        {"rounds": 10},
    ),
)
