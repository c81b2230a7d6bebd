"""Measure how the compression and the frame rate of videos change the scores of a detector.

The encoder x264 makes several copies of the first seconds of each labelled video. One copy, the
reference, has hardly any loss of quality. Each of the other copies differs from the reference in
one thing only: it is more strongly compressed, or it has fewer frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm import tqdm

from dfdetect.data.labels import LabelledVideo, read_labels
from dfdetect.detector import Detector
from dfdetect.errors import InputError
from dfdetect.evaluation.metrics import bootstrap_intervals
from dfdetect.scoring.reliability import COMPRESSED
from dfdetect.video.reader import Frame, VideoError, av, read_frames

# Length of each copy in seconds, and number of frames that the command line samples from each copy.
SECONDS, FRAMES = 2.5, 8
# Constant rate factors of x264: the factor of the reference, and the factors of the compressed
# copies. A lower factor gives a better quality.
REFERENCE, COMPRESSIONS = 18, (28, 34, 40, 46)
# Frames per second of copies with fewer frames.
RATES = (5, 2)
# Edges of the two ranges of bits per pixel into which the compressed copies are divided. Results of
# copies in the first range have a warning.
RANGES = (0, COMPRESSED, np.inf)
THRESHOLD = 0.5
# More frames than any video has in `SECONDS`.
MOST_FRAMES = 1000
Choose = Callable[[Sequence[Frame]], Sequence[Frame]]


@dataclass(frozen=True)
class Encoding:
    """Settings for one copy of a video.

    Attributes:
        condition: The kind of copy: `reference`, `crf` (compressed) or `frame rate` (fewer frames).
        level: The constant rate factor as text if `condition` is `reference` or `crf`. If
            `condition` is `frame rate`, the number of frames per second as text, or `uneven` for
            frames at uneven times.
        crf: The constant rate factor with which x264 encodes the copy.
        choose: Function that takes all frames of the video's first seconds, and returns the frames
            of the copy.
    """

    condition: str
    level: str
    crf: int
    choose: Choose = list


def compare_encodings(
    folders: Sequence[str | Path], detector: Detector, *, progress: bool = False
) -> pd.DataFrame:
    """Return a table of how the compression and the frame rate of a video change its score.

    The scores of several copies of each video are compared with the score of a reference copy. The
    reference copy has hardly any loss of quality. The other copies are more strongly compressed or
    have fewer frames. The function `encodings` lists all kinds of copies.

    Args:
        folders: Folders of labelled videos, as in `read_labels`.
        detector: The detector that scores the copies.
        progress: Show a progress bar.

    Returns:
        A table with a row for each encoding and a row for each range of bits per pixel. The row of
        a range describes the copies of the condition `crf` whose bits per pixel are in this range.
        The columns are:

        - `condition` and `level`: as in `Encoding`. In the row of a range, `condition` is
          `bits per pixel` and `level` is the range;
        - `n`: the number of copies with a score;
        - `bits_per_pixel`: the median bits per pixel of the copies;
        - `probability_change`: the mean absolute difference between P(FAKE) of a copy and P(FAKE)
          of its reference copy;
        - `real_before`: the share of REAL videos whose reference copy has a P(FAKE) above 0.5;
        - `real_after`: the share of REAL videos whose copy has a P(FAKE) above 0.5;
        - `real_low` and `real_high`: the ends of the 95 % interval of `real_after` minus
          `real_before`, by a bootstrap that draws whole sources; NaN if there is one source only;
        - `fake_before`, `fake_after`, `fake_low` and `fake_high`: the same values for FAKE videos.

    Raises:
        FileNotFoundError: A folder does not exist.
        InputError: The videos of a folder have no labels, or no video can be scored.

    Example:
        >>> compare_encodings(["videos"], load_detector(frames=FRAMES)).query("condition == 'crf'")
    """
    videos = [video for folder in folders for video in read_labels(folder)]
    copies = pd.DataFrame(
        [
            row
            for video in tqdm(videos, "videos", unit="video", disable=not progress)
            for row in _score_copies(video, detector)
        ]
    )
    if copies.empty:
        raise InputError(f"{', '.join(map(str, folders))}: no video could be scored")
    compressed = copies[copies["condition"] == "crf"]
    ranges = pd.cut(compressed["bits_per_pixel"], RANGES, right=False)
    rows = [
        _summarise(condition, level, part)
        for (condition, level), part in copies.groupby(["condition", "level"], sort=False)
    ]
    rows += [
        _summarise("bits per pixel", level, part)
        for level, part in compressed.groupby(ranges, observed=True)
    ]
    return pd.DataFrame(rows)


def encodings() -> list[Encoding]:
    """Return the encodings that `compare_encodings` compares.

    One copy of each video is made with each encoding. The first encoding makes the reference copy.
    """
    return [
        Encoding("reference", f"{REFERENCE}", REFERENCE),
        *(Encoding("crf", f"{crf}", crf) for crf in COMPRESSIONS),
        *(Encoding("frame rate", f"{rate}", REFERENCE, _at_rate(rate)) for rate in RATES),
        Encoding("frame rate", "uneven", REFERENCE, _random_half),
    ]


def write_copy(path: Path, frames: Iterable[Frame], crf: int) -> None:
    """Encode frames by x264 with the constant rate factor `crf`, and write them to an MP4 file.

    Each frame keeps its time.
    """
    unit = Fraction(1, 1000)
    with av.open(str(path), "w", format="mp4") as target:
        options = {"crf": f"{crf}", "preset": "veryfast"}
        stream = target.add_stream("libx264", rate=30, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = unit
        for number, frame in enumerate(frames):
            height, width = (side // 2 * 2 for side in frame.image.shape[:2])
            if number == 0:
                stream.height, stream.width = height, width
            image = np.ascontiguousarray(frame.image[:height, :width])
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = round(frame.time / unit), unit
            target.mux(stream.encode(picture))
        target.mux(stream.encode())


def _score_copies(video: LabelledVideo, detector: Detector) -> Iterator[dict]:
    """Encode copies of a video, score them, and yield a row for each copy that gets a score.

    The first copy is the reference. A row has the score of the reference as `before`, and the score
    of the copy as `after`. If the video cannot be read, or the detector cannot score the reference,
    no row is yielded.
    """
    with TemporaryDirectory(prefix="dfdetect-") as folder, video.open() as source:
        path = Path(folder, "copy.mp4")
        try:
            found = read_frames(source, indices=range(MOST_FRAMES), threads=1)
            frames = list(takewhile(lambda frame: frame.time <= SECONDS, found))
        except VideoError:
            return
        before = None
        for encoding in encodings():
            write_copy(path, encoding.choose(frames), encoding.crf)
            probability = detector.predict(path).probability
            if before is None and probability is None:
                return
            before = probability if before is None else before
            if probability is not None:
                yield {
                    "condition": encoding.condition,
                    "level": encoding.level,
                    "label": video.label,
                    "source": video.source,
                    "bits_per_pixel": next(read_frames(path, 1)).bits_per_pixel,
                    "before": before,
                    "after": probability,
                }


def _summarise(condition: str, level: object, copies: pd.DataFrame) -> dict:
    row = {
        "condition": condition,
        "level": f"{level}",
        "n": len(copies),
        "bits_per_pixel": copies["bits_per_pixel"].median(),
        "probability_change": (copies["after"] - copies["before"]).abs().mean(),
    }
    for label, part in copies.groupby("label"):
        above = part[["before", "after"]].to_numpy() > THRESHOLD
        names, source_of = np.unique(part["source"], return_inverse=True)

        def differ(
            times: np.ndarray, above: np.ndarray = above, source_of: np.ndarray = source_of
        ) -> dict[str, float]:
            before, after = np.average(above, axis=0, weights=times[source_of])
            return {"difference": after - before}

        low = high = np.nan  # one source does not show how much sources differ
        if len(names) > 1:
            low, high = bootstrap_intervals(differ, len(names))["difference"]
        before, after = above.mean(axis=0)
        name = f"{label}".lower()
        row |= {
            f"{name}_before": before,
            f"{name}_after": after,
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return row


def _at_rate(rate: int) -> Choose:
    """Return a function that takes frames, and returns at most `rate` frames per second."""

    def choose(frames: Sequence[Frame]) -> list[Frame]:
        slots = groupby(frames, lambda frame: int(frame.time * rate + 1e-6))
        return [next(in_slot) for _, in_slot in slots]

    return choose


def _random_half(frames: Sequence[Frame]) -> list[Frame]:
    """Return half of the frames, drawn at random, in the order of the video.

    The times between successive frames are therefore uneven.
    """
    generator = np.random.default_rng(0)
    kept = generator.permutation(len(frames))[: (len(frames) + 1) // 2]
    return [frames[place] for place in sorted(kept)]
