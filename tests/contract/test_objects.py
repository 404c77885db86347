"""Reading, names, listing, pools, caps and the end."""

import contextlib

import pytest
import trio
import trio.testing

from radosmount import errors
from radosmount.store.interface import (
    Change,
    ListedObject,
    ObjectKey,
    Remove,
    SetOmap,
    SetXattr,
    Store,
    WriteFull,
)
from tests.contract.backends import Backend, key_in

T0 = 1_500_000_000
ODD_NAMES = [
    *(b"a b", b"-rf", b"\xff\xfe", b"x\ny", b".", b"..", b"d/", b"/", b"a//b", b"\xe4"),
    *(b"n" * 255, b"n" * 256, b"n" * 2048),
]


@pytest.fixture
def key(backend: Backend) -> ObjectKey:
    return key_in(backend, b"object")


async def put(store: Store, key: ObjectKey, data: bytes = b"old") -> int:
    return await store.apply(key, Change((WriteFull(data),), mtime_s=T0))


async def listed(store: Store, pool_id: int, namespace: bytes) -> list[ListedObject]:
    batches = [batch async for batch in store.list_objects(pool_id, namespace)]
    assert all(batches), "no empty batch"
    return [found for batch in batches for found in batch]


async def test_read(store: Store, key: ObjectKey) -> None:
    """Shorter than asked only where the object ends; b"" at or after it."""
    await put(store, key, b"0123456789")
    asked = [(0, 10), (0, 100), (3, 4), (9, 5), (10, 5), (99, 5), (0, 0), (99, 0), (0, 1 << 31)]
    for offset, length in asked:
        expected = b"0123456789"[offset : offset + length]
        assert (await store.read(key, offset, length)).data == expected


async def test_stat_and_read(store: Store, key: ObjectKey) -> None:
    """What stat says, and the first bytes, at one version."""
    with pytest.raises(errors.ObjectNotFound):
        await store.stat_and_read(key, 4)
    await put(store, key, b"0123456789")
    for length in (0, 4, 10, 100):
        stat, found = await store.stat_and_read(key, length)
        assert (stat, found.version) == (await store.stat(key), stat.version)
        assert found.data == b"0123456789"[:length]


async def test_stat_or_other(store: Store, backend: Backend, key: ObjectKey) -> None:
    """The other one counts only where the first is not there."""
    other = key_in(backend, b"other")
    assert await store.stat_or_other(key, other) == (None, None)
    await put(store, other, b"longer")
    assert await store.stat_or_other(key, other) == (None, await store.stat(other))
    await put(store, key, b"0123456789")
    assert await store.stat_or_other(key, other) == (await store.stat(key), None)


async def test_stat_or_other_of_a_pool_that_is_gone(store: Store, key: ObjectKey) -> None:
    with pytest.raises(errors.PoolGone):
        await store.stat_or_other(key._replace(pool_id=12345), key._replace(pool_id=12345))


@pytest.mark.parametrize("content", [b"", b"0123456789"])
async def test_inspect(store: Store, key: ObjectKey, content: bytes) -> None:
    """What stat, get_xattrs, get_omap and a read say, at one version."""
    await put(store, key, content)
    await check_inspections(store, key, content)
    await store.apply(key, Change((SetXattr(b"a", b"1"), SetXattr(b"b", b"")), mtime_s=T0))
    await check_inspections(store, key, content)
    await store.apply(key, Change((SetOmap({b"k": b"", b"": b"\0"}),), mtime_s=T0))
    await check_inspections(store, key, content)


async def check_inspections(store: Store, key: ObjectKey, content: bytes) -> None:
    for length in (0, 4, len(content), 100):
        found = await store.inspect(key, length)
        assert found.stat == await store.stat(key)
        assert found.xattrs == (await store.get_xattrs(key)).values
        assert found.omap == await store.get_omap(key)
        assert not found.has_more_omap
        assert found.head == content[:length]


async def test_inspect_while_it_changes(store: Store, key: ObjectKey) -> None:
    """Content and xattrs of one version, or a conflict."""

    async def change(number: int) -> None:
        steps = (WriteFull(b"%d" % number), SetXattr(b"a", b"%d" % number))
        await store.apply(key, Change(steps, mtime_s=T0))

    async def keep_changing() -> None:
        for number in range(1, 50):
            await change(number)
        nursery.cancel_scope.cancel()

    await change(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_changing)
        while True:
            with contextlib.suppress(errors.VersionConflict):
                found = await store.inspect(key, 10)
                assert found.xattrs == {b"a": found.head}
                assert found.stat.size == len(found.head)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 2500])
