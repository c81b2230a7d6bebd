"""Tests with the published files of MesoNet, and with a second implementation of the network."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dfdetect import CheckpointError, load_detector
from dfdetect.checkpoints.converters import mesonet
from dfdetect.checkpoints.converters.convert import convert
from dfdetect.cli import main

# P(REAL) that the authors' network gives to their four test images.
PUBLISHED = {"df00204": 0.048, "df01254": 0.025, "real00240": 0.990, "real00772": 0.997}


@pytest.fixture
def folder(corpus):
    pytest.importorskip("h5py")
    return corpus / "published" / "MesoNet"


@pytest.fixture
def images(folder):
    return [np.array(Image.open(folder / f"{name}.jpg").convert("RGB")) for name in PUBLISHED]


@pytest.mark.corpus
def test_convert_meso4_gives_the_published_probabilities(folder, images, tmp_path):
    out = tmp_path / "meso4.safetensors"
    spec = convert(folder / "Meso4_DF.h5", out)
    assert (spec.architecture, spec.input_size, spec.licence) == ("meso4", 256, "Apache-2.0")
    found = 1 - load_detector(out, device="cpu").predict_faces(images)
    assert found == pytest.approx(list(PUBLISHED.values()), abs=0.001)


@pytest.mark.corpus
def test_convert_meso_inception4_computes_the_layers_of_the_file(folder, images, tmp_path):
    h5py = pytest.importorskip("h5py")
    out = tmp_path / "inception.safetensors"
    assert convert(folder / "MesoInception_DF.h5", out).architecture == "meso_inception4"
    with h5py.File(folder / "MesoInception_DF.h5") as file:
        network = Inception(file)
        crops = np.stack([np.array(Image.fromarray(one).resize((256, 256))) for one in images])
        expected = network(torch.from_numpy(crops).permute(0, 3, 1, 2) / 255)
    found = 1 - load_detector(out, device="cpu").predict_faces(crops)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.corpus
def test_convert_names_another_format(folder, tmp_path, capsys):
    out = tmp_path / "other.safetensors"
    arguments = ["convert", str(folder / "Meso4_DF.h5"), "--out", str(out)]
    assert main([*arguments, "--from", "nobody"]) == 2
    assert "unknown format 'nobody'; known are auto, " in capsys.readouterr().err
    assert not out.exists()
    assert main(arguments) == 0
    assert "meso4, 256 px, of the format mesonet" in capsys.readouterr().out
    assert out.exists()


def test_layers_of_keras_are_in_the_order_of_their_numbers():
    layers = ["conv2d_10", "conv2d", "conv2d_2"]
    assert sorted(layers, key=mesonet._number) == ["conv2d", "conv2d_2", "conv2d_10"]


def test_convert_names_tensors_of_no_known_format(tmp_path):
    torch.save({"some.weight": torch.zeros(2, 3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no known format; .* some\.weight \(2, 3\)"):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_convert_writes_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")


class Inception:
    """A second implementation of MesoInception4, which takes the weights from the Keras file."""

    def __init__(self, file):
        self.file = file

    def values(self, layer, name):
        return torch.from_numpy(self.file[layer][layer][f"{name}:0"][()])

    def conv(self, number, images, dilation=1):
        kernel = self.values(f"conv2d_{number}", "kernel").permute(3, 2, 0, 1)
        bias = self.values(f"conv2d_{number}", "bias")
        padding = dilation * (kernel.shape[-1] // 2)
        return functional.conv2d(images, kernel, bias, 1, padding, dilation).relu()

    def norm(self, number, images):
        names = ("moving_mean", "moving_variance", "gamma", "beta")
        values = [self.values(f"batch_normalization_{number}", name) for name in names]
        return functional.batch_norm(images, *values, eps=1e-3)

    def inception(self, first, images):
        branches = [self.conv(first, images)]
        for branch in (1, 2, 3):
            narrow = self.conv(first + 2 * branch - 1, images)
            branches.append(self.conv(first + 2 * branch, narrow, dilation=branch))
        return torch.cat(branches, dim=1)

    def __call__(self, images):
        for layer, first in enumerate((1, 8), start=1):
            images = functional.max_pool2d(self.norm(layer, self.inception(first, images)), 2)
        images = functional.max_pool2d(self.norm(3, self.conv(15, images)), 2)
        images = functional.max_pool2d(self.norm(4, self.conv(16, images)), 4)
        flat = images.permute(0, 2, 3, 1).flatten(1)
        hidden = flat @ self.values("dense_1", "kernel") + self.values("dense_1", "bias")
        hidden = functional.leaky_relu(hidden, 0.1)
        logits = hidden @ self.values("dense_2", "kernel") + self.values("dense_2", "bias")
        return logits[:, 0].sigmoid()
