from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dfdetect.data.faceset import FaceSet
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.judging import CHOOSING, Judge


def held_out(*rows):
    """Return a face set without images, given the label, source and video of each crop."""
    table = pd.DataFrame(rows, columns=["label", "source", "video"])
    table["id"] = [f"{row:03}" for row in range(len(table))]
    table[["track", "frame"]] = 0
    table.loc[table["video"] == "", "video"] = None
    return FaceSet(table, [None] * len(table))


def test_judge_takes_the_mean_logit_of_a_track():
    faces = held_out(*[("REAL", "", "")] * 2, *[("FAKE", "", "a")] * 3)
    _, scores = Judge(faces, 1, Aggregation()).judge(np.array([-3, -2, -4, 3, 4.0]))
    assert scores["n"] == 3
    assert scores["auc"] == 1
    assert "sources_auc" not in scores


def test_judge_gives_each_source_one_vote_and_each_domain_one_half():
    faces = held_out(
        *[("REAL", "", "")] * 50,
        *[("FAKE", "", "")] * 50,
        *[("REAL", "large", "")] * 30,
        ("REAL", "small", ""),
        *[("FAKE", "other", "")] * 5,
    )
    logits = np.array([-2.0, 2.0] * 50)[np.argsort([0, 1] * 50, kind="stable")]
    logits = np.concatenate([logits, [-2.0] * 30, [2.0], [2.0] * 5])
    _, scores = Judge(faces, 1, Aggregation()).judge(logits)
    assert scores["n"] == 100
    assert scores["auc"] == 1
    assert scores["sources_false_alarm_rate"] == 0.5
    assert scores["sources_found_rate"] == 1
    halves = scores["log_loss"], scores["sources_log_loss"]
    assert scores[CHOOSING] == pytest.approx(np.mean(halves))


def test_judge_leaves_a_model_that_ranks_the_wrong_way_round_as_it_is():
    faces = held_out(*[("REAL", "", "")] * 4, *[("FAKE", "", "")] * 4)
    calibration, scores = Judge(faces, 1, Aggregation()).judge(np.array([1.0] * 4 + [-1.0] * 4))
    assert (calibration.scale, calibration.bias) == (1, 0)
    assert scores["auc"] == 0


def test_judge_combines_the_tracks_of_a_video():
    table = pd.DataFrame({"label": ["REAL"] * 5 + ["FAKE"], "video": ["a"] * 5 + ["b"]})
    table = table.assign(id=range(6), track=[0, 0, 0, 0, 1, 0], frame=range(6))
    faces = FaceSet(table, [None] * 6)
    logits = np.array([-3.0] * 4 + [9.0, 2.0])
    _, loud = Judge(faces, 1, Aggregation()).judge(logits)
    _, careful = Judge(faces, 1, Aggregation(min_track_share=0.5)).judge(logits)
    assert loud["n"] == careful["n"] == 2
    assert (loud["auc"], careful["auc"]) == (0, 1)


def test_judge_operating_points_are_thresholds_of_real_videos():
    faces = held_out(*[("REAL", "", "")] * 100, *[("FAKE", "", "")] * 10)
    judge = Judge(faces, 1, Aggregation())
    logits = np.linspace(-3, 3, 110)
    calibration, _ = judge.judge(logits)
    points = judge.operating_points(calibration, logits)
    real = judge.probabilities(calibration, logits)[:100]
    assert (real > points.uncertain).sum() == 5
    assert (real > points.fake).sum() == 1


def test_judge_operating_points_count_the_fakes_above_them():
    faces = held_out(
        *[("REAL", "", "")] * 50,
        *[("REAL", "a", "")] * 50,
        *[("FAKE", "", "")] * 2,
        *[("FAKE", "a", "")] * 4,
    )
    judge = Judge(faces, 1, Aggregation())
    logits = np.concatenate([np.linspace(-2, 2, 100), [-3, 3], [-3, 3, 3, 1.95]])
    points = judge.operating_points(Calibration(), logits)
    assert points.fakes == {
        "people": {"videos": 2, "uncertain": 1, "fake": 1},
        "sources": {"videos": 4, "uncertain": 3, "fake": 2},
    }


