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
)
from radosmount.store.interface import ObjectKey, Remove
from radosmount.store.memory import Call
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.directories import IMPLIED_FRESHNESS_S
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import key_of
from tests.support.trees import TreeBench


@pytest.fixture
async def mount(nursery: trio.Nursery) -> TreeBench:
    bench = TreeBench(nursery)
    await bench.fs.start()
    return bench


async def test_names_are_paths(mount: TreeBench) -> None:
    """`/` in an object's name separates directories, which appear by themselves."""
    mount.store.put_now(key_of(b"img/2026/1.jpg"), b"jpg")
    assert await mount.ls() == {b"img"}
    assert await mount.ls(b"img/2026") == {b"1.jpg"}
    assert await mount.read_file(b"img/2026/1.jpg") == b"jpg"
    await mount.write(b"img/2026/2.jpg", b"new")
    assert mount.stored(b"img/2026/2.jpg") == b"new"
    assert await mount.ls(b"img/2026") == {b"1.jpg", b"2.jpg"}


async def test_mkdir_makes_a_marker(mount: TreeBench) -> None:
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


async def test_mkdir_where_others_have_made_one(mount: TreeBench) -> None:
    """By a marker, or by a name that implies it."""
    mount.store.put_now(key_of(b"marked/"), b"")
    mount.store.put_now(key_of(b"implied/x"), b"")
    for name in (b"marked", b"implied"):
        with pytest.raises(EntryExists):
            await mount.mkdir(name)


async def test_mkdir_of_what_no_object_is_below(mount: TreeBench) -> None:
    with pytest.raises(InvalidCall):
        await mount.mkdir(b".snap")
    await mount.mkdir(b"d")
    await mount.mkdir(b"d/.snap")
    assert mount.stored(b"d/.snap/") == b""


async def test_rmdir(mount: TreeBench) -> None:
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


async def test_rmdir_of_what_is_being_written(mount: TreeBench) -> None:
    """A file that RADOS does not have yet counts."""
    await mount.mkdir(b"d")
    parent, name = await mount.parent(b"d/f")
    opened, _ = await mount.fs.create(parent, name, os.O_CREAT | os.O_RDWR)
    with pytest.raises(DirectoryNotEmpty):
        await mount.rmdir(b"d")
    assert await mount.ls(b"d") == {b"f"}
    await mount.close(opened.handle)


async def test_an_implied_directory_goes_with_its_last_file(mount: TreeBench) -> None:
    mount.store.put_now(key_of(b"d/f"), b"x")
    assert await mount.ls() == {b"d"}
    await mount.remove(b"d/f")
    assert await mount.ls() == set()


async def test_a_file_and_a_directory_of_one_name(mount: TreeBench, mock_clock: MockClock) -> None:
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


async def test_rename_between_directories(mount: TreeBench) -> None:
    await mount.mkdir(b"d")
    await mount.mkdir(b"e")
    await mount.write(b"d/f", b"x")
    await mount.move(b"d/f", b"e/g")
    assert await mount.ls(b"d") == set()
    assert await mount.ls(b"e") == {b"g"}
    assert mount.stored(b"e/g") == b"x"


async def test_rename_of_a_directory(mount: TreeBench) -> None:
    """Renaming a directory is EXDEV, so that mv copies."""
    await mount.mkdir(b"d")
    await mount.ls()
    with pytest.raises(CrossPool):
        await mount.move(b"d", b"e")


async def test_a_directory_made_in_place_of_a_removed_one(mount: TreeBench) -> None:
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


async def test_a_removed_directory_does_not_come_back(mount: TreeBench) -> None:
    """Its times, set by who still has it open, have nothing to be kept in."""
    await mount.mkdir(b"d")
    removed = await mount.fs.lookup(ROOT_INO, b"d")
    await mount.rmdir(b"d")
    await mount.fs.set_attributes(removed.ino, AttributeChange(mtime_ns=NS_PER_S))
    assert await mount.ls() == set()
    assert mount.stored(b"d/") is None


async def test_a_directory_that_others_remove(mount: TreeBench, mock_clock: MockClock) -> None:
    """Is gone when the listing that knew of it has aged."""
    mount.store.put_now(key_of(b"d/f"), b"")
    assert await mount.is_directory(b"d")
    mount.store.remove_now(key_of(b"d/f"))
    mock_clock.jump(IMPLIED_FRESHNESS_S + 1)
    await mount.is_directory(b"d")  # has the pool listed anew
    await wait_all_tasks_blocked()
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, b"d")


async def test_both_of_one_name_stay_reachable(mount: TreeBench, mock_clock: MockClock) -> None:
    """Without any listing before, and long after the last."""
    mount.store.put_now(key_of(b"a"), b"file")
    mount.store.put_now(key_of(b"a/b"), b"below")
    for _ in range(3):
        assert await mount.read_file(b"a/b") == b"below"
        assert await mount.read_file(b"a%.") == b"file"
        mock_clock.jump(10 * IMPLIED_FRESHNESS_S)


async def test_the_marker_is_reachable_by_name(mount: TreeBench) -> None:
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


async def test_made_again_while_its_removal_is_answered(mount: TreeBench) -> None:
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


async def test_the_time_of_an_unlinked_file(mount: TreeBench) -> None:
    """futimens(2) holds for who has it open."""
    handle, ino = await mount.create(b"f")
    await mount.fs.sync(handle)
    await mount.fs.unlink(ROOT_INO, b"f")
    change = AttributeChange(mtime_ns=5 * NS_PER_S)
    await mount.fs.set_attributes(ino, change, handle)
    assert (await mount.fs.get_attributes(ino)).mtime_ns == 5 * NS_PER_S
    await mount.close(handle)


async def test_a_long_name_that_is_both(mount: TreeBench) -> None:
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


async def test_the_time_of_a_directory(mount: TreeBench) -> None:
    """In whole seconds, as it is stored; chmod, which has no effect, leaves it."""
    await mount.mkdir(b"d")
    found = await mount.fs.lookup(ROOT_INO, b"d")
    change = AttributeChange(mtime_ns=5 * NS_PER_S + 123)
    shown = await mount.fs.set_attributes(found.ino, change)
    assert shown.mtime_ns == 5 * NS_PER_S
    await mount.write(b"d/f", b"")
    newer = (await mount.fs.get_attributes(found.ino)).mtime_ns
    assert newer > 10**18
