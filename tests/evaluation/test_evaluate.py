import json

import numpy as np
import pandas as pd
import pytest

from dfdetect.data.faceset import FaceSet
from dfdetect.evaluation.evaluate import (
    auc_within,
    bootstrap_intervals,
    calibration_error,
    evaluate,
    metrics,
    report,
    reweighted_metrics,
    score_face_set,
)


def test_metrics_of_a_small_example():
    scores = metrics(np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.4, 0.8, 0.9]))
    assert scores["n"] == 5
    assert scores["fake_fraction"] == pytest.approx(0.6)
    expected = -np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean()
    assert scores["log_loss"] == pytest.approx(expected)
    assert scores["auc"] == pytest.approx(5 / 6)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["constant_accuracy"] == pytest.approx(0.6)
    assert scores["constant_log_loss"] == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))


def test_the_studys_balance_makes_accuracy_worthless():
    labels = np.repeat([0, 1], [77, 323])
    scores = metrics(labels, np.full(400, 0.8075))
    assert scores["accuracy"] == scores["constant_accuracy"] == pytest.approx(0.8075)
    assert scores["balanced_accuracy"] == scores["auc"] == 0.5
    assert scores["log_loss"] == scores["constant_log_loss"] == pytest.approx(0.4898, abs=1e-4)


def test_one_class_has_no_auc():
    scores = metrics(np.ones(4, int), np.array([0.6, 0.7, 0.8, 0.4]))
    assert np.isnan(scores["auc"])
    assert json.loads(report({**scores, "intervals": {}}, as_json=True))["auc"] is None


def test_calibration_error():
    labels = np.tile([0, 1], 500)
    assert calibration_error(labels, np.full(1000, 0.5)) == pytest.approx(0)
    assert calibration_error(labels, np.full(1000, 0.9)) == pytest.approx(0.4)
    assert calibration_error(np.ones(3), np.full(3, 1.0)) == 0


