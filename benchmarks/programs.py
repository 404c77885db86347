"""The rows whose work is done by programs: tar, rsync, cp. Sources lie in memory (/dev/shm).

The source tree is Python's standard library, flattened: radosmount has no sub-directories yet.
"""

import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.content import MIB, content
from benchmarks.rows import Files, Row, Unit, holding
from benchmarks.workloads import Scale

MEMORY: Final = "/dev/shm"
COPY_COUNT: Final = 4


class Sources:
    """The files that programs copy from; a context manager that removes them."""

    def __init__(self, scale: Scale, seed: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="radosmount-bench-", dir=MEMORY))
        self.tree = self._directory / "tree"
        self.archive = self._directory / "tree.tar"
        self.copies = {
            f"copy-{index}": content(f"{seed}{index}", scale.big_bytes)
            for index in range(COPY_COUNT)
        }
        for name, data in self.copies.items():
            (self._directory / name).write_bytes(data)
        self._make_tree(scale.tree_count)

    def _make_tree(self, count_max: int) -> None:
        self.tree.mkdir()
        library = Path(sysconfig.get_path("stdlib"))
        for path in sorted(library.rglob("*.py"))[:count_max]:
            shutil.copy2(path, self.tree / str(path.relative_to(library)).replace("/", "__"))
        command = ["tar", "-cf", str(self.archive), "-C", str(self.tree)]
        subprocess.run([*command, *sorted(self.files())], check=True)

    def files(self) -> Files:
        return {path.name: path.read_bytes() for path in self.tree.iterdir()}

    def path_of_copy(self, name: str) -> str:
        return str(self._directory / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._directory)


def program_rows(scale: Scale, sources: Sources) -> list[Row]:
    count = len(sources.files())
    # File by file: s3fs cannot set the attributes of its root, as -a of a folder would.
    paths = [str(sources.tree / name) for name in sorted(sources.files())]
    rsync = {"job": "commands", "commands": [["rsync", "-a", *paths, "{}/"]]}
    copies = [["cp", sources.path_of_copy(name), "{}/"] for name in sources.copies]
    return [
        Row(
            key="tar",
            title=f"tar x of {count} source files",
            amount=count,
            job={"job": "commands", "commands": [["tar", "-xf", str(sources.archive), "-C", "{}"]]},
            verify=holding(sources.files),
        ),
        Row(
            key="rsync",
            title=f"rsync -a of {count} source files",
            amount=count,
            job=rsync,
            verify=holding(sources.files),
        ),
        Row(
            key="rsync-again",
            title=f"rsync -a of {count} unchanged files, cold",
            amount=count,
            before=rsync,
            job=rsync,
            verify=holding(sources.files),
        ),
        Row(
            key="cp-4",
            title=f"cp of {COPY_COUNT} files of {scale.big_bytes // MIB} MiB at once",
            unit=Unit.BANDWIDTH,
            amount=COPY_COUNT * scale.big_bytes,
            job={"job": "commands", "commands": copies},
            verify=holding(lambda: sources.copies),
            bench=("write", 4, 4 * MIB),
        ),
    ]
