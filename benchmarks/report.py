"""The report of a result: docs/performance.md, and the plot beside it. Never written by hand."""

from pathlib import Path

from benchmarks.result import BASE_PEER, Result


def cell(result: Result, row: str, peer: str) -> str:
    spread = result.spread(row, peer)
    if not spread:
        failures = result.failures(row, peer)
        return f"failed: {failures[0][:60]}" if failures else "-"
    text = f"{spread.median:.4g}"
    if (ratio := result.ratio(row, peer, BASE_PEER)) is not None and peer != BASE_PEER:
        text += f" ({ratio:.2f})"
    cpu = result.cpu_us(row, peer)
    return f"{text}<br>{spread.low:.4g}..{spread.high:.4g}, {cpu:.0f} µs"


def report(result: Result) -> str:
    lines = ["| row | unit | " + " | ".join(peer.key for peer in result.peers) + " |"]
    lines.append("|---" * (len(result.peers) + 2) + "|")
    for row in result.rows:
        cells = [cell(result, row.key, peer.key) for peer in result.peers]
        lines.append(f"| {row.title} | {row.unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_report(result: Result, directory: Path) -> None:
    (directory / "performance.md").write_text(report(result))
