import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dfdetect import Detector, VideoResult, load_detector
from dfdetect.cli import main
from dfdetect.evaluation.evaluate import evaluate
from dfdetect.results import OperatingPoints
from dfdetect.runtime import engines

# Keys of the JSON on which other programs rely.
PROMISED = {
    *("n", "fake_fraction", "log_loss", "auc", "average_precision", "eer", "tpr_at_1_fpr"),
    *("tpr_at_5_fpr", "accuracy", "balanced_accuracy", "constant_log_loss"),
}


@pytest.fixture(scope="module")
def quick():
    """Return a fast detector."""
    return load_detector("logistic_regression", device="cpu")


@pytest.fixture
def two_sets(face_set, tmp_path):
    """Return face sets of two sources, which use the same names for their videos and scenes."""
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = np.where(np.arange(48) < 24, "studio", "street")
    table["kind"] = np.where(table["label"] == "FAKE", "swap", "")
    table["video"] = [f"{number // 2}.mp4" for number in range(24)] * 2
    table["track"] = table["frame"] = "0"
    table["pair"] = [f"scene{number // 2}" for number in range(24)] * 2
    for name, part in (("one", table[:24]), ("two", table[24:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
        (tmp_path / name).symlink_to(face_set.with_suffix(""))
    return [tmp_path / "one.csv", tmp_path / "two.csv"]


def test_evaluate_several_face_sets_together(two_sets, quick):
    result = evaluate(two_sets, weights=quick)
    assert (result.metrics.n, result.tracks, result.crops) == (48, 48, 48)
    votes = result.each_source_one_vote
    assert (votes.real_sources, votes.fake_sources, votes.pairs) == (2, 2, 24)
    assert votes.found_by_kind == {"swap": votes.found_rate}
    low, high = votes.intervals["auc"]
    assert low <= votes.auc <= high


def test_evaluate_keeps_its_json_contract(two_sets, capsys):
    options = ["--weights", "logistic_regression", "--fake-share", "0.8075"]
    assert main(["evaluate", *map(str, two_sets), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= PROMISED
    assert set(found["frame_level"]) >= PROMISED
    assert set(found["sources"]) == {"studio", "street"}
    for source in found["sources"].values():
        assert set(source) >= PROMISED
        assert source["label"] == {"REAL": 12, "FAKE": 12}
    votes = found["each_source_one_vote"]
    assert {"auc", "false_alarm_rate", "found_rate", "found_swap", "pairs"} <= set(votes)
    assert {"auc", "false_alarm_rate", "found_rate", "found_swap"} <= set(votes["intervals"])
    assert set(found["intervals"]) >= PROMISED - {"n", "fake_fraction", "constant_log_loss"}
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name
    assert found["reweighted"]["constant_accuracy"] == 0.8075
    assert len(found["answers"]) == 48


def test_evaluate_takes_a_detector_as_it_is(face_set, quick):
    assert (
        evaluate(face_set, weights=quick).to_dict()
        == evaluate(face_set, weights="logistic_regression", device="cpu").to_dict()
    )


def test_evaluate_takes_one_folder_of_videos_at_a_time(face_set, tmp_path):
    with pytest.raises(ValueError, match="only face sets can be measured together"):
        evaluate([face_set, tmp_path])


def test_evaluate_judges_crops_by_themselves_too(face_set, quick):
    table = pd.read_csv(face_set, dtype=str)
    table["video"] = [f"{number % 24}.mp4" for number in range(48)]
    table["track"], table["frame"] = "0", np.arange(48)
    table.to_csv(face_set, index=False)
    result = evaluate(face_set, weights=quick)
    assert (result.metrics.n, result.frame_level.n) == (24, 48)
    assert "auc" in result.frame_level.intervals
    assert "each crop by itself" in str(result)


def test_evaluate_gives_each_source_its_figures(face_set, tmp_path, quick):
    table = pd.read_csv(face_set, dtype=str)
    table["source"] = ["studio"] * 12 + ["street"] * 36
    table.to_csv(face_set, index=False)
    result = evaluate(face_set, weights=quick, plots=tmp_path / "plots")
    assert {name: one.n for name, one in result.sources.items()} == {"studio": 12, "street": 36}
    expected = [result.sources[name].auc for name in ("studio", "street")]
    assert result.auc_within_sources == pytest.approx(np.average(expected, weights=[1, 3]))
    assert "studio" in str(result)
    written = pd.read_csv(tmp_path / "plots" / "scores.csv")
    assert written["source"].value_counts()["street"] == 36


def test_evaluate_without_sources_has_no_votes(face_set, quick):
    found = evaluate(face_set, weights=quick).to_dict()
    assert found["sources"] == {}
    assert found["auc_within_sources"] is None
    assert "each_source_one_vote" not in found


def test_evaluate_measures_subgroups(face_set, quick):
    table = pd.read_csv(face_set, dtype=str)
    table["native_px"] = ["20"] * 20 + ["200"] * 28
    table.to_csv(face_set, index=False)
    result = evaluate(face_set, weights=quick, subgroups=True)
    assert result.subgroups["small"].n == 20
    assert "dark" not in result.subgroups
    assert "small" in str(result)


def test_evaluate_reports_the_thresholds_of_the_checkpoint(face_set, quick):
    points = OperatingPoints(uncertain=0.0, fake=1.0)
    spec = type(quick.spec)(**{**vars(quick.spec), "operating_points": points})
    result = evaluate(face_set, weights=Detector(quick.model, spec, quick.device))
    uncertain, fake = (result.operating_points[name] for name in ("uncertain", "fake"))
    assert (uncertain.false_alarms, uncertain.false_alarm_rate) == (24, 1)
    assert (fake.found, fake.found_rate) == (0, 0)
    assert "above 0.000 (uncertain): 24 of 24 (100.0%) REAL, 24 of 24 (100.0%) FAKE" in str(result)
    assert result.to_dict()["operating_points"]["fake"]["threshold"] == 1


def test_evaluate_warns_of_the_faces_trained_on(face_set):
    index = face_set.rename(face_set.with_name("train.csv"))
    face_set.with_suffix("").rename(index.with_suffix(""))
    with pytest.warns(UserWarning, match="was trained on a face set of this name"):
        evaluate(index, weights="logistic_regression")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"val": [0.1, "faces.csv"]}, "chosen or calibrated"),
        ({"calibrated_on": ["faces.csv"]}, "chosen or calibrated"),
        ({"texture": {"faces": ["faces.csv"], "val": [0.1]}}, "was trained"),
        ({"texture": {"faces": ["a.csv"], "val": ["faces.csv"]}}, "chosen or calibrated"),
    ],
)
def test_evaluate_warns_of_all_faces_that_a_checkpoint_was_fitted_on(
    face_set, quick, training, message
):
    spec = replace(quick.spec, training=training)
    with pytest.warns(UserWarning, match=f"{message}.* on a face set of this name"):
        evaluate(face_set, weights=Detector(quick.model, spec, quick.device))


def test_evaluate_warns_of_the_faces_of_each_member_of_an_ensemble(face_set):
    detector = load_detector(["simple_cnn_1", "simple_cnn_2"], device="cpu")
    first, second = detector.spec.members
    second = replace(second, training={"calibrated_on": [face_set.name]})
    spec = replace(detector.spec, members=(first, second))
    with pytest.warns(UserWarning, match="chosen or calibrated on a face set of this name"):
        evaluate(face_set, weights=Detector(detector.model, spec, detector.device))


def test_evaluate_warns_of_few_actors(face_set, quick):
    table = pd.read_csv(face_set, dtype=str)
    table["actor_group"] = np.arange(len(table)) % 3
    table.to_csv(face_set, index=False)
    with pytest.warns(UserWarning, match="3 actors or videos are too few"):
        evaluate(face_set, weights=quick)


def test_evaluate_warns_of_few_actors_of_one_class(face_set, quick):
    table = pd.read_csv(face_set, dtype=str)
    fake = table["label"] == "FAKE"
    table["actor_group"] = np.where(fake, np.arange(len(table)) % 5, np.arange(len(table)) + 5)
    table.to_csv(face_set, index=False)
    with pytest.warns(UserWarning, match="5 actors or videos are too few.*at least 10 with REAL"):
        evaluate(face_set, weights=quick)


def test_evaluation_result_without_fakes_has_no_constant_average_precision(face_set, quick):
    table = pd.read_csv(face_set, dtype=str)
    table[table["label"] == "REAL"].to_csv(face_set, index=False)
    lines = str(evaluate(face_set, weights=quick)).splitlines()
    assert lines[2].split("  ")[-1] == "constant answer"
    assert "videos or single crops" in lines[2]
    assert "average precision" in [line.strip() for line in lines]
    assert "AUC" in [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fake_share": 2}, "fake_share must be strictly between 0 and 1, not 2"),
        ({"degrade": "wet"}, "degrade must be jpeg, half, dark, not 'wet'"),
        ({"frames": 8}, "a face set has no frames to sample"),
        ({"cluster": "local"}, "only videos are scored on a cluster"),
    ],
)
def test_evaluate_refuses_options_before_it_loads_anything(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path / "none.csv", weights="no-such-weights", **options)


