# cython: language_level=3
"""The kernel's side of a mount: requests read from /dev/fuse, and replies written to it.

    Device.next() ── read, decode ──> Request ── worker ──> Device.reply, Device.fail

Not the requests' meaning: that is operations.py's. Layouts and numbers are those of
<linux/fuse.h>; the protocol is that of version 7.31, which libfuse 3.14 speaks.

A GETATTR that repeats one that was just answered, with nothing else in between that could have
changed the answer, is answered here without Python: `Device.note_change` ends that.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENODEV, ENOENT, ENOSYS, ERANGE, errno
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.fcntl cimport F_GETFL, F_SETFL, O_NONBLOCK, fcntl
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport write

import os


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **string, Py_ssize_t size) except -1


cdef extern from "string.h" nogil:
    int strncmp(const char *text, const char *other, size_t length_max)
    size_t strnlen(const char *text, size_t length_max)


cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *parts, int count)
    ssize_t writev(int fd, const iovec *parts, int count)


cdef extern from *:
    """
    #include <linux/fuse.h>
    #ifndef FOPEN_NOFLUSH  /* since Linux 5.16; older ones take no notice of it */
    #define FOPEN_NOFLUSH (1 << 5)
    #endif
    """


cdef extern from "linux/fuse.h" nogil:
    enum:
        FUSE_LOOKUP, FUSE_FORGET, FUSE_GETATTR, FUSE_SETATTR, FUSE_READLINK, FUSE_SYMLINK
        FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_LINK, FUSE_OPEN
        FUSE_READ, FUSE_WRITE, FUSE_STATFS, FUSE_RELEASE, FUSE_FSYNC, FUSE_SETXATTR
        FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_REMOVEXATTR, FUSE_FLUSH, FUSE_INIT, FUSE_OPENDIR
        FUSE_READDIR, FUSE_RELEASEDIR, FUSE_FSYNCDIR, FUSE_ACCESS, FUSE_CREATE, FUSE_INTERRUPT
        FUSE_DESTROY, FUSE_BATCH_FORGET, FUSE_READDIRPLUS, FUSE_RENAME2
        FUSE_KERNEL_VERSION
        FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_MTIME, FATTR_MTIME_NOW, FATTR_FH
        FUSE_ASYNC_READ, FUSE_ATOMIC_O_TRUNC, FUSE_BIG_WRITES, FUSE_AUTO_INVAL_DATA
        FUSE_DO_READDIRPLUS, FUSE_ASYNC_DIO, FUSE_PARALLEL_DIROPS, FUSE_MAX_PAGES
        FUSE_HANDLE_KILLPRIV_V2
        FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH
        FUSE_NOTIFY_INVAL_INODE
        FUSE_COMPAT_SETXATTR_IN_SIZE

    struct fuse_in_header:
        uint32_t len, opcode
        uint64_t unique, nodeid
        uint32_t uid, gid, pid
    struct fuse_out_header:
        uint32_t len
        int32_t error
        uint64_t unique
    struct fuse_attr:
        uint64_t ino, size, blocks, atime, mtime, ctime
        uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, blksize
    struct fuse_entry_out:
        uint64_t nodeid, generation, entry_valid, attr_valid
        uint32_t entry_valid_nsec, attr_valid_nsec
        fuse_attr attr
    struct fuse_attr_out:
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        fuse_attr attr
    struct fuse_open_out:
        uint64_t fh
        uint32_t open_flags
    struct fuse_init_in:
        uint32_t major, minor, max_readahead, flags
    struct fuse_init_out:
        uint32_t major, minor, max_readahead, flags
        uint16_t max_background, congestion_threshold
        uint32_t max_write, time_gran
        uint16_t max_pages
    struct fuse_forget_in:
        uint64_t nlookup
    struct fuse_forget_one:
        uint64_t nodeid, nlookup
    struct fuse_batch_forget_in:
        uint32_t count
    struct fuse_mknod_in:
        uint32_t mode, rdev
    struct fuse_mkdir_in:
        uint32_t mode
    struct fuse_rename_in:
        uint64_t newdir
    struct fuse_rename2_in:
        uint64_t newdir
        uint32_t flags
    struct fuse_link_in:
        uint64_t oldnodeid
    struct fuse_setattr_in:
        uint32_t valid
        uint64_t fh, size, mtime
        uint32_t mtimensec, mode, uid, gid
    struct fuse_open_in:
        uint32_t flags
    struct fuse_create_in:
        uint32_t flags, mode
    struct fuse_release_in:
        uint64_t fh
    struct fuse_flush_in:
        uint64_t fh
    struct fuse_read_in:
        uint64_t fh, offset
        uint32_t size
    struct fuse_write_in:
        uint64_t fh, offset
        uint32_t size
    struct fuse_write_out:
        uint32_t size
    struct fuse_fsync_in:
        uint64_t fh
        uint32_t fsync_flags
    struct fuse_setxattr_in:
        uint32_t size, flags
    struct fuse_getxattr_in:
        uint32_t size
    struct fuse_getxattr_out:
        uint32_t size
    struct fuse_access_in:
        uint32_t mask
    struct fuse_kstatfs:
        uint64_t blocks, bfree, bavail, files, ffree
        uint32_t bsize, namelen, frsize
    struct fuse_statfs_out:
        fuse_kstatfs st
    struct fuse_dirent:
        uint64_t ino, off
        uint32_t namelen, type
    struct fuse_notify_inval_inode_out:
        uint64_t ino
        int64_t off, len


cdef enum:
    MINOR_VERSION = 31
    WRITE_BYTES_MAX = 1 << 20
    PAGES_MAX = 256  # of 4 KiB, in one request
    BUFFER_BYTES = (1 << 20) + 4096  # of the largest request: a WRITE with its header
    WRITE_HEAD_BYTES = sizeof(fuse_in_header) + sizeof(fuse_write_in)
    UNCOPIED_BYTES_MIN = 65536  # that a WRITE brings: below, a copy is cheaper than fresh memory
    NS_PER_S = 1000000000
    SECTOR_BYTES = 512  # of st_blocks (stat(2))
    KNOWN_COUNT = 64  # a power of two
    KNOWN_RUN_MAX = 32  # of answers in a row, before others get their turn

ctypedef struct Known:
    uint64_t ino
    uint64_t change_count  # at which it was answered
    int64_t valid_until_ns
    fuse_attr attr

ctypedef struct ShortReply:
    fuse_out_header header
    char[240] value


cdef int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * NS_PER_S + now.tv_nsec


cdef class Request:
    """One request of the kernel's. `arguments`: of the operation that `opcode` names."""

    cdef readonly uint32_t opcode
    cdef readonly uint64_t unique, nodeid
    cdef readonly uint32_t uid, gid, pid
    cdef readonly uint32_t size  # of the largest answer that the caller has room for
    cdef readonly tuple arguments
    cdef public object notice  # of its answer, where someone else may give it

    def success(self, bytes value not None):
        """What its caller reads as "done": a struct fuse_out_header, and `value`."""
        cdef fuse_out_header header
        header.len = <uint32_t>(sizeof(header) + len(value))
        header.error = 0
        header.unique = self.unique
        return PyBytes_FromStringAndSize(<char *>&header, sizeof(header)) + value


