"""The plot of a result: each row's ratio to ceph-fuse, as dots on a logarithmic line."""

import importlib
from pathlib import Path
from typing import Any, Final

from benchmarks.bars import BARS, BENCH, LAZY, LIBRADOS, OWN
from benchmarks.result import BASE_PEER, Result

# Marker, colour, size: our own stand out, the limits are lines, the others stay behind.
STYLES: Final[dict[str, tuple[str, str, float]]] = {
    OWN: ("o", "#c2410c", 70.0),
    LAZY: ("o", "#fdba74", 45.0),
    "rclone": ("s", "#94a3b8", 20.0),
    "s3fs": ("^", "#94a3b8", 22.0),
    "juicefs": ("D", "#94a3b8", 16.0),
    LIBRADOS: ("|", "#0f766e", 130.0),
    BENCH: ("|", "#7dd3c8", 130.0),
}
INK: Final = "#334155"
ROW_HEIGHT_INCHES: Final = 0.34
RATIO_MIN: Final = 0.01  # what is slower stands at the edge


def draw(result: Result, path: Path) -> None:
    """Raises: ImportError without matplotlib."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "radosmount"  # the same result, the same file
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    rows = [row for row in result.rows if result.spread(row.key, BASE_PEER)]
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + ROW_HEIGHT_INCHES * len(rows)))
    for place, row in enumerate(rows):
        draw_row(axes, result, row.key, place)
    axes.axvline(1, color=INK, linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    dress(axes)
    axes.legend(
        *entries(axes), loc="lower center", bbox_to_anchor=(0.4, 1.01), ncol=4, frameon=False
    )
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def draw_row(axes: Any, result: Result, row: str, place: int) -> None:
    base = result.spread(row, BASE_PEER)
    assert base
    if place % 2 == 0:
        axes.axhspan(place - 0.5, place + 0.5, color="#f8fafc", zorder=0)
    for peer, (marker, colour, size) in STYLES.items():
        spread = result.spread(row, peer)
        if spread is None:
            continue
        ratio = max(spread.median / base.median, RATIO_MIN)
        is_own = peer in (OWN, LAZY)
        axes.scatter(ratio, place, s=size, marker=marker, color=colour, label=peer,
                     zorder=4 if is_own else 3)  # fmt: skip
        if is_own:
            ends = [spread.low / base.median, spread.high / base.median]
            axes.plot(ends, [place, place], color=colour, linewidth=2, alpha=0.5, zorder=2)
    for bar in BARS:
        if (bar.row, bar.base, bar.peer) == (row, BASE_PEER, OWN):
            axes.plot([bar.value] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=1,
                      linestyle=":", label="bar", zorder=2)  # fmt: skip


def dress(axes: Any) -> None:
    """Few lines, round numbers, and words for the two sides."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])  # noqa: RUF001
    axes.minorticks_off()
    axes.grid(axis="x", color="#e2e8f0", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    axes.set_xlabel(f"slower  ←   times {BASE_PEER}   →  faster", color=INK)


def entries(axes: Any) -> tuple[list[Any], list[str]]:
    """One entry a peer, not one a dot."""
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    order = [label for label in (*STYLES, "bar") if label in first]
    return [first[label] for label in order], order
