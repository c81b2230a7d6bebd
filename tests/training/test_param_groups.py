import pytest
import torch
from torch import nn

from dfdetect.models.registry import create_model
from dfdetect.training.param_groups import parameter_groups, start_head_at_zero


def test_parameter_groups_equal_gives_one_rate():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(1000, 1))
    (group,) = parameter_groups(model, 1e-3, "equal")
    assert group["lr"] == 1e-3
    assert list(map(id, group["params"])) == list(map(id, model.parameters()))


def test_parameter_groups_by_inputs_gives_wide_layers_smaller_rates():
    model = nn.Sequential(nn.Conv2d(25, 8, (1, 2)), nn.Linear(1000, 4))
    groups = parameter_groups(model, 1e-3, "by_inputs")
    assert [group["lr"] for group in groups] == pytest.approx([2e-3, 1e-3, 1e-4, 1e-3])
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert list(map(id, parameters)) == list(map(id, model.parameters()))


def test_parameter_groups_by_inputs_moves_wide_and_narrow_layers_alike():
    moved = []
    for inputs in (10, 10_000):
        layer = nn.Linear(inputs, 1)
        nn.init.zeros_(layer.weight)
        optimizer = torch.optim.Adam(parameter_groups(layer, 1e-3, "by_inputs"))
        images = torch.ones(1, inputs)
        layer(images).backward()
        optimizer.step()
        moved.append((images @ layer.weight.T).item())
    assert moved[0] == pytest.approx(moved[1], rel=1e-3)


def test_start_head_at_zero_gives_one_half():
    model = create_model("simple_cnn_2").eval()
    start_head_at_zero(model)
    assert (model(torch.randn(2, 3, 64, 64)) == 0).all()
