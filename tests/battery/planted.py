"""The battery itself, tested: bugs that a row has to catch.

Each bug is one text of the package put in place of another, in a copy. Its row must fail there, in
its short form, by one of a few seeds, and must pass where nothing is planted (as it does with the
tests).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import radosmount
from tests.battery.row import Arena, Row, RowFailed

ROOT = Path(radosmount.__file__).parent.parent
ROW_LIMIT_S = 900
TRY_COUNT = 3  # a short form need not come by everything that a long one does


@dataclass(frozen=True)
class Bug:
    """`what` is what a developer would have forgotten. `row` catches it."""

    row: str
    what: str
    file: str
    text: str
    planted: str


BUGS = (
    Bug(
        "behind",
        "a flush does not assert the version that it goes by",
        "cache/plan.py",
        "return Existence.ABSENT if flight.is_new else AtVersion(flight.base.version)",
        "return Existence.ANY",
    ),
    Bug(
        "behind",
        "fstat of an open file is never asked for again",
        "vfs/objects.py",
        "return is_known or switching.current_time() - file.heard_s < OPEN_FRESHNESS_S",
        "return True",
    ),
    Bug(
        "behind",
        "an open does not drop the kernel's pages of an older version",
        "vfs/openfiles.py",
        "keeps_pages = node.dropped_count == node.stale_count",
        "keeps_pages = True",
    ),
    Bug(
        "appends",
        "an operation whose reply was lost is not remembered",
        "cache/file.py",
        "self.attempts.append(attempt)",
        "pass",
    ),
    Bug(
        "mounts-appends",
        "an append is not put behind those of others, but over them",
        "cache/file.py",
        "delta = base.size - start",
        "delta = 0",
    ),
    Bug(
        "full",
        "bytes whose flush has failed are forgotten",
        "cache/file.py",
        "changes.absorb(self._dirty)\n        self._dirty = changes",
        "changes = self._dirty",
    ),
    Bug(
        "cut-off",
        "a client that was cut off does not connect anew",
        "store/rados/lasting.py",
        "trio.lowlevel.spawn_system_task(self._renew)",
        "pass",
    ),
    Bug(
        "cut-off",
        "bytes that can never be stored are not spooled",
        "cache/rescue.py",
        "if self._spooler is not None:\n            self._spooler.start",
        "if False:\n            self._spooler.start",
    ),
    Bug(
        "kill-9",
        "fsync does not wait for the flush",
        "vfs/openfiles.py",
        "await self._flush(self.handles[handle], notice, caller)",
        "pass",
    ),
    Bug(
        "kill-9",
        "a rewritten file is stored in two operations",
        "cache/plan.py",
        "if flight.replaces_all and flight.size",
        "if flight.is_new and flight.size",
    ),
    Bug(
        "ends-while-dirty",
        "the end of a mount does not flush",
        "vfs/filesystem.py",
        "await self._flush_files(self._cache.dirty_files)",
        "pass",
    ),
    Bug(
        "ext4",
        "a truncate leaves unstored bytes behind the end",
        "cache/file.py",
        "dropped = self._dirty.extents.truncate(size)",
        "dropped = 0",
    ),
    Bug(
        "ext4",
        "a rename loses xattrs",
        "vfs/renaming.py",
        "steps: list[Step] = [SetXattr(name, value) for name, value in found.xattrs.items()]",
        "steps: list[Step] = []",
    ),
    Bug(
        "model",  # a kernel has its pages, and reads nothing
        "an unlinked file has lost its content for who has it open",
        "vfs/removal.py",
        "for offset in range(0, limit, COPY_BYTES):",
        "for offset in range(0, 0, COPY_BYTES):",
    ),
    Bug(
        "ext4",
        "a removed name stays in the list of its directory",
        "vfs/nodes.py",
        "if isinstance(node, FileNode) and self._by_identity.get(node.identity) is node:",
        "if False:",
    ),
    Bug(
        "ext4-posix",
        "a rewritten file has the mode of another",
        "cache/file.py",
        "return self._dirty.posix or flight_posix or self.base.posix or posix.NONE",
        "return self._dirty.posix or flight_posix or posix.NONE",
    ),
    Bug(
        "model",
        "a read does not see what a flush has under way",
        "cache/file.py",
        "if self._flight:\n            cut = self._dirty.cut",
        "if False:\n            cut = self._dirty.cut",
    ),
    Bug(
        "hostile",
        "a name that reads as an escape is not escaped itself",
        "store/names.py",
        'text = self._lookalike.sub(rb"%25\\1", text)',
        "pass",
    ),
    Bug(
        "leaks",
        "an inode that the kernel has forgotten is kept",
        "vfs/nodes.py",
        "del self._by_ino[node.ino]",
        "pass",
    ),
)


def planted(arena: Arena) -> None:
    """All bugs are caught, each by its row."""
    missed = []
    for bug in BUGS:
        with tempfile.TemporaryDirectory(prefix="planted.", dir=arena.folder) as folder:
            plant(bug, Path(folder))
            arena.figures.faults += 1
            seeds = [arena.random.randrange(2**32) for _ in range(TRY_COUNT)]
            if any(fails(bug.row, Path(folder), seed) for seed in seeds):
                arena.figures.verified += 1
            else:
                missed.append(f"{bug.row} did not catch: {bug.what}")
    if missed:
        raise RowFailed("\n".join(missed))


def plant(bug: Bug, folder: Path) -> None:
    """A copy of the package and of the tests, with the bug. Raises: RowFailed."""
    for name in ("radosmount", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "radosmount" / bug.file).write_text(with_bug(bug))


def with_bug(bug: Bug) -> str:
    """The module as it is with the bug. Raises: RowFailed where there is no one place for it."""
    source = (ROOT / "radosmount" / bug.file).read_text()
    if source.count(bug.text) != 1:
        raise RowFailed(f"{bug.file} has not exactly one {bug.text!r}: plant it anew")
    return source.replace(bug.text, bug.planted)


def fails(row: str, folder: Path, seed: int) -> bool:
    """Whether the row finds something there. A row that cannot run at all finds nothing."""
    command = [sys.executable, "-m", "tests.battery", "--short", "--seed", str(seed), row]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=ROW_LIMIT_S
    )
    print(f"planted: {row}: exit code {result.returncode}", file=sys.stderr, flush=True)
    for sign in ("ImportError", "SyntaxError", "no such row", "IndentationError"):
        if sign in result.stderr:
            raise RowFailed(f"{row} does not run:\n{result.stderr[-4000:]}")
    return result.returncode == 1


ROWS = (
    Row(
        "planted",
        "bugs planted in a copy of the package, each caught by the row that is there for it",
        planted,
        None,
        {"bugs": len(BUGS)},
        limit_s=(0, 14_400),
    ),
)
