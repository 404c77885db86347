"""What a directory lists: numbered entries, and errors that stay errors."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from stat import S_IFMT
from typing import Any

import pytest
import trio

from radosmount.config import NamesMode, ViewConfig
from radosmount.errors import TimedOut
from radosmount.store.interface import ListedObject, ObjectKey
from radosmount.store.names import FLAT
from radosmount.vfs import directories
from radosmount.vfs.listing import object_entries
from radosmount.vfs.nodes import ROOT_INO, ObjectPlace
from tests.support.mounts import MountBench
from tests.support.stores import is_call, key_of

PLACE = ObjectPlace(1, b"")


class Source:
    """Batches of names as a store lists them; `fails` raises behind the last."""

    def __init__(self, *batches: list[bytes], fails: bool = False) -> None:
        self.batches = batches
        self.fails = fails
        self.fetched_count = 0
        self.is_closed = False

    async def run(self) -> AsyncGenerator[list[ListedObject], None]:
        try:
            for batch in self.batches:
                self.fetched_count += 1
                yield [ListedObject(b"", name, b"") for name in batch]
            if self.fails:
                raise TimedOut("no")
        finally:
            self.is_closed = True


async def names(
    source: Source, unstored: list[ObjectKey] | None = None, path: tuple[bytes, ...] = ()
) -> list[bytes]:
    batches = object_entries(PLACE, path, source.run(), unstored or [])
    return [entry.name async for batch in batches for entry in batch]


async def test_unstored_files_come_first_and_once() -> None:
    """A file that the store does not list yet is there; when it is stored meanwhile, once."""
    assert await names(Source([b"a", b"new"]), [key_of(b"new")]) == [b"new", b"a"]


@pytest.mark.parametrize("odd", [b".snap", b"50%2F", b"a\0b", b"n" * 300])
async def test_an_odd_name_among_others(odd: bytes) -> None:
    """Each entry's object is the one whose path it is, whatever else is listed with it."""
    source = Source([b"a", odd, b"b/c"], [b"plain"], [])
    batches = object_entries(PLACE, (), source.run(), [])
    entries = [entry async for batch in batches for entry in batch]
    assert len(entries) == 4
    files = [(name, key) for name, key in entries if isinstance(key, ObjectKey)]
    assert [(name,) for name, _ in files] == [FLAT.path_of(key.name) for _, key in files]


async def test_fetches_as_far_as_asked() -> None:
    """No more is asked of the store than the reader wants, and closing ends it."""
    source = Source([b"a"], [b"b"], [b"c"])
    batches = object_entries(PLACE, (), source.run(), [])
    async with aclosing(batches):
        assert await anext(batches) == []
        assert [entry.name for entry in await anext(batches)] == [b"a"]
    assert source.fetched_count == 1
    assert source.is_closed


async def test_failure_is_passed_on() -> None:
    """A listing that breaks off is an error, not an end."""
    with pytest.raises(TimedOut):
        await names(Source([b"a"], fails=True))


async def test_overlong_names_go_on_in_directories() -> None:
    """Names over 255 bytes with the same beginning share one directory, listed once."""
    long = b"n" * 300
    listed = await names(Source([long + b"1"], [long + b"2", b"short"]))
    assert len(listed) == 2
    assert b"short" in listed
    [directory] = [name for name in listed if name != b"short"]
    assert len(directory) == 255
    below = await names(Source([long + b"1"], [long + b"2", b"short"]), path=(directory,))
    assert len(below) == 2


