"""`predict`: scores the videos in folders, returns the results, and writes them to files."""

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from dfdetect.checkpoints.weights import Weights, find_all_weights
from dfdetect.defaults import DEFAULT_FRAMES, DEFAULT_PRIOR
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.files import require_writable
from dfdetect.kaggle.submission import read_sample_submission, write_details, write_submission
from dfdetect.reporting.json_file import write_json
from dfdetect.reporting.overlay import annotate_videos, annotated_paths
from dfdetect.reporting.terminal import summary
from dfdetect.results import MOMENTS, Status, VideoResult, counted
from dfdetect.runtime.budget import TimeBudget, parse_duration
from dfdetect.runtime.journal import Journal
from dfdetect.video.discovery import count_ignored_images, find_videos

if TYPE_CHECKING:
    import torch

    from dfdetect.detector import Detector
    from dfdetect.reporting.heat_maps import HeatMapStore
    from dfdetect.runtime.budget import VideoAllowance
    from dfdetect.runtime.executor import Executor, MakeWorker
    from dfdetect.video.isolated import DecoderPool

# Suffixes of `out`: a submission (.csv), or all fields of the results (.json, .jsonl).
OUT_SUFFIXES = (".csv", ".json", ".jsonl")
# `out` is written again SAVE_EVERY seconds after the previous write. The next write is later if
# writing would otherwise take more than the share SAVE_SHARE of the run's time.
SAVE_EVERY = 5.0
SAVE_SHARE = 0.05
LOGGER = logging.getLogger(__name__)


