"""When and how one dirty file is flushed. Pure: the caller has the clock."""

import math
from dataclasses import dataclass, field
from typing import Final

from radosmount.cache.ticket import Ticket
from radosmount.errors import StoreError

RETRY_DELAY_S_MIN: Final = 1.0
RETRY_DELAY_S_MAX: Final = 15.0


@dataclass(slots=True)
class Schedule:
    dirty_since_s: float
    progress_s: float = field(init=False)  # of the last acknowledgement
    asked_s: float = -math.inf  # when a flush was asked for that no answer has come to since
    queued: Ticket[bool] | None = None  # takes everything that is dirty when it starts
    running: Ticket[bool] | None = None
    retry_delay_s: float = 0.0
    retry_at_s: float = 0.0
    has_failed_for_good: bool = False

    def __post_init__(self) -> None:
        self.progress_s = self.dirty_since_s

    @property
    def is_under_way(self) -> bool:
        return self.queued is not None or self.running is not None

    @property
    def is_failing(self) -> bool:
        """Whether the last flush has failed, or the one that is tried again since."""
        return self.retry_delay_s > 0

    def may_begin(self, now_s: float) -> bool:
        """What failed is tried again in its time only, and what failed for good never."""
        is_idle = not self.is_under_way and not self.has_failed_for_good
        return is_idle and now_s >= self.retry_at_s

    def is_due(self, now_s: float, expire_s: float) -> bool:
        """Whether write-back begins by itself, `expire_s` after the file became dirty."""
        return self.may_begin(now_s) and (self.is_failing or now_s >= self.dirty_since_s + expire_s)

    def ask(self, flush: Ticket[bool], now_s: float) -> None:
        """`flush` is handed in."""
        self.queued = flush
        if self.asked_s < self.progress_s:
            self.asked_s = now_s

    def succeed(self, now_s: float) -> None:
        self.retry_delay_s = self.retry_at_s = 0.0
        self.has_failed_for_good = False
        self.dirty_since_s = now_s

    def fail(self, now_s: float, cause: StoreError) -> None:
        self.has_failed_for_good = not cause.is_transient
        if not cause.is_outcome_unknown:  # a refusal is an answer
            self.asked_s = -math.inf
        delay_s = max(2 * self.retry_delay_s, RETRY_DELAY_S_MIN)
        self.retry_delay_s = min(delay_s, RETRY_DELAY_S_MAX)
        self.retry_at_s = now_s + self.retry_delay_s
