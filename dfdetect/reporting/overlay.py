"""Annotated videos: the video again with boxes, P(FAKE) over time and its sound.

Each video is decoded and encoded in a process of its own, because a hostile file may crash it.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING

from tqdm import tqdm

from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.files import atomic_path, require_writable
from dfdetect.results import Status, VideoResult
from dfdetect.runtime.budget import OutOfTimeError, TimeBudget
from dfdetect.video.discovery import IMAGE_SUFFIXES
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import VideoError

if TYPE_CHECKING:
    import torch

SUFFIX = ".mp4"
KEPT_SUFFIXES = frozenset((SUFFIX, *IMAGE_SUFFIXES))
# Seconds from one look at whether to stop to the next.
LOOK_EVERY = 0.2
# Seconds that a video may take: these, and as many for each second that it lasts.
TIME_LIMIT, TIME_LIMIT_PER_SECOND = 300.0, 20.0
# The process imports from where this one does, as decoder processes do.
CODE = "import sys; sys.path[:] = {!r}; import dfdetect.reporting.painting as p; p.main({})"
LOGGER = logging.getLogger(__name__)


def annotate(
    path: str | Path,
    result: VideoResult,
    out: str | Path,
    *,
    threads: int = 0,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write a video or image again with what a detector said of it.

    Each person has a box with a number and P(FAKE) at this time; a panel below shows the verdict
    and the curves. Between the sampled frames both are interpolated; there is no box where a person
    was not seen on a sampled frame nearby. Frames keep their times; frames larger than 1280 pixels
    are reduced to that, and those narrower than 480 enlarged. The file is an MP4 file with H.264
    and AAC, which browsers play; of an image, an image without curves. An existing file is replaced
    once the new one is complete.

    Args:
        path: The video or image.
        result: What `Detector.predict` said of it; with at least one face.
        out: The file to write, with the suffix `.mp4`; of an image, `.jpg`, `.png` or `.webp`.
        threads: Number of threads, both to decode and to encode; 0 for as many as there are cores.
        check: Called several times a second; what it raises ends the work.

    Raises:
        VideoError: The video cannot be read.
        ArgumentError: The result has no faces, or `out` cannot be written.
        OSError: The disk is full, or the like.

    Example:
        >>> result = dfdetect.load_detector().predict("clip.mov")
        >>> annotate("clip.mov", result, "annotated.mp4")
    """
    if not result.tracks:
        raise ArgumentError(f"{path}: nothing to annotate: {result.message}")
    if Path(os.path.realpath(path)) == Path(os.path.realpath(out)):
        raise ArgumentError(f"{out}: is to be read; annotate it into another file")
    lasts = max(track.times[-1] for track in result.tracks)
    with atomic_path(out) as temporary:
        request = {
            "path": str(Path(path).absolute()),
            "out": str(temporary),
            "result": result.to_dict(),
        }
        _run(Path(path), request, threads, TIME_LIMIT + TIME_LIMIT_PER_SECOND * lasts, check)


def annotated_paths(videos: Mapping[str, Path], folder: str | Path) -> dict[str, Path]:
    """Where the annotated video of each video goes.

    Names are kept, with `.mp4` after the suffixes of other videos, and so are the folders in them.
    What would lead out of the folder is left out; if two files would be one, the second gets a
    number.

    Raises:
        ArgumentError: The folder cannot be written to, or a video would be overwritten.

    Example:
        >>> annotated_paths({"clip.mov": Path("videos/clip.mov")}, "annotated")
        {'clip.mov': PosixPath('annotated/clip.mov.mp4')}
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder}: is no folder; give one for the annotated videos")
    require_writable(folder / "any")
    inputs = {os.path.realpath(path) for path in videos.values()}
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for name in videos:
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        path = folder.joinpath(*parts)
        if path.suffix.lower() not in KEPT_SUFFIXES:
            path = path.with_name(path.name + SUFFIX)
        target, number = path, 1
        while str(target).lower() in taken:  # some file systems ignore case
            number += 1
            target = path.with_stem(f"{path.stem} ({number})")
        if os.path.realpath(target) in inputs:
            raise ArgumentError(f"{target}: is to be read; annotate into another folder")
        taken.add(str(target).lower())
        found[name] = target
    return found


def annotate_videos(
    results: Mapping[str, VideoResult],
    videos: Mapping[str, Path],
    targets: Mapping[str, Path],
    budget: TimeBudget | None = None,
    progress: bool = False,
) -> dict[str, Path]:
    """Annotate many videos, as many at a time as there are cores.

    One that has no score, cannot be annotated, or has no time left is logged and left out.

    Args:
        results: What the detector said, by name.
        videos: The files, by name.
        targets: What `annotated_paths` returned.
        budget: The time for it.
        progress: Show a progress bar.

    Returns:
        The files that were written, by name.
    """
    from dfdetect.runtime.executor import Executor  # loads torch, which takes seconds

    names = [name for name in results if results[name].tracks and name in targets]
    written: dict[str, Path] = {}

    def write(decoders: DecoderPool, name: str) -> str:
        """Annotate a video and return what was wrong, or nothing."""

        def check() -> None:
            if decoders.closed:  # the executor ends
                raise CancelledError
            if budget is not None:
                budget.check()

        try:
            check()
            annotate(
                *(videos[name], results[name], targets[name]),
                threads=decoders.threads,
                check=check,
            )
        except OutOfTimeError:
            return "no time was left"
        except (DfdetectError, OSError) as error:
            return str(error)
        return ""

    def make_worker(_: "torch.device", decoders: DecoderPool) -> Callable[[str], str]:
        return partial(write, decoders)

    bar = tqdm(total=len(names), desc="annotated", unit="video", disable=not progress)
    with Executor("cpu") as executor, bar:
        for name, problem in executor.map(make_worker, names):
            if problem:
                LOGGER.warning("%s: not annotated: %s", name, problem)
            else:
                written[name] = targets[name]
            bar.update()
    _log_the_rest(results, targets)
    return written


def _log_the_rest(results: Mapping[str, VideoResult], targets: Iterable[str]) -> None:
    rest = sum(not results[name].tracks for name in targets if name in results)
    if rest:
        noun = "video" if rest == 1 else "videos"
        LOGGER.info("%d %s without a score, so not annotated", rest, noun)


def _run(
    path: Path,
    request: Mapping[str, object],
    threads: int,
    seconds: float,
    check: Callable[[], None],
) -> None:
    """Run `dfdetect.reporting.painting.main` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(sys.path, threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C goes to the caller only, who ends the process
    )
    end = monotonic() + seconds
    unsent: bytes | None = json.dumps(request).encode()
    with process:
        try:
            while True:
                check()
                if monotonic() > end:
                    raise VideoError(path, Status.DECODER_TOO_SLOW)
                try:
                    answer, complaints = process.communicate(unsent, timeout=LOOK_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    unsent = None
        finally:
            process.kill()
    if process.returncode < 0:
        raise VideoError(path, Status.DECODER_CRASHED, f"signal {-process.returncode}")
    if process.returncode:
        last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
        raise DfdetectError(f"{path}: cannot be annotated: {last}")
    if answer:
        problem = json.loads(answer)
        raise VideoError(path, Status(problem["status"]), problem["details"])