def test_judge_operating_points_take_a_source_as_new_if_it_was_not_trained_on():
    faces = held_out(*[("REAL", "a", "")] * 20, *[("FAKE", "a", "")] * 2, *[("FAKE", "b", "")] * 3)
    judge = Judge(faces, 1, Aggregation(), trained_sources=["a", ""])
    fakes = judge.operating_points(Calibration(), np.zeros(25)).fakes
    assert {new: counts["videos"] for new, counts in fakes.items()} == {"people": 2, "sources": 3}


def judge_of_real_videos(number):
    """Return a judge of `number` REAL videos with two crops each, and of a FAKE video."""
    real = [("REAL", "", f"r{video}") for video in range(number)] * 2
    return Judge(held_out(*real, ("FAKE", "", "f")), 1, Aggregation())


def test_judge_gives_no_operating_points_from_fewer_than_20_real_videos():
    judge = judge_of_real_videos(19)
    assert judge.operating_points(Calibration(), np.linspace(-1, 1, 39)) is None
    with pytest.warns(UserWarning, match="19 REAL videos can set no") as warned:
        judge.warn_if_few_real(Path("mine.safetensors"))
    assert str(warned[0].message) == (
        "mine.safetensors: will give no verdicts, because 19 REAL videos can set no thresholds; "
        "hold out or give 20 or more that were not trained on"
    )


@pytest.mark.filterwarnings("error")
def test_judge_gives_operating_points_from_20_real_videos():
    judge = judge_of_real_videos(20)
    assert judge.operating_points(Calibration(), np.linspace(-1, 1, 41)) is not None
    judge.warn_if_few_real(Path("mine.safetensors"))


def test_judge_combines_the_frames_of_clips_as_a_detector():
    rows = [("REAL", "", "a")] * 5 + [("FAKE", "", "b")] * 2
    table = pd.DataFrame(rows, columns=["label", "source", "video"])
    table = table.assign(id=[f"{row}" for row in range(7)], track=0, frame=[*range(5), 0, 1])
    judge = Judge(FaceSet(table, [None] * 7), 2, Aggregation())
    # The fourth crop of the first video is in two clips.
    logits = np.array([-1.0, -3.0, -5.0, 2.0])
    expected = np.mean([-1, -1, -3, -4, -5])
    probabilities = judge.probabilities(Calibration(), logits)
    assert probabilities == pytest.approx(Aggregation().probability([expected, 2.0]))


def test_judge_keeps_equal_names_of_scenes_in_two_face_sets_apart():
    sets = []
    for number in (0, 1):
        faces = held_out(("REAL", f"s{number}", ""), ("FAKE", f"s{number}", ""))
        faces.table["pair"], faces.table["id"] = "1", [f"{number}a", f"{number}b"]
        sets.append(faces)
    _, scores = Judge(FaceSet.join(sets), 1, Aggregation()).judge(np.array([-2.0, -1, 0, 1]))
    assert (scores["sources_pairs"], scores["sources_pairs_in_order"]) == (2, 1)


def test_judge_measures_all_videos_if_those_without_a_source_have_one_class():
    faces = held_out(*[("REAL", "studio", "")] * 3, *[("FAKE", "", "")] * 2)
    _, scores = Judge(faces, 1, Aggregation()).judge(np.array([-1.0, -2.0, -1.0, 1.0, 2.0]))
    assert scores["n"] == 5
    assert scores["auc"] == 1
    assert scores["constant_log_loss"] > 0.5


def test_judge_leaves_out_figures_that_cannot_be_computed():
    faces = held_out(("REAL", "a", ""), ("FAKE", "a", ""), ("REAL", "b", ""), ("FAKE", "b", ""))
    _, scores = Judge(faces, 1, Aggregation()).judge(np.array([-1.0, 1.0, -2.0, 2.0]))
    assert scores["sources_auc"] == 1
    assert "sources_pairs_in_order" not in scores
    assert np.isfinite(list(scores.values())).all()
