"""The two drivers of the store side by side: small operations, from one trio loop, no mount.

    python -m benchmarks.drivers [--seconds 1] [--turns 3]

Starts a lab of its own. Drivers and turns are interleaved; shown is the median of the turns:
operations a second, and the CPU time of this process for one (all its threads, librados's too).
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from radosmount.config import Driver, StoreConfig
from radosmount.lab import Lab
from radosmount.store.interface import Change, ObjectKey, Write, WriteFull
from radosmount.store.rados.store import RadosStore, open_rados_store

POOL: Final = "drivers"
DRIVERS: Final[tuple[Driver, ...]] = ("binding", "native")
DEPTHS: Final = (1, 8, 64)
OBJECT_COUNT: Final = 64
OBJECT_BYTES: Final = 1 << 20
PAGE: Final = bytes(4096)

Call = Callable[[RadosStore, ObjectKey, int], Awaitable[object]]


async def stat(store: RadosStore, key: ObjectKey, _: int) -> object:
    return await store.stat(key)


async def read(store: RadosStore, key: ObjectKey, number: int) -> object:
    return await store.read(key, number * 4096 % OBJECT_BYTES, 4096)


async def stat_and_read(store: RadosStore, key: ObjectKey, _: int) -> object:
    return await store.stat_and_read(key, 4096)


async def write(store: RadosStore, key: ObjectKey, number: int) -> object:
    step = Write(number * 4096 % OBJECT_BYTES, PAGE)
    return await store.apply(key, Change((step,), mtime_s=1_500_000_000))


CALLS: Final[dict[str, Call]] = {
    "stat": stat,
    "read 4 KiB": read,
    "stat + read 4 KiB": stat_and_read,
    "write 4 KiB": write,
}


async def measure(store: RadosStore, call: Call, depth: int, seconds: float) -> tuple[float, float]:
    """Operations a second, and CPU seconds for each, with `depth` tasks that call in a row."""
    pool_id = next(pool.pool_id for pool in store.pools() if pool.name == POOL.encode())
    keys = [ObjectKey(pool_id, b"", b"object-%d" % index) for index in range(OBJECT_COUNT)]
    numbers = itertools.count()
    done_count = 0
    end_s = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done_count
        while time.perf_counter() < end_s:
            number = next(numbers)
            await call(store, keys[number % OBJECT_COUNT], number // OBJECT_COUNT)
            done_count += 1

    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(work)
    cpu_s = time.process_time() - begin_cpu_s
    return done_count / (time.perf_counter() - begin_s), cpu_s / done_count


async def turn(config: StoreConfig, seconds: float) -> dict[tuple[str, int], tuple[float, float]]:
    store = await open_rados_store(config)
    try:
        return {
            (name, depth): await measure(store, call, depth, seconds)
            for name, call in CALLS.items()
            for depth in DEPTHS
        }
    finally:
        await store.aclose()


async def fill(config: StoreConfig) -> None:
    store = await open_rados_store(config)
    pool_id = next(pool.pool_id for pool in store.pools() if pool.name == POOL.encode())
    for index in range(OBJECT_COUNT):
        change = Change((WriteFull(bytes(OBJECT_BYTES)),), mtime_s=1)
        await store.apply(ObjectKey(pool_id, b"", b"object-%d" % index), change)
    await store.aclose()


def run(lab: Lab, seconds: float, turn_count: int) -> None:
    configs = {name: StoreConfig(conf_path=str(lab.conf_path), driver=name) for name in DRIVERS}
    trio.run(fill, configs["binding"])
    turns: dict[Driver, list[dict[tuple[str, int], tuple[float, float]]]]
    turns = {name: [] for name in DRIVERS}
    for number in range(turn_count):
        for name in DRIVERS:
            print(f"turn {number + 1} of {turn_count}: {name}", flush=True)
            turns[name].append(trio.run(turn, configs[name], seconds))
    print(f"\n{'operation':18} {'depth':>5}" + "".join(f" {n:>9}/s {'CPU µs':>6}" for n in DRIVERS))
    for call, depth in itertools.product(CALLS, DEPTHS):
        cells = ""
        for driver in DRIVERS:
            results = [measured[call, depth] for measured in turns[driver]]
            rate, cpu_s = (statistics.median(column) for column in zip(*results, strict=True))
            cells += f" {rate:11.0f} {cpu_s * 1e6:6.0f}"
        print(f"{call:18} {depth:5}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="lab.") as folder,
        Lab(Path(folder) / "ceph", 1, pools=(POOL,)) as lab,
    ):
        run(lab, arguments.seconds, arguments.turns)


if __name__ == "__main__":
    main()
