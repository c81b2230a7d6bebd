import json
import tracemalloc
from dataclasses import replace

import psutil
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dfdetect import CheckpointError, create_model, find_weights, list_weights
from dfdetect.checkpoints.io import load_checkpoint, read_spec, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.errors import ArgumentError
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration

ARCHITECTURE = "test_efficientnet"
SPEC = ModelSpec(
    ARCHITECTURE,
    input_size=64,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    crop=CropRule(1.3, 0.0),
    calibration=Calibration(0.7, -0.2),
    aggregation=Aggregation(floor=0.05),
    training={"seed": 3},
    scores={"somewhere": {"auc": 0.9}},
    licence="test",
)
MESO = ModelSpec("meso4", input_size=256, mean=(0.0,) * 3, std=(1.0,) * 3)


DEEP = "a stand-in for a thousand nested lists"


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, create_model(ARCHITECTURE), SPEC)
    return path


def rewrite_header(path, **changes):
    header = {**json.loads(SPEC.to_json()), **changes}
    header = {key: value for key, value in header.items() if value is not None}
    text = json.dumps(header).replace(json.dumps(DEEP), 100_000 * "[" + 100_000 * "]")
    save_file(load_file(path), path, metadata={"dfdetect": text})


def test_read_spec_accepts_old_names_of_the_aggregation(file):
    rewrite_header(file, aggregation={"person": "soft_maximum", "video": "max"})
    assert read_spec(file).aggregation == Aggregation(frames="soft_maximum", tracks="max")


def test_load_checkpoint_returns_the_saved_model_and_spec(file):
    model, spec = load_checkpoint(file)
    assert spec == SPEC == read_spec(file)
    assert not model.training
    torch.manual_seed(0)
    original = create_model(ARCHITECTURE).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(model(image), original(image), atol=1e-2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_load_checkpoint_draws_no_random_weights(file):
    before = torch.get_rng_state()
    load_checkpoint(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_load_checkpoint_fills_buffers_that_no_checkpoint_stores(tmp_path):
    path = tmp_path / "model.safetensors"
    original = create_model("test_vit_relpos").eval()
    stored = original.state_dict().keys()
    assert any(name not in stored for name, _ in original.named_buffers())
    spec = ModelSpec("test_vit_relpos", input_size=160, mean=(0.5,) * 3, std=(0.5,) * 3)
    save_checkpoint(path, original, spec, half=False)
    image = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(path)[0](image), original(image))


def test_save_checkpoint_stores_float16(file):
    kinds = {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()}
    assert kinds == {torch.float16}


def test_load_checkpoint_returns_the_crop_rule():
    left, top, width, side = CropRule(scale=0.8, shift=0.1).rectangle((100, 50, 180, 150))
    assert width == side == pytest.approx(80)
    assert left + side / 2 == pytest.approx(140)
    assert top + side / 2 == pytest.approx(110)


def test_load_checkpoint_returns_other_preprocessing(tmp_path):
    torch.manual_seed(0)
    template = tuple((0.1 * number, 0.2) for number in range(5))
    spec = replace(
        SPEC,
        crop=CropRule(1.5, 0.1, width=1.2, border="cut", template=template),
        resize=ResizeRule(0.75, "pad", "area_or_cubic"),
        channels="BGR",
        aggregation=Aggregation("confident_majority", "pooled"),
    )
    save_checkpoint(tmp_path / "a.safetensors", create_model(ARCHITECTURE), spec)
    assert load_checkpoint(tmp_path / "a.safetensors")[1] == spec
    assert spec.input_shape == (1, 3, 64, 48)
    assert spec.describe() == (
        "test_efficientnet, 64 x 48 px, crop aligned by five points, confident_majority; test"
    )


def test_describe_gives_the_auc_on_held_out_actors():
    assert (
        "AUC 0.912 on its held-out actors; test"
        in replace(SPEC, scores={"held_out_actors": {"auc": 0.912}}).describe()
    )
    for broken in ({"held_out_actors": {"auc": "high"}}, {"held_out_actors": 0.9}):
        assert "AUC" not in replace(SPEC, scores=broken).describe()


def test_load_checkpoint_returns_the_jpeg_compression(tmp_path):
    spec = replace(SPEC, resize=ResizeRule(jpeg=(224, 75)))
    save_checkpoint(tmp_path / "a.safetensors", create_model(ARCHITECTURE), spec)
    assert load_checkpoint(tmp_path / "a.safetensors")[1].resize.jpeg == (224, 75)
    template = tuple((0.1 * number, 0.2) for number in range(5))
    with pytest.raises(ArgumentError, match=r"must be left out if crop\.template is given"):
        replace(spec, crop=CropRule(template=template))


def test_save_checkpoint_without_half_keeps_the_dtype(tmp_path):
    model = create_model("meso4")
    save_checkpoint(tmp_path / "a.safetensors", model, MESO, half=False)
    loaded, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_normalise_reverses_channels_for_bgr():
    images = torch.tensor([[[[0]], [[51]], [[255]]]], dtype=torch.uint8)
    spec = replace(SPEC, mean=(0.0, 0.0, 0.0), std=(1.0, 0.5, 1.0), channels="BGR")
    assert spec.normalise(images)[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.4, 0.0])


