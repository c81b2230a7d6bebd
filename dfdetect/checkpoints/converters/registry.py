"""Registry of the formats of published checkpoints.

To add a format, write a module in this folder that registers a `Format`.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from dfdetect.checkpoints.converters.tensors import State, Tensors
from dfdetect.checkpoints.io import CheckpointError
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.errors import ArgumentError

AUTO = "auto"
# Lowest P(FAKE) that a converted checkpoint gives. The number is so small that this limit does not
# change the printed digits of a score.
FLOOR = 1e-6
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Format:
    """A file format in which the authors of a detector have published their weights.

    Attributes:
        name: Name of the format, as `convert` and the command line take it.
        description: Authors and networks, in one line.
        recognises: Function that takes the shapes of a file's tensors, by name, and returns whether
            the file has this format.
        read: Function that takes the tensors of a file, and returns the specification and the state
            dict of the model. The names in the state dict are dfdetect's names.
    """

    name: str
    description: str
    recognises: Callable[[Shapes], bool]
    read: Callable[[Tensors], tuple[ModelSpec, State]]


_FORMATS: dict[str, Format] = {}


def register_format(format: Format) -> None:
    """Add a format to the registry.

    Raises:
        ArgumentError: Another format has the same name.
    """
    if format.name in _FORMATS:
        raise ArgumentError(f"a format {format.name!r} is already registered; use another name")
    _FORMATS[format.name] = format


@cache
def formats() -> Mapping[str, Format]:
    """Return all formats: a dictionary from names to formats, sorted by name.

    Example:
        >>> "mesonet" in formats()
        True
    """
    package = import_module("dfdetect.checkpoints.converters")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return dict(sorted(_FORMATS.items()))


def require_format(name: str) -> None:
    """Check that `name` is `auto` or a name in `formats()`.

    Raises:
        ArgumentError: The format is unknown.
    """
    if name not in (AUTO, *formats()):
        raise ArgumentError(f"unknown format {name!r}; known are {AUTO}, {', '.join(formats())}")


def choose_format(path: Path, shapes: Shapes, name: str = AUTO) -> Format:
    """Return the format of a file, recognised by the names and shapes of its tensors.

    Args:
        path: Path of the file, shown in error messages.
        shapes: The shape of each tensor in the file, by name.
        name: The format that the file must have, or `auto` for any.

    Raises:
        ArgumentError: `name` is unknown.
        CheckpointError: The file has an unknown format, or another format than `name`. Or it fits
            several formats, and `name` is none of them.
    """
    require_format(name)
    known = formats()
    found = [one for one in known.values() if one.recognises(shapes)]
    if len(found) == 1 and name in (AUTO, found[0].name):
        return found[0]
    if any(one.name == name for one in found):
        return known[name]
    names = " or ".join(one.name for one in found)
    if len(found) > 1:
        raise CheckpointError(f"{path}: it fits several formats; give one of them: {names}")
    if found:
        raise CheckpointError(
            f"{path}: not in the format {name}, but in {names} ({found[0].description})"
        )
    examples = ", ".join(f"{tensor} {shape}" for tensor, shape in list(shapes.items())[:3])
    fault = "no known format" if name == AUTO else f"not in the format {name}"
    raise CheckpointError(
        f"{path}: {fault}; it has {len(shapes)} tensors, the first are {examples}. Known formats: "
        f"{', '.join(known)}"
    )
