"""What a listing of very many names must reach, and the report of a run. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from benchmarks.bars import Verdict
from benchmarks.report import NOTHING, rounded, spread_text, table
from benchmarks.result import Spread


@dataclass(frozen=True)
class Figure:
    """`bar`: what the median must be at most, or at least; None: shown beside the others."""

    title: str
    unit: str
    bar: float | None = None
    is_floor: bool = False

    @property
    def bar_text(self) -> str:
        if self.bar is None:
            return ""
        return f"at {'least' if self.is_floor else 'most'} {self.bar:,g}"

    def verdict(self, spread: Spread | None) -> str:
        if self.bar is None:
            return ""
        if spread is None:
            return Verdict.UNKNOWN.value
        is_met = spread.median >= self.bar if self.is_floor else spread.median <= self.bar
        return Verdict.MET.value if is_met else Verdict.NOT_MET.value


READ: Final = "4 KiB read of a cold file, 99th percentile"
FIGURES: Final[dict[str, Figure]] = {
    "rados": Figure("`rados ls` of all", "names/s"),
    "flat": Figure("`ls -f` of all, names=flat", "times rados ls", 2.0),
    "tree": Figure("first `ls -f` of the top, names=tree", "times rados ls", 2.0),
    "memory": Figure("memory of the index", "B a name", 200),
    "memory-peak": Figure("the same, at most while it is made", "B a name", 200),
    "memory-again": Figure("the same, at most while it is made anew", "B a name", 200),
    "stat": Figure("stat of a name, cold", "times that in a pool of 10", 1.1),
    "stat-us": Figure("stat of a name, cold", "µs"),
    "stat-rados": Figure("rados_stat of a name", "times that in a pool of 10"),
    "missing": Figure("stat of a missing name", "times that in a pool of 10", 1.1),
    "missing-us": Figure("stat of a missing name", "µs"),
    "few": Figure("second `ls -f` of 100 names", "ms", 20),
    "few-readdir": Figure("second readdir(3) of 100 names", "ms", 20),
    "many": Figure("`ls -l` of a tenth of all", "names/s", 10_000, is_floor=True),
    "read": Figure(f"{READ}, nothing else", "ms"),
    "read-flat": Figure(f"{READ}, during `ls -f` of all, names=flat", "ms", 50),
    "read-tree": Figure(f"{READ}, while the index is made", "ms", 50),
    "read-again": Figure(f"{READ}, while the index is made anew", "ms", 50),
    "read-many": Figure(f"{READ}, during `ls -l` of a tenth of all", "ms", 50),
}

HEAD: Final = """\
# Listing {names:,} names

Written by `python -m benchmarks.listing`; do not edit. {met} of {known} bars are met.

A pool of {names:,} objects: 100 of them in `few/`, a tenth in `many/`, the others in directories
of 1000. Medians of the turns, and lowest..highest. *Cold* is a fresh mount, the page cache
dropped, the OSD warm, each name asked for once. Times `rados ls`: of `rados ls | wc -l` in the
same turn. The second listing comes when the first is too old to answer it. Files that are read
meanwhile are in another pool of the same mount, each opened anew.
"""


@dataclass
class ListingResult:
    about: dict[str, str]
    name_count: int
    samples: dict[str, list[float]] = field(default_factory=dict)  # by figure, one a turn

    def add(self, key: str, value: float) -> None:
        assert key in FIGURES
        self.samples.setdefault(key, []).append(value)

    def spread(self, key: str) -> Spread | None:
        values = self.samples.get(key)
        return Spread.of(values) if values else None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        return cls(**raw)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def report(result: ListingResult) -> str:
    lines, verdicts = [], []
    for key, figure in FIGURES.items():
        spread = result.spread(key)
        verdicts.append(figure.verdict(spread))
        reached = spread_text(spread) if spread else NOTHING
        lines.append([figure.title, figure.bar_text, reached, figure.unit, verdicts[-1]])
    met = verdicts.count(Verdict.MET.value)
    known = met + verdicts.count(Verdict.NOT_MET.value)
    sections = [
        HEAD.format(names=result.name_count, met=met, known=known),
        table(["", "bar", "reached", "", ""], lines),
        "## Where\n\n" + "\n".join(f"- {key}: {value}" for key, value in result.about.items()),
    ]
    return "\n".join(sections) + "\n"


def sample_text(key: str, value: float) -> str:
    figure = FIGURES[key]
    return f"{figure.title}: {rounded(value)} {figure.unit}"