cdef class Entries:
    """A reply to READDIRPLUS under construction, of at most `size` bytes."""

    cdef bytearray data
    cdef Py_ssize_t size

    def __init__(self, Py_ssize_t size):
        self.data = bytearray()
        self.size = size

    def add(self, bytes name not None, bytes entry not None, uint64_t following):
        """Whether there was room. `entry`: of `pack_entry`; `following`: where to go on."""
        return self.append(name, <fuse_entry_out *>PyBytes_AS_STRING(entry), following)

    def add_bare(self, bytes name not None, uint64_t number, uint32_t type_bits,
                 uint64_t following):
        """As `add`, of a name alone: its number and type, and no inode with it
        (fuse_direntplus_link of Linux: "userspace did not want to return attributes")."""
        cdef fuse_entry_out packed
        memset(&packed, 0, sizeof(packed))
        packed.attr.ino = number
        packed.attr.mode = type_bits
        return self.append(name, &packed, following)

    cdef bint append(self, bytes name, const fuse_entry_out *packed, uint64_t following) except -1:
        cdef Py_ssize_t name_bytes = len(name)
        cdef Py_ssize_t start = len(self.data)
        cdef Py_ssize_t length = sizeof(fuse_entry_out) + sizeof(fuse_dirent) + name_bytes
        cdef fuse_dirent *dirent
        cdef char *place
        length = (length + 7) & ~7
        if start + length > self.size:
            return False
        PyByteArray_Resize(self.data, start + length)
        place = PyByteArray_AS_STRING(self.data) + start
        memset(place, 0, <size_t>length)
        memcpy(place, packed, sizeof(fuse_entry_out))
        dirent = <fuse_dirent *>(place + sizeof(fuse_entry_out))
        dirent.ino = packed.attr.ino
        dirent.off = following
        dirent.namelen = <uint32_t>name_bytes
        dirent.type = (packed.attr.mode & 0o170000) >> 12
        memcpy(<char *>dirent + sizeof(fuse_dirent), PyBytes_AS_STRING(name), <size_t>name_bytes)
        return True

    def content(self):
        return self.data


