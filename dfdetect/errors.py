"""Errors that dfdetect raises on purpose.

Any other exception, except an `OSError`, is a defect of the program.
"""

import json
from collections.abc import Mapping
from typing import Any


class DfdetectError(Exception):
    """Base class of the errors that dfdetect raises on purpose.

    The message says what to change.

    Example:
        >>> try:
        ...     detector = load_detector("no-such-file.safetensors")
        ... except (DfdetectError, OSError) as error:
        ...     print(error)
    """


class ArgumentError(DfdetectError, ValueError):
    """An argument has a value that cannot be used."""


class InputError(DfdetectError, ValueError):
    """The content of a file or folder cannot be used.

    The message names the file or folder.
    """


def describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say, for an error message, which settings `old` differ from the settings `new`.

    Example:
        >>> describe_difference({"frames": 8, "size": 224}, {"frames": 12, "size": 224})
        'frames 8, not 12'
    """
    return "; ".join(
        f"{name} {json.dumps(old.get(name))}, not {json.dumps(new.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    )
