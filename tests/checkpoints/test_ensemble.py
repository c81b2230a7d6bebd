import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dfdetect import CheckpointError, create_model
from dfdetect.checkpoints.ensemble import EnsembleSpec, join_specs
from dfdetect.checkpoints.io import (
    load_checkpoint,
    load_ensemble,
    make_ensemble,
    read_spec,
    save_checkpoint,
)
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.cli import main
from dfdetect.errors import ArgumentError
from dfdetect.faces.geometry import CropRule
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration

NORMALISATION = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
FIRST = ModelSpec(
    "test_efficientnet",
    64,
    **NORMALISATION,
    aggregation=Aggregation("soft_maximum"),
    calibration=Calibration(0.7, -0.2),
    training={"faces": ["a.csv", "b.csv"]},
    licence="free",
)
SECOND = ModelSpec(
    "simple_cnn_2",
    48,
    **NORMALISATION,
    crop=CropRule(1.3, 0.0),
    training={"faces": ["b.csv", "c.csv"]},
    licence="research only",
)


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    paths = [tmp_path / f"{spec.architecture}.safetensors" for spec in (FIRST, SECOND)]
    for path, spec in zip(paths, (FIRST, SECOND), strict=True):
        save_checkpoint(path, create_model(spec.architecture), spec)
    return paths


def test_make_ensemble_keeps_members_and_weights(files, tmp_path):
    out = tmp_path / "both.safetensors"
    made = make_ensemble(files, out, shares=[3, 1])
    model, spec = load_checkpoint(out)
    assert spec == made == read_spec(out)
    assert spec.members == (FIRST, SECOND)
    assert spec.shares == (0.75, 0.25)
    assert (spec.aggregation, spec.operating_points) == (FIRST.aggregation, None)
    assert spec.training == {"faces": ["a.csv", "b.csv", "c.csv"]}
    assert spec.licence == "free; research only"
    for path, network in zip(files, model, strict=True):
        kept = load_checkpoint(path)[0].state_dict()
        assert all(torch.equal(kept[name], one) for name, one in network.state_dict().items())


def test_make_ensemble_does_not_round_float32_weights(files, tmp_path):
    model, spec = load_checkpoint(files[1])
    for weight in model.parameters():
        weight.data *= 1.0001
    save_checkpoint(files[1], model, spec, half=False)
    make_ensemble(files, tmp_path / "both.safetensors")
    members = load_checkpoint(tmp_path / "both.safetensors")[0]
    stored = members[1].state_dict()
    assert all(tensor.equal(stored[name]) for name, tensor in model.state_dict().items())


def test_make_ensemble_flattens_an_ensemble_among_its_members(files, tmp_path):
    inner = tmp_path / "inner.safetensors"
    make_ensemble(files, inner)
    model, spec = load_ensemble([inner, files[0]], [1, 3])
    assert spec.members == (FIRST, SECOND, FIRST)
    assert spec.shares == (0.125, 0.125, 0.75)
    assert len(model) == 3


@pytest.mark.parametrize(
    ("shares", "message"),
    [([1], "one for each of 2"), ([1, 0], "above 0"), ([1, float("nan")], "above 0")],
)
def test_make_ensemble_names_unusable_shares(files, tmp_path, shares, message):
    with pytest.raises(ValueError, match=message):
        make_ensemble(files, tmp_path / "both.safetensors", shares=shares)


def test_make_ensemble_needs_two_checkpoints_and_overwrites_none(files):
    with pytest.raises(ValueError, match="at least 2 checkpoints"):
        make_ensemble(files[:1], files[1])
    with pytest.raises(ValueError, match="is a member of the ensemble"):
        make_ensemble(files, files[1])


def test_make_ensemble_refuses_a_name_that_no_checkpoint_has(files, tmp_path):
    with pytest.raises(
        ValueError, match=r"both\.txt: the name of a checkpoint must end in \.safetens"
    ):
        make_ensemble(files, tmp_path / "both.txt")
    assert not (tmp_path / "both.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": []}, "needs 2 to 64 members"),
        ({"shares": [0.5, 0.6]}, "sum to 1"),
        ({"shares": [1.0]}, "sum to 1"),
        ({"members": [{"architecture": "vgg16"}, {}]}, "missing"),
        ({"colour": "red"}, "unexpected"),
        ({"version": 99}, "format version 99"),
        ({"format": "dfdetect-checkpoint"}, "unexpected"),
    ],
)
def test_load_checkpoint_refuses_a_wrong_header_of_an_ensemble(files, tmp_path, changes, message):
    out = tmp_path / "both.safetensors"
    header = {**json.loads(make_ensemble(files, out).to_json()), **changes}
    save_file(load_file(out), out, metadata={"dfdetect": json.dumps(header)})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(out)


def test_load_checkpoint_names_a_missing_field_of_an_ensemble(files, tmp_path):
    out = tmp_path / "both.safetensors"
    header = json.loads(make_ensemble(files, out).to_json())
    del header["shares"]
    save_file(load_file(out), out, metadata={"dfdetect": json.dumps(header)})
    with pytest.raises(CheckpointError, match="the field 'shares' is missing"):
        load_checkpoint(out)


def test_load_checkpoint_refuses_tensors_of_other_members(files, tmp_path):
    out = tmp_path / "both.safetensors"
    spec = make_ensemble(files, out)
    other = replace(spec, members=(FIRST, replace(SECOND, architecture="simple_cnn_1")))
    save_file(load_file(out), out, metadata={"dfdetect": other.to_json()})
    with pytest.raises(CheckpointError, match="do not fit test_efficientnet and simple_cnn_1"):
        load_checkpoint(out)


def test_join_specs_refuses_no_members():
    with pytest.raises(ArgumentError, match="at least 2 members, not 0"):
        join_specs([])


def test_join_specs_gives_equal_shares_by_default():
    assert join_specs([FIRST, SECOND, FIRST]).shares == pytest.approx((1 / 3,) * 3)
    assert isinstance(join_specs([FIRST, SECOND]), EnsembleSpec)


def test_ensemble_command_makes_a_file_that_models_and_predict_know(
    files, tmp_path, sample_data, capsys
):
    out, submission = tmp_path / "both.safetensors", tmp_path / "submission.csv"
    line = "0.50 test_efficientnet, 64 px + 0.50 simple_cnn_2, 48 px; free; research only"
    assert main(["ensemble", *map(str, files), "--out", str(out)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{out}: {line}"
    assert "no verdicts until dfdetect calibrate" in second
    assert main(["models", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{out}  ({line})"]
    clip = str(sample_data / "test_videos" / "ehtdtkmmli.mp4")
    answers = []
    for weights in ([str(out)], list(map(str, files))):
        options = ["--out", str(submission), "--frames", "4", "--device", "cpu"]
        assert main(["predict", clip, *options, "--weights", *weights]) == 0
        answers.append(submission.read_text())
    assert answers[0] == answers[1]
