from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dfdetect import load_detector
from dfdetect.checkpoints.io import load_checkpoint, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import find_weights
from dfdetect.cli import main
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.errors import ArgumentError
from dfdetect.faces.crops import resize_crop, to_tensor
from dfdetect.faces.geometry import ResizeRule
from dfdetect.models.registry import create_model
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.dataset import DetectorDataset
from dfdetect.training.judging import Judge
from dfdetect.training.split import read_split
from dfdetect.training.texture import (
    SHIFTS,
    Features,
    as_from_videos,
    calibrate_logits,
    find_shift,
    fit_layers,
    fit_linear,
    fit_steadiness,
    fit_texture,
)
from dfdetect.training.trainer import predict_logits
from tests.conftest import make_face_set

BASE = "tf_efficientnet_lite2"
# Weights of this architecture.
WEIGHTS = "tf_efficientnet_lite2_224"


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


def fitted_model(faces, seed=0):
    """Return features of the crops, and a model that was fitted on them.

    Statistic 0 tells REAL from FAKE, statistic 1 tells crops with a source from the others, and
    deep feature 0 tells REAL from FAKE among the crops without a source.
    """
    model = create_model("tf_efficientnet_lite2_texture").eval()
    known = faces.sources != ""
    generator = np.random.default_rng(seed)
    deep = generator.normal(size=(len(faces), model.network.num_features)).astype(np.float32)
    statistics = generator.normal(size=(len(faces), model.statistics)).astype(np.float32)
    statistics[:, 0] += 10 * faces.labels
    statistics[:, 1] += 10 * known
    deep[:, 0] += 10 * faces.labels * ~known
    features = Features(deep, statistics)
    fit_layers(model, faces, features, features, Features(deep, statistics + 0.1))
    return model, features


def read_both(two_face_sets):
    faces = FaceSet.join([FaceSet.read(index) for index in two_face_sets])
    return faces, faces.sources != ""


def outputs(layer, values):
    with torch.inference_mode():
        return layer(torch.from_numpy(values))[:, 0].numpy()


def test_fit_layers_learns_which_logit_counts_and_both_logits(two_face_sets):
    faces, known = read_both(two_face_sets)
    model, (deep, statistics) = fitted_model(faces)
    fake = faces.labels == 1
    texture = outputs(model.texture, statistics)
    assert texture[known & fake].min() > texture[known & ~fake].max()
    challenge = outputs(model.network.classifier, deep)
    assert challenge[~known & fake].min() > challenge[~known & ~fake].max()
    relevance = outputs(model.relevance, statistics)
    assert relevance[known].min() > 0 > relevance[~known].max()


def test_fit_layers_learns_the_relevance_from_damaged_copies_too(two_face_sets):
    faces, known = read_both(two_face_sets)
    model, (deep, statistics) = fitted_model(faces)
    damaged = statistics.copy()
    damaged[~known, 1] += 100  # damage makes crops of the challenge look like other sources
    damaged[~known, 2] += 100
    assert outputs(model.relevance, damaged)[~known].mean() > 0
    stored = Features(deep, statistics)
    fit_layers(model, faces, stored, stored, Features(deep, damaged))
    assert outputs(model.relevance, damaged)[~known].max() < 0
    assert outputs(model.relevance, statistics)[known].min() > 0


def test_fit_layers_learns_the_wild_logit_from_features_as_from_videos(two_face_sets):
    faces, known = read_both(two_face_sets)
    model, (deep, statistics) = fitted_model(faces)
    moved = statistics.copy()
    moved[:, 0] -= 20 * faces.labels  # storing turned the difference of REAL and FAKE around
    stored = Features(deep, statistics)
    fit_layers(model, faces, Features(deep, moved), stored, stored)
    fake = faces.labels == 1
    texture = outputs(model.texture, moved)
    assert texture[known & fake].min() > texture[known & ~fake].max()


def test_as_from_videos_moves_wild_crops_by_half_a_block(two_face_sets):
    faces, known = read_both(two_face_sets)
    spec = ModelSpec(BASE, 32, (0.5,) * 3, (0.5,) * 3, resize=ResizeRule(jpeg=(64, 75)))
    seen = []

    def compute(dataset):
        seen.extend(image for image, _ in dataset)
        return Features(np.full((len(dataset), 2), 7.0), np.full((len(dataset), 3), 8.0))

    stored = Features(np.zeros((len(faces), 2)), np.zeros((len(faces), 3)))
    features = as_from_videos(compute, spec, faces, stored)
    assert (features.deep == np.where(known, 7, 0)[:, None]).all()
    assert (features.statistics == np.where(known, 8, 0)[:, None]).all()
    assert not stored.deep.any()
    moved = moved_by_half_a_block(faces.image(int(np.flatnonzero(known)[0])))
    assert torch.equal(seen[0], resize_crop(moved, 32, spec.resize))


