import json

import numpy as np
import pytest
import torch

from dfdetect import create_model, find_weights, load_detector, read_frames
from dfdetect.checkpoints import export
from dfdetect.checkpoints.export import TOLERANCE, CropsToLogits, export_onnx
from dfdetect.checkpoints.io import load_checkpoint, make_ensemble, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.cli import main
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.faces.crops import cut_crops

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def faces(real_clip):
    """Return frames of a video, each with the box of its face."""
    frames = list(read_frames(real_clip, 8))
    boxes = load_detector("logistic_regression", "cpu").face_detector.detect(
        [frame.image for frame in frames]
    )
    return [(frame.image, box[0]) for frame, box in zip(frames, boxes, strict=True) if box]


@pytest.mark.parametrize("name", ["simple_cnn_2", "cnn_lstm", None])
@pytest.mark.slow
def test_export_onnx_answers_as_torch_does_on_real_crops(name, faces, tmp_path):
    out = tmp_path / "model.onnx"
    result = export_onnx(name, out=out)
    assert result.difference <= TOLERANCE
    model, spec = load_checkpoint(find_weights(name))
    wanted = spec.crop_format
    crops = torch.stack([cut_crops(image, box, [wanted])[wanted] for image, box in faces])
    if spec.frames_per_clip > 1:
        crops = crops[None].expand(2, -1, -1, -1, -1)[:, : spec.frames_per_clip]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"crops": crops.numpy()})
    with torch.inference_mode():
        expected = CropsToLogits(model, spec).eval()(crops).numpy()
    assert found.shape == (len(crops), 1)
    assert np.abs(found - expected).max() <= TOLERANCE
    (one,) = session.run(None, {"crops": crops[:1].numpy()})
    assert np.abs(one - expected[:1]).max() <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xception_phase", "xception_srm"])
def test_export_onnx_takes_the_networks_of_noise_and_phases(name, tmp_path, short_xception):
    path = tmp_path / "published.safetensors"
    spec = ModelSpec(name, input_size=256, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = create_model(name)
    with torch.no_grad():  # with random weights, logits are about 1e5
        model.get_classifier().weight *= 1e-6
    save_checkpoint(path, model, spec, half=False)
    assert export_onnx(path, out=tmp_path / "model.onnx").difference <= TOLERANCE


def test_export_onnx_states_what_goes_in_and_out(tmp_path):
    out = tmp_path / "model.onnx"
    export_onnx("logistic_regression", out=out)
    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert {one.domain: one.version for one in model.opset_import}[""] == export.OPSET
    (crops,) = model.graph.input
    shape = [side.dim_param or side.dim_value for side in crops.type.tensor_type.shape.dim]
    assert (crops.name, shape) == ("crops", ["batch", 3, 128, 128])
    assert crops.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    notes = {entry.key: entry.value for entry in model.metadata_props}
    header = json.loads(notes["dfdetect"])
    assert header["crop"]["scale"] == 0.8
    assert {"mean", "std", "calibration", "aggregation", "licence"} <= set(header)
    assert "uint8 RGB" in notes["input"]
    assert "sigmoid" in notes["output"]


def test_export_onnx_refuses_an_ensemble(tmp_path):
    both = tmp_path / "both.safetensors"
    make_ensemble([find_weights("logistic_regression"), find_weights("simple_cnn_2")], both)
    with pytest.raises(ArgumentError, match="export each member alone"):
        export_onnx(both, out=tmp_path / "both.onnx")
    assert not (tmp_path / "both.onnx").exists()


def test_export_onnx_writes_nothing_that_answers_differently(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DfdetectError, match="not written, because its logits would differ"):
        export_onnx("logistic_regression", out=tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_command_says_what_it_wrote_and_what_it_needs(tmp_path, capsys, monkeypatch):
    out = tmp_path / "model.onnx"
    options = ["export", "--weights", "logistic_regression", "--out"]
    assert main([*options, str(out)]) == 0
    assert "opset 18, uint8 RGB crops batch x 3 x 128 x 128" in capsys.readouterr().out
    assert main([*options, str(tmp_path / "model.pb")]) == 2
    assert "the name must end in .onnx" in capsys.readouterr().err
    monkeypatch.setattr(export, "PACKAGES", ("no_such_package",))
    assert main([*options, str(out)]) == 2
    assert "pip install 'dfdetect[onnx]'" in capsys.readouterr().err
