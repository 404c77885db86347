"""The kernel's side: requests as Linux lays them out, and the replies that it expects.

The device is one end of a socket that keeps messages apart, as /dev/fuse does.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radosmount.fuse import _device

# <linux/fuse.h>
LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD = 1, 2, 3, 4, 5, 6, 8
MKDIR, UNLINK, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 9, 10, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 20, 21, 22, 23, 24, 25, 26
OPENDIR, FSYNCDIR, ACCESS, CREATE, INTERRUPT, DESTROY, IOCTL = 27, 30, 34, 35, 36, 38, 39
BATCH_FORGET, READDIRPLUS, RENAME2 = 42, 44, 45
FATTR_MODE, FATTR_SIZE, FATTR_MTIME, FATTR_FH, FATTR_MTIME_NOW = 1, 8, 32, 64, 256
PARALLEL_DIROPS, HANDLE_KILLPRIV_V2 = 1 << 18, 1 << 28

INO: Final = 0x0123_4567_89AB
UNIQUE: Final = 42
CONSTANTS: Final = ((b"security.", errno.ENODATA),)


class Reply(NamedTuple):
    error: int
    unique: int
    body: bytes


class Kernel:
    """What the kernel does at the other end of `device`."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs = theirs
        self.device = _device.Device(theirs.fileno(), CONSTANTS)

    def send(self, opcode: int, body: bytes = b"", unique: int = UNIQUE) -> None:
        header = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, INO, 1, 2, 3, 0, 0)
        self._ours.send(header + body)

    def ask(self, opcode: int, body: bytes = b"", unique: int = UNIQUE) -> "_device.Request":
        self.send(opcode, body, unique)
        request = self.device.next()
        assert request is not None
        return request

    def reply(self) -> Reply:
        """Raises: BlockingIOError where there is none."""
        message = self._ours.recv(1 << 21)
        length, error, unique = struct.unpack_from("=IiQ", message)
        assert length == len(message)
        return Reply(-error, unique, message[16:])

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def entry(size: int = 5, valid_s: float = 1.0, mtime_ns: int = 1_500_000_000) -> bytes:
    return _device.pack_entry(INO, 0o100644, 1, 7, 8, size, mtime_ns, valid_s, 0.5, 1 << 20)


SETATTR_FORM: Final = "=IIQQQQQQIIIIIIII"


def setattr_body(valid: int, **values: int) -> bytes:
    names = ("fh", "size", "owner", "atime", "mtime", "ctime", "ansec", "mnsec", "cnsec", "mode")
    found = [values.get(name, 0) for name in names]
    return struct.pack(SETATTR_FORM, valid, 0, *found, 0, 3, 4, 0)


