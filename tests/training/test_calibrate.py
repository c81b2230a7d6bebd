from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from sklearn.metrics import log_loss

from dfdetect import load_detector
from dfdetect.checkpoints.io import load_checkpoint, make_ensemble, save_checkpoint
from dfdetect.checkpoints.weights import find_weights
from dfdetect.cli import main
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.errors import ArgumentError
from dfdetect.faces.geometry import CropRule
from dfdetect.reporting.terminal import fakes_found
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.calibrate import calibrate

WEIGHTS = "simple_cnn_2"


def swap_labels(index):
    table = pd.read_csv(index, dtype=str)
    table["label"] = table["label"].map({"REAL": "FAKE", "FAKE": "REAL"})
    table.to_csv(index, index=False)


@pytest.fixture
def face_set(face_set):
    """Return a face set in which the network gives the FAKE crops higher logits."""
    swap_labels(face_set)
    return face_set


def test_calibrate_changes_the_answers_and_not_the_network(face_set, tmp_path):
    out = tmp_path / "mine.safetensors"
    spec = calibrate(WEIGHTS, [face_set], out)
    before, after = load_detector(WEIGHTS), load_detector(out)
    assert load_checkpoint(out)[1] == spec
    assert spec.training["calibrated_on"] == [face_set.name]
    for name, tensor in before.model.state_dict().items():
        assert tensor.equal(after.model.state_dict()[name]), name
    faces = FaceSet.read(face_set)
    crops = [faces.image(row) for row in range(len(faces))]
    probabilities = after.predict_faces(crops)
    assert not np.allclose(probabilities, before.predict_faces(crops))
    figures = spec.scores["calibration_faces"]
    assert figures["log_loss"] <= figures["uncalibrated_log_loss"] + 1e-6
    points = spec.operating_points
    real = probabilities[faces.labels == 0]
    assert (real > points.fake).mean() <= (real > points.uncertain).mean() <= 0.1


def test_calibrate_does_not_round_float32_weights(face_set, tmp_path):
    model, spec = load_checkpoint(find_weights(WEIGHTS))
    for weight in model.parameters():
        weight.data *= 1.0001
    converted = tmp_path / "converted.safetensors"
    save_checkpoint(converted, model, spec, half=False)
    calibrate(converted, [face_set], tmp_path / "mine.safetensors")
    after = load_checkpoint(tmp_path / "mine.safetensors")[0].state_dict()
    assert all(tensor.equal(after[name]) for name, tensor in model.state_dict().items())


def test_calibrate_takes_the_sources_of_the_training_for_known(face_set, tmp_path):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = ["a"] * 24 + ["b"] * 12 + [""] * 12
    table.to_csv(face_set, index=False)
    model, spec = load_checkpoint(find_weights(WEIGHTS))
    trained = tmp_path / "trained.safetensors"
    save_checkpoint(trained, model, replace(spec, training={"sources": ["a"]}))
    spec = calibrate(trained, [face_set], tmp_path / "mine.safetensors")
    fakes = {new: counts["videos"] for new, counts in spec.operating_points.fakes.items()}
    assert fakes == {"people": 18, "sources": 6}


def test_calibrate_does_not_claim_to_know_the_training_of_a_converted_network(face_set, tmp_path):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = ["a"] * 24 + [""] * 24
    table.to_csv(face_set, index=False)
    model, spec = load_checkpoint(find_weights(WEIGHTS))
    converted = tmp_path / "converted.safetensors"
    save_checkpoint(converted, model, replace(spec, training={"converted_from": "mesonet"}))
    spec = calibrate(converted, [face_set], tmp_path / "mine.safetensors")
    assert fakes_found(spec.operating_points) == ""


def test_calibrate_takes_no_source_for_new_if_it_does_not_know_those_of_the_training(
    face_set, tmp_path
):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = ["a"] * 24 + [""] * 24
    table.to_csv(face_set, index=False)
    spec = calibrate(WEIGHTS, [face_set], tmp_path / "mine.safetensors")
    assert "sources" not in spec.training
    fakes = {new: counts["videos"] for new, counts in spec.operating_points.fakes.items()}
    assert fakes == {"people": 12}


def test_calibrate_refuses_faces_on_which_the_network_is_no_better_than_chance(face_set, tmp_path):
    swap_labels(face_set)
    out = tmp_path / "mine.safetensors"
    with pytest.raises(ArgumentError, match="no higher"):
        calibrate(WEIGHTS, [face_set], out)
    assert not out.exists()


def test_calibrate_refuses_what_it_cannot_use(face_set, tmp_path):
    out = tmp_path / "mine.safetensors"
    out.touch()
    with pytest.raises(ArgumentError, match="exists; delete it"):
        calibrate(WEIGHTS, [face_set], out)
    with pytest.raises(ArgumentError, match=r"must end in \.safetensors"):
        calibrate(WEIGHTS, [face_set], tmp_path / "mine.pt")
    lines = face_set.read_text().splitlines()
    real = [line for line in lines[1:] if ",REAL" in line]
    one_class = face_set.with_name("one_class.csv")
    one_class.write_text("\n".join([lines[0], *real]))
    face_set.with_suffix("").rename(one_class.with_suffix(""))
    with pytest.raises(FaceSetError, match="FAKE"):
        calibrate(WEIGHTS, [one_class], tmp_path / "other.safetensors")


