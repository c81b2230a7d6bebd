"""Training in two processes on this machine, which torchrun starts."""

import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from dfdetect import DfdetectError
from dfdetect.cli import main
from dfdetect.training import distributed as module
from dfdetect.training.distributed import DistributedContext, init_distributed
from tests.conftest import make_face_set

# The network has dropout, and its rounding errors do not grow over 24 steps.
SMALL = ["simple_cnn_2", "--input-size", "32", "--batch-size", "6", "--device", "cpu"]
SMALL += ["--epochs", "4", "--drop-rate", "0.2"]
LOSSES = ["epoch", "train_loss", "log_loss", "auc"]
# A script that compares a step of several processes with a step of one process. The model has batch
# normalisation, dropout and stochastic depth.
COMPARISON = """
import sys, torch
from timm.layers import DropPath
from torch import nn
from dfdetect.training.distributed import DistributedContext, init_distributed

def learn(context):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), DropPath(0.3), nn.Flatten(),
        nn.Dropout(0.4), nn.Linear(4 * 36, 1),
    )
    images = torch.randn(7, 3, 8, 8)
    parallel = context.parallel(model)
    with context.global_batch(len(images)):
        outputs = parallel(context.shard(images))[:, 0]
    loss = (outputs.square().sum() + outputs.sum()) / len(images)
    (loss * context.world_size).backward()
    kept = [parameter.grad for parameter in model.parameters()] + list(model.buffers())
    pairs = torch.stack([outputs, -outputs], 1).detach()
    return kept, context.all_reduce_sum(loss), context.gather(pairs.numpy())

with init_distributed("cpu") as (context, device):
    expected, together = learn(DistributedContext()), learn(context)
    assert context.world_size == int(sys.argv[1])
    assert abs(expected[1] - together[1]) < 1e-6
    torch.testing.assert_close(together[0], expected[0])
    torch.testing.assert_close(torch.tensor(together[2]), torch.tensor(expected[2]))
    assert (expected[2] != 0).any()
    assert context.broadcast(lambda: context.rank) == 0
"""


def test_init_distributed_names_the_only_gpu_of_a_machine(monkeypatch):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(module, "choose_device", torch.device)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    with init_distributed("cuda") as (context, device):
        assert context.rank == 1
        assert [device] == chosen == [torch.device("cuda", 0)]


@pytest.fixture(scope="module", autouse=True)
def loopback():
    """Let Gloo use the loopback interface, because the machine's name may have no address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        yield


def torchrun(*command):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [sys.executable, *start, *map(str, command)]


def train(face_set, out, *options):
    """Return the arguments with which `dfdetect` trains a small model."""
    return ["train", *SMALL, "--faces", str(face_set), "--out", str(out), *options]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train in one process, and in two; return the face set, and both checkpoints.

    `stopped.state.pt` beside the checkpoints is what the two processes would have left if they had
    been killed after the first of their epochs.
    """
    folder = tmp_path_factory.mktemp("runs")
    face_set = make_face_set(folder)
    alone, together = folder / "alone.safetensors", folder / "together.safetensors"
    assert main(train(face_set, alone)) == 0
    state = together.with_suffix(".state.pt")
    command = torchrun("-m", "dfdetect", *train(face_set, together))
    with (folder / "output.txt").open("w") as output:
        run = subprocess.Popen(command, stdout=output)
        while not state.exists():
            assert run.poll() is None
            time.sleep(0.01)
        shutil.copy(state, folder / "stopped.state.pt")
        assert run.wait() == 0
    return face_set, alone, together


def losses(checkpoint):
    return pd.read_csv(checkpoint.with_suffix(".history.csv"))[LOSSES].to_numpy()


@pytest.mark.parametrize(
    "model", [lambda images: images + torch.rand_like(images), torch.nn.Dropout2d(0.5)]
)
def test_global_batch_refuses_draws_that_it_does_not_share(model):
    with (
        pytest.raises(DfdetectError, match="random numbers that are neither those of"),
        DistributedContext(rank=0, world_size=2).global_batch(4),
    ):
        model(torch.ones(2, 3, 8, 8))


def test_global_batch_shares_what_dropout_draws():
    torch.manual_seed(0)
    whole = torch.nn.Dropout(0.5)(torch.ones(4, 5))
    for rank in range(2):
        torch.manual_seed(0)
        context = DistributedContext(rank, world_size=2)
        with context.global_batch(4):
            part = torch.nn.Dropout(0.5)(torch.ones(2, 5))
        assert torch.equal(part, context.shard(whole))


@pytest.mark.slow
def test_step_of_two_processes_equals_one_process(tmp_path):
    """The step is the same even if one process gets more images than the other."""
    script = tmp_path / "compare.py"
    script.write_text(COMPARISON)
    subprocess.run(torchrun(script, 2), check=True)


@pytest.mark.slow
def test_train_with_two_processes_gives_the_losses_of_one(runs):
    _, alone, together = runs
    assert len(losses(together)) == 4
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    output = together.with_name("output.txt").read_text()
    assert output.count("faces of held-out actors") == 1
    assert together.is_file()
    assert not together.with_suffix(".state.pt").exists()


@pytest.mark.slow
def test_train_resumes_a_stopped_run_with_one_process(runs):
    face_set, alone, together = runs
    stopped = together.with_name("stopped.safetensors")
    state = torch.load(stopped.with_suffix(".state.pt"), weights_only=True)
    assert 1 <= len(state["history"]) < 4
    assert main(train(face_set, stopped, "--resume")) == 0
    assert losses(stopped) == pytest.approx(losses(alone), abs=1e-4)
