"""Tar shards of a face set that grows, and survives being killed at any moment.

Shards are plain tar files, `NAME-00000.tar` and so on beside the index, which says for each crop in
which shard and at which byte it lies: nothing has to be searched, and a shard can be read in a row.
They hold neither times nor owners, so that the same crops give the same bytes.
"""

import io
import tarfile
from pathlib import Path
from typing import BinaryIO

# A shard that has so many bytes is closed: large enough to be read fast, small enough to be moved.
SHARD_BYTES = 256 * 2**20
SHARD_COLUMNS = ["shard", "offset", "size"]


def shard_path(index: Path, number: int) -> Path:
    """Where a shard of a face set lies.

    Example:
        >>> shard_path(Path("faces.csv"), 3)
        PosixPath('faces-00003.tar')
    """
    return index.with_name(f"{index.stem}-{number:05}.tar")


class ShardWriter:
    """Appends files to the shards of a face set.

    Args:
        index: The face set's index.
        end: Number of the last shard, and where in it what is worth keeping ends: what lies behind
            is cut off. All later shards are deleted.

    Example:
        >>> with ShardWriter(Path("faces.csv"), (0, 0)) as shards:
        ...     shards.add("a.jpg", data)
        (0, 512, 9120)
    """

    def __init__(self, index: Path, end: tuple[int, int]):
        self.index = index
        self.number, size = end
        later = self.number + 1
        while (path := shard_path(index, later)).exists():
            path.unlink()
            later += 1
        self._open(size)
        self.close_if_full()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def end(self) -> tuple[int, int]:
        """Number of the last shard, and how many bytes it has."""
        return self.number, self._tar.offset

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Append a file; the shard's number, where in it the file's bytes begin, and how many.

        Raises:
            OSError: The disk is full, or the like.
        """
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self.number, self._tar.offset - padded, len(data)

    def flush(self) -> None:
        """Hand all that was added to the system, so that it outlives this process."""
        self._file.flush()

    def close_if_full(self) -> None:
        """Begin the next shard if this one has reached its size."""
        if self._tar.offset >= SHARD_BYTES:
            self.close()
            self.number += 1
            self._open(0)

    def close(self) -> None:
        """End the shard as a tar file ends; a shard without files is not kept."""
        empty = self._tar.offset == 0
        self._tar.close()
        self._file.close()
        if empty:
            Path(self._file.name).unlink()

    def _open(self, size: int) -> None:
        path = shard_path(self.index, self.number)
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
