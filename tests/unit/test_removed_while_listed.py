"""What this mount removes while a directory is listed, the kernel is not told of any more."""

import pytest
import trio

from radosmount.config import NamesMode, ViewConfig
from radosmount.errors import NoSuchEntry, StaleFile
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import key_of

CALLER = 7


class HalfListed:
    """One opendir(3) whose first entry was read."""

    def __init__(self, mount: MountBench) -> None:
        self._fs = mount.fs
        self.handle = mount.fs.open_directory(ROOT_INO)
        self.index = 0
        self.names: list[bytes] = []

    async def read(self, count: int = 1 << 30) -> list[bytes]:
        """Up to so many entries, kept by the kernel. All names so far."""
        while count and (entry := await self._fs.list_entry(self.handle, self.index)) is not None:
            self._fs.take_entry(entry, is_taken=True)
            self.names.append(entry.name)
            self.index = entry.next_index
            count -= 1
        return self.names


@pytest.fixture(params=[NamesMode.TREE, NamesMode.FLAT])
async def mount(request: pytest.FixtureRequest, nursery: trio.Nursery) -> MountBench:
    names: NamesMode = request.param
    bench = MountBench(nursery, view=ViewConfig(pool=b"assets", names=names))
    await bench.fs.start()
    for number in range(5):
        bench.store.put_now(key_of(b"%d" % number), b"content")
    return bench


async def half_listed(mount: MountBench) -> tuple[HalfListed, list[bytes]]:
    """And the names that are still to come."""
    listing = HalfListed(mount)
    [first] = await listing.read(1)
    return listing, sorted({b"%d" % number for number in range(5)} - {first})


@pytest.mark.parametrize("how", ["unlink", "rename"])
async def test_it_is_left_out(mount: MountBench, how: str) -> None:
    """And does not come back by being listed."""
    listing, left = await half_listed(mount)
    if how == "unlink":
        await mount.unlink(left[0])
    else:
        await mount.rename(left[0], b"new")
    names = await listing.read()
    assert left[0] not in names
    assert set(left[1:]) < set(names)
    assert left[0] not in await mount.names()
    await mount.put(left[0], b"anew")
    assert left[0] in await mount.names()


async def test_made_anew_meanwhile(mount: MountBench) -> None:
    listing, left = await half_listed(mount)
    await mount.unlink(left[0])
    await mount.put(left[0], b"anew")
    assert left[0] in await listing.read()


async def test_few_removals_are_remembered(
    mount: MountBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory may be open for ever."""
    monkeypatch.setattr("radosmount.vfs.vanished.COUNT_MAX", 1)
    listing, left = await half_listed(mount)
    await mount.unlink(left[0])
    await mount.unlink(left[1])
    names = await listing.read()
    assert left[1] not in names
    assert left[1] not in await mount.names()
    assert left[0] in names  # it was forgotten
    with pytest.raises(NoSuchEntry):
        await mount.stat(left[0])


async def test_a_removed_directory_is_left_out(nursery: trio.Nursery) -> None:
    mount = MountBench(nursery)
    await mount.fs.start()
    for name in (b"a", b"b"):
        await mount.fs.make_directory(ROOT_INO, name)
    listing = HalfListed(mount)
    [first] = await listing.read(1)
    [second] = {b"a", b"b"} - {first}
    await mount.fs.remove_directory(ROOT_INO, second)
    assert await listing.read() == [first]
    await mount.fs.make_directory(ROOT_INO, second)
    assert sorted(await mount.names()) == [b"a", b"b"]


async def test_an_old_list_of_names_does_not_bring_back_what_is_gone(
    nursery: trio.Nursery,
) -> None:
    """Who changes one file after the other looks it up as it was listed; but not what he was told
    is gone, however often it is listed yet."""
    mount = MountBench(nursery)
    await mount.fs.start()
    for name in (b"mine", b"theirs"):
        mount.store.put_now(key_of(name), b"content")
    kept = HalfListed(mount)
    await kept.read()
    mount.store.remove_now(key_of(b"theirs"))
    await mount.fs.unlink(ROOT_INO, b"mine", caller=CALLER)
    ino = (await mount.fs.lookup(ROOT_INO, b"theirs", CALLER)).ino
    with pytest.raises(StaleFile):
        await mount.fs.set_xattr(ino, b"user.a", b"1", caller=CALLER)
    assert b"theirs" in await mount.names()  # as it was up to a second ago
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, b"theirs", CALLER)
