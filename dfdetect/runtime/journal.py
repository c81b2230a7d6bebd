"""A file with the results of a run, so that the run can continue after an interruption."""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock

from dfdetect import __version__
from dfdetect.results import Status, VideoResult

# Reasons that may be gone in the next run, such as a busy machine or missing permissions.
MAY_PASS = (
    *(Status.OUT_OF_TIME, Status.FAILED, Status.UNREADABLE_FILE),
    *(Status.DECODER_TOO_SLOW, Status.DECODER_OUT_OF_MEMORY, Status.DECODER_CRASHED),
)


class Journal:
    """A file to which the result of each video is added as a line of JSON.

    Each line also holds the video's name, size and modification time, the settings of the run and
    the version of dfdetect. The method `read` ignores a line if any of these has changed, or if the
    line is incomplete.

    No line is written if a video has no score for a reason in `MAY_PASS`. A later run then tries
    the video again.

    Args:
        path: The file, or None if nothing is written.
        settings: The settings of this run on which the results depend, such as the weights.

    Example:
        >>> journal = Journal(Path("submission.progress.jsonl"), {"weights": "5c1e", "frames": 32})
        >>> journal.add("a.mp4", Path("videos/a.mp4"), result)
        >>> journal.read({"a.mp4": Path("videos/a.mp4")})
        {'a.mp4': VideoResult('a.mp4', probability=0.930, ...)}
    """

    def __init__(self, path: Path | None, settings: Mapping[str, str | int]):
        self.path = path
        self.settings = {**settings, "version": __version__}
        self._lock = Lock()

    def read(self, videos: Mapping[str, Path]) -> dict[str, VideoResult]:
        """Return the results that the file holds for the given videos, by name of the video."""
        results = {}
        for line in self._lines():
            entry = _parse(line)
            if not entry or self._is_stale(entry) or entry["name"] not in videos:
                continue
            video = videos[entry["name"]]
            if entry["file"] == _state(video):  # its folder may have been moved
                results[entry["name"]] = replace(entry["result"], path=video.absolute())
        return results

    def add(self, name: str, video: Path, result: VideoResult) -> None:
        """Add the result of a video, unless the video should be tried again (see `MAY_PASS`).

        Several threads may call this method at the same time.
        """
        if self.path is None or result.status in MAY_PASS:
            return
        entry = {"name": name, "file": _state(video), "settings": self.settings}
        line = json.dumps({**entry, "result": result.to_dict()})
        try:
            with self._lock, self.path.open("a", encoding="utf-8") as file:
                # Start with a line break, because a killed process may have left half a line.
                file.write(f"\n{line}\n")
        except OSError as error:  # the run can continue, because its results are also in memory
            warnings.warn(
                f"{self.path}: cannot be written ({error.strerror}): free disk space, or allow "
                "writing there; otherwise, if this run is stopped, the next one starts again",
                stacklevel=2,
            )

    def of_others(self) -> list[bytes]:
        """Return the lines that were written with other settings or by another version."""
        return [line for line in self._lines() if (entry := _parse(line)) and self._is_stale(entry)]

    def close(self) -> None:
        """Delete the results of this run, and of all runs with the same settings, from the file.

        If no results of other runs are left, the file is deleted. Call this method when the run is
        complete.
        """
        if self.path is None:
            return
        others = self.of_others()
        with suppress(OSError):  # the run is complete even if the file stays
            if others:
                self.path.write_bytes(b"\n".join([*others, b""]))
            else:
                self.path.unlink(missing_ok=True)

    def _lines(self) -> list[bytes]:
        if self.path is None or not self.path.is_file():
            return []
        return self.path.read_bytes().splitlines()

    def _is_stale(self, entry: dict) -> bool:
        return entry["settings"] != self.settings


def _state(video: Path) -> list[int] | None:
    """Return the size and modification time of a file, or None if the file cannot be accessed."""
    try:
        found = video.stat()
        return [found.st_size, found.st_mtime_ns]
    except OSError:
        return None


def _parse(line: bytes) -> dict | None:
    """Return the content of a line, or None if the line is empty or damaged."""
    try:
        entry = json.loads(line)
        parts = {part: entry[part] for part in ("name", "file", "settings")}
        return {**parts, "result": VideoResult.from_dict(entry["result"])}
    except (ValueError, KeyError, TypeError):
        return None