@pytest.mark.parametrize(
    ("opcode", "body", "arguments"),
    [
        (LOOKUP, b"name\0", (INO, b"name")),
        (UNLINK, b"n\xff\0", (INO, b"n\xff")),
        (GETATTR, struct.pack("=IIQ", 0, 0, 0), (INO,)),
        (READLINK, b"", (INO,)),
        (SYMLINK, b"new\0to/where\0", (INO, b"new", b"to/where")),
        (MKNOD, struct.pack("=IIII", 0o100600, 9, 0o22, 0) + b"n\0", (INO, b"n", 0o100600, 9)),
        (MKDIR, struct.pack("=II", 0o755, 0o22) + b"d\0", (INO, b"d", 0o755)),
        (RENAME, struct.pack("=Q", 77) + b"old\0new\0", (INO, b"old", 77, b"new", 0)),
        (RENAME2, struct.pack("=QII", 77, 1, 0) + b"old\0new\0", (INO, b"old", 77, b"new", 1)),
        (LINK, struct.pack("=Q", 77) + b"new\0", (77, INO, b"new")),
        (OPEN, struct.pack("=II", os.O_RDWR, 0), (INO, os.O_RDWR)),
        (READ, struct.pack("=QQIIQII", 4, 1 << 40, 8, 0, 0, 0, 0), (4, 1 << 40, 8)),
        (WRITE, struct.pack("=QQIIQII", 4, 1 << 40, 3, 0, 0, 0, 0) + b"abc", (4, 1 << 40, b"abc")),
        (STATFS, b"", ()),
        (RELEASE, struct.pack("=QIIQ", 4, 0, 0, 0), (4,)),
        (FSYNC, struct.pack("=QII", 4, 1, 0), (4,)),
        (FSYNCDIR, struct.pack("=QII", 4, 1, 0), (4, True)),
        (FLUSH, struct.pack("=QIIQ", 4, 0, 0, 0), (4,)),
        (SETXATTR, struct.pack("=II", 3, 1) + b"user.x\0a\0b", (INO, b"user.x", b"a\0b", 1)),
        (GETXATTR, struct.pack("=II", 9, 0) + b"user.x\0", (INO, b"user.x")),
        (LISTXATTR, struct.pack("=II", 9, 0), (INO,)),
        (REMOVEXATTR, b"user.x\0", (INO, b"user.x")),
        (OPENDIR, struct.pack("=II", 0, 0), (INO,)),
        (ACCESS, struct.pack("=II", 5, 0), (INO, 5)),
        (
            CREATE,
            struct.pack("=IIII", os.O_EXCL, 0o100644, 0o22, 0) + b"n\0",
            (INO, b"n", 0o100644, os.O_EXCL),
        ),
    ],
)
def test_requests_are_decoded(
    opcode: int, body: bytes, arguments: tuple[Any, ...], kernel: Kernel
) -> None:
    """As pyfuse3 gives them; behind them the request itself, which tells who asks."""
    request = kernel.ask(opcode, body)
    assert tuple(a for a in request.arguments if a is not request) == arguments
    assert (request.uid, request.gid, request.pid) == (1, 2, 3)
    assert opcode in _device.OPCODES


@given(st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name))
def test_any_name_arrives(name: bytes) -> None:
    kernel = Kernel()
    try:
        assert kernel.ask(LOOKUP, name + b"\0").arguments[1] == name
    finally:
        kernel.close()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (setattr_body(FATTR_SIZE | FATTR_FH, fh=4, size=9), (9, None, None, None, None, 4)),
        (setattr_body(FATTR_MODE, mode=0o100600), (None, None, 0o600, None, None, None)),
        (setattr_body(2 | 4), (None, None, None, 3, 4, None)),
        (
            setattr_body(FATTR_MTIME, mtime=2, mnsec=5),
            (None, 2_000_000_005, None, None, None, None),
        ),
        (
            setattr_body(FATTR_MTIME, mtime=2**64 - 1, mnsec=5),  # before 1970
            (None, -999_999_995, None, None, None, None),
        ),
    ],
)
def test_what_setattr_changes(body: bytes, expected: tuple[Any, ...], kernel: Kernel) -> None:
    _, change, handle, _ = kernel.ask(SETATTR, body).arguments
    found = (change.size, change.mtime_ns, change.mode, change.uid, change.gid, handle)
    assert found == expected


def test_setattr_to_now(kernel: Kernel) -> None:
    change = kernel.ask(SETATTR, setattr_body(FATTR_MTIME | FATTR_MTIME_NOW)).arguments[1]
    assert change.mtime_ns > 1_700_000_000 * 10**9


def test_no_request_is_no_wait(kernel: Kernel) -> None:
    assert kernel.device.next() is None
    assert not kernel.device.is_ended


def test_after_the_end_nothing_is_read(kernel: Kernel) -> None:
    kernel.send(STATFS)
    kernel.device.end()
    assert kernel.device.next() is None


def test_what_is_forgotten(kernel: Kernel) -> None:
    """In its turn, as any request: it may follow from what was told before. But no reply."""
    one = kernel.ask(FORGET, struct.pack("=Q", 3))
    many = kernel.ask(BATCH_FORGET, struct.pack("=IIQQQQ", 2, 0, 5, 1, 6, 2))
    assert one.arguments == ([(INO, 3)],)
    assert many.arguments == ([(5, 1), (6, 2)],)
    kernel.device.reply(one, None)
    kernel.device.fail(many, errno.EIO)
    with pytest.raises(BlockingIOError):
        kernel.reply()


