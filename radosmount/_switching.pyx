# cython: language_level=3
"""Steps of trio's tasks without trio's scheduler in between: see switching.py, which explains it.

    Pump.run:   what is ready ──> steps of tasks ──> what they made ready ──> ...
                nothing ready ──> epoll: device, attended descriptors, trio's own
                trio has something to do ──> return, for one round of trio's loop

A step is what trio's run loop does with a task whose turn it is: this follows `unrolled_run` of
trio/_core/_run.py, with its private names. All of it happens on the trio thread, below the one
task that calls `Pump.run`; nothing here waits but for events, without the GIL.
"""

from libc.errno cimport EINTR, ENOENT, errno
from libc.stdint cimport int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

import collections
import os

import outcome
import trio
from trio._core import _run, _traps


cdef extern from "sys/epoll.h" nogil:
    cdef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLLIN
        EPOLLERR
        EPOLLHUP
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int what, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int count, int timeout_ms)


cdef object CONTEXT = _run.GLOBAL_RUN_CONTEXT
cdef object WAIT_MESSAGE = _traps.WaitTaskRescheduled
cdef object CHECKPOINT_MESSAGE = _traps.CancelShieldedCheckpoint
cdef object DETACH_MESSAGE = _traps.PermanentlyDetachCoroutineObject
cdef object Value = outcome.Value
cdef object Error = outcome.Error

cdef enum:
    EVENT_COUNT_MAX = 16
    BLOCK_MS_MAX = 3600000  # trio looks at its deadlines anew then
    PAUSE_NS = 4000  # between two looks: whoever asks needs the locks of what is looked at

_run.Task._cancel_status  # AttributeError: another trio than we know

# The pump of this process's mount, while it serves.
cdef Pump active = None
# Whether the running task was resumed by it, and so may hand it a Park.
cdef bint is_stepping = False


cdef int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef int64_t pause_until(int64_t until_ns) noexcept nogil:
    """Returns what the time is then."""
    cdef int64_t now = now_ns()
    while now < until_ns:
        now = now_ns()
    return now


cdef class Park:
    """What a task awaits until it is woken; `abort`: as of trio's wait_task_rescheduled."""

    cdef object abort
    cdef bint is_parked

    def __init__(self, abort):
        self.abort = abort

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_parked:
            raise StopIteration
        self.is_parked = True
        if is_stepping:
            return self
        return WAIT_MESSAGE(self.abort)

    def send(self, sent):
        if not self.is_parked:
            return self.__next__()
        if type(sent) is Value:  # by trio
            raise StopIteration(sent.value)
        if type(sent) is Error:
            sent.unwrap()
        raise StopIteration(sent)


def park(abort):
    """Wait until `wake`. To be awaited at once."""
    return Park(abort)


def wake(task, sent=None):
    """Let a task that is parked go on: with a value, or an outcome.Error to raise."""
    if active is None:
        trio.lowlevel.reschedule(task, as_outcome(sent))
    else:
        active.make_ready(task, sent)


cdef object as_outcome(sent):
    return sent if type(sent) is Error else Value(sent)


def pump():
    """The one that is active, or None."""
    return active


def context():
    """Trio's, of this thread."""
    return CONTEXT


def current_task():
    return CONTEXT.task


def is_cancelled():
    return CONTEXT.task._cancel_status.effectively_cancelled


def current_time():
    """By trio's clock, in seconds."""
    if active is None:
        return trio.current_time()
    return active.time_s()


cdef class Due:
    """An instrument of trio's: the tasks that wait for their turn in a round of its loop."""

    cdef set tasks

    def __init__(self):
        self.tasks = set()

    def task_scheduled(self, task):
        self.tasks.add(task)

    def before_task_step(self, task):
        self.tasks.discard(task)


