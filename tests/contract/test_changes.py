"""What `Store.apply` does, step by step and guard by guard."""

import os

import pytest
import trio

from radosmount import errors
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Notice,
    ObjectKey,
    Remove,
    RemoveXattr,
    SetOmap,
    SetXattr,
    Step,
    Store,
    Truncate,
    Write,
    WriteFull,
)
from tests.contract.backends import Backend, key_in

MIB = 1 << 20
T0 = 1_500_000_000


@pytest.fixture
def key(backend: Backend) -> ObjectKey:
    return key_in(backend, b"object")


async def put(store: Store, key: ObjectKey, data: bytes = b"old", mtime_s: int = T0) -> int:
    return await store.apply(key, Change((WriteFull(data),), mtime_s=mtime_s))


async def content(store: Store, key: ObjectKey) -> bytes:
    return (await store.read(key, 0, 1000)).data


async def apply(store: Store, key: ObjectKey, *steps: Step) -> int:
    return await store.apply(key, Change(steps, mtime_s=T0))


async def test_version_is_what_stat_and_read_say(store: Store, key: ObjectKey) -> None:
    """apply returns the object's new version; stat, read and get_xattrs return the same."""
    version = await put(store, key)
    assert version > 0
    assert (await store.stat(key)).version == version
    assert (await store.read(key, 0, 10)).version == version
    assert (await store.read(key, 0, 0)).version == version
    assert (await store.get_xattrs(key)).version == version


async def test_versions_grow(store: Store, key: ObjectKey) -> None:
    """Versions of one object grow with every change, over its removal too."""
    versions = [await put(store, key), await put(store, key)]
    versions.append(await store.apply(key, Change((SetXattr(b"a", b"b"),))))
    assert await store.apply(key, Change((Remove(),))) == 0
    versions.append(await put(store, key))
    assert versions == sorted(set(versions))


async def test_mtime_is_set(store: Store, key: ObjectKey) -> None:
    await put(store, key, mtime_s=T0)
    assert (await store.stat(key)).mtime_s == T0
    await put(store, key, mtime_s=T0 - 1000)
    assert (await store.stat(key)).mtime_s == T0 - 1000


@pytest.mark.parametrize(
    "step", [SetXattr(b"a", b"b"), Write(0, b"x"), Truncate(1), Create(), RemoveXattr(b"no")]
)
async def test_mtime_none_leaves_it(store: Store, key: ObjectKey, step: Step) -> None:
    await put(store, key)
    await store.apply(key, Change((step,)))
    assert (await store.stat(key)).mtime_s == T0


@pytest.mark.parametrize(
    ("asked_s", "held_s"), [(0, 1), (-5, 1), (2**32, 2**32 - 1), (2**31, 2**31)]
)
async def test_mtime_beyond_rados(store: Store, key: ObjectKey, asked_s: int, held_s: int) -> None:
    """RADOS holds 1 to 2**32 - 1; what is outside becomes the nearest."""
    await put(store, key, mtime_s=asked_s)
    assert (await store.stat(key)).mtime_s == held_s


async def test_create(store: Store, key: ObjectKey) -> None:
    """Makes the object, empty, where there is none; else changes nothing but mtime."""
    await apply(store, key, Create())
    assert (await store.stat(key)).size == 0
    await put(store, key)
    await store.apply(key, Change((Create(),), mtime_s=T0 + 5))
    assert await content(store, key) == b"old"
    assert (await store.stat(key)).mtime_s == T0 + 5


async def test_write_full_keeps_xattrs_and_omap(store: Store, key: ObjectKey) -> None:
    await apply(store, key, WriteFull(b"longer"), SetXattr(b"a", b"1"), SetOmap({b"k": b"v"}))
    await put(store, key, b"new")
    assert await content(store, key) == b"new"
    assert (await store.get_xattrs(key)).values == {b"a": b"1"}
    assert await store.get_omap(key) == {b"k": b"v"}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((Write(1, b"X"),), b"oXd"),
        ((Write(3, b"er"),), b"older"),
        ((Write(5, b"!"),), b"old\0\0!"),
        ((Write(0, b"a"), Write(2, b"c"), Write(1, b"b")), b"abc"),
        ((Write(9, b""),), b"old"),
        ((Truncate(1),), b"o"),
        ((Truncate(0),), b""),
        ((Truncate(5),), b"old\0\0"),
        ((Truncate(1), Truncate(3)), b"o\0\0"),
        ((Truncate(0), Write(1, b"x")), b"\0x"),
        ((WriteFull(b"ab"), Write(3, b"d"), Truncate(6)), b"ab\0d\0\0"),
        ((WriteFull(b""),), b""),
        ((Remove(), Write(1, b"x")), b"\0x"),
    ],
)
async def test_content(
    store: Store, key: ObjectKey, steps: tuple[Step, ...], expected: bytes
) -> None:
    """The steps of a change take effect one after the other; gaps read as zeros."""
    await put(store, key)
    await apply(store, key, *steps)
    assert await content(store, key) == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Write(2, b"x"), b"\0\0x"),
        (Write(7, b""), b""),
        (Truncate(0), b""),
        (Truncate(3), b"\0\0\0"),
        (SetXattr(b"a", b"b"), b""),
        (SetOmap({b"a": b"b"}), b""),
    ],
)
async def test_what_makes_an_object(
    store: Store, key: ObjectKey, step: Step, expected: bytes
) -> None:
    """All steps but RemoveXattr and Remove make the object where there is none."""
    await apply(store, key, step)
    assert await content(store, key) == expected
    assert (await store.stat(key)).mtime_s == T0


