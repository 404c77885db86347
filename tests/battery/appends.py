"""Appends whose replies are lost: each is there exactly once all the same.

The mount's own ceph options hold back replies of the OSD for longer than `timeout`: the operation
is applied, and the mount does not hear of it.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import rados

from tests.battery.behind import other_client
from tests.battery.row import Arena, Row, RowFailed
from tests.support.cluster import SHARED_POOL

T = TypeVar("T")

FILE_COUNT: Final = 12
WRITER_COUNT: Final = 2  # of each file
TIMEOUT_S: Final = 1
# Of 10 messages of the OSD one waits for up to 3 s, and those behind it wait with it.
LOSING: Final = (
    "--ms_inject_delay_type=osd",
    "--ms_inject_delay_probability=0.1",
    "--ms_inject_delay_max=3",
)
LINE_BYTES_MAX: Final = 3000
ROUND_S: Final = 4.0
TRY_COUNT_MAX: Final = 60
LOST: Final = "is not stored, its bytes are kept"
EXPECTED_LOG: Final = (LOST, "timed out", "nothing was acknowledged", "no answer in")


def append(path: Path, writer: int, seed: int, end_s: float) -> int:
    """One of the writers: it returns how many lines it wrote."""
    rng, number = random.Random(seed), 0
    descriptor = until_in_time(lambda: os.open(path, os.O_WRONLY | os.O_APPEND))
    while time.monotonic() < end_s:
        line = line_of(writer, number)
        if os.write(descriptor, line) != len(line):
            raise RowFailed("a part of a line was written")
        number += 1
        if rng.random() < 0.8:
            with contextlib.suppress(TimeoutError):  # its bytes are kept, and stored some time
                os.fsync(descriptor)
    until_in_time(lambda: os.fsync(descriptor))
    with contextlib.suppress(TimeoutError):
        os.close(descriptor)
    return number


def until_in_time(call: Callable[[], T]) -> T:
    for _ in range(TRY_COUNT_MAX):
        with contextlib.suppress(TimeoutError):
            return call()
    raise RowFailed(f"timed out {TRY_COUNT_MAX} times in a row")


def line_of(writer: int, number: int) -> bytes:
    return b"%d %d %s\n" % (writer, number, b"x" * (number * 1237 % LINE_BYTES_MAX))


def lose_replies(arena: Arena) -> None:
    """As many as `losses`; then every line of every writer is there once, in its order."""
    line_count = loss_count = round_count = 0
    with other_client(arena) as objects:
        while loss_count < arena.sizes["losses"]:
            names = [f"log-{round_count}-{number}" for number in range(FILE_COUNT)]
            counts, losses = append_to(arena, objects, names)
            for name in names:
                verify(arena, objects, name, counts[name])
                line_count += sum(counts[name])
            loss_count += losses
            round_count += 1
    arena.figures.faults = loss_count
    arena.figures.more = {"lines": line_count, "files": round_count * FILE_COUNT}


def append_to(
    arena: Arena, objects: rados.Ioctx, names: list[str]
) -> tuple[dict[str, list[int]], int]:
    """Each file by its writers, through a mount of all: their lines, and the replies lost."""
    for name in names:
        objects.write_full(name, b"")
    mount = arena.make_mount()
    source = f"ceph:{SHARED_POOL}/{arena.folder.name}"
    mount.start(arena.lab, source, f"names=flat,timeout={TIMEOUT_S}", words=LOSING)
    end_s = time.monotonic() + ROUND_S
    with ThreadPoolExecutor(len(names) * WRITER_COUNT) as writers:
        try:
            running = {
                name: [
                    writers.submit(
                        append, mount.path / name, writer, arena.random.getrandbits(32), end_s
                    )
                    for writer in range(WRITER_COUNT)
                ]
                for name in names
            }
            counts = {name: [writer.result() for writer in running[name]] for name in names}
        except BaseException:
            mount.kill()  # so that no writer waits for it
            raise
    if mount.stop():
        raise RowFailed(f"the mount did not end well:\n{mount.log()[-4000:]}")
    losses = mount.log().count(LOST)
    mount.check_log(EXPECTED_LOG)
    mount.clean_up()
    arena.mounts.remove(mount)
    return counts, losses


def verify(arena: Arena, objects: rados.Ioctx, name: str, counts: list[int]) -> None:
    size, _ = objects.stat(name)
    content = objects.read(name, size + 1)
    lines = content.splitlines(keepends=True)
    for writer, count in enumerate(counts):
        mine = [line for line in lines if line.startswith(b"%d " % writer)]
        expected = [line_of(writer, number) for number in range(count)]
        if mine != expected:
            numbers = [line[:20] for line in mine]
            missing = [line[:20] for line in expected if line not in set(mine)]
            doubled = sorted({n for n in numbers if numbers.count(n) > 1})
            raise RowFailed(f"{name}: missing {missing[:5]}, doubled {doubled[:5]}, or disordered")
    if len(lines) != sum(counts):
        raise RowFailed(f"{name}: {len(lines)} lines of {sum(counts)}")
    arena.figures.verified += len(lines)
    arena.figures.verified_bytes += len(content)


ROWS: Final = (
    Row(
        "appends",
        "appends whose replies are lost",
        lose_replies,
        {"losses": 50},
        {"losses": 1000},
        limit_s=(300, 7200),
    ),
)
