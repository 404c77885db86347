"""The posix xattr, and what the file system makes of it, over a memory store."""

import os
import stat

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from radosmount.config import ViewConfig
from radosmount.errors import FileTooBig, InvalidCall, NotPermitted, ReadOnly
from radosmount.store import posix
from radosmount.store.interface import Change, Limits, SetXattr, Write
from radosmount.store.memory import Call, MemoryStore
from radosmount.store.posix import NS_PER_S, Posix
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.metadata import Creator
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import key_of

NS = 1_577_934_245_678_912_345
CREATOR = Creator(0o640, 1000, 100)
IDS = st.none() | st.integers(0, posix.ID_MAX)
TIMES = st.none() | st.integers(0, 10**10 * NS_PER_S - 1)
FILES = st.builds(
    Posix,
    st.none() | st.integers(0, 0o7777).map(stat.S_IFREG.__or__),
    IDS,
    IDS,
    TIMES,
)
TARGETS = st.binary(min_size=1, max_size=posix.TARGET_BYTES_MAX).filter(lambda text: 0 not in text)
LINKS = st.builds(Posix, st.just(stat.S_IFLNK | 0o777), IDS, IDS, TIMES, TARGETS)


@given(FILES | LINKS)
def test_what_is_encoded_is_decoded(kept: Posix) -> None:
    """Whatever bytes a target has."""
    assert posix.decode(posix.encode(kept)) == kept


@given(st.binary())
def test_anything_may_stand_there(value: bytes) -> None:
    """Others may write the xattr: what is not of the form is as if there was none."""
    found = posix.decode(value)
    assert found == posix.NONE or posix.decode(posix.encode(found)) == found


@pytest.mark.parametrize(
    "value",
    [
        b"mode=060644", b"mode=100644 uid=4294967295", b"mode=120777", b"target=x",
        b"mode=100644 target=x", b"uid=1  gid=2", b"mode=100644\n", b"mtime=1.5", b"gid=1 uid=1",
    ],
)  # fmt: skip
def test_what_is_refused(value: bytes) -> None:
    """Devices, ids that are none, links without a target, anything misspelt."""
    assert posix.decode(value) == posix.NONE


def test_nanoseconds_of_an_older_version() -> None:
    """They count only for the second that RADOS tells."""
    assert Posix(mtime_ns=NS).exact_mtime_ns(NS // NS_PER_S) == NS
    assert Posix(mtime_ns=NS).exact_mtime_ns(5) == 5 * NS_PER_S


@pytest.fixture
async def mount(nursery: trio.Nursery) -> MountBench:
    view = ViewConfig(pool=b"assets", has_posix=True)
    bench = MountBench(nursery, MemoryStore(has_posix=True), view, has_posix=True)
    await bench.fs.start()
    await bench.names()
    return bench


async def make(mount: MountBench, name: bytes, flags: int = 0) -> tuple[int, int]:
    opened, made = await mount.fs.create(ROOT_INO, name, os.O_RDWR | flags, CREATOR)
    return opened.handle, made.ino


def kept(mount: MountBench, name: bytes) -> Posix:
    return posix.decode(mount.store.xattrs_now(key_of(name))[posix.XATTR])


async def change(mount: MountBench, ino: int, **wanted: int) -> None:
    await mount.fs.set_attributes(ino, AttributeChange(**wanted))


@pytest.mark.expects_log("chmod and chown have no effect")
@pytest.mark.parametrize("flags", [0, os.O_EXCL])
async def test_no_call_more(mount: MountBench, nursery: trio.Nursery, flags: int) -> None:
    """A file is made, written, given mode, owner and time, closed and looked up with as many
    calls of the store as without `posix`."""
    plain = MountBench(nursery)
    await plain.fs.start()
    await plain.names()
    counts = []
    for bench in (plain, mount):
        calls: list[Call] = []

        async def count(call: Call, calls: list[Call] = calls) -> None:
            calls.append(call)

        bench.store.delay = count
        handle, ino = await make(bench, b"f", flags)
        await bench.fs.write(handle, 0, b"content")
        await change(bench, ino, mode=0o600, uid=5, gid=6)
        await change(bench, ino, mtime_ns=NS)
        await bench.close(handle)
        await bench.stat(b"f")
        counts.append([call.method for call in calls])
    assert counts[0] == counts[1]
    assert kept(mount, b"f") == Posix(stat.S_IFREG | 0o600, 5, 6, NS)
    found = await mount.stat(b"f")
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o600, 5, 6)
    assert found.mtime_ns == NS


