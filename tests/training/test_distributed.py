"""Training in two or three processes on this machine, which torchrun starts."""

import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import torch

from dfdetect import DfdetectError
from dfdetect.cli import main
from dfdetect.training.distributed import DistributedContext

SMALL = ["--input-size", "64", "--batch-size", "6", "--device", "cpu"]
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
    images = torch.randn(8, 3, 8, 8)
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


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    """Let Gloo use the loopback interface, because the machine's name may have no address."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def torchrun(processes, *command):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *start, *map(str, command)]


def train(face_set, out, *options):
    """Return the arguments with which `dfdetect` trains a small model."""
    return ["train", "--faces", str(face_set), "--out", str(out), *SMALL, *options]


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
def test_step_of_several_processes_equals_one_process(tmp_path):
    """The step is the same even if one process gets more images than another."""
    script = tmp_path / "compare.py"
    script.write_text(COMPARISON)
    subprocess.run(torchrun(3, script, 3), check=True)


@pytest.mark.slow
def test_train_with_several_processes_gives_the_losses_of_one(face_set, tmp_path):
    """The network has dropout, and its rounding errors do not grow over 24 steps."""
    options = ["simple_cnn_2", "--epochs", "4", "--drop-rate", "0.2"]
    alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    assert main(train(face_set, alone, *options)) == 0
    run = subprocess.run(
        torchrun(2, "-m", "dfdetect", *train(face_set, together, *options)),
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.count("faces of held-out actors") == 1
    expected, found = (pd.read_csv(path.with_suffix(".history.csv")) for path in (alone, together))
    assert len(found) == 4
    columns = ["train_loss", "log_loss", "auc"]
    assert found[columns].to_numpy() == pytest.approx(expected[columns].to_numpy(), abs=1e-4)
    assert together.is_file()
    assert not together.with_suffix(".state.pt").exists()


@pytest.mark.slow
def test_train_resumes_a_killed_run_with_one_process(face_set, tmp_path):
    options = ["simple_cnn_2", "--epochs", "12", "--patience", "12"]
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    assert main(train(face_set, whole, *options)) == 0
    history = killed.with_suffix(".history.csv")
    command = torchrun(2, "-m", "dfdetect", *train(face_set, killed, *options))
    with subprocess.Popen(command) as run:
        while not killed.with_suffix(".state.pt").exists():
            assert run.poll() is None
            time.sleep(0.01)
        # If only torchrun was killed, the processes that it started would continue to train.
        for process in psutil.Process(run.pid).children(recursive=True):
            process.kill()
        run.kill()
    done = len(pd.read_csv(history))
    assert 1 <= done < 12
    assert main(train(face_set, killed, *options, "--resume")) == 0
    columns = ["epoch", "train_loss", "log_loss"]
    expected, found = (
        pd.read_csv(path)[columns].to_numpy()
        for path in (whole.with_suffix(".history.csv"), history)
    )
    assert found == pytest.approx(expected, abs=1e-3)
