"""How few round trips look-ups, listings and opens take, and that none is one too few."""

import os

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from radosmount.errors import NoSuchEntry, StaleFile, StoreFailure, TimedOut
from radosmount.store.interface import Change, SetXattr, WriteFull
from radosmount.store.memory import Call
from radosmount.vfs.attributes import AttributeChange, Attributes
from radosmount.vfs.filesystem import ListedEntry
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.stores import is_call, key_of

CALLER, OTHER = 4711, 4712


class Bench(MountBench):
    """Counts the names that the store is asked to stat."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.statted: list[bytes] = []
        self.store.fail_next(StoreFailure("never"), self._count)

    def _count(self, call: Call) -> bool:
        if call.method == "stat" and call.key is not None:
            self.statted.append(call.key.name)
        return False

    async def list(self) -> list[ListedEntry]:
        directory = self.fs.open_directory(ROOT_INO)
        entries: list[ListedEntry] = []
        while (entry := await self.fs.list_entry(directory, len(entries))) is not None:
            self.fs.take_entry(entry, is_taken=True)
            entries.append(entry)
        await self.fs.release_directory(directory)
        return entries

    async def take(self, directory: int, index: int) -> Attributes:
        """Of the entry of that number, which must be there."""
        entry = await self.fs.list_entry(directory, index)
        assert entry is not None
        self.fs.take_entry(entry, is_taken=True)
        return entry.attributes


@pytest.fixture
async def mount(nursery: trio.Nursery) -> Bench:
    bench = Bench(nursery)
    await bench.fs.start()
    return bench


async def test_one_stat_serves_lookup_and_open(mount: Bench) -> None:
    """The open that follows a look-up by the same thread does not ask again."""
    mount.store.put_now(key_of(b"f"), b"abc")
    ino = (await mount.fs.lookup(ROOT_INO, b"f", CALLER)).ino
    opened = await mount.fs.open(ino, os.O_RDONLY, CALLER)
    assert mount.statted == [b"f"]
    assert await mount.read(opened.handle) == b"abc"


async def test_a_second_open_asks_again(mount: Bench) -> None:
    """One look-up is good for one open, and for its own thread only."""
    mount.store.put_now(key_of(b"f"), b"abc")
    ino = (await mount.fs.lookup(ROOT_INO, b"f", CALLER)).ino
    await mount.fs.open(ino, os.O_RDONLY, CALLER)
    mount.store.put_now(key_of(b"f"), b"abcdef")
    opened = await mount.fs.open(ino, os.O_RDONLY, CALLER)
    assert await mount.read(opened.handle) == b"abcdef"
    await mount.fs.lookup(ROOT_INO, b"f", CALLER)
    mount.store.put_now(key_of(b"f"), b"abcdefghi")
    opened = await mount.fs.open(ino, os.O_RDONLY, OTHER)
    assert await mount.read(opened.handle) == b"abcdefghi"


async def test_a_listing_ends_what_a_lookup_vouched_for(mount: Bench) -> None:
    """The kernel opens a name that it has just listed without a look-up: that open asks."""
    mount.store.put_now(key_of(b"f"), b"abc")
    ino = (await mount.fs.lookup(ROOT_INO, b"f", CALLER)).ino
    await mount.list()
    mount.store.put_now(key_of(b"f"), b"abcdef")
    opened = await mount.fs.open(ino, os.O_RDONLY, CALLER)
    assert await mount.read(opened.handle) == b"abcdef"


async def test_an_old_lookup_serves_nobody(mount: Bench, mock_clock: MockClock) -> None:
    """An open some time after the look-up asks again."""
    mount.store.put_now(key_of(b"f"), b"abc")
    ino = (await mount.fs.lookup(ROOT_INO, b"f", CALLER)).ino
    mock_clock.jump(1)
    mount.store.put_now(key_of(b"f"), b"abcdef")
    opened = await mount.fs.open(ino, os.O_RDONLY, CALLER)
    assert await mount.read(opened.handle) == b"abcdef"


async def test_a_plain_listing_asks_for_nothing(mount: Bench) -> None:
    """`ls` costs no stats."""
    for number in range(50):
        mount.store.put_now(key_of(b"%d" % number), b"")
    assert len(await mount.list()) == 50
    await wait_all_tasks_blocked()
    assert mount.statted == []


async def test_stats_go_ahead_of_ls_l(mount: Bench) -> None:
    """Asked for in the order of the listing, each file is asked for once, most of them ahead,
    and what is shown is right."""
    for number in range(50):
        mount.store.put_now(key_of(b"%d" % number), bytes(number))
    for count, entry in enumerate(await mount.list()):
        if count == 5:
            await wait_all_tasks_blocked()
            assert len(mount.statted) > 10
        attributes = await mount.fs.lookup(ROOT_INO, entry.name, CALLER)
        assert attributes.size == int(entry.name)
        assert (await mount.fs.get_attributes(attributes.ino, CALLER)).size == attributes.size
    assert sorted(mount.statted) == sorted(b"%d" % number for number in range(50))


async def test_an_open_does_not_trust_the_listing(mount: Bench) -> None:
    """Listing a directory asks for no file until who lists it does; stat of what was just listed
    (`ls -l`) may be a second old, an open never is."""
    for number in range(20):
        mount.store.put_now(key_of(b"%02d" % number), b"old")
    entries = await mount.list()
    for entry in entries[:3]:
        await mount.fs.lookup(ROOT_INO, entry.name, CALLER)
    await wait_all_tasks_blocked()
    name = entries[4].name
    assert name in mount.statted
    mount.store.put_now(key_of(name), b"newer")
    ino = (await mount.fs.lookup(ROOT_INO, name, CALLER)).ino
    opened = await mount.fs.open(ino, os.O_RDONLY, CALLER)
    assert await mount.read(opened.handle) == b"newer"


async def test_what_was_fetched_ahead_serves_once(mount: Bench) -> None:
    """A second stat of the same file asks the store."""
    for number in range(20):
        mount.store.put_now(key_of(b"%02d" % number), b"old")
    entries = await mount.list()
    for entry in entries[:3]:
        await mount.fs.lookup(ROOT_INO, entry.name, CALLER)
    await wait_all_tasks_blocked()
    name = entries[4].name
    mount.store.put_now(key_of(name), b"newer")
    await mount.fs.lookup(ROOT_INO, name, CALLER)
    assert (await mount.fs.lookup(ROOT_INO, name, OTHER)).size == 5


async def test_a_file_that_is_forgotten_while_its_stat_is_under_way(
    mount: Bench, nursery: trio.Nursery
) -> None:
    """A look-up that waited for a stat ahead gives an inode that the kernel can go on with,
    though it gave its last reference back meanwhile."""
    for number in range(20):
        mount.store.put_now(key_of(b"%02d" % number), b"abc")
    entries = await mount.list()
    await mount.fs.lookup(ROOT_INO, entries[0].name, CALLER)
    found: list[int] = []

    async def look_up() -> None:
        found.append((await mount.fs.lookup(ROOT_INO, entries[2].name, CALLER)).ino)

    with mount.store.paused():
        nursery.start_soon(mount.fs.lookup, ROOT_INO, entries[1].name, CALLER)
        await wait_all_tasks_blocked()
        nursery.start_soon(look_up)
        await wait_all_tasks_blocked()
        mount.fs.forget([(entries[2].attributes.ino, 1)])
    await wait_all_tasks_blocked()
    assert (await mount.fs.get_attributes(found[0])).size == 3


async def test_a_file_that_went_meanwhile(mount: Bench) -> None:
    """A listed file that is gone when it is asked for is ENOENT, ahead or not."""
    for number in range(20):
        mount.store.put_now(key_of(b"%02d" % number), b"")
    entries = await mount.list()
    mount.store.remove_now(key_of(entries[4].name))
    for entry in entries[:3]:
        await mount.fs.lookup(ROOT_INO, entry.name, CALLER)
    await wait_all_tasks_blocked()
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, entries[4].name, CALLER)


async def test_a_reader_of_many_files_gets_content_with_the_lookup(mount: Bench) -> None:
    """Once a thread reads what it looks up, a look-up brings the first bytes along, and the
    read asks for nothing."""
    for number in range(3):
        mount.store.put_now(key_of(b"%d" % number), b"content %d" % number)
    reads: list[str] = []

    def note(call: Call) -> bool:
        reads.extend([call.method] if call.method == "read" else [])
        return False

    mount.store.fail_next(StoreFailure("never"), note)
    for number in range(3):
        ino = (await mount.fs.lookup(ROOT_INO, b"%d" % number, CALLER)).ino
        handle = (await mount.fs.open(ino, os.O_RDONLY, CALLER)).handle
        assert await mount.read(handle) == b"content %d" % number
        await mount.close(handle)
    assert len(reads) == 1, "only the first file's"


async def test_content_that_came_along_is_right(mount: Bench) -> None:
    """Bytes that came with a look-up are not read once anything is newer."""
    for number in range(4):
        mount.store.put_now(key_of(b"%d" % number), b"old")
    ino = (await mount.fs.lookup(ROOT_INO, b"0", CALLER)).ino
    await mount.fs.open(ino, os.O_RDONLY, CALLER)
    ino = (await mount.fs.lookup(ROOT_INO, b"1", CALLER)).ino
    handle = (await mount.fs.open(ino, os.O_RDWR, CALLER)).handle
    await mount.fs.write(handle, 0, b"new")
    assert await mount.read(handle) == b"new"
    ino = (await mount.fs.lookup(ROOT_INO, b"2", CALLER)).ino
    mount.store.put_now(key_of(b"2"), b"newer")
    handle = (await mount.fs.open(ino, os.O_RDONLY, OTHER)).handle
    assert await mount.read(handle) == b"newer"


async def test_how_long_the_kernel_may_keep_attributes(mount: Bench, mock_clock: MockClock) -> None:
    """A second from when the store said so: of what was looked up, or of what is open."""
    mount.store.put_now(key_of(b"f"), b"abc")
    found = await mount.fs.lookup(ROOT_INO, b"f", CALLER)
    assert found.valid_s == 1.0
    assert (await mount.fs.get_attributes(found.ino, OTHER)).valid_s == 0.0
    opened = await mount.fs.open(found.ino, os.O_RDONLY, OTHER)
    mock_clock.jump(0.4)
    assert (await mount.fs.get_attributes(found.ino)).valid_s == pytest.approx(0.6)
    mock_clock.jump(0.7)
    assert (await mount.fs.get_attributes(found.ino)).valid_s == 1.0
    await mount.fs.release(opened.handle)
    assert (await mount.fs.get_attributes(ROOT_INO)).valid_s > 0


async def test_an_open_that_finds_another_version(mount: Bench) -> None:
    """The kernel, which may open a listed name without looking it up, forgets what it was told;
    else it may go on with that."""
    mount.store.put_now(key_of(b"f"), b"abc")
    ino = (await mount.fs.lookup(ROOT_INO, b"f", CALLER)).ino
    assert (await mount.fs.open(ino, os.O_RDONLY, CALLER)).keeps_attributes
    assert (await mount.fs.open(ino, os.O_RDONLY, OTHER)).keeps_attributes
    await mount.list()
    mount.store.put_now(key_of(b"f"), b"longer")
    assert not (await mount.fs.open(ino, os.O_RDONLY, OTHER)).keeps_attributes
    await mount.fs.lookup(ROOT_INO, b"f", CALLER)
    assert (await mount.fs.open(ino, os.O_RDONLY, CALLER)).keeps_attributes


async def test_attributes_come_with_names(mount: Bench, mock_clock: MockClock) -> None:
    """Once who lists has asked for what was listed so far, as `ls -l` does, the rest is listed as
    the store has it, asked for once; for who has not, nothing is."""
    for number in range(1000):
        mount.store.put_now(key_of(b"%03d" % number), b"x" * number)
    assert all(entry.attributes.valid_s == 0.0 for entry in await mount.list())
    assert not mount.statted
    directory = mount.fs.open_directory(ROOT_INO)
    for index in range(1000):
        told = await mount.take(directory, index)
        if told.valid_s == 0.0:
            told = await mount.fs.get_attributes(told.ino)
        assert told.size == index
        mock_clock.jump(0.001)
    assert told.valid_s > 0.4
    assert len(mount.statted) == len(set(mount.statted)) == 1000
    await mount.fs.release_directory(directory)


async def test_who_asks_for_few_is_not_told_of_all(mount: Bench) -> None:
    """As find does, which asks only for what it takes for a directory, or that matches."""
    for number in range(300):
        mount.store.put_now(key_of(b"%03d" % number), b"x")
    directory = mount.fs.open_directory(ROOT_INO)
    for index in range(300):
        listed = await mount.take(directory, index)
        assert listed.valid_s == 0.0
        if index in (10, 150):
            await mount.fs.get_attributes(listed.ino)
    assert len(mount.statted) == 2
    await mount.fs.release_directory(directory)


async def test_a_listing_goes_on_where_nothing_can_be_asked(
    mount: Bench, mock_clock: trio.testing.MockClock
) -> None:
    """What cannot be told with the names is left to who asks for the file; nothing is asked for
    in vain any more."""
    for number in range(600):
        mount.store.put_now(key_of(b"%03d" % number), b"x")
    directory = mount.fs.open_directory(ROOT_INO)
    for index in range(600):
        if index == 200:
            for _ in range(600):
                mount.store.fail_next(TimedOut("injected"), is_call("stat"))
        listed = await mount.take(directory, index)
        if index < 100:
            await mount.fs.get_attributes(listed.ino)
    assert listed.valid_s == 0.0
    assert len(mount.statted) < 600
    await mount.fs.release_directory(directory)


async def test_unstored_bytes_forbid_keeping_attributes(mount: Bench) -> None:
    """The flush of an append may put them elsewhere."""
    opened, attributes = await mount.fs.create(ROOT_INO, b"f", os.O_WRONLY | os.O_APPEND)
    assert attributes.valid_s == 1.0
    await mount.fs.write(opened.handle, 0, b"abc")
    assert (await mount.fs.get_attributes(attributes.ino)).valid_s == 0.0


async def test_one_stat_serves_lookup_and_access(mount: Bench) -> None:
    """access(2) asks whether a listed name is still there, and not again for a look-up."""
    mount.store.put_now(key_of(b"f"), b"abc")
    ino = (await mount.fs.lookup(ROOT_INO, b"f", CALLER)).ino
    await mount.fs.check_access(ino, os.F_OK, CALLER)
    assert mount.statted == [b"f"]
    await mount.list()
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(StaleFile):
        await mount.fs.check_access(ino, os.F_OK, CALLER)


# --- Removals and changes, one after the other


async def listed_and_one_removed(mount: Bench, mock_clock: MockClock) -> None:
    """`a`, `b` and `c` were listed, longer ago than the kernel keeps names; CALLER removes `a`."""
    for name in (b"a", b"b", b"c"):
        mount.store.put_now(key_of(name), b"abc")
    await mount.list()
    mock_clock.jump(10)
    await mount.fs.lookup(ROOT_INO, b"a", CALLER)
    await mount.fs.unlink(ROOT_INO, b"a", caller=CALLER)
    await wait_all_tasks_blocked()
    mount.statted.clear()


async def test_who_removes_asks_only_for_that(mount: Bench, mock_clock: MockClock) -> None:
    """`rm -r`: the look-up before each unlink is answered as the name was listed."""
    await listed_and_one_removed(mount, mock_clock)
    for name in (b"b", b"c"):
        await mount.fs.lookup(ROOT_INO, name, CALLER)
        await mount.fs.unlink(ROOT_INO, name, caller=CALLER)
    assert mount.statted == []
    assert await mount.list() == []


@pytest.mark.parametrize("call", ["setxattr", "removexattr", "utimensat"])
async def test_who_changes_asks_only_for_that(
    mount: Bench, mock_clock: MockClock, call: str
) -> None:
    """`setfattr -x user.a *`, `touch *`: the same."""
    for name in (b"a", b"b", b"c"):
        steps = (WriteFull(b"abc"), SetXattr(b"a", b"1"))
        mount.store.change_now(key_of(name), Change(steps))
    await mount.list()
    mock_clock.jump(10)
    for name in (b"a", b"b", b"c"):
        mount.statted.clear()
        ino = (await mount.fs.lookup(ROOT_INO, name, CALLER)).ino
        assert (mount.statted == []) == (name != b"a")
        if call == "utimensat":
            await mount.fs.set_attributes(ino, AttributeChange(mtime_ns=1), None, CALLER)
        else:
            value = None if call == "removexattr" else b"2"
            await mount.fs.set_xattr(ino, b"user.a", value, caller=CALLER)
            assert mount.store.xattrs_now(key_of(name)).get(b"a") == value


async def test_a_look_up_behind_a_removal_vouches_for_nothing(
    mount: Bench, mock_clock: MockClock
) -> None:
    """stat(2) and open(2) ask, whatever they began with; what was heard a moment ago does not
    count either."""
    await listed_and_one_removed(mount, mock_clock)
    await mount.fs.lookup(ROOT_INO, b"b", OTHER)
    mount.store.put_now(key_of(b"b"), b"changed by another")
    shown = await mount.fs.lookup(ROOT_INO, b"b", CALLER)
    assert shown.valid_s == 0
    assert (await mount.fs.get_attributes(shown.ino, CALLER)).size == len(b"changed by another")
    mount.store.put_now(key_of(b"b"), b"changed again")
    await mount.fs.unlink(ROOT_INO, b"c", caller=CALLER)
    await mount.fs.lookup(ROOT_INO, b"b", CALLER)
    opened = await mount.fs.open(shown.ino, os.O_RDONLY, CALLER)
    assert await mount.read(opened.handle) == b"changed again"


async def test_a_name_that_is_gone_behind_a_removal(mount: Bench, mock_clock: MockClock) -> None:
    """Who opens it is told to look it up again, and then the store is asked."""
    await listed_and_one_removed(mount, mock_clock)
    mount.store.remove_now(key_of(b"b"))
    mount.store.remove_now(key_of(b"c"))
    ino = (await mount.fs.lookup(ROOT_INO, b"b", CALLER)).ino
    with pytest.raises(StaleFile):
        await mount.fs.check_access(ino, os.F_OK, CALLER)
    with pytest.raises(StaleFile):
        await mount.fs.open(ino, os.O_RDONLY, CALLER)
    with pytest.raises(NoSuchEntry):
        await mount.fs.lookup(ROOT_INO, b"b", CALLER)
    with pytest.raises(NoSuchEntry):
        await mount.fs.unlink(ROOT_INO, b"c", caller=CALLER)


@pytest.mark.parametrize(
    "why", ["another thread", "made since", "listed long ago", "one look-up", "another name"]
)
async def test_other_look_ups_ask(mount: Bench, mock_clock: MockClock, why: str) -> None:
    """Only what the thread does next, and of a name that was listed within the last minute."""
    await listed_and_one_removed(mount, mock_clock)
    name, caller = b"b", CALLER
    if why == "another thread":
        caller = OTHER
    elif why == "made since":
        name = b"new"
        mount.store.put_now(key_of(name), b"")
    elif why == "listed long ago":
        mock_clock.jump(60)
    elif why == "another name":
        with pytest.raises(NoSuchEntry):
            await mount.fs.lookup(ROOT_INO, b"nowhere", CALLER)
    else:
        await mount.fs.lookup(ROOT_INO, b"c", CALLER)
    mount.statted.clear()
    await mount.fs.lookup(ROOT_INO, name, caller)
    assert name in mount.statted
