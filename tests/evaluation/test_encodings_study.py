import numpy as np
import pytest
import torch

from dfdetect import Detector
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.cli import main
from dfdetect.errors import InputError
from dfdetect.evaluation.encodings_study import compare_encodings, encodings
from dfdetect.video.reader import Frame


class GrainIsFake(torch.nn.Module):
    """A model whose logit rises with the difference between neighbouring pixels."""

    def forward(self, images):
        return 50 * ((images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3)) - 0.03)[:, None]


class OneFace:
    def detect(self, images, smallest=None):
        return [[(10.0, 10.0, 60.0, 60.0)] for _ in images]


@pytest.fixture
def detector():
    spec = ModelSpec("xception", 64, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Detector(GrainIsFake(), spec, torch.device("cpu"), 4, face_detector=OneFace())


@pytest.fixture
def grainy_fakes(write_clip, tmp_path):
    generator = np.random.default_rng(0)
    for label, grain in (("real", 1), ("fake", 90)):
        for name in "ab":
            (tmp_path / "videos" / name / label).mkdir(parents=True)
            frames = [generator.integers(80, 80 + grain, (71, 81, 3)) for _ in range(20)]
            images = [frame.astype(np.uint8)[:70, :80] for frame in frames]
            write_clip(images, f"videos/{name}/{label}/{label}{name}.mp4", rate=10, crf="10")
    return tmp_path / "videos"


def test_compare_encodings_finds_that_compression_hides_grain(detector, grainy_fakes):
    table = compare_encodings([grainy_fakes], detector).set_index(["condition", "level"])
    reference, worst = table.loc[("reference", "18")], table.loc[("crf", "46")]
    assert (reference["n"], reference["fake_after"], reference["real_after"]) == (4, 1, 0)
    assert reference["probability_change"] == 0
    assert (worst["fake_before"], worst["fake_after"], worst["fake_high"]) == (1, 0, -1)
    assert worst["bits_per_pixel"] < reference["bits_per_pixel"] / 4
    assert table.loc[("frame rate", "5"), "fake_after"] == 1
    assert table.loc["bits per pixel", "n"].sum() == 16


def test_compare_encodings_of_one_source_has_no_intervals(detector, grainy_fakes):
    table = compare_encodings([grainy_fakes / "a"], detector).set_index(["condition", "level"])
    assert table.loc[("crf", "46"), "fake_after"] == 0
    assert table[["real_low", "real_high", "fake_low", "fake_high"]].isna().all(axis=None)


def test_compare_encodings_refuses_videos_that_cannot_be_scored(detector, tmp_path):
    for label in ("real", "fake"):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.mp4").write_text("no video")
    with pytest.raises(InputError, match="no video could be scored"):
        compare_encodings([tmp_path], detector)


@pytest.mark.parametrize(
    ("level", "times"),
    [("5", [0.0, 0.2, 0.4, 0.6, 0.8]), ("2", [0.0, 0.5])],
)
def test_encodings_drop_frames_to_a_rate(level, times):
    (encoding,) = (
        one for one in encodings() if (one.condition, one.level) == ("frame rate", level)
    )
    frames = [Frame(number / 10, np.zeros((2, 2, 3), np.uint8)) for number in range(10)]
    assert [frame.time for frame in encoding.choose(frames)] == times


def test_compare_conditions_takes_face_sets_or_folders(tmp_path, capsys):
    assert main(["compare-conditions", str(tmp_path), str(tmp_path / "faces.csv")]) == 2
    assert "face sets or folders of videos, not both" in capsys.readouterr().err
