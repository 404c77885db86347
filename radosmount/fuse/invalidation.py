"""Drops what the kernel has cached of an inode, from a thread of its own.

The kernel may answer only after requests that our loop has to serve, so the loop itself must
never ask (pyfuse3's deadlocks). A set, not a queue: asking twice for one inode is asking once,
so it is bounded by the inodes that the kernel knows, and by `count_max`.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S: Final = 2.0  # an invalidation takes under 1 ms unless the kernel is stuck


class InvalidationThread:
    """`invalidate` may be called from anywhere and returns at once."""

    def __init__(self, invalidate_now: Callable[[int], None], count_max: int) -> None:
        self._invalidate_now = invalidate_now
        self._count_max = count_max
        self._waiting: dict[int, None] = {}  # ordered; guarded, as is_stopping, by _changed
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="invalidation", daemon=True)

    def ask_by(self, invalidate_now: Callable[[int], None]) -> None:
        """Instead of what was given at first. Before `start`."""
        self._invalidate_now = invalidate_now

    def start(self) -> None:
        self._thread.start()

    def invalidate(self, inode: int) -> None:
        """Let the kernel forget attributes and pages of this inode, soon."""
        with self._changed:
            if len(self._waiting) >= self._count_max:
                log.warning("too many inodes changed at once: inode %d may look stale", inode)
                return
            self._waiting[inode] = None
            self._changed.notify()

    def stop(self) -> bool:
        """End the thread; False if it is stuck in the kernel, so that the session must stay."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(JOIN_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (inode := self._next()) is not None:
            try:
                self._invalidate_now(inode)
            except FileNotFoundError:  # the kernel has forgotten it by itself
                pass
            except Exception:
                log.exception("invalidating inode %d", inode)

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopping)
            if self._is_stopping:
                return None
            inode = next(iter(self._waiting))
            del self._waiting[inode]
            return inode
