"""Fills a pool with very many small objects: several processes, each with many under way.

    python -m benchmarks.fill CONF POOL      (standard input: a line for each object: BYTES NAME)

The content follows from the name.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import trio

from benchmarks.content import content
from benchmarks.peers.interface import ROOT
from benchmarks.processes import PeerError
from radosmount.config import StoreConfig
from radosmount.store.interface import Change, ObjectKey, WriteFull
from radosmount.store.rados.store import open_rados_store

PROCESS_COUNT: Final = 2
DEPTH: Final = 128


def fill(conf_path: Path, pool: str, objects: Iterable[tuple[str, int]]) -> None:
    """`objects`: names and sizes in bytes. Raises: PeerError."""
    command = [sys.executable, "-m", "benchmarks.fill", str(conf_path), pool]
    fillers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(PROCESS_COUNT)
    ]
    for number, (name, size) in enumerate(objects):
        pipe = fillers[number % PROCESS_COUNT].stdin
        assert pipe
        pipe.write(f"{size} {name}\n")
    for filler in fillers:
        assert filler.stdin
        filler.stdin.close()
    if any([filler.wait() for filler in fillers]):
        raise PeerError(f"the pool {pool} could not be filled")


async def store_all(conf_path: str, pool: str, lines: Iterator[str]) -> None:
    """`lines` is read where it blocks: nothing else is done here meanwhile."""
    store = await open_rados_store(StoreConfig(conf_path=conf_path))
    pool_id = next(found.pool_id for found in store.pools() if found.name == pool.encode())

    async def work() -> None:
        for line in lines:
            size, _, name = line.rstrip("\n").partition(" ")
            change = Change((WriteFull(content(name, int(size))),), mtime_s=1_500_000_000)
            await store.apply(ObjectKey(pool_id, b"", name.encode()), change)

    async with trio.open_nursery() as nursery:
        for _ in range(DEPTH):
            nursery.start_soon(work)
    await store.aclose()


if __name__ == "__main__":
    trio.run(store_all, sys.argv[1], sys.argv[2], iter(sys.stdin))