def moved_by_half_a_block(image):
    crop = to_tensor(image)
    moved = torch.zeros_like(crop)
    moved[:, 4:, 4:] = crop[:, :-4, :-4]
    moved[:, :4, 4:], moved[:, :, :4] = moved[:, 4:5, 4:], moved[:, :, 4:5]
    return moved


def test_as_from_videos_mirrors_every_second_crop_of_a_track(two_face_sets):
    faces = FaceSet.read(two_face_sets[1])
    faces.table["video"], faces.table["track"] = "v", 0
    faces.table["frame"] = range(len(faces))
    faces.table["label"] = "REAL"
    spec = ModelSpec(BASE, 32, (0.5,) * 3, (0.5,) * 3, mirror=True)
    seen = []

    def compute(dataset):
        seen.extend(image for image, _ in dataset)
        return Features(np.zeros((len(dataset), 2)), np.zeros((len(dataset), 3)))

    as_from_videos(compute, spec, faces, compute(DetectorDataset(faces, spec)))
    first, second = (
        resize_crop(moved_by_half_a_block(faces.image(row)), 32, spec.resize) for row in (0, 1)
    )
    assert torch.equal(seen[len(faces)], first)
    assert torch.equal(seen[len(faces) + 1], second.flip(-1))


def test_fit_layers_learns_the_relevance_from_stored_crops_too(two_face_sets):
    faces, known = read_both(two_face_sets)
    model, (deep, statistics) = fitted_model(faces)
    stored = statistics.copy()
    stored[~known, 1] += 100
    stored[~known, 2] += 100
    assert outputs(model.relevance, stored)[~known].mean() > 0
    features = Features(deep, statistics)
    fit_layers(model, faces, features, Features(deep, stored), features)
    assert outputs(model.relevance, stored)[~known].max() < 0


