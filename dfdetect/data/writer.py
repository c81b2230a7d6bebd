"""Write a face set so that a later run can continue the work after any interruption.

A face set consists of the index `NAME.csv` and the shards `NAME-00000.tar` and so on. It is written
entry by entry. An entry is for example a video with its crops. Each complete entry gets a row in a
log. The row also holds the sizes of the index and of the newest shard. Bytes beyond the sizes in
the last row belong to an incomplete entry. The next run cuts these bytes off.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from dfdetect.data.shards import SHARD_COLUMNS, ShardWriter, find_shards, shard_path
from dfdetect.errors import ArgumentError, InputError, describe_difference
from dfdetect.files import atomic_path, read_table

if sys.platform != "win32":
    import fcntl

# The last columns of the log: the settings, the size of the index, the number of the last shard,
# and the size of this shard. The sizes and the number are those after the entry was written.
LOG_COLUMNS = ["settings", "index_end", "shard", "shard_end"]


@dataclass(frozen=True)
class EncodedCrop:
    """A crop as a face set stores it.

    Attributes:
        row: The crop's row in the index, without the columns `SHARD_COLUMNS`.
        data: The encoded image.
        suffix: Suffix of the image's file name.
    """

    row: Mapping[str, Any]
    data: bytes
    suffix: str = ".jpg"


class FaceSetWriter:
    """Writes a face set entry by entry. An entry is for example a video with its crops.

    Args:
        index: The index to write or to continue.
        log: The log to write or to continue: a table with one row for each complete entry.
        columns: The columns of the index that the caller fills. The writer adds `SHARD_COLUMNS`.
        log_columns: The columns of the log that the caller fills. The first of these columns
            identifies an entry. The writer adds `LOG_COLUMNS`.
        settings: The settings on which the crops depend, as text. A face set can be continued only
            with the settings with which it was begun.

    Attributes:
        done: The rows of the log, without `LOG_COLUMNS`: a dictionary from the text in the first
            column to the row. A row is a dictionary from column names to texts.

    Raises:
        InputError: The log is missing although the index or a shard exists, or a file was changed
            after it was written.
        ArgumentError: The face set was begun with other settings, or another run is writing it.

    Example:
        >>> crop = EncodedCrop({"id": "a-0", "label": "REAL"}, data)
        >>> with FaceSetWriter(index, log, ["id", "label"], ["video"], "{}") as writer:
        ...     writer.add({"video": "a.mp4"}, [crop])
    """

    def __init__(
        self,
        index: Path,
        log: Path,
        columns: Sequence[str],
        log_columns: Sequence[str],
        settings: str,
    ):
        self.index = index
        self.log = log
        self.settings = settings
        self.done: dict[str, dict[str, str]] = {}
        self._columns = [*columns, *SHARD_COLUMNS]
        self._entry_columns = list(log_columns)
        if not log.is_file():
            self._require_new()
            _write_header(log, self._log_columns)
        self._lock = _lock(log)
        self._shards = ShardWriter(index, self._restore())

    def __enter__(self) -> "FaceSetWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Complete the last shard, and allow other runs to write the face set."""
        self._shards.close()
        self._lock.close()

    def add(self, entry: Mapping[str, Any], crops: Sequence[EncodedCrop]) -> None:
        """Write an entry: the crops, then the crops' rows in the index, and then a row in the log.

        Args:
            entry: The row of the log, without the columns `LOG_COLUMNS`, which this method adds.
            crops: The crops of the entry.

        Raises:
            OSError: A file cannot be written, for example because the disk is full. Earlier entries
                are kept.
        """
        try:
            self._write(entry, crops)
        except OSError as error:
            what = f"{error.strerror}; make room, and give the same command again to continue"
            raise OSError(error.errno, what, str(self.index)) from error

    @property
    def _log_columns(self) -> list[str]:
        return [*self._entry_columns, *LOG_COLUMNS]

    def _write(self, entry: Mapping[str, Any], crops: Sequence[EncodedCrop]) -> None:
        rows = []
        for crop in crops:
            place = self._shards.add(f"{crop.row['id']}{crop.suffix}", crop.data)
            rows.append({**crop.row, **dict(zip(SHARD_COLUMNS, place, strict=True))})
        self._shards.flush()
        with self.index.open("ab") as file:
            file.write(_to_csv(rows, self._columns))
            index_end = file.tell()
        ends = dict(zip(LOG_COLUMNS, (self.settings, index_end, *self._shards.end), strict=True))
        with self.log.open("ab") as file:
            file.write(_to_csv([{**entry, **ends}], self._log_columns))
        self._note({name: str(entry[name]) for name in self._entry_columns})
        self._shards.close_if_full()

    def _note(self, entry: dict[str, str]) -> None:
        self.done[entry[self._entry_columns[0]]] = entry

    def _require_new(self) -> None:
        for path in (self.index, *find_shards(self.index)):
            if path.exists():
                raise InputError(
                    f"{path}: exists, and {self.log.name} is not beside it: give another name"
                )

    def _restore(self) -> tuple[int, int]:
        """Load the log into `done`, and cut an incomplete entry off the log and the index.

        Returns:
            The number of the last shard (from 0), and how many of its bytes to keep.
        """
        _cut_off(self.log, self.log.read_bytes().rfind(b"\n") + 1)
        log = read_table(self.log, (*self._entry_columns, "settings"))
        if log.columns.tolist() != self._log_columns:
            raise InputError(f"{self.log}: made by another version of dfdetect: give another name")
        others = log[log["settings"] != self.settings]
        if len(others):
            difference = _difference(others["settings"].iloc[0], self.settings)
            raise ArgumentError(
                f"{self.index}: made with other settings, {difference}: use these settings, give "
                "another name, or delete all files of the face set"
            )
        for entry in log[self._entry_columns].to_dict("records"):
            self._note(entry)
        if log.empty:
            _write_header(self.index, self._columns)
            return 0, 0
        index_end, shard, shard_end = map(int, log[LOG_COLUMNS[1:]].iloc[-1])
        for number in range(shard):
            _require_length(shard_path(self.index, number), 1)
        if shard_end:
            _require_length(shard_path(self.index, shard), shard_end)
        _cut_off(self.index, index_end)
        return shard, shard_end


