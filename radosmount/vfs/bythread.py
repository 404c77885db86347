"""What is remembered of threads: of the last ones, since no request tells that one has ended."""

from collections import OrderedDict
from typing import Final, TypeVar

V = TypeVar("V")

THREAD_COUNT_MAX: Final = 64


class ByThread(OrderedDict[int, V]):
    """By thread id, as the kernel tells it. Who sets the value of one thread too many forgets that
    which was set longest ago."""

    def __setitem__(self, thread: int, value: V) -> None:
        super().__setitem__(thread, value)
        self.move_to_end(thread)
        if len(self) > THREAD_COUNT_MAX:
            self.popitem(last=False)
