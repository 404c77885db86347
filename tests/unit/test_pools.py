"""Which pools are shown, and which may be written to."""

import pytest
import trio
import trio.testing

from radosmount.config import ViewConfig
from radosmount.errors import (
    AccessDenied,
    MountError,
    PoolGone,
    ReadOnly,
    StoreFailure,
    TimedOut,
)
from radosmount.store.memory import Call, MemoryStore
from radosmount.vfs.nodes import ObjectPlace
from radosmount.vfs.pools import WRITE_PROBE_PAUSE_S, Pools
from tests.support.stores import is_call


def names(pools: Pools) -> list[bytes]:
    return [name for name, _ in pools.visible()]


async def test_one_pool_is_the_root() -> None:
    """With a pool in the source, the root is where its objects are."""
    pools = Pools(MemoryStore(), ViewConfig(pool=b"assets", namespace=b"eu"))
    assert await pools.start() == ObjectPlace(1, b"eu")


async def test_missing_pool() -> None:
    """A pool that is not there is said in one plain line."""
    with pytest.raises(MountError, match="there is no pool 'x'"):
        await Pools(MemoryStore(), ViewConfig(pool=b"x")).start()


async def test_unreadable_pool_is_hidden() -> None:
    """A pool that may not be read is not shown; the others are."""
    store = MemoryStore(pools=(b"a", b"b", b"c"))
    store.set_caps(2, is_readable=False, is_writable=True)
    pools = Pools(store, ViewConfig())
    assert await pools.start() is None
    assert names(pools) == [b"a", b"c"]


async def test_silent_pool_does_not_delay_the_mount(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A cluster that does not answer the probes is mounted all the same, all pools shown."""
    store = MemoryStore(pools=(b"a", b"b"))
    pools = Pools(store, ViewConfig())
    with store.paused():
        await pools.start()
    assert trio.current_time() < 5
    assert names(pools) == [b"a", b"b"]


async def test_failing_pool_does_not_stop_the_others() -> None:
    """A pool whose probe fails is asked again later, and the mount and other probes go on."""
    store = MemoryStore(pools=(b"a", b"b"))
    store.set_caps(2, is_readable=False, is_writable=True)
    store.fail_next(TimedOut("no"), is_call("probe_read"))
    pools = Pools(store, ViewConfig())
    assert await pools.start() is None
    assert names(pools) == [b"a"]


async def test_new_pool_is_found_when_asked_for() -> None:
    """A pool that was made after the mount is found by name, and one that went is not."""
    store = MemoryStore()
    pools = Pools(store, ViewConfig())
    await pools.start()
    store.add_pool(b"new")
    found = await pools.find(b"new")
    assert found is not None
    assert found.name == b"new"
    store.remove_pool(found.pool_id)
    assert await pools.find(b"new") is None
    with pytest.raises(PoolGone):
        pools.name_of(found.pool_id)


async def test_background_probe_hides_new_pools(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A new pool that may not be read is hidden once it was asked."""
    store = MemoryStore()
    pools = Pools(store, ViewConfig())
    await pools.start()
    nursery.start_soon(pools.run)
    await trio.sleep(1)
    pool_id = store.add_pool(b"secret")
    store.set_caps(pool_id, is_readable=False, is_writable=False)
    await trio.sleep(15)
    assert names(pools) == [b"assets"]


@pytest.mark.parametrize("application", ["rbd", "cephfs", "rgw", "mgr", "mgr_devicehealth"])
async def test_foreign_pools_are_read_only(application: str) -> None:
    """Pools of Ceph's own services are read-only, unless named in the source or rw_pools."""
    store = MemoryStore(pools=())
    pool_id = store.add_pool(b"p", frozenset({application}))
    with pytest.raises(ReadOnly):
        await Pools(store, ViewConfig()).check_writable((pool_id, b""))
    await Pools(store, ViewConfig(pool=b"p")).check_writable((pool_id, b""))
    view = ViewConfig(writable_pools=frozenset({b"p"}))
    await Pools(store, view).check_writable((pool_id, b""))


async def test_a_pool_becomes_foreign() -> None:
    """A pool that gets an application after it was written to is read-only from then on."""
    store = MemoryStore(pools=())
    pool_id = store.add_pool(b"p", frozenset())
    pools = Pools(store, ViewConfig())
    for _ in range(3):  # what was found out is remembered
        await pools.check_writable((pool_id, b""))
    store.set_applications(pool_id, frozenset({"rbd"}))
    for _ in range(2):
        with pytest.raises(ReadOnly):
            await pools.check_writable((pool_id, b""))


async def test_write_cap_is_asked_once() -> None:
    """The write cap is probed at the first open for writing of a namespace; a refusal is EACCES."""
    store = MemoryStore()
    calls: list[str] = []

    async def note(call: Call) -> None:
        calls.append(call.method)

    store.delay = note
    pools = Pools(store, ViewConfig())
    store.set_caps(1, is_readable=True, is_writable=False)
    with pytest.raises(AccessDenied):
        await pools.check_writable((1, b""))
    store.set_caps(1, is_readable=True, is_writable=True)
    for _ in range(2):
        await pools.check_writable((1, b""))
    assert calls == ["probe_write"] * 2
    await pools.check_writable((1, b"other"))
    assert len(calls) == 3


async def test_no_answer_about_the_write_cap() -> None:
    """Where the probe fails for a while only, the open passes and the flush will tell; the next
    open asks again. A failure for good is the open's."""
    store = MemoryStore()
    store.set_caps(1, is_readable=True, is_writable=False)
    pools = Pools(store, ViewConfig())
    store.fail_next(TimedOut("injected"), is_call("probe_write"))
    await pools.check_writable((1, b""))
    with pytest.raises(AccessDenied):
        await pools.check_writable((1, b""))
    store.fail_next(StoreFailure("injected"), is_call("probe_write"))
    with pytest.raises(StoreFailure):
        await pools.check_writable((1, b""))


async def test_silence_about_the_write_cap(autojump_clock: trio.testing.MockClock) -> None:
    """An open waits for the probe a moment only, and those that follow do not wait anew, until
    some time later."""
    store = MemoryStore()
    store.set_caps(1, is_readable=True, is_writable=False)
    pools = Pools(store, ViewConfig())
    with store.paused(), trio.fail_after(60):
        for _ in range(10):
            await pools.check_writable((1, b""))
        assert 1 <= trio.current_time() <= 3
        await pools.check_writable((1, b"other"))
        assert trio.current_time() <= 5
    await trio.sleep(WRITE_PROBE_PAUSE_S)
    with pytest.raises(AccessDenied):
        await pools.check_writable((1, b""))


async def test_read_only_mount() -> None:
    """With `ro` nothing may be written anywhere."""
    pools = Pools(MemoryStore(), ViewConfig(is_read_only=True))
    with pytest.raises(ReadOnly):
        await pools.check_writable((1, b""))
