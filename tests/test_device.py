import os

import pytest
import torch

from dfdetect import device
from dfdetect.device import available_cores, choose_device


def test_cpu():
    assert choose_device("cpu") == torch.device("cpu")


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
