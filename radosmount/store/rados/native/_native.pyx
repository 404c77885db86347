# cython: language_level=3
"""librados's asynchronous operations for one trio loop, without worker threads.

    trio thread                              librados's threads
    Traffic.send ──> Ioctx.submit ─────────> OSD
    Handle.drain() <── eventfd, once ─────── rm_on_complete: push onto a list

Not a binding of librados: it holds what native_calls.py needs, and no more; what is in flight and
what waits is in traffic.pxi. No Python code and no GIL in callbacks. What may block (connect, shutdown, the osdmap) is for other threads; all
else is for the trio thread, but that an operation may be built by any one thread before submit.

Who keeps what alive, since a mistake here is a crash:
- From `submit` until `drain` an operation holds one reference to itself. So whatever librados
  was told to write to (members of the operation, its buffer) and the object's name outlive the
  callback, whoever forgets the operation meanwhile. After the callback librados touches none.
- The completion is ours and librados's, counted; ours is given back by `drain`.
- An ioctx that is retired is destroyed when the last operation on it has been drained.
- The queue and its eventfd end after rados_shutdown, which joins the threads that call back: a
  callback pushes first and wakes afterwards, when `drain` may long have run.
- A handle that is never shut down is leaked: there is no safe moment to guess.
- `rados_write_op_*` copy what they are given. Names end at their NUL: callers refuse a NUL.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport ENOENT, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, strlen
from libc.time cimport time_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, read

import logging
import os

from trio.lowlevel import Abort

from radosmount import switching
from radosmount.errors import InvalidArgument, StoreError, StoreFailure
from radosmount.store.interface import (
    AtVersion,
    Create,
    Existence,
    Remove,
    RemoveXattr,
    SetOmap,
    SetXattr,
    Truncate,
    Write,
    WriteFull,
    clamped_mtime_s,
)


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **string, Py_ssize_t size) except -1


cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int value, int flags)
    int EFD_CLOEXEC
    int EFD_NONBLOCK


cdef extern from "rados/librados.h" nogil:
    ctypedef void *rados_t
    ctypedef void *rados_ioctx_t
    ctypedef void *rados_completion_t
    ctypedef void *rados_read_op_t
    ctypedef void *rados_write_op_t
    ctypedef void *rados_xattrs_iter_t
    ctypedef void *rados_omap_iter_t
    ctypedef void (*rados_callback_t)(rados_completion_t completion, void *argument)
    enum:
        LIBRADOS_CREATE_EXCLUSIVE
        LIBRADOS_CREATE_IDEMPOTENT
        LIBRADOS_OPERATION_FULL_TRY

    int rados_create2(rados_t *cluster, const char *cluster_name, const char *name, uint64_t flags)
    int rados_conf_read_file(rados_t cluster, const char *path)
    int rados_conf_parse_env(rados_t cluster, const char *variable)
    int rados_conf_set(rados_t cluster, const char *option, const char *value)
    int rados_connect(rados_t cluster)
    void rados_shutdown(rados_t cluster)
    int rados_wait_for_latest_osdmap(rados_t cluster)
    int rados_pool_list(rados_t cluster, char *buffer, size_t length)
    int64_t rados_pool_lookup(rados_t cluster, const char *name)

    int rados_ioctx_create2(rados_t cluster, int64_t pool_id, rados_ioctx_t *ioctx)
    void rados_ioctx_destroy(rados_ioctx_t ioctx)
    void rados_ioctx_set_namespace(rados_ioctx_t ioctx, const char *namespace_)
    void rados_ioctx_locator_set_key(rados_ioctx_t ioctx, const char *key)
    void rados_set_pool_full_try(rados_ioctx_t ioctx)

    int rados_aio_create_completion2(void *argument, rados_callback_t callback,
                                     rados_completion_t *completion)
    int rados_aio_get_return_value(rados_completion_t completion)
    uint64_t rados_aio_get_version(rados_completion_t completion)
    void rados_aio_release(rados_completion_t completion)

    rados_read_op_t rados_create_read_op()
    void rados_release_read_op(rados_read_op_t operation)
    void rados_read_op_stat(rados_read_op_t operation, uint64_t *size, time_t *mtime, int *code)
    void rados_read_op_read(rados_read_op_t operation, uint64_t offset, size_t length,
                            char *buffer, size_t *bytes_read, int *code)
    void rados_read_op_getxattrs(rados_read_op_t operation, rados_xattrs_iter_t *iterator,
                                 int *code)
    void rados_read_op_omap_get_vals2(rados_read_op_t operation, const char *after,
                                      const char *prefix, uint64_t count,
                                      rados_omap_iter_t *iterator, unsigned char *has_more,
                                      int *code)
    void rados_read_op_omap_get_vals_by_keys2(rados_read_op_t operation, const char **keys,
                                              size_t count, const size_t *key_lengths,
                                              rados_omap_iter_t *iterator, int *code)
    int rados_aio_read_op_operate(rados_read_op_t operation, rados_ioctx_t ioctx,
                                  rados_completion_t completion, const char *name, int flags)
    int rados_getxattrs_next(rados_xattrs_iter_t iterator, const char **name,
                             const char **value, size_t *length)
    void rados_getxattrs_end(rados_xattrs_iter_t iterator)
    int rados_omap_get_next2(rados_omap_iter_t iterator, char **key, char **value,
                             size_t *key_length, size_t *value_length)
    void rados_omap_get_end(rados_omap_iter_t iterator)

    ctypedef struct rados_object_list_item:
        size_t oid_length
        char *oid
        size_t nspace_length
        char *nspace
        size_t locator_length
        char *locator

    rados_write_op_t rados_create_write_op()
    void rados_release_write_op(rados_write_op_t operation)
    void rados_write_op_assert_exists(rados_write_op_t operation)
    void rados_write_op_assert_version(rados_write_op_t operation, uint64_t version)
    void rados_write_op_create(rados_write_op_t operation, int exclusive, const char *category)
    void rados_write_op_write(rados_write_op_t operation, const char *data, size_t length,
                              uint64_t offset)
    void rados_write_op_write_full(rados_write_op_t operation, const char *data, size_t length)
    void rados_write_op_truncate(rados_write_op_t operation, uint64_t size)
    void rados_write_op_remove(rados_write_op_t operation)
    void rados_write_op_setxattr(rados_write_op_t operation, const char *name,
                                 const char *value, size_t length)
    void rados_write_op_rmxattr(rados_write_op_t operation, const char *name)
    void rados_write_op_omap_set2(rados_write_op_t operation, const char **keys,
                                  const char **values, const size_t *key_lengths,
                                  const size_t *value_lengths, size_t count)
    int rados_aio_write_op_operate(rados_write_op_t operation, rados_ioctx_t ioctx,
                                   rados_completion_t completion, const char *name,
                                   time_t *mtime, int flags)


cdef extern from *:
    """
    #include <string.h>
    #include <sys/eventfd.h>
    #include <time.h>
    #include <unistd.h>

    typedef struct rm_queue rm_queue;
    typedef struct rm_slot rm_slot;

    struct rm_slot {          /* a member of each operation */
        rm_slot *next;
        rm_queue *queue;
        PyObject *operation;  /* that it is a member of; holds a reference while in flight */
        const char *notice;   /* written to notice_fd on success, where there is one */
        size_t notice_length;
        int notice_fd;
        int64_t notified_ns;  /* not after that; CLOCK_MONOTONIC */
    };

    enum { RM_NOTICE_BYTES_MAX = 256 };

    struct rm_queue {
        rm_slot *newest;      /* what has completed, as a stack; atomic */
        int fd;               /* an eventfd, written when the stack was empty */
    };

    /* Runs on a thread of librados. The slot is gone once it is pushed. */
    static void rm_on_complete(rados_completion_t completion, void *argument)
    {
        rm_slot *slot = (rm_slot *)argument;
        rm_queue *queue = slot->queue;
        rm_slot *newest = __atomic_load_n(&queue->newest, __ATOMIC_RELAXED);
        char notice[RM_NOTICE_BYTES_MAX];
        size_t notice_length = slot->notice_length;
        int notice_fd = slot->notice_fd;
        if (notice_length != 0 && rados_aio_get_return_value(completion) < 0)
            notice_length = 0;
        if (notice_length != 0) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            slot->notified_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
            memcpy(notice, slot->notice, notice_length);
        }
        do {
            slot->next = newest;
        } while (!__atomic_compare_exchange_n(&queue->newest, &newest, slot, 1,
                                              __ATOMIC_RELEASE, __ATOMIC_RELAXED));
        /* Behind the push: who is told now finds us in the list. If nobody waits, so be it. */
        if (notice_length != 0 && write(notice_fd, notice, notice_length) < 0)
            notice_length = 0;
        if (newest == NULL)
            (void)eventfd_write(queue->fd, 1);  /* fails only on a full counter, which wakes too */
    }

    static int rm_is_empty(rm_queue *queue)
    {
        return __atomic_load_n(&queue->newest, __ATOMIC_ACQUIRE) == NULL;
    }

    /* All that has completed, oldest first. */
    static rm_slot *rm_take_all(rm_queue *queue)
    {
        rm_slot *slot = __atomic_exchange_n(&queue->newest, NULL, __ATOMIC_ACQUIRE);
        rm_slot *oldest = NULL;
        while (slot != NULL) {
            rm_slot *next = slot->next;
            slot->next = oldest;
            oldest = slot;
            slot = next;
        }
        return oldest;
    }
    """
    ctypedef struct rm_queue:
        int fd
    ctypedef struct rm_slot:
        rm_slot *next
        rm_queue *queue
        PyObject *operation
        const char *notice
        size_t notice_length
        int notice_fd
        int64_t notified_ns
    enum:
        RM_NOTICE_BYTES_MAX
    bint rm_is_empty(rm_queue *queue) nogil
    void rm_on_complete(rados_completion_t completion, void *argument) noexcept nogil
    rm_slot *rm_take_all(rm_queue *queue) nogil


# Below this, letting go of the GIL costs more than the copy it would make room for.
cdef enum:
    COPY_WITHOUT_GIL_BYTES = 65536

# The steps of a read operation that report a code of their own.
cdef enum:
    STAT, READ, XATTRS, OMAP, OMAP_EMPTY_KEY, CODE_COUNT


cdef class Lane
cdef class Traffic


cdef class Operation:
    """One operation on the object `name`, with a place for its results. Submitted once; then to be
    awaited, by one task at most. Those of `Traffic` and `Admission` are theirs.
    """

    cdef rm_slot slot
    cdef rados_completion_t completion
    cdef Ioctx ioctx  # while in flight
    cdef bytes name
    cdef readonly int code  # 0 or more, or a negative errno; valid once drained
    cdef readonly uint64_t version
    cdef readonly object key
    cdef public Py_ssize_t byte_count  # that it carries, or makes room for
    cdef readonly object failure  # why it was not even submitted
    # Of Traffic
    cdef Traffic traffic
    cdef object task  # that awaits it
    cdef bint is_answered
    cdef double deadline_s
    # Of Admission
    cdef Lane lane
    cdef bint is_running

    def __init__(self, key not None):
        """`key`: an interface.ObjectKey. Raises: InvalidArgument where librados cannot name it: at
        a NUL it would cut the name, and reach another object."""
        cdef bytes name = key.name
        if not name or memchr(PyBytes_AS_STRING(name), 0, <size_t>len(name)) != NULL:
            raise InvalidArgument(f"{name!r}: librados cannot name it")
        self.key = key
        self.name = name

    def __await__(self):
        """Until it is answered. Who stops waiting leaves it to itself; see `Traffic`."""
        if self.is_answered:  # as it is when refused at once
            return iter(())
        self.task = switching.current_task()
        return switching.park(self.abandon).__await__()

    def abandon(self, _=None):
        """Nobody waits for the answer any more."""
        self.task = None
        if self.traffic is not None:  # else it is answered, or was never sent
            self.traffic.drop(self)
        return Abort.SUCCEEDED

    @property
    def is_well(self):
        return self.failure is None and self.code >= 0

    @property
    def is_missing(self):
        """Whether the answer is that there is no such object, or pool."""
        return self.failure is None and self.code == -ENOENT

    cdef int operate(self, rados_ioctx_t ioctx, const char *name) noexcept nogil:
        return -22  # EINVAL: this class has no steps

    cdef void release_steps(self) noexcept:
        pass

    cdef void take_codes(self) noexcept:
        pass


cdef class ReadOperation(Operation):
    """Reads of one object at one version: each `add_` at most once."""

    cdef rados_read_op_t steps
    cdef int[<int>CODE_COUNT] codes
    cdef readonly uint64_t size
    cdef time_t mtime
    cdef size_t bytes_read
    cdef size_t buffer_size
    cdef PyObject *buffer  # bytes that nobody else sees until `data`; librados writes to them
    cdef rados_xattrs_iter_t xattrs_iterator
    cdef rados_omap_iter_t omap_iterator, empty_key_iterator
    cdef unsigned char has_more
    cdef bytes after  # the omap's

    def __cinit__(self, key):
        self.steps = rados_create_read_op()

    def __dealloc__(self):
        # Not in flight: the operation would still hold itself.
        self.release_steps()
        Py_XDECREF(self.buffer)
        if self.xattrs_iterator != NULL:
            rados_getxattrs_end(self.xattrs_iterator)
        if self.omap_iterator != NULL:
            rados_omap_get_end(self.omap_iterator)
        if self.empty_key_iterator != NULL:
            rados_omap_get_end(self.empty_key_iterator)

    def add_stat(self):
        rados_read_op_stat(self.steps, &self.size, &self.mtime, &self.codes[<int>STAT])

    def add_read(self, uint64_t offset, size_t length):
        """`length` is not 0: to an OSD that means all there is."""
        if length == 0 or self.buffer != NULL:
            raise ValueError("one read of at least one byte")
        buffer = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        Py_INCREF(buffer)
        self.buffer = <PyObject *>buffer
        self.buffer_size = length
        rados_read_op_read(self.steps, offset, length, PyBytes_AS_STRING(buffer),
                           &self.bytes_read, &self.codes[<int>READ])

    def add_xattrs(self):
        if self.xattrs_iterator == NULL:
            rados_read_op_getxattrs(self.steps, &self.xattrs_iterator, &self.codes[<int>XATTRS])

    def add_omap(self, bytes after not None, uint64_t count):
        """The page after that key; with b"" from the start, the empty key included."""
        cdef const char *keys[1]
        cdef size_t key_lengths[1]
        if self.omap_iterator != NULL:
            raise ValueError("one page")
        self.after = after
        rados_read_op_omap_get_vals2(self.steps, PyBytes_AS_STRING(after), b"", count,
                                     &self.omap_iterator, &self.has_more, &self.codes[<int>OMAP])
        if not after:  # the pages begin after the empty key
            keys[0] = b""
            key_lengths[0] = 0
            rados_read_op_omap_get_vals_by_keys2(
                self.steps, keys, 1, key_lengths, &self.empty_key_iterator,
                &self.codes[<int>OMAP_EMPTY_KEY])

    @property
    def mtime_s(self):
        return self.mtime

    @property
    def has_more_omap(self):
        return self.has_more != 0

    def data(self):
        """What was read; only once. librados tells apart what it wrote from what it did not."""
        if self.buffer == NULL:
            return b""
        if self.bytes_read < self.buffer_size:
            _PyBytes_Resize(&self.buffer, <Py_ssize_t>self.bytes_read)
        data = <object>self.buffer
        Py_XDECREF(self.buffer)
        self.buffer = NULL
        return data

    def xattrs(self):
        """A dict; only once."""
        cdef const char *name = NULL
        cdef const char *value = NULL
        cdef size_t length = 0
        found = {}
        while self.xattrs_iterator != NULL:
            if rados_getxattrs_next(self.xattrs_iterator, &name, &value, &length) < 0:
                raise MemoryError
            if name == NULL:
                break
            found[<bytes>name] = b"" if length == 0 else value[:length]
        return found

    def omap(self):
        """A list of key and value, in order; only once."""
        found = []
        collect(self.empty_key_iterator, found)
        collect(self.omap_iterator, found)
        return found

    cdef int operate(self, rados_ioctx_t ioctx, const char *name) noexcept nogil:
        return rados_aio_read_op_operate(self.steps, ioctx, self.completion, name, 0)

    cdef void release_steps(self) noexcept:
        if self.steps != NULL:
            rados_release_read_op(self.steps)
            self.steps = NULL

    cdef void take_codes(self) noexcept:
        cdef int index
        for index in range(<int>CODE_COUNT):
            if self.code >= 0 and self.codes[index] < 0:
                self.code = self.codes[index]


cdef int collect(rados_omap_iter_t iterator, list found) except -1:
    cdef char *key = NULL
    cdef char *value = NULL
    cdef size_t key_length = 0
    cdef size_t value_length = 0
    while iterator != NULL:
        if rados_omap_get_next2(iterator, &key, &value, &key_length, &value_length) < 0:
            raise MemoryError
        if key == NULL:
            break
        found.append((key[:key_length], b"" if value_length == 0 else value[:value_length]))
    return 0


cdef class WriteOperation(Operation):
    """Steps that take place together or not at all; data is copied when it is added."""

    cdef rados_write_op_t steps
    cdef time_t mtime
    cdef bytes notice
    cdef object change  # whose steps are added when it is admitted

    def __cinit__(self, key):
        self.steps = rados_create_write_op()

    def __dealloc__(self):
        self.release_steps()

    def set_notice(self, int fd, bytes message not None):
        """What librados's thread writes to `fd` on success, before anyone else hears of it."""
        if len(message) > RM_NOTICE_BYTES_MAX:
            raise ValueError("a longer notice than there is room for")
        self.notice = message
        self.slot.notice = PyBytes_AS_STRING(message)
        self.slot.notice_length = <size_t>len(message)
        self.slot.notice_fd = fd

    @property
    def notified_ns(self):
        """When it was told, once it is answered: a time that is not after that."""
        return self.slot.notified_ns

    def set_mtime(self, int64_t mtime_s):
        """0, as from the start: what is there stays."""
        self.mtime = mtime_s

    def assert_exists(self):
        rados_write_op_assert_exists(self.steps)

    def assert_version(self, uint64_t version):
        rados_write_op_assert_version(self.steps, version)

    def create(self, bint is_exclusive):
        rados_write_op_create(
            self.steps,
            LIBRADOS_CREATE_EXCLUSIVE if is_exclusive else LIBRADOS_CREATE_IDEMPOTENT, NULL)

    def write(self, bytes data not None, uint64_t offset):
        cdef const char *start = PyBytes_AS_STRING(data)
        cdef size_t length = <size_t>len(data)
        if length < COPY_WITHOUT_GIL_BYTES:
            rados_write_op_write(self.steps, start, length, offset)
        else:
            with nogil:
                rados_write_op_write(self.steps, start, length, offset)

    def write_full(self, bytes data not None):
        cdef const char *start = PyBytes_AS_STRING(data)
        cdef size_t length = <size_t>len(data)
        if length < COPY_WITHOUT_GIL_BYTES:
            rados_write_op_write_full(self.steps, start, length)
        else:
            with nogil:
                rados_write_op_write_full(self.steps, start, length)

    def truncate(self, uint64_t size):
        rados_write_op_truncate(self.steps, size)

    def remove(self):
        rados_write_op_remove(self.steps)

    def set_xattr(self, bytes name not None, bytes value not None):
        rados_write_op_setxattr(self.steps, PyBytes_AS_STRING(name), PyBytes_AS_STRING(value),
                                <size_t>len(value))

    def remove_xattr(self, bytes name not None):
        rados_write_op_rmxattr(self.steps, PyBytes_AS_STRING(name))

    def set_omap(self, bytes key not None, bytes value not None):
        cdef const char *keys[1]
        cdef const char *values[1]
        cdef size_t key_lengths[1]
        cdef size_t value_lengths[1]
        keys[0], key_lengths[0] = PyBytes_AS_STRING(key), <size_t>len(key)
        values[0], value_lengths[0] = PyBytes_AS_STRING(value), <size_t>len(value)
        rados_write_op_omap_set2(self.steps, keys, values, key_lengths, value_lengths, 1)

    cdef int operate(self, rados_ioctx_t ioctx, const char *name) noexcept nogil:
        # Without the flag a full pool blocks every write, even the removal that makes room.
        return rados_aio_write_op_operate(self.steps, ioctx, self.completion, name, &self.mtime,
                                          LIBRADOS_OPERATION_FULL_TRY)

    cdef void release_steps(self) noexcept:
        if self.steps != NULL:
            rados_release_write_op(self.steps)
            self.steps = NULL