async def test_content_and_mode_go_together(mount: MountBench) -> None:
    """In one operation."""
    handle, _ = await make(mount, b"f")
    await mount.fs.write(handle, 0, b"content")
    await mount.close(handle)
    [(_, stored)] = mount.store.changes
    assert posix.XATTR in [step.name for step in stored.steps if isinstance(step, SetXattr)]


async def test_chmod_beside_another_mounts_chown(mount: MountBench) -> None:
    """What the other has set in the meantime stays."""
    handle, ino = await make(mount, b"f")
    await mount.close(handle)
    theirs = posix.encode(Posix(stat.S_IFREG | 0o644, 77, 78, NS))
    mount.store.change_now(key_of(b"f"), Change((SetXattr(posix.XATTR, theirs),)))
    await change(mount, ino, mode=0o600)
    assert kept(mount, b"f") == Posix(stat.S_IFREG | 0o600, 77, 78, NS)


async def test_an_append_beside_another_mounts_chown(mount: MountBench) -> None:
    """It goes behind what the other has appended, and leaves the owner that the other has set."""
    handle, _ = await make(mount, b"f")
    await mount.close(handle)
    handle = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(handle, 0, b"ours")
    theirs = posix.encode(Posix(stat.S_IFREG | 0o644, 77, 78, NS))
    change = Change((Write(0, b"theirs "), SetXattr(posix.XATTR, theirs)), mtime_s=NS // NS_PER_S)
    mount.store.change_now(key_of(b"f"), change)
    await mount.close(handle)
    assert mount.stored(b"f") == b"theirs ours"
    found = kept(mount, b"f")
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o644, 77, 78)
    assert found.mtime_ns != NS


async def test_rewriting_keeps_the_mode(mount: MountBench) -> None:
    """Also where the file is truncated at open, and after a rename."""
    handle, _ = await make(mount, b"f")
    await mount.close(handle)
    handle = await mount.open(b"f", os.O_WRONLY | os.O_TRUNC)
    await mount.fs.write(handle, 0, b"other")
    await mount.close(handle)
    await mount.rename(b"f", b"g")
    found = await mount.stat(b"g")
    assert (found.mode, found.uid) == (stat.S_IFREG | 0o640, 1000)
    assert kept(mount, b"g").uid == 1000


async def test_an_unlinked_file_has_its_mode(mount: MountBench) -> None:
    """As long as it is open, and takes another, and another time."""
    handle, ino = await make(mount, b"f")
    await mount.fs.write(handle, 0, b"content")
    await mount.unlink(b"f")
    found = await mount.fs.get_attributes(ino)
    assert (found.mode, found.uid) == (stat.S_IFREG | 0o640, 1000)
    await change(mount, ino, mode=0o600, mtime_ns=NS)
    found = await mount.fs.get_attributes(ino)
    assert (found.mode, found.mtime_ns, found.nlink) == (stat.S_IFREG | 0o600, NS, 0)
    await mount.close(handle)


async def test_an_unlinked_file_has_the_same_limit(nursery: trio.Nursery) -> None:
    """EFBIG, as before it was unlinked; not a file of that size on the local disk."""
    mount = MountBench(nursery, MemoryStore(Limits(1000, 900)))
    await mount.fs.start()
    handle, ino = await make(mount, b"f")
    await mount.fs.write(handle, 0, b"content")
    await mount.unlink(b"f")
    with pytest.raises(FileTooBig):
        await mount.fs.write(handle, 1 << 46, b"x")
    with pytest.raises(FileTooBig):
        await change(mount, ino, size=1 << 46)
    assert await mount.read(handle) == b"content"
    await mount.close(handle)


async def test_links(mount: MountBench) -> None:
    made = await mount.fs.make_link(ROOT_INO, b"l", b"../target", Creator(0o777, 1, 2))
    assert (made.mode, made.size, made.uid) == (stat.S_IFLNK | 0o777, 9, 1)
    assert await mount.fs.read_link(made.ino) == b"../target"
    assert mount.stored(b"l") == b""
    mount.store.put_now(key_of(b"l"), b"content")
    assert stat.S_ISREG((await mount.stat(b"l")).mode)
    with pytest.raises(InvalidCall):
        await mount.fs.read_link((await mount.stat(b"l")).ino)


