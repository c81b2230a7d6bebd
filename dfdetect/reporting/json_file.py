"""Write results as JSON; `docs/result.schema.json` describes the object of a result."""

import json
from collections.abc import Iterable
from pathlib import Path

from dfdetect.files import atomic_path
from dfdetect.results import VideoResult


def to_json(result: VideoResult) -> str:
    """Return a result as one line of JSON, in ASCII.

    Example:
        >>> json.loads(to_json(detector.predict("a.mp4")))["probability"]
        0.951
    """
    return json.dumps(result.to_dict(), allow_nan=False)


def write_json(path: str | Path, results: Iterable[VideoResult]) -> None:
    """Write results, or leave the file as it was if anything goes wrong.

    Args:
        path: The file to write. It gets an array if its name ends in `.json`, and otherwise one
            object on each line.
        results: In the order in which they are written.
    """
    lines = [to_json(result) for result in results]
    with atomic_path(path) as temporary:
        if Path(path).suffix.lower() == ".json":
            text = "[\n" + ",\n".join(lines) + "\n]\n"
        else:
            text = "".join(f"{line}\n" for line in lines)
        temporary.write_text(text, encoding="ascii")
