"""The jobs of the driver: plain system calls in one directory, and nothing else.

A job's constructor prepares what is not to be timed; `run` is what a program would do.
"""

import ctypes
import os
import subprocess
from typing import Final

from benchmarks.content import MIB, PAGE_BYTES, content, file_names, share_of, shuffled_pages
from benchmarks.driver import Args, Maker, Reads, Ready, serve

AT_EMPTY_PATH: Final = 0x1000  # statx(2), linux/stat.h
AT_STATX_FORCE_SYNC: Final = 0x2000
STATX_BASIC_STATS: Final = 0x7FF
STATX_BYTES: Final = 256
READ_BYTES: Final = 1 * MIB  # what cp and cat read at once on a mount with that block size


class Files(Ready):
    """`count` files of `size` bytes in a directory, each with bytes of its own."""

    def __init__(self, args: Args) -> None:
        self.workers: int = args.get("workers", 1)
        self.names = file_names(args["count"])
        self.paths = [os.path.join(args["directory"], name) for name in self.names]
        if args.get("seen"):
            see(args["directory"])

    def answer(self) -> int:
        return len(self.paths)


def see(directory: str) -> None:
    """As `ls -l` does, so that the client knows the files: these rows are not cold."""
    with os.scandir(directory) as entries:
        for entry in entries:
            entry.stat()


class CreateFiles(Files):
    def __init__(self, args: Args) -> None:
        super().__init__(args)
        pages = [content(args["seed"] + name, args["size"]) for name in self.names]
        self.files = list(zip(self.paths, pages, strict=True))

    def run(self, worker: int) -> None:
        for path, data in share_of(self.files, worker, self.workers):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, data)
            os.close(fd)


class ReadFiles(Reads):
    def __init__(self, args: Args) -> None:
        super().__init__()
        self.files = Files(args)

    def run(self, worker: int) -> None:
        for path in share_of(self.files.paths, worker, self.files.workers):
            fd = os.open(path, os.O_RDONLY)
            self.pieces.append(os.read(fd, 16 * PAGE_BYTES))
            os.close(fd)


class UnlinkFiles(Files):
    def run(self, worker: int) -> None:
        for path in share_of(self.paths, worker, self.workers):
            os.unlink(path)


class SetXattrs(Files):
    def __init__(self, args: Args) -> None:
        super().__init__(args)
        self.values = [content(args["seed"] + name, 16).hex().encode() for name in self.names]

    def run(self, worker: int) -> None:
        for path, value in zip(self.paths, self.values, strict=True):
            os.setxattr(path, "user.bench", value)


class GetXattrs(Reads):
    def __init__(self, args: Args) -> None:
        super().__init__()
        self.files = Files(args)

    def run(self, worker: int) -> None:
        for path in self.files.paths:
            self.pieces.append(os.getxattr(path, "user.bench"))


class OneFile(Ready):
    def __init__(self, args: Args) -> None:
        self.path = os.path.join(args["directory"], args["name"])

    def answer(self) -> int:
        return os.stat(self.path).st_size


class WriteFile(OneFile):
    def __init__(self, args: Args) -> None:
        super().__init__(args)
        data = memoryview(content(args["seed"], args["size"]))
        self.pieces = [
            data[start : start + READ_BYTES] for start in range(0, len(data), READ_BYTES)
        ]

    def run(self, worker: int) -> None:
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        for piece in self.pieces:
            os.write(fd, piece)
        os.fsync(fd)
        os.close(fd)


class ReadFile(Reads):
    def __init__(self, args: Args) -> None:
        super().__init__()
        self.path = os.path.join(args["directory"], args["name"])

    def run(self, worker: int) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        while data := os.read(fd, READ_BYTES):
            self.pieces.append(data)
        os.close(fd)

    def answer(self) -> int:
        self.pieces = [b"".join(self.pieces)]
        return super().answer()