def test_interrupts_are_passed_over(kernel: Kernel) -> None:
    kernel.send(INTERRUPT, struct.pack("=Q", UNIQUE))
    assert kernel.device.next() is None
    with pytest.raises(BlockingIOError):
        kernel.reply()


def test_a_batch_is_no_longer_than_its_request(kernel: Kernel) -> None:
    assert kernel.ask(BATCH_FORGET, struct.pack("=IIQQ", 1000, 0, 5, 1)).arguments == ([(5, 1)],)


def test_what_there_is_not(kernel: Kernel) -> None:
    """ENOSYS has the kernel ask no more."""
    kernel.send(IOCTL, bytes(32))
    assert kernel.device.next() is None
    assert kernel.reply() == (errno.ENOSYS, UNIQUE, b"")


def test_failures(kernel: Kernel) -> None:
    kernel.device.fail(kernel.ask(STATFS), errno.ENOENT)
    assert kernel.reply() == (errno.ENOENT, UNIQUE, b"")


ATTR_FORM: Final = "=QQQQQQIIIIIIIIII"


def attributes_of(packed: bytes) -> tuple[int, ...]:
    found: tuple[int, ...] = struct.unpack_from(ATTR_FORM, packed)
    return found


def test_an_entry(kernel: Kernel) -> None:
    kernel.device.reply(kernel.ask(LOOKUP, b"n\0"), entry(size=513))
    reply = kernel.reply()
    assert reply.error == 0
    nodeid, generation, name_s, attr_s, name_ns, attr_ns = struct.unpack_from("=QQQQII", reply.body)
    assert (nodeid, generation) == (INO, 0)
    assert (name_s, name_ns, attr_s, attr_ns) == (0, 500_000_000, 1, 0)
    seconds, ns = (1, 1, 1), (500_000_000,) * 3
    rest = (0o100644, 1, 7, 8, 0, 1 << 20, 0)
    assert attributes_of(reply.body[40:]) == (INO, 513, 2, *seconds, *ns, *rest)


def test_times_before_1970() -> None:
    found = attributes_of(entry(mtime_ns=-1)[40:])
    assert (found[4] - 2**64, found[7]) == (-1, 999_999_999)


def test_attributes(kernel: Kernel) -> None:
    kernel.device.reply(kernel.ask(GETATTR, bytes(16)), entry())
    body = kernel.reply().body
    assert struct.unpack_from("=QII", body) == (1, 0, 0)
    assert body[16:] == entry()[40:]


def opened(flags: int) -> bytes:
    return struct.pack("=QII", 4, flags, 0)


def test_other_replies(kernel: Kernel) -> None:
    device = kernel.device
    for request, value, body in (
        (kernel.ask(WRITE, bytes(40)), 7, struct.pack("=II", 7, 0)),
        (kernel.ask(READ, bytes(40)), bytearray(b"abc"), b"abc"),
        (kernel.ask(READ, bytes(40)), b"", b""),
        (kernel.ask(FLUSH, bytes(24)), None, b""),
        (kernel.ask(OPEN, bytes(8)), _device.pack_open(4, True, False, True), opened(2)),
        (kernel.ask(OPEN, bytes(8)), _device.pack_open(4, False, True, True), opened(1)),
        (kernel.ask(OPEN, bytes(8)), _device.pack_open(4, False, False, False), opened(32)),
    ):
        device.reply(request, value)
        assert kernel.reply() == (0, UNIQUE, body)


def test_space(kernel: Kernel) -> None:
    kernel.device.reply(kernel.ask(STATFS), _device.pack_statfs(10, 4, 3, 1 << 20, 4096, 255))
    found = struct.unpack("=QQQQQIIII24x", kernel.reply().body)
    assert found == (10, 4, 4, 3, 0, 1 << 20, 255, 4096, 0)