cdef class Ioctx:
    """Reaches one pool, namespace and locator key, for life. From Handle.open_ioctx."""

    cdef Handle handle
    cdef rados_ioctx_t ioctx  # NULL once destroyed
    cdef Py_ssize_t in_flight_count
    cdef bint is_retired

    def submit(self, Operation operation not None):
        """Send it. Returns 0, and `Handle.drain` will have it; or a negative errno, and not.

        Does not wait for the cluster below librados's bounds (objecter_inflight_ops, _op_bytes).
        """
        cdef rados_ioctx_t ioctx = self.ioctx
        cdef const char *name
        cdef int code
        if ioctx == NULL or self.is_retired or operation.slot.queue != NULL:
            raise RuntimeError("submit: a closed ioctx, or an operation submitted before")
        code = rados_aio_create_completion2(&operation.slot, rm_on_complete,
                                            &operation.completion)
        if code < 0:
            return code
        name = PyBytes_AS_STRING(operation.name)
        operation.slot.queue = self.handle.queue
        operation.slot.operation = <PyObject *>operation
        operation.ioctx = self
        Py_INCREF(operation)  # given back by `settle`
        self.in_flight_count += 1
        self.handle.in_flight_count += 1
        with nogil:
            code = operation.operate(ioctx, name)
        operation.release_steps()
        if code < 0:  # there will be no callback
            operation.code = code
            settle(operation)
            return code
        return 0

    def retire(self):
        """No more `submit`. Destroyed once nothing is in flight on it."""
        self.is_retired = True
        self.destroy_if_unused()

    cdef void destroy_if_unused(self) noexcept:
        if self.is_retired and self.in_flight_count == 0 and self.ioctx != NULL:
            rados_ioctx_destroy(self.ioctx)
            self.ioctx = NULL
            self.handle.ioctx_count -= 1


