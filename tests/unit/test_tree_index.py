"""The index of names behind the tree view: when it is made, and what it costs."""

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.errors import (
    NoSuchEntry,
    StoreFailure,
)
from radosmount.store.memory import BATCH_COUNT, Call
from radosmount.vfs.directories import IMPLIED_FRESHNESS_S
from radosmount.vfs.forest import TREE_COUNT_MAX
from radosmount.vfs.nodes import ROOT_INO
from tests.support.stores import key_of
from tests.support.trees import TreeBench


@pytest.fixture
async def mount(nursery: trio.Nursery) -> TreeBench:
    bench = TreeBench(nursery)
    await bench.fs.start()
    return bench


async def test_listings_are_shared_and_ours_is_known_at_once(
    mount: TreeBench, mock_clock: MockClock
) -> None:
    """`ls -R` lists the pool once. What others have made is seen a second later."""
    for number in range(20):
        mount.store.put_now(key_of(b"d%d/f" % number), b"")
    await mount.ls()
    calls_of_one = mount.listings
    for number in range(20):
        assert await mount.ls(b"d%d" % number) == {b"f"}
    assert mount.listings == calls_of_one
    await mount.write(b"mine", b"")
    mount.store.put_now(key_of(b"theirs"), b"")
    assert b"mine" in await mount.ls()
    mock_clock.jump(1.1)
    assert {b"mine", b"theirs"} <= await mount.ls()
    assert mount.listings == 2 * calls_of_one


async def test_a_pool_that_takes_long_to_list(mount: TreeBench, mock_clock: MockClock) -> None:
    """Is listed again only where the cluster says that something was written to it."""
    mount.store.put_now(key_of(b"d/f"), b"")

    async def take_long(call: Call) -> None:
        if call.method == "list_objects":
            mock_clock.jump(0.3)

    mount.store.delay = take_long
    assert await mount.ls(b"d") == {b"f"}
    calls_of_one = mount.listings
    for _ in range(5):
        mock_clock.jump(20)
        assert await mount.ls(b"d") == {b"f"}
    assert mount.listings == calls_of_one
    mount.store.put_now(key_of(b"d/g"), b"")
    mock_clock.jump(20)
    assert await mount.ls(b"d") == {b"f", b"g"}
    mount.store.put_now(key_of(b"d/h"), b"")
    mount.store.fail_next(StoreFailure("oops"), lambda call: call.method == "usage")
    mock_clock.jump(20)
    assert await mount.ls(b"d") == {b"f", b"g", b"h"}
    assert mount.listings == 3 * calls_of_one


@contextlib.asynccontextmanager
async def listing_under_way(mount: TreeBench, batch: int) -> AsyncIterator[list[set[bytes]]]:
    """It is held before that batch until the block ends; then what it has found is there."""
    calls_before, gate = mount.listings, trio.Event()
    found: list[set[bytes]] = []

    async def hold(call: Call) -> None:  # the first call settles what will be listed
        if call.method == "list_objects" and mount.listings >= calls_before + batch:
            await gate.wait()

    async def ls() -> None:
        found.append(await mount.ls())

    mount.store.delay = hold
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ls)
        await wait_all_tasks_blocked()
        yield found
        gate.set()


async def test_what_changes_while_a_listing_is_made(
    mount: TreeBench, mock_clock: MockClock
) -> None:
    """A file removed or made meanwhile is not lost from the index, nor kept in it."""
    mount.store.put_now(key_of(b"old"), b"")
    await mount.fs.lookup(ROOT_INO, b"old")
    mock_clock.jump(2)
    async with listing_under_way(mount, 1) as found:
        await mount.write(b"new", b"")
        await mount.remove(b"old")
    assert found == [{b"new"}]


async def test_a_failed_listing_is_an_error(mount: TreeBench) -> None:
    """Never a short or empty directory."""
    mount.store.put_now(key_of(b"d/f"), b"")
    mount.store.fail_next(StoreFailure("oops"), lambda call: call.method == "list_objects")
    with pytest.raises(StoreFailure):
        await mount.ls()
    assert await mount.ls() == {b"d"}


async def test_an_index_that_cannot_be_made_anew(mount: TreeBench, mock_clock: MockClock) -> None:
    """Serves on, and look-ups do not wait for it."""
    mount.store.put_now(key_of(b"d/f"), b"x")
    assert await mount.read_file(b"d/f") == b"x"
    for _ in range(3):
        mock_clock.jump(IMPLIED_FRESHNESS_S + 1)
        mount.store.fail_next(StoreFailure("oops"), lambda call: call.method == "list_objects")
        assert await mount.read_file(b"d/f") == b"x"
        await wait_all_tasks_blocked()


