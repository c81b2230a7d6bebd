"""Errors that dfdetect raises on purpose.

Any other exception, except an `OSError`, is a defect of the program.
"""


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
