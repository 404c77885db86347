"""`names=tree`: directories over a store that has none."""

import os
import stat

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.config import NamesMode, ViewConfig
from radosmount.errors import (
    CrossPool,
    DirectoryNotEmpty,
    EntryExists,
    InvalidCall,
    NoSuchEntry,
    NotPermitted,
    ReadOnly,
    StoreFailure,
)
from radosmount.store.interface import ObjectKey, Remove
from radosmount.store.memory import Call
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.directories import IMPLIED_FRESHNESS_S
from radosmount.vfs.forest import TREE_COUNT_MAX
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import key_of

TREE = ViewConfig(pool=b"assets", names=NamesMode.TREE)


class Bench(MountBench):
    """Speaks of files and directories by path, as the kernel would, component by component."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery, view=TREE)
        self.listings = 0
        self.store.fail_next(StoreFailure("never"), self._count)

    def _count(self, call: Call) -> bool:
        self.listings += call.method == "list_objects"
        return False

    async def parent(self, path: bytes) -> tuple[int, bytes]:
        *above, name = path.split(b"/")
        ino = ROOT_INO
        for component in above:
            ino = (await self.fs.lookup(ino, component)).ino
        return ino, name

    async def is_directory(self, path: bytes) -> bool:
        return bool((await self.fs.lookup(*await self.parent(path))).mode & 0o040000)

    async def mkdir(self, path: bytes) -> None:
        await self.fs.make_directory(*await self.parent(path))

    async def rmdir(self, path: bytes) -> None:
        await self.fs.remove_directory(*await self.parent(path))

    async def write(self, path: bytes, data: bytes) -> None:
        parent, name = await self.parent(path)
        opened, _ = await self.fs.create(parent, name, os.O_CREAT | os.O_RDWR)
        await self.fs.write(opened.handle, 0, data)
        await self.close(opened.handle)

    async def read_file(self, path: bytes) -> bytes:
        ino = (await self.fs.lookup(*await self.parent(path))).ino
        handle = (await self.fs.open(ino, os.O_RDONLY)).handle
        data = await self.read(handle)
        await self.close(handle)
        return data

    async def remove(self, path: bytes) -> None:
        await self.fs.unlink(*await self.parent(path))

    async def move(self, old: bytes, new: bytes) -> None:
        await self.fs.rename(*await self.parent(old), *await self.parent(new), may_replace=True)

    async def ls(self, path: bytes = b"") -> set[bytes]:
        ino = ROOT_INO
        if path:
            ino = (await self.fs.lookup(*await self.parent(path))).ino
        names = await self.names(ino)
        assert len(set(names)) == len(names)
        return set(names)


@pytest.fixture
async def mount(nursery: trio.Nursery) -> Bench:
    bench = Bench(nursery)
    await bench.fs.start()
    return bench


async def test_names_are_paths(mount: Bench) -> None:
    """`/` in an object's name separates directories, which appear by themselves."""
    mount.store.put_now(key_of(b"img/2026/1.jpg"), b"jpg")
    assert await mount.ls() == {b"img"}
    assert await mount.ls(b"img/2026") == {b"1.jpg"}
    assert await mount.read_file(b"img/2026/1.jpg") == b"jpg"
    await mount.write(b"img/2026/2.jpg", b"new")
    assert mount.stored(b"img/2026/2.jpg") == b"new"
    assert await mount.ls(b"img/2026") == {b"1.jpg", b"2.jpg"}


async def test_mkdir_makes_a_marker(mount: Bench) -> None:
    """An empty directory stays, since mkdir makes the empty object `d/`."""
    await mount.mkdir(b"d")
    assert mount.stored(b"d/") == b""
    assert await mount.is_directory(b"d")
    assert await mount.ls() == {b"d"}
    assert await mount.ls(b"d") == set()
    await mount.mkdir(b"d/e")
    assert mount.stored(b"d/e/") == b""
    assert await mount.ls(b"d") == {b"e"}
    with pytest.raises(EntryExists):
        await mount.mkdir(b"d")
    await mount.write(b"d/f", b"x")
    await mount.remove(b"d/f")
    assert await mount.ls() == {b"d"}


