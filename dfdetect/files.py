"""Write files completely or not at all, and read tables with errors that name the file."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from dfdetect.errors import ArgumentError, InputError

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` if the block succeeds.

    A killed process or a full disk (OSError) leaves the old file, or none, but never half of the
    new one. Only regular files are replaced.

    Raises:
        ArgumentError: The path is a folder, a device or the like.

    Example:
        >>> with atomic_path("submission.csv") as temporary:
        ...     table.to_csv(temporary)
    """
    path = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    _require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)  # with the permissions of any new file
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # Name the file that is wanted, not the temporary one.
        if error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | Path) -> None:
    """Check that a file can be written, before hours are spent on its content.

    Nothing is created: folders that do not exist yet are made when the file is written.

    Raises:
        ArgumentError: The path is a folder or a device, or its folder cannot be made or written to.
    """
    path = Path(path)
    _require_replaceable(path)
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ArgumentError(
            f"{path}: cannot be written ({error.strerror}); give a file in another folder"
        ) from error


def _require_replaceable(path: Path) -> None:
    """Refuse folders and devices, which the temporary file must not replace."""
    if path.is_dir():
        raise ArgumentError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise ArgumentError(f"{path}: is no regular file; give the name of one")


def printable(text: str) -> str:
    r"""Return a text in which control characters, and those that cannot be encoded, are escaped.

    Example:
        >>> printable("two\nlines.mp4")
        'two\\nlines.mp4'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def inert(text: str) -> str:
    """Return text for a CSV cell that no spreadsheet computes (OWASP, "CSV Injection").

    Example:
        >>> inert("=1+1.mp4")
        "'=1+1.mp4"
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def read_table(path: str | Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV table; only empty cells count as missing, and never those of `text_columns`.

    Raises:
        ArgumentError: The file is no CSV table; the message names it.
    """
    options: dict[str, Any] = {"keep_default_na": False, "encoding_errors": "surrogateescape"}
    try:
        header = pd.read_csv(path, nrows=0, **options).columns
        missing = {column: [""] for column in header if column not in text_columns}
        types = dict.fromkeys(text_columns, str)
        return pd.read_csv(path, dtype=types, na_values=missing, **options)
    except ValueError as error:
        raise InputError(f"{path}: not a CSV table with a header ({error})") from error
