import pytest
import torch
from torch import nn

from dfdetect import CheckpointError, create_model
from dfdetect.checkpoints.converters.tensors import Tensors, one_logit, with_epsilon

ARCHITECTURE = "simple_cnn_2"


@pytest.fixture
def state():
    return create_model(ARCHITECTURE).state_dict()


def take(state, prefix=""):
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    return Tensors("a.pth", named).take_model(ARCHITECTURE, lambda name: f"{prefix}{name}", {})


def test_take_model_finds_each_tensor(state):
    taken = take(state, "net.")
    assert taken.keys() == state.keys()
    assert all(torch.equal(taken[name], state[name]) for name in state)


def test_take_model_names_what_is_missing_as_the_file_would(state):
    name = next(iter(state))
    del state[name]
    with pytest.raises(CheckpointError, match=rf"a\.pth: the file lacks the tensors net\.{name};"):
        take(state, "net.")


def test_take_model_names_what_is_left_over(state):
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"does not have the tensors extra\.weight"):
        take(state)


def test_take_model_names_another_shape(state):
    name = next(iter(state))
    state[name] = torch.zeros(1, 2)
    with pytest.raises(CheckpointError, match=rf"{name} has shape \(1, 2\)"):
        take(state)


def test_take_model_does_without_counters_of_batch_norms():
    state = create_model("meso4").state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    without = {name: tensor for name, tensor in state.items() if name not in counters}
    assert len(counters) == 4
    taken = Tensors("a.pth", without).take_model("meso4", str, {})
    create_model("meso4").load_state_dict(taken)


def test_one_logit_is_the_logit_of_the_softmax():
    torch.manual_seed(0)
    head, features = nn.Linear(5, 2), torch.randn(7, 5)
    folded = nn.Linear(5, 1)
    folded.load_state_dict(one_logit(head.weight, head.bias))
    expected = head(features).softmax(dim=1)[:, 1:]
    assert torch.allclose(folded(features).sigmoid(), expected, atol=1e-6)


def test_with_epsilon_gives_the_same_output():
    torch.manual_seed(0)
    original, other = nn.BatchNorm2d(3, eps=1e-5).eval(), nn.BatchNorm2d(3, eps=1e-3).eval()
    original.running_var = torch.tensor([1e-4, 0.1, 3.0])
    original.running_mean = torch.randn(3)
    state = {f"bn.{name}": tensor for name, tensor in original.state_dict().items()}
    state = with_epsilon(state, "bn.", epsilon=1e-5, wanted=1e-3)
    other.load_state_dict({name.removeprefix("bn."): tensor for name, tensor in state.items()})
    images = torch.randn(2, 3, 4, 4)
    assert torch.allclose(other(images), original(images), rtol=1e-5, atol=1e-5)
