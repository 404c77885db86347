"""Memory for written bytes: one bound for all files, and the wait for room under it.

Owner of the fact "how many dirty bytes are held". Who wants to add some reserves first; what
a flush has stored, or what was discarded, is released. Waiters are served in order, so that
a large request is not starved by small ones; but one that may use more of the bound does not
wait for one that may not.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio


@dataclass(eq=False, slots=True)
class _Turn:
    byte_count: int
    limit: Callable[[], int]
    admitted: trio.Event = field(default_factory=trio.Event)


class Budget:
    """Bytes that may be held at once. One request may be larger than all: it then waits until
    nothing else is held.

    `limit`, of a request: how many it may make them, at most `limit_bytes`. It is asked for anew
    as long as the request waits.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes: Final = limit_bytes
        self._waiting: deque[_Turn] = deque()
        self.held_bytes = 0

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiting)

    def try_reserve(self, byte_count: int, limit_bytes: int | None = None) -> bool:
        """Take `byte_count` at once where there is room and nobody waits before us."""
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        if not self._fits(byte_count, limit):
            return False
        if self._waiting and any(turn.limit() >= limit for turn in self._waiting):
            return False
        self.held_bytes += byte_count
        return True

    async def reserve(self, byte_count: int, limit: Callable[[], int] | None = None) -> None:
        """Take `byte_count`, waiting for room. Cancelling the wait takes nothing."""
        if self.try_reserve(byte_count, limit and limit()):
            return
        turn = _Turn(byte_count, limit or (lambda: self.limit_bytes))
        self._waiting.append(turn)
        try:
            await turn.admitted.wait()
        except trio.Cancelled:
            if turn.admitted.is_set():
                self.release(byte_count)
            else:
                self._waiting.remove(turn)
                self.admit()
            raise

    def release(self, byte_count: int) -> None:
        self.held_bytes -= byte_count
        assert self.held_bytes >= 0, "released more than was reserved"
        if self._waiting:
            self.admit()

    def admit(self) -> None:
        """Let in who waits and has room by now: after a release, or where limits have changed."""
        refused_bytes = 0  # the largest limit of those that wait on
        for turn in tuple(self._waiting):
            limit = turn.limit()
            if limit > refused_bytes and self._fits(turn.byte_count, limit):
                self._waiting.remove(turn)
                self.held_bytes += turn.byte_count
                turn.admitted.set()
            else:
                refused_bytes = max(refused_bytes, limit)

    def _fits(self, byte_count: int, limit_bytes: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + byte_count <= limit_bytes