@pytest.mark.parametrize("step", [Remove(), RemoveXattr(b"a")])
async def test_what_needs_an_object(store: Store, key: ObjectKey, step: Step) -> None:
    with pytest.raises(errors.ObjectNotFound):
        await apply(store, key, step)
    with pytest.raises(errors.ObjectNotFound):
        await apply(store, key, step, WriteFull(b"x"))
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(key)


async def test_remove_and_rewrite_replaces_all(store: Store, key: ObjectKey) -> None:
    """Later steps of a change that removes start from nothing: no old xattr, no old omap."""
    await apply(store, key, WriteFull(b"old"), SetXattr(b"a", b"1"), SetOmap({b"k": b"v"}))
    change = Change((Remove(), WriteFull(b"new"), SetXattr(b"b", b"2")), mtime_s=T0 + 9)
    version = await store.apply(key, change)
    assert await content(store, key) == b"new"
    assert (await store.get_xattrs(key)).values == {b"b": b"2"}
    assert await store.get_omap(key) == {}
    stat = await store.stat(key)
    assert (stat.mtime_s, stat.version) == (T0 + 9, version)


async def test_remove(store: Store, key: ObjectKey) -> None:
    version = await put(store, key)
    assert await store.apply(key, Change((Remove(),), AtVersion(version))) == 0
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(key)


async def test_xattrs(store: Store, key: ObjectKey) -> None:
    """Any bytes to 100 as names, values empty or over 64 KiB; removing a missing one is well."""
    values = {
        b"empty": b"",
        b"\xff\n": b"\0\xff",
        b"n" * 100: b"x",
        b"big": b"b" * 70_000,
    }
    await apply(store, key, *(SetXattr(name, value) for name, value in values.items()))
    assert (await store.get_xattrs(key)).values == values
    await apply(store, key, RemoveXattr(b"big"), RemoveXattr(b"missing"))
    del values[b"big"]
    assert (await store.get_xattrs(key)).values == values
    with pytest.raises(errors.NameTooLong):
        await apply(store, key, SetXattr(b"n" * 101, b"x"))
    for name in (b"", b"a\0b"):
        with pytest.raises(errors.InvalidArgument):
            await apply(store, key, SetXattr(name, b"x"))


async def test_omap(store: Store, key: ObjectKey) -> None:
    """All of it, over several pages too, and none of a missing object."""
    with pytest.raises(errors.ObjectNotFound):
        await store.get_omap(key)
    entries = {b"k%05d" % number: b"v" * (number % 3) for number in range(2500)}
    await apply(store, key, SetOmap(entries), SetOmap({b"\xff\n": b"\0", b"": b"x"}))
    assert await store.get_omap(key) == {**entries, b"\xff\n": b"\0", b"": b"x"}


async def test_guard_absent(store: Store, key: ObjectKey) -> None:
    change = Change((WriteFull(b"first"),), Existence.ABSENT, T0)
    await store.apply(key, change)
    with pytest.raises(errors.ObjectExists):
        await store.apply(key, Change((WriteFull(b"second"),), Existence.ABSENT, T0))
    assert await content(store, key) == b"first"


async def test_guard_present(store: Store, key: ObjectKey) -> None:
    change = Change((WriteFull(b"x"),), Existence.PRESENT, T0 + 1)
    with pytest.raises(errors.ObjectNotFound):
        await store.apply(key, change)
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(key)
    await put(store, key)
    assert await store.apply(key, change) == (await store.stat(key)).version
    assert await content(store, key) == b"x"


async def test_guard_version(store: Store, key: ObjectKey) -> None:
    """The object exists at exactly this version, else VersionConflict: newer, older, missing."""
    old_version = await put(store, key)
    version = await store.apply(key, Change((WriteFull(b"2"),), AtVersion(old_version), T0))
    for wrong in (old_version, version + 1):
        with pytest.raises(errors.VersionConflict):
            await store.apply(key, Change((WriteFull(b"3"),), AtVersion(wrong), T0))
    await store.apply(key, Change((Remove(),), AtVersion(version)))
    with pytest.raises(errors.VersionConflict):
        await store.apply(key, Change((WriteFull(b"3"),), AtVersion(version), T0))
    with pytest.raises(errors.ObjectNotFound):
        await store.stat(key)