@pytest.mark.parametrize("opcode", [GETXATTR, LISTXATTR])
@pytest.mark.parametrize(
    ("room", "expected"),
    [(0, (0, struct.pack("=II", 3, 0))), (2, (errno.ERANGE, b"")), (3, (0, b"abc"))],
)
def test_values_that_need_room(
    opcode: int, room: int, expected: tuple[int, bytes], kernel: Kernel
) -> None:
    """getxattr(2): a size of 0 asks how much."""
    kernel.device.reply(kernel.ask(opcode, struct.pack("=II", room, 0) + b"user.x\0"), b"abc")
    reply = kernel.reply()
    assert (reply.error, reply.body) == expected


def test_constants_need_nobody(kernel: Kernel) -> None:
    kernel.send(GETXATTR, bytes(8) + b"security.capability\0")
    assert kernel.device.next() is None
    assert kernel.reply() == (errno.ENODATA, UNIQUE, b"")


def test_a_repeated_getattr_needs_nobody(kernel: Kernel) -> None:
    """It has what is left of the time that the first answer was good for."""
    kernel.device.reply(kernel.ask(GETATTR, bytes(16)), entry(valid_s=60.0))
    first = kernel.reply().body
    kernel.send(GETATTR, bytes(16), unique=43)
    assert kernel.device.next() is None
    reply = kernel.reply()
    assert (reply.error, reply.unique) == (0, 43)
    assert reply.body[16:] == first[16:]
    seconds, ns = struct.unpack_from("=QI", reply.body)
    assert 50 < seconds + ns / 1e9 < 60


@pytest.mark.parametrize("event", ["change", "request", "notice", "expired", "other inode"])
def test_a_getattr_is_asked_anew(event: str, kernel: Kernel) -> None:
    """After anything by which the answer may have changed."""
    valid_s = 0.0 if event == "expired" else 60.0
    kernel.device.reply(kernel.ask(GETATTR, bytes(16)), entry(valid_s=valid_s))
    kernel.reply()
    if event == "change":
        kernel.device.note_change()
    elif event == "request":
        kernel.ask(LOOKUP, b"n\0")
    elif event == "notice":
        kernel.device.notice_count += 1
    elif event == "other inode":
        body = struct.pack("=IIQQIIIHH", 56, GETATTR, UNIQUE, INO + 64, 1, 2, 3, 0, 0) + bytes(16)
        kernel._ours.send(body)
        assert kernel.device.next() is not None
        return
    assert kernel.ask(GETATTR, bytes(16)).opcode == GETATTR


def test_many_repeated_getattrs_let_others_in(kernel: Kernel) -> None:
    """`next` returns after a while, so that answers of the store come in."""
    kernel.device.reply(kernel.ask(GETATTR, bytes(16)), entry(valid_s=60.0))
    for _ in range(40):
        kernel.send(GETATTR, bytes(16))
    before = kernel.device.request_count
    assert kernel.device.next() is None
    assert kernel.device.request_count < before + 40


def test_success_before_the_reply(kernel: Kernel) -> None:
    """The message with which someone else may answer is the reply itself."""
    request = kernel.ask(CREATE, bytes(16) + b"n\0")
    message = request.success(b"value")
    kernel.device.reply(request, b"value")
    assert struct.pack("=IiQ", 21, 0, UNIQUE) + b"value" == message
    assert kernel.reply().body == b"value"


def dirents(content: bytes) -> list[tuple[bytes, int, int, int, int]]:
    """Of READDIRPLUS: name, inode of the entry, number, offset, type."""
    found, at = [], 0
    while at < len(content):
        (nodeid,) = struct.unpack_from("=Q", content, at)
        number, following, length, kind = struct.unpack_from("=QQII", content, at + 128)
        name = content[at + 152 : at + 152 + length]
        found.append((name, nodeid, number, following, kind))
        at += (152 + length + 7) & ~7
    return found


def test_a_listing(kernel: Kernel) -> None:
    request = kernel.ask(READDIRPLUS, struct.pack("=QQIIQII", 4, 0, 512, 0, 0, 0, 0))
    reply = request.arguments[2]
    assert reply.add(b"file", entry(), 1)
    assert reply.add_bare(b"directory", 99, 0o040000, 2)
    assert dirents(bytes(reply.content())) == [
        (b"file", INO, INO, 1, 8),
        (b"directory", 0, 99, 2, 4),
    ]


