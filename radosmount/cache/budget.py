"""Memory for written bytes: one bound for all files, and the wait for room under it.

Owner of the fact "how many dirty bytes are held". Who wants to add some reserves first; what
a flush has stored, or what was discarded, is released. Waiters are served in order, so that
a large request is not starved by small ones.
"""

from collections import deque

import trio


class Budget:
    """Bytes that may be held at once. One request may be larger than all: it then waits until
    nothing else is held."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self.held_bytes = 0

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiting)

    def try_reserve(self, byte_count: int) -> bool:
        """Take `byte_count` at once where there is room and nobody waits before us."""
        if self._waiting or not self._fits(byte_count):
            return False
        self.held_bytes += byte_count
        return True

    async def reserve(self, byte_count: int) -> None:
        """Take `byte_count`, waiting for room. Cancelling the wait takes nothing."""
        if self.try_reserve(byte_count):
            return
        turn = (byte_count, trio.Event())
        self._waiting.append(turn)
        try:
            await turn[1].wait()
        except trio.Cancelled:
            if turn[1].is_set():
                self.release(byte_count)
            else:
                self._waiting.remove(turn)
                self._admit()
            raise

    def release(self, byte_count: int) -> None:
        self.held_bytes -= byte_count
        assert self.held_bytes >= 0, "released more than was reserved"
        self._admit()

    def _fits(self, byte_count: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + byte_count <= self._limit_bytes

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            byte_count, event = self._waiting.popleft()
            self.held_bytes += byte_count
            event.set()