def test_intervals_hold_the_value_and_widen_with_fewer_groups():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400)
    probabilities = np.clip(0.5 + 0.2 * (labels - 0.5) + generator.normal(0, 0.2, 400), 0.01, 0.99)
    value = metrics(labels, probabilities)["auc"]
    many = bootstrap_intervals(labels, probabilities, np.arange(400), rounds=300)["auc"]
    few = bootstrap_intervals(labels, probabilities, np.arange(400) // 40, rounds=300)["auc"]
    assert many[0] < value < many[1]
    assert few[0] < value < few[1]
    assert 0.02 < many[1] - many[0] < 0.2
    again = bootstrap_intervals(labels, probabilities, np.arange(400), rounds=300)["auc"]
    assert again == many


def test_one_class_has_no_intervals():
    assert bootstrap_intervals(np.ones(3, int), np.full(3, 0.5), np.arange(3), rounds=10) == {}


def test_face_sets_are_scored_in_order(detector, face_set):
    faces = FaceSet.read(face_set)
    table = score_face_set(detector, faces, progress=False)
    assert table["name"].tolist() == faces.table["id"].tolist()
    single = detector.score_faces([faces.image(20)])[0]
    assert table["probability"][20] == pytest.approx(single, abs=1e-5)


def test_the_crops_of_a_track_count_as_one(detector, face_set):
    table = pd.read_csv(face_set, dtype=str)
    table.loc[[0, 2, 4], ["video", "track", "frame"]] = [["a", "0", n] for n in "210"]
    table.to_csv(face_set, index=False)
    faces = FaceSet.read(face_set)
    scored = score_face_set(detector, faces, progress=False)
    assert len(scored) == 46
    (expected,) = detector.score_clips([[faces.image(row) for row in (4, 2, 0)]])
    assert scored["probability"].iloc[-1] == pytest.approx(expected, abs=1e-5)


def test_each_source_has_its_figures(face_set, tmp_path):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = ["studio"] * 12 + ["street"] * 36
    table.to_csv(face_set, index=False)
    scores = evaluate(face_set, plots=tmp_path / "plots", fake_share=0.8075, progress=False)
    assert {name: one["n"] for name, one in scores["sources"].items()} == {
        "studio": 12,
        "street": 36,
    }
    text = report(scores)
    assert "studio" in text
    assert "street" in text
    expected = [scores["sources"][name]["auc"] for name in ("studio", "street")]
    assert scores["auc_within_sources"] == pytest.approx(np.average(expected, weights=[1, 3]))
    assert len(scores["clips"]) == 48
    assert scores["clips"]["000"]["source"] == "studio"
    assert json.loads(report(scores, as_json=True))["reweighted"]["constant_accuracy"] == 0.8075
    written = pd.read_csv(tmp_path / "plots" / "scores.csv")
    assert written["source"].value_counts()["street"] == 36


def test_sources_with_one_class_have_no_part_in_the_auc_within():
    one, none = {"n": 4, "auc": 0.75}, {"n": 9, "auc": float("nan")}
    assert auc_within({"a": one, "b": none}) == 0.75
    assert np.isnan(auc_within({"b": none}))


def test_slices_are_measured_apart(face_set):
    table = pd.read_csv(face_set, dtype=str)
    table["native_px"] = ["80"] * 20 + ["200"] * 28
    table.to_csv(face_set, index=False)
    scores = evaluate(face_set, slices=True, progress=False)
    assert scores["slices"]["small"]["n"] == 20
    # The crops are no faces.
    assert scores["slices"]["profile"]["n"] == 48
    assert "other" not in scores["slices"]
    assert "profile" in report(scores)


@pytest.mark.parametrize("how", ["jpeg", "half", "dark"])
def test_spoilt_crops_score_otherwise(detector, face_set, how):
    faces = FaceSet.read(face_set)
    clean = score_face_set(detector, faces, progress=False)["probability"]
    spoilt = score_face_set(detector, faces, progress=False, degrade=how)["probability"]
    assert spoilt.shape == clean.shape
    assert 0 < np.abs(spoilt - clean).mean() < 0.5


def test_measuring_on_the_faces_trained_on_is_called_out(face_set):
    index = face_set.rename(face_set.with_name("train.csv"))
    face_set.with_suffix("").rename(index.with_suffix(""))
    with pytest.warns(UserWarning, match="was trained on a face set of this name"):
        evaluate(index, progress=False)


def test_intervals_over_few_actors_are_called_out(face_set):
    table = pd.read_csv(face_set, dtype=str)
    table["actor_group"] = np.arange(len(table)) % 3
    table.to_csv(face_set, index=False)
    with pytest.warns(UserWarning, match="3 actors or videos are too few"):
        evaluate(face_set, progress=False)


def test_an_impossible_balance_is_refused_at_once(face_set):
    with pytest.raises(ValueError, match="fake share must be strictly between 0 and 1, not 2"):
        evaluate(face_set, fake_share=2, progress=False)


def test_unknown_ways_of_spoiling_are_refused(face_set, tmp_path):
    with pytest.raises(ValueError, match="degrade must be jpeg, half, dark, not 'wet'"):
        evaluate(face_set, degrade="wet", progress=False)


def test_reweighting_counts_each_class_by_its_share():
    labels = np.array([0, 0, 1, 1, 1, 1])
    sure = np.array([0.01, 0.99, 0.99, 0.99, 0.99, 0.01])
    scores = reweighted_metrics(labels, sure, 0.8)
    assert scores["accuracy"] == pytest.approx(0.8 * 3 / 4 + 0.2 * 1 / 2)
    undecided = reweighted_metrics(labels, np.full(6, 0.5), 0.8)
    assert undecided["accuracy"] == undecided["constant_accuracy"] == pytest.approx(0.8)
    assert undecided["log_loss"] == pytest.approx(undecided["constant_log_loss"])
    with pytest.raises(ValueError, match="both classes"):
        reweighted_metrics(np.ones(3, int), np.full(3, 0.5), 0.8)


def test_videos_without_a_score_count_with_the_prior(tmp_path):
    for label in ("real", "fake"):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.mp4").write_text("no video")
    scores = evaluate(tmp_path, progress=False)
    assert scores["without_score"] == scores["n"] == 2
    assert scores["log_loss"] == pytest.approx(np.log(2))
    assert "without_score        2" in report(scores)


@pytest.mark.corpus
def test_the_default_detector_keeps_its_promise(corpus):
    scores = evaluate(corpus / "dfdc_faces" / "val.csv", progress=False)
    assert scores["n"] == 2000
    assert scores["auc"] >= 0.90
    assert scores["log_loss"] <= 0.40
    low, high = scores["intervals"]["auc"]
    assert low < scores["auc"] < high