@given(st.integers(0, 2000), st.lists(st.binary(min_size=1, max_size=255), max_size=20))
def test_a_listing_keeps_to_its_room(room: int, names: list[bytes]) -> None:
    """What did not fit is left out whole, and the rest is as it was given."""
    reply = _device.Entries(room)
    taken = []
    for number, name in enumerate(names):
        if not reply.add(name, entry(), number):
            break
        taken.append(name)
    content = bytes(reply.content())
    assert len(content) <= room
    assert [found[0] for found in dirents(content)] == taken


INIT_WANTED: Final = _device.WANTED | _device.KILLPRIV


def init_body(flags: int, minor: int = 45) -> bytes:
    return struct.pack("=IIII", 7, minor, 131072, flags) + bytes(48)


@given(st.integers(0, 2**32 - 1))
def test_init_agrees_to_what_is_offered(offered: int) -> None:
    kernel = Kernel()
    try:
        kernel.send(INIT, init_body(offered))
        agreed = kernel.device.answer_init(INIT_WANTED, 64, 48)
        body = kernel.reply().body
        found = struct.unpack_from("=IIIIHHIIH", body)
        assert agreed == offered & INIT_WANTED
        assert found == (7, 31, 131072, agreed, 64, 48, 1 << 20, 1, 256)
        assert len(body) == 64
    finally:
        kernel.close()


def test_init_asks_for_parallel_look_ups() -> None:
    assert _device.WANTED & PARALLEL_DIROPS
    assert not _device.WANTED & HANDLE_KILLPRIV_V2
    assert _device.KILLPRIV == HANDLE_KILLPRIV_V2


@pytest.mark.parametrize(("opcode", "minor"), [(STATFS, 45), (INIT, 12)])
def test_init_of_another_kernel(opcode: int, minor: int, kernel: Kernel) -> None:
    kernel.send(opcode, init_body(0, minor))
    with pytest.raises(OSError, match="kernel"):
        kernel.device.answer_init(INIT_WANTED, 64, 48)


def test_invalidation(kernel: Kernel) -> None:
    """FUSE_NOTIFY_INVAL_INODE: of attributes and pages, or of attributes alone."""
    kernel.device.invalidate_inode(INO)
    kernel.device.invalidate_inode(INO, attr_only=True)
    for offset in (0, -1):
        message = kernel._ours.recv(1000)
        assert struct.unpack("=IiQQqq", message) == (40, 2, 0, INO, offset, 0)


def test_a_reply_that_nobody_waits_for_is_no_failure() -> None:
    """ENOENT, as of an unmounted device."""
    read_fd, write_fd = os.pipe()
    try:
        device = _device.Device(read_fd, ())  # a write to it fails
        os.write(write_fd, struct.pack("=IIQQIIIHH", 40, STATFS, UNIQUE, INO, 1, 2, 3, 0, 0))
        request = device.next()
        assert request is not None
        device.fail(request, errno.EIO)
        with pytest.raises(OSError, match="Bad file descriptor"):
            device.invalidate_inode(INO)
    finally:
        os.close(read_fd)
        os.close(write_fd)


@pytest.mark.parametrize("length", [0, 1, 239, 240, 241, 4096, 100_000])
def test_replies_of_all_sizes(length: int, kernel: Kernel) -> None:
    """Whether they go out in one piece or not."""
    value = os.urandom(length)
    kernel.device.reply(kernel.ask(READ, bytes(40)), value)
    assert kernel.reply() == (0, UNIQUE, value)


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 200_000])
def test_writes_of_all_sizes(length: int, kernel: Kernel) -> None:
    """Whether its bytes are copied or not, a request has its own, and keeps them."""
    header = struct.pack("=QQIIQII", 4, 9, length, 0, 0, 0, 0)
    contents = [bytes([number]) * length for number in (1, 2)]
    written = [kernel.ask(WRITE, header + content).arguments for content in contents]
    kernel.ask(LOOKUP, b"name\0")
    assert written == [(4, 9, content) for content in contents]