async def test_mkdir_where_others_have_made_one(mount: Bench) -> None:
    """By a marker, or by a name that implies it."""
    mount.store.put_now(key_of(b"marked/"), b"")
    mount.store.put_now(key_of(b"implied/x"), b"")
    for name in (b"marked", b"implied"):
        with pytest.raises(EntryExists):
            await mount.mkdir(name)


async def test_mkdir_of_what_no_object_is_below(mount: Bench) -> None:
    with pytest.raises(InvalidCall):
        await mount.mkdir(b".snap")
    await mount.mkdir(b"d")
    await mount.mkdir(b"d/.snap")
    assert mount.stored(b"d/.snap/") == b""


async def test_rmdir(mount: Bench) -> None:
    """rmdir is ENOTEMPTY when anything lies below, by anyone's writing."""
    await mount.mkdir(b"d")
    await mount.write(b"d/f", b"x")
    with pytest.raises(DirectoryNotEmpty):
        await mount.rmdir(b"d")
    await mount.remove(b"d/f")
    mount.store.put_now(key_of(b"d/e/theirs"), b"")
    with pytest.raises(DirectoryNotEmpty):
        await mount.rmdir(b"d")
    mount.store.remove_now(key_of(b"d/e/theirs"))
    await mount.rmdir(b"d")
    assert mount.stored(b"d/") is None
    assert await mount.ls() == set()
    with pytest.raises(NoSuchEntry):
        await mount.rmdir(b"d")


async def test_rmdir_of_what_is_being_written(mount: Bench) -> None:
    """A file that RADOS does not have yet counts."""
    await mount.mkdir(b"d")
    parent, name = await mount.parent(b"d/f")
    opened, _ = await mount.fs.create(parent, name, os.O_CREAT | os.O_RDWR)
    with pytest.raises(DirectoryNotEmpty):
        await mount.rmdir(b"d")
    assert await mount.ls(b"d") == {b"f"}
    await mount.close(opened.handle)


async def test_an_implied_directory_goes_with_its_last_file(mount: Bench) -> None:
    mount.store.put_now(key_of(b"d/f"), b"x")
    assert await mount.ls() == {b"d"}
    await mount.remove(b"d/f")
    assert await mount.ls() == set()


async def test_a_file_and_a_directory_of_one_name(mount: Bench, mock_clock: MockClock) -> None:
    """Both are reachable: the directory takes the name, the file has its second spelling."""
    mount.store.put_now(key_of(b"a"), b"file")
    assert await mount.read_file(b"a") == b"file"
    await mount.ls()
    mount.store.put_now(key_of(b"a/b"), b"below")
    mock_clock.jump(2)
    assert await mount.ls() == {b"a", b"a%."}
    assert await mount.is_directory(b"a")
    assert await mount.read_file(b"a%.") == b"file"
    assert await mount.read_file(b"a/b") == b"below"
    await mount.remove(b"a%.")
    assert mount.stored(b"a") is None
    assert await mount.ls() == {b"a"}


async def test_rename_between_directories(mount: Bench) -> None:
    await mount.mkdir(b"d")
    await mount.mkdir(b"e")
    await mount.write(b"d/f", b"x")
    await mount.move(b"d/f", b"e/g")
    assert await mount.ls(b"d") == set()
    assert await mount.ls(b"e") == {b"g"}
    assert mount.stored(b"e/g") == b"x"


async def test_rename_of_a_directory(mount: Bench) -> None:
    """Renaming a directory is EXDEV, so that mv copies."""
    await mount.mkdir(b"d")
    await mount.ls()
    with pytest.raises(CrossPool):
        await mount.move(b"d", b"e")


async def test_listings_are_shared_and_ours_is_known_at_once(
    mount: Bench, mock_clock: MockClock
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


async def test_a_pool_that_takes_long_to_list(mount: Bench, mock_clock: MockClock) -> None:
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


async def test_what_changes_while_a_listing_is_made(mount: Bench, mock_clock: MockClock) -> None:
    """A file removed or made meanwhile is not lost from the index, nor kept in it."""
    mount.store.put_now(key_of(b"old"), b"")
    await mount.fs.lookup(ROOT_INO, b"old")
    mock_clock.jump(2)
    gate, calls_before = trio.Event(), mount.listings
    found: list[set[bytes]] = []

    async def delay(call: Call) -> None:
        is_second = mount.listings > calls_before  # what it will list is settled by the first
        if call.method == "list_objects" and is_second:
            await gate.wait()

    mount.store.delay = delay

    async def ls() -> None:
        found.append(await mount.ls())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ls)
        await wait_all_tasks_blocked()
        await mount.write(b"new", b"")
        await mount.remove(b"old")
        gate.set()
    assert found == [{b"new"}]


