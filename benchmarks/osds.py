"""How many operations the OSDs were asked for: the round trips behind a row, whoever made them.

A stat of an object that is not there is not counted by the OSD. For ceph-fuse the MDS's journal
is among them, for the S3 mounts what the gateway does.
"""

import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

COMMAND: Final = b'{"prefix": "perf dump", "logger": "osd"}\0'


@dataclass(frozen=True)
class OperationCount:
    reads: int
    writes: int

    def since(self, before: "OperationCount") -> "OperationCount":
        return OperationCount(self.reads - before.reads, self.writes - before.writes)


def operation_count(lab_directory: Path) -> OperationCount:
    """Of all OSDs of the lab since they have started."""
    counters = [ask(path)["osd"] for path in (lab_directory / "run").glob("osd.*.asok")]
    return OperationCount(
        sum(counter["op_r"] for counter in counters),
        sum(counter["op_w"] + counter["op_rw"] for counter in counters),  # rw: a guarded write
    )


def ask(socket_path: Path) -> dict[str, Any]:
    """One command of a daemon's admin socket: the length of the answer comes first."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(socket_path))
        connection.sendall(COMMAND)
        with connection.makefile("rb") as answer:
            (size,) = struct.unpack(">I", answer.read(4))
            found: dict[str, Any] = json.loads(answer.read(size))
            return found
