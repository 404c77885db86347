"""A mount whose store has bugs: of an object whose name says `bug`, every call fails.

Run as a program, as radosmount. The rest of it is the real one, over a store in memory.
"""

import sys

from radosmount import app, cli, lifecycle
from radosmount.config import Config
from radosmount.logs import configure_logging
from radosmount.store.interface import Change, ObjectKey, ObjectStat, ReadResult, Store, Xattrs
from radosmount.store.memory import MemoryStore


class BrokenStore(MemoryStore):
    async def stat(self, key: ObjectKey) -> ObjectStat:
        stumble(key, b"stat-bug")
        return await super().stat(key)

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        stumble(key, b"read-bug")
        return await super().read(key, offset, length)

    async def apply(self, key: ObjectKey, change: Change) -> int:
        stumble(key, b"apply-bug")
        return await super().apply(key, change)

    async def get_xattrs(self, key: ObjectKey) -> Xattrs:
        stumble(key, b"xattr-bug")
        return await super().get_xattrs(key)


def stumble(key: ObjectKey, name: bytes) -> None:
    if key.name == name:
        raise ZeroDivisionError(f"a bug in the way of {name!r}")


async def open_store(config: Config) -> Store:
    store = BrokenStore()
    pool_id = store.add_pool(b"pool")
    for name in (b"stat-bug", b"read-bug", b"apply-bug", b"xattr-bug", b"good"):
        store.put_now(ObjectKey(pool_id, b"", name, b""), b"content")
    return store


def serve(config: Config, announce_ready: lifecycle.OnReady) -> int:
    configure_logging(config)
    return lifecycle.run(config, announce_ready, lifecycle.Parts(open_store, app.make))


if __name__ == "__main__":
    cli.serve = serve
    sys.exit(cli.main())
