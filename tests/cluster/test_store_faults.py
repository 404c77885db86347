"""RadosStore while daemons stand still, pools go and quotas fill, by either driver. On a lab of
its own."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from signal import SIGCONT, SIGSTOP

import pytest
import trio

from radosmount import errors
from radosmount.config import StoreConfig
from radosmount.errors import MountError
from radosmount.lab import Lab
from radosmount.store.interface import Change, ObjectKey, Remove, WriteFull
from radosmount.store.rados.store import RadosStore, open_rados_store
from tests.support.cluster import temporary_lab

TIMEOUT_S = 2.0
# For a small machine that does other things, too.
SLACK_S = 6.0
T0 = 1_500_000_000
POOL = "faults"


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    with temporary_lab(pools=(POOL,)) as running:
        yield running


@pytest.fixture(params=["binding", "native"])
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "native":
        pytest.importorskip("radosmount.store.rados.native._native", reason="not built")
    return name


@pytest.fixture
async def store(own_lab: Lab, driver: str) -> AsyncIterator[RadosStore]:
    opened = await open_rados_store(config(own_lab, driver=driver))
    yield opened
    await opened.aclose()


@pytest.fixture
def key(store: RadosStore) -> ObjectKey:
    return ObjectKey(pool_id(store, POOL), b"", b"object")


def config(lab: Lab, **settings: str | None) -> StoreConfig:
    names = {"conf_path": str(lab.conf_path), **settings}
    return StoreConfig(timeout_s=TIMEOUT_S, connect_timeout_s=TIMEOUT_S, **names)  # type: ignore[arg-type]


def pool_id(store: RadosStore, name: str) -> int:
    [found] = [pool.pool_id for pool in store.pools() if pool.name == name.encode()]
    return found


@contextlib.contextmanager
def frozen(lab: Lab, daemon: str) -> Iterator[None]:
    lab.signal(daemon, SIGSTOP)
    try:
        yield
    finally:
        lab.signal(daemon, SIGCONT)


@contextlib.contextmanager
def times_out() -> Iterator[None]:
    """The block raises TimedOut, not much later than it should."""
    begin_s = time.monotonic()
    with pytest.raises(errors.TimedOut):
        yield
    assert time.monotonic() - begin_s < TIMEOUT_S + SLACK_S


async def put(store: RadosStore, key: ObjectKey, data: bytes) -> int:
    return await store.apply(key, Change((WriteFull(data),), mtime_s=T0))


async def list_names(store: RadosStore, pool_id: int) -> list[bytes]:
    return [found.name async for batch in store.list_objects(pool_id, b"") for found in batch]


async def stat_until_it_fails(store: RadosStore, key: ObjectKey) -> None:
    """librados may have an older osdmap for a moment."""
    with trio.fail_after(30):
        while True:
            await store.stat(key)


async def put_until_it_fails(store: RadosStore, pool: int) -> None:
    """The monitor hears of the usage only every few seconds."""
    with trio.fail_after(60):
        for number in itertools.count():
            await put(store, ObjectKey(pool, b"", b"%d" % number), b"x")


async def serves_again(lab: Lab, store: RadosStore, key: ObjectKey) -> None:
    """Wait until the OSD answers. A placement group may stay laggy until it peers anew."""
    if await answers(store, key):
        return
    lab.ceph("osd", "down", "0")
    with trio.fail_after(60):
        while not await answers(store, key):
            pass


async def answers(store: RadosStore, key: ObjectKey) -> bool:
    """Whether there is such an object is an answer in either case."""
    with contextlib.suppress(errors.ObjectNotFound):
        try:
            await store.stat(key)
        except errors.TimedOut:
            return False
    return True


async def test_frozen_osd(own_lab: Lab, store: RadosStore, key: ObjectKey) -> None:
    """Every call ends in TimedOut, in time, a listing too; afterwards all goes on."""
    await put(store, key, b"before")
    assert key.name in await list_names(store, key.pool_id)

    async def ask(call: Callable[[], Awaitable[object]]) -> None:
        with times_out():
            await call()

    with frozen(own_lab, "osd.0"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, lambda: store.stat(key))
            nursery.start_soon(ask, lambda: store.read(key, 0, 10))
            nursery.start_soon(ask, lambda: put(store, key, b"after"))
            nursery.start_soon(ask, lambda: list_names(store, key.pool_id))
            nursery.start_soon(ask, lambda: store.probe_write(key.pool_id, b""))
    await serves_again(own_lab, store, key)
    # The write that timed out may be applied or not: its outcome is unknown.
    assert (await store.read(key, 0, 10)).data in (b"before", b"after")
    assert key.name in await list_names(store, key.pool_id)


async def test_end_with_a_frozen_osd(own_lab: Lab, driver: str) -> None:
    """The end waits for what is in flight, which a time-out ends, and then for nothing."""
    store = await open_rados_store(config(own_lab, driver=driver))
    key = ObjectKey(pool_id(store, POOL), b"", b"object")
    await put(store, key, b"x")
    with frozen(own_lab, "osd.0"):
        with trio.move_on_after(0.1):
            await put(store, key, b"y")
        begin_s = time.monotonic()
        await store.aclose()
        assert time.monotonic() - begin_s < TIMEOUT_S + SLACK_S
        with pytest.raises(errors.Disconnected):
            await store.stat(key)


async def test_a_pool_that_stands_still_leaves_the_rest(
    own_lab: Lab, store: RadosStore, key: ObjectKey
) -> None:
    """More calls than may be in flight, large ones too, never stop the loop; all end in time."""
    pause_max_s = 0.0

    async def fail(number: int) -> None:
        with contextlib.suppress(errors.TimedOut):
            await put(store, key._replace(name=b"%d" % number), bytes(4 << 20))
        with contextlib.suppress(errors.TimedOut):
            await store.read(key._replace(name=b"%d" % number), 0, 128 << 20)

    async def watch() -> None:
        nonlocal pause_max_s
        while True:
            begin_s, begin_cpu_s = time.monotonic(), time.thread_time()
            await trio.sleep(0.05)
            worked_s = time.thread_time() - begin_cpu_s  # copying 200 times 4 MiB is no wait
            pause_max_s = max(pause_max_s, time.monotonic() - begin_s - worked_s)

    with frozen(own_lab, "osd.0"), trio.move_on_after(2 * TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for number in range(200):
                nursery.start_soon(fail, number)
    assert pause_max_s < TIMEOUT_S / 2
    await serves_again(own_lab, store, key)


async def test_cancelling_needs_no_osd(own_lab: Lab, store: RadosStore, key: ObjectKey) -> None:
    """A task leaves its call at once, however long that still takes."""
    await put(store, key, b"x")
    with frozen(own_lab, "osd.0"):
        begin_s = time.monotonic()
        with trio.move_on_after(0.1):
            await store.stat(key)
        assert time.monotonic() - begin_s < TIMEOUT_S / 2
    await serves_again(own_lab, store, key)


async def test_frozen_monitor(own_lab: Lab, store: RadosStore, key: ObjectKey) -> None:
    """Objects and pools go on; what needs the monitor times out, or can be left waiting."""
    await put(store, key, b"x")
    assert key.name in await list_names(store, key.pool_id)
    with frozen(own_lab, "mon.a"):
        assert pool_id(store, POOL) == key.pool_id
        assert (await store.stat(key)).size == 1
        assert key.name in await list_names(store, key.pool_id)
        with pytest.raises(errors.PoolGone):
            await store.stat(ObjectKey(99_999, b"", b"object"))
        with times_out():
            await store.usage()
        with trio.move_on_after(0.1) as scope:
            await store.refresh_pools()
        assert scope.cancelled_caught
        with pytest.raises(MountError, match="no monitor of the cluster answered within 2 s"):
            await open_rados_store(config(own_lab))
    with trio.fail_after(30):
        await store.refresh_pools()
    await store.usage()


async def test_end_with_a_frozen_monitor(own_lab: Lab, driver: str) -> None:
    """It says at once that a call is stuck, instead of waiting or crashing."""
    store = await open_rados_store(config(own_lab, driver=driver))
    with frozen(own_lab, "mon.a"):
        with trio.move_on_after(0.1):
            await store.refresh_pools()
        with times_out():
            await store.aclose()
    with trio.fail_after(30):
        await closes(store)


async def closes(store: RadosStore) -> None:
    while True:
        with contextlib.suppress(errors.TimedOut):
            await store.aclose()
            return


async def test_deleted_pool(own_lab: Lab, store: RadosStore) -> None:
    """PoolGone without a refresh too; a pool made again under the name is another one."""
    own_lab.create_pool("doomed")
    await store.refresh_pools()
    key = ObjectKey(pool_id(store, "doomed"), b"", b"object")
    await put(store, key, b"x")
    own_lab.delete_pool("doomed")
    with pytest.raises(errors.PoolGone):
        await stat_until_it_fails(store, key)
    with pytest.raises(errors.PoolGone):
        await list_names(store, key.pool_id)
    own_lab.create_pool("doomed")
    await store.refresh_pools()
    new_key = key._replace(pool_id=pool_id(store, "doomed"))
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(new_key)
    with pytest.raises(errors.PoolGone):
        await put(store, key, b"x")
    own_lab.delete_pool("doomed")


async def test_pool_with_snapshots(own_lab: Lab, store: RadosStore) -> None:
    """Removed objects that a snapshot still has are not listed."""
    own_lab.create_pool("snapped")
    await store.refresh_pools()
    pool = pool_id(store, "snapped")
    for name in (b"stays", b"goes"):
        await put(store, ObjectKey(pool, b"", name), b"x")
    own_lab.ceph("osd", "pool", "mksnap", "snapped", "s1")
    await store.refresh_pools()
    await store.apply(ObjectKey(pool, b"", b"goes"), Change((Remove(),)))
    assert await list_names(store, pool) == [b"stays"]
    own_lab.delete_pool("snapped")


async def test_quota(own_lab: Lab, store: RadosStore) -> None:
    """QuotaExceeded at once when the flag is set; removing still works, and makes room."""
    own_lab.create_pool("small")
    await store.refresh_pools()
    pool = pool_id(store, "small")
    own_lab.ceph("osd", "pool", "set-quota", "small", "max_objects", "2")
    with pytest.raises(errors.QuotaExceeded):
        await put_until_it_fails(store, pool)
    assert (await store.usage()).pools[pool].quota_objects == 2
    first = ObjectKey(pool, b"", b"0")
    await put(store, first, b"y")
    await store.apply(first, Change((Remove(),)))
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(first)
    own_lab.delete_pool("small")


async def test_users_that_cannot_connect(own_lab: Lab) -> None:
    """Each failure is one plain line that says what to do."""
    no_cap = own_lab.add_user("nocap", osd="allow r")
    cases = {
        "name it with -c": {"conf_path": "/no/such.conf"},
        "name it with -k": {"keyring_path": "/no/such.keyring"},
        "no key for client.nobody": {"client_name": "client.nobody"},
        "no mon cap": {"client_name": "client.nocap", "keyring_path": str(no_cap)},
        "give TYPE.ID": {"client_name": "nobody"},
    }
    for text, settings in cases.items():
        with pytest.raises(MountError, match=text) as caught:
            await open_rados_store(config(own_lab, **settings))
        assert "\n" not in str(caught.value)


async def test_unknown_option(own_lab: Lab) -> None:
    wrong = StoreConfig(conf_path=str(own_lab.conf_path), options=(("no_such", "1"),))
    with pytest.raises(MountError, match="no option no_such"):
        await open_rados_store(wrong)
