"""The formats of published checkpoints, by name.

To add a format, write one module in this folder that registers a `Format`.
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
# Lowest probability of a converted checkpoint: too small to change a score at the shown precision.
FLOOR = 1e-6
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Format:
    """How the authors of a published detector keep their weights.

    Attributes:
        name: The name that `convert` and the command line take.
        description: One line that says whose weights these are.
        recognises: Takes names and shapes of tensors; returns whether they are in this format.
        read: Takes the tensors; returns the specification and the state dict of its architecture.
    """

    name: str
    description: str
    recognises: Callable[[Shapes], bool]
    read: Callable[[Tensors], tuple[ModelSpec, State]]


_FORMATS: dict[str, Format] = {}


def register_format(format: Format) -> None:
    """Make a format known.

    Raises:
        ArgumentError: Another format has its name.
    """
    if format.name in _FORMATS:
        raise ArgumentError(f"a format {format.name!r} is registered already: use another name")
    _FORMATS[format.name] = format


@cache
def formats() -> Mapping[str, Format]:
    """Return all formats by name, sorted.

    Example:
        >>> "mesonet" in formats()
        True
    """
    package = import_module("dfdetect.checkpoints.converters")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return dict(sorted(_FORMATS.items()))


def require_format(name: str) -> None:
    """Refuse a name that is neither that of a format nor `auto`.

    Raises:
        ArgumentError: There is no such format.
    """
    if name not in (AUTO, *formats()):
        raise ArgumentError(f"unknown format {name!r}; known are {AUTO}, {', '.join(formats())}")


def choose_format(path: Path, shapes: Shapes, name: str = AUTO) -> Format:
    """Recognise the format of a file, or check that the file has the named format.

    Args:
        path: The file, which messages name.
        shapes: Names and shapes of its tensors.
        name: The name of a format, or `auto`.

    Raises:
        ArgumentError: There is no such format.
        CheckpointError: The file is in another format, or its format is unknown.
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
        raise CheckpointError(f"{path}: it may be in several formats; say which: {names}")
    if found:
        raise CheckpointError(
            f"{path}: not in the format {name}, but in {names} ({found[0].description})"
        )
    examples = ", ".join(f"{tensor} {shape}" for tensor, shape in list(shapes.items())[:3])
    raise CheckpointError(
        f"{path}: not in the format {name}"
        if name != AUTO
        else f"{path}: no known format"
        f"; it has {len(shapes)} tensors, the first are {examples}. Known formats: "
        f"{', '.join(known)}"
    )
