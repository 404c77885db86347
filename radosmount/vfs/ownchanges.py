"""What a thread has just stored, it looks up again without asking the store.

Programs that copy or replace a file name it several times in a row (close, utimensat, rename), and
each name is a look-up. The acknowledgement of the close has told what the object is. Whoever
changes it after that waits for an acknowledgement of his own, as we do for what we change: for half
of the shortest time that this ever took, nobody can know of a later state.

The look-up vouches for nothing: an open asks the store as ever. Times are of CLOCK_MONOTONIC.
"""

import time
from typing import Final

from radosmount.store.interface import Notice
from radosmount.vfs.nodes import FileNode, OwnChange

# So many acknowledgements tell how fast one can be; before that, every look-up asks.
SAMPLE_COUNT_MIN: Final = 32


class OwnChanges:
    def __init__(self) -> None:
        self._sample_count = 0
        self._shortest_ns = 1 << 62

    def note_told(self, node: FileNode, caller: int, notice: Notice) -> None:
        """The thread was sent `notice`: one operation has stored all that there was."""
        self._sample_count += 1
        self._shortest_ns = min(self._shortest_ns, notice.sent_ns - notice.asked_ns)
        node.own_change = OwnChange(caller, notice.sent_ns)

    def note(self, node: FileNode, caller: int) -> None:
        """The thread is about to hear that its change is stored."""
        node.own_change = OwnChange(caller, time.monotonic_ns())

    def is_known(self, node: FileNode, caller: int) -> bool:
        """Whether the thread `caller` (0: unknown) has just stored what the inode shows."""
        change = node.own_change
        is_enough = self._sample_count >= SAMPLE_COUNT_MIN
        if change is None or change.caller != caller or not caller or not is_enough:
            return False
        age_ns = time.monotonic_ns() - change.told_ns
        return age_ns < self._shortest_ns // 2 and node.is_settled
