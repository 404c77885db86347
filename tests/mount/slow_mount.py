"""A mount whose store waits, and which shows how it is served.

Run as a program, as radosmount. The rest of it is the real one, over a store in memory.

- Calls on `together-*` are answered once `TOGETHER_COUNT` of them are under way at once.
- Calls on `gated-*` are answered once the process gets SIGUSR1.
- The log has a line for every call that the gate holds.
- The file that PULSE names is written again and again, for as long as Python code can run.
"""

import itertools
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

import trio

from radosmount import app, cli, lifecycle
from radosmount.config import Config
from radosmount.errors import TimedOut
from radosmount.logs import configure_logging
from radosmount.store.interface import ObjectKey, Store
from radosmount.store.memory import Call, MemoryStore

PULSE: Final = "SLOW_MOUNT_PULSE"
PULSE_INTERVAL_S: Final = 0.02
TOGETHER_COUNT: Final = 8
TOGETHER_TIMEOUT_S: Final = 10

log = logging.getLogger(__name__)


class Waits:
    """The delay of every call of the store."""

    def __init__(self) -> None:
        self._together_count = 0
        self._are_together = trio.Event()
        self._gated_count = 0
        self._gate = trio.Event()
        token = trio.lowlevel.current_trio_token()
        signal.signal(signal.SIGUSR1, lambda *_: token.run_sync_soon(self._gate.set))

    async def __call__(self, call: Call) -> None:
        name = call.key.name if call.key else b""
        if name.startswith(b"together-"):
            await self._wait_for_others()
        elif name.startswith(b"gated-"):
            self._gated_count += 1
            log.info("calls at the gate: %d.", self._gated_count)
            await self._gate.wait()

    async def _wait_for_others(self) -> None:
        self._together_count += 1
        if self._together_count == TOGETHER_COUNT:
            self._are_together.set()
        with trio.move_on_after(TOGETHER_TIMEOUT_S):
            await self._are_together.wait()
            return
        raise TimedOut(f"alone among {self._together_count}")


def beat(path: Path) -> None:
    for number in itertools.count():
        path.write_text(str(number))
        time.sleep(PULSE_INTERVAL_S)


async def open_store(config: Config) -> Store:
    store = MemoryStore()
    pool_id = store.add_pool(b"pool")
    names = [f"{kind}-{number}" for kind in ("together", "gated") for number in range(300)]
    for name in [*names, "good"]:
        store.put_now(ObjectKey(pool_id, b"", name.encode(), b""), b"content")
    store.delay = Waits()
    return store


def serve(config: Config, announce_ready: lifecycle.OnReady) -> int:
    configure_logging(config)
    if PULSE in os.environ:
        threading.Thread(target=beat, args=(Path(os.environ[PULSE]),), daemon=True).start()
    return lifecycle.run(config, announce_ready, lifecycle.Parts(open_store, app.make))


if __name__ == "__main__":
    cli.serve = serve
    sys.exit(cli.main())
