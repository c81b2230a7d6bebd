"""Find the folder with the data of the Kaggle competition, on Kaggle or on another machine.

Kaggle mounts this folder as an input of the notebook. On another machine, the notebook uses the
folder `sample_data` of dfdetect's repository instead.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dfdetect.checkpoints.weights import SUFFIX

COMPETITION = "deepfake-detection-challenge"
INPUT = Path("/kaggle/input")
TEST_FOLDER = "test_videos"
TRAIN_FOLDER = "train_sample_videos"
SAMPLE_SUBMISSION = "sample_submission.csv"


@dataclass(frozen=True)
class CompetitionData:
    """Paths of the competition's data, and of weights that are attached to the notebook.

    Attributes:
        test_videos: Folder of the videos to score.
        train_videos: Folder of labelled videos with `metadata.json`, or None if there is no such
            folder.
        sample_submission: File that lists the videos in the order in which to submit their scores,
            or None if there is no such file.
        weights: Checkpoint in a data set that is attached to the notebook, or None if no data set
            holds a checkpoint.
    """

    test_videos: Path
    train_videos: Path | None
    sample_submission: Path | None
    weights: Path | None


def find_data(
    root: str | Path = INPUT, elsewhere: Iterable[str | Path] = ("sample_data", "../sample_data")
) -> CompetitionData:
    """Return the paths of the competition's data.

    The data lies in the first of the following folders that has a sub-folder `test_videos`. NAME is
    the name of the competition.

    - `root/competitions/NAME`, where Kaggle mounts the data.
    - `root/NAME`, where Kaggle used to mount the data.
    - `root` and all folders up to three levels below it. A deeper search would take minutes.
    - The folders in `elsewhere`.

    Args:
        root: The folder in which Kaggle mounts the inputs of a notebook.
        elsewhere: Further folders to search, for notebooks that do not run on Kaggle.

    Raises:
        FileNotFoundError: None of these folders has a sub-folder `test_videos`. The message says
            what to do.

    Example:
        >>> find_data().test_videos
        PosixPath('/kaggle/input/deepfake-detection-challenge/test_videos')
    """
    root = Path(root)
    known = [root / "competitions" / COMPETITION, root / COMPETITION]
    nearby = (path.parent for depth in range(4) for path in root.glob("*/" * depth + TEST_FOLDER))
    for folder in (*known, *nearby, *map(Path, elsewhere)):
        if (folder / TEST_FOLDER).is_dir():
            train, sample = folder / TRAIN_FOLDER, folder / SAMPLE_SUBMISSION
            return CompetitionData(
                test_videos=folder / TEST_FOLDER,
                train_videos=train if train.is_dir() else None,
                sample_submission=sample if sample.is_file() else None,
                weights=_find_weights(root),
            )
    raise FileNotFoundError(
        f"no folder {TEST_FOLDER} below {root}; on Kaggle, add the competition {COMPETITION!r} as "
        "input; elsewhere, run the notebook in the clone, beside sample_data"
    )


def _find_weights(root: Path) -> Path | None:
    """Return the first checkpoint in the data sets that are attached to the notebook, or None."""
    from dfdetect.checkpoints.io import CheckpointError, read_spec

    for mount in ("datasets/*/*", "*"):
        for path in sorted(root.glob(f"{mount}/*{SUFFIX}")):
            with suppress(CheckpointError):  # a .safetensors file of another package
                read_spec(path)
                return path
    return None