def pack_entry(uint64_t ino, uint32_t mode, uint32_t nlink, uint32_t uid, uint32_t gid,
               uint64_t size, int64_t mtime_ns, double attr_valid_s, double name_valid_s,
               uint32_t block_bytes):
    """A struct fuse_entry_out. `mtime_ns` since the epoch, or before it."""
    cdef fuse_entry_out entry
    cdef int64_t seconds = mtime_ns // NS_PER_S
    memset(&entry, 0, sizeof(entry))
    entry.nodeid = entry.attr.ino = ino
    set_duration(name_valid_s, &entry.entry_valid, &entry.entry_valid_nsec)
    set_duration(attr_valid_s, &entry.attr_valid, &entry.attr_valid_nsec)
    entry.attr.size = size
    entry.attr.blocks = (size + SECTOR_BYTES - 1) // SECTOR_BYTES
    entry.attr.atime = entry.attr.mtime = entry.attr.ctime = <uint64_t>seconds
    entry.attr.atimensec = <uint32_t>(mtime_ns - seconds * NS_PER_S)
    entry.attr.mtimensec = entry.attr.ctimensec = entry.attr.atimensec
    entry.attr.mode = mode
    entry.attr.nlink = nlink
    entry.attr.uid = uid
    entry.attr.gid = gid
    entry.attr.blksize = block_bytes
    return PyBytes_FromStringAndSize(<char *>&entry, sizeof(entry))


cdef void set_duration(double duration_s, uint64_t *seconds, uint32_t *nanoseconds) noexcept:
    if duration_s > 0:
        seconds[0] = <uint64_t>duration_s
        nanoseconds[0] = <uint32_t>((duration_s - seconds[0]) * 1e9)


def pack_open(uint64_t handle, bint keeps_pages, bint is_direct, bint has_flush):
    """A struct fuse_open_out. `has_flush`: each close(2) is asked for."""
    cdef fuse_open_out opened
    memset(&opened, 0, sizeof(opened))
    opened.fh = handle
    opened.open_flags = ((FOPEN_KEEP_CACHE if keeps_pages else 0)
                         | (FOPEN_DIRECT_IO if is_direct else 0)
                         | (0 if has_flush else FOPEN_NOFLUSH))
    return PyBytes_FromStringAndSize(<char *>&opened, sizeof(opened))


def pack_statfs(uint64_t blocks, uint64_t available, uint64_t files, uint32_t block_bytes,
                uint32_t unit_bytes, uint32_t name_bytes_max):
    """A struct fuse_statfs_out."""
    cdef fuse_statfs_out packed
    memset(&packed, 0, sizeof(packed))
    packed.st.blocks = blocks
    packed.st.bfree = packed.st.bavail = available
    packed.st.files = files
    packed.st.bsize = block_bytes
    packed.st.frsize = unit_bytes
    packed.st.namelen = name_bytes_max
    return PyBytes_FromStringAndSize(<char *>&packed, sizeof(packed))


