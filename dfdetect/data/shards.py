"""The shards of a face set: tar files that hold the crops.

Shards are plain tar files, named `NAME-00000.tar` and so on, beside the index `NAME.csv`. The index
gives the shard and the byte offset of each crop, so that a crop can be read without a search in the
tar file. The same crops always give the same bytes.
"""

import glob
import io
import tarfile
from pathlib import Path
from typing import BinaryIO

# Size in bytes at which a shard is closed. A shard of this size is fast to read and easy to copy.
SHARD_BYTES = 256 * 2**20
SHARD_COLUMNS = ["shard", "offset", "size"]


def shard_path(index: Path, number: int) -> Path:
    """Return the path of a shard.

    Example:
        >>> shard_path(Path("faces.csv"), 3)
        PosixPath('faces-00003.tar')
    """
    return index.with_name(f"{index.stem}-{number:05}.tar")


def find_shards(index: Path) -> list[Path]:
    """Return the paths of the shards that exist beside an index, in the order of their numbers."""
    return sorted(index.parent.glob(f"{glob.escape(index.stem)}-{'[0-9]' * 5}.tar"))


class ShardWriter:
    """Appends files to the shards of a face set: the tar files that hold its crops.

    Args:
        index: The path of the face set's index.
        end: The number of the shard to continue, and how many bytes of this shard to keep. The rest
            of this shard is cut off, and all later shards are deleted.

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
        """Return the number of the last shard (from 0), and its present size in bytes."""
        return self.number, self._tar.offset

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Append a file to the last shard.

        Returns:
            The number of the shard (from 0), the byte offset of the file's content in the shard,
            and the size of the content in bytes.

        Raises:
            OSError: The shard cannot be written, for instance because the disk is full.
        """
        member = tarfile.TarInfo(name)  # without a date and an owner
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self.number, self._tar.offset - padded, len(data)

    def flush(self) -> None:
        """Pass all added files to the operating system, so that they survive a crash of Python."""
        self._file.flush()

    def close_if_full(self) -> None:
        """If the current shard has reached `SHARD_BYTES`, close it and start the next shard."""
        if self._tar.offset >= SHARD_BYTES:
            self.close()
            self.number += 1
            self._open(0)

    def close(self) -> None:
        """Complete the last shard, or delete it if it has no files."""
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
