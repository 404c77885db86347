"""The bars: what each row of radosmount must reach at least (issue 3). Pure.

They are floors. `BOUNDS` says, for a row that is under its bar, what was found to hold it back.
"""

import enum
from dataclasses import dataclass
from typing import Final

from benchmarks.result import BASE_PEER, Result

OWN: Final = "radosmount"
LAZY: Final = "radosmount lazy"
LIBRADOS: Final = "librados"
BENCH: Final = "rados bench"
REQUEST_CPU: Final = "µs CPU a request"


class Verdict(enum.Enum):
    MET = "met"
    NOT_MET = "**not met**"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Bar:
    """`row` of `peer` is at least `value` times `base`; or at most `value`, if CPU a request."""

    row: str
    base: str
    value: float
    peer: str = OWN

    @property
    def text(self) -> str:
        if self.base == REQUEST_CPU:
            return f"at most {self.value:g} {REQUEST_CPU}"
        return f"{self.value:g} of {self.base}"

    def reached(self, result: Result) -> float | None:
        if self.base == REQUEST_CPU:
            return result.request_cpu_us(self.row, self.peer)
        return result.ratio(self.row, self.peer, self.base)

    def ceiling(self, result: Result) -> float | None:
        """What the row would reach if nothing took any time but its round trips, and each of them
        what it takes librados."""
        counts = ROUND_TRIPS.get((self.row, self.peer))
        read_us, write_us = (result.duration_us(row, LIBRADOS) for row in (ONE_READ, ONE_WRITE))
        base_us = result.duration_us(self.row, self.base)
        if counts is None or read_us is None or write_us is None or base_us is None:
            return None
        return base_us / (counts[0] * read_us + counts[1] * write_us)

    def verdict(self, result: Result) -> Verdict:
        reached = self.reached(result)
        if reached is None:
            return Verdict.UNKNOWN
        is_met = reached <= self.value if self.base == REQUEST_CPU else reached >= self.value
        return Verdict.MET if is_met else Verdict.NOT_MET


BARS: Final = (
    Bar("read-cold", BASE_PEER, 1.6),
    Bar("read-cold", BENCH, 0.5),
    Bar("write", BASE_PEER, 1.2),
    Bar("write", BENCH, 0.4),
    Bar("random-1", BASE_PEER, 0.7),
    Bar("random-8", BASE_PEER, 0.7),
    Bar("overwrite", BASE_PEER, 2.0),
    Bar("create-1", LIBRADOS, 0.75),
    Bar("create-8", BASE_PEER, 1.2),
    Bar("create-1", BASE_PEER, 1.2, LAZY),
    Bar("create-8", BASE_PEER, 1.2, LAZY),
    Bar("ls", BASE_PEER, 0.3),
    Bar("ls-many", BASE_PEER, 0.3),
    Bar("ls-l", BASE_PEER, 1.6),
    Bar("ls-l-many", BASE_PEER, 1.6),
    Bar("small-1", BASE_PEER, 1.3),
    Bar("small-8", BASE_PEER, 1.2),
    Bar("xattr-set", LIBRADOS, 0.85),
    Bar("xattr-get", BASE_PEER, 0.6),
    Bar("append", BASE_PEER, 1.5),
    Bar("replace", BASE_PEER, 1.3),
    Bar("unlink", LIBRADOS, 0.85),
    Bar("unlink", BASE_PEER, 0.8, LAZY),
    Bar("getattr", REQUEST_CPU, 6.0),
)

# Rows of librados that are one read, and one acknowledged write, at a time.
ONE_READ: Final = "random-1"
ONE_WRITE: Final = "xattr-set"
# Row and peer: reads (look-ups) and acknowledged writes, each sent when the one before it has been
# answered. Of create-8 those under the directory's lock, which are one file's at a time.
ROUND_TRIPS: Final = {
    ("create-1", OWN): (1, 2),
    ("create-8", OWN): (1, 1),
    ("create-1", LAZY): (1, 1),
    ("create-8", LAZY): (1, 1),
    ("xattr-set", OWN): (0, 1),
    ("append", OWN): (0, 1),
    ("unlink", OWN): (0, 1),
    ("unlink", LAZY): (0, 1),
    ("replace", OWN): (1, 4),
}

# Row: what a profile, or the count of round trips against the cluster's own latency, has shown.
BOUNDS: Final[dict[str, str]] = {
    "read-cold": "A file is one object, of one placement group, whose reads the OSD serves one"
    " after the other (a trace of the scheduler shows one of its threads at a time); ceph-fuse's"
    " file is of many. The client's copies and the program's, on the same cores, come in between.",
    "write": "The cluster: `rados bench` with four writes under way, beside. Up to `atomic_max`"
    " nothing is sent, since it may be all; then four operations are under way, but for the short"
    " one with the guard that each flush begins with.",
    "create-1": "The round trips are librados's (a stat, an exclusive create, a write_full; beside"
    " the stat one of a directory of that name), but each answer comes by a callback, one thread"
    " further than that of a plain call. The rest is CPU of our Python between an answer and the"
    " next request to RADOS, a multiple of what the same calls take in a loop: under Where is what"
    " a sleep of 1 ms, as in each round trip, does to them on this machine. With flush=lazy:"
    " open(2) with O_EXCL has two of the round trips, in a row, where ceph-fuse's MDS answers from"
    " memory.",
    "create-8": "The kernel holds the directory's lock over open(2) with O_CREAT: a stat and an"
    " exclusive create in a row, for one file at a time, however many threads ask.",
    "append": "One round trip, as in librados's row, and two requests. The rest is CPU after a"
    " sleep, as of a create.",
    "xattr-set": "One round trip, as in librados's row, and one request, whose two sides wake each"
    " other. The rest is CPU after a sleep, as of a create.",
    "replace": "The acknowledged writes of librados's row, and the look-up of the target that"
    " rename(2) begins with, each after the one before; ceph-fuse renames in its MDS. Those of what"
    " the thread has just stored and removed cost a round trip only where they come late. The rest"
    " is CPU after a sleep, as of a create.",
    "unlink": "One round trip, as in librados's row, and one request, whose two sides wake each"
    " other. The rest is CPU after a sleep, as of a create. The kernel keeps a listed name for a"
    " second: those that are reached later are looked up again, without a round trip.",
    "getattr": "The kernel's part of it, in the table below, is read(2) and write(2) of"
    " the device; a profile has half of that in waking the caller.",
}