def predict(
    paths: str | Path | Iterable[str | Path],
    *,
    out: str | Path | None = None,
    sample_submission: str | Path | None = None,
    weights: Weights = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    engine: str = "auto",
    details: str | Path | None = None,
    prior: float = DEFAULT_PRIOR,
    time_budget: str | float | None = None,
    report: str | Path | None = None,
    annotate: str | Path | None = None,
    cluster: str | None = None,
    on_result: Callable[[VideoResult], None] = lambda result: None,
    progress: bool = False,
) -> dict[str, VideoResult]:
    """Score videos, return the results by name, and write the requested files.

    If `out` is given, this file is written at the start and then every few seconds. It always has
    an entry for every video.

    If a run with `out` is stopped, or its time budget ends, it can be continued: call `predict`
    again with the same `out`, `weights` and `frames`. For this purpose, each result is also saved
    in a progress file: for `submission.csv`, in `submission.progress.jsonl`. When all videos are
    done, their results are deleted from the progress file. The file is deleted when it is empty.

    Args:
        paths: The path of a video, of an image or of a folder; or several such paths. All videos in
            a folder and in its sub-folders are scored.
        out: A file to write, with an entry for every video. A `.csv` file is a submission for
            Kaggle with the columns `filename,label`. The label is P(FAKE), or `prior` for a video
            without a score. A `.json` file is an array of the dictionaries that
            `VideoResult.to_dict` returns. A `.jsonl` file has one such dictionary on each line.
        sample_submission: A CSV file whose column `filename` gives the names and the order of the
            rows of `out`. By default, `out` has a row for each video, and the rows are sorted by
            name.
        weights: A name from `dfdetect.list_weights()`, the path of a `.safetensors` file, or None
            for the default detector. A list of several names and paths makes an ensemble.
        frames: Number of frames sampled from each video.
        device: `auto` (all GPUs, or the CPU if no GPU works), `cpu`, `cuda` (all GPUs) or `cuda:N`.
        engine: The library that runs the networks on a CPU: `torch`, `openvino`, `onnxruntime`, or
            `auto` for the fastest installed library.
        details: A CSV file to write, with the columns of `dfdetect.results.to_dataframe`.
        prior: The label of videos without a score in a submission, strictly between 0 and 1.
        time_budget: Maximum duration of this call, in seconds or as a text such as `8h30m`. If the
            time is too short, fewer frames are sampled from each video, and some videos may get no
            score.
        report: An HTML page to write, with the people in each video, their faces, and their P(FAKE)
            over time. The videos are read again for this page, as far as the time budget allows.
        annotate: A folder for annotated copies of the videos (see `dfdetect.annotate`). Copies are
            written as far as the time budget allows.
        cluster: Address of the Ray cluster that scores the videos, such as `192.168.0.1:6379`, or
            `local` for a cluster that consists of this machine alone. None means no cluster. All
            machines of the cluster must find the videos at the same paths.
        on_result: Function that is called with each result, in the caller's thread. The results
            that an earlier run saved, and those of missing videos in `sample_submission`, come
            first. The other results follow in the order of the returned dictionary.
        progress: Show progress bars on standard error.

    Returns:
        A dictionary from names to results. With `sample_submission`, the dictionary has the names
        and the order of this file. Otherwise, it has the names of all videos, sorted. Results from
        a cluster have boxes and probabilities of single frames only if `report`, `annotate`, or an
        `out` in JSON is given.

    Raises:
        FileNotFoundError: The weights or the sample submission do not exist, or none of `paths`
            exists.
        InputError: There are no videos, or the sample submission cannot be used.
        ArgumentError: An argument cannot be used, or the cluster cannot be reached.
        CheckpointError: A file of weights is no usable checkpoint.
        OSError: An output file cannot be written.

    Example:
        >>> results = predict(["test_videos"], out="submission.csv", details="details.csv")
    """
    start = monotonic()
    out = None if out is None else Path(out)
    if not 0 < prior < 1:
        raise ArgumentError(f"prior must be strictly between 0 and 1, not {prior}")
    seconds = None if time_budget is None else parse_duration(time_budget)
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    videos = find_videos(given)
    _require_outputs((out, details, report), (*videos.values(), sample_submission))
    _require_out(out, sample_submission)
    shows_frames = report is not None or annotate is not None
    asks_for_frames = shows_frames or not (out is None or is_submission(out))
    targets = {} if annotate is None else annotated_paths(videos, annotate)
    names = list(videos) if sample_submission is None else read_sample_submission(sample_submission)
    results = {name: _not_scored_yet(name, videos.get(name)) for name in names}
    checkpoints = find_all_weights(weights)
    journal = Journal(
        None if out is None else out.with_suffix(".progress.jsonl"),
        {"weights": _digest(checkpoints), "frames": int(frames)},
    )
    kept = _read_kept(
        journal, {name: videos[name] for name in names if name in videos}, asks_for_frames
    )
    outputs: dict[Path, Callable[[], None]] = {}
    if out is not None:
        outputs[out] = partial(_write_out, out, names, results, prior)
    with _kept_if_successful(outputs):
        on_terminal = progress and sys.stderr.isatty()
        with tqdm(bar_format="loading the detector", leave=False, disable=not on_terminal):
            # Importing torch takes seconds, so `out` is written before the import.
            from dfdetect.detector import load_detector
            from dfdetect.runtime.executor import Executor

            where = device if cluster is None else "cpu"
            detector = load_detector(checkpoints, where, frames, engine)
        executor = Executor(device, cluster)  # made last: an error above must not leave it open
    heat_maps = None if report is None else _open_heat_maps()
    maps_per_track = 0 if report is None else MOMENTS
    whole = cluster is None or asks_for_frames
    make_worker = partial(_make_scorer, detector, whole, maps_per_track)
    with executor:
        results |= kept
        left = {name: videos[name] for name in names if results[name].status == Status.NOT_SCORED}
        budget = None
        if seconds is not None:
            budget = TimeBudget(seconds - (monotonic() - start), len(left), frames)
        _log_what_is_kept(journal, len(kept), len(results))
        if details is not None:
            outputs[Path(details)] = partial(write_details, details, results)
        rounds = _score_rest(
            executor, make_worker, left, results, journal, heat_maps, budget, on_result, progress
        )
        try:
            for name in names:
                if name not in left:
                    on_result(results[name])
            with closing(rounds):
                for _ in rounds:
                    if out is not None:
                        _write_or_warn(out, names, results, prior)
        except BaseException:
            for error in _write_all(outputs).values():  # these errors only cause warnings
                warnings.warn(f"cannot be written: {error}", stacklevel=2)
            LOGGER.info("%s", summary(results, prior if is_submission(out) else None))
            raise
        if problems := _write_all(outputs):
            LOGGER.info("%s", summary(results, prior if is_submission(out) else None))
            raise next(iter(problems.values()))
    if budget is not None and budget.thinned:
        LOGGER.info("for lack of time, %d videos had fewer than %d frames", budget.thinned, frames)
    if unlisted := len(videos.keys() - set(names)):
        LOGGER.info("%d more videos are not in %s and were left out", unlisted, sample_submission)
    _log_ignored_images(given, videos)
    if report is not None:
        from dfdetect.reporting.html import write_report

        title = f"dfdetect with {', '.join(path.stem for path in checkpoints)}"
        shown_prior = prior if is_submission(out) else None
        write_report(report, results, videos, shown_prior, title, budget, progress, heat_maps)
    if annotate is not None:
        annotate_videos(results, videos, targets, budget, progress)
    if not any(result.status == Status.OUT_OF_TIME for result in results.values()):
        journal.close()
    return results


