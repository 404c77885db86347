"""The bytes of one file that the store does not have yet: an ordered set of extents.

Pure: no I/O, no awaits, no clock. An extent is a run of written bytes; it holds exactly what
was written, never a neighbour that was only read.

Invariants:
- extents do not overlap, and two that touch within a block are one;
- no extent crosses a multiple of `BLOCK_BYTES`, so that merging copies at most one block;
- `byte_count` is the sum of their lengths.

What was written in one piece and not changed since is the very `bytes` that came in: a stream
reaches the store without being copied here.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

# One FUSE write carries at most 1 MiB: an aligned stream makes one extent a request.
BLOCK_BYTES: Final = 1 << 20

Buffer = bytes | bytearray | memoryview


class _Block:
    """The extents of one block: sorted starts (bytes into the file), and their bytes."""

    __slots__ = ("buffers", "starts")

    def __init__(self, start: int, data: Buffer) -> None:
        self.starts = [start]
        self.buffers: list[bytes | bytearray] = [bytes(data)]

    def write(self, start: int, data: Buffer) -> int:
        """Overwrite from `start`; return by how many bytes the block's extents grew."""
        end = start + len(data)
        first, last = self._touched(start, end)
        if first == last:
            self.starts.insert(first, start)
            self.buffers.insert(first, bytes(data))
            return len(data)
        if last - first == 1 and self.starts[first] <= start:
            return self._write_into(first, start, data)
        return self._merge(first, last, start, data)

    def _touched(self, start: int, end: int) -> tuple[int, int]:
        """Indices [first, last) of the extents that overlap or adjoin start..end."""
        first = bisect_left(self.starts, start)
        if first and self.starts[first - 1] + len(self.buffers[first - 1]) >= start:
            first -= 1
        last = first
        while last < len(self.starts) and self.starts[last] <= end:
            last += 1
        return first, last

    def _write_into(self, index: int, start: int, data: Buffer) -> int:
        buffer = self.buffers[index]
        length_before = len(buffer)
        if isinstance(buffer, bytes):
            buffer = self.buffers[index] = bytearray(buffer)
        at = start - self.starts[index]
        buffer[at : at + len(data)] = data
        return len(buffer) - length_before

    def _merge(self, first: int, last: int, start: int, data: Buffer) -> int:
        held = sum(map(len, self.buffers[first:last]))
        new_start = min(start, self.starts[first])
        last_end = self.starts[last - 1] + len(self.buffers[last - 1])
        merged = bytearray(max(start + len(data), last_end) - new_start)
        for index in range(first, last):
            at = self.starts[index] - new_start
            merged[at : at + len(self.buffers[index])] = self.buffers[index]
        at = start - new_start
        merged[at : at + len(data)] = data
        self.starts[first:last] = [new_start]
        self.buffers[first:last] = [merged]
        return len(merged) - held

    def truncate(self, size: int) -> int:
        """Drop what lies at or beyond `size`; return how many bytes that were."""
        dropped = 0
        while self.starts and self.starts[-1] + len(self.buffers[-1]) > size:
            buffer = self.buffers[-1]
            keep = max(size - self.starts[-1], 0)
            dropped += len(buffer) - keep
            if keep:
                self.buffers[-1] = buffer[:keep]
            else:
                del self.starts[-1], self.buffers[-1]
        return dropped


class ExtentMap:
    """Extents of one file. Offsets and lengths are bytes."""

    __slots__ = ("_blocks", "byte_count")

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self.byte_count = 0

    def __iter__(self) -> Iterator[tuple[int, bytes | bytearray]]:
        """(offset, bytes) of every extent, in order of offset."""
        for block_index in sorted(self._blocks):
            block = self._blocks[block_index]
            yield from zip(block.starts, block.buffers, strict=True)

    def __bool__(self) -> bool:
        return self.byte_count > 0

    @property
    def end(self) -> int:
        """The offset behind the last byte; 0 where there is none."""
        if not self._blocks:
            return 0
        block = self._blocks[max(self._blocks)]
        return block.starts[-1] + len(block.buffers[-1])

    def write(self, offset: int, data: Buffer) -> int:
        """Overwrite from `offset`; return by how much `byte_count` grew."""
        if not data:
            return 0
        if offset // BLOCK_BYTES == (offset + len(data) - 1) // BLOCK_BYTES:
            grown = self._write_block(offset, data)
        else:
            grown = 0
            view = memoryview(data)
            while view:
                piece = view[: BLOCK_BYTES - offset % BLOCK_BYTES]
                grown += self._write_block(offset, piece)
                offset += len(piece)
                view = view[len(piece) :]
        self.byte_count += grown
        return grown

    def _write_block(self, offset: int, data: Buffer) -> int:
        block = self._blocks.get(offset // BLOCK_BYTES)
        if block is None:
            self._blocks[offset // BLOCK_BYTES] = _Block(offset, data)
            return len(data)
        return block.write(offset, data)

    def overlaps(self, offset: int, length: int) -> Iterator[tuple[int, memoryview]]:
        """The parts within offset..offset+length, in order, as views that a write invalidates."""
        end = offset + length
        for block_index in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            block = self._blocks.get(block_index)
            if block is None:
                continue
            for start, buffer in zip(block.starts, block.buffers, strict=True):
                low, high = max(start, offset), min(start + len(buffer), end)
                if low < high:
                    yield low, memoryview(buffer)[low - start : high - start]

    def truncate(self, size: int) -> int:
        """Drop every byte at or beyond `size`; return how many that were."""
        blocks = [i for i in self._blocks if (i + 1) * BLOCK_BYTES > size]
        return sum(self._truncate_block(block_index, size) for block_index in blocks)

    def _truncate_block(self, block_index: int, size: int) -> int:
        block = self._blocks[block_index]
        dropped = block.truncate(size)
        if not block.starts:
            del self._blocks[block_index]
        self.byte_count -= dropped
        return dropped

    def split(self, offset: int) -> "ExtentMap":
        """Keep what lies below `offset`, and return the rest; a whole block is not copied."""
        rest = ExtentMap()
        middle = self._blocks.get(offset // BLOCK_BYTES)
        if middle is not None and offset % BLOCK_BYTES:
            for start, buffer in zip(middle.starts, middle.buffers, strict=True):
                rest.write(max(offset, start), memoryview(buffer)[max(offset - start, 0) :])
            self._truncate_block(offset // BLOCK_BYTES, offset)
        for block_index in [i for i in self._blocks if i * BLOCK_BYTES >= offset]:
            block = rest._blocks[block_index] = self._blocks.pop(block_index)
            byte_count = sum(map(len, block.buffers))
            rest.byte_count += byte_count
            self.byte_count -= byte_count
        return rest

    def overlay(self, newer: "ExtentMap") -> None:
        """Write all of `newer` over this."""
        for offset, buffer in newer:
            self.write(offset, buffer)

    def shifted(self, start: int, delta: int) -> "ExtentMap":
        """A copy where the bytes from `start` on lie `delta` bytes further on."""
        moved = ExtentMap()
        for offset, buffer in self:
            stays = min(max(start - offset, 0), len(buffer))
            view = memoryview(buffer)
            moved.write(offset, view[:stays])
            moved.write(offset + stays + delta, view[stays:])
        return moved


def lay_over(content: bytearray, offset: int, held: list[tuple[int, bytes]]) -> None:
    """Put `held` bytes, given by their offsets in the file, into content from `offset`."""
    for at, data in held:
        content[at - offset : at - offset + len(data)] = data