async def test_a_directory_made_in_place_of_a_removed_one(mount: Bench) -> None:
    """Is another inode as long as the kernel knows the first, which has no links any more: Linux
    lets nothing be made in an inode that it has seen removed."""
    await mount.mkdir(b"d")
    removed = await mount.fs.lookup(ROOT_INO, b"d")
    await mount.rmdir(b"d")
    assert (await mount.fs.get_attributes(removed.ino)).nlink == 0
    await mount.mkdir(b"d")
    made = await mount.fs.lookup(ROOT_INO, b"d")
    assert (made.ino != removed.ino, made.nlink) == (True, 2)
    await mount.mkdir(b"d/e")
    mount.fs.forget([(removed.ino, 10)])
    assert await mount.is_directory(b"d/e")
    assert (await mount.fs.lookup(ROOT_INO, b"d")).ino == made.ino


async def test_a_removed_directory_does_not_come_back(mount: Bench) -> None:
    """Its times, set by who still has it open, have nothing to be kept in."""
    await mount.mkdir(b"d")
    removed = await mount.fs.lookup(ROOT_INO, b"d")
    await mount.rmdir(b"d")
    await mount.fs.set_attributes(removed.ino, AttributeChange(mtime_ns=NS_PER_S))
    assert await mount.ls() == set()
    assert mount.stored(b"d/") is None


async def test_a_failed_listing_is_an_error(mount: Bench) -> None:
    """Never a short or empty directory."""
    mount.store.put_now(key_of(b"d/f"), b"")
    mount.store.fail_next(StoreFailure("oops"), lambda call: call.method == "list_objects")
    with pytest.raises(StoreFailure):
        await mount.ls()
    assert await mount.ls() == {b"d"}


async def test_a_directory_that_others_remove(mount: Bench, mock_clock: MockClock) -> None:
    """Is gone when the listing that knew of it has aged."""
    mount.store.put_now(key_of(b"d/f"), b"")
    assert await mount.is_directory(b"d")
    mount.store.remove_now(key_of(b"d/f"))
    mock_clock.jump(IMPLIED_FRESHNESS_S + 1)
    await mount.is_directory(b"d")  # has the pool listed anew
    await wait_all_tasks_blocked()
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, b"d")


async def test_both_of_one_name_stay_reachable(mount: Bench, mock_clock: MockClock) -> None:
    """Without any listing before, and long after the last."""
    mount.store.put_now(key_of(b"a"), b"file")
    mount.store.put_now(key_of(b"a/b"), b"below")
    for _ in range(3):
        assert await mount.read_file(b"a/b") == b"below"
        assert await mount.read_file(b"a%.") == b"file"
        mock_clock.jump(10 * IMPLIED_FRESHNESS_S)


async def test_an_index_that_cannot_be_made_anew(mount: Bench, mock_clock: MockClock) -> None:
    """Serves on, and look-ups do not wait for it."""
    mount.store.put_now(key_of(b"d/f"), b"x")
    assert await mount.read_file(b"d/f") == b"x"
    for _ in range(3):
        mock_clock.jump(IMPLIED_FRESHNESS_S + 1)
        mount.store.fail_next(StoreFailure("oops"), lambda call: call.method == "list_objects")
        assert await mount.read_file(b"d/f") == b"x"
        await wait_all_tasks_blocked()


async def test_the_marker_is_reachable_by_name(mount: Bench) -> None:
    mount.store.put_now(key_of(b"d/"), b"content")
    assert await mount.read_file(b"d/%-") == b"content"


async def test_the_flat_view_has_no_directories(nursery: trio.Nursery) -> None:
    flat = MountBench(nursery, view=ViewConfig(pool=b"assets", names=NamesMode.FLAT))
    await flat.fs.start()
    with pytest.raises(NotPermitted):
        await flat.fs.make_directory(ROOT_INO, b"d")
    flat.store.put_now(key_of(b"d/f"), b"")
    assert await flat.names() == [b"d%2Ff"]


