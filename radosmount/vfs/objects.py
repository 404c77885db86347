"""Files and the objects behind them: finding, making and revalidating.

Consistency is by version: an open asks the store, and what changed there since is taken over,
the kernel's pages dropped. A file with unstored changes is its own authority; the guard of its
flush finds out whether anyone else was there.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeGuard

from radosmount import switching
from radosmount.cache.changes import Attempt
from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.plan import gives_xattrs
from radosmount.cache.sequencer import Sequencer
from radosmount.cache.ticket import Progress
from radosmount.errors import (
    EntryExists,
    NoSuchEntry,
    ObjectExists,
    ObjectNotFound,
    StaleFile,
    StoreError,
    VersionConflict,
)
from radosmount.store import posix
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Notice,
    ObjectKey,
    ObjectStat,
    ReadResult,
    SetXattr,
    Step,
    Store,
)
from radosmount.store.posix import Posix
from radosmount.vfs.changers import Changers
from radosmount.vfs.heads import HEAD_BYTES, Heads
from radosmount.vfs.nodes import FileNode, NodeTable, Vouch
from radosmount.vfs.ownchanges import OwnChanges

# How long fstat(2) of an open file may answer from what was heard of it last: close-to-open asks
# for no more, and `tail -f` on what another client appends polls once a second.
OPEN_FRESHNESS_S: Final = 1.0
# The kernel keeps listed names so long. An open of one comes without a look-up, so nothing that
# the kernel keeps of the file may be older.
LISTED_NAME_FRESHNESS_S: Final = 1.0
# How long a name that was listed may be looked up as it was, to be changed: see `Changers`.
LISTED_FOR_CHANGE_S: Final = 60.0
# The kernel looks a path up for every open(2) and stat(2) of a name that it does not keep, in
# the thread that then sends OPEN or GETATTR: one stat answers both.
LOOKUP_FRESHNESS_S: Final = 0.05
# How long a stat that was fetched ahead may wait to be asked for.
AHEAD_FRESHNESS_S: Final = 1.0


NoticeOfNode = Callable[[FileNode], Notice]
# Raises: ObjectNotFound.
Ask = Callable[[ObjectKey], Awaitable[ObjectStat]]


class Objects:
    """`invalidate(ino)`: have the kernel drop its pages of an inode, some time soon.
    `unlink_gone`: see `PageCache`."""

    def __init__(
        self,
        store: Store,
        nodes: NodeTable,
        cache: PageCache,
        sequencer: Sequencer,
        invalidate: Callable[[int], None],
        unlink_gone: Callable[[CachedFile], bool],
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._cache = cache
        self._sequencer = sequencer
        self._invalidate = invalidate
        self._unlink_gone = unlink_gone
        self.heads = Heads()
        self.changers = Changers()
        self.own_changes = OwnChanges()

    async def look_up(self, key: ObjectKey, caller: int, ask: Ask | None = None) -> FileNode:
        """The inode of an existing object, for the thread `caller` (0: unknown). `ask`: instead of
        the store's `stat`, if it has to be asked, and not for the first bytes, too.

        Raises: NoSuchEntry.
        """
        node = self._nodes.find_file(key)
        is_changing = self.changers.take(caller)
        if node is not None:
            node.as_listed = is_changing and self._is_as_listed(node)
            is_own = node.own_change is not None and self.own_changes.is_known(node, caller)
            if node.as_listed or is_own:
                node.vouch = None
                return node
        is_fetched = node is not None and await self._take_fetched_ahead(node)
        is_fetched = is_fetched and self._nodes.find_file(key) is node  # not forgotten meanwhile
        if node is None or not is_fetched:
            node = await self._find_with_head(key, caller, ask or self._store.stat)
        if caller:
            node.vouch = Vouch(caller, not is_fetched, switching.current_time())
        return node

    def has_just_removed(self, key: ObjectKey, caller: int) -> bool:
        """Whether the thread `caller`, which looks it up, knows that there is no such object."""
        if not self.own_changes.is_removed(key, caller) or self._nodes.find_file(key) is not None:
            return False
        self.changers.take(caller)
        return True

    async def find(self, key: ObjectKey) -> FileNode:
        """The inode of an existing object, as the store has it now. Raises: NoSuchEntry."""
        return await self._find(key, self._store.stat)

    async def _find_with_head(self, key: ObjectKey, caller: int, ask: Ask) -> FileNode:
        """`find`, together with the first bytes where the thread is likely to read them."""
        if not self.heads.is_expected(caller):
            return await self._find(key, ask)
        head: ReadResult | None = None

        async def stat(key: ObjectKey) -> ObjectStat:
            nonlocal head
            found, head = await self._store.stat_and_read(key, HEAD_BYTES)
            return found

        node = await self._find(key, stat)
        if head is not None:
            self.heads.keep(caller, node, head)
        return node

    async def _find(self, key: ObjectKey, ask: Ask) -> FileNode:
        node = self._nodes.find_file(key)
        if node is not None and node.lost_removal is not None:
            await self._cache.flush(node.file)  # which finds out whether it is still there
            node = self._nodes.find_file(key)
        if node is not None and not node.file.is_clean:
            return node
        epoch = node.file.epoch if node else None
        try:
            stat = await ask(key)
        except ObjectNotFound as failure:
            now = self._nodes.find_file(key)
            if now is not None and not (now.file.epoch == epoch and now.file.is_clean):
                return now  # made here while we asked
            if now is not None:
                await self._settle_gone(now)
            raise NoSuchEntry(f"{key.name!r}") from failure
        return self._enter(key, stat)

    def enter_listed(self, key: ObjectKey, stat: ObjectStat | None, asked_s: float) -> bool:
        """Take over what was heard of an object that is being listed. Without a stat: whether
        nobody needs to be asked, since the file has changes that the store does not know."""
        if stat is not None:
            known = self._nodes.find_file(key)
            heard_s = known.file.heard_s if known is not None else asked_s
            self._enter(key, stat).file.heard_s = max(heard_s, asked_s)
            return True
        node = self._nodes.find_file(key)
        return node is not None and not node.file.is_clean

    def known(self, key: ObjectKey) -> FileNode:
        """An inode for an object that was listed; what it is, is asked for when needed."""
        node = self._nodes.find_file(key)
        if node is None:
            node = FileNode(CachedFile(key, ObjectStat(size=0, mtime_s=0, version=0)))
            self._nodes.add(node, is_listed=True)
        node.vouch = None  # the kernel keeps a listed name: an open may come without a look-up
        return node

    def freshness_s(self, node: FileNode, has_looked_up: bool) -> float:
        """How long the kernel may answer from the attributes as they are, now that it has asked.

        It looks a name up for every stat(2) and open(2), unless it was listed: so what it keeps
        of a look-up answers only for descriptors, as GETATTR would. An open that finds another
        version than `shown_version` has it forget them.
        """
        file = node.file
        if node.as_listed or not (has_looked_up or node.open_count):
            return 0.0
        if file.is_suspect or file.unstored_byte_count:  # the flush of an append may move it
            return 0.0
        node.shown_version = file.base.version
        if not file.is_clean or file.orphan is not None:
            return OPEN_FRESHNESS_S
        return max(file.heard_s + OPEN_FRESHNESS_S - switching.current_time(), 0.0)

    def is_fresh(self, node: FileNode) -> bool:
        """Whether fstat(2) may answer from what the inode shows: most often it may."""
        file = node.file
        if not node.open_count or file.is_suspect:
            return False
        is_known = not file.is_clean or file.orphan is not None
        return is_known or switching.current_time() - file.heard_s < OPEN_FRESHNESS_S

    async def get_attributes(self, node: FileNode, caller: int) -> None:
        """Let the inode show what the store has, for a stat(2) by the thread `caller`.

        Raises: StaleFile where the object is gone and nobody here has it open.
        """
        if node.file.is_suspect or not (
            self._take_vouch(node, caller, for_open=False) or await self._take_fetched_ahead(node)
        ):
            try:
                await self.revalidate(node, OPEN_FRESHNESS_S if node.open_count else 0.0)
            except StaleFile:
                if not node.open_count:
                    raise
                await self._settle_gone(node)

    async def validate_for_open(self, node: FileNode, caller: int) -> ReadResult | None:
        """Hear what the object is at this open, by the thread `caller` (close-to-open).

        Returns the first bytes where they came along. Raises: StaleFile where it is gone.
        """
        if not node.file.is_suspect and self._take_vouch(node, caller, for_open=True):
            return self.heads.take(caller, node)
        await self.revalidate(node)
        return None

    async def revalidate(
        self, node: FileNode, freshness_s: float = 0.0, may_notify: bool = True
    ) -> None:
        """Hear from the store what the object is now, unless that was `freshness_s` ago.

        Raises: StaleFile where it is gone.
        """
        file = node.file
        if not file.is_clean or file.orphan is not None:
            return
        _check_linked(file)
        is_fresh = switching.current_time() - file.heard_s < freshness_s
        if is_fresh and not file.is_suspect:
            return
        epoch = file.epoch
        try:
            stat = await self._store.stat(file.key)
        except ObjectNotFound as failure:
            node.note_gone()
            if file.epoch == epoch:
                raise StaleFile(f"{file.key.name!r} was removed") from failure
            _check_linked(file)  # else it was renamed here meanwhile
            return
        if file.epoch == epoch:
            self._observe(node, stat, may_notify)
        _check_linked(file)

    async def refresh(self, node: FileNode, asked_bytes: int = 0) -> None:
        """A read met another version than the one we knew: hear what the object is now, and have
        the kernel drop its pages of the one before.

        `asked_bytes`: how many of the first ones the kernel waits for. It asks for what it has
        not: if that is all there is, a notice could take away nothing but the answer, while it is
        being copied, and the rest would be asked for anew, of a later version perhaps.

        Else, where the kernel itself asks, the answer tells it. A notice that overtakes such an
        answer would have the kernel drop that, and read on with the old size.
        """
        size = node.file.size
        await self.revalidate(node, may_notify=False)
        is_all_asked = node.file.size == size <= asked_bytes
        if node.open_count and not is_all_asked:
            self._invalidate(node.ino)

    async def create(
        self,
        key: ObjectKey,
        is_exclusive: bool,
        kept: Posix = posix.NONE,
        notice_of: NoticeOfNode | None = None,
    ) -> FileNode:
        """A new empty file. With `is_exclusive` the object is made now, across all clients of
        the cluster; else by the first flush. `kept` is made together with it.
        `notice_of(node)`: what is told when the object is made, of a file that looks like `node`.

        Raises: EntryExists.
        """
        if is_exclusive:
            return await self._sequencer.run(
                key, lambda _: self._create_exclusively(key, kept, notice_of)
            )
        if self._nodes.find_file(key) is not None:
            try:
                await self.find(key)
            except NoSuchEntry:
                self._let_go(key)  # removed by someone else, while in use here
        if self._nodes.find_file(key) is not None:
            raise EntryExists(f"{key.name!r}")
        return self._enter_new(key, kept)

    async def in_turn(self, file: CachedFile, operation: Callable[[], Awaitable[None]]) -> None:
        """Run `operation` in the file's turn, under whatever name it has by then.

        Raises: StaleFile where it was unlinked meanwhile; what the operation raises.
        """
        while not await self._ran_in_turn_of(file.key, file, operation):
            pass  # renamed while it waited: the turn was another's

    async def _ran_in_turn_of(
        self, key: ObjectKey, file: CachedFile, operation: Callable[[], Awaitable[None]]
    ) -> bool:
        async def run(_: Progress) -> bool:
            if file.key != key:
                return False
            if file.is_unlinked:
                raise StaleFile(f"{key.name!r} was removed")
            await operation()
            return True

        return await self._sequencer.run(key, run)

    async def change_beside(
        self,
        file: CachedFile,
        steps: tuple[Step, ...],
        mtime_s: int | None,
        must_match: bool = False,
        notice: Notice | None = None,
    ) -> None:
        """Apply steps that do not touch the content, outside of a flush. In the file's turn.

        If someone else changed the object, that stays to be found by the next flush or open; with
        `must_match` nothing is applied then. Raises: ObjectNotFound; VersionConflict; StoreError.
        """
        before = file.base
        if not before.version:  # only listed so far: there is nothing to compare with
            await self._store.apply(file.key, Change(steps, Existence.PRESENT, mtime_s, notice))
            return
        try:
            version = await self._store.apply(
                file.key, Change(steps, AtVersion(before.version), mtime_s, notice)
            )
        except VersionConflict:
            file.is_suspect = True
            if must_match:
                raise
            await self._store.apply(file.key, Change(steps, Existence.PRESENT, mtime_s, notice))
            return
        except StoreError as failure:
            if failure.is_outcome_unknown:
                mtime_now_s = before.mtime_s if mtime_s is None else mtime_s
                file.remember_attempt(
                    Attempt(before.size, before.size, mtime_now_s, is_append=False, pieces=())
                )
            raise
        if file.base != before:
            file.take_observed_change(version)
        else:
            mtime_now_s = before.mtime_s if mtime_s is None else mtime_s
            kept = [step.value for step in steps if _keeps_posix(step)]
            now_posix = posix.decode(kept[-1]) if kept else before.posix
            now = ObjectStat(before.size, mtime_now_s, version, posix=now_posix)
            file.take_change(now, is_as_bare=not gives_xattrs(steps))

    def _is_as_listed(self, node: FileNode) -> bool:
        """Whether nothing has been heard of it that its listing, not long ago, did not say."""
        listing = node.stat_ahead
        if listing is None or node.is_gone or not node.is_settled:
            return False
        return switching.current_time() - listing.listed_s < LISTED_FOR_CHANGE_S

    def _take_vouch(self, node: FileNode, caller: int, for_open: bool) -> bool:
        """Whether the same thread has just looked it up. Good for one question."""
        vouch, node.vouch = node.vouch, None
        if vouch is None or vouch.caller != caller or (for_open and not vouch.may_open):
            return False
        is_fresh = switching.current_time() - vouch.looked_up_s < LOOKUP_FRESHNESS_S
        return is_fresh and not node.file.is_unlinked

    async def _take_fetched_ahead(self, node: FileNode) -> bool:
        """Whether a stat of it was fetched ahead of this question. Good for one."""
        if node.stat_ahead is not None:
            node.stat_ahead.note_asked(node.stat_ahead_index)
        if node.stat_under_way is not None:
            await node.stat_under_way.wait()
        age_s = switching.current_time() - node.fetched_ahead_s
        node.fetched_ahead_s = float("-inf")
        return age_s < AHEAD_FRESHNESS_S and not node.file.is_unlinked

    def _observe(self, node: FileNode, stat: ObjectStat, may_notify: bool = True) -> None:
        if node.replaced is not None:  # that may be of what replaces it
            return
        file = node.file
        node.is_gone = False
        before, was_suspect = file.base, file.is_suspect
        is_changed = file.observe(stat) and before.version != 0
        file.heard_s = switching.current_time()
        if is_changed or was_suspect:
            node.stale_count += 1  # the next open drops them, for every handle
        if not (is_changed and node.open_count and may_notify):
            return
        if replace(stat, version=before.version) == before:  # then the kernel cannot tell
            self._invalidate(node.ino)

    def _enter(
        self, key: ObjectKey, stat: ObjectStat, prepared: FileNode | None = None
    ) -> FileNode:
        """`prepared`: an inode of that key that is in no table yet."""
        node = self._nodes.find_file(key)
        if node is None:
            node = prepared or FileNode(CachedFile(key, stat))
            node.file.base = stat
            node.file.heard_s = switching.current_time()
            self._nodes.add(node)
        else:
            self._observe(node, stat)
        return node

    async def _settle_gone(self, node: FileNode) -> None:
        """The object of a clean file was not there. If that is by an unlinking whose reply was
        lost, the name is gone from now on: who makes it anew makes another file.

        Raises: DeadlineExceeded.
        """

        async def unlink() -> None:
            self._unlink_gone(node.file)

        if node.lost_removal is not None:
            with contextlib.suppress(StaleFile):  # unlinked meanwhile
                await self.in_turn(node.file, unlink)

    def _let_go(self, key: ObjectKey) -> None:
        """The object of that name is gone; who has the file open keeps an inode without name."""
        node = self._nodes.find_file(key)
        if node is None or self._unlink_gone(node.file):
            return
        if node.file.is_clean:
            node.file.is_unlinked = True
            self._nodes.unlink(node)

    def _enter_new(self, key: ObjectKey, kept: Posix) -> FileNode:
        node = FileNode(CachedFile(key, None))
        self._nodes.add(node)
        if kept != posix.NONE:
            self._cache.stage_posix(node.file, kept)
        self._cache.set_mtime(node.file, time.time_ns())
        return node

    async def _create_exclusively(
        self, key: ObjectKey, kept: Posix, notice_of: NoticeOfNode | None
    ) -> FileNode:
        node = self._nodes.find_file(key)
        if node is not None and node.file.is_new:
            raise EntryExists(f"{key.name!r} is being written")
        mtime_s = int(time.time()) if kept.mtime_ns is None else kept.mtime_ns // posix.NS_PER_S
        steps: tuple[Step, ...] = (Create(),)
        brought = None if kept == posix.NONE else kept
        if brought is not None:
            steps += (SetXattr(posix.XATTR, posix.encode(brought)),)
        expected: FileNode | None = None
        notice: Notice | None = None
        ino = None if notice_of is None else self._nodes.expect(key)
        try:
            if notice_of is not None and ino is not None:
                expected = FileNode(CachedFile(key, ObjectStat(0, mtime_s, 0, posix=brought)))
                expected.ino = ino
                notice = notice_of(expected)
            change = Change(steps, Existence.ABSENT, mtime_s, notice)
            version = await self._store.apply(key, change)
            if notice is None or not notice.is_sent:
                self._let_go(key)  # else who has been listed meanwhile is the one that was told
            node = self._enter(key, ObjectStat(0, mtime_s, version, posix=brought), expected)
        except ObjectExists as refusal:
            raise EntryExists(f"{key.name!r}") from refusal
        except StoreError as failure:
            self._nodes.note_failure(failure, key)
            raise
        finally:
            self._nodes.expect_no_more(ino)
        node.file.bare_version = version
        return node


def _keeps_posix(step: Step) -> TypeGuard[SetXattr]:
    return isinstance(step, SetXattr) and step.name == posix.XATTR


def _check_linked(file: CachedFile) -> None:
    if file.is_unlinked and file.orphan is None:
        raise StaleFile(f"{file.key.name!r} was removed")
