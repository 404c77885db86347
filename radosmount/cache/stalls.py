"""Which files the store does not answer, so that they leave room to the others.

Times are the caller's clock. Pure: no I/O, no awaits.
"""

import math
from collections.abc import Iterable
from typing import Final

from radosmount.cache.file import CachedFile

# A healthy cluster answers in milliseconds, a busy one in less than this.
STALL_S: Final = 1.0


class Stalls:
    """`asked` and `answered` are told of what is asked for about files that have bytes to store;
    `look` is called now and then, while there are any."""

    def __init__(self) -> None:
        # How much of a file is under way, and since when nothing was heard of it.
        self._asked: dict[CachedFile, tuple[int, float]] = {}
        self._stalled: dict[CachedFile, float] = {}  # and since when
        self._latest_s = -math.inf  # of those times

    @property
    def are_there(self) -> bool:
        return bool(self._stalled)

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

    def look(self, now_s: float, failing: Iterable[CachedFile]) -> bool:
        """`failing`: whose last flush has failed. Return whether it is not as it was before."""
        before = self._stalled
        self._stalled = {file: before.get(file, now_s) for file in failing}
        for file, (_, since_s) in self._asked.items():
            if now_s - since_s > STALL_S:
                self._stalled[file] = since_s
        self._latest_s = max(self._stalled.values(), default=-math.inf)
        return before.keys() != self._stalled.keys()

    def has(self, file: CachedFile) -> bool:
        return file in self._stalled

    def is_heard(self, file: CachedFile) -> bool:
        """Whether its OSD has answered since the latest of them was asked in vain: what has died
        may be its own."""
        return max(file.heard_s, file.answered_s) > self._latest_s
