"""Which videos of a folder are REAL and which are FAKE."""

import json
from pathlib import Path

from dfdetect.submission import find_videos
from dfdetect.training.faceset import LABELS

METADATA = "metadata.json"


def read_labels(folder: str | Path) -> dict[str, tuple[Path, str]]:
    """Find the labelled videos of a folder.

    A `metadata.json` beside a video, as the challenge has it, gives `{"name.mp4": {"label": "FAKE",
    ...}}`; otherwise the nearest folder named `real` or `fake` (in any case) above it tells.

    Returns:
        Path and label (REAL or FAKE) of each video, by its name.

    Raises:
        ValueError: There are no videos, or one has no label.
    """
    folder = Path(folder)
    metadata = {path.parent: json.loads(path.read_text()) for path in folder.rglob(METADATA)}
    labelled = {}
    for name, path in find_videos([folder]).items():
        label = metadata.get(path.parent, {}).get(path.name, {}).get("label")
        if label is None:
            above = (part.upper() for part in reversed(path.relative_to(folder).parts[:-1]))
            label = next((part for part in above if part in LABELS), None)
        if label not in LABELS:
            raise ValueError(
                f"{path}: no label (REAL or FAKE): list it in {METADATA} beside it, or put it into "
                "a folder named real or fake"
            )
        labelled[name] = path, label
    return labelled
