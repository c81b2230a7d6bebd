from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from dfdetect import load_detector
from dfdetect.checkpoints.io import load_checkpoint
from dfdetect.cli import main
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.errors import DfdetectError, InputError
from dfdetect.kaggle.submission import check_submission
from dfdetect.models.registry import list_recipes, model_info
from dfdetect.scoring.calibration import Calibration
from dfdetect.training import learner, trainer
from dfdetect.training.config import TrainConfig, recipe
from dfdetect.training.distributed import ONE_PROCESS, DistributedContext
from dfdetect.training.judging import Judge
from dfdetect.training.learner import Learner
from dfdetect.training.run import RunState
from dfdetect.training.split import read_split
from dfdetect.training.trainer import train
from tests.conftest import make_face_set

TINY = TrainConfig(
    "test_efficientnet", input_size=32, epochs=3, patience=3, batch_size=8, learning_rate=3e-3
)


def make_other_actors(folder):
    """Write a face set of other actors than those of `make_face_set`, and return its index."""
    (folder / "val").mkdir()
    index = make_face_set(folder / "val")
    table = pd.read_csv(index, dtype=str)
    for image in index.with_suffix("").iterdir():
        image.rename(image.with_name(f"v{image.name}"))
    table["id"], table["actor_group"] = "v" + table["id"], "v" + table["actor_group"]
    table.to_csv(index, index=False)
    return index


