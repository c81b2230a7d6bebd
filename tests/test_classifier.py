from threading import Barrier

import pytest
import torch

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.classifier import CPU_BATCH, Classifier
from dfdetect.runtime import engines


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