async def test_inspect_large_omap(store: Store, key: ObjectKey, count: int) -> None:
    """The first entries of an omap, and whether there are others."""
    entries = {b"k%05d" % number: b"v" for number in range(count)}
    await store.apply(key, Change((WriteFull(b"x"), SetOmap(entries)), mtime_s=T0))
    found = await store.inspect(key, 1)
    assert found.omap.items() <= entries.items()
    assert found.has_more_omap == (len(found.omap) < count)
    assert found.has_more_omap == (count > 1024)
    assert (found.omap == entries) == (not found.has_more_omap)
    assert (found.stat.size, found.head) == (1, b"x")


async def test_missing_object(store: Store, key: ObjectKey) -> None:
    for call in (store.stat(key), store.get_xattrs(key), store.get_omap(key)):
        with pytest.raises(errors.ObjectNotFound):
            await call
    for length in (0, 1):
        with pytest.raises(errors.ObjectNotFound):
            await store.read(key, 0, length)
        with pytest.raises(errors.ObjectNotFound):
            await store.inspect(key, length)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name[:20]))
async def test_odd_names(backend: Backend, store: Store, name: bytes) -> None:
    """An object name is any bytes, 1 to 2048."""
    key = key_in(backend, name)
    await put(store, key, name)
    assert (await store.read(key, 0, 5000)).data == name
    found = await listed(store, backend.pool_id, backend.namespace)
    assert found == [ListedObject(backend.namespace, name, b"")]
    await store.apply(key, Change((Remove(),)))


async def test_names_that_cannot_be(backend: Backend, store: Store) -> None:
    with pytest.raises(errors.NameTooLong):
        await put(store, key_in(backend, b"n" * 2049))
    for name in (b"", b"a\0b"):
        with pytest.raises(errors.InvalidArgument):
            await put(store, key_in(backend, name))
    assert await listed(store, backend.pool_id, backend.namespace) == []


async def test_locators_and_namespaces_tell_objects_apart(backend: Backend, store: Store) -> None:
    plain = key_in(backend, b"o")
    located = key_in(backend, b"o", locator=b"\xffkey")
    elsewhere = plain._replace(namespace=backend.namespace + b"\xff")
    for key in (plain, located, elsewhere):
        await put(store, key, repr(key).encode())
    for key in (plain, located, elsewhere):
        assert (await store.read(key, 0, 1000)).data == repr(key).encode()
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(key_in(backend, b"o", locator=b"other"))
    found = await listed(store, backend.pool_id, backend.namespace)
    assert sorted(found) == sorted(ListedObject(*key[1:]) for key in (plain, located))
    found = await listed(store, backend.pool_id, elsewhere.namespace)
    assert found == [ListedObject(*elsewhere[1:])]


async def test_listing_has_each_once(backend: Backend, store: Store) -> None:
    """Objects that exist throughout appear exactly once, in however many batches."""
    names = {b"o%d" % number for number in range(2500)}
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(put, store, key_in(backend, name), b"")
    found = await listed(store, backend.pool_id, backend.namespace)
    assert sorted(found) == sorted(ListedObject(backend.namespace, name, b"") for name in names)


async def test_listing_ended_early(backend: Backend, store: Store, key: ObjectKey) -> None:
    """Closing a listing half way is clean, and so is cancelling it."""
    await put(store, key)
    listing = store.list_objects(backend.pool_id, backend.namespace)
    async with contextlib.aclosing(listing):
        async for _ in listing:
            break
    with trio.CancelScope() as scope:
        scope.cancel()
        await listed(store, backend.pool_id, backend.namespace)
    assert scope.cancelled_caught
    assert len(await listed(store, backend.pool_id, backend.namespace)) == 1


async def test_deleted_pool(backend: Backend, store: Store) -> None:
    """PoolGone everywhere, never "no such object" and never an empty listing."""
    pool_id = await backend.add_pool()
    key = ObjectKey(pool_id, b"", b"object")
    await put(store, key)
    assert len(await listed(store, pool_id, b"")) == 1
    await backend.remove_pool(pool_id)
    await store.refresh_pools()
    assert pool_id not in {pool.pool_id for pool in store.pools()}
    with pytest.raises(errors.PoolGone):
        await listed(store, pool_id, b"")
    for call in (store.stat(key), store.read(key, 0, 1), store.get_xattrs(key)):
        with pytest.raises(errors.PoolGone):
            await call
    for probe in (store.probe_read(pool_id, b""), store.probe_write(pool_id, b"")):
        with pytest.raises(errors.PoolGone):
            await probe
    with pytest.raises(errors.PoolGone):
        await put(store, key)


