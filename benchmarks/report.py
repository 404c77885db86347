"""The report of a result: performance.md, and the plot beside it. Never written by hand."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.bars import BARS, BENCH, BOUNDS, LIBRADOS, Bar, Verdict
from benchmarks.plot import draw
from benchmarks.result import BASE_PEER, Column, Result, Spread

EARLY: Final = "†"  # after a value: the call returned before the bytes were safe
NOTHING: Final = "·"
HEAD: Final = """\
# Performance

Written by `scripts/benchmark`; do not edit. {bars_met} of {bars_known} bars are met.

![radosmount and others beside ceph-fuse](performance.svg)

Every row runs on every peer in turn, on one private Ceph, with default options; the tables give
medians. *Cold* is a fresh mount with its caches gone, the page cache dropped and the OSDs warm.
After each row the bytes are verified past the mount. `librados` makes the same round trips by
plain calls of the Python binding, in a row: a file system that reaches it adds nothing.
"""
BARS_NOTE: Final = """\
*Round trips alone*: what a row under its bar would reach if each of its round trips, one after the
other, took what it takes librados, and nothing else took any time.
"""
SHARES_NOTE: Final = """\
µs an operation or MiB. Where librados's time and the client's CPU make up the time, nothing waits
that could be sent at once: what is left is the CPU. Where as many cores are busy as there are, it
is everyone's.
"""

Cell = Callable[[Column, Column], str]


def rounded(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Of Markdown; the first column to the left, the others to the right."""
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def grid(result: Result, peers: Sequence[Column], cell: Cell) -> str:
    """Rows by peers; a row without any value is left out."""
    lines = []
    for row in result.rows:
        cells = [cell(row, peer) for peer in peers]
        if set(cells) != {NOTHING}:
            lines.append([f"{row.title}, {row.unit}", *cells])
    return table(["", *(peer.key for peer in peers)], lines)


def spread_text(spread: Spread) -> str:
    if spread.count == 1:
        return rounded(spread.median)
    return f"{rounded(spread.median)} <sub>{rounded(spread.low)}..{rounded(spread.high)}</sub>"


def failure_text(found: Sequence[str]) -> str:
    if not found:
        return NOTHING
    slower = found[0].startswith("slower than ")
    return "< " + found[0].split()[2] if slower else "failed"


def rates(result: Result) -> str:
    def cell(row: Column, peer: Column) -> str:
        spread = result.spread(row.key, peer.key)
        if spread is None:
            return failure_text(result.failures(row.key, peer.key))
        return spread_text(spread) + (f" {EARLY}" if row.key in peer.early_rows else "")

    return grid(result, result.peers, cell)


def ratios(result: Result, base: str) -> str:
    def cell(row: Column, peer: Column) -> str:
        ratio = result.ratio(row.key, peer.key, base)
        return NOTHING if ratio is None else rounded(ratio)

    return grid(result, [peer for peer in result.peers if peer.key != base], cell)


def cpu(result: Result) -> str:
    def cell(row: Column, peer: Column) -> str:
        client, driver = result.cpu_us(row.key, peer.key), result.driver_cpu_us(row.key, peer.key)
        if client is None or driver is None:
            return NOTHING
        return f"{rounded(client)} + {rounded(driver)}" if driver else rounded(client)

    return grid(result, result.peers, cell)


def round_trips(result: Result) -> str:
    def cell(row: Column, peer: Column) -> str:
        found = result.osd_operations(row.key, peer.key)
        return f"{found[0]:.2f} + {found[1]:.2f}" if found else NOTHING

    return grid(result, result.peers, cell)


def bars(result: Result) -> str:
    titles = {row.key: row.title for row in result.rows}
    lines = [bar_line(result, bar, titles[bar.row]) for bar in BARS if bar.row in titles]
    heads = ["", "who", "at least", "reached", "", "round trips alone", "what bounds it"]
    return table(heads, lines) + "\n" + BARS_NOTE


def shares(result: Result) -> str:
    """Of the rows that are under a bar, and of what they are compared with."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in result.rows:
        missed = [b for b in BARS if b.row == row.key and b.verdict(result) is Verdict.NOT_MET]
        for peer in [peer for bar in missed for peer in (bar.peer, bar.base, LIBRADOS)]:
            parts = (
                result.duration_us(row.key, peer),
                result.cpu_us(row.key, peer),
                result.kernel_cpu_us(row.key, peer),
                result.driver_cpu_us(row.key, peer),
                result.server_cpu_us(row.key, peer),
                result.busy_cores(row.key, peer),
            )
            if any(parts):
                cells = [rounded(value) if value else NOTHING for value in parts]
                lines[row.key, peer] = [row.title, peer, *cells]
    heads = ("takes", "CPU: client", "of it in the kernel", "program", "servers", "cores busy")
    return table(["", "who", *heads], list(lines.values()))


def bar_line(result: Result, bar: Bar, title: str) -> list[str]:
    reached, verdict = bar.reached(result), bar.verdict(result)
    is_missed = verdict is Verdict.NOT_MET
    bound = BOUNDS.get(bar.row, "") if is_missed else ""
    ceiling = bar.ceiling(result) if is_missed else None
    value, alone = (NOTHING if x is None else rounded(x) for x in (reached, ceiling))
    return [title, bar.peer, bar.text, value, verdict.value, alone, bound]


def failures(result: Result) -> str:
    lines = [
        f"- {row.title}, {peer.key}: {len(found)} of"
        f" {len(found) + len(result.good(row.key, peer.key))} turns: {found[0]}"
        for row in result.rows
        for peer in result.peers
        if (found := result.failures(row.key, peer.key))
    ]
    return "\n".join(lines) + "\n" if lines else "None.\n"


def report(result: Result) -> str:
    keys = {row.key for row in result.rows}
    verdicts = [bar.verdict(result) for bar in BARS if bar.row in keys]
    known = [verdict for verdict in verdicts if verdict is not Verdict.UNKNOWN]
    sections = [
        HEAD.format(bars_met=known.count(Verdict.MET), bars_known=len(known)),
        "## The bars\n\n" + bars(result),
        f"## Where the time of those goes that are under a bar\n\n{shares(result)}\n{SHARES_NOTE}",
        f"## Rates: median, and lowest..highest turn\n\n{rates(result)}\n"
        f"{EARLY} returns before the bytes are acknowledged by the servers that keep them.\n",
        f"## Times {BASE_PEER}\n\n" + ratios(result, BASE_PEER),
        f"## Times {LIBRADOS}\n\n" + ratios(result, LIBRADOS),
        f"## Times {BENCH}\n\n" + ratios(result, BENCH),
        "## CPU of the client + of the program, µs an operation or MiB\n\n" + cpu(result),
        "## Reads + writes that the OSDs were asked for, an operation or MiB\n\n"
        + round_trips(result)
        + "\nOf the MDS and the gateway too. Look-ups of what is not there are not counted.\n",
        "## What each promises\n\n"
        + "\n".join(f"- **{peer.key}**: {peer.title}." for peer in result.peers)
        + "\n",
        "## What failed\n\n" + failures(result),
        "## Where\n\n" + "\n".join(f"- {key}: {value}" for key, value in result.about.items()),
    ]
    return "\n".join(sections) + "\n"


def write_report(result: Result, directory: Path) -> None:
    (directory / "performance.md").write_text(report(result))
    try:
        draw(result, directory / "performance.svg")
    except ImportError as failure:
        print(f"no plot: {failure} (scripts/benchmark installs it)", file=sys.stderr)
