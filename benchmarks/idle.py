"""What waiting costs on this machine: the part of a small operation's CPU that is nobody's work.

Whoever keeps his promises sleeps in each round trip. A core that keeps its caches meanwhile goes
on as before; a virtual machine that gives the core back finds them cold, and is slow to wake.
So the same calls of radosmount, over a store in memory, are timed in a loop and after sleeps.
"""

import contextlib
import os
import socket
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from radosmount.config import CacheConfig, ViewConfig
from radosmount.errors import NoSuchEntry
from radosmount.store.memory import MemoryStore
from radosmount.vfs.filesystem import Filesystem
from radosmount.vfs.nodes import ROOT_INO

T = TypeVar("T")

SLEEP_S: Final = 1e-3  # about one acknowledged write
FILE_COUNT: Final = 100
PAGE: Final = bytes(4096)
POOL: Final = b"pool"
WAKE_COUNT: Final = 3000


def about() -> str:
    """One line for the report."""
    awake_us, asleep_us = trio.run(create_us, 0.0), trio.run(create_us, SLEEP_S)
    wake_us = wake_up_us()
    wake = "there is one only" if wake_us is None else f"{wake_us:.0f} µs"
    return (
        f"radosmount's calls for a new file, over a store in memory: {awake_us:.0f} µs in a loop,"
        f" {asleep_us:.0f} µs after {SLEEP_S * 1e3:g} ms of sleep before each;"
        f" to wake another core: {wake}"
    )


async def create_us(sleep_s: float) -> float:
    """Median of the time that the calls of one create take, each after so long a sleep."""
    async with trio.open_nursery() as nursery:
        store = MemoryStore()
        store.add_pool(POOL)
        filesystem = Filesystem(store, ViewConfig(pool=POOL), CacheConfig(), nursery)
        await filesystem.start()
        names = [b"file-%d" % number for number in range(FILE_COUNT)]
        used_s = [await create_s(filesystem, name, sleep_s) for name in names]
        nursery.cancel_scope.cancel()
    return statistics.median(used_s) * 1e6


async def create_s(filesystem: Filesystem, name: bytes, sleep_s: float) -> float:
    """The seconds of the calls alone."""
    used_s = 0.0

    async def timed(call: Callable[[], Awaitable[T]]) -> T:
        nonlocal used_s
        if sleep_s:
            time.sleep(sleep_s)  # noqa: ASYNC251 # the core is to be idle
        began_s = time.perf_counter()
        try:
            return await call()
        finally:
            used_s += time.perf_counter() - began_s

    with contextlib.suppress(NoSuchEntry):
        await timed(lambda: filesystem.lookup(ROOT_INO, name))
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    opened, _ = await timed(lambda: filesystem.create(ROOT_INO, name, flags))
    await timed(lambda: filesystem.write(opened.handle, 0, PAGE))
    await timed(lambda: filesystem.flush(opened.handle))
    await timed(lambda: filesystem.release(opened.handle))
    return used_s


def wake_up_us() -> float | None:
    """From a send(2) on one core until a thread that waited on another has it, in µs. None
    where there is no other core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs:  # its end, however that comes about, is the end of who waits for it
            os.sched_setaffinity(0, {cores[1]})  # of this thread
            while byte := theirs.recv(1):
                theirs.send(byte)

    other = threading.Thread(target=answer)
    other.start()
    try:
        with ours:
            os.sched_setaffinity(0, {cores[0]})
            began_s = time.perf_counter()
            for _ in range(WAKE_COUNT):
                ours.send(b"x")
                if not ours.recv(1):
                    raise RuntimeError("nobody answers on the other core")
            used_s = time.perf_counter() - began_s
    finally:
        os.sched_setaffinity(0, cores)
        other.join()
    return used_s / WAKE_COUNT / 2 * 1e6
