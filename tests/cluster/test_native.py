"""The compiled module under load: where a mistake would be a crash, a leak or foreign bytes."""

import contextlib
import gc
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from radosmount import errors
from radosmount.config import StoreConfig
from radosmount.lab import Lab
from radosmount.store.interface import (
    AtVersion,
    Change,
    Existence,
    ObjectKey,
    Remove,
    SetOmap,
    SetXattr,
    Write,
    WriteFull,
)
from radosmount.store.rados.store import RadosStore, open_rados_store

pytest.importorskip("radosmount.store.rados.native._native", reason="not built")

T0 = 1_500_000_000
TASK_COUNT = 64


@pytest.fixture
async def store(lab: Lab) -> AsyncIterator[RadosStore]:
    opened = await open(lab)
    yield opened
    await opened.aclose()


async def open(lab: Lab) -> RadosStore:
    return await open_rados_store(StoreConfig(conf_path=str(lab.conf_path), driver="native"))


@pytest.fixture
def place(store: RadosStore, shared_pool: str, namespace: str) -> ObjectKey:
    return place_in(store, shared_pool, namespace)


def place_in(store: RadosStore, pool_name: str, namespace: str) -> ObjectKey:
    [pool] = [pool for pool in store.pools() if pool.name == pool_name.encode()]
    return ObjectKey(pool.pool_id, namespace.encode(), b"object")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def content(number: int, length: int) -> bytes:
    return (b"%08d" % number) * (length // 8)


async def one_call(store: RadosStore, place: ObjectKey, choice: random.Random) -> None:
    """Any call on one of a few objects; whatever is read must be what was once written there."""
    number = choice.randrange(32)
    # More places than ioctxs are kept: some are retired with calls in flight on them.
    locator = b"" if choice.random() < 0.8 else b"l%d" % choice.randrange(100)
    key = place._replace(name=b"object-%d" % number, locator=locator)
    length = choice.choice((8, 4096, 4096, 65536, 262144))
    match choice.randrange(9):
        case 0 | 1:
            stat = await store.stat(key)
            assert stat.size % 8 == 0
        case 2 | 3:
            found = await store.read(key, 8 * choice.randrange(4), length)
            assert found.data == content(number, len(found.data))
        case 4:
            both, found = await store.stat_and_read(key, length)
            assert found.version == both.version
            assert found.data == content(number, min(both.size, length))
        case 5:
            values = (await store.get_xattrs(key)).values
            assert set(values) <= {b"a", b"b"}
        case 6:
            steps = (
                WriteFull(content(number, length)),
                SetXattr(b"a", b"x" * 300),
                SetOmap({b"k": b"v"}),
            )
            await store.apply(key, Change(steps, mtime_s=T0))
        case 7:
            guard = choice.choice((AtVersion(5), Existence.PRESENT, Existence.ANY))
            await store.apply(key, Change((Write(0, content(number, 8)),), guard, T0))
        case 8:
            if choice.random() < 0.3:
                await store.apply(key, Change((Remove(),)))
            else:
                await store.get_omap(key)


async def many_calls(
    store: RadosStore, place: ObjectKey, seed: int, count: int, cancel_share: float
) -> None:
    choice = random.Random(seed)
    for _ in range(count):
        with contextlib.suppress(errors.ObjectNotFound, errors.VersionConflict):
            if choice.random() < cancel_share:
                with trio.move_on_after(choice.random() * 0.003):
                    await one_call(store, place, choice)
            else:
                await one_call(store, place, choice)


async def test_mixed_calls_with_cancellations(store: RadosStore, place: ObjectKey) -> None:
    """Thousands of calls of all kinds, a third abandoned at some moment, with collections of
    garbage between: every answer is the caller's own."""

    async def collect() -> None:
        while True:
            await trio.sleep(0.01)
            gc.collect()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        async with trio.open_nursery() as callers:
            for seed in range(TASK_COUNT):
                callers.start_soon(many_calls, store, place, seed, 120, 0.3)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(6))
async def test_end_with_calls_in_flight(
    lab: Lab, shared_pool: str, namespace: str, seed: int
) -> None:
    """The end waits for calls that nobody waits for any more; later ones are refused."""
    store = await open(lab)
    place = place_in(store, shared_pool, namespace)
    async with trio.open_nursery() as nursery:
        for number in range(TASK_COUNT):
            nursery.start_soon(many_calls, store, place, seed + number, 100, 0.0)
        await trio.sleep(0.02 * seed)
        nursery.cancel_scope.cancel()
    gc.collect()
    await store.aclose()
    with pytest.raises(errors.Disconnected):
        await store.stat(place)


async def test_end_below_calls_that_wait(lab: Lab, shared_pool: str, namespace: str) -> None:
    """Those who wait get their answers, or hear that it is over."""
    store = await open(lab)
    place = place_in(store, shared_pool, namespace)

    async def call() -> None:
        with contextlib.suppress(errors.Disconnected):
            await many_calls(store, place, 1, 1000, 0.0)

    async with trio.open_nursery() as nursery:
        for _ in range(TASK_COUNT):
            nursery.start_soon(call)
        await trio.sleep(0.1)
        await store.aclose()


async def test_large_writes_are_copied_beside_the_loop(store: RadosStore, place: ObjectKey) -> None:
    """Cancelled at any moment after they have begun, they take place all the same."""
    for number in range(8):
        key = place._replace(name=b"large-%d" % number)
        data = bytes([number]) * (8 << 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.apply, key, Change((WriteFull(data),), mtime_s=T0))
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.0005 * number)
            nursery.cancel_scope.cancel()
        with trio.fail_after(20):
            while True:
                with contextlib.suppress(errors.ObjectNotFound):
                    assert (await store.read(key, 0, 16 << 20)).data == data
                    break
        await store.apply(key, Change((Remove(),)))


async def test_memory_does_not_grow(store: RadosStore, place: ObjectKey) -> None:
    """200,000 calls that succeed, fail and are abandoned leave nothing behind."""
    await store.apply(place, Change((WriteFull(bytes(4096)), SetXattr(b"a", b"b")), mtime_s=T0))
    missing = place._replace(name=b"missing")

    async def work(count: int) -> None:
        for number in range(count):
            match number % 8:
                case 0 | 1:
                    await store.stat(place)
                case 2:
                    await store.read(place, 0, 4096)
                case 3:
                    await store.stat_and_read(place, 65536)
                case 4:
                    await store.get_xattrs(place)
                case 5:
                    with contextlib.suppress(errors.ObjectNotFound):
                        await store.stat_and_read(missing, 4096)
                case 6:
                    with trio.move_on_after(0.0001):
                        await store.read(place, 0, 4096)
                case 7 if number % 64 == 7:
                    await store.apply(place, Change((Write(0, bytes(4096)),), mtime_s=T0))

    async def rounds(call_count: int) -> int:
        async with trio.open_nursery() as nursery:
            for _ in range(TASK_COUNT):
                nursery.start_soon(work, call_count // TASK_COUNT)
        gc.collect()
        return resident_bytes()

    before = await rounds(40_000)
    assert await rounds(200_000) - before < 8 << 20
