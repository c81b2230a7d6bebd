"""Files that are either complete or untouched."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW_FILE_MODE = 0o666


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; it takes the place of `path` if the block succeeds.

    A killed process leaves the old file, or none, but never half of the new one.

    Example:
        >>> with atomic_path("submission.csv") as temporary:
        ...     table.to_csv(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp keeps others out; the finished file gets the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(NEW_FILE_MODE & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
