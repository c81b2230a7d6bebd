import numpy as np
import pytest
import torch
from torch import nn

from dfdetect import load_detector
from dfdetect.checkpoints.io import load_checkpoint
from dfdetect.checkpoints.weights import find_weights
from dfdetect.cli import main
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.errors import ArgumentError
from dfdetect.models.registry import create_model
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.judging import Judge
from dfdetect.training.split import read_split
from dfdetect.training.texture import (
    SHIFTS,
    find_shift,
    fit_layers,
    fit_linear,
    fit_texture,
)
from dfdetect.training.trainer import predict_logits
from tests.conftest import make_face_set

BASE = "tf_efficientnet_lite2"


@pytest.fixture
def two_face_sets(tmp_path):
    """Return a face set without sources, and a face set of four sources with both classes."""
    folders = tmp_path / "plain", tmp_path / "known"
    for folder in folders:
        folder.mkdir()
    plain, known = map(make_face_set, folders)
    lines = known.read_text().splitlines()
    rows = [f"k-{line}-k,{'abcd'[number // 12]}" for number, line in enumerate(lines[1:])]
    known.write_text("\n".join([f"{lines[0]},source", *rows]))
    for image in known.with_suffix("").iterdir():
        image.rename(image.with_name(f"k-{image.name}"))
    return plain, known


def test_fit_linear_weights_examples_and_takes_features_as_they_are():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(400, 2)) * [1, 100] + [0, 500]
    labels = (features[:, 1] > 500).astype(int)
    layer = nn.Linear(2, 1)
    fit_linear(layer, features, labels, np.ones(400), 1.0)
    logits = layer(torch.from_numpy(features).float())[:, 0].detach().numpy()
    assert ((logits > 0) == labels).mean() > 0.97
    heavy = np.where(labels == 1, 1.9, 0.1)
    fit_linear(layer, features, labels, heavy, 1e-4)
    weighted = layer(torch.from_numpy(features).float())[:, 0].detach().numpy()
    assert weighted.mean() > 1


def test_fit_layers_uses_the_texture_for_faces_with_a_source_only(two_face_sets):
    faces = FaceSet.join([FaceSet.read(index) for index in two_face_sets])
    model = create_model("tf_efficientnet_lite2_texture").eval()
    known = faces.sources != ""
    generator = np.random.default_rng(0)
    deep = generator.normal(size=(len(faces), model.network.num_features))
    statistics = generator.normal(size=(len(faces), model.statistics))
    statistics[:, 0] += 10 * faces.labels
    statistics[:, 1] += 10 * known
    fit_layers(model, faces, deep, statistics)
    inputs = torch.from_numpy(statistics).float()
    with torch.inference_mode():
        texture = model.texture(inputs)[:, 0].numpy()
        relevance = model.relevance(inputs)[:, 0].sigmoid().numpy()
    assert texture[known & (faces.labels == 1)].min() > texture[known & (faces.labels == 0)].max()
    assert relevance[known].min() > 0.5 > relevance[~known].max()


class FewerAlarms:
    """A judge whose share of false alarms falls with the mean logit."""

    def measure(self, calibration, logits):
        assert calibration == Calibration(0.5, 0.1)
        return {"sources_false_alarm_rate": 0.3 + 0.1 * logits.mean()}


def test_find_shift_lowers_the_texture_until_few_real_sources_are_called_fake():
    logits, relevance = np.zeros(4), np.array([1, 1, 0.5, 0.5])
    shift = find_shift(FewerAlarms(), Calibration(0.5, 0.1), logits, relevance)
    assert shift == 2.0  # the first step at which 0.3 - 0.1 * 0.75 * shift is at most 0.15
    assert find_shift(FewerAlarms(), Calibration(0.5, 0.1), logits - 2, relevance) == 0.0
    assert find_shift(FewerAlarms(), Calibration(0.5, 0.1), logits, 0 * relevance) == SHIFTS[-1]


@pytest.mark.slow
def test_fit_texture_keeps_the_network_and_says_what_it_used(two_face_sets, tmp_path, capsys):
    out = tmp_path / "texture.safetensors"
    faces = list(map(str, two_face_sets))
    arguments = ["--faces", *faces, "--val", "0.4", "--out", str(out), "--device", "cpu"]
    assert main(["fit-texture", BASE, *arguments]) == 0
    model, spec = load_checkpoint(out)
    network, _ = load_checkpoint(find_weights(BASE))
    last = {"classifier.weight", "classifier.bias"}
    for name, tensor in network.state_dict().items():
        if name not in last:
            assert tensor.equal(model.network.state_dict()[name]), name
    assert spec.training["texture"]["val"] == [0.4]
    assert spec.training["texture"]["shift"] in SHIFTS
    held_out = read_split(two_face_sets, 0.4, 0).held_out
    logits = predict_logits(model, held_out, spec, 0, False)
    measured = Judge(held_out, 1, spec.aggregation).measure(spec.calibration, logits)
    stored = spec.scores["held_out_actors"]
    for name in ("log_loss", "sources_log_loss"):  # the checkpoint has float16 weights
        assert measured[name] == pytest.approx(stored[name], abs=0.02)
    assert f"{out}: calibrated" in capsys.readouterr().out
    crop = np.zeros((224, 224, 3), np.uint8)
    assert 0 < load_detector(out).predict_faces([crop])[0] < 1


def test_fit_texture_refuses_what_it_cannot_use(two_face_sets, tmp_path):
    out = tmp_path / "texture.safetensors"
    with pytest.raises(ArgumentError, match="can be added to tf_efficientnet_lite2 only"):
        fit_texture("simple_cnn_2", two_face_sets, out)
    with pytest.raises(FaceSetError, match="faces with a source and faces without one"):
        fit_texture(BASE, two_face_sets[:1], out, val=0.4)