cdef class Pump:
    """`source`: the device; `source.next()` is a request or None, `source.is_ended` its end."""

    cdef object source
    cdef object ready          # deque of (task, what it is sent)
    cdef list idle             # workers that wait for a request, the last one to be used first
    cdef dict attended         # by descriptor: the task that waits, and what is called
    cdef tuple takers          # its values
    cdef set registered        # descriptors in our epoll
    cdef object runner, deadlines
    cdef Due due
    cdef set due_tasks         # the same as `due.tasks`
    cdef int epoll_fd, trio_fd, source_fd
    cdef bint is_watching_source
    cdef int64_t spin_ns, turn_ns
    cdef double clock_offset_s  # of trio's clock, to CLOCK_MONOTONIC
    cdef int64_t look_at_ns     # when deadlines of trio's are due to be looked at, at the latest
    cdef public Py_ssize_t worker_count

    def __init__(self, source, double spin_s, double turn_s):
        """`spin_s`: how long to look for the next request before sleeping; `turn_s`: how late
        a deadline of trio's may be noticed while there is always something to do."""
        self.source = source
        self.spin_ns = <int64_t>(spin_s * 1e9)
        self.turn_ns = <int64_t>(turn_s * 1e9)
        self.ready = collections.deque()
        self.idle = []
        self.attended = {}
        self.takers = ()
        self.registered = set()
        self.epoll_fd = -1
        self.source_fd = source.fileno()

    def __enter__(self):
        global active
        if active is not None:
            raise RuntimeError("there is one pump a process")
        self.runner = CONTEXT.runner
        self.deadlines = self.runner.deadlines
        self.clock_offset_s = self.runner.clock.current_time() - now_ns() / 1e9
        self.trio_fd = self.runner.io_manager._epoll.fileno()
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.control(EPOLL_CTL_ADD, self.trio_fd, EPOLLIN)
        self.control(EPOLL_CTL_ADD, self.source_fd, EPOLLIN)
        self.is_watching_source = True
        self.due = Due()
        self.due_tasks = self.due.tasks
        trio.lowlevel.add_instrument(self.due)
        active = self
        return self

    async def settle(self):
        """Before the first `run`: after two rounds whatever is due was seen to become so."""
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    def __exit__(self, *failure):
        global active
        active = None
        trio.lowlevel.remove_instrument(self.due)
        close(self.epoll_fd)
        self.epoll_fd = -1
        attended, self.attended, self.takers = self.takers, {}, ()
        for task, _ in attended:  # to wait by trio instead
            self.ready.append((task, None))
        while self.ready:
            task, sent = self.ready.popleft()
            trio.lowlevel.reschedule(task, as_outcome(sent))

    cdef double time_s(self):
        return self.clock_offset_s + now_ns() / 1e9

    cdef int control(self, int what, int fd, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = fd
        if epoll_ctl(self.epoll_fd, what, fd, &event) < 0 and errno != ENOENT:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef make_ready(self, task, sent):
        task._abort_func = None  # as by trio's reschedule: it cannot be cancelled any more
        self.ready.append((task, sent))

    # Descriptors and requests

    async def attend(self, int fd, take):
        """Call `take` as `switching.attend` says, until the pump ends.

        Raises: trio.ClosedResourceError after `forget`.
        """
        if fd not in self.registered:
            self.control(EPOLL_CTL_ADD, fd, EPOLLIN)
            self.registered.add(fd)
        self.attended[fd] = (CONTEXT.task, take)
        self.takers = tuple(self.attended.values())

        def leave(_):
            self.end_attention(fd)
            return trio.lowlevel.Abort.SUCCEEDED

        await Park(leave)

    def forget(self, int fd):
        """It is about to be closed."""
        if fd in self.registered:
            self.registered.discard(fd)
            self.control(EPOLL_CTL_DEL, fd, 0)
        task = self.end_attention(fd)
        if task is not None:
            self.make_ready(task, Error(trio.ClosedResourceError("it is being closed")))

    cdef object end_attention(self, fd):
        """The task that waited, or None."""
        attendant = self.attended.pop(fd, None)
        self.takers = tuple(self.attended.values())
        return None if attendant is None else attendant[0]

    def request(self):
        """For a worker to await: its next request."""
        task = CONTEXT.task
        self.idle.append(task)

        def leave(_):
            self.idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        return Park(leave)

    @property
    def idle_count(self):
        return len(self.idle)

    # Running

    def run(self):
        """Until trio has something to do (True), or the source has ended and no worker is busy.

        Raises: what a signal handler raises.
        """
        own_task = CONTEXT.task
        self.look_at_ns = 0
        self.source.note_change()  # by trio's tasks
        try:
            has_more = self.run_while_alone()
            self.step_finished()  # before a deadline can end the wait for it
            return has_more
        finally:
            CONTEXT.task = own_task

    cdef bint run_while_alone(self) except -1:
        cdef epoll_event events[EVENT_COUNT_MAX]
        cdef int count, index, fd, timeout_ms
        cdef int64_t now, spin_until_ns = 0
        cdef bint has_request, is_trio_due, has_looked = False
        while True:
            self.step_ready()
            if self.due_tasks and has_looked:
                return True
            if self.source.is_ended and len(self.idle) == self.worker_count:
                return False
            now = now_ns()
            if now >= self.look_at_ns:
                if self.deadline_ms() == 0:
                    return True
                self.look_at_ns = now + self.turn_ns
            self.watch_source()
            count = epoll_wait(self.epoll_fd, events, EVENT_COUNT_MAX, 0)
            has_looked = True  # however much trio has to do
            if count == 0 and self.due_tasks:
                return True
            while count == 0 and now < spin_until_ns:
                now = pause_until(now + PAUSE_NS)
                count = epoll_wait(self.epoll_fd, events, EVENT_COUNT_MAX, 0)
            if count == 0:
                timeout_ms = self.deadline_ms()
                if timeout_ms == 0:
                    return True
                with nogil:
                    count = epoll_wait(self.epoll_fd, events, EVENT_COUNT_MAX, timeout_ms)
                self.look_at_ns = 0
            if count < 0:
                if errno != EINTR:
                    raise OSError(errno, os.strerror(errno))
                PyErr_CheckSignals()
                continue
            has_request = is_trio_due = False
            for index in range(count):
                fd = events[index].data.fd
                if fd == self.source_fd:
                    has_request = True
                    if events[index].events & (EPOLLERR | EPOLLHUP):
                        self.source.end()
                elif fd == self.trio_fd:
                    is_trio_due = True
                else:
                    attendant = self.attended.get(fd)
                    if attendant is not None:
                        attendant[1](True)
                    else:
                        self.control(EPOLL_CTL_DEL, fd, 0)
                        self.registered.discard(fd)
            self.step_ready()
            if has_request and self.idle:
                request = self.source.next()
                if request is not None:
                    self.step_finished()  # before what is asked next: who asks may know of it
                    self.step(self.idle.pop(), request)
                if len(self.idle) == self.worker_count:  # who was answered may ask again
                    spin_until_ns = now_ns() + self.spin_ns
            if is_trio_due:
                return True

    cdef int watch_source(self) except -1:
        """Requests beyond the workers wait in the kernel."""
        cdef bint is_wanted = bool(self.idle)
        if self.source.is_ended:
            if self.source_fd >= 0:
                self.control(EPOLL_CTL_DEL, self.source_fd, 0)
                self.source_fd = -1
        elif is_wanted != self.is_watching_source:
            self.control(EPOLL_CTL_MOD, self.source_fd, EPOLLIN if is_wanted else 0)
            self.is_watching_source = is_wanted
        return 0

    cdef int deadline_ms(self) except -1:
        """Until trio's next one, rounded up, since it would be told of one too early."""
        cdef list heap = self.deadlines._heap  # by time; who has left it may still be in it
        if not heap:
            return BLOCK_MS_MAX
        cdef double left_s = <double>heap[0][0] - self.time_s()
        if left_s <= 0:
            return 0
        return BLOCK_MS_MAX if left_s * 1000 >= BLOCK_MS_MAX else <int>(left_s * 1000) + 1

    cdef int step_finished(self) except -1:
        """Whatever has ended by now, whether its descriptor was looked at or not."""
        for _, take in self.takers:
            take(False)
        return self.step_ready()

    cdef int step_ready(self) except -1:
        while self.ready:
            task, sent = self.ready.popleft()
            self.step(task, sent)
        return 0

    cdef int step(self, task, sent) except -1:
        global is_stepping
        cdef object ended = None
        self.source.note_change()
        task._abort_func = None
        CONTEXT.task = task
        is_stepping = True
        try:
            message = task.context.run(task.coro.send, sent)
        except StopIteration as stop:
            ended = Value(stop.value)
        except BaseException as failure:
            ended = Error(failure)
        finally:
            is_stepping = False
        if ended is not None:
            self.runner.task_exited(task, ended)
        elif type(message) is Park:
            task._abort_func = (<Park>message).abort
            if task._cancel_status.effectively_cancelled:
                task._attempt_delivery_of_any_pending_cancel()
        elif type(message) is WAIT_MESSAGE:
            task._abort_func = message.abort_func
            task._attempt_delivery_of_any_pending_cancel()
        elif message is CHECKPOINT_MESSAGE:
            self.runner.reschedule(task)
        elif type(message) is DETACH_MESSAGE:
            self.runner.task_exited(task, message.final_outcome)
        else:
            self.runner.reschedule(task, Error(TypeError(f"no message of trio's: {message!r}")))
        return 0


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
