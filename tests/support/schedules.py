"""Runs of trio that hypothesis can repeat: a clock that jumps, tasks in an order by seed."""

from collections.abc import Awaitable, Callable

import trio
import trio.testing
from trio._core import _run


def run_seeded(seed: int, main: Callable[[], Awaitable[None]], *, jumps: bool = True) -> None:
    """Run `main`. Without `jumps` the clock stands still, so nothing happens by itself."""
    before = _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    clock = trio.testing.MockClock(autojump_threshold=0 if jumps else float("inf"))
    try:
        trio.run(main, clock=clock)
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