class ReadPages(Reads):
    """Different pages of one file, each once. The file is opened before the clock starts."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.workers: int = args.get("workers", 1)
        self.offsets = shuffled_pages(args["seed"], args["size"], args["count"])
        self.fd = os.open(os.path.join(args["directory"], args["name"]), os.O_RDONLY)

    def run(self, worker: int) -> None:
        for offset in share_of(self.offsets, worker, self.workers):
            self.pieces.append(os.pread(self.fd, PAGE_BYTES, offset))


class OverwritePages(OneFile):
    def __init__(self, args: Args) -> None:
        super().__init__(args)
        self.offsets = shuffled_pages(args["seed"], args["size"], args["count"])
        self.data = content(args["seed"], PAGE_BYTES)

    def run(self, worker: int) -> None:
        fd = os.open(self.path, os.O_WRONLY)
        for offset in self.offsets:
            os.pwrite(fd, self.data, offset)
        os.fsync(fd)
        os.close(fd)


class AppendLines(OneFile):
    def __init__(self, args: Args) -> None:
        super().__init__(args)
        data, size = content(args["seed"], args["size"] * args["count"]), args["size"]
        self.lines = [data[start : start + size] for start in range(0, len(data), size)]

    def run(self, worker: int) -> None:
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for line in self.lines:
            os.write(fd, line)
            os.fsync(fd)
        os.close(fd)


class ReplaceFile(OneFile):
    """As editors and programs do that keep a state: write-temp, fsync, rename-over."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        data, size = content(args["seed"], args["size"] * args["count"]), args["size"]
        self.states = [data[start : start + size] for start in range(0, len(data), size)]

    def run(self, worker: int) -> None:
        temporary = self.path + ".tmp"
        for state in self.states:
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, state)
            os.fsync(fd)
            os.close(fd)
            os.rename(temporary, self.path)


class StatOpenFile(Ready):
    """statx(2) with AT_STATX_FORCE_SYNC: the file system answers, whatever the kernel keeps."""

    def __init__(self, args: Args) -> None:
        self.count: int = args["count"] // args["workers"]
        self.fd = os.open(os.path.join(args["directory"], args["name"]), os.O_RDONLY)
        os.fstat(self.fd)

    def run(self, worker: int) -> None:
        statx = ctypes.CDLL(None, use_errno=True).statx
        buffer = ctypes.create_string_buffer(STATX_BYTES)
        flags = AT_EMPTY_PATH | AT_STATX_FORCE_SYNC
        for _ in range(self.count):
            if statx(self.fd, b"", flags, STATX_BASIC_STATS, buffer) != 0:
                raise OSError(ctypes.get_errno(), "statx")

    def answer(self) -> int:
        return os.fstat(self.fd).st_size


class Commands(Ready):
    """Programs that run at once. `{}` in a word stands for the directory."""

    def __init__(self, args: Args) -> None:
        directory = args["directory"]
        self.commands = [[word.replace("{}", directory) for word in c] for c in args["commands"]]
        self.line_count = 0

    def run(self, worker: int) -> None:
        running = [subprocess.Popen(c, stdout=subprocess.PIPE) for c in self.commands]
        for process in running:
            output, _ = process.communicate()
            self.line_count += output.count(b"\n")
            if process.returncode:
                raise SystemExit(f"{process.args!r} ended with {process.returncode}")

    def answer(self) -> int:
        """Lines of output."""
        return self.line_count


JOBS: Final[dict[str, Maker]] = {
    "append": AppendLines,
    "commands": Commands,
    "create": CreateFiles,
    "fstat": StatOpenFile,
    "getxattr": GetXattrs,
    "overwrite": OverwritePages,
    "read": ReadFile,
    "readpages": ReadPages,
    "readsmall": ReadFiles,
    "replace": ReplaceFile,
    "setxattr": SetXattrs,
    "unlink": UnlinkFiles,
    "write": WriteFile,
}


if __name__ == "__main__":
    serve(JOBS)