cdef class Device:
    """The descriptor of one mount. `constants` are (beginning of an xattr's name, errno that
    GETXATTR of it always has); the first that fits counts."""

    cdef int fd
    cdef char *buffer
    cdef PyObject *fresh  # bytes that nobody else sees, for what a WRITE brings
    cdef tuple constants
    cdef readonly bint is_ended
    cdef readonly uint64_t request_count  # those answered here included
    cdef public int notice_count  # of requests that someone else may have answered by now
    cdef uint64_t change_count
    cdef Known[KNOWN_COUNT] known

    def __cinit__(self, int fd, tuple constants):
        self.fd = fd
        self.constants = constants
        self.buffer = <char *>malloc(BUFFER_BYTES)
        if self.buffer == NULL:
            raise MemoryError
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK)

    def __dealloc__(self):
        free(self.buffer)
        Py_XDECREF(self.fresh)

    def fileno(self):
        return self.fd

    def end(self):
        """No more requests are read."""
        self.is_ended = True

    def note_change(self):
        """Something has happened by which answers may change."""
        self.change_count += 1

    # Requests

    def next(self):
        """The next request that someone has to answer; None where there is none by now."""
        cdef ssize_t length
        cdef fuse_in_header *header
        cdef Request request
        cdef int run = 0
        while not self.is_ended:
            length = self.read_request()
            if length < 0:
                if errno == ENODEV:  # unmounted
                    self.is_ended = True
                elif errno not in (EAGAIN, EINTR, ENOENT):  # ENOENT: taken back meanwhile
                    raise OSError(errno, os.strerror(errno))
                return None
            header = <fuse_in_header *>self.buffer
            if length < <ssize_t>sizeof(fuse_in_header) or length < header.len:
                raise OSError(EINVAL, "a short request")
            self.request_count += 1
            if header.opcode == FUSE_GETATTR and not self.notice_count and self.answer_known(header):
                run += 1
                if run >= KNOWN_RUN_MAX:
                    return None
                continue
            if header.opcode == FUSE_GETXATTR and self.answer_constant(header):
                continue
            self.change_count += 1
            request = self.decoded(header)
            if request is not None:
                return request
        return None

    cdef ssize_t read_request(self) except? -1:
        """As read(2), into `buffer`; but the data of a large WRITE into `fresh`."""
        cdef iovec[2] parts
        cdef ssize_t length
        if self.fresh == NULL:
            bytes_ = PyBytes_FromStringAndSize(NULL, BUFFER_BYTES - WRITE_HEAD_BYTES)
            Py_INCREF(bytes_)
            self.fresh = <PyObject *>bytes_
        data = PyBytes_AS_STRING(<object>self.fresh)
        parts[0].iov_base, parts[0].iov_len = self.buffer, WRITE_HEAD_BYTES
        parts[1].iov_base, parts[1].iov_len = data, BUFFER_BYTES - WRITE_HEAD_BYTES
        length = readv(self.fd, parts, 2)
        if length > WRITE_HEAD_BYTES and not self.is_uncopied(length):
            memcpy(self.buffer + WRITE_HEAD_BYTES, data, <size_t>(length - WRITE_HEAD_BYTES))
        return length

    cdef bint is_uncopied(self, ssize_t length) noexcept:
        return ((<fuse_in_header *>self.buffer).opcode == FUSE_WRITE
                and length >= WRITE_HEAD_BYTES + UNCOPIED_BYTES_MIN)

    cdef bytes taken(self, Py_ssize_t length):
        """The first `length` bytes of `fresh`, without a copy."""
        _PyBytes_Resize(&self.fresh, length)
        data = <bytes>self.fresh
        Py_XDECREF(self.fresh)
        self.fresh = NULL
        return data

    cdef Request decoded(self, fuse_in_header *header):
        """None for what is answered, or needs no answer."""
        cdef Request request
        cdef bytes written = None
        cdef const char *body = <char *>header + sizeof(fuse_in_header)
        cdef const char *end = <char *>header + header.len
        cdef uint32_t opcode = header.opcode
        if opcode == FUSE_INTERRUPT:  # each request ends by itself
            return None
        if opcode == FUSE_INIT:
            self.send(header.unique, -EINVAL, NULL, 0)  # it has been
            return None
        if opcode == FUSE_DESTROY:
            self.send(header.unique, 0, NULL, 0)
            return None
        request = Request.__new__(Request)
        request.opcode = opcode
        request.unique = header.unique
        request.nodeid = header.nodeid
        request.uid, request.gid, request.pid = header.uid, header.gid, header.pid
        if self.is_uncopied(<ssize_t>header.len):
            written = self.taken(written_bytes(body, end))
        request.arguments = decode(request, body, end, written)
        if request.arguments is None:
            self.send(header.unique, -ENOSYS, NULL, 0)
            return None
        return request

    # Replies. Who waited for one may be gone, with the mount or a signal: that is no failure.

    def fail(self, Request request not None, int number):
        if not is_unanswered(request.opcode):
            self.send(request.unique, -number, NULL, 0)

    def reply(self, Request request not None, value):
        """`value`: what the operation of that opcode returns."""
        cdef uint32_t opcode = request.opcode
        cdef fuse_write_out written
        if is_unanswered(opcode):
            return
        if value is None:
            self.send(request.unique, 0, NULL, 0)
        elif opcode == FUSE_GETATTR or opcode == FUSE_SETATTR:
            self.reply_attributes(request, value)
        elif opcode == FUSE_WRITE:
            memset(&written, 0, sizeof(written))
            written.size = value
            self.send(request.unique, 0, &written, sizeof(written))
        elif opcode == FUSE_GETXATTR or opcode == FUSE_LISTXATTR:
            self.reply_sized(request, value)
        else:
            self.reply_buffer(request.unique, value)

    cdef reply_buffer(self, uint64_t unique, value):
        cdef Py_buffer view
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        try:
            self.send(unique, 0, view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)

    cdef reply_sized(self, Request request, bytes value):
        """As getxattr(2): 0 asks for the size."""
        cdef fuse_getxattr_out found
        cdef size_t length = <size_t>len(value)
        if request.size == 0:
            memset(&found, 0, sizeof(found))
            found.size = <uint32_t>length
            self.send(request.unique, 0, &found, sizeof(found))
        elif length > request.size:
            self.send(request.unique, -ERANGE, NULL, 0)
        else:
            self.send(request.unique, 0, PyBytes_AS_STRING(value), length)

    cdef reply_attributes(self, Request request, bytes value):
        cdef fuse_entry_out *entry = <fuse_entry_out *>PyBytes_AS_STRING(value)
        cdef fuse_attr_out packed
        cdef Known *known
        memset(&packed, 0, sizeof(packed))
        packed.attr_valid = entry.attr_valid
        packed.attr_valid_nsec = entry.attr_valid_nsec
        packed.attr = entry.attr
        if request.opcode == FUSE_GETATTR:
            known = &self.known[request.nodeid % KNOWN_COUNT]
            known.ino = request.nodeid
            known.change_count = self.change_count
            known.attr = entry.attr
            known.valid_until_ns = (now_ns() + <int64_t>entry.attr_valid * NS_PER_S
                                    + entry.attr_valid_nsec)
        self.send(request.unique, 0, &packed, sizeof(packed))

    cdef bint answer_known(self, fuse_in_header *header):
        """As it was answered just before, for what is left of the time that it is good for."""
        cdef Known *known = &self.known[header.nodeid % KNOWN_COUNT]
        cdef fuse_attr_out packed
        cdef int64_t left_ns
        if known.ino != header.nodeid or known.change_count != self.change_count:
            return False
        left_ns = known.valid_until_ns - now_ns()
        if left_ns <= 0:
            return False
        memset(&packed, 0, sizeof(packed))
        packed.attr_valid = <uint64_t>(left_ns // NS_PER_S)
        packed.attr_valid_nsec = <uint32_t>(left_ns % NS_PER_S)
        packed.attr = known.attr
        self.send(header.unique, 0, &packed, sizeof(packed))
        return True

    cdef bint answer_constant(self, fuse_in_header *header) except -1:
        """The kernel asks for security.capability of each file that is written."""
        cdef const char *name = (<char *>header + sizeof(fuse_in_header)
                                 + sizeof(fuse_getxattr_in))
        for beginning, number in self.constants:
            if strncmp(name, PyBytes_AS_STRING(beginning), <size_t>len(beginning)) == 0:
                self.send(header.unique, -<int>number, NULL, 0)
                return True
        return False

    cdef void send(self, uint64_t unique, int error, const void *data, size_t length) noexcept:
        """In one piece where it is short: the kernel maps the memory of each."""
        cdef ShortReply reply
        cdef iovec[2] parts
        reply.header.len = <uint32_t>(sizeof(reply.header) + length)
        reply.header.error = error
        reply.header.unique = unique
        if length <= sizeof(reply.value):
            if length:
                memcpy(reply.value, data, length)
            write(self.fd, &reply, reply.header.len)
            return
        parts[0].iov_base, parts[0].iov_len = &reply.header, sizeof(reply.header)
        parts[1].iov_base, parts[1].iov_len = <void *>data, length
        writev(self.fd, parts, 2)

    # The session

    def answer_init(self, uint32_t wanted, uint16_t background_count_max,
                    uint16_t congestion_count):
        """Read INIT, which is the first request, and agree to what the kernel offers of `wanted`.

        Returns the flags that hold. Raises: OSError.
        """
        cdef ssize_t length = self.read_request()
        cdef fuse_in_header *header = <fuse_in_header *>self.buffer
        cdef fuse_init_in *offered = <fuse_init_in *>(self.buffer + sizeof(fuse_in_header))
        cdef fuse_init_out agreed
        if length < 0:
            raise OSError(errno, os.strerror(errno))
        if header.opcode != FUSE_INIT or offered.major != FUSE_KERNEL_VERSION:
            raise OSError(EINVAL, "the kernel does not begin with an INIT that we know")
        if offered.minor < MINOR_VERSION:
            raise OSError(EINVAL, f"the kernel speaks FUSE 7.{offered.minor} only")
        memset(&agreed, 0, sizeof(agreed))
        agreed.major = FUSE_KERNEL_VERSION
        agreed.minor = MINOR_VERSION
        agreed.max_readahead = offered.max_readahead
        agreed.flags = offered.flags & wanted
        agreed.max_background = background_count_max
        agreed.congestion_threshold = congestion_count
        agreed.max_write = WRITE_BYTES_MAX
        agreed.time_gran = 1
        agreed.max_pages = PAGES_MAX
        self.send(header.unique, 0, &agreed, sizeof(agreed))
        return agreed.flags

    def invalidate_inode(self, uint64_t ino, bint attr_only=False):
        """Let the kernel forget an inode's attributes, and pages. May block: see invalidation.py.

        Raises: FileNotFoundError where it has forgotten them by itself; OSError.
        """
        cdef fuse_out_header header
        cdef fuse_notify_inval_inode_out notice
        cdef iovec[2] parts
        cdef ssize_t written
        header.len = sizeof(header) + sizeof(notice)
        header.error = FUSE_NOTIFY_INVAL_INODE
        header.unique = 0
        notice.ino = ino
        notice.off = -1 if attr_only else 0
        notice.len = 0
        parts[0].iov_base, parts[0].iov_len = &header, sizeof(header)
        parts[1].iov_base, parts[1].iov_len = &notice, sizeof(notice)
        with nogil:
            written = writev(self.fd, parts, 2)
        if written < 0:
            raise OSError(errno, os.strerror(errno))


WANTED = (FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA
          | FUSE_DO_READDIRPLUS | FUSE_ASYNC_DIO | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS)
KILLPRIV = FUSE_HANDLE_KILLPRIV_V2

OPCODES = {
    FUSE_FORGET: "forget", FUSE_BATCH_FORGET: "forget", FUSE_LOOKUP: "lookup", FUSE_GETATTR: "getattr", FUSE_SETATTR: "setattr",
    FUSE_READLINK: "readlink", FUSE_SYMLINK: "symlink", FUSE_MKNOD: "mknod",
    FUSE_MKDIR: "mkdir", FUSE_UNLINK: "unlink", FUSE_RMDIR: "rmdir", FUSE_RENAME: "rename",
    FUSE_RENAME2: "rename", FUSE_LINK: "link", FUSE_OPEN: "open", FUSE_READ: "read",
    FUSE_WRITE: "write", FUSE_STATFS: "statfs", FUSE_RELEASE: "release", FUSE_FSYNC: "fsync",
    FUSE_SETXATTR: "setxattr", FUSE_GETXATTR: "getxattr", FUSE_LISTXATTR: "listxattr",
    FUSE_REMOVEXATTR: "removexattr", FUSE_FLUSH: "flush", FUSE_OPENDIR: "opendir",
    FUSE_READDIRPLUS: "readdir", FUSE_RELEASEDIR: "releasedir", FUSE_FSYNCDIR: "fsyncdir",
    FUSE_ACCESS: "access", FUSE_CREATE: "create",
}


cdef bint is_unanswered(uint32_t opcode) noexcept:
    return opcode == FUSE_FORGET or opcode == FUSE_BATCH_FORGET


cdef list forgotten(const char *body, const char *end):
    cdef fuse_batch_forget_in *head = <fuse_batch_forget_in *>body
    cdef fuse_forget_one *one = <fuse_forget_one *>(body + 8)
    cdef uint32_t index
    found = []
    for index in range(head.count):
        if <const char *>(one + 1) > end:
            break
        found.append((one.nodeid, one.nlookup))
        one += 1
    return found


cdef bytes name_at(const char *start, const char *end):
    return PyBytes_FromStringAndSize(start, <Py_ssize_t>strnlen(start, <size_t>(end - start)))


cdef class Change:
    """Of SETATTR; None leaves it as it is."""

    cdef readonly object size, mtime_ns, mode, uid, gid


cdef Change change_of(fuse_setattr_in *wanted):
    cdef Change change = Change.__new__(Change)
    cdef timespec now
    if wanted.valid & FATTR_SIZE:
        change.size = wanted.size
    if wanted.valid & FATTR_MODE:
        change.mode = wanted.mode & 0o7777
    if wanted.valid & FATTR_UID:
        change.uid = wanted.uid
    if wanted.valid & FATTR_GID:
        change.gid = wanted.gid
    if wanted.valid & FATTR_MTIME_NOW:
        clock_gettime(0, &now)  # CLOCK_REALTIME
        change.mtime_ns = <int64_t>now.tv_sec * NS_PER_S + now.tv_nsec
    elif wanted.valid & FATTR_MTIME:
        change.mtime_ns = <int64_t>wanted.mtime * NS_PER_S + wanted.mtimensec
    return change


cdef Py_ssize_t written_bytes(const char *body, const char *end) noexcept:
    """How many a WRITE brings."""
    return min(<Py_ssize_t>(<fuse_write_in *>body).size,
               <Py_ssize_t>(end - body) - <Py_ssize_t>sizeof(fuse_write_in))


cdef tuple decode(Request request, const char *body, const char *end, bytes written):
    """The arguments of the operation, as pyfuse3 would give them; None for one that there is not.
    `written`: what a WRITE brings, unless that lies behind its head."""
    cdef uint32_t opcode = request.opcode
    cdef const char *second
    ino = request.nodeid
    if opcode == FUSE_LOOKUP or opcode == FUSE_UNLINK or opcode == FUSE_RMDIR:
        return (ino, name_at(body, end), request)
    if opcode == FUSE_REMOVEXATTR:
        return (ino, name_at(body, end), request)
    if opcode == FUSE_GETATTR or opcode == FUSE_READLINK or opcode == FUSE_OPENDIR:
        return (ino, request)
    if opcode == FUSE_STATFS:
        return (request,)
    if opcode == FUSE_FORGET:
        return ([(ino, (<fuse_forget_in *>body).nlookup)],)
    if opcode == FUSE_BATCH_FORGET:
        return (forgotten(body, end),)
    if opcode == FUSE_READ:
        return ((<fuse_read_in *>body).fh, (<fuse_read_in *>body).offset,
                (<fuse_read_in *>body).size)
    if opcode == FUSE_WRITE:
        if written is None:
            written = PyBytes_FromStringAndSize(body + sizeof(fuse_write_in),
                                                written_bytes(body, end))
        return ((<fuse_write_in *>body).fh, (<fuse_write_in *>body).offset, written)
    if opcode == FUSE_FLUSH:
        return ((<fuse_flush_in *>body).fh, request)
    if opcode == FUSE_RELEASE or opcode == FUSE_RELEASEDIR:
        return ((<fuse_release_in *>body).fh,)
    if opcode == FUSE_FSYNC:
        return ((<fuse_fsync_in *>body).fh, request)
    if opcode == FUSE_FSYNCDIR:
        return ((<fuse_fsync_in *>body).fh, bool((<fuse_fsync_in *>body).fsync_flags & 1))
    if opcode == FUSE_OPEN:
        return (ino, (<fuse_open_in *>body).flags, request)
    if opcode == FUSE_CREATE:
        return (ino, name_at(body + sizeof(fuse_create_in), end),
                (<fuse_create_in *>body).mode, (<fuse_create_in *>body).flags, request)
    if opcode == FUSE_READDIRPLUS:
        return ((<fuse_read_in *>body).fh, (<fuse_read_in *>body).offset,
                Entries((<fuse_read_in *>body).size))
    if opcode == FUSE_GETXATTR:
        request.size = (<fuse_getxattr_in *>body).size
        return (ino, name_at(body + sizeof(fuse_getxattr_in), end), request)
    if opcode == FUSE_LISTXATTR:
        request.size = (<fuse_getxattr_in *>body).size
        return (ino, request)
    if opcode == FUSE_SETXATTR:
        second = body + FUSE_COMPAT_SETXATTR_IN_SIZE
        name = name_at(second, end)
        second += len(name) + 1
        return (ino, name,
                PyBytes_FromStringAndSize(second, min(<Py_ssize_t>(<fuse_setxattr_in *>body).size,
                                                      <Py_ssize_t>(end - second))),
                (<fuse_setxattr_in *>body).flags, request)
    if opcode == FUSE_SETATTR:
        return (ino, change_of(<fuse_setattr_in *>body),
                (<fuse_setattr_in *>body).fh if (<fuse_setattr_in *>body).valid & FATTR_FH
                else None, request)
    if opcode == FUSE_MKDIR:
        return (ino, name_at(body + sizeof(fuse_mkdir_in), end),
                (<fuse_mkdir_in *>body).mode, request)
    if opcode == FUSE_MKNOD:
        return (ino, name_at(body + sizeof(fuse_mknod_in), end), (<fuse_mknod_in *>body).mode,
                (<fuse_mknod_in *>body).rdev, request)
    if opcode == FUSE_SYMLINK:
        name = name_at(body, end)
        return (ino, name, name_at(body + len(name) + 1, end), request)
    if opcode == FUSE_LINK:
        return ((<fuse_link_in *>body).oldnodeid, ino,
                name_at(body + sizeof(fuse_link_in), end), request)
    if opcode == FUSE_RENAME or opcode == FUSE_RENAME2:
        second = body + (sizeof(fuse_rename_in) if opcode == FUSE_RENAME
                         else sizeof(fuse_rename2_in))
        name = name_at(second, end)
        return (ino, name, (<fuse_rename_in *>body).newdir,
                name_at(second + len(name) + 1, end),
                (<fuse_rename2_in *>body).flags if opcode == FUSE_RENAME2 else 0, request)
    if opcode == FUSE_ACCESS:
        return (ino, (<fuse_access_in *>body).mask, request)
    return None
