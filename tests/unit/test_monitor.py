"""What is made of a monitor's answers, with words in place of a monitor."""

import json
from typing import cast

import pytest
import rados

from radosmount.errors import StoreFailure
from radosmount.store.rados.monitor import read_usage

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
