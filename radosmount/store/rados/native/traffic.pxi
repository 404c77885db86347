# Part of _native.pyx: which operations are in flight, which wait, and who is answered. All of it on
# the trio thread. In C, since it is passed by every operation: see docs/decisions/0014.

cdef object log = logging.getLogger("radosmount.store.rados.native")
cdef object ANY = Existence.ANY
cdef object ABSENT = Existence.ABSENT
cdef object PRESENT = Existence.PRESENT

cdef enum:
    IOCTX_COUNT_MAX = 64  # objects with locator keys could else pile them up


cdef double now_s() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec / 1e9


# --- A change as the steps of one operation


def carried_bytes(change):
    """How much data the operation will hold."""
    cdef Py_ssize_t count = 0
    for step in change.steps:
        kind = type(step)
        if kind is Write or kind is WriteFull:
            count += len(step.data)
        elif kind is SetXattr:
            count += len(step.value)
        elif kind is SetOmap:
            for name, value in step.entries.items():
                count += len(name) + len(value)
    return count


def build(WriteOperation operation not None, change):
    """The guard, then the steps. Raises: InvalidArgument."""
    add_guard(operation, change.guard)
    for step in change.steps:
        add_step(operation, step)
    if change.mtime_s is not None:
        operation.set_mtime(clamped_mtime_s(change.mtime_s))
    if change.notice is not None:
        operation.set_notice(change.notice.fd, change.notice.message)


cdef int add_guard(WriteOperation operation, guard) except -1:
    if type(guard) is AtVersion:
        operation.assert_version(guard.version)
    elif guard is ABSENT:
        operation.create(True)
    elif guard is PRESENT:
        operation.assert_exists()
    else:
        assert guard is ANY, guard
    return 0


cdef int add_step(WriteOperation operation, step) except -1:
    kind = type(step)
    if kind is WriteFull:
        operation.write_full(bytes(step.data))
    elif kind is Write:
        if step.data:
            operation.write(bytes(step.data), step.offset)
        else:
            operation.create(False)  # librados would grow the object to the offset
    elif kind is Create:
        operation.create(False)
    elif kind is SetXattr:
        operation.set_xattr(checked_xattr_name(step.name), bytes(step.value))
    elif kind is RemoveXattr:
        operation.remove_xattr(checked_xattr_name(step.name))
    elif kind is Truncate:
        operation.create(False)  # alone it would do nothing on a missing object
        operation.truncate(step.size)
    elif kind is Remove:
        operation.remove()
    else:
        assert kind is SetOmap, step
        for name, value in step.entries.items():
            operation.set_omap(name, value)
    return 0


cdef bytes checked_xattr_name(bytes name):
    """The empty name is acknowledged and lost: the OSD keeps its own object info there."""
    if not name or memchr(PyBytes_AS_STRING(name), 0, <size_t>len(name)) != NULL:
        raise InvalidArgument(f"{name!r} is no xattr name")
    return name


# --- Admission


cdef class Lane:
    """The operations of one pool: bounded in number and bytes, and FIFO."""

    cdef object key
    cdef dict waiting  # in order; O(1) to withdraw
    cdef Py_ssize_t running_count, running_bytes
    cdef bint is_ready  # it stands in `Admission.ready`

    def __cinit__(self, key):
        self.key = key
        self.waiting = {}

    cdef Operation first(self):
        for operation in self.waiting:
            return operation
        return None


