import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from dfdetect import Detector, VideoResult
from dfdetect.cli import main
from dfdetect.data.faceset import FaceSet
from dfdetect.evaluation.evaluate import evaluate, report, score_face_set


def test_face_sets_are_scored_in_order(detector, face_set):
    faces = FaceSet.read(face_set)
    table = score_face_set(detector, faces, progress=False)
    assert table["name"].tolist() == faces.table["id"].tolist()
    single = detector.predict_faces([faces.image(20)])[0]
    assert table["probability"][20] == pytest.approx(single, abs=1e-5)


def test_the_crops_of_a_track_count_as_one(detector, face_set):
    table = pd.read_csv(face_set, dtype=str)
    table.loc[[0, 2, 4], ["video", "track", "frame"]] = [["a", "0", n] for n in "210"]
    table.to_csv(face_set, index=False)
    faces = FaceSet.read(face_set)
    scored = score_face_set(detector, faces, progress=False)
    assert len(scored) == 46
    (expected,) = detector.predict_clips([[faces.image(row) for row in (4, 2, 0)]])
    assert scored["probability"].iloc[-1] == pytest.approx(expected, abs=1e-5)


def test_score_face_set_gives_one_answer_a_video(detector, face_set):
    table = pd.read_csv(face_set, dtype=str)
    table[["video", "track", "frame"]] = ""
    # One video with two tracks, and a fake that was made from it.
    table.loc[[0, 2, 4, 6, 1], "video"] = "a.mp4"
    table.loc[[0, 2, 4, 6, 1], "track"] = ["0", "0", "1", "1", "0"]
    table.loc[[0, 2, 4, 6, 1], "frame"] = list("01010")
    table.to_csv(face_set, index=False)
    faces = FaceSet.read(face_set)
    scored = score_face_set(detector, faces, progress=False).set_index(["name", "label"])
    assert len(scored) == 45
    assert scored.loc[("a.mp4", "REAL"), ["videos", "tracks", "crops"]].tolist() == [1, 2, 4]
    assert scored.loc[("a.mp4", "FAKE"), ["videos", "tracks", "crops"]].tolist() == [1, 1, 1]
    assert scored["videos"].sum() == 2
    logits = detector.frame_logits(
        [[faces.image(row) for row in rows] for rows in ((0, 2), (4, 6))]
    )
    aggregation = detector.spec.aggregation
    expected = aggregation.probability(aggregation.video_logit(logits))
    assert scored.loc[("a.mp4", "REAL"), "probability"] == pytest.approx(expected, abs=1e-5)


def test_evaluate_several_face_sets_together(face_set, tmp_path, capsys):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = np.where(np.arange(48) < 24, "studio", "street")
    table["kind"] = np.where(table["label"] == "FAKE", "swap", "")
    # The same names of videos and scenes in both sets; they are not the same videos and scenes.
    table["video"] = [f"{number // 2}.mp4" for number in range(24)] * 2
    table["track"] = table["frame"] = "0"
    table["pair"] = [f"scene{number // 2}" for number in range(24)] * 2
    for name, part in (("one", table[:24]), ("two", table[24:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
        (tmp_path / name).symlink_to(face_set.with_suffix(""))
    together = [tmp_path / "one.csv", tmp_path / "two.csv"]
    scores = evaluate(together, progress=False)
    assert (scores["n"], scores["videos"], scores["tracks"], scores["crops"]) == (48, 48, 48, 48)
    votes = scores["each_source_one_vote"]
    assert (votes["real_sources"], votes["fake_sources"], votes["pairs"]) == (2, 2, 24)
    assert votes["found_swap"] == votes["found_rate"]
    low, high = votes["intervals"]["auc"]
    assert low <= votes["auc"] <= high
    text = report(scores)
    assert "each source one vote" in text
    assert "pairs_in_order" in text
    assert main(["evaluate", *map(str, together), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(report(scores, as_json=True))


def test_evaluate_takes_one_folder_of_videos_at_a_time(face_set, tmp_path):
    with pytest.raises(ValueError, match="only face sets are measured together"):
        evaluate([face_set, tmp_path], progress=False)


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
    assert len(scores["items"]) == 48
    assert scores["items"][0]["name"] == "000"
    assert scores["items"][0]["source"] == "studio"
    assert scores["sources"]["studio"]["label"] == {"REAL": 6, "FAKE": 6}
    assert json.loads(report(scores, as_json=True))["reweighted"]["constant_accuracy"] == 0.8075
    written = pd.read_csv(tmp_path / "plots" / "scores.csv")
    assert written["source"].value_counts()["street"] == 36


def test_subgroups_are_measured_apart(face_set):
    table = pd.read_csv(face_set, dtype=str)
    table["native_px"] = ["80"] * 20 + ["200"] * 28
    table.to_csv(face_set, index=False)
    scores = evaluate(face_set, subgroups=True, progress=False)
    assert scores["subgroups"]["small"]["n"] == 20
    # The crops are no faces.
    assert scores["subgroups"]["profile"]["n"] == 48
    assert "other" not in scores["subgroups"]
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


def test_videos_without_a_score_count_with_the_prior(tmp_path):
    for label in ("real", "fake"):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.mp4").write_text("no video")
    scores = evaluate(tmp_path, progress=False)
    assert scores["without_score"] == scores["n"] == 2
    assert scores["log_loss"] == pytest.approx(np.log(2))
    assert "without_score        2" in report(scores)


def test_evaluate_uses_all_gpus_and_one_decoder_thread_per_video(tmp_path, monkeypatch):
    others = [torch.device("cpu", 0)] * 2  # stand-ins that differ for torch
    monkeypatch.setattr("dfdetect.runtime.executor.other_gpus", lambda device: others)
    used = []

    def note(self, path):
        used.append((self.device, self.decoders.threads))
        return VideoResult(path=path, name=path.name, probability=0.5)

    monkeypatch.setattr(Detector, "predict", note)
    for label in ("real", "fake"):
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{label}{number}.mp4").write_text("a video")
    assert evaluate(tmp_path, progress=False)["n"] == 6
    assert Counter(used) == {(torch.device("cpu"), 1): 2, (others[0], 1): 4}


@pytest.mark.corpus
def test_the_default_detector_keeps_its_promise(corpus):
    scores = evaluate(corpus / "dfdc_faces" / "val.csv", progress=False)
    assert scores["n"] == 2000
    assert scores["auc"] >= 0.90
    assert scores["log_loss"] <= 0.40
    low, high = scores["intervals"]["auc"]
    assert low < scores["auc"] < high
