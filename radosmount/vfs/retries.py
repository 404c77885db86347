"""Whose open(2) came too late: the file behind the inode has been renamed over.

Such an open is answered with ESTALE. The kernel then looks the path up again and opens what it
finds, once: were that renamed over as well, open(2) itself would fail, which no rename(2) may
cause. So the thread is expected for a moment. Its look-ups wait for a rename over that name which
is under way, and the next one waits until its open has come.
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

# Who was killed meanwhile does not come.
LOOKUP_WAIT_S: Final = 0.2
# Nor does, yet, who has looked up what the kernel had not renamed by then: it looks the name up
# once more, and that waits in the kernel for the next rename in that directory.
OPEN_WAIT_S: Final = 0.02

T = TypeVar("T")


@dataclass(slots=True)
class _Retry:
    key: ObjectKey
    until_s: float  # waited for (trio's clock)


class Retries:
    """By thread; 0 stands for all that are unknown."""

    def __init__(self) -> None:
        self._retries = ByThread[_Retry]()
        self._replaced: dict[ObjectKey, trio.Event] = {}
        self._changed = trio.Event()

    def __contains__(self, caller: int) -> bool:
        """Whether the thread was told ESTALE, and has opened nothing since."""
        return caller in self._retries

    def expect(self, key: ObjectKey, caller: int) -> None:
        """The thread is about to be told that the file of that name is gone."""
        self._retries[caller] = _Retry(key, switching.current_time() + LOOKUP_WAIT_S)

    async def look_up(self, caller: int, look_up: Coroutine[object, object, T]) -> T:
        """A look-up by such a thread, after what is replacing the name. Where it fails, no open
        follows."""
        retry = self._retries[caller]
        with contextlib.closing(look_up):  # never awaited where we are cancelled
            if retry.key in self._replaced:
                await self._replaced[retry.key].wait()
            retry.until_s = switching.current_time() + LOOKUP_WAIT_S
            try:
                found = await look_up
            except BaseException:
                self.forget(caller)
                raise
        retry.until_s = switching.current_time() + OPEN_WAIT_S
        self._note_change()
        return found

    def forget(self, caller: int) -> None:
        """The thread has opened a file, or will not."""
        if self._retries.pop(caller, None) is not None:
            self._note_change()

    async def settle(self, key: ObjectKey) -> None:
        """Wait, for a moment, until nobody is expected to open the file of that name."""
        while (until_s := self._until_s(key)) > switching.current_time():
            with trio.move_on_at(until_s):
                await self._changed.wait()

    @contextlib.contextmanager
    def replacing(self, key: ObjectKey) -> Iterator[None]:
        """Until the end of the block a rename over that name is under way, in its turn."""
        event = self._replaced[key] = trio.Event()
        try:
            yield
        finally:
            del self._replaced[key]
            event.set()

    def _until_s(self, key: ObjectKey) -> float:
        times_s = (retry.until_s for retry in self._retries.values() if retry.key == key)
        return max(times_s, default=-math.inf)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
