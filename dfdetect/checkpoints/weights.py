"""Find the checkpoints, and other folders, that come with the package."""

from collections.abc import Sequence
from pathlib import Path

from dfdetect.errors import ArgumentError
from dfdetect.files import require_writable

DEFAULT_WEIGHTS = "tf_efficientnet_lite2_wild"
SUFFIX = ".safetensors"
# One checkpoint, or several that answer together.
Weights = str | Path | Sequence[str | Path] | None


def list_weights() -> dict[str, Path]:
    """Return the paths of the installed checkpoints by name, sorted by name.

    The wheel brings the default and the small ones; in a clone all are found.
    """
    return {path.stem: path for path in sorted(package_folder("weights").glob(f"*{SUFFIX}"))}


def find_weights(weights: str | Path | None = None) -> Path:
    """Return the path of a checkpoint: the default, an installed one by name, or the user's file.

    Raises:
        FileNotFoundError: `weights` is neither a file nor an installed name.

    Example:
        >>> find_weights("cnn_lstm").name
        'cnn_lstm.safetensors'
    """
    installed = list_weights()
    name = DEFAULT_WEIGHTS if weights is None else str(weights)
    if name in installed:
        return installed[name]
    if Path(name).is_file():
        return Path(name)
    raise FileNotFoundError(
        f"no weights {name!r}: give a {SUFFIX} file or one of the installed names: "
        f"{', '.join(installed) or 'none'}; larger ones are in the folder weights/ of a clone"
    )


def find_all_weights(weights: Weights = None) -> list[Path]:
    """Return the paths of one checkpoint or several, each as in `find_weights`.

    Raises:
        ArgumentError: The sequence is empty.
        FileNotFoundError: One is neither a file nor an installed name.

    Example:
        >>> [path.name for path in find_all_weights(["cnn_lstm", "xception"])]
        ['cnn_lstm.safetensors', 'xception.safetensors']
    """
    if weights is None or isinstance(weights, str | Path):
        return [find_weights(weights)]
    if not weights:
        raise ArgumentError("no weights: give at least one name or file, or None for the default")
    return [find_weights(one) for one in weights]


def require_new_checkpoint(path: Path) -> None:
    """Refuse a name that no new checkpoint can have, before anything is computed for it.

    Raises:
        ArgumentError: The file exists, cannot be written, or has another suffix.
    """
    require_checkpoint_name(path)
    require_writable(path)
    if path.exists():
        raise ArgumentError(f"{path}: exists; delete it, or name another file")


def require_checkpoint_name(path: Path) -> None:
    """Refuse a name that no checkpoint has.

    Raises:
        ArgumentError: It has another suffix.
    """
    if path.suffix != SUFFIX:
        raise ArgumentError(f"{path}: a checkpoint's name must end in {SUFFIX}")


def package_folder(name: str) -> Path:
    """Return the folder `weights` or `kernel`, in the installed package or beside it in a clone."""
    package = Path(__file__).parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
