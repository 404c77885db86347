"""What librados itself can do: the round trips of a job as plain calls of the binding, in a row.

    python -m benchmarks.limits      (the protocol of benchmarks.driver)

The jobs have the names and arguments of `benchmarks.jobs`, with a pool in place of a directory.
No cache, no file system: a mount that reaches 1.0 of these adds nothing to what RADOS takes.
"""

import importlib
import time
from typing import Any, Final

from benchmarks.content import MIB, PAGE_BYTES, content, file_names, share_of, shuffled_pages
from benchmarks.driver import Args, Maker, serve

rados: Any = importlib.import_module("rados")  # the tests' stub holds only what radosmount uses

PIECE_BYTES: Final = 4 * MIB
EXTENTS_PER_OPERATION: Final = 250  # facts: the best size of one operation


class Limit:
    """Connects in the worker: librados does not survive a fork."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.workers: int = args.get("workers", 1)
        self.count: int = args.get("count", 0)
        self.size: int = args.get("size", 0)
        self.name: str = args.get("name", "")
        self.seed: str = args.get("seed", "")
        self.names = file_names(self.count)

    def start(self) -> None:
        self.cluster = rados.Rados(conffile=self.args["conf"])
        self.cluster.connect()
        self.ioctx = self.cluster.open_ioctx(self.args["pool"])
        self.is_there(self.name or "any")  # the first operation also makes the connection

    def answer(self) -> int:
        return 0

    def is_there(self, name: str) -> bool:
        try:
            self.ioctx.stat(name)
        except rados.ObjectNotFound:
            return False
        return True

    def create(self, name: str) -> None:
        with rados.WriteOpCtx() as operation:
            operation.new(1)
            self.ioctx.operate_write_op(operation, name, mtime=int(time.time()))


class Create(Limit):
    """stat + exclusive create + write_full."""

    def start(self) -> None:
        super().start()
        self.pages = {name: content(self.seed + name, self.size) for name in self.names}

    def run(self, worker: int) -> None:
        for name in share_of(self.names, worker, self.workers):
            self.is_there(name)
            self.create(name)
            self.ioctx.write_full(name, self.pages[name])


class ReadSmall(Limit):
    """stat + read."""

    def run(self, worker: int) -> None:
        for name in share_of(self.names, worker, self.workers):
            self.ioctx.stat(name)
            self.ioctx.read(name, 16 * PAGE_BYTES)


class Unlink(Limit):
    """remove."""

    def run(self, worker: int) -> None:
        for name in self.names:
            self.ioctx.remove_object(name)


class SetXattr(Limit):
    """set_xattr."""

    def run(self, worker: int) -> None:
        for name in self.names:
            self.ioctx.set_xattr(name, "bench", b"0123456789abcdef0123456789abcdef")


class GetXattr(Limit):
    """get_xattrs."""

    def run(self, worker: int) -> None:
        for name in self.names:
            dict(self.ioctx.get_xattrs(name))


class WriteBig(Limit):
    """write of 4 MiB each."""

    def start(self) -> None:
        super().start()
        self.data = content(self.seed, self.size)

    def run(self, worker: int) -> None:
        for offset in range(0, self.size, PIECE_BYTES):
            self.ioctx.write(self.name, self.data[offset : offset + PIECE_BYTES], offset)


class ReadBig(Limit):
    """read of 4 MiB each."""

    def run(self, worker: int) -> None:
        for offset in range(0, self.size, PIECE_BYTES):
            self.ioctx.read(self.name, PIECE_BYTES, offset)


class ReadPages(Limit):
    """read of 4 KiB."""

    def run(self, worker: int) -> None:
        offsets = shuffled_pages(self.seed, self.size, self.count)
        for offset in share_of(offsets, worker, self.workers):
            self.ioctx.read(self.name, PAGE_BYTES, offset)


class Overwrite(Limit):
    """operations of 250 extents each."""

    def run(self, worker: int) -> None:
        offsets = shuffled_pages(self.seed, self.size, self.count)
        data = content(self.seed, PAGE_BYTES)
        for start in range(0, len(offsets), EXTENTS_PER_OPERATION):
            with rados.WriteOpCtx() as operation:
                for offset in offsets[start : start + EXTENTS_PER_OPERATION]:
                    operation.write(data, offset)
                self.ioctx.operate_write_op(operation, self.name, mtime=int(time.time()))


class Append(Limit):
    """append."""

    def run(self, worker: int) -> None:
        data = content(self.seed, self.size * self.count)
        for start in range(0, len(data), self.size):
            self.ioctx.append(self.name, data[start : start + self.size])


class Replace(Limit):
    """exclusive create + write_full, write_full of the target, remove."""

    def run(self, worker: int) -> None:
        data = content(self.seed, self.size * self.count)
        temporary = self.name + ".tmp"
        for start in range(0, len(data), self.size):
            state = data[start : start + self.size]
            self.create(temporary)
            self.ioctx.write_full(temporary, state)
            self.ioctx.write_full(self.name, state)
            self.ioctx.remove_object(temporary)


class List(Limit):
    """list_objects."""

    def run(self, worker: int) -> None:
        self.listed = [listed.key for listed in self.ioctx.list_objects()]


class ListAndStat(List):
    """list_objects + stat of each."""

    def run(self, worker: int) -> None:
        super().run(worker)
        for name in self.listed:
            self.ioctx.stat(name)


LIMITS: Final[dict[str, Maker]] = {
    "append": Append,
    "create": Create,
    "getxattr": GetXattr,
    "list": List,
    "liststat": ListAndStat,
    "overwrite": Overwrite,
    "read": ReadBig,
    "readpages": ReadPages,
    "readsmall": ReadSmall,
    "replace": Replace,
    "setxattr": SetXattr,
    "unlink": Unlink,
    "write": WriteBig,
}

if __name__ == "__main__":
    serve(LIMITS)
