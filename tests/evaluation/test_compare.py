import pandas as pd
import pytest

from dfdetect.checkpoints.weights import find_weights
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.compare import compare, compared_architectures, draw, to_markdown
from dfdetect.training.linear import STRENGTHS


@pytest.fixture(autouse=True)
def few_crops_and_fits(monkeypatch):
    """No test asks how fast a detector is, or which penalty suits a linear model."""
    monkeypatch.setattr("dfdetect.evaluation.compare.SPEED_CROPS", 8)
    for name in STRENGTHS:
        monkeypatch.setitem(STRENGTHS, name, STRENGTHS[name][-1:])


@pytest.fixture
def quick_default(monkeypatch):
    """Measure a small network in place of the default detector."""
    small = find_weights("simple_cnn_2")
    monkeypatch.setattr("dfdetect.evaluation.compare.find_weights", lambda: small)


@pytest.fixture
def sets(face_set, tmp_path):
    """Return the indexes of two face sets, which are one face set divided by its actors."""
    faces = FaceSet.read(face_set)
    for name, part in zip(("train", "val"), faces.split(0.4), strict=True):
        (tmp_path / name).symlink_to(face_set.with_suffix(""))
        part.table.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path / "train.csv", tmp_path / "val.csv"


@pytest.mark.slow
def test_compare_trains_measures_and_writes(sets, tmp_path):
    train, val = sets
    out = tmp_path / "weights"
    names = ("logistic_regression", "linear_svm")
    table = compare([train], val=val, out=out, val_clips=val, architectures=names)
    assert table.index.tolist() == [*names, "default detector"]
    assert (table["auc_low"] <= table["auc"]).all()
    assert (table["auc"] <= table["auc_high"]).all()
    assert table["parameters"].tolist()[:2] == [769, 769]
    assert table["parameters"].iloc[2] > 3e6
    assert (table["study_balance_constant"] == 0.8075).all()
    assert table["clips_auc"].tolist() == table["auc"].tolist()
    read = pd.read_csv(out / "comparison.csv", index_col="detector")
    assert read["auc"].tolist() == pytest.approx(table["auc"].tolist())
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    lines = (out / "comparison.md").read_text().splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert "0.833" in lines[2]  # the study's own figure for logistic regression


@pytest.mark.slow
def test_compare_does_not_train_existing_checkpoints(sets, tmp_path, quick_default):
    train, val = sets
    out = tmp_path / "weights"
    options = {"architectures": ("logistic_regression",)}
    first = compare([train], val=val, out=out, **options)
    checkpoint = out / "logistic_regression.safetensors"
    stamp = checkpoint.stat().st_mtime_ns
    again = compare([train], val=val, out=out, **options)
    assert checkpoint.stat().st_mtime_ns == stamp
    assert again["log_loss"].tolist() == first["log_loss"].tolist()
    assert "min |" in to_markdown(first)
    assert len(draw(first).axes) == 2


@pytest.mark.slow
def test_compare_keeps_the_rows_of_earlier_runs(sets, tmp_path, quick_default):
    train, val = sets
    out = tmp_path / "weights"
    first = compare([train], val=val, out=out, architectures=["linear_svm"])
    both = compare([train], val=val, out=out, architectures=["logistic_regression"])
    assert both.index.tolist() == ["logistic_regression", "linear_svm", "default detector"]
    kept = both.loc["linear_svm", ["auc", "log_loss", "input"]]
    assert kept.tolist() == first.loc["linear_svm", ["auc", "log_loss", "input"]].tolist()


def test_compare_trains_what_the_default_detector_was_not_trained_with():
    names = compared_architectures()
    assert names[:2] == ["logistic_regression", "linear_svm"]
    assert sorted(names[7:]) == ["simple_cnn_2", "tf_efficientnet_lite0", "xception_srm"]


def test_compare_refuses_unknown_architectures_before_it_trains(sets, tmp_path):
    train, val = sets
    names = ["logistic_regression", "no_such_network"]
    with pytest.raises(ArgumentError, match="unknown architecture 'no_such_network'"):
        compare([train], val=val, out=tmp_path / "weights", architectures=names)
    assert not list(tmp_path.glob("weights/*"))


def test_compare_refuses_to_measure_on_training_faces(sets, tmp_path):
    train, _ = sets
    with pytest.raises(FaceSetError, match="actor groups are also in the training faces"):
        compare([train], val=train, out=tmp_path / "weights")
    assert not list((tmp_path / "weights").glob("*.safetensors"))


def test_compare_refuses_to_measure_on_one_class_before_it_trains(sets, tmp_path):
    train, val = sets
    table = pd.read_csv(val, dtype=str)
    table[table["label"] == "REAL"].to_csv(val, index=False)
    with pytest.raises(FaceSetError, match=r"val\.csv: no FAKE crops"):
        compare([train], val=val, out=tmp_path / "weights")
    assert not list((tmp_path / "weights").glob("*.safetensors"))


@pytest.mark.slow
def test_compare_refuses_checkpoints_of_other_faces(sets, tmp_path, quick_default):
    train, val = sets
    out = tmp_path / "weights"
    options = {"architectures": ("logistic_regression",)}
    compare([train], val=val, out=out, **options)
    (tmp_path / "other").symlink_to(tmp_path / "train")
    train.rename(tmp_path / "other.csv")
    with pytest.raises(ValueError, match=r"trained on \['train.csv'\] instead of \['other.csv'\]"):
        compare([tmp_path / "other.csv"], val=val, out=out, **options)
