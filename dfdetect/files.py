"""Write files completely or not at all, and read tables. Each error message names the file."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pandas as pd

from dfdetect.errors import ArgumentError, InputError

# Exceptions that `torch.load` raises if a file is damaged or was not saved by torch.
NOT_OF_TORCH = (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError)
# If a cell starts with one of these characters, spreadsheets compute it as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, so that the file `path` is written completely or not at all.

    Write to the temporary path in the `with` block. If the block succeeds, the temporary file
    replaces the file `path`. Otherwise the old file remains unchanged, even if the process is
    killed.

    Raises:
        ArgumentError: The path is a folder or a special file, such as a device file.
        OSError: The file cannot be written, for example because the disk is full.

    Example:
        >>> with atomic_path("submission.csv") as temporary:
        ...     table.to_csv(temporary)
    """
    path = Path(os.path.realpath(path))  # a symbolic link is kept, and its target is replaced
    _require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name of the file may already have as many bytes as file systems allow.
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # the default permissions of new files
        yield temporary
        temporary.chmod(mode)  # libraries that create the file anew may let only its owner read it
        temporary.replace(path)
    except OSError as error:
        # The user knows the final file, not the temporary one.
        if error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | Path) -> None:
    """Check that a file can be written, for example before a long computation.

    The check leaves no file or folder behind. `atomic_path` creates missing folders later.

    Raises:
        ArgumentError: The path is a folder or a special file, such as a device file. Or its folder
            cannot be created or written to.
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
    """Raise ArgumentError if `path` is a folder or a special file, such as a device file."""
    if path.is_dir():
        raise ArgumentError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise ArgumentError(f"{path}: is no regular file; give the name of one")


def printable(text: str) -> str:
    r"""Return a text with all unprintable characters, such as line breaks, escaped.

    Example:
        >>> printable("two\nlines.mp4")
        'two\\nlines.mp4'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def inert(text: str) -> str:
    """Return a text for a CSV cell, changed so that a spreadsheet does not compute it as a formula.

    A text that looks like a formula gets an apostrophe in front, as OWASP recommends on its page
    "CSV Injection". Any other text is returned unchanged.

    Example:
        >>> inert("=1+1.mp4")
        "'=1+1.mp4"
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def read_table(
    path: str | Path, text_columns: tuple[str, ...], unusable: type[InputError] = InputError
) -> pd.DataFrame:
    """Return the table in a CSV file.

    In the columns `text_columns`, all cells are texts, even empty ones. In all other columns, an
    empty cell is a missing value. A cell that contains `NA` is a text, not a missing value.

    Raises:
        InputError: The file is no CSV table. The error has the type `unusable`.
    """
    options: dict[str, Any] = {"keep_default_na": False, "encoding_errors": "surrogateescape"}
    try:
        header = pd.read_csv(path, nrows=0, **options).columns
        missing = {column: [""] for column in header if column not in text_columns}
        types = dict.fromkeys(text_columns, str)
        table = pd.read_csv(path, dtype=types, na_values=missing, **options)
    except ValueError as error:
        raise unusable(f"{path}: not a CSV table with a header ({error})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells for an index
        raise unusable(f"{path}: its rows have more cells than its header: delete the extra commas")
    return table