async def test_no_links_without(nursery: trio.Nursery) -> None:
    plain = MountBench(nursery)
    await plain.fs.start()
    with pytest.raises(NotPermitted):
        await plain.fs.make_link(ROOT_INO, b"l", b"target", CREATOR)


async def test_a_listing_tells_what_names_are(mount: MountBench, mock_clock: MockClock) -> None:
    """And leaves out what is gone; files that are not stored yet are there."""
    for number in range(200):
        mount.store.put_now(key_of(b"%03d" % number), b"")
    link = posix.encode(Posix(stat.S_IFLNK | 0o777, target=b"x"))
    mount.store.change_now(key_of(b"100"), Change((SetXattr(posix.XATTR, link),)))
    handle, _ = await make(mount, b"new")
    mock_clock.jump(2)
    directory, found, index = mount.fs.open_directory(ROOT_INO), dict[bytes, int](), 0
    while (entry := await mount.fs.list_entry(directory, index)) is not None:
        found[entry.name] = stat.S_IFMT(entry.attributes.mode)
        mount.fs.take_entry(entry, is_taken=False)
        index = entry.next_index
        if len(found) == 64:
            mount.store.remove_now(key_of(b"150"))
    await mount.fs.release_directory(directory)
    assert found.pop(b"100") == stat.S_IFLNK
    assert set(found.values()) == {stat.S_IFREG}
    assert len(found) == 199
    assert b"150" not in found
    assert b"new" in found
    await mount.close(handle)


async def test_directories_keep_theirs(mount: MountBench, mock_clock: MockClock) -> None:
    """In the marker, which is made where names only imply the directory."""
    mount.store.put_now(key_of(b"implied/f"), b"")
    made = await mount.fs.make_directory(ROOT_INO, b"d", Creator(0o2750, 1000, 100))
    assert (made.mode, made.gid) == (stat.S_IFDIR | 0o2750, 100)
    opened, heir = await mount.fs.create(made.ino, b"f", os.O_RDWR, Creator(0o600, 1, 1))
    assert (heir.uid, heir.gid) == (1, 100)
    await mount.close(opened.handle)
    mock_clock.jump(2)
    await mount.names()
    implied = await mount.stat(b"implied")
    await change(mount, implied.ino, mode=0o700, mtime_ns=NS)
    assert kept(mount, b"implied/") == Posix(stat.S_IFDIR | 0o700, None, None, NS)
    found = await mount.fs.get_attributes(implied.ino)
    assert (found.mode, found.mtime_ns) == (stat.S_IFDIR | 0o700, NS)


@pytest.mark.expects_log("chmod and chown have no effect")
async def test_a_pool_is_the_mounts(mount: MountBench) -> None:
    """There is no object that could keep its mode."""
    await change(mount, ROOT_INO, mode=0o700)
    assert (await mount.fs.get_attributes(ROOT_INO)).mode == stat.S_IFDIR | 0o755
    assert not mount.store.changes


async def test_a_read_only_pool(nursery: trio.Nursery) -> None:
    view = ViewConfig(pool=b"assets", has_posix=True, is_read_only=True)
    mount = MountBench(nursery, MemoryStore(has_posix=True), view, has_posix=True)
    await mount.fs.start()
    mount.store.put_now(key_of(b"f"), b"")
    found = await mount.stat(b"f")
    with pytest.raises(ReadOnly):
        await change(mount, found.ino, mode=0o600)
    with pytest.raises(ReadOnly):
        await mount.fs.make_link(ROOT_INO, b"l", b"target", CREATOR)


async def test_chmod_of_a_directory_leaves_its_time(mount: MountBench) -> None:
    """The time of what this mount last made in it."""
    made = await mount.fs.make_directory(ROOT_INO, b"d", CREATOR)
    await change(mount, made.ino, mtime_ns=NS)
    opened, _ = await mount.fs.create(made.ino, b"f", os.O_RDWR, CREATOR)
    await mount.close(opened.handle)
    newer = (await mount.fs.get_attributes(made.ino)).mtime_ns
    assert newer > NS
    await change(mount, made.ino, mode=0o700)
    assert (await mount.fs.get_attributes(made.ino)).mtime_ns == newer
