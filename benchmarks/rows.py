"""What a row of the table is: the files before it, its job, and what must be there after it.

Files that are only read live in a folder that is filled once for each peer; the other rows share
the folder `work`, emptied and filled before each turn.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.content import MIB
from benchmarks.driver import Args
from benchmarks.past import Past, VerifyError, expect_files

WORK: Final = "work"
Files = dict[str, bytes]


class Unit(enum.Enum):
    RATE = "ops/s"
    BANDWIDTH = "MiB/s"


@dataclass(frozen=True)
class FileSet:
    """What is there before the row."""

    folder: str
    make: Callable[[], Files]

    @property
    def is_kept(self) -> bool:
        return self.folder != WORK


NO_FILES: Final = FileSet(WORK, dict)
Verify = Callable[[Past, int], None]  # given the answer of the driver; raises VerifyError


@dataclass(frozen=True, kw_only=True)
class Row:
    key: str
    title: str
    amount: int  # operations, or bytes if `unit` is BANDWIDTH
    job: Args
    verify: Verify
    unit: Unit = Unit.RATE
    files: FileSet = NO_FILES
    before: Args | None = None  # a job through a mount of its own, untimed
    is_warm: bool = False  # the job runs twice on one mount, and the second time counts
    limit: Args | None = None  # the job of limits.py for it
    bench: tuple[str, int, int] | None = None  # rados bench: mode, depth, bytes an operation
    note: str = ""

    @property
    def operation_count(self) -> float:
        """Operations, or MiB: what the rate and the CPU are given by."""
        return self.amount / MIB if self.unit is Unit.BANDWIDTH else float(self.amount)

    def value(self, seconds: float) -> float:
        return self.operation_count / seconds


def expecting(answer: int) -> Verify:
    """The driver read the right bytes, or saw the right number of things."""

    def verify(_past: Past, seen: int) -> None:
        if seen != answer:
            raise VerifyError(f"the driver's answer is {seen}, not {answer}")

    return verify


def holding(make: Callable[[], Files]) -> Verify:
    """The folder holds exactly these files."""

    def verify(past: Past, _answer: int) -> None:
        expect_files(past, make())

    return verify


def holding_xattrs(key: str, values: dict[str, bytes]) -> Verify:
    def verify(past: Past, _answer: int) -> None:
        for name, value in values.items():
            if past.xattr(name, key) != value:
                raise VerifyError(f"{name} has another {key} than was set")

    return verify
