"""The ends of a mount: kill -9 at random moments, and every orderly one while it is dirty."""

import itertools
import signal

from tests.battery.row import Arena, Row, RowFailed
from tests.support.cluster import SHARED_POOL


def kill_9(arena: Arena) -> None:
    """Files that were closed are whole in a new mount."""
    number = itertools.count()
    for _ in range(arena.sizes["rounds"]):
        mount = arena.make_mount()
        mount.start(arena.lab, f"ceph:{SHARED_POOL}/{arena.folder.name}")
        expected = {}
        for _ in range(arena.random.randrange(1, 20)):
            path = mount.path / f"f{next(number)}"
            expected[path.name] = arena.random.randbytes(arena.random.randrange(1, 1 << 16))
            path.write_bytes(expected[path.name])
        mount.stop(signal.SIGKILL)
        arena.figures.faults += 1
        mount.clean_up()
        with arena.mounted(f"ceph:{SHARED_POOL}/{arena.folder.name}") as other:
            for name, content in expected.items():
                if (other.path / name).read_bytes() != content:
                    raise RowFailed(name)
                arena.figures.verified_bytes += len(content)


ROWS = (Row("kill-9", "kill -9 of the mount", kill_9, {"rounds": 2}, {"rounds": 200}),)
