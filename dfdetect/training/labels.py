"""Which videos of a folder are REAL and which are FAKE."""

import json
from pathlib import Path

from dfdetect.submission import find_videos
from dfdetect.training.faceset import LABELS

METADATA = "metadata.json"


def read_labels(folder: str | Path) -> dict[str, tuple[Path, str]]:
    """Find the labelled videos of a folder.

    A `metadata.json` beside a video, as the challenge has it, gives `{"name.mp4": {"label": "FAKE",
    ...}}`; otherwise the nearest folder named `real` or `fake` (in any case) around it tells, up to
    the given folder itself.

    Returns:
        Path and label (REAL or FAKE) of each video, by its name.

    Raises:
        ValueError: There are no videos, one has no label, or `metadata.json` is of another form.
    """
    folder = Path(folder).absolute()
    metadata = {path.parent: _read_metadata(path) for path in folder.rglob(METADATA)}
    labelled = {}
    for name, path in find_videos([folder]).items():
        label = metadata.get(path.parent, {}).get(path.name)
        if label is None:
            below = path.relative_to(folder.parent).parts[:-1]
            label = next((part.upper() for part in below[::-1] if part.upper() in LABELS), None)
        if label not in LABELS:
            raise ValueError(
                f"{path}: no label (REAL or FAKE): list it in {METADATA} beside it, or put it into "
                "a folder named real or fake"
            )
        labelled[name] = path, label
    return labelled


def _read_metadata(path: Path) -> dict[str, str | None]:
    """Label by file name."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: entry.get("label") for name, entry in entries.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'{path}: not of the form {{"name.mp4": {{"label": "FAKE"}}}} ({error})'
        ) from error
