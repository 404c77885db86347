"""One command: a lab, the peers on it, all rows, and what comes of it.

scripts/benchmark [--quick] [--only ROWS] [--peers PEERS] [--turns N] [--out FOLDER]
scripts/benchmark --resume FILE ...       (more turns, perhaps of some peers, on a lab of their own)
python -m benchmarks --report FILE        (write report and plot of an earlier result again)
"""

import argparse
import functools
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.machine import about_this_run
from benchmarks.osds import server_use
from benchmarks.peers.catalogue import PEER_NAMES, make_peers
from benchmarks.peers.interface import ROOT, Peer, Site
from benchmarks.peers.limit import RadosBench
from benchmarks.processes import PeerError
from benchmarks.programs import Sources, program_rows
from benchmarks.report import write_report
from benchmarks.result import Column, Result, Sample
from benchmarks.rows import Row
from benchmarks.runner import Runner
from benchmarks.workloads import FULL, QUICK, rows_of
from radosmount.errors import MountError
from radosmount.lab import Lab

TURNS: Final = 5
QUICK_TURNS: Final = 1
DOCS: Final = ROOT / "docs"
NAME: Final = "performance"
BEGAN_S: Final = time.monotonic()


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--only", default="", metavar="ROW,ROW", help="only these rows")
    parser.add_argument("--peers", default="", metavar="PEER,PEER", help=", ".join(PEER_NAMES))
    parser.add_argument("--turns", type=int, help=f"default {TURNS}; with --quick {QUICK_TURNS}")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work?")
    parser.add_argument("--osds", type=int, default=1, help="of the lab (default 1)")
    parser.add_argument("--seed", default="", help="of all content (default: a new one)")
    parser.add_argument("--out", type=Path, help="folder for what comes of it")
    parser.add_argument("--report", type=Path, metavar="FILE", help="make the report of FILE again")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="add turns to an earlier result"
    )
    parser.add_argument("--publish", action="store_true", help="a full run: write into docs/ too")
    parser.add_argument("--list", action="store_true", help="list the rows")
    return parser.parse_args(words)


def say(line: str) -> None:
    print(f"{time.monotonic() - BEGAN_S:7.1f} s  {line}", file=sys.stderr, flush=True)


def chosen(rows: Sequence[Row], only: str) -> list[Row]:
    """Raises: SystemExit for an unknown name."""
    keys = [key for key in only.split(",") if key]
    if unknown := sorted(set(keys) - {row.key for row in rows}):
        raise SystemExit(f"no such rows: {', '.join(unknown)}; --list shows them")
    return [row for row in rows if not keys or row.key in keys]


def prepared(peers: Sequence[Peer]) -> list[Peer]:
    """Those that start. A peer that cannot be had is left out, and said."""
    ready = []
    for peer in peers:
        try:
            say(f"preparing {peer.name}")
            peer.prepare()
            ready.append(peer)
        except (PeerError, MountError) as failure:
            say(f"left out: {peer.name}: {failure}")
    return ready


def run(arguments: argparse.Namespace, directory: Path) -> Result:
    scale = QUICK if arguments.quick else FULL
    seed = arguments.seed or secrets.token_hex(4)
    with Sources(scale, seed) as sources:
        rows = chosen([*rows_of(scale, seed), *program_rows(scale, sources)], arguments.only)
        if arguments.list:
            raise SystemExit("\n".join(f"{row.key:14} {row.title}" for row in rows))
        with Lab(directory / "lab", arguments.osds, progress=say) as lab:
            return run_on(Site(lab, directory), rows, arguments, seed)


def run_on(site: Site, rows: Sequence[Row], arguments: argparse.Namespace, seed: str) -> Result:
    """Samples are saved one by one: an interrupted run leaves what it has."""
    wanted = arguments.peers.split(",") if arguments.peers else list(PEER_NAMES)
    if unknown := sorted(set(wanted) - set(PEER_NAMES)):
        raise SystemExit(f"no such peers: {', '.join(unknown)}")
    peers = prepared([peer for peer in make_peers(site) if peer.name in wanted])
    bench = RadosBench(site) if "rados bench" in wanted else None
    if bench:
        bench.prepare()
    columns = [Column(peer.name, peer.note, early_rows=sorted(peer.early)) for peer in peers]
    columns += [Column(bench.name, bench.note)] if bench else []
    titles = [Column(row.key, row.title, row.unit.value) for row in rows]
    result = Result(about_this_run(arguments, seed), titles, columns)
    if arguments.resume:
        result = resumed(Result.from_json(arguments.resume.read_text()), result)

    def keep(sample: Sample) -> None:
        result.samples.append(sample)
        (arguments.out / f"{NAME}.json").write_text(result.to_json())

    servers = functools.partial(server_use, site.lab)
    turns = arguments.turns or (QUICK_TURNS if arguments.quick else TURNS)
    Runner(peers, bench, servers, say).run(rows, turns, keep, result.turn_count)
    return result


def resumed(earlier: Result, now: Result) -> Result:
    """`earlier`, to be gone on with, and saying so. Raises: SystemExit for rows it has not."""
    if {row.key for row in now.rows} - {row.key for row in earlier.rows}:
        raise SystemExit("the earlier result has not all of these rows")
    went_on = f"{now.about['date']} with {now.about['radosmount']}"
    earlier.about["resumed"] = "; ".join(filter(None, (earlier.about.get("resumed"), went_on)))
    return earlier


def publish(result: Result) -> None:
    """Into docs/. Only a full run may: half a table, or a quick one, would mislead."""
    (DOCS / f"{NAME}.json").write_text(result.to_json())
    write_report(result, DOCS)
    say(f"published in {DOCS}")


def measure(arguments: argparse.Namespace) -> Result:
    if arguments.publish and (arguments.quick or arguments.only or arguments.peers):
        raise SystemExit("only a full run may be published: no --quick, --only, --peers")
    arguments.out = arguments.out or Path(tempfile.mkdtemp(prefix="radosmount-result-"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    directory = Path(tempfile.mkdtemp(prefix="rmb-"))  # short: it holds Ceph's sockets
    try:
        return run(arguments, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(sys.argv[1:] if words is None else words)
    if arguments.report:
        result = Result.from_json(arguments.report.read_text())
        arguments.out = arguments.out or arguments.report.parent
    else:
        result = measure(arguments)
    write_report(result, arguments.out)
    say(f"{arguments.out}: {NAME}.json, {NAME}.md, {NAME}.svg")
    if arguments.publish:
        publish(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
