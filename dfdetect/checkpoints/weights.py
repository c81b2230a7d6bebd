"""The weights, and other folders, that are installed with the package."""

from pathlib import Path

DEFAULT_WEIGHTS = "tf_efficientnet_lite2"
SUFFIX = ".safetensors"


def list_weights() -> dict[str, Path]:
    """The checkpoints that are installed with the package, by name."""
    return {path.stem: path for path in sorted(package_folder("weights").glob(f"*{SUFFIX}"))}


def find_weights(weights: str | Path | None = None) -> Path:
    """Path of a checkpoint: the default one, an installed one by name, or the user's own file.

    Raises:
        FileNotFoundError: Neither a file nor an installed name; the message lists the names.
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


def package_folder(name: str) -> Path:
    """`weights` or `kernel`: in the wheel inside the package, in a clone beside it."""
    package = Path(__file__).parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
