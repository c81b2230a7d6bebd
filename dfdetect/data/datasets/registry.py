"""Labelled data of any layout that is known: those of standard data sets, or a user's own."""

import logging
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from dfdetect.data.datasets.dataset import READERS, Dataset, Reader
from dfdetect.data.labels import find_manifest, read_labels
from dfdetect.errors import InputError

LOGGER = logging.getLogger(__name__)


def read_dataset(source: str | Path, split: str | None = None) -> Dataset:
    """Return the labelled videos, or face crops, of a data set.

    A `manifest.csv` comes first. Then the layouts of the modules of this folder are tried, and last
    those of `read_labels`, which has no splits. What was recognised is logged in one line.

    Args:
        source: The folder of a data set, a JSON file of DeepfakeBench, or a zip file.
        split: `train`, `val` or `test`, as its authors split it; None for all of it.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ArgumentError: The split is none of these.
        InputError: Nothing is there, one has no label, a file of labels has another layout, or
            nothing belongs to the split.

    Example:
        >>> read_dataset("Celeb-DF-v2", split="test").describe()
        'Celeb-DF-v2: 178 REAL and 340 FAKE videos'
    """
    source = Path(source)
    own = source.is_dir() and find_manifest(source) is not None
    for reader in () if own else _readers():
        try:
            found = reader(source)
        except UnicodeDecodeError as error:
            raise InputError(f"{source}: a list of its videos is not text ({error})") from error
        if found is not None:
            if not found.videos and not found.faces:
                raise InputError(f"{source}: has the layout of {found.name}, but holds nothing")
            chosen = found if split is None else found.select(split)
            part = "" if split is None else f"; {split} split"
            LOGGER.info("recognised %s%s", chosen.describe(), part)
            return chosen
    found = Dataset(name=str(source), videos=read_labels(source))
    return found if split is None else found.select(split)


@cache
def _readers() -> tuple[Reader, ...]:
    """Those of each module of this folder, which registers them when it is imported."""
    package = import_module("dfdetect.data.datasets")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return tuple(READERS)