def test_normalise_single_crops():
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    images[:, 0] = 255
    pixels = SPEC.normalise(images)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([2.5, -0.4 / 0.3, -0.75])


def test_normalise_clips():
    clips = torch.full((2, 4, 3, 8, 8), 255, dtype=torch.uint8)
    pixels = SPEC.normalise(clips)
    assert pixels.shape == clips.shape
    assert pixels[1, 3, :, 0, 0].tolist() == pytest.approx([2.5, 2.0, 1.75])


def test_load_checkpoint_refuses_another_file(tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("this is no checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.safetensors: not a checkpoint"):
        load_checkpoint(path)


def test_load_checkpoint_of_an_image_says_that_it_is_no_safetensors_file(tmp_path):
    path = tmp_path / "frame.jpg"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(CheckpointError, match=r"frame\.jpg: not a checkpoint: it is no \.safe"):
        load_checkpoint(path)


def test_load_checkpoint_refuses_bare_weights(tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="without dfdetect's header"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_load_checkpoint_refuses_a_truncated_file(file, share):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(file)


def test_load_checkpoint_refuses_an_empty_file(file):
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "format version 3, but this dfdetect reads version 2"),
        ({"format": "something"}, "the format in its header is not 'dfdetect-checkpoint'"),
        ({"architecture": "resnet_of_dreams"}, "unknown architecture 'resnet_of_dreams'"),
        ({"architecture": "resnet18"}, "do not fit resnet18"),
        ({"architecture": None}, "architecture"),
        ({"arguments": {"pretrained": True}}, "pretrained"),
        ({"surprise": 1}, "surprise"),
        ({"input_size": 100_000}, "input_size"),
        ({"positive_class": "REAL"}, "positive_class"),
        ({"frames_per_clip": 0}, "frames_per_clip must be 1 to 128, not 0"),
        ({"architecture": "cnn_lstm"}, "cnn_lstm takes clips of 2 and more"),
        ({"frames_per_clip": 8}, "frames_per_clip"),
        ({"std": [0, 1, 1]}, "std"),
        ({"mean": [1, 2]}, "three numbers"),
        ({"mean": "abc"}, "not a usable checkpoint"),
        ({"crop": {"scale": -1}}, r"crop\.scale"),
        ({"crop": {"border": "red"}}, r"crop\.border"),
        ({"crop": {"width": 0}}, r"crop\.width"),
        ({"crop": {"template": [[0, 1]]}}, r"crop\.template"),
        ({"resize": {"fit": "bend"}}, r"resize\.fit"),
        ({"channels": "GRB"}, "channels must be one of"),
        ({"aggregation": {"tracks": "min"}}, "unknown aggregation"),
        ({"crop": {"scale": float("nan")}}, "NaN instead of a number"),
        ({"mean": [0, 0, float("inf")]}, "Infinity instead of a number"),
        ({"crop": {"shift": "below"}}, "not a usable checkpoint"),
        ({"input_size": 64.0}, "input_size"),
        ({"aggregation": {"floor": 1e-20}}, "floor"),
        ({"calibration": {"scale": 0}}, "positive scale"),
        ({"aggregation": {"video": "median"}}, "unknown aggregation"),
        ({"aggregation": [1]}, "not a usable checkpoint"),
        ({"arguments": {"outputs": 10**9}}, "outputs = 1000000000"),
        ({"arguments": {"drop_rate": 2}}, "drop_rate = 2"),
        ({"crop": {"scale": 1e300}}, r"crop\.scale"),
        ({"crop": {"shift": -11}}, r"crop\.scale"),
        ({"mean": [10**400, 0, 0]}, "not a usable checkpoint"),
        ({"licence": "\x1b[2J"}, "licence must be a line of text"),
        ({"licence": 3}, "licence must be a line of text"),
        ({"training": []}, "training and scores must be JSON objects"),
        ({"training": {"faces": 3}}, r"training\.faces must be a list of texts, not 3"),
        ({"training": {"sources": [["a"]]}}, r"training\.sources must be a list of texts"),
        ({"architecture": ["resnet18"]}, "not a usable checkpoint"),
        ({"architecture": "vit_giant_patch14_224"}, "do not fit vit_giant_patch14_224"),
        ({"scores": {"deep": DEEP}}, "not a usable checkpoint"),
    ],
)
def test_load_checkpoint_refuses_wrong_headers(file, changes, message):
    rewrite_header(file, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan"])
def test_load_checkpoint_refuses_wrong_tensors(file, change):
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["more"] = torch.zeros(1)
    elif change == "shape":
        tensors[name] = torch.zeros(5, dtype=torch.float16)
    else:
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, file, metadata={"dfdetect": SPEC.to_json()})
    with pytest.raises(CheckpointError, match=r"do not fit|not finite"):
        load_checkpoint(file)


