"""The main job: folders of videos in, submission.csv out."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import tee
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from tqdm import tqdm

from dfdetect.checkpoints.weights import find_weights
from dfdetect.defaults import DEFAULT_FRAMES, DEFAULT_PRIOR
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.files import require_writable
from dfdetect.kaggle.submission import (
    read_sample_submission,
    summary,
    write_details,
    write_submission,
)
from dfdetect.results import FAILED, MISSING, NOT_SCORED, OUT_OF_TIME, VideoResult
from dfdetect.runtime.budget import TimeBudget, parse_duration
from dfdetect.runtime.journal import Journal
from dfdetect.video.discovery import find_videos

if TYPE_CHECKING:
    from dfdetect.detector import DetectorFile
    from dfdetect.runtime.budget import VideoAllowance

    ScoreAll = Callable[
        [Iterable[Path], TimeBudget | None, Callable[[Path, VideoResult], None]],
        Iterator[VideoResult],
    ]
    Task = tuple[Path, VideoAllowance | None]

# Seconds from one time that the submission is written to the next.
SAVE_EVERY = 5.0


def predict(
    paths: str | Path | Iterable[str | Path],
    out: str | Path = "submission.csv",
    sample_submission: str | Path | None = None,
    weights: str | Path | None = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    details: str | Path | None = None,
    prior: float = DEFAULT_PRIOR,
    time_budget: str | float | None = None,
    report: str | Path | None = None,
    cluster: str | None = None,
    progress: bool = True,
) -> dict[str, VideoResult]:
    """Score videos and write a submission that has a row for every one of them.

    A complete submission is there from the start, with the prior for what is not scored yet, and is
    replaced every few seconds. Beside it, `OUT.progress.jsonl` keeps the scores: if the run is
    stopped or killed, or its time is out, the next one with the same `out`, weights and frames goes
    on from there. The file is deleted when all is done.

    Args:
        paths: Videos, and folders that are searched through all their sub-folders; one or many.
        out: The submission to write: `filename,label` with label = P(FAKE).
        sample_submission: Its names, in its order, become the rows; without it, the videos sorted
            by name.
        weights: As in `load_detector`.
        frames: Number of frames sampled from each video.
        device: As in `load_detector`.
        details: A CSV to write with people, frames, seconds and the reason where there is no score.
        prior: P(FAKE) for videos without a score, strictly between 0 and 1.
        time_budget: Seconds, or as `8h30m`, from this call to its end. Where they are too few,
            fewer frames are sampled from each video, and in the end some are left unscored.
        report: An HTML page to write, with each video's people, their faces and curves; the videos
            are read once more for it, as far as the time allows.
        cluster: Score on the Ray cluster of this address, or `local`, as in
            `dfdetect.runtime.ray_cluster`. All its machines must see the videos under the same
            paths.
        progress: Show a progress bar and a closing summary.

    Returns:
        The score of each row, by its name, in the order of the rows. From a cluster, which may
        have scored a million, without boxes and probabilities of frames unless there is a `report`.

    Raises:
        FileNotFoundError: A path, the sample submission or the weights do not exist.
        ArgumentError: There are no videos, or an argument is unusable, or the cluster out of reach.

    Example:
        >>> results = predict(["test_videos"], "submission.csv", details="details.csv")
    """
    start = monotonic()
    out = Path(out)
    if not 0 < prior < 1:
        raise ArgumentError(f"prior must be strictly between 0 and 1, not {prior}")
    seconds = None if time_budget is None else parse_duration(time_budget)
    videos = find_videos([paths] if isinstance(paths, str | Path) else paths)
    _require_outputs((out, details, report), (*videos.values(), sample_submission))
    names = list(videos) if sample_submission is None else read_sample_submission(sample_submission)
    results = {
        name: VideoResult(name, None, NOT_SCORED if name in videos else MISSING) for name in names
    }
    checkpoint = find_weights(weights)
    journal = Journal(
        out.with_suffix(".progress.jsonl"), {"weights": _digest(checkpoint), "frames": frames}
    )
    kept = journal.read({name: videos[name] for name in names if name in videos})
    connection = ExitStack()
    with _kept_if_successful(out, lambda: write_submission(out, names, results, prior)):
        score_all = _scorer(checkpoint, device, frames, cluster, report is not None)
        if cluster is not None:  # last, as it is to be closed whatever happens from then on
            from dfdetect.runtime.ray_cluster import connected

            connection.enter_context(connected(cluster))
    results |= kept
    left = {name: videos[name] for name in names if results[name].status == NOT_SCORED}
    budget = None
    if seconds is not None:
        budget = TimeBudget(seconds - (monotonic() - start), len(left), frames)
    if progress:
        _say_what_is_kept(journal, len(kept), len(results))
    try:
        with closing(_score_rest(score_all, left, results, journal, budget, progress)) as rounds:
            for _ in rounds:
                _write_or_warn(out, names, results, prior)
    finally:
        connection.close()
        outputs = {out: lambda: write_submission(out, names, results, prior)}
        if details is not None:
            outputs[Path(details)] = lambda: write_details(details, results)
        problems = _write_all(outputs)
        if progress:
            print(summary(results, prior))
            if budget is not None and budget.thinned:
                print(f"for want of time, {budget.thinned} had fewer than {frames} frames sampled")
            if unlisted := len(videos.keys() - set(names)):
                print(f"{unlisted} more videos are not in {sample_submission} and were left out")
            if written := [str(file) for file in outputs if file not in problems]:
                print(f"wrote {' and '.join(written)}")
        if problems:  # the files are as they were last written
            raise next(iter(problems.values()))
    if report is not None:
        from dfdetect.reporting.html import write_report

        title = f"dfdetect with {checkpoint.stem}"
        write_report(report, results, videos, prior, title, budget, progress)
        if progress:
            print(f"wrote {report}")
    if not any(result.status == OUT_OF_TIME for result in results.values()):
        journal.close()
    return results


def _require_outputs(
    outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None]
) -> None:
    """Each output must be a file of its own that can be written and is not to be read."""
    files = [Path(os.path.realpath(file)) for file in outputs if file is not None]
    if len(set(files)) < len(files):
        raise ArgumentError(f"{files[0]}: submission, details and report need files of their own")
    if taken := set(files) & {Path(os.path.realpath(file)) for file in inputs if file is not None}:
        raise ArgumentError(f"{taken.pop()}: is to be read; write to another file")
    for file in files:
        require_writable(file)


def _write_or_warn(
    out: Path, names: Iterable[str], results: Mapping[str, VideoResult], prior: float
) -> None:
    """Write the submission; if that fails, hours of work need not, as there is another time."""
    try:
        write_submission(out, names, results, prior)
    except OSError as error:
        warnings.warn(f"cannot write now, trying again: {error}", stacklevel=2)


def _write_all(outputs: Mapping[Path, Callable[[], None]]) -> dict[Path, OSError]:
    """Write each file, whatever comes of the others, and give what went wrong."""
    problems = {}
    for file, write in outputs.items():
        try:
            write()
        except OSError as error:
            problems[file] = error
    return problems


def _say_what_is_kept(journal: Journal, kept: int, count: int) -> None:
    if kept:
        print(f"{journal.path}: going on, {kept} of {count} videos are scored already")
    if others := journal.of_others():
        print(f"{journal.path}: {len(others)} scores of other weights or frames are left alone")


def _scorer(
    checkpoint: Path, device: str, frames: int, cluster: str | None, whole: bool
) -> "ScoreAll":
    """What scores many videos: a detector here, or the same on the machines of a cluster."""
    # Loading torch takes seconds; the submission is there before.
    from dfdetect.detector import DetectorFile, load_detector

    if cluster is None:
        return load_detector(checkpoint, device, frames).predict_videos
    start = partial(_start_scorer, DetectorFile.read(checkpoint, device, frames), whole)
    return partial(_score_on_cluster, start, cluster)


def _score_on_cluster(
    start: Callable[[], Callable[["Task"], VideoResult]],
    cluster: str,
    videos: Iterable[Path],
    budget: TimeBudget | None,
    done: Callable[[Path, VideoResult], None],
) -> Iterator[VideoResult]:
    """As `Detector.predict_videos`, on the machines of a cluster."""
    from dfdetect.runtime.ray_cluster import map_on_cluster

    tasks, drawn = tee((path.absolute(), budget and budget.allowance()) for path in videos)
    results = map_on_cluster(start, tasks, cluster, _lost)
    with closing(results):
        for result, (path, allowance) in zip(results, drawn, strict=True):
            if budget is not None:
                budget.record(result, allowance.frames())
            done(path, result)
            yield result


def _start_scorer(file: "DetectorFile", whole: bool) -> Callable[["Task"], VideoResult]:
    """What each process of a cluster does; whole scores, or without the details of frames."""
    detector = file.load()

    def predict_one(task: "Task") -> VideoResult:
        path, allowance = task
        found = detector.predict(path, threads=1, budget=allowance)
        if whole:
            return found
        tracks = [replace(track, boxes=[], frame_probabilities=[]) for track in found.tracks]
        return replace(found, tracks=tracks)

    return predict_one


def _lost(task: "Task", why: str) -> VideoResult:
    return VideoResult(task[0].name, None, f"{FAILED}: {why}")


def _score_rest(
    score_all: "ScoreAll",
    videos: Mapping[str, Path],
    results: dict[str, VideoResult],
    journal: Journal,
    budget: TimeBudget | None,
    progress: bool,
) -> Iterator[None]:
    """Put scores among the others as they come; give way at first and every few seconds."""
    name_of = {path.absolute(): name for name, path in videos.items()}

    def keep(path: Path, result: VideoResult) -> None:
        name = name_of[path.absolute()]
        results[name] = replace(result, name=name)
        journal.add(name, path, results[name])

    bar = tqdm(
        total=len(results),
        initial=len(results) - len(videos),
        desc="videos",
        unit="video",
        disable=not progress,
    )
    yield
    saved = monotonic()
    with closing(score_all(videos.values(), budget, keep)) as arriving, bar:
        for _ in arriving:
            bar.update()
            if monotonic() - saved > SAVE_EVERY:
                yield
                saved = monotonic()


@contextmanager
def _kept_if_successful(path: Path, write: Callable[[], None]) -> Iterator[None]:
    """Write a file that is not there yet; arguments that turn out unusable leave none."""
    new = not path.exists()
    if new:
        write()
    try:
        yield
    except (DfdetectError, OSError):
        if new:
            path.unlink()
        raise


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
