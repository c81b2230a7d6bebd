"""Tests of each format with files that have the tensors of the original networks.

`tests/checkpoints/formats` lists the tensors of each network, with one line for each module. The
line `batch_norm 64` stands for the five tensors of a batch norm of 64 channels.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dfdetect import CheckpointError, create_model, load_detector
from dfdetect.checkpoints.converters import clip
from dfdetect.checkpoints.converters.clip import ENCODER, read_gend
from dfdetect.checkpoints.converters.convert import convert
from dfdetect.checkpoints.converters.registry import choose_format, formats
from dfdetect.checkpoints.converters.tensors import Tensors
from dfdetect.checkpoints.io import load_checkpoint

LISTS = Path(__file__).parent.parent / "formats"
# For each list: the format, the architecture in this package and the height of the input.
NETWORKS = {
    "deepfakebench_efficientnetb4": ("deepfakebench", "efficientnet_b4_unpadded_stem", 256),
    "deepfakebench_meso4": ("deepfakebench", "meso4", 256),
    "deepfakebench_meso4inception": ("deepfakebench", "meso_inception4_linear", 256),
    "deepfakebench_srm": ("deepfakebench", "xception_srm", 256),
    "deepfakebench_spsl": ("deepfakebench", "xception_phase", 256),
    "deepfakebench_ucf": ("deepfakebench", "xception_ucf", 256),
    "deepfakebench_xception": ("deepfakebench", "xception", 256),
    "effort": ("effort", "vit_large_patch14_clip_quickgelu_224", 224),
    "faceforensics": ("faceforensics", "xception", 299),
    "faceforensics_dropout": ("faceforensics", "xception", 299),
    "gend": ("gend", "clip_large_normalised", 224),
    "ispl_efficientnetautoattb4": ("ispl", "efficientnet_b4_attention", 224),
    "ispl_efficientnetautoattb4st": ("ispl", "efficientnet_b4_attention", 224),
    "ispl_efficientnetb4": ("ispl", "efficientnet_b4_fixed", 224),
    "ispl_efficientnetb4st": ("ispl", "efficientnet_b4_fixed", 224),
    "ispl_xception": ("ispl", "xception", 224),
    "ntechlab_b7": ("ntechlab", "efficientnet_b7_fixed06", 224),
    "ntechlab_sequence": ("ntechlab", "efficientnet_b7_sequence", 224),
    "robustforensics_b0": ("robustforensics", "efficientnet_b0_fixed06", 299),
    "robustforensics_b1": ("robustforensics", "efficientnet_b1_fixed06", 299),
    "robustforensics_b3": ("robustforensics", "efficientnet_b3_fixed06", 299),
    "robustforensics_resnet34": ("robustforensics", "resnet34", 256),
    "robustforensics_xception": ("robustforensics", "xception", 299),
    "sbi": ("sbi", "efficientnet_b4_fixed", 380),
    "selimsef_b2_gwap": ("selimsef", "efficientnet_b2_gwap", 380),
    "selimsef_b2_srm": ("selimsef", "efficientnet_b2_srm", 380),
    "selimsef_b7": ("selimsef", "tf_efficientnet_b7", 380),
    "wsdan_efficientnet": ("wsdan", "wsdan_efficientnet_b3", 300),
    "wsdan_plain": ("wsdan", "xception", 299),
    "wsdan_xception": ("wsdan", "wsdan_xception", 320),
}
# The smallest network of each format.
CONVERTED = {
    "deepfakebench": "deepfakebench_meso4",
    "effort": "effort",
    "faceforensics": "faceforensics",
    "gend": "gend",
    "ispl": "ispl_efficientnetb4",
    "ntechlab": "ntechlab_b7",
    "robustforensics": "robustforensics_b0",
    "sbi": "sbi",
    "selimsef": "selimsef_b2_gwap",
    "wsdan": "wsdan_plain",
}
QUICK = ("deepfakebench_meso4", "robustforensics_b0")
# What the training scripts put around the state dict.
WRAPPERS = {
    "robustforensics": lambda state: {"step": 1, "state_dict": state, "optimizer": {}},
    "sbi": lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 99},
    "selimsef": lambda state: {"epoch": 36, "state_dict": state, "bce_best": np.float64(0.2)},
    "wsdan": lambda state: {"state_dict": state, "feature_center": torch.zeros(2, 8)},
}
# Formats whose weights are float16 here: ntechlab publishes them so; the others are the largest.
HALF = ("ntechlab", "effort", "gend")
NORM = ("weight", "bias", "running_mean", "running_var")
ONE = "robustforensics_b0"


def read_list(name):
    """Return the name and shape of each tensor that one of the lists names."""
    shapes = {}
    table = pd.read_csv(LISTS / f"{name}.csv", keep_default_na=False)
    for module, tensors in table.itertuples(index=False):
        prefix = f"{module}." if module else ""
        if tensors.startswith("batch_norm "):
            channels = (int(tensors.split()[1]),)
            shapes |= {f"{prefix}{part}": channels for part in NORM}
            shapes[f"{prefix}num_batches_tracked"] = ()
            continue
        for tensor in tensors.split(";"):
            part, _, sides = tensor.partition(" ")
            shapes[f"{prefix}{part}"] = tuple(map(int, sides.split("x"))) if sides else ()
    return shapes


def make_state(name):
    """Return random weights with which features neither vanish nor explode.

    The weights of a unit are those of the unit before, moved by one place. A whole tensor is
    therefore a view of few numbers: large networks take neither seconds nor gigabytes.
    """
    numbers = torch.randn(2**16, generator=torch.Generator().manual_seed(0))
    state = {}
    for tensor, shape in read_list(name).items():
        if tensor.endswith("num_batches_tracked"):
            state[tensor] = torch.zeros((), dtype=torch.int64)
        elif tensor.endswith("running_var"):
            state[tensor] = torch.ones(shape)
        else:
            units, inputs = int(np.prod(shape[:1])), int(np.prod(shape[1:]))
            scale = (inputs if len(shape) > 1 else 400) ** -0.5
            weights = scale * numbers[: units + inputs - 1]
            if name.startswith(HALF):
                weights = weights.half()
            state[tensor] = weights.unfold(0, inputs, 1).reshape(shape)
    return state


def write(path, name, state):
    wrap = WRAPPERS.get(NETWORKS[name][0], lambda one: one)
    torch.save(wrap(state), path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_read_of_each_format_uses_every_tensor(name, tmp_path):
    format_name, architecture, height = NETWORKS[name]
    shapes = {one.removeprefix("module."): shape for one, shape in read_list(name).items()}
    chosen = choose_format(tmp_path, shapes)
    assert chosen is formats()[format_name]
    # On the device `meta`, tensors have a shape, but take no memory.
    state = {one: torch.empty(shape, device="meta") for one, shape in shapes.items()}
    spec, made = chosen.read(Tensors(tmp_path / "published.pth", state))
    assert (spec.architecture, spec.input_size) == (architecture, height)
    with torch.device("meta"):
        expected = create_model(architecture).state_dict()
    assert {one: tensor.shape for one, tensor in made.items()} == {
        one: tensor.shape for one, tensor in expected.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(one, marks=() if one in QUICK else pytest.mark.slow)
        for one in CONVERTED.values()
    ],
)
def test_convert_writes_a_checkpoint_of_each_format(name, tmp_path):
    format_name, architecture, _ = NETWORKS[name]
    path = write(tmp_path / "published.pth", name, make_state(name))
    out = tmp_path / "converted.safetensors"
    spec = convert(path, out)
    assert (spec.training["converted_from"], spec.architecture) == (format_name, architecture)
    model, loaded = load_checkpoint(out)
    assert loaded == spec
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_formats_are_all_tested():
    assert {path.stem for path in LISTS.glob("*.csv")} == set(NETWORKS)
    assert set(CONVERTED) == {format_name for format_name, _, _ in NETWORKS.values()}


def test_predict_with_converted_checkpoints(tmp_path):
    path = write(tmp_path / "published.pth", ONE, make_state(ONE))
    convert(path, tmp_path / "b0.safetensors", format="robustforensics")
    detector = load_detector(tmp_path / "b0.safetensors", device="cpu")
    generator = np.random.default_rng(0)
    crops = generator.integers(0, 255, (2, 90, 80, 3), dtype=np.uint8)
    probabilities = detector.predict_faces(crops)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_convert_names_the_format_of_another_file(tmp_path):
    path = write(tmp_path / "published.pth", ONE, make_state(ONE))
    with pytest.raises(CheckpointError, match="not in the format sbi, but in robustforensics"):
        convert(path, tmp_path / "a.safetensors", format="sbi")


def test_convert_checks_names_before_it_reads_the_file(tmp_path):
    absent = tmp_path / "absent.pth"
    with pytest.raises(ValueError, match="unknown format 'foo'; known are auto, "):
        convert(absent, tmp_path / "a.safetensors", format="foo")
    with pytest.raises(ValueError, match=r"a\.txt: the name of a checkpoint must end in"):
        convert(absent, tmp_path / "a.txt")


def test_convert_refuses_an_output_that_is_a_folder_before_it_reads_the_input(tmp_path):
    (tmp_path / "out.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"out\.safetensors: is a folder; give the name of a"):
        convert(tmp_path / "missing.pth", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", r"config\.json: no JSON object"),
        ('{"head": "lin', r"config\.json: no JSON object"),
        ('{"head": "mlp"}', "the head 'mlp' of GenD is not supported"),
    ],
)
def test_read_gend_believes_only_what_it_knows(config, message, tmp_path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        read_gend(Tensors(tmp_path / "model.safetensors", {}))


@pytest.mark.parametrize(
    ("config", "architecture"),
    [("{}", ENCODER), ('{"head": "LinearNorm"}', "clip_large_normalised")],
)
def test_read_gend_takes_the_head_that_its_configuration_names(
    config, architecture, tmp_path, monkeypatch
):
    monkeypatch.setattr(clip, "_read_encoder", lambda *_: {})
    (tmp_path / "config.json").write_text(config)
    head = {"model.linear.weight": torch.zeros(2, 4), "model.linear.bias": torch.zeros(2)}
    spec, _ = read_gend(Tensors(tmp_path / "model.safetensors", head))
    assert spec.architecture == architecture


def test_take_model_refuses_a_head_of_another_shape(tmp_path):
    known = {"head.weight": torch.zeros(4, 16)}
    with pytest.raises(CheckpointError, match=r"head\.weight has shape \(4, 16\), but meso4 needs"):
        Tensors(tmp_path / "a.pth", {}).take_model("meso4", str, known)


@pytest.mark.parametrize("name", ["_blocks.3._bn1.running_mean", "_conv_stem.weight"])
def test_convert_names_a_missing_tensor(name, tmp_path):
    state = make_state(ONE)
    del state[f"module.{name}"]
    path = write(tmp_path / "published.pth", ONE, state)
    with pytest.raises(CheckpointError, match=f"the file lacks the tensors {name};"):
        convert(path, tmp_path / "a.safetensors")


def test_convert_names_an_unknown_tensor(tmp_path):
    state = make_state(ONE) | {"module.extra.weight": torch.zeros(2)}
    path = write(tmp_path / "published.pth", ONE, state)
    with pytest.raises(CheckpointError, match=r"does not have the tensors extra\.weight"):
        convert(path, tmp_path / "a.safetensors")


def test_convert_names_unsupported_networks(tmp_path):
    shapes = read_list("deepfakebench_efficientnetb4")
    state = {one: torch.empty(shape, device="meta") for one, shape in shapes.items()}
    state["backbone.efficientnet._conv_head.weight"] = torch.empty(1536, 448, 1, 1, device="meta")
    with pytest.raises(CheckpointError, match="only EfficientNet-B4 of DeepfakeBench"):
        formats()["deepfakebench"].read(Tensors(tmp_path / "b3.pth", state))
