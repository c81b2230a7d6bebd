"""Find the checkpoints and the Kaggle notebook that come with dfdetect."""

from collections.abc import Sequence
from pathlib import Path

from dfdetect.errors import ArgumentError
from dfdetect.files import require_writable

DEFAULT_WEIGHTS = "tf_efficientnet_lite2_texture"
SUFFIX = ".safetensors"
# The name of an installed checkpoint or the path of a file, a sequence of names and paths for an
# ensemble, or None for the default checkpoint.
Weights = str | Path | Sequence[str | Path] | None


def list_weights() -> dict[str, Path]:
    """Return the installed checkpoints: a dictionary from names to paths, sorted by name.

    The wheel contains the default checkpoint and the small checkpoints. A clone of the repository
    contains all checkpoints.
    """
    return {path.stem: path for path in sorted(package_folder("weights").glob(f"*{SUFFIX}"))}


def find_weights(weights: str | Path | None = None) -> Path:
    """Return the path of a checkpoint.

    Args:
        weights: Name of an installed checkpoint, path of a file, or None for the default.

    Raises:
        FileNotFoundError: `weights` is neither a file nor the name of an installed checkpoint.

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
    """Return the paths of one or several checkpoints.

    Args:
        weights: One name, one path or None, as in `find_weights`; or a sequence of names and paths.

    Raises:
        ArgumentError: The sequence is empty.
        FileNotFoundError: An element is neither a file nor the name of an installed checkpoint.

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
    """Check that a new checkpoint can be written, before its content is computed.

    Raises:
        ArgumentError: The file exists or cannot be written, or its name does not end in
            `.safetensors`.
    """
    require_checkpoint_name(path)
    require_writable(path)
    if path.exists():
        raise ArgumentError(f"{path}: exists; delete it, or give another file")


def require_checkpoint_name(path: Path) -> None:
    """Check that the name of a checkpoint's file ends in `.safetensors`.

    Raises:
        ArgumentError: The name does not end in `.safetensors`.
    """
    if path.suffix != SUFFIX:
        raise ArgumentError(f"{path}: the name of a checkpoint must end in {SUFFIX}")


def package_folder(name: str) -> Path:
    """Return the path of a folder that comes with dfdetect: `weights` or `kernel`.

    In an installed dfdetect, the folder is inside the package `dfdetect`. In a clone of the
    repository, the folder is beside the package.

    Args:
        name: `weights` for the folder of the checkpoints, or `kernel` for the folder of the Kaggle
            notebook.
    """
    package = Path(__file__).parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