def run(face_set, out, config=TINY, val=0.25, workers=0, **options):
    return train(config, [face_set], out, val=val, workers=workers, progress=False, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train while another process reads the crops; the other tests read them in their process."""
    folder = tmp_path_factory.mktemp("trained")
    out = folder / "tiny.safetensors"
    return out, run(make_face_set(folder), out, workers=1)


def test_train_learns_a_visible_difference(trained, face_set):
    out, spec = trained
    assert spec.scores["held_out_actors"]["auc"] > 0.9
    faces = FaceSet.read(face_set)
    probabilities = load_detector(out).predict_faces([faces.image(row) for row in range(48)])
    assert probabilities[faces.labels == 1].mean() > probabilities[faces.labels == 0].mean() + 0.2


def test_train_writes_how_the_checkpoint_was_made(trained):
    out, spec = trained
    assert load_checkpoint(out)[1] == spec
    training = spec.training
    assert training["faces"] == ["faces.csv"]
    assert (training["val"], training["seed"], training["epochs"]) == ([0.25], 0, 3)
    assert training["crops"] == 36
    assert training["actor_groups"] == 9
    assert training["sources"] == []
    assert training["date"].startswith("20")
    assert spec.scores["held_out_actors"]["n"] == 12
    history = pd.read_csv(out.with_suffix(".history.csv"), index_col="epoch")
    assert history.index.tolist() == [1, 2, 3]
    assert spec.training["best"] == {"epoch": history["choosing_loss"].idxmin()}
    assert out.with_suffix(".history.png").read_bytes().startswith(b"\x89PNG")
    assert not out.with_suffix(".state.pt").exists()


@pytest.mark.slow
def test_train_leaves_out_actors_of_the_held_out_face_set(face_set, tmp_path):
    faces = FaceSet.read(face_set)
    folder = tmp_path / "val"
    folder.mkdir()
    for row in range(8, 24):
        cv2.imwrite(str(folder / f"v{row}.png"), faces.image(row))
    table = faces.table.iloc[8:24]
    table = table.assign(id=[f"v{row}" for row in range(8, 24)])
    table.to_csv(folder.with_suffix(".csv"), index=False)
    with pytest.warns(UserWarning, match="show actors of this face set and are left out"):
        split = read_split([face_set], [folder.with_suffix(".csv")], seed=0)
    assert set(split.train.groups).isdisjoint(split.held_out.groups)
    assert len(split.held_out) == 16
    assert split.reconstructions is None
    with pytest.raises(FaceSetError, match="12 of its actor groups are also"):
        read_split([face_set], face_set, seed=0)


def test_train_sets_thresholds_on_20_real_videos_or_more(face_set, trained, tmp_path):
    assert load_checkpoint(trained[0])[1].operating_points is None  # 6 REAL videos
    val = make_other_actors(tmp_path)
    out = tmp_path / "many.safetensors"
    points = run(face_set, out, replace(TINY, epochs=1), val=val).operating_points
    assert points.fakes["people"]["videos"] == 24
    assert load_checkpoint(out)[1].operating_points == points


def test_train_warns_if_it_can_set_no_thresholds(face_set, tmp_path):
    with pytest.warns(UserWarning, match="no verdicts, because 6 REAL videos can set no"):
        run(face_set, tmp_path / "few.safetensors", replace(TINY, epochs=1))


def test_train_grows_crops_from_the_start_size():
    config = TrainConfig("simple_cnn_1", epochs=9, start_size=100, input_size=160)
    sizes = [config.crop_size(epoch) for epoch in range(9)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (96, 160)
    assert sizes.count(160) >= 3
    assert TrainConfig("simple_cnn_1", input_size=64).crop_size(0) == 64


@pytest.mark.slow
def test_train_twice_gives_the_same_weights(trained, face_set, tmp_path):
    again = tmp_path / "again.safetensors"
    run(face_set, again)
    assert again.read_bytes() == trained[0].read_bytes()


@pytest.mark.slow
def test_train_resumes_an_interrupted_run_to_the_same_end(trained, face_set, tmp_path, monkeypatch):
    out = tmp_path / "stopped.safetensors"
    judge = Judge.judge
    calls = []

    def stop_in_the_second_epoch(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(Judge, "judge", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(face_set, out)
    assert out.with_suffix(".state.pt").exists()
    assert not out.exists()
    best = load_checkpoint(tmp_path / "stopped.best.safetensors")[1]
    assert best.training["best"] == {"epoch": 1}
    assert best.scores["held_out_actors"]["n"] == 12
    monkeypatch.setattr(Judge, "judge", judge)
    with pytest.raises(DfdetectError, match=r"settings, learning_rate 0\.003, not 0\.001: use"):
        run(face_set, out, replace(TINY, learning_rate=1e-3), resume=True)
    run(face_set, out, resume=True)
    assert out.read_bytes() == trained[0].read_bytes()
    assert len(pd.read_csv(out.with_suffix(".history.csv"))) == 3
    assert not list(tmp_path.glob("*.best.*"))


@pytest.mark.slow
def test_train_resumes_within_an_epoch(trained, face_set, tmp_path, monkeypatch):
    out = tmp_path / "stopped.safetensors"
    step, steps = Learner.step, []

    def stop_within_the_second_epoch(learner, *batch):
        steps.append(learner.schedule.last_epoch)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return step(learner, *batch)

    monkeypatch.setattr(learner, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(Learner, "step", stop_within_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(face_set, out)
    assert len(pd.read_csv(out.with_suffix(".history.csv"))) == 1
    run(face_set, out, resume=True)
    assert steps[5:9] == [5, 6, 6, 7]
    assert out.read_bytes() == trained[0].read_bytes()
    histories = (path.with_suffix(".history.csv") for path in (out, trained[0]))
    expected, found = (pd.read_csv(path).drop(columns="seconds") for path in histories)
    pd.testing.assert_frame_equal(expected, found)


def test_restore_skips_the_empty_state_of_a_device_that_does_not_scale_the_loss(tmp_path):
    class Scaler:
        def load_state_dict(self, state):
            raise AssertionError

    path = tmp_path / "model.state.pt"
    torch.save({"run": {}, "scaler": {}, "history": [], "best": None, "losses": [0.5]}, path)
    learner = SimpleNamespace(parts={"scaler": Scaler()}, losses=[])
    RunState(path, {}, resume=True).restore(SimpleNamespace(context=ONE_PROCESS), learner)
    assert learner.losses == [0.5]


def test_train_refuses_to_resume_other_settings(face_set, tmp_path):
    out = tmp_path / "model.safetensors"
    torch.save({"run": {"seed": 99}}, out.with_suffix(".state.pt"))
    with pytest.raises(ValueError, match="with other settings"):
        run(face_set, out, resume=True)


def test_train_does_not_overwrite_a_stopped_run(face_set, tmp_path):
    out = tmp_path / "model.safetensors"
    out.with_suffix(".state.pt").write_bytes(b"hours of work")
    # The error comes before the images are read, because reading them takes long.
    (face_set.with_suffix("") / "020.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="resume this run, or delete"):
        run(face_set, out)
    assert out.with_suffix(".state.pt").read_bytes() == b"hours of work"


@pytest.mark.parametrize("content", [b"", b"hours of work", b"PK\x03\x04 cut off"])
def test_train_names_a_damaged_state_of_a_stopped_run(face_set, tmp_path, content):
    out = tmp_path / "model.safetensors"
    out.with_suffix(".state.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.state\.pt: damaged, so the run"):
        run(face_set, out, resume=True)


@pytest.mark.slow
def test_train_warns_of_a_model_that_learnt_nothing(face_set, tmp_path, monkeypatch):
    config = replace(TINY, epochs=1)
    monkeypatch.setattr(trainer, "predict_logits", lambda _, faces, *rest: np.zeros(len(faces)))
    with pytest.warns(UserWarning, match="on held-out actors, no better than a constant answer"):
        run(face_set, tmp_path / "lazy.safetensors", config)


def test_train_fits_a_linear_model_in_one_process_only(face_set, tmp_path, monkeypatch):
    two = nullcontext((DistributedContext(0, 2, 2), torch.device("cpu")))
    monkeypatch.setattr(trainer, "init_distributed", lambda device: two)
    (face_set.with_suffix("") / "020.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="is fitted by one process; start it without torchrun"):
        run(face_set, tmp_path / "x.safetensors", recipe("linear_svm"))


def test_train_refuses_val_of_the_same_actors(face_set, tmp_path):
    with pytest.raises(FaceSetError, match="actor groups are also in the training faces"):
        train(TINY, [face_set], tmp_path / "x.safetensors", val=face_set, progress=False)


def test_train_refuses_one_class(face_set, tmp_path):
    rows = face_set.read_text().splitlines()
    face_set.write_text("\n".join(row for row in rows if "FAKE" not in row))
    with pytest.raises(FaceSetError, match="no FAKE crops"):
        run(face_set, tmp_path / "x.safetensors")


def test_train_does_not_repeat_a_finished_run(trained, face_set):
    out, _ = trained
    before = out.read_bytes()
    for resume in (False, True):
        with pytest.raises(ValueError, match="exists; delete it"):
            run(face_set, out, resume=resume)
    assert out.read_bytes() == before


def test_train_leaves_the_face_set_beside_the_checkpoint_alone(face_set):
    before = face_set.read_bytes()
    run(face_set, face_set.with_suffix(".safetensors"), replace(TINY, epochs=1))
    assert face_set.read_bytes() == before


@pytest.mark.slow
def test_train_writes_crop_rule_and_licence(face_set, tmp_path):
    config = replace(TINY, epochs=1, crop_scale=1.3, crop_shift=0.0, licence="CC0-1.0")
    spec = run(face_set, tmp_path / "wide.safetensors", config)
    assert (spec.crop.scale, spec.crop.shift, spec.licence) == (1.3, 0.0, "CC0-1.0")


@pytest.mark.slow
def test_train_takes_different_architectures(narrow_vgg):
    """VGG has no stochastic depth, and EfficientFormer has two heads."""
    for name in ("vgg11", "efficientformer_l1"):
        config = replace(TINY, architecture=name, epochs=1, input_size=224, batch_size=2)
        assert trainer.start_model(config, None)(torch.zeros(2, 3, 224, 224)).shape == (2, 1)


def test_train_refuses_sizes_that_an_architecture_cannot_take(face_set, tmp_path):
    config = replace(TINY, architecture="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="cannot take inputs of 32 pixels"):
        run(face_set, tmp_path / "x.safetensors", config)


def test_train_stops_when_it_diverges(face_set, tmp_path):
    with pytest.raises(DfdetectError, match=r"diverged in epoch .* lower learning_rate"):
        run(face_set, tmp_path / "x.safetensors", replace(TINY, learning_rate=1e30))


@pytest.mark.slow
def test_train_stops_when_it_no_longer_gets_better(face_set, tmp_path, monkeypatch):
    losses = iter([0.6, 0.5, 0.7, 0.8, 0.4])

    def judge(*_):
        loss = next(losses)
        scores = {"choosing_loss": loss, "log_loss": loss, "constant_log_loss": 0.69}
        return Calibration(), scores

    monkeypatch.setattr(Judge, "judge", judge)
    out = tmp_path / "early.safetensors"
    spec = run(face_set, out, replace(TINY, epochs=5, patience=2))
    assert len(pd.read_csv(out.with_suffix(".history.csv"))) == 4
    assert spec.training["best"] == {"epoch": 2}


@pytest.mark.parametrize("architecture", list_recipes())
@pytest.mark.slow
def test_train_two_steps_of_each_architecture(
    architecture, face_set, tmp_path, sample_data, narrow_vgg, short_xception
):
    """Each is trained for two steps, saved, loaded by the command line and used on a video."""
    small = {"input_size": 64, "epochs": 1, "batch_size": 4, "epoch_crops": 8, "seed": 1}
    if architecture == "xception_srm":  # this model takes no smaller images
        small |= {"input_size": 256, "batch_size": 2, "epoch_crops": 4}
    out = tmp_path / f"{architecture}.safetensors"
    spec = run(face_set, out, recipe(architecture, **small), val=0.1)
    assert spec.frames_per_clip == model_info(architecture).recipe.get("frames_per_clip", 1)
    if not model_info(architecture).closed_form:
        assert len(pd.read_csv(out.with_suffix(".history.csv"))) == 1
    submission = tmp_path / "submission.csv"
    clip = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    options = ["--weights", str(out), "--frames", "2", "--out", str(submission)]
    assert main(["predict", str(clip), *options]) == 0
    assert len(check_submission(submission, [clip.name])) == 1


@pytest.mark.parametrize(
    "architecture", [pytest.param("linear_svm", marks=pytest.mark.slow), "logistic_regression"]
)
def test_train_keeps_linear_models_as_tensors(architecture, face_set, tmp_path):
    out = tmp_path / "linear.safetensors"
    spec = run(face_set, out, recipe(architecture))
    assert spec.scores["held_out_actors"]["auc"] > 0.9
    history = pd.read_csv(out.with_suffix(".history.csv"), index_col="C")
    assert spec.training["best"]["C"] == history["choosing_loss"].idxmin()
    assert set(load_file(out)) == {"head.weight", "head.bias"}
    faces = FaceSet.read(face_set)
    probabilities = load_detector(out).predict_faces([faces.image(row) for row in range(48)])
    assert roc_auc_score(faces.labels, probabilities) > 0.9


def test_train_names_an_unreadable_image_before_it_starts(face_set, tmp_path):
    (face_set.with_suffix("") / "020.png").write_bytes(b"no image")
    with pytest.raises(FaceSetError, match=r"the image of id '020' cannot be decoded"):
        run(face_set, tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("architecture", ["simple_cnn_1", "vgg11"])
def test_train_names_an_option_that_an_architecture_lacks(face_set, tmp_path, architecture):
    with pytest.raises(ValueError, match=f"{architecture} has no such option"):
        run(face_set, tmp_path / "x.safetensors", recipe(architecture, drop_path_rate=0.1))


def test_train_refuses_what_a_linear_model_cannot_use(face_set, tmp_path):
    config = recipe("linear_svm")
    with pytest.raises(ValueError, match="give its face sets no weights"):
        run(face_set, tmp_path / "x.safetensors", config, weights=[(1, 2)])
    table = pd.read_csv(face_set, dtype=str)
    table["kind"] = np.where(table["label"] == "FAKE", "reconstruction", "")
    table.to_csv(face_set, index=False)
    with pytest.raises(FaceSetError, match=r"faces\.csv: no FAKE crops among 24"):
        run(face_set, tmp_path / "x.safetensors", config, val=make_other_actors(tmp_path))


def test_train_does_not_mix_up_clips_and_images(face_set, tmp_path):
    with pytest.raises(ValueError, match="cnn_lstm takes clips"):
        run(face_set, tmp_path / "x.safetensors", recipe("cnn_lstm", frames_per_clip=1))
    with pytest.raises(ValueError, match="takes single crops"):
        run(face_set, tmp_path / "x.safetensors", recipe("simple_cnn_1", frames_per_clip=4))


@pytest.mark.slow
def test_train_with_mixed_precision_on_the_cpu(face_set, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "has_fast_half", lambda device: True)
    spec = run(face_set, tmp_path / "mixed.safetensors", replace(TINY, precision="mixed"))
    assert spec.scores["held_out_actors"]["auc"] > 0.9


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"patience": 0},
        {"batch_size": 1},
        {"batch_size": 7},
        {"learning_rate": 0.0},
        {"label_smoothing": 2.0},
        {"drop_rate": 1.0},
        {"precision": "double"},
        {"augmentation": "wild"},
        {"lr_scaling": "random"},
        {"aggregation": "median"},
        {"self_blend_share": 1.0},
        {"ema_decay": -1.0},
    ],
)
def test_train_config_refuses_unusable_settings(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        replace(TINY, **setting)


@pytest.mark.slow
def test_train_writes_the_aggregation_of_frames(face_set, tmp_path):
    config = replace(TINY, epochs=1, aggregation="soft_maximum")
    assert run(face_set, tmp_path / "soft.safetensors", config).aggregation.frames == "soft_maximum"


@pytest.mark.slow
def test_train_by_inputs_starts_at_one_half(face_set, tmp_path):
    heads = []
    for rates in ("equal", "by_inputs"):
        out = tmp_path / f"{rates}.safetensors"
        run(face_set, out, replace(TINY, epochs=1, learning_rate=1e-8, lr_scaling=rates))
        heads.append(load_checkpoint(out)[0].get_classifier().weight.abs().max())
    assert heads[0] > 1e-3 > heads[1]


def test_train_warns_of_a_split_without_actors(face_set, tmp_path):
    pd.read_csv(face_set, dtype=str)[["id", "label"]].to_csv(face_set, index=False)
    with pytest.warns(UserWarning, match="no column 'actor_group'"):
        run(face_set, tmp_path / "x.safetensors", replace(TINY, epochs=1))


def test_read_split_warns_of_unknown_actors_beside_reconstructions(face_set, tmp_path):
    made = make_other_actors(tmp_path)
    table = pd.read_csv(made, dtype=str)
    fake = table["label"] == "FAKE"
    table[fake].assign(kind="reconstruction").to_csv(made, index=False)
    pd.read_csv(face_set, dtype=str)[["id", "label"]].to_csv(face_set, index=False)
    with pytest.warns(UserWarning, match="no column 'actor_group'"):
        read_split([face_set, made], 0.25, 0)


@pytest.mark.slow
def test_train_with_averaged_weights_and_blended_fakes(face_set, tmp_path):
    options = {"ema_decay": 0.9, "self_blend_share": 0.25, "augmentation": "strong"}
    plain = run(face_set, tmp_path / "plain.safetensors", replace(TINY, epochs=2))
    spec = run(face_set, tmp_path / "rich.safetensors", replace(TINY, epochs=2, **options))
    assert {name: spec.training[name] for name in options} == options
    assert spec.scores != plain.scores
