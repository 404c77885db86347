"""A page cache and a file system over a memory store, as most unit tests want them."""

import pytest
import trio

from tests.support.mounts import MountBench
from tests.support.stores import CacheBench


@pytest.fixture
async def mount(nursery: trio.Nursery) -> MountBench:
    bench = MountBench(nursery)
    await bench.fs.start()
    return bench


@pytest.fixture
def bench(nursery: trio.Nursery) -> CacheBench:
    return CacheBench(nursery)


@pytest.fixture
def many(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> CacheBench:
    """Flushes of several operations: 4 bytes an extent, 4 an operation."""
    monkeypatch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
    monkeypatch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 4)
    return CacheBench(nursery, atomic_max_bytes=0)