cdef class Admission:
    """Which operations may be in flight: bounds, and the order of those that wait.

    librados would block its caller, the loop, at bounds of its own, so we stay below them; and one
    dead pool must leave room for the others: so lanes take turns.

    Invariant: an operation runs, waits in its lane, or is not known here. One that alone exceeds a
    bound of bytes runs when nothing else does there.
    """

    cdef Py_ssize_t lane_count_max, lane_bytes_max, bytes_max
    cdef dict lanes
    cdef list ready  # lanes that could run one
    cdef Py_ssize_t running_bytes, running_count, waiting_count

    def __init__(self, Py_ssize_t lane_count_max, Py_ssize_t lane_bytes_max, Py_ssize_t bytes_max):
        """`bytes_max`: of all lanes together."""
        self.lane_count_max = lane_count_max
        self.lane_bytes_max = lane_bytes_max
        self.bytes_max = bytes_max
        self.lanes = {}
        self.ready = []

    @property
    def is_idle(self):
        return self.running_count == 0 and self.waiting_count == 0

    cpdef bint enter(self, lane_key, Operation operation) except -1:
        """Whether it may run now; else `leave` or `withdraw` will tell."""
        cdef Lane lane = self.lanes.get(lane_key)
        if lane is None:
            lane = self.lanes[lane_key] = Lane(lane_key)
        operation.lane = lane
        if self.waiting_count == 0 and self.has_room(lane, operation):
            self.run(lane, operation)
            return True
        lane.waiting[operation] = None
        self.waiting_count += 1
        self.settle(lane)
        started = self.start()
        assert started == [] or started == [operation], "who had room before would run by now"
        return bool(started)

    cpdef list leave(self, Operation operation):
        """It runs no more. Returns those that run now instead."""
        cdef Lane lane = operation.lane
        assert operation.is_running, "it does not run"
        operation.is_running = False
        lane.running_count -= 1
        lane.running_bytes -= operation.byte_count
        self.running_count -= 1
        self.running_bytes -= operation.byte_count
        if self.waiting_count == 0:
            self.forget_if_unused(lane)
            return []
        self.settle(lane)
        return self.start()

    cpdef bint withdraw(self, Operation operation) except -1:
        """Whether it still waited, and now does not. Others may have room then: see `started`."""
        cdef Lane lane = operation.lane
        if lane is None or operation not in lane.waiting:
            return False
        del lane.waiting[operation]
        self.waiting_count -= 1
        self.forget_if_unused(lane)
        return True

    cpdef list withdraw_all(self):
        cdef Lane lane
        waiting = []
        for lane in self.lanes.values():
            waiting.extend(lane.waiting)
        for operation in waiting:
            self.withdraw(operation)
        return waiting

    cpdef list started(self):
        """Those that run now, after `withdraw`: a large one may have stood before them."""
        for lane in list(self.lanes.values()):
            self.settle(lane)
        return self.start()

    cdef list start(self):
        cdef Lane lane
        cdef Operation operation
        started = []
        while self.ready:
            lane = self.ready[0]
            operation = lane.first()
            if operation is not None and not self.has_total_room(operation):
                break  # nothing passes it, or a large one would wait for ever
            self.ready.pop(0)
            lane.is_ready = False
            if operation is not None:
                del lane.waiting[operation]
                self.waiting_count -= 1
                self.run(lane, operation)
                started.append(operation)
            self.settle(lane)
        return started

    cdef void run(self, Lane lane, Operation operation) noexcept:
        operation.is_running = True
        lane.running_count += 1
        lane.running_bytes += operation.byte_count
        self.running_count += 1
        self.running_bytes += operation.byte_count

    cdef int settle(self, Lane lane) except -1:
        """Let the lane stand in line while it could run its first."""
        cdef Operation first = lane.first()
        if first is None:
            self.forget_if_unused(lane)
        elif not lane.is_ready and self.has_lane_room(lane, first):
            lane.is_ready = True
            self.ready.append(lane)
        return 0

    cdef int forget_if_unused(self, Lane lane) except -1:
        # Perhaps it was before, and another lane of that key is there by now.
        if not lane.waiting and lane.running_count == 0 and self.lanes.get(lane.key) is lane:
            del self.lanes[lane.key]
        return 0

    cdef bint has_room(self, Lane lane, Operation operation) noexcept:
        return self.has_lane_room(lane, operation) and self.has_total_room(operation)

    cdef bint has_lane_room(self, Lane lane, Operation operation) noexcept:
        return lane.running_count == 0 or (
            lane.running_count < self.lane_count_max
            and lane.running_bytes + operation.byte_count <= self.lane_bytes_max
        )

    cdef bint has_total_room(self, Operation operation) noexcept:
        cdef Py_ssize_t total = self.running_bytes + operation.byte_count
        return total <= self.bytes_max or self.running_bytes == 0


# --- From a call to its answer


