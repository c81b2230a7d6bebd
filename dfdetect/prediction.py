"""The main job: folders of videos in, submission.csv out."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from dfdetect.detector import VideoScore, load_detector
from dfdetect.files import require_writable
from dfdetect.options import DEFAULT_FRAMES, DEFAULT_PRIOR
from dfdetect.submission import (
    find_videos,
    read_sample_submission,
    summary,
    write_details,
    write_submission,
)

MISSING = "no such video"
NOT_SCORED = "interrupted before it was scored"


def predict(
    paths: str | Path | Iterable[str | Path],
    out: str | Path = "submission.csv",
    sample_submission: str | Path | None = None,
    weights: str | Path | None = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    details: str | Path | None = None,
    prior: float = DEFAULT_PRIOR,
    progress: bool = True,
) -> dict[str, VideoScore]:
    """Score videos and write a submission that has a row for every one of them.

    If the run is interrupted, what is done by then is written, with the prior for the rest and for
    the few videos that were in hand.

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
        progress: Show a progress bar and a closing summary.

    Returns:
        The score of each row, by its name, in the order of the rows.

    Raises:
        FileNotFoundError: A path, the sample submission or the weights do not exist.
        ValueError: There are no videos, or an argument is unusable.

    Example:
        >>> scores = predict(["test_videos"], "submission.csv", details="details.csv")
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior must be strictly between 0 and 1, not {prior}")
    if details is not None and Path(details).absolute() == Path(out).absolute():
        raise ValueError(f"{out}: the submission and the details need files of their own")
    for file in (out, details):
        if file is not None:
            require_writable(file)
    videos = find_videos([paths] if isinstance(paths, str | Path) else paths)
    names = list(videos) if sample_submission is None else read_sample_submission(sample_submission)
    detector = load_detector(weights, device, frames)
    present = [name for name in names if name in videos]
    scores = {
        name: VideoScore(name, None, NOT_SCORED if name in videos else MISSING) for name in names
    }
    results = detector.score_videos(videos[name] for name in present)
    try:
        with (
            closing(results),
            tqdm(total=len(present), desc="videos", unit="video", disable=not progress) as bar,
        ):
            for name, score in zip(present, results, strict=True):
                scores[name] = replace(score, filename=name)
                bar.update()
    finally:
        write_submission(out, names, scores, prior)
        if details is not None:
            write_details(details, scores)
        if progress:
            print(summary(scores, prior))
            if unlisted := len(videos.keys() - set(names)):
                print(f"{unlisted} more videos are not in {sample_submission} and were left out")
            print(f"wrote {out}")
    return scores
