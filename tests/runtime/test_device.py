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


def test_cpu():
    assert choose_device("cpu") == torch.device("cpu")


def test_people_are_told_of_all_devices(monkeypatch):
    assert describe(torch.device("cpu")) == f"{available_cores()} cores of the CPU"
    monkeypatch.setattr(device, "other_gpus", lambda first: [torch.device("cuda", 1)])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"T4 no. {gpu.index or 0}")
    assert describe(torch.device("cuda")) == "T4 no. 0, T4 no. 1"


def test_auto_needs_a_gpu_that_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_problem", lambda chosen: None)
    assert choose_device("auto") == torch.device("cuda")


def test_auto_falls_back_where_the_first_operation_fails(monkeypatch):
    """An old GPU is listed by torch and then has no kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_problem", lambda chosen: "no kernel image is available")
    with pytest.warns(UserWarning, match="no kernel image"):
        assert choose_device("auto") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'cuda' is not usable, try --device cpu"):
        choose_device("cuda")


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="unknown device 'abacus'"):
        choose_device("abacus")


def test_cores_are_those_of_the_process():
    assert 1 <= available_cores() <= os.cpu_count()


@pytest.mark.parametrize("fast", [True, False])
def test_half_precision_is_for_processors_that_are_fast_at_it(fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": fast}, raising=False)
    assert has_fast_half(torch.device("cpu")) is fast
    assert has_fast_half(torch.device("cuda"))


def test_an_older_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_half(torch.device("cpu"))


def test_old_gpus_compute_in_the_other_half_precision(monkeypatch):
    capabilities = [(7, 5), (8, 0)]
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities[device.index]
    )
    assert half_type(torch.device("cuda", 0)) == torch.float16
    assert half_type(torch.device("cuda", 1)) == torch.bfloat16
    assert half_type(torch.device("cpu")) == torch.bfloat16


def test_all_gpus_that_work_are_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(device, "_problem", lambda chosen: "broken" if chosen.index == 2 else None)
    assert other_gpus(torch.device("cuda")) == [torch.device("cuda:1"), torch.device("cuda:3")]
    assert other_gpus(torch.device("cuda:1")) == other_gpus(torch.device("cpu")) == []


def test_a_batch_that_does_not_fit_is_cut_into_parts():
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
