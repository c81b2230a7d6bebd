"""Read standard data sets, and other labelled videos in the layouts that `read_labels` knows."""

import logging
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from dfdetect.data.datasets.dataset import READERS, Dataset
from dfdetect.data.labels import find_manifest, read_labels
from dfdetect.errors import InputError

LOGGER = logging.getLogger(__name__)


def read_dataset(source: str | Path, split: str | None = None) -> Dataset:
    """Return the labelled videos or face crops of a data set.

    The labels come from the first of these that exists:

    - a `manifest.csv` in the folder or its parent
    - the layout of a standard data set
    - another layout that `read_labels` knows

    Only standard data sets have official splits. A log message names the recognised data set.

    Args:
        source: The folder of a data set, a JSON file of DeepfakeBench, or a zip file.
        split: `train`, `val` or `test` for one of the official splits, or None for the whole data
            set.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ArgumentError: `split` is not the name of a split.
        InputError: There are no videos, a video has no label, a file with labels is not in the
            expected form, or no video belongs to the split.

    Example:
        >>> read_dataset("Celeb-DF-v2", split="test").describe()
        'Celeb-DF-v2: 178 REAL and 340 FAKE videos'
    """
    source = Path(source)
    own = source.is_dir() and find_manifest(source) is not None
    _import_readers()
    for reader in () if own else READERS:
        try:
            found = reader(source)
        except UnicodeDecodeError as error:
            raise InputError(f"{source}: a list of its videos is not text ({error})") from error
        if found is not None:
            if not found.videos and not found.faces:
                raise InputError(
                    f"{source}: has the layout of {found.name}, but holds no videos or crops of it"
                )
            chosen = found.without_repeats() if split is None else found.select(split)
            part = "" if split is None else f"; {split} split"
            LOGGER.info("recognised %s%s", chosen.describe(), part)
            return chosen
    found = Dataset(name=str(source), videos=read_labels(source))
    return found if split is None else found.select(split)


@cache
def _import_readers() -> None:
    """Import all modules of `dfdetect.data.datasets`, so that they register their readers."""
    package = import_module("dfdetect.data.datasets")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
