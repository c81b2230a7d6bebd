from threading import Barrier

import pytest
import torch

from dfdetect import load_detector
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.classifier import CPU_BATCH, Classifier
from dfdetect.runtime import engines
from dfdetect.video.isolated import DecoderPool


class BrightIsFake(torch.nn.Module):
    """A model whose logit is the mean normalised brightness."""

    def forward(self, images):
        return images.mean(dim=(1, 2, 3))[:, None]


def test_frame_logits_are_computed_on_all_cores_by_an_engine(two_torch_threads, monkeypatch):
    both = Barrier(2, timeout=10)
    calls = []

    def compile_network(network, *_):
        def compute(values):
            calls.append(len(values))
            if len(values) > 1:
                both.wait()  # passes only if two threads wait at the same time
            return [network(torch.from_numpy(values)).numpy()]

        return compute

    monkeypatch.setitem(engines.PACKAGES, "openvino", ["torch"])
    monkeypatch.setitem(engines.COMPILERS, "openvino", compile_network)
    spec = ModelSpec("test_efficientnet", 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    classifier = Classifier(BrightIsFake(), spec, torch.device("cpu"), "openvino")
    crops = [torch.full((3, 16, 16), 8 * number, dtype=torch.uint8) for number in range(30)]
    (logits,) = classifier.frame_logits([crops])
    assert sorted(calls[-4:]) == [6, CPU_BATCH, CPU_BATCH, CPU_BATCH]
    assert logits == pytest.approx([16 * number / 255 - 1 for number in range(30)], abs=1e-6)


def test_frame_logits_of_a_track_model_are_never_computed_in_half_precision(monkeypatch):
    crops = torch.randint(256, (4, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    crops = list(crops.to(torch.uint8))

    def logits(detector):
        (classifier,) = detector.classifiers
        return classifier.frame_logits([crops])[0].tolist()

    exact = logits(load_detector(device="cpu", engine="torch"))
    monkeypatch.setattr("dfdetect.classifier.has_fast_half", lambda device: True)
    detector = load_detector(device="cpu", engine="torch")
    assert logits(detector) == exact
    with DecoderPool() as decoders:
        assert logits(detector.replica(torch.device("cpu"), decoders)) == exact
    (other,) = load_detector("simple_cnn_2", device="cpu", engine="torch").classifiers
    assert other.half
