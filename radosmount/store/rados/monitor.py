"""What the monitors know: pools, usage, limits."""

import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

import rados

from radosmount.errors import StoreFailure
from radosmount.store.interface import Limits, Pool, PoolUsage, Usage
from radosmount.store.rados import translation
from radosmount.store.rados.names import from_text

log = logging.getLogger(__name__)

_MIB: Final = 1 << 20

# Ceph's own defaults, for a user whose caps do not let him ask.
_OBJECT_BYTES_MAX: Final = 128 * _MIB
_OPERATION_BYTES_MAX: Final = 90 * _MIB


# Each change of a file asks for its pool, and librados would make a list of all names for that.
# What another client changes in the osdmap is heard of later than that anyway.
POOLS_FRESHNESS_S: Final = 0.05


class Osdmap:
    """The pools of the osdmap that librados has, and how to get a newer one.

    librados learns of a new pool only by `fetch`, of a removed one by any call there, too.
    """

    def __init__(self, handle: rados.Rados, fetch_others: Callable[[], None]) -> None:
        """`fetch_others`: have other handles fetch it, too. Blocks as `fetch` does."""
        self._handle = handle
        self._fetch_others = fetch_others
        self._names: list[str] = []
        self._pools: tuple[Pool, ...] | None = None
        self._looked_s = -math.inf
        self._ticket = 0  # trio thread only
        self._fetched_ticket = 0  # fetching thread only

    def pools(self) -> tuple[Pool, ...]:
        """From memory; librados is asked for the names every POOLS_FRESHNESS_S."""
        now_s = time.monotonic()
        if self._pools is not None and now_s - self._looked_s < POOLS_FRESHNESS_S:
            return self._pools
        self._looked_s = now_s
        pool_names = self._handle.list_pools()
        if self._pools is None or pool_names != self._names:
            self._names = pool_names
            found = (self._pool(name) for name in pool_names)
            self._pools = tuple(pool for pool in found if pool is not None)
        return self._pools

    def forget_pools(self) -> None:
        """Look again, at once: the same names may mean new pools or applications."""
        self._pools = None

    def next_ticket(self) -> int:
        """What a call of `fetch` asks for: a map that was fetched after now."""
        self._ticket += 1
        return self._ticket

    def fetch(self, ticket: int) -> None:
        """Wait for the newest osdmap; blocks for as long as no monitor answers.

        One thread at a time. Many that wait are served by one fetch: it is newer than all of
        their tickets.
        """
        if ticket <= self._fetched_ticket:
            return
        newest_ticket = self._ticket
        try:
            self._handle.wait_for_latest_osdmap()
        except rados.Error as failure:
            raise translation.from_binding(failure, "fetching the osdmap") from None
        self._fetch_others()
        self._fetched_ticket = newest_ticket

    def _pool(self, name: str) -> Pool | None:
        """None: removed a moment ago."""
        try:
            pool_id = self._handle.pool_lookup(name)
            ioctx = self._handle.open_ioctx(name)
        except rados.ObjectNotFound:
            return None
        try:
            applications = frozenset(ioctx.application_list())
        finally:
            ioctx.close()
        return None if pool_id is None else Pool(pool_id, from_text(name), applications)


def read_usage(handle: rados.Rados) -> Usage:
    """Blocks, for at most rados_mon_op_timeout. Raises: TimedOut; StoreFailure where the answer is
    not what it should be."""
    try:
        return _usage(_ask(handle, {"prefix": "df", "detail": "detail"}))
    except (KeyError, TypeError, ValueError) as failure:  # no JSON is a ValueError
        raise StoreFailure(f"the answer to df cannot be read: {failure!r}") from None


def read_limits(handle: rados.Rados) -> Limits:
    """As osd.0 is set; Ceph's defaults where the monitor does not say."""
    object_bytes_max = _read_option(handle, "osd_max_object_size")
    write_mib_max = _read_option(handle, "osd_max_write_size")
    operation_bytes_max = (write_mib_max or 0) * _MIB
    return Limits(
        object_bytes_max or _OBJECT_BYTES_MAX, operation_bytes_max or _OPERATION_BYTES_MAX
    )


def _usage(answer: Any) -> Usage:
    stats = answer["stats"]
    return Usage(
        total_bytes=int(stats["total_bytes"]),
        available_bytes=int(stats["total_avail_bytes"]),
        pools={int(pool["id"]): _pool_usage(pool["stats"]) for pool in answer["pools"]},
    )


def _pool_usage(stats: Any) -> PoolUsage:
    return PoolUsage(
        stored_bytes=int(stats["stored"]),
        available_bytes=int(stats["max_avail"]),
        object_count=int(stats["objects"]),
        write_count=int(stats["wr"]),
        quota_bytes=int(stats["quota_bytes"]),
        quota_objects=int(stats["quota_objects"]),
    )


def _read_option(handle: rados.Rados, key: str) -> int | None:
    command = json.dumps({"prefix": "config get", "who": "osd.0", "key": key})
    code, output, status = handle.mon_command(command, b"")
    if code < 0 or not output.strip().isdigit():
        log.debug("the default is taken for %s: %d %s", key, code, status)
        return None
    return int(output)


def _ask(handle: rados.Rados, command: dict[str, str]) -> Any:
    """`mon_command` returns errors instead of raising them."""
    text = json.dumps({**command, "format": "json"})
    try:
        code, output, status = handle.mon_command(text, b"")
    except rados.Error as failure:
        raise translation.from_binding(failure, command["prefix"]) from None
    if code < 0:
        raise translation.from_errno(code, f"{command['prefix']}: {status}")
    return json.loads(output)
