"""What is made of a monitor's answers, with words in place of a monitor."""

import json
from typing import cast

import pytest
import rados

from radosmount.errors import StoreFailure
from radosmount.store.rados.monitor import POOLS_FRESHNESS_S, Osdmap, read_usage

STATS = {
    "stored": 1,
    "max_avail": 2,
    "objects": 3,
    "wr": 4,
    "quota_bytes": 5,
    "quota_objects": 6,
}
DF = {
    "stats": {"total_bytes": 100, "total_avail_bytes": 50},
    "pools": [{"name": "p", "id": 7, "stats": STATS}],
}


class Monitor:
    """A handle that says the same to every command."""

    def __init__(self, output: bytes) -> None:
        self._output = output

    def mon_command(self, command: str, input_data: bytes) -> tuple[int, bytes, str]:
        return 0, self._output, ""


def handle(answer: object) -> rados.Rados:
    output = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return cast(rados.Rados, Monitor(output))


def test_usage() -> None:
    usage = read_usage(handle(DF))
    assert (usage.total_bytes, usage.available_bytes) == (100, 50)
    assert usage.pools[7].stored_bytes == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not JSON",
        b"\xff",
        b"null",
        [],
        {},
        {**DF, "stats": {"total_bytes": 100}},
        {**DF, "stats": {"total_bytes": 100, "total_avail_bytes": None}},
        {**DF, "pools": None},
        {**DF, "pools": [{"id": 7}]},
        {**DF, "pools": [{"id": 7, "stats": {**STATS, "wr": None}}]},
        {**DF, "pools": [{"id": 7, "stats": {"stored": 1}}]},
    ],
)
def test_an_answer_that_is_none(answer: object) -> None:
    """An answer to df that is not what it should be is a failure like any other of RADOS."""
    with pytest.raises(StoreFailure, match="df"):
        read_usage(handle(answer))


class Names:
    """A handle that knows pools by their names, and counts how often it is asked for all."""

    def __init__(self) -> None:
        self.names = ["one"]
        self.count = 0

    def list_pools(self) -> list[str]:
        self.count += 1
        return list(self.names)

    def pool_lookup(self, name: str) -> int:
        return len(name)

    def open_ioctx(self, name: str) -> "Names":
        return self

    def application_list(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def test_pools_are_asked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each change of a file; at once where someone wants to know what is new."""
    now_s = 0.0
    monkeypatch.setattr("radosmount.store.rados.monitor.time.monotonic", lambda: now_s)
    names = Names()
    osdmap = Osdmap(cast(rados.Rados, names), lambda: None)

    def shown() -> list[bytes]:
        return [pool.name for pool in osdmap.pools()]

    assert shown() == shown() == [b"one"]
    assert names.count == 1
    names.names.append("three")
    now_s += 0.99 * POOLS_FRESHNESS_S
    assert shown() == [b"one"]
    now_s += 0.02 * POOLS_FRESHNESS_S
    assert shown() == [b"one", b"three"]
    names.names.append("fifth")
    osdmap.forget_pools()
    assert shown() == [b"one", b"three", b"fifth"]
