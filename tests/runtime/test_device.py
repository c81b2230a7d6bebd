import os

import pytest
import torch

from dfdetect.runtime import device
from dfdetect.runtime.device import (
    available_cores,
    choose_device,
    describe,
    half_type,
    has_fast_half,
    other_gpus,
    split_on_oom,
)


def test_choose_device_cpu():
    assert choose_device("cpu") == torch.device("cpu")


def test_describe_names_all_devices(monkeypatch):
    assert describe(torch.device("cpu")) == f"{available_cores()} cores of the CPU"
    monkeypatch.setattr(device, "other_gpus", lambda first: [torch.device("cuda", 1)])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"T4 no. {gpu.index or 0}")
    assert describe(torch.device("cuda")) == "T4 no. 0, T4 no. 1"


def test_choose_device_auto_takes_a_gpu_that_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_problem", lambda chosen: None)
    assert choose_device("auto") == torch.device("cuda")


def test_choose_device_auto_falls_back_if_an_operation_fails(monkeypatch):
    """Torch also lists old GPUs for which it has no kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_problem", lambda chosen: "no kernel image is available")
    with pytest.warns(UserWarning, match="no kernel image"):
        assert choose_device("auto") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_choose_device_refuses_a_missing_gpu():
    with pytest.raises(ValueError, match="'cuda' is not usable, try device 'cpu'"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["abacus", "meta", "mps"])
def test_choose_device_refuses_unknown_names(name):
    with pytest.raises(ValueError, match=f"unknown device '{name}'"):
        choose_device(name)


def test_available_cores_of_this_process():
    assert 1 <= available_cores() <= os.cpu_count()


@pytest.mark.parametrize("fast", [True, False])
def test_has_fast_half_of_gpus_and_cpus(fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": fast}, raising=False)
    assert has_fast_half(torch.device("cpu")) is fast
    assert has_fast_half(torch.device("cuda"))


def test_has_fast_half_with_an_older_torch(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_half(torch.device("cpu"))


def test_half_type_of_old_gpus(monkeypatch):
    capabilities = [(7, 5), (8, 0)]
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities[device.index]
    )
    assert half_type(torch.device("cuda", 0)) == torch.float16
    assert half_type(torch.device("cuda", 1)) == torch.bfloat16
    assert half_type(torch.device("cpu")) == torch.bfloat16


def test_other_gpus_returns_only_gpus_that_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(device, "_problem", lambda chosen: "broken" if chosen.index == 2 else None)
    assert other_gpus(torch.device("cuda")) == [torch.device("cuda:1"), torch.device("cuda:3")]
    assert other_gpus(torch.device("cuda:1")) == other_gpus(torch.device("cpu")) == []


def test_split_on_oom_halves_a_batch():
    sizes = []

    def square(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [number**2 for number in batch]

    assert split_on_oom(square, list(range(10))) == [number**2 for number in range(10)]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        split_on_oom(lambda _: square([0] * 4), [1])