def _difference(old: str, new: str) -> str:
    """Say how the settings `old` differ from `new`; settings that are no JSON are returned whole.

    Example:
        >>> _difference('{"crop": {"scale": 0.8}}', '{"crop": {"scale": 1.2}}')
        'crop scale 0.8, not 1.2'
    """
    try:
        before, now = (
            pd.json_normalize(json.loads(text), sep=" ")
            .rename(columns=lambda name: name.replace("_", " "))
            .to_dict("records")[0]
            for text in (old, new)
        )
    except ValueError:
        return old
    return describe_difference(before, now)


def _lock(log: Path) -> BinaryIO:
    """Open and lock a log, so that no other run can write the same face set.

    The lock ends when the returned file is closed. On Windows, nothing is locked.

    Raises:
        ArgumentError: Another run is writing the face set.
    """
    file = log.open("rb")
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ArgumentError(
                f"{log}: another run is writing this face set: wait for it, or give another name"
            ) from error
    return file


def _write_header(path: Path, columns: list[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(_to_csv([], columns, header=True))


def _to_csv(rows: Sequence[Mapping[str, Any]], columns: list[str], header: bool = False) -> bytes:
    text = pd.DataFrame(rows, columns=columns).to_csv(None, index=False, header=header)
    return text.encode("utf-8", "surrogateescape")


def _require_length(path: Path, size: int) -> None:
    if not path.is_file() or path.stat().st_size < size:
        raise InputError(
            f"{path}: is missing or shorter than before, so the face set was changed: delete all "
            "its files and make it again, or give another name"
        )


def _cut_off(path: Path, size: int) -> None:
    """Cut a file off after `size` bytes.

    Raises:
        InputError: The file is shorter than `size` bytes, or its first `size` bytes do not end with
            a complete line.
    """
    _require_length(path, size)
    with path.open("r+b") as file:
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            raise InputError(
                f"{path}: was changed after it was written: delete all files of the face set and "
                "make it again, or give another name"
            )
        file.truncate(size)
