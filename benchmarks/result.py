"""A run's result: its samples and where they come from, as JSON, and the medians of it. Pure.

The report and the plot are made from this alone.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

BASE_PEER = "ceph-fuse"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One turn of one row on one peer. `failure` says why there is no value."""

    row: str
    peer: str
    turn: int
    value: float = 0.0  # operations or MiB a second
    seconds: float = 0.0
    operation_count: float = 0.0  # operations, or MiB
    client_cpu_s: float = 0.0
    client_kernel_s: float = 0.0  # of that
    driver_cpu_s: float = 0.0
    reply_count: int = 0
    osd_read_count: int = 0
    osd_write_count: int = 0
    server_cpu_s: float = 0.0  # of all daemons of the cluster
    failure: str = ""


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Column:
    """A row's title and unit, or a peer's name and note."""

    key: str
    title: str
    unit: str = ""
    early_rows: list[str] = field(
        default_factory=list
    )  # of a peer: where it returns before the bytes are safe


@dataclass
class Result:
    about: dict[str, str]  # machine, versions, date, seed, options
    rows: list[Column]
    peers: list[Column]
    samples: list[Sample] = field(default_factory=list)

    @property
    def turn_count(self) -> int:
        return max((sample.turn + 1 for sample in self.samples), default=0)

    def good(self, row: str, peer: str) -> list[Sample]:
        return [s for s in self.samples if (s.row, s.peer, s.failure) == (row, peer, "")]

    def failures(self, row: str, peer: str) -> list[str]:
        return [s.failure for s in self.samples if (s.row, s.peer) == (row, peer) and s.failure]

    def spread(self, row: str, peer: str) -> Spread | None:
        values = [sample.value for sample in self.good(row, peer)]
        return Spread.of(values) if values else None

    def ratio(self, row: str, peer: str, base: str) -> float | None:
        """Median of `peer` over median of `base`; None where either is missing."""
        own, other = self.spread(row, peer), self.spread(row, base)
        return own.median / other.median if own and other else None

    def duration_us(self, row: str, peer: str) -> float | None:
        """Median of the time, µs an operation."""
        used = [s.seconds / s.operation_count * 1e6 for s in self.good(row, peer)]
        return statistics.median(used) if used else None

    def cpu_us(self, row: str, peer: str) -> float | None:
        """Median of the client's CPU, µs an operation."""
        used = [s.client_cpu_s / s.operation_count * 1e6 for s in self.good(row, peer)]
        return statistics.median(used) if used else None

    def kernel_cpu_us(self, row: str, peer: str) -> float | None:
        """Median of what the client used of that in the kernel, µs an operation."""
        used = [s.client_kernel_s / s.operation_count * 1e6 for s in self.good(row, peer)]
        return statistics.median(used) if used else None

    def driver_cpu_us(self, row: str, peer: str) -> float | None:
        used = [s.driver_cpu_s / s.operation_count * 1e6 for s in self.good(row, peer)]
        return statistics.median(used) if used else None

    def server_cpu_us(self, row: str, peer: str) -> float | None:
        used = [s.server_cpu_s / s.operation_count * 1e6 for s in self.good(row, peer)]
        return statistics.median(used) if any(used) else None

    def busy_cores(self, row: str, peer: str) -> float | None:
        """Median of the CPU of all, a second: as many as there are, and nobody can be faster who
        does not make it cost less."""
        used = [
            (s.client_cpu_s + s.driver_cpu_s + s.server_cpu_s) / s.seconds
            for s in self.good(row, peer)
            if s.server_cpu_s
        ]
        return statistics.median(used) if used else None

    def request_cpu_us(self, row: str, peer: str) -> float | None:
        """Median of the client's CPU, µs a request that it answered; None if the kernel did."""
        used = [
            s.client_cpu_s / s.reply_count * 1e6
            for s in self.good(row, peer)
            if s.reply_count >= s.operation_count
        ]
        return statistics.median(used) if used else None

    def osd_operations(self, row: str, peer: str) -> tuple[float, float] | None:
        """Medians of what the OSDs were asked for an operation: reads, writes."""
        good = [s for s in self.good(row, peer) if s.osd_read_count + s.osd_write_count]
        if not good:
            return None
        return (
            statistics.median(s.osd_read_count / s.operation_count for s in good),
            statistics.median(s.osd_write_count / s.operation_count for s in good),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        return cls(
            raw["about"],
            [Column(**column) for column in raw["rows"]],
            [Column(**column) for column in raw["peers"]],
            [Sample(**sample) for sample in raw["samples"]],
        )