def decode_listing(size_t address, Py_ssize_t count):
    """What `rados_object_list` wrote there: a list of (namespace, name, locator) of the objects
    that librados can name, those without a NUL."""
    cdef rados_object_list_item *item = <rados_object_list_item *>address
    cdef rados_object_list_item *end = item + count
    listed = []
    while item < end:
        if (memchr(item.oid, 0, item.oid_length) == NULL
                and (item.locator_length == 0
                     or memchr(item.locator, 0, item.locator_length) == NULL)):
            listed.append((text(item.nspace, item.nspace_length),
                           text(item.oid, item.oid_length),
                           text(item.locator, item.locator_length)))
        item += 1
    return listed


cdef bytes text(const char *start, size_t length):
    return PyBytes_FromStringAndSize(start, <Py_ssize_t>length) if length else b""


cdef void settle(Operation operation) noexcept:
    """It is not in flight any more: give back what `submit` took."""
    cdef Ioctx ioctx = operation.ioctx
    rados_aio_release(operation.completion)
    operation.completion = NULL
    operation.ioctx = None
    ioctx.in_flight_count -= 1
    ioctx.handle.in_flight_count -= 1
    ioctx.destroy_if_unused()
    Py_DECREF(operation)


cdef class Handle:
    """A connection to a cluster. To be ended by `shutdown`. Codes are 0 or negative errnos."""

    cdef rados_t cluster  # NULL once shut down
    cdef rm_queue *queue
    cdef readonly Py_ssize_t in_flight_count
    cdef readonly Py_ssize_t ioctx_count

    def __init__(self, str cluster not None, str name not None):
        """Raises: OSError."""
        if self.queue != NULL:
            raise RuntimeError("a handle is made once")
        self.queue = <rm_queue *>calloc(1, sizeof(rm_queue))
        if self.queue == NULL:
            raise MemoryError
        self.queue.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.queue.fd < 0:
            raise OSError(errno, os.strerror(errno))
        code = rados_create2(&self.cluster, cluster.encode(), name.encode(), 0)
        if code < 0:
            self.cluster = NULL
            raise OSError(-code, os.strerror(-code))

    def __dealloc__(self):
        # Not shut down: threads of librados may still write to the queue.
        if self.queue != NULL and self.queue.fd < 0:
            free(self.queue)

    def read_conf(self, path):
        """`path`: str, or None for the places that librados knows."""
        if path is None:
            return rados_conf_read_file(self.cluster, NULL)
        return rados_conf_read_file(self.cluster, os.fsencode(path))

    def parse_environment(self):
        return rados_conf_parse_env(self.cluster, b"CEPH_ARGS")

    def set_option(self, str key not None, str value not None):
        return rados_conf_set(self.cluster, key.encode(), value.encode())

    def connect(self):
        """Blocks, for at most client_mount_timeout."""
        cdef int code
        with nogil:
            code = rados_connect(self.cluster)
        return code

    def fetch_osdmap(self):
        """Blocks, for as long as no monitor answers."""
        cdef int code
        with nogil:
            code = rados_wait_for_latest_osdmap(self.cluster)
        return code

    def fileno(self):
        """Readable when `drain` has something."""
        return self.queue.fd

    cdef list drain(self):
        """All operations that have completed since the last call, oldest first."""
        cdef uint64_t count
        cdef rm_slot *slot
        cdef rm_slot *following
        cdef Operation operation
        drained = []
        # In this order: what is pushed after the look into the list writes anew.
        read(self.queue.fd, &count, sizeof(count))
        slot = rm_take_all(self.queue)
        while slot != NULL:
            following = slot.next
            operation = <Operation>slot.operation
            operation.code = rados_aio_get_return_value(operation.completion)
            operation.version = rados_aio_get_version(operation.completion)
            operation.take_codes()
            settle(operation)
            drained.append(operation)
            slot = following
        return drained

    cpdef bint pool_exists(self, int64_t pool_id) except -1:
        """Whether the osdmap that this handle has seen holds the pool. Never waits.

        By names: librados asks a monitor about an id that it does not know, without limit.
        """
        cdef int length
        cdef char *names
        cdef char *name
        cdef bint is_found = False
        if self.cluster == NULL:
            return False
        length = rados_pool_list(self.cluster, NULL, 0)
        if length <= 0:
            return False
        names = <char *>calloc(1, <size_t>length + 2)
        if names == NULL:
            raise MemoryError
        rados_pool_list(self.cluster, names, <size_t>length)
        name = names
        while name[0] != 0 and not is_found:
            is_found = rados_pool_lookup(self.cluster, name) == pool_id
            name += strlen(name) + 1
        free(names)
        return is_found

    def open_ioctx(self, int64_t pool_id, bytes namespace not None, bytes locator not None):
        """The caller has seen that `pool_exists`. Raises: OSError."""
        cdef Ioctx opened = Ioctx.__new__(Ioctx)
        cdef int code
        if self.cluster == NULL:
            raise OSError(107, "the handle is shut down")
        with nogil:
            code = rados_ioctx_create2(self.cluster, pool_id, &opened.ioctx)
        if code < 0:
            opened.ioctx = NULL
            raise OSError(-code, os.strerror(-code))
        rados_set_pool_full_try(opened.ioctx)
        if namespace:
            rados_ioctx_set_namespace(opened.ioctx, PyBytes_AS_STRING(namespace))
        if locator:
            rados_ioctx_locator_set_key(opened.ioctx, PyBytes_AS_STRING(locator))
        opened.handle = self
        self.ioctx_count += 1
        return opened

    def shutdown(self):
        """Idempotent; blocks while librados's threads end. Nothing may be in flight, no ioctx
        open: RuntimeError otherwise, since librados would crash."""
        cdef rados_t cluster = self.cluster
        if cluster == NULL:
            return
        if self.in_flight_count or self.ioctx_count:
            raise RuntimeError("shutdown of a handle in use")
        self.cluster = NULL
        with nogil:
            rados_shutdown(cluster)
        # librados's threads are gone, and with them whoever could write to it.
        close(self.queue.fd)
        self.queue.fd = -1


include "traffic.pxi"
