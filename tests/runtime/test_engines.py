import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dfdetect import load_detector
from dfdetect.errors import ArgumentError
from dfdetect.runtime import engines
from dfdetect.runtime.engines import (
    EngineNetwork,
    choose_engine,
    import_openvino,
    is_installed,
)

CPU = torch.device("cpu")
OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(not is_installed(name), reason="not installed"))
    for name in ("openvino", "onnxruntime")
]


class TwoAnswers(nn.Module):
    """A network with two outputs: a convolution of images of any size, and its square."""

    def __init__(self, channels=3):
        super().__init__()
        self.layer = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, images):
        answer = self.layer(images)
        return answer, answer * answer


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TwoAnswers().eval().to(memory_format=torch.channels_last)


@pytest.mark.parametrize("engine", OTHERS)
@torch.inference_mode()
def test_engine_network_gives_the_same_outputs_as_torch(network, engine):
    fast = EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0, 2, 3), engine)
    for shape in ((1, 3, 16, 16), (5, 3, 24, 40), (2, 3, 8, 9)):
        images = torch.randn(shape).to(memory_format=torch.channels_last)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would mean that torch is used
            answers = fast(images)
        for one, other in zip(answers, network(images), strict=True):
            torch.testing.assert_close(one, other)
    assert fast.compute is not None


def convolution_and(*activations):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *activations).eval()


@pytest.mark.parametrize("answers", [1, 2])
@torch.inference_mode()
def test_engine_network_optimises_a_copy_for_torch(answers, two_torch_threads):
    torch.manual_seed(0)
    layers = convolution_and(nn.ReLU6(), *([TwoAnswers(4)] if answers == 2 else []))
    fast = EngineNetwork(layers, torch.zeros(1, 3, 16, 16), (0,), "torch")
    assert fast.calls_at_once == 1  # torch uses both cores for one call
    assert fast.compute is not None
    for count in (1, 5, 2):
        images = torch.randn(count, 3, 16, 16).to(memory_format=torch.channels_last)
        torch.testing.assert_close(fast(images), layers(images))


@pytest.mark.parametrize(
    ("layers", "varying", "bfloat16"),
    [
        (convolution_and(), (0,), False),
        (convolution_and(nn.ReLU(), nn.SiLU()), (0,), False),
        (convolution_and(nn.ReLU()), (0, 2, 3), False),
        (convolution_and(nn.ReLU()), (0,), True),
    ],
)
@torch.inference_mode()
def test_engine_network_keeps_a_network_that_is_fast_in_torch(layers, varying, bfloat16):
    fast = EngineNetwork(layers, torch.zeros(1, 3, 16, 16), varying, "torch", bfloat16)
    fast(torch.zeros(1, 3, 16, 16))
    assert fast.compute is None


@torch.inference_mode()
def test_engine_network_keeps_quietly_a_network_that_torch_cannot_trace(monkeypatch):
    monkeypatch.setitem(engines.COMPILERS, "torch", failing)
    layers, images = convolution_and(nn.ReLU()), torch.ones(2, 3, 16, 16)
    fast = EngineNetwork(layers, torch.zeros(1, 3, 16, 16), (0,), "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(fast(images), layers(images))


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.slow
@torch.inference_mode()
def test_engine_network_can_be_sent_to_another_process(network, engine):
    fast = EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0,), engine)
    images = torch.randn(2, 3, 16, 16)
    expected = fast(images)[0]
    twin = pickle.loads(pickle.dumps(fast))
    assert twin.compute is None
    torch.testing.assert_close(twin(images)[0], expected)
    assert twin.compute is not None


@pytest.mark.skipif(not is_installed("openvino"), reason="not installed")
@pytest.mark.slow
@torch.inference_mode()
def test_engine_network_compiles_all_networks_with_one_core(network, monkeypatch):
    openvino = import_openvino()
    made = []

    class CountedCore(openvino.Core):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(openvino, "Core", CountedCore)
    for _ in range(3):
        fast = EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0,), "openvino")
        fast(torch.zeros(1, 3, 16, 16))
        assert fast.compute is not None
    assert len(made) <= 1  # an earlier test may have made the process's only core


@pytest.mark.skipif(not is_installed("openvino"), reason="not installed")
@torch.inference_mode()
def test_openvino_does_not_report_its_use(network):
    EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0,), "openvino")(torch.zeros(1, 3, 16, 16))
    reporter = sys.modules["openvino.tools.ovc.convert_impl"].tm
    assert reporter.__name__ == "openvino.tools.ovc.telemetry_stub"
    assert sys.modules["openvino_telemetry"] is None


