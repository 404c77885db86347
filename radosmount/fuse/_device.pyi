from typing import Any, Final

WANTED: Final[int]
KILLPRIV: Final[int]
OPCODES: Final[dict[int, str]]

class Request:
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    size: int
    arguments: tuple[Any, ...]
    notice: Any
    def success(self, value: bytes) -> bytes: ...

class Change:
    size: int | None
    mtime_ns: int | None
    mode: int | None
    uid: int | None
    gid: int | None

class Entries:
    def __init__(self, size: int) -> None: ...
    def add(self, name: bytes, entry: bytes, following: int) -> bool: ...
    def add_bare(self, name: bytes, number: int, type_bits: int, following: int) -> bool: ...
    def content(self) -> bytearray: ...

class Device:
    is_ended: bool
    request_count: int
    notice_count: int
    def __init__(
        self,
        fd: int,
        constants: tuple[tuple[bytes, int], ...],
    ) -> None: ...
    def fileno(self) -> int: ...
    def next(self) -> Request | None: ...
    def end(self) -> None: ...
    def note_change(self) -> None: ...
    def fail(self, request: Request, number: int) -> None: ...
    def reply(self, request: Request, value: Any) -> None: ...
    def answer_init(self, wanted: int, background_count_max: int, congestion_count: int) -> int: ...
    def invalidate_inode(self, ino: int, attr_only: bool = False) -> None: ...

def pack_entry(
    ino: int,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    size: int,
    mtime_ns: int,
    attr_valid_s: float,
    name_valid_s: float,
    block_bytes: int,
) -> bytes: ...
def pack_open(handle: int, keeps_pages: bool, is_direct: bool, has_flush: bool) -> bytes: ...
def pack_statfs(
    blocks: int,
    available: int,
    files: int,
    block_bytes: int,
    unit_bytes: int,
    name_bytes_max: int,
) -> bytes: ...