async def test_xattr_change_trips_a_version_guard(store: Store, key: ObjectKey) -> None:
    version = await put(store, key)
    await store.apply(key, Change((SetXattr(b"a", b"b"),)))
    with pytest.raises(errors.VersionConflict):
        await store.apply(key, Change((WriteFull(b"3"),), AtVersion(version), T0))


async def test_failing_change_changes_nothing(store: Store, key: ObjectKey) -> None:
    """All steps or none: the last one fails."""
    version = await apply(store, key, WriteFull(b"old"), SetXattr(b"a", b"1"))
    too_long = SetXattr(b"n" * 101, b"")
    too_far = Write(store.limits.object_bytes_max, b"x")
    for failing in (too_long, too_far):
        steps = (Write(0, b"X"), SetXattr(b"a", b"2"), SetOmap({b"k": b"v"}), failing)
        with pytest.raises(errors.StoreError):
            await store.apply(key, Change(steps, mtime_s=T0 + 7))
    stat = await store.stat(key)
    assert (stat.mtime_s, stat.version) == (T0, version)
    assert await content(store, key) == b"old"
    assert (await store.get_xattrs(key)).values == {b"a": b"1"}
    assert await store.get_omap(key) == {}


async def test_failing_change_removes_nothing(store: Store, key: ObjectKey) -> None:
    await put(store, key)
    with pytest.raises(errors.NameTooLong):
        await apply(store, key, Remove(), WriteFull(b"x"), SetXattr(b"n" * 101, b""))
    assert await content(store, key) == b"old"


async def test_object_limit(store: Store, key: ObjectKey) -> None:
    """A write may end at the limit, not beyond; Truncate stays below it."""
    limit = store.limits.object_bytes_max
    await apply(store, key, Truncate(limit - 1))
    await apply(store, key, Write(limit - 1, b"z"))
    assert (await store.read(key, limit - 2, 10)).data == b"\0z"
    assert (await store.read(key, limit, 10)).data == b""
    for step in (Write(limit, b"z"), Write(limit - 1, b"zz"), Write(1 << 40, b"z")):
        with pytest.raises(errors.TooLarge):
            await apply(store, key, step)
    with pytest.raises(errors.TooLarge):
        await apply(store, key, Truncate(limit))
    assert (await store.stat(key)).size == limit


async def test_operation_limit(store: Store, key: ObjectKey) -> None:
    """One operation carries up to `operation_bytes_max`, over all its steps."""
    limit = store.limits.operation_bytes_max
    with pytest.raises(errors.TooLarge):
        await apply(store, key, WriteFull(bytes(limit + 1)))
    half = bytes(limit // 2)
    with pytest.raises(errors.TooLarge):
        await apply(store, key, Write(0, half), Write(limit // 2, half + b"x" * 1024))
    await apply(store, key, WriteFull(bytes(limit)))
    assert (await store.stat(key)).size == limit


async def test_many_extents(store: Store, key: ObjectKey) -> None:
    """Hundreds of writes are one operation."""
    steps = tuple(Write(number * 3, b"%d" % (number % 10)) for number in range(300))
    await apply(store, key, *steps)
    data = (await store.read(key, 0, 2000)).data
    assert len(data) == 898
    assert data[::3] == b"0123456789" * 30


def told(pipe: tuple[int, int]) -> bytes:
    try:
        return os.read(pipe[0], 1000)
    except BlockingIOError:
        return b""


async def test_a_notice_goes_with_the_acknowledgement(
    store: Store, backend_name: str, key: ObjectKey, pipe: tuple[int, int]
) -> None:
    """Its message is written once the change is done; a driver may leave it to the caller."""
    notice = Notice(pipe[1], b"done")
    await store.apply(key, Change((WriteFull(b"new"),), Existence.ABSENT, T0, notice))
    assert notice.is_sent == (backend_name != "binding")
    if notice.is_sent:
        with trio.fail_after(10):  # librados's thread may be a little behind
            await trio.lowlevel.wait_readable(pipe[0])
        assert told(pipe) == b"done"
    assert told(pipe) == b""
    assert await content(store, key) == b"new"


async def test_no_notice_of_a_failure(store: Store, key: ObjectKey, pipe: tuple[int, int]) -> None:
    await put(store, key)
    notice = Notice(pipe[1], b"done")
    with pytest.raises(errors.ObjectExists):
        await store.apply(key, Change((WriteFull(b"new"),), Existence.ABSENT, T0, notice))
    assert not notice.is_sent
    assert told(pipe) == b""


async def test_a_notice_to_nobody_does_no_harm(store: Store, key: ObjectKey) -> None:
    """Whoever waited may be gone: then the change is done all the same."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    notice = Notice(write_fd, b"done")
    try:
        await store.apply(key, Change((WriteFull(b"new"),), mtime_s=T0, notice=notice))
    finally:
        os.close(write_fd)
    assert await content(store, key) == b"new"