async def test_pool_that_never_was(store: Store) -> None:
    with pytest.raises(errors.PoolGone):
        await store.stat(ObjectKey(99_999, b"", b"object"))
    with pytest.raises(errors.PoolGone):
        await listed(store, 99_999, b"")


async def test_new_pool_is_seen_after_a_refresh(backend: Backend, store: Store) -> None:
    pool_id = await backend.add_pool()
    [pool] = [pool for pool in store.pools() if pool.pool_id == pool_id]
    assert pool.applications == {"rados"}
    assert store.pools() is store.pools()
    await put(store, ObjectKey(pool_id, b"", b"object"))
    await backend.remove_pool(pool_id)


async def test_no_read_cap(backend: Backend, key: ObjectKey) -> None:
    await put(backend.store, key)
    store = await backend.without_read_cap()
    with pytest.raises(errors.PermissionDenied):
        await store.probe_read(backend.pool_id, b"")
    for call in (store.stat(key), store.read(key, 0, 1), store.get_xattrs(key)):
        with pytest.raises(errors.PermissionDenied):
            await call
    with pytest.raises(errors.PermissionDenied):
        await listed(store, backend.pool_id, backend.namespace)


async def test_no_write_cap(backend: Backend, key: ObjectKey) -> None:
    await put(backend.store, key)
    store = await backend.without_write_cap()
    await store.probe_read(backend.pool_id, b"")
    with pytest.raises(errors.PermissionDenied):
        await store.probe_write(backend.pool_id, b"")
    with pytest.raises(errors.PermissionDenied):
        await put(store, key, b"new")
    assert (await store.read(key, 0, 10)).data == b"old"


async def test_probes_change_nothing(backend: Backend, store: Store) -> None:
    await store.probe_read(backend.pool_id, backend.namespace)
    await store.probe_write(backend.pool_id, backend.namespace)
    assert await listed(store, backend.pool_id, backend.namespace) == []


async def test_usage(backend: Backend, store: Store) -> None:
    usage = await store.usage()
    assert usage.total_bytes >= usage.available_bytes > 0
    pool = usage.pools[backend.pool_id]
    assert pool.available_bytes > 0
    assert (pool.quota_bytes, pool.quota_objects) == (0, 0)


async def write_count_above(count: int, backend: Backend, store: Store) -> int:
    """Asked for again and again: nothing tells when the cluster has heard of a write."""
    while True:
        now = (await store.usage()).pools[backend.pool_id].write_count
        if now > count:
            return now
        await trio.sleep(0.5)


async def test_usage_tells_of_writes(backend: Backend, store: Store, key: ObjectKey) -> None:
    """Some seconds later, an overwrite too, which changes neither size nor number."""
    change = Change((WriteFull(b"x"),), mtime_s=1)
    before = (await store.usage()).pools[backend.pool_id].write_count
    for _ in range(2):
        await store.apply(key, change)
        with trio.fail_after(60):
            before = await write_count_above(before, backend, store)


async def test_cancelling_abandons_the_answer_only(
    backend: Backend, store: Store, key: ObjectKey
) -> None:
    """The awaiting task goes on at once; the operation takes place all the same."""
    with backend.held():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, store, key, b"late")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    with trio.fail_after(20):
        while True:
            with contextlib.suppress(errors.ObjectNotFound):
                await store.stat(key)
                break
    assert (await store.read(key, 0, 10)).data == b"late"


async def test_calls_of_many_tasks(backend: Backend, store: Store) -> None:
    """More calls at once than there are threads; each gets its own answer."""

    async def put_and_read(number: int) -> None:
        key = key_in(backend, b"o%d" % number)
        version = await put(store, key, b"%d" % number)
        result = await store.read(key, 0, 100)
        assert (result.data, result.version) == (b"%d" % number, version)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(put_and_read, number)


async def test_calls_after_the_end(backend: Backend, store: Store, key: ObjectKey) -> None:
    await store.aclose()
    with pytest.raises(errors.Disconnected):
        await store.stat(key)
    with pytest.raises(errors.Disconnected):
        await put(store, key)
    with pytest.raises(errors.Disconnected):
        await listed(store, backend.pool_id, backend.namespace)
    with pytest.raises(errors.Disconnected):
        store.pools()
