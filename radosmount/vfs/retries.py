"""Whose open(2) came too late: the file behind the inode is being removed, or renamed over.

Such an open waits for the end of that, and is answered with ESTALE. The kernel then looks the path
up again and opens what it finds, once: were that removed as well, open(2) itself would fail with
ESTALE, which no unlink(2) or rename(2) of this mount may cause. So the thread's look-ups wait for
what is under way with that name, and who would remove what they have found waits, for a moment,
for the open.
"""

import contextlib
import math
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from radosmount import switching
from radosmount.store.interface import ObjectKey
from radosmount.vfs.bythread import ByThread

LOOKUP_WAIT_S: Final = 1.0  # at most: a look-up may meet an OSD that does not answer
# Who was killed does not come. Nor does, yet, who has looked up what the kernel had not renamed by
# then: it looks the name up once more, and that waits in the kernel for the next rename there.
OPEN_WAIT_S: Final = 0.02

T = TypeVar("T")


@dataclass(slots=True)
class _Retry:
    key: ObjectKey
    until_s: float = -math.inf  # waited for (trio's clock)


class Retries:
    """By thread; 0 stands for all that are unknown."""

    def __init__(self) -> None:
        self._retries = ByThread[_Retry]()
        self._leaving: dict[ObjectKey, trio.Event] = {}
        self._changed = trio.Event()

    def __contains__(self, caller: int) -> bool:
        """Whether the thread was told ESTALE, and has opened nothing since."""
        return caller in self._retries

    @contextlib.contextmanager
    def leaving(self, key: ObjectKey) -> Iterator[None]:
        """In its turn: the file of that name is removed or replaced in the block. Opens wait: who
        opened it now would have neither the content, which nobody has copied, nor a name."""
        event = self._leaving[key] = trio.Event()
        try:
            yield
        finally:
            del self._leaving[key]
            event.set()

    def left(self, key: ObjectKey) -> trio.Event | None:
        """Set when that has ended; None where nothing of it is under way."""
        return self._leaving.get(key)

    def expect(self, key: ObjectKey, caller: int) -> None:
        """The thread is about to be told ESTALE of the file of that name."""
        self._retries[caller] = _Retry(key)

    async def look_up(self, caller: int, look_up: Coroutine[object, object, T]) -> T:
        """A look-up by such a thread. Where it fails, no open follows; but another look-up may: the
        kernel looks a name that is gone up once more."""
        retry = self._retries[caller]
        with contextlib.closing(look_up):  # never awaited where we are cancelled
            retry.until_s = switching.current_time() + LOOKUP_WAIT_S
            while (left := self.left(retry.key)) is not None:
                await left.wait()
                retry.until_s = switching.current_time() + LOOKUP_WAIT_S
            try:
                found = await look_up
            except BaseException:
                retry.until_s = -math.inf
                self._note_change()
                raise
        retry.until_s = switching.current_time() + OPEN_WAIT_S
        self._note_change()
        return found

    def forget(self, caller: int) -> None:
        """The thread has opened a file."""
        if self._retries.pop(caller, None) is not None:
            self._note_change()

    async def settle(self, key: ObjectKey) -> None:
        """Before `leaving`: wait, for a moment, until nobody is expected to open the file of that
        name."""
        while (until_s := self._until_s(key)) > switching.current_time():
            with trio.move_on_at(until_s):
                await self._changed.wait()

    def _until_s(self, key: ObjectKey) -> float:
        times_s = (retry.until_s for retry in self._retries.values() if retry.key == key)
        return max(times_s, default=-math.inf)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