async def test_pools_are_no_directories_to_make(nursery: trio.Nursery) -> None:
    bench = MountBench(nursery, view=ViewConfig(names=NamesMode.TREE))
    await bench.fs.start()
    with pytest.raises(NotPermitted):
        await bench.fs.make_directory(ROOT_INO, b"d")
    pool = (await bench.fs.lookup(ROOT_INO, b"assets")).ino
    await bench.fs.make_directory(pool, b"d")
    assert bench.store.read_now(ObjectKey(key_of(b"").pool_id, b"", b"d/")) == b""


@pytest.mark.parametrize("names", NamesMode)
async def test_namespaces(nursery: trio.Nursery, names: NamesMode) -> None:
    """The namespace NAME of a pool is the pool's directory `.nspace/NAME`: reachable by name,
    and not listed."""
    bench = MountBench(nursery, view=ViewConfig(pool=b"assets", names=names))
    await bench.fs.start()
    key = key_of(b"f")._replace(namespace=b"eu/west")
    bench.store.put_now(key, b"theirs")
    spaces = (await bench.fs.lookup(ROOT_INO, b".nspace")).ino
    space = (await bench.fs.lookup(spaces, b"eu%2Fwest")).ino
    assert await bench.names() == await bench.names(spaces) == []
    assert await bench.names(space) == [b"f"]
    opened, _ = await bench.fs.create(space, b"g", os.O_RDWR)
    await bench.close(opened.handle)
    assert bench.store.read_now(key._replace(name=b"g")) == b""
    for call in (bench.fs.create(spaces, b"x", os.O_RDWR), bench.fs.make_directory(spaces, b"x")):
        with pytest.raises(NotPermitted):
            await call
    with pytest.raises(CrossPool):
        await bench.fs.rename(space, b"g", ROOT_INO, b"g", may_replace=True)
    with pytest.raises(NoSuchEntry):
        await bench.fs.lookup(space, b".nspace")


async def test_all_who_wait_for_a_listing_hear_of_its_failure(
    mount: Bench, mock_clock: MockClock
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


async def test_a_new_name_costs_one_round_trip(mount: Bench) -> None:
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


async def test_a_known_name_costs_one_call(mount: Bench) -> None:
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
    bench = Bench(nursery)
    bench.store.put_now(key_of(b"d/f"), b"")
    await bench.fs.start()
    await wait_all_tasks_blocked()
    listings = bench.listings
    assert listings
    assert await bench.is_directory(b"d")
    assert bench.listings == listings


async def test_indexes_are_bounded(mount: Bench) -> None:
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


async def test_made_again_while_its_removal_is_answered(mount: Bench) -> None:
    """An unlink of what this mount has no inode of does not hide what is made right after it."""
    await mount.ls()
    mount.store.put_now(key_of(b"f"), b"theirs")
    gate = trio.Event()

    async def hold_removal(call: Call) -> None:
        if call.change is not None and call.change.steps == (Remove(),):
            await gate.wait()

    mount.store.delay = hold_removal
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.fs.unlink, ROOT_INO, b"f")
        await wait_all_tasks_blocked()
        nursery.start_soon(mount.fs.create, ROOT_INO, b"f", os.O_RDWR | os.O_EXCL)
        await wait_all_tasks_blocked()
        gate.set()
    assert await mount.ls() == {b"f"}


@pytest.mark.parametrize("names", NamesMode)
async def test_rmdir_of_what_a_name_goes_on_in(nursery: trio.Nursery, names: NamesMode) -> None:
    """`rm -r` removes the files in it, then it: there is nothing to remove, unless it is full."""
    mount = MountBench(nursery, view=ViewConfig(pool=b"assets", names=names))
    await mount.fs.start()
    part = b"x" * 253 + b"%~"
    mount.store.put_now(key_of(b"x" * 253 + b"yyy"), b"")
    with pytest.raises(DirectoryNotEmpty):
        await mount.fs.remove_directory(ROOT_INO, part)
    inside = (await mount.fs.lookup(ROOT_INO, part)).ino
    assert await mount.names(inside) == [b"yyy"]
    await mount.fs.lookup(inside, b"yyy")
    await mount.fs.unlink(inside, b"yyy")
    await mount.fs.remove_directory(ROOT_INO, part)
    with pytest.raises(CrossPool):
        await mount.rename(part, b"other")


