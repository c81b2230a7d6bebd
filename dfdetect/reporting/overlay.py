"""Write annotated videos: copies of videos, with sound, that show boxes and curves of P(FAKE).

P(FAKE) is the detector's score, from 0 (REAL) to 1 (FAKE). A person is one face that was tracked
through a video. Each video is decoded and encoded in a separate process, because a malicious file
may crash the process that decodes it.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from time import monotonic
from typing import TYPE_CHECKING

from tqdm import tqdm

from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.files import atomic_path, require_writable
from dfdetect.results import Status, VideoResult, counted
from dfdetect.runtime.budget import OutOfTimeError, TimeBudget
from dfdetect.video.discovery import IMAGE_SUFFIXES
from dfdetect.video.isolated import CancelledError, DecoderPool, import_path
from dfdetect.video.reader import VideoError

if TYPE_CHECKING:
    import torch

SUFFIX = ".mp4"
KEPT_SUFFIXES = frozenset((SUFFIX, *IMAGE_SUFFIXES))
# Seconds between two calls of the caller's function `check`, which stops the work by raising an
# error.
LOOK_EVERY = 0.2
# Time limit for annotating a video, in seconds: the sum of a fixed part, and of a part for each
# second of the video until the last sampled frame that shows a face.
TIME_LIMIT, TIME_LIMIT_PER_SECOND = 300.0, 20.0
# The new process searches for modules in the same folders (`sys.path`) as this process.
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
    """Write a copy of a video or image that shows the result of a detector.

    The copy shows a bounding box around each face. A label at the box gives the person's number and
    current P(FAKE). Boxes and P(FAKE) are interpolated between the frames that the detector
    sampled. A person has a box only at times near a sampled frame that shows the person. A panel
    below the frame shows the verdict, and a curve of P(FAKE) over time for each person.

    The copy of a video is an MP4 file with H.264 and AAC, which browsers play. Its frames have the
    same times as the frames of the video. The copy of an image is an image, and its panel has no
    curves. Frames and images are resized so that no side has more than 1280 pixels. As far as this
    limit allows, they are at least 480 pixels wide. If the file `out` exists, it is replaced when
    the copy is complete.

    Args:
        path: The video or image.
        result: The result of `Detector.predict` for this file, with at least one track.
        out: The file to write. The suffix is `.mp4` for a video, and `.jpg`, `.png` or `.webp` for
            an image.
        threads: Number of decoding threads, which is also the number of encoding threads. 0 means
            the number of CPU cores.
        check: Function that is called several times a second. If this function raises an error,
            `annotate` stops and raises the error.

    Raises:
        VideoError: The video or image cannot be read.
        ArgumentError: The result has no tracks, or `out` is the input file, has another suffix, or
            exists but is not a regular file.
        DfdetectError: The copy cannot be made, for example because the disk is full.
        OSError: The file `out` cannot be created.

    Example:
        >>> result = dfdetect.load_detector().predict("video.mov")
        >>> annotate("video.mov", result, "annotated.mp4")
    """
    if not result.tracks:
        raise ArgumentError(f"{path}: nothing to annotate: {result.message}")
    if Path(os.path.realpath(path)) == Path(os.path.realpath(out)):
        raise ArgumentError(f"{out}: is the input; write the annotated video to another file")
    suffixes = IMAGE_SUFFIXES if Path(path).suffix.lower() in IMAGE_SUFFIXES else {SUFFIX}
    if Path(out).suffix.lower() not in suffixes:
        kind = " or ".join(sorted(suffixes))
        raise ArgumentError(f"{out}: the annotated copy of {Path(path).name} must end in {kind}")
    lasts = max(track.times[-1] for track in result.tracks)
    with atomic_path(out) as temporary:
        request = {
            "path": str(Path(path).absolute()),
            "out": str(temporary),
            "result": result.to_dict(),
        }
        _run(Path(path), request, threads, TIME_LIMIT + TIME_LIMIT_PER_SECOND * lasts, check)


def annotated_paths(videos: Mapping[str, Path], folder: str | Path) -> dict[str, Path]:
    """Return a dictionary from the name of each video to the path of its annotated copy.

    If the name of a video contains sub-folders, the copy is in the same sub-folders of `folder`.
    Parts of a name that would lead out of `folder`, such as `..`, are left out. Names of MP4 files
    and images are kept, and all other names get the additional suffix `.mp4`. If two copies would
    have the same path, a number is added to the second path.

    Args:
        videos: A dictionary from the name of each video to its file.
        folder: Folder of the annotated copies.

    Raises:
        ArgumentError: `folder` is not a folder or cannot be written to, or a copy would overwrite
            one of the videos.

    Example:
        >>> annotated_paths({"a.mov": Path("videos/a.mov")}, "annotated")
        {'a.mov': PosixPath('annotated/a.mov.mp4')}
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder}: is no folder; give one for the annotated videos")
    require_writable(folder / "any")
    inputs = {os.path.realpath(path) for path in videos.values()}
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for name in videos:
        outside = ("/", "//", "..", PureWindowsPath(name).drive)
        parts = [part for part in PurePosixPath(name).parts if part not in outside]
        path = folder.joinpath(*parts)
        if path.suffix.lower() not in KEPT_SUFFIXES:
            path = path.with_name(path.name + SUFFIX)
        target, number = path, 1
        while str(target).lower() in taken:  # some file systems ignore case
            number += 1
            target = path.with_stem(f"{path.stem} ({number})")
        if os.path.realpath(target) in inputs:
            raise ArgumentError(f"{target}: is an input; write annotated videos to another folder")
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
    """Write annotated copies of many videos.

    Several videos are annotated at the same time: one on each CPU core, but at most 16. A video has
    no copy if it has no score, if it cannot be annotated, or if no time is left for it. A message
    in the log then gives the reason.

    Args:
        results: A dictionary from the name of each video to the detector's result.
        videos: A dictionary from the name of each video to its file.
        targets: A dictionary from the name of each video to the file to write. `annotated_paths`
            returns such a dictionary.
        budget: The time budget of the run. When the budget is used up, no more copies are written.
        progress: Whether to show a progress bar.

    Returns:
        A dictionary from the name of each annotated video to the file that was written.
    """
    from dfdetect.runtime.executor import Executor  # loads torch, which takes seconds

    names = [name for name in results if results[name].tracks and name in targets]
    written: dict[str, Path] = {}

    def write(decoders: DecoderPool, name: str) -> str:
        """Annotate a video, and return an error message, or an empty text if there was no error."""

        def check() -> None:
            if decoders.closed:  # the executor was closed, for example after Ctrl-C
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
        LOGGER.info("%s without a score, so not annotated", counted(rest, "video"))


def _run(
    path: Path,
    request: Mapping[str, object],
    threads: int,
    seconds: float,
    check: Callable[[], None],
) -> None:
    """Run `dfdetect.reporting.painting.main` in a new process.

    If the process fails, or does not end within the time limit, an error is raised.

    Args:
        path: The video or image. Error messages name this file.
        request: The JSON object that `main` reads.
        threads: Number of decoding threads, which is also the number of encoding threads.
        seconds: Time limit for the process.
        check: Function that is called several times a second, as in `annotate`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(import_path(), threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the new one
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
