from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dfdetect import CheckpointError
from dfdetect.checkpoints.converters.reading import read_tensors

STATE = {"fc.weight": torch.ones(1, 2), "fc.bias": torch.zeros(1)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"epoch": 3, "state_dict": STATE, "bce_best": 0.2},
        {"epoch": 3, "state_dict": STATE, "bce_best": np.float64(0.2)},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        {"net": {f"module.{name}": tensor for name, tensor in STATE.items()}},
    ],
)
def test_read_tensors_unwraps_what_training_scripts_save(tmp_path, content):
    path = tmp_path / "published"
    torch.save(content, path)
    read = read_tensors(path)
    assert read.keys() == STATE.keys()
    assert torch.equal(read["fc.weight"], STATE["fc.weight"])


def test_read_tensors_of_safetensors(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == STATE.keys()


def test_read_tensors_refuses_a_whole_network_and_says_what_to_do(tmp_path):
    path = tmp_path / "whole.p"
    torch.save(nn.Linear(2, 1), path)
    with pytest.raises(CheckpointError, match=r"whole\.p.*run code.*state_dict\(\), NEW"):
        read_tensors(path)


def test_read_tensors_of_an_image_gives_no_advice_to_run_its_code(tmp_path):
    path = tmp_path / "frame.jpg"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(CheckpointError, match=r"frame\.jpg: no checkpoint") as caught:
        read_tensors(path)
    assert "weights_only=False" not in str(caught.value)


def test_read_tensors_refuses_a_pickle_of_an_old_torch_and_says_what_to_do(tmp_path):
    path = tmp_path / "whole.p"
    torch.save(nn.Linear(2, 1), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"run code.*state_dict\(\), NEW"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"no file of torch", b"PK\3\4 truncated"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5"])
def test_read_tensors_refuses_damaged_files(tmp_path, content, suffix):
    pytest.importorskip("h5py")
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)


def test_read_tensors_refuses_files_without_tensors(tmp_path):
    h5py = pytest.importorskip("h5py")
    save_file({}, tmp_path / "empty.safetensors")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("layers")
    torch.save({}, tmp_path / "empty.pth")
    for suffix in (".safetensors", ".h5", ".pth"):
        with pytest.raises(CheckpointError, match=rf"empty\{suffix}: it contains no "):
            read_tensors(tmp_path / f"empty{suffix}")


def test_read_tensors_shows_no_code_of_the_unpickler(tmp_path):
    (tmp_path / "a.pth").write_text("hello\n")
    with pytest.raises(CheckpointError, match=r"not saved by torch$"):
        read_tensors(tmp_path / "a.pth")


def test_read_tensors_refuses_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_tensors(tmp_path / "a.pth")


def test_read_tensors_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "a.pth")