@pytest.mark.parametrize("names", NamesMode)
async def test_all_namespaces_stay(nursery: trio.Nursery, names: NamesMode) -> None:
    mount = MountBench(nursery, view=ViewConfig(pool=b"assets", names=names))
    await mount.fs.start()
    with pytest.raises(NotPermitted):
        await mount.fs.remove_directory(ROOT_INO, b".nspace")
    with pytest.raises(NotPermitted):
        await mount.rename(b".nspace", b"other")


async def test_a_read_only_pool_says_so_first(nursery: trio.Nursery) -> None:
    """EROFS, where another errno would have programs try something else."""
    mount = MountBench(nursery, view=ViewConfig(pool=b"assets", is_read_only=True))
    await mount.fs.start()
    mount.store.put_now(key_of(b"d/f"), b"")
    found = await mount.fs.lookup((await mount.fs.lookup(ROOT_INO, b"d")).ino, b"f")
    with pytest.raises(ReadOnly):
        await mount.rename(b"d", b"e")
    with pytest.raises(ReadOnly):
        await mount.fs.set_attributes(found.ino, AttributeChange(mode=0o644))


async def test_the_time_of_an_unlinked_file(mount: Bench) -> None:
    """futimens(2) holds for who has it open."""
    handle, ino = await mount.create(b"f")
    await mount.fs.sync(handle)
    await mount.fs.unlink(ROOT_INO, b"f")
    change = AttributeChange(mtime_ns=5 * NS_PER_S)
    await mount.fs.set_attributes(ino, change, handle)
    assert (await mount.fs.get_attributes(ino)).mtime_ns == 5 * NS_PER_S
    await mount.close(handle)


async def test_a_long_name_that_is_both(mount: Bench) -> None:
    """Its second spelling goes on in a directory: each object is listed and reached once."""
    names = [b"y" * 255, b"y" * 255 + b"/x", b"y" * 256, b"z" * 254, b"z" * 254 + b"/x"]
    for name in names:
        mount.store.put_now(key_of(name), name)
    found: list[bytes] = []

    async def walk(ino: int) -> None:
        for name in await mount.names(ino):
            below = await mount.fs.lookup(ino, name)
            if stat.S_ISDIR(below.mode):
                await walk(below.ino)
            else:
                opened = await mount.fs.open(below.ino, os.O_RDONLY)
                found.append(await mount.read(opened.handle))
                await mount.close(opened.handle)

    await walk(ROOT_INO)
    assert sorted(found) == sorted(names)


async def test_a_file_that_is_stored_during_a_listing(mount: Bench, mock_clock: MockClock) -> None:
    """It was unstored when the listing began, and is stored when it ends: yet it is listed."""
    await mount.ls()
    mock_clock.jump(2)
    handle, _ = await mount.create(b"new")
    listed_before = mount.listings
    gate = trio.Event()

    async def hold(call: Call) -> None:
        if call.method == "list_objects" and mount.listings > listed_before:
            await gate.wait()  # RADOS lists what was there at its beginning

    mount.store.delay = hold
    found: list[set[bytes]] = []

    async def ls() -> None:
        found.append(await mount.ls())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ls)
        await wait_all_tasks_blocked()
        await mount.close(handle)
        gate.set()
    assert found == [{b"new"}]


async def test_the_time_of_a_directory(mount: Bench) -> None:
    """In whole seconds, as it is stored; chmod, which has no effect, leaves it."""
    await mount.mkdir(b"d")
    found = await mount.fs.lookup(ROOT_INO, b"d")
    change = AttributeChange(mtime_ns=5 * NS_PER_S + 123)
    shown = await mount.fs.set_attributes(found.ino, change)
    assert shown.mtime_ns == 5 * NS_PER_S
    await mount.write(b"d/f", b"")
    newer = (await mount.fs.get_attributes(found.ino)).mtime_ns
    assert newer > 10**18