def test_calibrate_command_prints_the_thresholds(face_set, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    assert main(["calibrate", WEIGHTS, "--faces", str(face_set), "--out", str(out)]) == 0
    points = load_checkpoint(out)[1].operating_points
    printed = capsys.readouterr().out
    assert f"uncertain above {points.uncertain:.3f}, fake above {points.fake:.3f}" in printed
    assert "fakes like those that the detector was trained on" in fakes_found(points)
    assert fakes_found(points) in printed


def test_calibrate_sets_no_thresholds_on_few_real_videos(face_set, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    pd.read_csv(face_set, dtype=str)[:10].to_csv(face_set, index=False)
    assert main(["calibrate", WEIGHTS, "--faces", str(face_set), "--out", str(out)]) == 0
    assert load_checkpoint(out)[1].operating_points is None
    printed = capsys.readouterr()
    assert "will give no verdicts, because 5 REAL videos can set no thresholds" in printed.err
    assert "above" not in printed.out


MEMBERS = {WEIGHTS: Calibration(1.0, 2.0), "simple_cnn_1": Calibration(0.5, -1.0)}


@pytest.fixture
def make_pair(tmp_path):
    """Return a function that writes an ensemble of two models, and returns its path.

    The arguments are the entries of `training` of each model. The first model counts three times as
    much as the second one.
    """

    def make(*training):
        files = []
        for (name, calibration), notes in zip(MEMBERS.items(), training, strict=True):
            model, spec = load_checkpoint(find_weights(name))
            files.append(tmp_path / f"member_{name}.safetensors")
            save_checkpoint(
                files[-1], model, replace(spec, calibration=calibration, training=notes)
            )
        out = tmp_path / "pair.safetensors"
        make_ensemble(files, out, shares=[3, 1])
        return out

    return make


def test_calibrate_of_an_ensemble_calibrates_the_mean_of_its_members(make_pair, face_set, tmp_path):
    pair, out = make_pair({}, {}), tmp_path / "mine.safetensors"
    spec = calibrate(pair, [face_set], out)
    assert load_checkpoint(out)[1] == spec
    assert spec.shares == (0.75, 0.25)
    fitted = []
    for member, before in zip(spec.members, MEMBERS.values(), strict=True):
        scale = member.calibration.scale / before.scale
        fitted.append((scale, member.calibration.bias - scale * before.bias))
        assert member.training["calibrated_on"] == [face_set.name]
        assert member.operating_points is None
    assert fitted[0] == pytest.approx(fitted[1])
    faces = FaceSet.read(face_set)
    crops = [faces.image(row) for row in range(len(faces))]
    before, after = (load_detector(file).predict_faces(crops) for file in (pair, out))
    inside = np.maximum(abs(logit(before)), abs(logit(after))) < 4.5  # P is kept off 0 and 1
    assert inside.sum() >= 10
    expected = Calibration(*fitted[0]).apply(logit(before[inside]))
    assert logit(after[inside]) == pytest.approx(expected, abs=0.01)
    figures = spec.scores["calibration_faces"]
    assert figures["log_loss"] == pytest.approx(log_loss(faces.labels, after), abs=0.01)
    assert figures["log_loss"] < log_loss(faces.labels, before) - 0.01
    real = after[faces.labels == 0]
    assert np.isclose(real, spec.operating_points.uncertain, atol=0.001).any()
    assert (real > spec.operating_points.uncertain + 0.001).mean() <= 0.1


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (({"sources": ["a"]}, {"sources": ["b"]}), {"people": 18, "sources": 6}),
        (({"sources": ["a"]}, {}), {"people": 6}),
        (({"sources": ["a"]}, {"sources": ["b"], "converted_from": "mesonet"}), {}),
    ],
)
def test_calibrate_of_an_ensemble_counts_fakes_as_its_members_were_trained(
    training, expected, make_pair, face_set, tmp_path
):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = ["a"] * 16 + ["b"] * 8 + ["c"] * 12 + [""] * 12
    table.to_csv(face_set, index=False)
    spec = calibrate(make_pair(*training), [face_set], tmp_path / "mine.safetensors")
    counts = {new: found["videos"] for new, found in spec.operating_points.fakes.items()}
    assert counts == expected


def test_calibrate_command_prints_the_calibration_of_each_member(
    make_pair, face_set, tmp_path, capsys
):
    pair, out = make_pair({}, {}), tmp_path / "mine.safetensors"
    assert main(["calibrate", str(pair), "--faces", str(face_set), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for member in load_checkpoint(out)[1].members:
        scale = f"{member.calibration.scale:.3f} * logit"
        assert f"{out}: calibrated {member.architecture} = {scale}" in printed
    assert "uncertain above" in printed


def test_calibrate_warns_of_members_that_take_other_crops(make_pair, face_set, tmp_path):
    pair = make_pair({}, {})
    model, spec = load_checkpoint(pair)
    first, second = spec.members
    members = (replace(first, crop=CropRule(1.3, 0.0)), second)
    save_checkpoint(pair, model, replace(spec, members=members))
    with pytest.warns(UserWarning, match="crops that were cut in different ways"):
        calibrate(pair, [face_set], tmp_path / "mine.safetensors")


def test_calibrate_refuses_an_ensemble_of_crops_and_clips(face_set, tmp_path):
    pair = tmp_path / "pair.safetensors"
    make_ensemble([find_weights(name) for name in (WEIGHTS, "cnn_lstm")], pair)
    with pytest.raises(ArgumentError, match="members take clips of different lengths"):
        calibrate(pair, [face_set], tmp_path / "mine.safetensors")