cdef class Traffic:
    """All operations of a handle, from `send` to their answer.

        send ──> Admission ──> Ioctx.submit ──> librados
        who awaits the operation <── settle <── deliver <── one eventfd for many completions

    A task that stops waiting leaves its operation to itself: what librados uses belongs to the
    operation, which lives until it has completed. What nobody waits for and nobody can see (a read)
    does not begin.
    """

    cdef readonly Handle handle
    cdef readonly Admission admission
    cdef dict droppable  # that wait for their answer, oldest first
    cdef dict ioctxs     # by (pool id, namespace, locator), the last used at the end
    cdef object last_place
    cdef Ioctx last_ioctx
    cdef object open_ioctx, failure_of
    cdef public object on_ended  # called, if not None, when one has ended

    def __init__(self, Handle handle not None, Admission admission not None, open_ioctx,
                 failure_of):
        """`open_ioctx(key)`: an Ioctx, or raises a StoreError. `failure_of(key, code)`: the
        StoreError for a code."""
        self.handle = handle
        self.admission = admission
        self.droppable = {}
        self.ioctxs = {}
        self.open_ioctx = open_ioctx
        self.failure_of = failure_of

    def reaches(self, key):
        """Whether an operation on it can be sent without asking anyone."""
        place = (key.pool_id, key.namespace, key.locator)
        return place == self.last_place or place in self.ioctxs or (
            self.handle.pool_exists(key.pool_id))

    def send(self, Operation operation not None, change=None):
        """As soon as there is room for it. `change`: its steps, copied only then, so that what
        waits is held once."""
        if change is not None:
            (<WriteOperation?>operation).change = change
        operation.traffic = self
        if self.admission.enter(operation.key.pool_id, operation):
            self.submit(operation)

    def send_droppable(self, Operation operation not None, double timeout_s):
        """One of which nothing can be seen: `overdue` has it when that time is over."""
        operation.deadline_s = now_s() + timeout_s
        self.droppable[operation] = None
        self.send(operation)

    def deliver(self, bint is_signalled):
        """Answer all that have completed. `is_signalled`: the handle's descriptor says so."""
        if not is_signalled and rm_is_empty(self.handle.queue):
            return
        for operation in self.handle.drain():
            self.settle(operation, None)

    def refuse_overdue(self, failure):
        """Answer `failure()` to those that are too old, and leave them to themselves. One by one:
        what begins instead may fail at once, and be answered."""
        cdef Operation operation
        cdef double at_s = now_s()
        while self.droppable:
            operation = next(iter(self.droppable))
            if at_s < operation.deadline_s:
                return
            task, operation.failure = operation.task, failure()
            operation.is_answered = True
            operation.abandon()
            if task is not None:
                switching.wake(task)

    def refuse_waiting(self, failure):
        """Answer `failure()` to those that have not begun; they will not."""
        for operation in self.admission.withdraw_all():
            self.answer(operation, failure())

    def retire(self):
        """The end: no more `send`."""
        self.last_place = self.last_ioctx = None
        for ioctx in self.ioctxs.values():
            ioctx.retire()
        self.ioctxs.clear()

    cdef int submit(self, Operation operation) except -1:
        """It has been admitted. A failure is its answer."""
        failure = None
        try:
            if isinstance(operation, WriteOperation) and (<WriteOperation>operation).change is not None:
                build(operation, (<WriteOperation>operation).change)
                (<WriteOperation>operation).change = None
            code = self.ioctx(operation.key).submit(operation)
            if code < 0:
                failure = self.failure_of(operation.key, code)
        except StoreError as refusal:
            failure = refusal
        except Exception as bug:  # must not end who delivers all answers
            log.exception("submitting %s", operation.key)
            failure = StoreFailure(f"{operation.key.name!r}: {bug!r}")
        if failure is not None:
            self.settle(operation, failure)
        return 0

    cdef int settle(self, Operation operation, failure) except -1:
        """It has ended, or never began: answer, and let others begin."""
        self.answer(operation, failure)
        for started in self.admission.leave(operation):
            self.submit(started)
        self.tell_ended()
        return 0

    cdef int answer(self, Operation operation, failure) except -1:
        task = operation.task
        if self.droppable:
            self.droppable.pop(operation, None)
        operation.failure = failure
        operation.is_answered = True
        operation.traffic = None
        if task is not None:
            operation.task = None
            switching.wake(task)
        return 0

    cdef int drop(self, Operation operation) except -1:
        """Nobody waits for it; if nothing can be seen of it either, it does not begin."""
        if operation in self.droppable:
            del self.droppable[operation]
            if self.admission.withdraw(operation):
                for started in self.admission.started():
                    self.submit(started)
                self.tell_ended()
        return 0

    cdef int tell_ended(self) except -1:
        if self.on_ended is not None:
            self.on_ended()
        return 0

    cdef Ioctx ioctx(self, key):
        """Raises: StoreError."""
        cdef Ioctx found
        place = (key.pool_id, key.namespace, key.locator)
        if place == self.last_place:
            return self.last_ioctx
        found = self.ioctxs.pop(place, None)
        if found is None:
            found = self.open_ioctx(key)
        self.ioctxs[place] = self.last_ioctx = found
        self.last_place = place
        if len(self.ioctxs) > IOCTX_COUNT_MAX:
            # It lives on while something is in flight on it.
            self.ioctxs.pop(next(iter(self.ioctxs))).retire()
        return found