def is_submission(out: str | Path | None) -> bool:
    """Return whether `out` is a `.csv` file, to which `predict` writes a Kaggle submission."""
    return out is not None and Path(out).suffix.lower() == OUT_SUFFIXES[0]


def _not_scored_yet(name: str, path: Path | None) -> VideoResult:
    status = Status.NO_SUCH_VIDEO if path is None else Status.NOT_SCORED
    return VideoResult.without_score(path, name, status)


def _require_outputs(
    outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None]
) -> None:
    """Check that all outputs are writable, differ from each other, and are not inputs."""
    files = [Path(os.path.realpath(file)) for file in outputs if file is not None]
    if len(set(files)) < len(files):
        raise ArgumentError(f"{files[0]}: out, details and report must be different files")
    if taken := set(files) & {Path(os.path.realpath(file)) for file in inputs if file is not None}:
        raise ArgumentError(f"{taken.pop()}: is an input and an output; write to another file")
    for file in files:
        require_writable(file)


def _require_out(out: Path | None, sample_submission: str | Path | None) -> None:
    if out is None and sample_submission is not None:
        raise ArgumentError(
            "sample_submission gives the rows of `out`, but `out` is not given: give the file to "
            "write, such as submission.csv"
        )
    if out is not None and out.suffix.lower() not in OUT_SUFFIXES:
        raise ArgumentError(f"{out}: must end in {' or '.join(OUT_SUFFIXES)}")


def _write_out(
    out: Path,
    names: Sequence[str],
    results: Mapping[str, VideoResult],
    prior: float,
    *,
    verify: bool = True,
) -> None:
    """Write the results so far to `out`, in the format that the suffix of `out` determines.

    If `verify` is true, a submission is checked before it replaces an existing file.
    """
    if is_submission(out):
        write_submission(out, names, results, prior, verify=verify)
    else:
        write_json(out, [results[name] for name in names])


def _write_or_warn(
    out: Path, names: Sequence[str], results: Mapping[str, VideoResult], prior: float
) -> None:
    """Write the results so far to `out`, and only warn if the file cannot be written.

    A warning is enough, because the results are soon written again.
    """
    try:
        _write_out(out, names, results, prior, verify=False)
    except OSError as error:
        warnings.warn(f"cannot write the results, trying again later: {error}", stacklevel=2)


def _write_all(outputs: Mapping[Path, Callable[[], None]]) -> dict[Path, OSError]:
    """Write all files, and return the error of each file that could not be written.

    `outputs` maps each file to a function that writes this file.
    """
    problems = {}
    for file, write in outputs.items():
        try:
            write()
        except OSError as error:
            problems[file] = error
    return problems


def _log_what_is_kept(journal: Journal, kept: int, count: int) -> None:
    if kept:
        LOGGER.info("%s: %d of %d videos are scored already", journal.path, kept, count)
    if others := journal.of_others():
        LOGGER.info(
            "%s: %d scores of other weights, frames or versions are kept for their own runs",
            *(journal.path, len(others)),
        )


def _log_ignored_images(paths: Sequence[str | Path], videos: Mapping[str, Path]) -> None:
    if count := count_ignored_images(paths, videos.values()):
        LOGGER.info("not scored: %s in folders; name an image to score it", counted(count, "image"))


def _read_kept(
    journal: Journal, videos: Mapping[str, Path], with_boxes: bool
) -> dict[str, VideoResult]:
    """Return the results that an earlier run saved.

    If `with_boxes` is true, results that lack the boxes of faces are left out. Results from a
    cluster may lack them.
    """
    kept = journal.read(videos)
    if not with_boxes:
        return kept
    return {name: one for name, one in kept.items() if all(track.boxes for track in one.tracks)}


class _Task(NamedTuple):
    """A video to score, the name of its result, and its part of the time budget."""

    name: str
    path: Path
    allowance: "VideoAllowance | None"


