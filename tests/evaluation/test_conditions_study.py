import numpy as np
import pandas as pd
import pytest
import torch

from dfdetect import Detector
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.evaluation import conditions_study
from dfdetect.evaluation.conditions_study import compare_conditions


class SharpIsFake(torch.nn.Module):
    """A model whose logit rises with the difference between neighbouring pixels."""

    def forward(self, images):
        return ((images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3)) - 1)[:, None]


@pytest.fixture
def detector():
    spec = ModelSpec("xception", 40, mean=(0.5,) * 3, std=(0.05,) * 3)
    return Detector(SharpIsFake(), spec, torch.device("cpu"))


@pytest.fixture
def sharp_fakes(tmp_path):
    """Return a face set of 20 actors and 80 crops, two of each track; FAKE crops are noisy."""
    import cv2

    generator = np.random.default_rng(0)
    (tmp_path / "faces").mkdir()
    rows = []
    for number in range(80):
        fake = number // 2 % 2
        noise = generator.integers(0, 1 + 60 * fake, (40, 40, 3))
        ramp = np.linspace(60, 180, 40)[:, None, None]
        image = np.clip(noise + ramp, 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"faces/{number:02}.png"), image)
        video = {"video": f"{number // 2}.mp4", "track": 0, "frame": number % 2}
        label = ("REAL", "FAKE")[fake]
        rows.append(
            {"id": f"{number:02}", "label": label, "actor_group": f"actor{number // 4}"}
            | video
            | {"native_px": 80 if number < 40 else 120}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "faces.csv", index=False)
    return tmp_path / "faces.csv"


@pytest.mark.slow
def test_compare_conditions_finds_what_hurts(detector, sharp_fakes, monkeypatch):
    everything = {"other": np.ones(80, bool)}
    monkeypatch.setattr(conditions_study, "find_subgroups", lambda attributes: everything)
    table = compare_conditions([sharp_fakes], crops=40, weights=detector)
    damaged = table[table["comparison"] == "damaged"].set_index(["condition", "level"])
    assert (damaged["n"] == 40).all()
    blurred = damaged.loc[("blur", "0.022")]
    assert blurred["found_rate"] < 0.5
    assert blurred["low"] <= blurred["difference"] <= blurred["high"] < 0
    assert blurred["sharpness"] < damaged.loc[("brightness", "0.5"), "sharpness"]
    natural = table[(table["comparison"] == "natural") & (table["condition"] == "height")]
    assert natural["n"].sum() == 80
    assert natural["level"].tolist() == ["100 to 120", "140 to 170"]
    (frames,) = table[table["comparison"] == "frames"].itertuples()
    assert (frames.level, frames.n, frames.difference) == ("1", 40, 0)


def test_compare_conditions_of_crops_that_are_all_alike_has_no_interval(detector, sharp_fakes):
    table = pd.read_csv(sharp_fakes, dtype=str)
    table.drop(columns=["video", "track", "frame"]).assign(native_px="80").to_csv(
        sharp_fakes, index=False
    )
    rows = compare_conditions([sharp_fakes], crops=4, weights=detector)
    (height,) = rows[rows["condition"] == "height"].query("comparison == 'natural'").itertuples()
    assert height.n == 80
    assert np.isnan([height.difference, height.low, height.high]).all()
