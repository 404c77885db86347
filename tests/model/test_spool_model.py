"""Whatever a program has written and the store has not taken comes back from the spool."""
# ruff: noqa: ASYNC240 - one small local file

import os
import tempfile

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radosmount.errors import SpoolError
from radosmount.restore import Manner, restore_file
from tests.model.test_cache_model import BUDGET_BYTES, Operation, World, operations, small_pieces
from tests.support.schedules import run_seeded
from tests.support.stores import POOL_ID, CacheBench

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")


async def play(
    before: bytes | None, atomic_max: int, operations: list[Operation], is_refused: bool
) -> None:
    """`is_refused`: the store takes nothing any more, for good; else the mount is cancelled."""
    with tempfile.TemporaryDirectory() as directory:
        async with trio.open_nursery() as nursery:
            bench = CacheBench(
                nursery,
                size_bytes=BUDGET_BYTES,
                atomic_max_bytes=atomic_max,
                timeout_s=1e9,
                spool_directory=directory,
            )
            nursery.start_soon(bench.cache.run)
            file = bench.new_file() if before is None else bench.stored_file(before)
            world = World(bench, file, bytearray(before or b""), nursery)
            bench.store.delay = world.delay
            for operation in operations:
                await world.apply(operation)
                await world.check()
            if is_refused:
                await refuse(world)
            mtime_s, xattrs = file.mtime_s, file.staged_xattrs
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await bench.cache.spool_unstored()
        bench.store.delay = None
        for name in os.listdir(directory):
            await restore(bench, os.path.join(directory, name))
        assert bench.stored() == bytes(world.model)
        if not is_refused:
            assert bench.stat().mtime_s == mtime_s
            stored = bench.store.xattrs_now(file.key)
            assert all(stored.get(name) == value for name, value in xattrs.items())


async def refuse(world: World) -> None:
    await world.apply(("let go",))
    bench, file = world.bench, world.file
    bench.store.set_caps(POOL_ID, is_readable=True, is_writable=False)
    file.writer_count = 0
    for _ in range(10):  # transient failures come first, if any were ordered
        await bench.cache.flush(file)
    assert file.is_clean
    bench.store.set_caps(POOL_ID, is_readable=True, is_writable=True)


async def restore(bench: CacheBench, path: str) -> None:
    """Failures that were ordered for flushes hit this, too."""
    while os.path.exists(path):
        try:
            await restore_file(bench.store, path, Manner())
        except SpoolError as failure:
            if "injected" not in str(failure):
                raise


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1000),
    before=st.none() | st.binary(max_size=20),
    atomic_max=st.sampled_from([0, 10, 1000]),
    operations=operations,
    is_refused=st.booleans(),
)
@example(  # an append of several operations is under way: moving it would double its beginning
    seed=2,
    before=b"0",
    atomic_max=0,
    operations=[
        ("append", b"1"),
        ("append", b"012345678"),
        ("append", b"0123456789"),
        ("fail", 0, 1, False),
    ],
    is_refused=False,
)
def test_nothing_is_lost(
    seed: int,
    before: bytes | None,
    atomic_max: int,
    operations: list[Operation],
    is_refused: bool,
) -> None:
    """The store's content after restoring is what a program on the mount had seen, whatever the
    store had refused, delayed, or applied without an answer."""

    async def main() -> None:
        await play(before, atomic_max, operations, is_refused)

    with small_pieces():
        run_seeded(seed, main)
