"""Errors that dfdetect raises on purpose; any other exception is a fault of the program."""


class DfdetectError(Exception):
    """Base of all errors that dfdetect raises on purpose; the message says how to fix the cause.

    Example:
        >>> try:
        ...     detector = load_detector("no-such-file.safetensors")
        ... except (DfdetectError, OSError) as error:
        ...     print(error)
    """


class ArgumentError(DfdetectError, ValueError):
    """An argument has a value that cannot be used."""


class InputError(DfdetectError, ValueError):
    """A file or folder holds something that cannot be used; the message names it."""