def test_evaluate_refuses_a_share_of_fakes_for_one_class(face_set, quick, monkeypatch):
    monkeypatch.setattr(
        "dfdetect.evaluation.evaluate.score_face_set", None
    )  # the error comes before the scoring
    table = pd.read_csv(face_set, dtype=str)
    table[table["label"] == "REAL"].to_csv(face_set, index=False)
    with pytest.raises(ValueError, match="all labels are REAL, so fake_share has no use"):
        evaluate(face_set, weights=quick, fake_share=0.8)


def test_evaluate_refuses_plots_in_a_file_before_it_scores(face_set, quick, monkeypatch):
    monkeypatch.setattr("dfdetect.evaluation.evaluate.score_face_set", None)
    with pytest.raises(ValueError, match=r"scores\.csv: cannot be written"):
        evaluate(face_set, weights=quick, plots=face_set)


@pytest.mark.parametrize("options", [{"degrade": "jpeg"}, {"subgroups": True}])
def test_evaluate_refuses_what_videos_do_not_have(options, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").touch()
    with pytest.raises(ValueError, match="only face sets can be degraded or have subgroups"):
        evaluate(tmp_path, weights="no-such-weights", **options)


def test_evaluate_command_offers_ways_to_damage_crops(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "none.csv", "--degrade", "wet"])
    assert "'jpeg', 'half', 'dark'" in capsys.readouterr().err


