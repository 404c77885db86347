"""A pool at its quota, a cluster that is full, and room again."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from radosmount.config import KIB, MIB
from radosmount.lab import Lab
from tests.battery.row import Arena, Row, RowFailed
from tests.mount.calls import can, eventually, fails
from tests.mount.mounting import Mount

FULL: Final = {"quota": errno.EDQUOT, "cluster": errno.ENOSPC}
FLAG_LIMIT_S: Final = 90.0  # the monitor looks every few seconds
AT_ONCE_S: Final = 8.0  # far below `timeout`, after which all would fail
SOME_BYTES: Final = 256 * KIB
# A writer is told at fsync; the log has a line, too.
EXPECTED: Final = ("is not stored", "Disk quota exceeded", "No space left")


def is_full(lab: Lab, pool: str) -> bool:
    pools = json.loads(lab.ceph("osd", "pool", "ls", "detail", "--format=json"))
    [flags] = [found["flags_names"] for found in pools if found["pool_name"] == pool]
    return "full" in flags.split(",")


def set_full(lab: Lab, pool: str, kind: str, *, full: bool) -> None:
    if kind == "quota":
        lab.ceph("osd", "pool", "set-quota", pool, "max_bytes", str(MIB if full else 0))
    else:
        ratios = (0.0001, 0.0002, 0.0003) if full else (0.85, 0.9, 0.95)
        for name, ratio in zip(("nearfull", "backfillfull", "full"), ratios, strict=True):
            lab.ceph("osd", f"set-{name}-ratio", str(ratio))


class Waiter:
    """Writes one piece, and tries until it is stored."""

    def __init__(self, path: Path, piece: bytes) -> None:
        self.path = path
        self.piece = piece
        self.refusals = 0
        self.refused = threading.Event()

    def work(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(descriptor, self.piece)
            while not can(lambda: os.fsync(descriptor), *FULL.values()):
                self.refusals += 1
                self.refused.set()
                time.sleep(0.2)
        finally:
            self.refused.set()
            os.close(descriptor)


def full_and_room_again(arena: Arena) -> None:
    longest_s = 0.0
    for number in range(arena.sizes["rounds"]):
        for kind in FULL:
            pool = f"full-{kind}-{number}"
            arena.lab.create_pool(pool)
            with arena.mounted(f"ceph:{pool}", expected=EXPECTED) as mount:
                took_s = fill_up(arena, mount, pool, kind)
                longest_s = max(longest_s, took_s)
            arena.lab.delete_pool(pool)
    arena.figures.more["longest_room_again_s"] = round(longest_s, 1)


def fill_up(arena: Arena, mount: Mount, pool: str, kind: str) -> float:
    """Returns how long the bytes that waited took, once there was room."""
    contents = {f"kept-{n}": arena.random.randbytes(SOME_BYTES) for n in range(6)}
    for name, content in contents.items():
        (mount.path / name).write_bytes(content)
    set_full(arena.lab, pool, kind, full=True)
    eventually(lambda: is_full(arena.lab, pool), FLAG_LIMIT_S)
    arena.figures.faults += 1
    number = FULL[kind]
    # The mount's client hears of the flag with its next map at the latest.
    refused = mount.path / "refused"
    eventually(lambda: not can(lambda: store(refused, SOME_BYTES), number), FLAG_LIMIT_S)
    at_once(lambda: refuses(lambda: store(refused, SOME_BYTES), number))
    waiter = Waiter(mount.path / "waiter", arena.random.randbytes(SOME_BYTES))
    with ThreadPoolExecutor(1) as pool_of_one:
        waiting = pool_of_one.submit(waiter.work)
        if not waiter.refused.wait(AT_ONCE_S) or not waiter.refusals:
            raise RowFailed("fsync of a new file was not refused at once")
        at_once(lambda: (mount.path / "kept-0").unlink())
        del contents["kept-0"]
        at_once(lambda: os.truncate(mount.path / "kept-1", KIB))
        contents["kept-1"] = contents["kept-1"][:KIB]
        part = arena.random.randbytes(10 * KIB)
        at_once(lambda: overwrite(mount.path / "kept-2", part))
        contents["kept-2"] = part + contents["kept-2"][len(part) :]
        at_once(lambda: os.setxattr(mount.path / "kept-3", "user.k", b""))
        check(arena, pool, contents)
        set_full(arena.lab, pool, kind, full=False)
        eventually(lambda: not is_full(arena.lab, pool), FLAG_LIMIT_S)
        began_s = time.monotonic()
        waiting.result(FLAG_LIMIT_S)
        took_s = time.monotonic() - began_s
    contents["waiter"] = waiter.piece
    contents["refused"] = bytes(refused.stat().st_size)  # closed long ago
    eventually(lambda: arena.lab.rados("-p", pool, "ls").count(b"refused") == 1)
    check(arena, pool, contents)
    for name, content in contents.items():
        if (mount.path / name).read_bytes() != content:
            raise RowFailed(f"{name} reads wrong")
    arena.figures.verified += 6
    return took_s


def store(path: Path, size: int) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(bytes(size))
        os.fsync(file.fileno())


def overwrite(path: Path, part: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(part)
        os.fsync(file.fileno())


def refuses(call: Callable[[], None], number: int) -> None:
    with fails(number):
        call()


def at_once(call: Callable[[], None]) -> None:
    began_s = time.monotonic()
    call()
    took_s = time.monotonic() - began_s
    if took_s > AT_ONCE_S:
        raise RowFailed(f"took {took_s:.1f} s")


def check(arena: Arena, pool: str, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        if arena.lab.rados("-p", pool, "get", name, "-") != content:
            raise RowFailed(f"{name} is not stored as it should be")
        arena.figures.verified_bytes += len(content)


ROWS = (
    Row(
        "full",
        "a pool over its quota, then a full cluster, then room again: writing fails with EDQUOT "
        "or ENOSPC at once, rm, truncate and overwriting in place work, what was acknowledged "
        "stays, and what waits is stored by itself when there is room",
        full_and_room_again,
        {"rounds": 1},
        {"rounds": 10},
        limit_s=(400, 7200),
        needs_own_lab=True,
    ),
)