async def test_entries_keep_their_numbers(nursery: trio.Nursery) -> None:
    """An entry has the same number as long as the directory is open, whatever comes and goes;
    an error comes behind the entries before it, again and again."""
    mount = MountBench(nursery, view=ViewConfig(pool=b"assets", names=NamesMode.FLAT))
    await mount.fs.start()
    for number in range(1500):  # a batch is 1000
        mount.store.put_now(key_of(b"%04d" % number), b"")
    mount.store.fail_next(TimedOut("no"), is_call("list_objects"), skip_count=2)
    directory = mount.fs.open_directory(ROOT_INO)
    for removed in (b"0001", b"0002"):
        for index in (0, 999, 500):
            entry = await mount.fs.list_entry(directory, index)
            assert entry is not None
            assert (entry.name, entry.next_index) == (b"%04d" % index, index + 1)
            mount.fs.take_entry(entry, is_taken=False)
        with pytest.raises(TimedOut):
            await mount.fs.list_entry(directory, 1000)
        mount.store.remove_now(key_of(removed))
    await mount.fs.release_directory(directory)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ten names of a directory come with their inodes."""
    monkeypatch.setattr(directories, "INODE_COUNT", 10)


async def large(nursery: trio.Nursery, **view: Any) -> MountBench:
    """A directory of 40 files and one directory below it."""
    mount = MountBench(nursery, view=ViewConfig(pool=b"assets", **view))
    await mount.fs.start()
    for number in range(40):
        mount.store.put_now(key_of(b"d/%02d" % number), b"")
    mount.store.put_now(key_of(b"d/e/f"), b"")
    return mount


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("names", NamesMode)
async def test_names_far_behind_come_bare(names: NamesMode, nursery: trio.Nursery) -> None:
    """Without inodes, by the number and type that a look-up tells, each at its own number."""
    mount = await large(nursery, names=names)
    above = ROOT_INO
    if names is NamesMode.TREE:
        above = (await mount.fs.lookup(ROOT_INO, b"d")).ino
    directory = mount.fs.open_directory(above)
    assert await mount.fs.bare_names(directory, 9) is None
    bare = await mount.fs.bare_names(directory, 10)
    assert bare is not None
    found = list(bare)
    again = await mount.fs.bare_names(directory, 20)
    assert again is not None
    assert list(again) == found[10:]
    behind = await mount.fs.bare_names(directory, 10 + len(found))
    assert behind is not None
    assert list(behind) == []
    index, first = 0, list[bytes]()
    while index < 10:
        entry = await mount.fs.list_entry(directory, index)
        assert entry is not None
        mount.fs.take_entry(entry, is_taken=False)
        first.append(entry.name)
        index = entry.next_index
    assert len({*first, *(name for name, _, _ in found)}) == 41
    for name, number, type_bits in found:
        attributes = await mount.fs.lookup(above, name)
        assert (attributes.ino, S_IFMT(attributes.mode)) == (number, type_bits)


@pytest.mark.usefixtures("small")
async def test_bare_names_make_no_inodes(nursery: trio.Nursery) -> None:
    """The kernel never gives them back: they must not be counted."""
    mount = await large(nursery)
    above = (await mount.fs.lookup(ROOT_INO, b"d")).ino
    directory = mount.fs.open_directory(above)
    names = await mount.fs.bare_names(directory, 10)
    assert names is not None
    for _, number, _ in names:
        with pytest.raises(KeyError):
            await mount.fs.get_attributes(number)


@pytest.mark.usefixtures("small")
async def test_names_come_with_inodes_where_these_are_asked_for(nursery: trio.Nursery) -> None:
    """As `ls -l` does; so stats go ahead of it to the end."""
    mount = await large(nursery, names=NamesMode.FLAT)
    directory = mount.fs.open_directory(ROOT_INO)
    entry = await mount.fs.list_entry(directory, 0)
    assert entry is not None
    mount.fs.take_entry(entry, is_taken=True)
    assert await mount.fs.bare_names(directory, 20) is not None
    await mount.fs.get_attributes(entry.attributes.ino)
    assert await mount.fs.bare_names(directory, 20) is None


@pytest.mark.usefixtures("small")
async def test_types_are_asked_for(nursery: trio.Nursery) -> None:
    """With `posix` any name may be a symbolic link: none is listed before its object was asked."""
    mount = await large(nursery, has_posix=True)
    directory = mount.fs.open_directory((await mount.fs.lookup(ROOT_INO, b"d")).ino)
    assert await mount.fs.bare_names(directory, 20) is None


@pytest.mark.usefixtures("small")
async def test_an_error_among_bare_names(nursery: trio.Nursery) -> None:
    """A listing that breaks off is an error, not an end."""
    mount = await large(nursery, names=NamesMode.FLAT)
    for number in range(1500):  # a batch is 1000
        mount.store.put_now(key_of(b"%04d" % number), b"")
    mount.store.fail_next(TimedOut("no"), is_call("list_objects"), skip_count=2)
    directory = mount.fs.open_directory(ROOT_INO)
    names = await mount.fs.bare_names(directory, 10)
    assert names is not None
    behind = 10 + len(list(names))
    with pytest.raises(TimedOut):
        await mount.fs.bare_names(directory, behind)