def test_fit_steadiness_finds_that_fakes_are_steadier(two_face_sets):
    faces = FaceSet.read(two_face_sets[1])
    faces.table["video"] = [f"v{number // 6}" for number in range(len(faces))]
    faces.table["track"], faces.table["frame"] = 0, [number % 6 for number in range(len(faces))]
    faces.table["label"] = np.where(np.arange(len(faces)) // 6 % 2, "FAKE", "REAL")
    generator = np.random.default_rng(0)
    statistics = generator.normal(size=(len(faces), 30)).astype(np.float32)
    statistics[faces.labels == 1] *= 0.5
    model = create_model("tf_efficientnet_lite2_texture").eval()
    fit_steadiness(model, faces, statistics)
    layer = model.steadiness
    values = {
        label: [
            layer(torch.from_numpy(statistics[track])).item()
            for track in faces.tracks()
            if faces.labels[track[0]] == label
        ]
        for label in (0, 1)
    }
    steadiest, *others = sorted(values[1])
    assert max(values[0]) < 0 == steadiest < min(others)  # the steadiest one is above the limit
    still = torch.from_numpy(statistics[faces.tracks()[0]]) * 0.01
    assert layer(still).item() == 0


def test_fit_steadiness_needs_tracks_with_enough_frames(two_face_sets):
    faces, _ = read_both(two_face_sets)  # each crop is a track by itself
    with pytest.warns(UserWarning, match="is left out: no REAL or no FAKE track"):
        model, _ = fitted_model(faces)
    assert all(value.item() == 0 for value in model.steadiness.buffers())


def test_calibrate_logits_makes_both_logits_fit_one_calibration(two_face_sets):
    faces, known = read_both(two_face_sets)
    model, (deep, statistics) = fitted_model(faces)
    generator = np.random.default_rng(1)
    features = Features(
        (deep + 9 * generator.normal(size=deep.shape)).astype(np.float32),
        (statistics + 9 * generator.normal(size=statistics.shape)).astype(np.float32),
    )
    judge = Judge(faces, 1, Aggregation())
    calibration = calibrate_logits(model, judge, faces, features)
    with torch.inference_mode():
        deep, statistics = map(torch.from_numpy, features)
        challenge = model.network.classifier(deep)[:, 0].numpy()
        others = (model.deep(deep) + model.texture(statistics))[:, 0].numpy()
    assert judge.calibrate(challenge, ~known) == calibration
    again = judge.calibrate(others, known)
    assert again.scale == pytest.approx(calibration.scale, rel=0.01)
    assert again.bias == pytest.approx(calibration.bias, abs=0.01)


class FewerAlarms:
    """A judge whose share of false alarms falls with the mean logit."""

    def measure(self, calibration, logits):
        assert calibration == Calibration(0.5, 0.1)
        return {"sources_false_alarm_rate": 0.301 + 0.1 * logits.mean()}


def test_find_shift_lowers_the_texture_until_few_real_sources_are_called_fake():
    logits, relevance = np.zeros(4), np.array([1, 1, 0.5, 0.5])
    shift = find_shift(FewerAlarms(), Calibration(0.5, 0.1), logits, relevance)
    # The first step at which 0.301 + 0.1 * 0.75 * (0.26 / 0.5 - shift) is at most 0.15. The first
    # number in brackets is the offset of videos, divided by the scale of the calibration.
    assert shift == 2.55
    assert find_shift(FewerAlarms(), Calibration(0.5, 0.1), logits - 2, relevance) == 0.0
    with pytest.warns(UserWarning, match="more than 15% of the held-out REAL videos"):
        shift = find_shift(FewerAlarms(), Calibration(0.5, 0.1), logits, 0 * relevance)
    assert shift == SHIFTS[-1]


@pytest.mark.slow
def test_fit_texture_keeps_the_network_and_says_what_it_used(
    two_face_sets, tmp_path, capsys, monkeypatch
):
    # Another engine would take longer to compile the network than torch to run it.
    monkeypatch.setattr("dfdetect.training.texture.choose_engine", lambda *_: "torch")
    out = tmp_path / "texture.safetensors"
    for index in two_face_sets:  # two of the four crops of each actor are enough
        table = pd.read_csv(index, dtype=str)
        table[table.index % 4 < 2].to_csv(index, index=False)
    faces = list(map(str, two_face_sets))
    arguments = ["--faces", *faces, "--val", "0.4", "--out", str(out), "--device", "cpu"]
    base = tmp_path / "base.safetensors"
    network, plain = load_checkpoint(find_weights(WEIGHTS))
    save_checkpoint(base, network, replace(plain, training={"sources": ["x"]}))
    assert main(["fit-texture", str(base), *arguments]) == 0
    model, spec = load_checkpoint(out)
    last = {"classifier.weight", "classifier.bias"}
    for name, tensor in network.state_dict().items():
        if name not in last:
            assert tensor.equal(model.network.state_dict()[name]), name
    assert spec.resize.jpeg == (224, 75)
    assert spec.training["texture"]["val"] == [0.4]
    assert spec.training["texture"]["shift"] in SHIFTS
    for path in two_face_sets[1].with_suffix("").iterdir():  # the scores are those of moved crops
        moved = cv2.copyMakeBorder(cv2.imread(str(path)), 4, 0, 4, 0, cv2.BORDER_REPLICATE)
        cv2.imwrite(str(path), moved[:-4, :-4])
    split = read_split(two_face_sets, 0.4, 0)
    assert split.train.known_sources == ["b", "d"]
    assert spec.training["sources"] == ["b", "d", "x"]
    logits = predict_logits(model, split.held_out, spec, 0, False)
    measured = Judge(split.held_out, 1, spec.aggregation).measure(spec.calibration, logits)
    stored = spec.scores["held_out_actors"]
    for name in ("log_loss", "sources_log_loss"):  # the checkpoint has float16 weights
        assert measured[name] == pytest.approx(stored[name], abs=0.02)
    assert f"{out}: calibrated" in capsys.readouterr().out
    crop = np.zeros((224, 224, 3), np.uint8)
    assert 0 < load_detector(out).predict_faces([crop])[0] < 1


@pytest.mark.slow
def test_fit_texture_refuses_what_it_cannot_use(two_face_sets, tmp_path):
    out = tmp_path / "texture.safetensors"
    with pytest.raises(ArgumentError, match="can be added to tf_efficientnet_lite2 only"):
        fit_texture("simple_cnn_2", two_face_sets, out)
    plain, known = two_face_sets
    only_fake = known.with_name("fake.csv")
    only_fake.write_text(known.read_text().replace(",REAL", ",FAKE"))
    only_fake.with_suffix("").symlink_to(known.with_suffix(""))
    for faces, val in (([plain], 0.4), ([known], plain), ([plain, only_fake], 0.4)):
        with pytest.raises(FaceSetError, match="REAL and FAKE faces with a source, and REAL and"):
            fit_texture(WEIGHTS, faces, out, val=val)
