"""What becomes of a bug in the background: its traceback in the log, and nothing worse.

All background tasks share one nursery, so that an exception that leaves one of them would end the
mount, with all that is not stored yet. Handlers have the same from fuse/replies.py. Nothing here is
for the world's failures: those are `errors`, and whoever calls knows what to do with them.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

log = logging.getLogger(__name__)

RESTART_DELAY_S: Final = 1.0
# What goes wrong once may go wrong again each second, or for each file of a large directory.
LOG_INTERVAL_S: Final = 60.0

_logged_s: Final = trio.lowlevel.RunVar[dict[str, float]]("when a bug of that name was logged")


@contextlib.contextmanager
def contained(what: str) -> Iterator[None]:
    """An exception inside ends what is inside, and goes no further. `what` names it in the log.

    Cancelling passes through.
    """
    try:
        yield
    except Exception as bug:  # not BaseException: trio.Cancelled must pass
        if _is_news(what):
            log.exception("%s: unexpected", what)
        else:
            log.debug("%s: unexpected, again: %r", what, bug)


async def keep_running(what: str, task: Callable[[], Awaitable[None]]) -> None:
    """Until `task` returns: after an exception it begins anew, a moment later."""
    while True:
        with contained(what):
            return await task()
        await trio.sleep(RESTART_DELAY_S)


def _is_news(what: str) -> bool:
    """Whether the log has not been told of it for a while."""
    logged_s = _logged_s.get({})
    _logged_s.set(logged_s)
    now_s = trio.current_time()
    if now_s - logged_s.get(what, -LOG_INTERVAL_S) < LOG_INTERVAL_S:
        return False
    logged_s[what] = now_s
    return True