def _open_heat_maps() -> "HeatMapStore":
    from dfdetect.reporting.heat_maps import HeatMapStore

    return HeatMapStore()


def _make_scorer(
    detector: "Detector",
    whole: bool,
    heat_maps: int,
    device: "torch.device",
    decoders: "DecoderPool",
) -> Callable[[_Task], VideoResult]:
    """Return a function that scores one video.

    If `whole` is true, each result includes the boxes and the probabilities of single frames.
    `heat_maps` is the maximum number of heat maps for each track.
    """
    replica = detector.replica(device, decoders)

    def score(task: _Task) -> VideoResult:
        result = replica.predict(task.path, heat_maps=heat_maps, allowance=task.allowance)
        if whole:
            return result
        tracks = [replace(track, boxes=[], frame_probabilities=[]) for track in result.tracks]
        return replace(result, tracks=tracks)

    return score


def _lost(task: _Task, why: str) -> VideoResult:
    return VideoResult.without_score(task.path, task.name, Status.FAILED, why)


def _score_rest(
    executor: "Executor",
    make_worker: "MakeWorker",
    videos: Mapping[str, Path],
    results: dict[str, VideoResult],
    journal: Journal,
    heat_maps: "HeatMapStore | None",
    budget: TimeBudget | None,
    on_result: Callable[[VideoResult], None],
    progress: bool,
) -> Generator[None, None, None]:
    """Score the videos, and store each result in `results` and in the journal as it arrives.

    The generator yields once at the start and then every few seconds, so that the caller can write
    the results so far to files.
    """
    from dfdetect.detector import has_failed

    def keep(task: _Task, result: VideoResult) -> None:
        if budget is not None and task.allowance is not None:
            budget.record(result, task.allowance.frames())
        if heat_maps is not None:
            result = _without_heat_maps(heat_maps, task.name, result)
        results[task.name] = replace(result, name=task.name)
        journal.add(task.name, task.path, results[task.name])

    bar = tqdm(
        total=len(results),
        initial=len(results) - len(videos),
        desc="videos",
        unit="video",
        disable=not progress,
        # On a terminal, the bar disappears at the end. Programs without a console have no stderr.
        leave=not (progress and sys.stderr.isatty()),
    )
    saves = _Saves()
    yield
    saves.done()
    tasks = (
        _Task(name, path.absolute(), None if budget is None else budget.allowance())
        for name, path in videos.items()
    )
    pairs = executor.map(make_worker, tasks, on_lost=_lost, failed=has_failed, on_done=keep)
    with closing(pairs), bar:
        for task, _ in pairs:
            on_result(results[task.name])
            bar.update()
            if saves.due():
                yield
                saves.done()


def _without_heat_maps(store: "HeatMapStore", name: str, result: VideoResult) -> VideoResult:
    """Move the heat maps of a result to a store, and return the result without them.

    If the store cannot be written, a warning says that the report will lack the heat maps.
    """
    try:
        store.put(name, result)
    except OSError as error:
        warnings.warn(f"{name}: no heat maps in the report: {error}", stacklevel=2)
    return replace(result, tracks=[replace(one, heat_maps=[]) for one in result.tracks])


class _Saves:
    """Decides when the results are written again, so that writing takes little of a run's time.

    Args:
        clock: Function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic):
        self._clock = clock
        self._begun = clock()
        self._next = self._begun

    def due(self) -> bool:
        """Return whether it is time to write the results.

        The caller calls `done` after writing.
        """
        self._begun = self._clock()
        return self._begun >= self._next

    def done(self) -> None:
        """Set the time of the next write.

        The caller calls this method after each write.
        """
        now = self._clock()
        self._next = now + max(SAVE_EVERY, (now - self._begun) / SAVE_SHARE)


@contextmanager
def _kept_if_successful(outputs: Mapping[Path, Callable[[], None]]) -> Iterator[None]:
    """Write each output file that does not exist yet, and delete it if the `with` block fails.

    The files are written before the block starts. They are deleted if the block raises a
    `DfdetectError` or an `OSError`. `outputs` maps each file to a function that writes this file.
    """
    new = [path for path in outputs if not path.exists()]
    for path in new:
        outputs[path]()
    try:
        yield
    except (DfdetectError, OSError):
        for path in new:
            path.unlink()
        raise


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
