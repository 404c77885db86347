"""The tree view of a pool that cannot be listed, as with a dead OSD."""

import pytest
import trio
from trio.testing import MockClock

from radosmount.errors import NoSuchEntry, TimedOut
from radosmount.store.memory import Call
from radosmount.vfs.directories import IMPLIED_FRESHNESS_S
from radosmount.vfs.nodes import ROOT_INO
from radosmount.vfs.trees import FAILURE_FRESHNESS_S
from tests.support.mounts import MountBench, started
from tests.support.stores import key_of, traceback_depth

LISTING_TIMEOUT_S = 20.0


class Unlistable:
    """Has listings fail late while `is_dead`, and counts them."""

    def __init__(self, bench: MountBench) -> None:
        self.bench = bench
        self.is_dead = True
        self.count = 0
        bench.store.delay = self.delay

    async def delay(self, call: Call) -> None:
        if call.method == "list_objects":
            self.count += 1
            if self.is_dead:
                await trio.sleep(LISTING_TIMEOUT_S)
            if self.is_dead:
                raise TimedOut("no answer")


async def exists(bench: MountBench, name: bytes) -> bool:
    try:
        await bench.fs.lookup(ROOT_INO, name)
    except NoSuchEntry:
        return False
    return True


async def test_objects_are_found_without_an_index(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A mount that begins then finds objects and marked directories by themselves; what may be a
    directory by the names below it is unknown. Nobody waits again for each."""
    bench = await started(nursery)
    pool = Unlistable(bench)
    for name in (b"f", b"d/", b"implied/f"):
        bench.store.put_now(key_of(name), b"")
    began_s = trio.current_time()
    assert await exists(bench, b"f")
    assert trio.current_time() - began_s <= LISTING_TIMEOUT_S
    assert await exists(bench, b"d")
    depths = set()
    for name in (b"implied", b"missing", b"missing too"):
        with pytest.raises(TimedOut) as failure:
            await exists(bench, name)
        depths.add(traceback_depth(failure.value))
    assert len(depths) == 1  # the same error, which does not grow
    assert trio.current_time() - began_s <= LISTING_TIMEOUT_S
    pool.is_dead = False
    await trio.sleep(LISTING_TIMEOUT_S + 1)
    assert await exists(bench, b"implied")
    assert not await exists(bench, b"missing")


async def test_an_old_index_is_better_than_none(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Names are looked up by what was known last, and new ones can be made."""
    bench = await started(nursery)
    bench.store.put_now(key_of(b"implied/f"), b"")
    assert await exists(bench, b"implied")
    pool = Unlistable(bench)
    await trio.sleep(IMPLIED_FRESHNESS_S + 1)
    assert await exists(bench, b"implied")
    assert not await exists(bench, b"missing")
    began_s = trio.current_time()
    for _ in range(3):
        assert not await exists(bench, b"missing")
    assert trio.current_time() == began_s
    bench.store.put_now(key_of(b"missing/f"), b"")
    pool.is_dead = False
    await trio.sleep(FAILURE_FRESHNESS_S + LISTING_TIMEOUT_S)
    assert await exists(bench, b"missing")
    assert pool.count >= 2
