"""Unlinking where the reply is lost, and what the handles have that are open meanwhile."""

import os

import pytest
import trio
import trio.testing

from radosmount.config import FlushMode
from radosmount.errors import NoSuchEntry, StaleFile, TimedOut, VersionConflict
from radosmount.vfs.objects import OPEN_FRESHNESS_S
from tests.support.mounts import MountBench, started
from tests.support.stores import key_of, removes


async def lose_unlink(mount: MountBench, is_applied: bool = True) -> None:
    mount.store.fail_next(TimedOut("lost"), removes, applied=is_applied)
    with pytest.raises(TimedOut):
        await mount.unlink(b"f")
    assert (mount.stored(b"f") is None) == is_applied


async def test_flush_after_a_lost_unlink(mount: MountBench) -> None:
    """Who has a file open that is unlinked by a request whose reply was lost goes on with it."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"12")
    await lose_unlink(mount)
    await mount.fs.write(handle, 6, b"34")
    await mount.fs.flush(handle)
    assert await mount.read(handle) == b"12cdef34"
    await mount.fs.write(handle, 0, b"X")
    await mount.close(handle)
    assert mount.stored(b"f") is None
    assert mount.fs.unwritten() == []


async def test_read_after_a_lost_unlink(mount: MountBench) -> None:
    """So does who only reads."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    assert await mount.read(handle) == b"abcdef"
    await mount.close(handle)


async def test_unlink_after_a_lost_unlink(mount: MountBench) -> None:
    """Unlinking it again finds that it is done, and the content stays with the handle."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    await mount.unlink(b"f")
    assert await mount.read(handle) == b"abcdef"
    await mount.close(handle)


async def test_unlink_after_two_lost_unlinks(mount: MountBench) -> None:
    """By the second there is no object to copy any more: what the first has copied is kept."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    mount.store.fail_next(TimedOut("lost"), removes)
    with pytest.raises(TimedOut):
        await mount.unlink(b"f")
    await mount.unlink(b"f")
    assert await mount.read(handle) == b"abcdef"
    await mount.close(handle)


async def test_flush_after_a_lost_unlink_request(mount: MountBench) -> None:
    """Where the request was lost, the file is what it was."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount, is_applied=False)
    await mount.fs.write(handle, 0, b"12")
    await mount.close(handle)
    assert await mount.get(b"f") == b"12cdef"


@pytest.mark.expects_log("is not stored|could not be stored")
async def test_foreign_removal_after_a_lost_unlink_request(mount: MountBench) -> None:
    """What is stored after a lost unlinking was not removed by that."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount, is_applied=False)
    await mount.fs.write(handle, 0, b"12")
    await mount.fs.flush(handle)
    mount.store.remove_now(mount.key(b"f"))
    with pytest.raises(StaleFile):
        await mount.read(handle)
    await mount.fs.write(handle, 0, b"34")
    with pytest.raises(VersionConflict):
        await mount.close(handle)


async def test_lazy_flush_after_a_lost_unlink(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What is not stored of a file that nobody has open goes with it, and is no lost data."""
    mount = await started(nursery, flush=FlushMode.LAZY)
    await mount.put(b"f", b"abcdef")
    await mount.fs.flush_all()
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"12")
    await mount.close(handle)
    await lose_unlink(mount)
    await mount.fs.flush_all()
    assert mount.fs.unwritten() == []


async def test_made_anew_after_a_lost_unlink(mount: MountBench) -> None:
    """Who makes the name anew has nothing to do with who has the old file open."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    await mount.fs.write(handle, 0, b"12")
    other, _ = await mount.create(b"f", os.O_RDWR | os.O_EXCL)
    await mount.fs.write(other, 0, b"new")
    await mount.close(other)
    await mount.fs.write(handle, 2, b"34")
    await mount.fs.flush(handle)
    assert await mount.read(handle) == b"1234ef"
    await mount.close(handle)
    assert mount.stored(b"f") == b"new"


async def test_replaced_after_a_lost_unlink(mount: MountBench) -> None:
    """So it is with a rename onto the name."""
    await mount.put(b"f", b"abcdef")
    await mount.put(b"new", b"new")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    await mount.rename(b"new", b"f")
    assert await mount.read(handle) == b"abcdef"
    await mount.close(handle)
    assert mount.stored(b"f") == b"new"


async def test_lookup_after_a_lost_unlink(mount: MountBench) -> None:
    """What is unstored of the file does not show a name that is gone."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"12")
    await lose_unlink(mount)
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"f")
    await mount.close(handle)
    assert mount.stored(b"f") is None


async def expect_parted(mount: MountBench, handle: int) -> None:
    """Another client makes the name anew: that is another file than the one of `handle`."""
    mount.store.put_now(mount.key(b"f"), b"new")
    assert await mount.get(b"f") == b"new"
    assert await mount.read(handle) == b"abcdef"
    await mount.fs.write(handle, 0, b"12")
    await mount.close(handle)
    assert mount.stored(b"f") == b"new"


async def test_made_anew_elsewhere_after_a_lookup(mount: MountBench) -> None:
    """A name that a look-up has told to be gone is never again the name of who has the file
    open."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    with pytest.raises(NoSuchEntry):
        await mount.stat(b"f")
    await expect_parted(mount, handle)


async def test_made_anew_elsewhere_after_an_fstat(
    mount: MountBench, autojump_clock: trio.testing.MockClock
) -> None:
    """So it is where fstat(2) of the open file was the first to hear of it."""
    await mount.put(b"f", b"abcdef")
    handle, ino = await mount.open(b"f"), (await mount.stat(b"f")).ino
    await lose_unlink(mount)
    await trio.sleep(OPEN_FRESHNESS_S)
    assert (await mount.fs.get_attributes(ino)).size == 6
    await expect_parted(mount, handle)


async def test_made_anew_elsewhere_after_a_rename(mount: MountBench) -> None:
    """And where a rename of that name found nothing."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    with pytest.raises(NoSuchEntry):
        await mount.rename(b"f", b"g")
    await expect_parted(mount, handle)


async def test_made_anew_elsewhere_unseen(mount: MountBench) -> None:
    """Where nothing has shown that the name was gone, what is made anew may be the same file,
    changed before the unlinking was refused: who has it open is told so, and writes nothing."""
    await mount.put(b"f", b"abcdef")
    handle = await mount.open(b"f")
    await lose_unlink(mount)
    mount.store.put_now(mount.key(b"f"), b"new")
    assert await mount.get(b"f") == b"new"
    with pytest.raises(StaleFile):
        await mount.fs.write(handle, 0, b"12")
    await mount.close(handle)
    assert mount.stored(b"f") == b"new"


@pytest.mark.expects_log("is not stored|could not be stored")
async def test_opened_after_a_lost_unlink_that_was_not_applied(mount: MountBench) -> None:
    """Nothing was copied for this handle. If the object is gone at its flush, the bytes must not go
    with it, and be reported as stored."""
    await mount.put(b"f", b"abcdef")
    await mount.stat(b"f")
    await lose_unlink(mount, is_applied=False)
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"12")
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(VersionConflict):
        await mount.fs.flush(handle)
    await mount.fs.release(handle)
