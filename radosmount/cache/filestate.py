"""Whether the store has all of a file: the states of `CachedFile`.

    CLEAN ── modified ──> DIRTY ── write started ──> WRITING ── write succeeded ──> CLEAN
                            ^                           │ modified
                            └── write ended ── REDIRTIED <┘

Invariant: outside CLEAN there is something that the store does not have, so only a CLEAN file
may be forgotten.
"""

import enum
from typing import Final


class FileState(enum.Enum):
    """Beside its name: whether it is clean, and whether it needs a flush, since there is something
    that none under way stores."""

    __hash__ = object.__hash__  # by identity, as they are compared; Enum's own is Python
    CLEAN = "clean", True, False  # the store has everything
    DIRTY = "dirty", False, True  # it does not, and no flush is under way
    WRITING = "writing", False, False  # a flush of exactly what differs is under way
    REDIRTIED = "redirtied", False, True  # a flush is under way and already outdated

    def __init__(self, _: str, is_clean: bool, needs_flush: bool) -> None:
        self.is_clean = is_clean
        self.needs_flush = needs_flush


class FileEvent(enum.Enum):
    __hash__ = object.__hash__
    MODIFIED = "modified"
    WRITE_STARTED = "write started"
    WRITE_SUCCEEDED = "write succeeded"
    WRITE_FAILED = "write failed"


S, E = FileState, FileEvent
# A pair that is missing here is a bug in the caller.
TRANSITIONS: Final = {
    (S.CLEAN, E.MODIFIED): S.DIRTY,
    (S.DIRTY, E.MODIFIED): S.DIRTY,
    (S.DIRTY, E.WRITE_STARTED): S.WRITING,
    (S.WRITING, E.MODIFIED): S.REDIRTIED,
    (S.REDIRTIED, E.MODIFIED): S.REDIRTIED,
    (S.WRITING, E.WRITE_SUCCEEDED): S.CLEAN,
    (S.REDIRTIED, E.WRITE_SUCCEEDED): S.DIRTY,
    (S.WRITING, E.WRITE_FAILED): S.DIRTY,
    (S.REDIRTIED, E.WRITE_FAILED): S.DIRTY,
}
