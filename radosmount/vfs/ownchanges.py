"""What a thread has just stored or removed, it looks up again without asking the store.

Programs that copy or replace a file name it several times in a row (close, utimensat, rename, then
the next one under the same temporary name), and each name is a look-up. The acknowledgement of the
change has told what the object is. Whoever begins to change it after that waits for an
acknowledgement of his own, as we do for what we change: for half of the shortest time that this
ever took, nobody can know of what he makes of it.

The look-up vouches for nothing: an open asks the store as ever. Times are of CLOCK_MONOTONIC.
"""

import time
from typing import Final

from radosmount.store.interface import Notice, ObjectKey
from radosmount.vfs.bythread import ByThread
from radosmount.vfs.nodes import FileNode, OwnChange

# So many acknowledgements tell how fast one can be; before that, every look-up asks.
SAMPLE_COUNT_MIN: Final = 32


class OwnChanges:
    """Of what a thread was told by a notice that was sent: that tells when it was acknowledged.
    What the loop hears of, it may hear of late."""

    def __init__(self) -> None:
        self._sample_count = 0
        self._shortest_ns = 1 << 62
        self._removals = ByThread[tuple[ObjectKey, int]]()  # the last one

    def note_told(self, node: FileNode, caller: int, notice: Notice | None) -> None:
        """If it was sent, one operation has stored all that there was."""
        if notice is None or not notice.is_sent:
            return
        self._learn(notice)
        node.own_change = OwnChange(caller, notice.sent_ns)

    def note_removed(self, key: ObjectKey, caller: int, notice: Notice | None) -> None:
        """If it was sent, there is no object by that name any more."""
        if notice is None or not notice.is_sent:
            return
        self._learn(notice)
        self._removals[caller] = key, notice.sent_ns

    def is_known(self, node: FileNode, caller: int) -> bool:
        """Whether the thread `caller` (0: unknown) has just stored what the inode shows."""
        change = node.own_change
        if change is None or change.caller != caller or not caller:
            return False
        return self._is_recent(change.told_ns) and node.is_settled

    def is_removed(self, key: ObjectKey, caller: int) -> bool:
        """Whether the thread `caller` (0: unknown) has just removed the object; it may have been
        made anew, through this mount."""
        removal = self._removals.get(caller)
        if removal is None or removal[0] != key or not caller:
            return False
        return self._is_recent(removal[1])

    def _learn(self, notice: Notice) -> None:
        self._sample_count += 1
        self._shortest_ns = min(self._shortest_ns, notice.sent_ns - notice.asked_ns)

    def _is_recent(self, told_ns: int) -> bool:
        age_ns = time.monotonic_ns() - told_ns
        return age_ns < self._shortest_ns // 2 and self._sample_count >= SAMPLE_COUNT_MIN
