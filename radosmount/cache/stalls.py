"""Which files the store does not answer, or refuses, so that they leave room to the others.

Times are the caller's clock. Pure: no I/O, no awaits.
"""

import math
from typing import Final

from radosmount.cache.file import CachedFile
from radosmount.errors import NoSpace, QuotaExceeded, RadosmountError

# A healthy cluster answers in milliseconds, a busy one in less than this.
STALL_S: Final = 1.0


class Stalls:
    """`asked` and `answered` are told of what is asked for about files that have bytes to store,
    `failed` and `forget` of how their flushes end; `look` is called now and then, while there are
    any.

    A pool is full while some file's last flush was refused there for want of room. Then it is
    stalled as a whole: the next file there will be refused as well.
    """

    def __init__(self) -> None:
        # How much of a file is under way, and since when nothing was heard of it.
        self._asked: dict[CachedFile, tuple[int, float]] = {}
        self._late: dict[CachedFile, float] = {}  # those that wait for too long, since when
        self._failed: dict[CachedFile, float] = {}  # whose last flush has failed, since when
        self._refused: dict[int, set[CachedFile]] = {}  # those of them that make a pool full
        self._latest_s = -math.inf  # when the latest one began for which an OSD may have died

    @property
    def are_there(self) -> bool:
        return bool(self._late or self._failed)

    def asked(self, file: CachedFile, now_s: float) -> None:
        count, since_s = self._asked.get(file, (0, now_s))
        self._asked[file] = count + 1, since_s

    def answered(self, file: CachedFile, now_s: float, is_well: bool) -> None:
        """`is_well`: the answer was the OSD's, and no refusal."""
        count, since_s = self._asked.pop(file)
        if count > 1:
            self._asked[file] = count - 1, now_s if is_well else since_s
        if is_well:
            file.answered_s = now_s

    def failed(self, file: CachedFile, now_s: float) -> None:
        """Its flush has failed by `file.error`; perhaps not for the first time."""
        since_s = self._failed.get(file, now_s)
        self.forget(file)
        self._failed[file] = since_s
        if _wants_room(file):
            self._refused.setdefault(file.key.pool_id, set()).add(file)
        else:
            self._latest_s = max(self._latest_s, since_s)

    def forget(self, file: CachedFile) -> None:
        """It was stored, or there is nothing to store any more."""
        if not self._failed:
            return
        self._failed.pop(file, None)
        refused = self._refused.get(file.key.pool_id, set())
        refused.discard(file)
        if not refused:
            self._refused.pop(file.key.pool_id, None)

    def look(self, now_s: float) -> bool:
        """Return whether others wait for too long than before."""
        before = self._late
        asked = self._asked.items()
        self._late = {file: since_s for file, (_, since_s) in asked if now_s - since_s > STALL_S}
        silent = (since_s for file, since_s in self._failed.items() if not _wants_room(file))
        self._latest_s = max((*self._late.values(), *silent), default=-math.inf)
        return before.keys() != self._late.keys()

    def has(self, file: CachedFile) -> bool:
        return file in self._late or self.is_refused(file)

    def is_refused(self, file: CachedFile) -> bool:
        """Whether its last flush has failed, or its pool is full."""
        return file in self._failed or file.key.pool_id in self._refused

    def refusal_of(self, file: CachedFile, end: int) -> RadosmountError | None:
        """Why a write up to `end` is not stored now, as far as that is known. A full pool takes
        what does not grow (`full_try`)."""
        if file in self._failed:
            return file.error
        refused = self._refused.get(file.key.pool_id)
        if not refused or end <= file.base.size:
            return None
        error = next(iter(refused)).error
        assert error is not None
        return type(error)(f"{file.key.name!r}: its pool is full")

    def is_heard(self, file: CachedFile) -> bool:
        """Whether its OSD has answered since the latest of them was asked in vain: what has died
        may be its own."""
        return max(file.heard_s, file.answered_s) > self._latest_s


def _wants_room(file: CachedFile) -> bool:
    """Of a file that has failed: whether an OSD has answered, that there is no room."""
    return isinstance(file.error, NoSpace | QuotaExceeded)