@torch.inference_mode()
def test_engine_network_compiles_when_it_pays(network, monkeypatch):
    compiled = []
    monkeypatch.setitem(engines.PACKAGES, "openvino", ["torch"])

    def compile_network(network, *_):
        compiled.append(network)
        return right(network)

    monkeypatch.setitem(engines.COMPILERS, "openvino", compile_network)
    monkeypatch.setattr(engines, "PAYS_AFTER", 2)
    fast = EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0,), "auto")
    for _ in range(2):
        fast(torch.zeros(1, 3, 16, 16))
    assert not compiled
    for _ in range(3):
        fast(torch.zeros(1, 3, 16, 16))
    assert len(compiled) == 1


def test_engine_network_compiles_before_the_first_of_several_calls(network, monkeypatch):
    """The classifier asks for the number of calls at once before it turns off gradients."""
    monkeypatch.setitem(engines.PACKAGES, "openvino", ["torch"])
    monkeypatch.setitem(engines.COMPILERS, "openvino", lambda network, *_: right(network))
    fast = EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0,), "openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would mean that torch is used
        assert fast.calls_at_once == torch.get_num_threads()
    assert fast.compute is not None


def right(network):
    return lambda values: [one.numpy() for one in network(torch.from_numpy(values))]


def wrong(network, *_):
    return lambda values: [one.numpy() + 1 for one in network(torch.from_numpy(values))]


def failing(*_):
    raise RuntimeError("no such operation\nand more")


@pytest.mark.parametrize(
    ("compile_network", "problem"),
    [(wrong, "its outputs differ from torch's"), (failing, "RuntimeError: no such operation$")],
)
@torch.inference_mode()
def test_engine_network_falls_back_to_torch(network, compile_network, problem, monkeypatch):
    monkeypatch.setitem(engines.PACKAGES, "openvino", ["torch"])
    monkeypatch.setitem(engines.COMPILERS, "openvino", compile_network)
    fast = EngineNetwork(network, torch.zeros(1, 3, 16, 16), (0,), "openvino")
    images = torch.randn(2, 3, 16, 16)
    with pytest.warns(UserWarning, match=problem):
        answers = fast(images)
    torch.testing.assert_close(answers[0], network(images)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning is given only once
        fast(images)


@pytest.mark.skipif(not is_installed("openvino"), reason="not installed")
@pytest.mark.slow
@torch.inference_mode()
def test_engine_runs_the_default_detector_where_bfloat16_is_fast(monkeypatch):
    monkeypatch.setattr("dfdetect.classifier.has_fast_half", lambda device: True)
    (classifier,) = load_detector(device="cpu", engine="openvino").classifiers
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would mean that torch is used
        classifier.network(classifier.network.example)
    assert classifier.network.compute is not None


def test_choose_engine_takes_the_fastest_installed_engine(monkeypatch):
    monkeypatch.setitem(engines.PACKAGES, "openvino", ["no_such_package"])
    monkeypatch.setitem(engines.PACKAGES, "onnxruntime", ["torch"])
    assert choose_engine("auto", CPU) == "onnxruntime"
    monkeypatch.setitem(engines.PACKAGES, "onnxruntime", ["torch", "no_such_package"])
    assert choose_engine("auto", CPU) == "torch"
    assert choose_engine("auto", torch.device("cuda")) == "torch"


def test_choose_engine_refuses_engines_that_cannot_be_used(monkeypatch):
    with pytest.raises(ArgumentError, match="unknown engine 'tensorrt': use auto, torch"):
        choose_engine("tensorrt", CPU)
    monkeypatch.setitem(engines.PACKAGES, "openvino", ["no_such_package"])
    with pytest.raises(ArgumentError, match="not installed: pip install no_such_package"):
        choose_engine("openvino", CPU)
    with pytest.raises(ArgumentError, match="on CPUs only, not on cuda"):
        choose_engine("onnxruntime", torch.device("cuda"))


@pytest.fixture(scope="module")
def video(sample_data):
    return sample_data / "test_videos" / "ehtdtkmmli.mp4"


@pytest.fixture(scope="module")
def plain(video):
    return load_detector(None, "cpu", 4, "torch").predict(video)


@pytest.mark.slow
@pytest.mark.parametrize("engine", OTHERS)
def test_detector_with_another_engine_gives_the_same_result(engine, video, plain):
    fast = load_detector(None, "cpu", 4, engine).predict(video)
    assert fast.probability == pytest.approx(plain.probability, abs=1e-4)
    for one, other in zip(fast.tracks, plain.tracks, strict=True):
        assert one.times == other.times
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.5)