async def test_all_who_wait_for_a_listing_hear_of_its_failure(
    mount: TreeBench, mock_clock: MockClock
) -> None:
    """At once: nobody begins another one that fails as late as the first."""
    mount.store.fail_next(StoreFailure("oops"), lambda call: call.method == "list_objects")
    failures: list[StoreFailure] = []

    async def look_up(number: int) -> None:
        try:
            await mount.fs.lookup(ROOT_INO, b"f%d" % number)
        except StoreFailure as failure:
            failures.append(failure)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(look_up, number)
    assert len(failures) == 5
    assert mount.listings == 1


async def test_a_new_name_costs_one_round_trip(mount: TreeBench) -> None:
    """The object and the directory of its name are asked for at once."""
    await mount.ls()
    calls: list[Call] = []
    gate = trio.Event()

    async def hold(call: Call) -> None:
        calls.append(call)
        await gate.wait()

    mount.store.delay = hold
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def look_up() -> None:
            with pytest.raises(NoSuchEntry):
                await mount.fs.lookup(ROOT_INO, b"new")

        await wait_all_tasks_blocked()
        assert {call.key for call in calls} == {key_of(b"new"), key_of(b"new/")}
        gate.set()


async def test_a_known_name_costs_one_call(mount: TreeBench) -> None:
    """No directory is looked for where the index has a file."""
    mount.store.put_now(key_of(b"f"), b"")
    await mount.ls()
    calls: list[Call] = []

    async def record(call: Call) -> None:
        calls.append(call)

    mount.store.delay = record
    await mount.fs.lookup(ROOT_INO, b"f")
    assert len(calls) == 1


async def test_the_index_is_made_before_it_is_needed(nursery: trio.Nursery) -> None:
    """The first look-up of a mount need not wait for a listing of the pool."""
    bench = TreeBench(nursery)
    bench.store.put_now(key_of(b"d/f"), b"")
    await bench.fs.start()
    await wait_all_tasks_blocked()
    listings = bench.listings
    assert listings
    assert await bench.is_directory(b"d")
    assert bench.listings == listings


async def test_indexes_are_bounded(mount: TreeBench) -> None:
    """Any name is a namespace: looking into many of them does not keep an index of each."""
    spaces = (await mount.fs.lookup(ROOT_INO, b".nspace")).ino

    async def listings_of(number: int) -> int:
        before = mount.listings
        await mount.names((await mount.fs.lookup(spaces, b"n%d" % number)).ino)
        return mount.listings - before

    await mount.ls()  # the pool's own index is ready
    for number in range(TREE_COUNT_MAX + 1):
        assert await listings_of(number) == 1
    assert await listings_of(TREE_COUNT_MAX) == 0
    assert await listings_of(0) == 1


async def test_a_file_that_is_stored_during_a_listing(
    mount: TreeBench, mock_clock: MockClock
) -> None:
    """It was unstored when the listing began, and is stored when it ends: yet it is listed."""
    await mount.ls()
    mock_clock.jump(2)
    handle, _ = await mount.create(b"new")
    async with listing_under_way(mount, 1) as found:  # RADOS lists what was there at its beginning
        await mount.close(handle)
    assert found == [{b"new"}]


async def test_a_name_heard_to_be_gone_during_a_listing(
    mount: TreeBench, mock_clock: MockClock
) -> None:
    """The listing has it already, and the look-up knows better."""
    await mount.ls()
    mock_clock.jump(2)
    for number in range(2 * BATCH_COUNT):
        mount.store.put_now(key_of(b"%05d" % number), b"")
    async with listing_under_way(mount, 2) as found:
        mount.store.remove_now(key_of(b"00000"))
        with pytest.raises(NoSuchEntry):
            await mount.fs.lookup(ROOT_INO, b"00000")
    assert len(found[0]) == 2 * BATCH_COUNT - 1
    assert b"00000" not in found[0]


async def test_a_name_that_others_make_behind_a_look_up_during_a_listing(
    mount: TreeBench, mock_clock: MockClock
) -> None:
    """The listing has it, and what was looked up before is older: it is not left out for good,
    though nothing is written to the pool any more."""
    usage_count = 0

    async def make_it_behind_a_look_up(call: Call) -> None:
        nonlocal usage_count
        if call.method == "list_objects":
            mock_clock.jump(0.3)  # long: only what is written to the pool has it listed anew
        usage_count += call.method == "usage"
        if call.method == "usage" and usage_count == 3:  # at the beginning of the second listing
            with pytest.raises(NoSuchEntry):
                await mount.fs.lookup(ROOT_INO, b"new")
            mount.store.put_now(key_of(b"new"), b"")

    mount.store.put_now(key_of(b"old"), b"")
    mount.store.delay = make_it_behind_a_look_up
    assert await mount.ls() == {b"old"}
    mount.store.put_now(key_of(b"other"), b"")
    mock_clock.jump(20)
    await mount.ls()
    assert usage_count >= 3
    mock_clock.jump(20)
    assert await mount.ls() == {b"new", b"old", b"other"}
