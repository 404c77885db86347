"""Runs rows on peers, interleaved: every turn visits every row, every row every peer.

Cold means: a fresh mount, its disk caches gone, the page cache dropped, the OSDs warm (whoever
reads a row's files for the first time reads them once before, untimed).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.measure import JOB_TIMEOUT_S, TooSlow, UseOfServers, run_job
from benchmarks.past import VerifyError
from benchmarks.peers.interface import Peer
from benchmarks.peers.limit import RadosBench
from benchmarks.processes import PeerError
from benchmarks.result import Sample
from benchmarks.rows import Row, Unit
from radosmount.errors import MountError

DROP_PAGE_CACHE: Final = "1\n"  # proc(5), drop_caches; dentries go with the mount
T = TypeVar("T")
Progress = Callable[[str], None]


class Runner:
    def __init__(
        self,
        peers: Sequence[Peer],
        bench: RadosBench | None,
        servers: UseOfServers,
        progress: Progress,
    ) -> None:
        self._peers = peers
        self._bench = bench
        self._servers = servers
        self._progress = progress
        self._made: set[str] = set()
        self._filled: set[str] = set()
        self._warmed: set[tuple[str, str]] = set()

    def run(
        self, rows: Sequence[Row], turns: int, keep: Callable[[Sample], None], turns_before: int = 0
    ) -> None:
        """`keep` gets every sample as soon as it is there."""
        turns += turns_before
        for turn in range(turns_before, turns):
            for number, row in enumerate(rows, start=1):
                self._progress(f"turn {turn + 1}/{turns}, row {number}/{len(rows)}: {row.title}")
                for peer in rotated(self._peers, turn + number):
                    if self._does(peer, row, turn):
                        keep(self._say(row, self._sample(row, peer, turn)))
                if self._bench and row.bench:
                    keep(self._say(row, self._bench_sample(self._bench, row, turn)))

    def _does(self, peer: Peer, row: Row, turn: int) -> bool:
        if peer.turns_max is not None and turn >= peer.turns_max:
            return False
        if row.key in peer.without or (peer.only and row.key not in peer.only):
            return False
        return peer.name != "librados" or row.limit is not None

    def _say(self, row: Row, sample: Sample) -> Sample:
        said = sample.failure or (
            f"{sample.value:10.1f} {row.unit.value:6}"
            f" {sample.client_cpu_s / sample.operation_count * 1e6:9.1f} µs CPU"
        )
        self._progress(f"    {sample.peer:18} {said}")
        return sample

    def _sample(self, row: Row, peer: Peer, turn: int) -> Sample:
        """One turn. A peer that fails does not end the run."""
        try:
            return self._measure(row, peer, turn)
        except TooSlow:
            rate = row.value(JOB_TIMEOUT_S)
            text = f"slower than {rate:.3g} {row.unit.value} (stopped after {JOB_TIMEOUT_S:.0f} s)"
            return Sample(row=row.key, peer=peer.name, turn=turn, failure=text)
        except (PeerError, VerifyError, MountError, OSError) as failure:
            text = " ".join(str(failure).split()) or repr(failure)
            return Sample(row=row.key, peer=peer.name, turn=turn, failure=text)

    def _measure(self, row: Row, peer: Peer, turn: int) -> Sample:
        self._fill(row, peer)
        before = row.before
        if row.files.is_kept and (peer.name, row.key) not in self._warmed:
            before = row.job
            self._warmed.add((peer.name, row.key))
        if before and peer.name != "librados":
            with peer.mount(row.files.folder) as place:
                run_job(place, before)
                place.settle()
        drop_page_cache()
        with peer.mount(row.files.folder) as place:
            if row.is_warm:
                run_job(place, row.job)
            job = row.limit if peer.name == "librados" and row.limit else row.job
            report = run_job(place, job, self._servers)
            place.settle()
        if peer.name != "librados":
            with peer.past(row.files.folder) as past:
                row.verify(past, report["answer"])
        return sample_of(row, peer.name, turn, report)

    def _fill(self, row: Row, peer: Peer) -> None:
        """Bring the folder to what the row begins with."""
        folder = row.files.folder
        home = peer.home(folder)
        if home in self._filled:
            return
        if home not in self._made:
            peer.make(folder)
            self._made.add(home)
        with peer.past(folder) as past:
            past.clear()
            past.put(row.files.make())
        if row.files.is_kept:
            self._filled.add(home)

    def _bench_sample(self, bench: RadosBench, row: Row, turn: int) -> Sample:
        assert row.bench
        mode, depth, size = row.bench
        try:
            count, seconds, cpu_s = bench.measure(mode, depth, size)
        except PeerError as failure:
            return Sample(row=row.key, peer=bench.name, turn=turn, failure=str(failure))
        amount = count * size / 2**20 if row.unit is Unit.BANDWIDTH else float(count)
        return Sample(
            row=row.key,
            peer=bench.name,
            turn=turn,
            value=amount / seconds,
            seconds=seconds,
            operation_count=amount,
            client_cpu_s=cpu_s,
        )


def rotated(peers: Sequence[T], by: int) -> list[T]:
    """Each turn begins with another peer, so that none always follows the same one."""
    start = by % len(peers)
    return [*peers[start:], *peers[:start]]


def drop_page_cache() -> None:
    Path("/proc/sys/vm/drop_caches").write_text(DROP_PAGE_CACHE)


def sample_of(row: Row, peer: str, turn: int, report: dict[str, Any]) -> Sample:
    return Sample(
        row=row.key,
        peer=peer,
        turn=turn,
        value=row.value(report["seconds"]),
        seconds=report["seconds"],
        operation_count=row.operation_count,
        client_cpu_s=report["client_cpu_s"] or report["cpu_s"],
        client_kernel_s=report["client_kernel_s"],
        driver_cpu_s=report["cpu_s"] if report["client_cpu_s"] else 0.0,
        reply_count=report["replies"],
        osd_read_count=report["reads"],
        osd_write_count=report["writes"],
        server_cpu_s=report["server_cpu_s"],
    )