def test_load_checkpoint_refuses_changed_content(file):
    tensors, text = load_file(file), SPEC.to_json()
    (name, *_) = (name for name, tensor in tensors.items() if tensor.is_floating_point())
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({**tensors, name: -tensors[name]}, file, metadata=metadata)
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        load_checkpoint(file)
    changed = text.replace('"floor": 0.05', '"floor": 0.06')
    assert changed != text
    save_file(tensors, file, metadata={**metadata, "dfdetect": changed})
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        load_checkpoint(file)
    save_file(tensors, file, metadata={"dfdetect": text})
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        load_checkpoint(file)
    save_file(tensors, file, metadata=metadata)
    load_checkpoint(file)


def test_load_checkpoint_refuses_other_dtypes(file):
    tensors = load_file(file)
    (name, *_) = (name for name, tensor in tensors.items() if tensor.is_floating_point())
    for kind in (torch.int64, torch.float64, torch.bool):
        save_file(
            {**tensors, name: tensors[name].to(kind)}, file, metadata={"dfdetect": SPEC.to_json()}
        )
        with pytest.raises(CheckpointError, match="do not fit"):
            load_checkpoint(file)


def test_load_checkpoint_of_a_huge_header_takes_no_memory(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write((90 * 2**20).to_bytes(8, "little") + b"{")
        file.truncate(100 * 2**20)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="its header would have 94371840 bytes"):
        load_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_load_checkpoint_of_a_large_architecture_takes_no_memory(file):
    rewrite_header(file, architecture="vit_giant_patch14_224")
    before = psutil.Process().memory_info().rss
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(file)
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def test_save_checkpoint_refuses_weights_that_overflow(tmp_path):
    model = create_model(ARCHITECTURE)
    torch.nn.init.constant_(model.get_classifier().weight, 1e6)
    with pytest.raises(ValueError, match="not finite in float16"):
        save_checkpoint(tmp_path / "model.safetensors", model, SPEC)
    assert list(tmp_path.iterdir()) == []


def test_find_weights_by_name(file):
    assert find_weights() == find_weights("tf_efficientnet_lite2_texture")
    assert find_weights(file) == find_weights(str(file)) == file
    assert set(list_weights().values()) >= {find_weights()}


def test_find_weights_refuses_unknown_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="tf_efficientnet_lite2"):
        find_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", list_weights())
def test_load_checkpoint_of_installed_weights(name):
    _, spec = load_checkpoint(find_weights(name))
    assert spec.training["faces"]
    assert spec.scores
    assert "research" in spec.licence
