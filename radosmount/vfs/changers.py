"""Threads that change or remove one listed file after the other, as rm -r and setfattr do.

Each such call begins with a look-up, once the kernel does not keep the listed name any more: a
round trip to hear what the change would tell as well. So the look-up that follows a change by the
same thread is answered as the name was listed, if it was. Whatever else it was for asks the
store: the look-up vouches for nothing.
"""

from radosmount.vfs.bythread import ByThread


class Changers:
    def __init__(self) -> None:
        self._threads = ByThread[None]()

    def note_change(self, caller: int) -> None:
        """The thread `caller` (0: unknown) asks for one: a removal, xattrs or attributes."""
        if caller:
            self._threads[caller] = None

    def take(self, caller: int) -> bool:
        """The thread looks a file up: whether a change was its last call by name, as far as is
        known. Once: a name that is gone is looked up anew, and then the store is asked."""
        if caller in self._threads:
            del self._threads[caller]
            return True
        return False