def test_evaluate_counts_videos_without_a_score_with_the_prior(tmp_path, quick):
    for label in ("real", "fake"):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.mp4").write_text("no video")
    result = evaluate(tmp_path, weights=quick)
    assert result.without_score == result.metrics.n == 2
    assert result.tracks == result.crops == 0
    assert result.metrics.log_loss == pytest.approx(np.log(2))
    assert "2 without a score" in str(result)


def test_evaluate_uses_all_gpus_and_one_decoder_thread_per_video(tmp_path, monkeypatch):
    others = [torch.device("cpu", 0)] * 2  # for torch, they differ from "cpu"
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
    assert evaluate(tmp_path).metrics.n == 6
    assert Counter(used) == {(torch.device("cpu"), 1): 2, (others[0], 1): 4}


def test_evaluate_scores_face_sets_on_all_gpus(face_set, quick, monkeypatch):
    expected = evaluate(face_set, weights=quick).answers.probabilities
    others = [torch.device("cpu", 0)] * 2  # for torch, they differ from "cpu"
    monkeypatch.setattr("dfdetect.runtime.executor.other_gpus", lambda device: others)
    monkeypatch.setattr("dfdetect.evaluation.answers.BATCH", 8)
    used = []
    frame_logits = Detector.frame_logits

    def note(self, clips):
        used.append((self.device, len(clips)))
        return frame_logits(self, clips)

    monkeypatch.setattr(Detector, "frame_logits", note)
    found = evaluate(face_set, weights=quick).answers.probabilities
    assert Counter(used) == {(quick.device, 8): 2, (others[0], 8): 4}
    assert found == pytest.approx(expected, abs=1e-4)


def test_evaluation_result_begins_with_what_a_user_reads_first(face_set, quick):
    lines = str(evaluate(face_set, weights=quick)).splitlines()
    assert lines[0].startswith("48 videos or single crops, 50.0% FAKE")
    titles = ["AUC", "false alarms", "found (FAKE above 0.5)", "calibration error"]
    for line, title in zip(lines[3 : 3 + len(titles)], titles, strict=True):
        assert line.startswith(title)
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    assert accuracy.endswith("0.500")  # the constant answer


@pytest.mark.corpus
@pytest.mark.slow
def test_evaluate_keeps_the_promise_of_the_default_detector(corpus, monkeypatch):
    # For so many crops, it pays to compile the network for the fastest engine.
    monkeypatch.setattr(engines, "PAYS_AFTER", 0)
    result = evaluate(corpus / "dfdc_faces" / "val.csv")
    assert result.metrics.n == 2000
    assert result.metrics.auc >= 0.90
    assert result.metrics.log_loss <= 0.40
    low, high = result.metrics.intervals["auc"]
    assert low < result.metrics.auc < high
