"""Write results as JSON. The format of a result is described in `docs/result.schema.json`."""

import json
from collections.abc import Iterable
from pathlib import Path

from dfdetect.files import atomic_path
from dfdetect.results import VideoResult


def to_json(result: VideoResult) -> str:
    """Return a result, without its heat maps, as one line of JSON in ASCII.

    Example:
        >>> json.loads(to_json(detector.predict("a.mp4")))["probability"]
        0.951
    """
    return json.dumps(result.to_dict(), allow_nan=False)


def write_json(path: str | Path, results: Iterable[VideoResult]) -> None:
    """Write results, without their heat maps, to a file as JSON.

    If the file exists and an error occurs, the old file remains unchanged.

    Args:
        path: The file to write. If its name ends in `.json`, the file contains one array with an
            object for each result. Otherwise, each line of the file contains one object.
        results: The results, in the order in which they are written.
    """
    lines = [to_json(result) for result in results]
    with atomic_path(path) as temporary:
        if Path(path).suffix.lower() == ".json":
            text = "[\n" + ",\n".join(lines) + "\n]\n"
        else:
            text = "".join(f"{line}\n" for line in lines)
        temporary.write_text(text, encoding="ascii")
