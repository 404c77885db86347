"""What the servers did: the operations that the OSDs were asked for, the round trips behind a row
whoever made them; and the CPU of all daemons.

A stat of an object that is not there is not counted by the OSD. For ceph-fuse the MDS's journal
is among them, for the S3 mounts what the gateway does.
"""

import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import cpu_clock_s
from radosmount.lab import Lab

COMMAND: Final = b'{"prefix": "perf dump", "logger": "osd"}\0'


@dataclass(frozen=True)
class ServerUse:
    reads: int = 0
    writes: int = 0
    cpu_s: float = 0.0

    def since(self, before: "ServerUse") -> "ServerUse":
        return ServerUse(
            self.reads - before.reads, self.writes - before.writes, self.cpu_s - before.cpu_s
        )


def server_use(lab: Lab) -> ServerUse:
    """Of all OSDs of the lab, the CPU of all its daemons, since they have started."""
    counters = [ask(path)["osd"] for path in (lab.directory / "run").glob("osd.*.asok")]
    return ServerUse(
        sum(counter["op_r"] for counter in counters),
        sum(counter["op_w"] + counter["op_rw"] for counter in counters),  # rw: a guarded write
        sum(cpu_clock_s(pid) for pid in lab.pids().values()),
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
