import json

import numpy as np
import pytest

from dfdetect.evaluation.evaluate import report
from dfdetect.evaluation.metrics import (
    SourceVotes,
    auc_within,
    bootstrap_intervals,
    calibration_error,
    metrics,
    reweighted_metrics,
    vote_weights,
    voted_metrics,
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


def test_sources_with_one_class_have_no_part_in_the_auc_within():
    one, none = {"n": 4, "auc": 0.75}, {"n": 9, "auc": float("nan")}
    assert auc_within({"a": one, "b": none}) == 0.75
    assert np.isnan(auc_within({"b": none}))


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


def test_vote_weights_give_each_class_one_half_and_each_source_the_same():
    labels = np.array([0, 0, 0, 1, 1, 1])
    sources = np.array(["a", "a", "b", "a", "c", "c"])
    weights = vote_weights(labels, sources)
    assert weights.tolist() == [0.125, 0.125, 0.25, 0.25, 0.125, 0.125]
    assert vote_weights(labels[:3], sources[:3]).tolist() == [0.25, 0.25, 0.5]


def test_voted_metrics_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([0.1, 0.7, 0.2, 0.6, 0.9, 0.3])
    sources = np.array(["a", "a", "b", "a", "c", "c"])
    kinds = np.array(["", "", "", "swap", "talking", "talking"])
    scenes = np.array(["s", "s", "", "s", "t", ""])
    scores = voted_metrics(labels, probabilities, sources, kinds, scenes)
    assert (scores["real_sources"], scores["fake_sources"]) == (2, 2)
    assert scores["false_alarm_rate"] == 0.25
    assert scores["found_rate"] == 0.75
    assert scores["found_swap"] == 1
    assert scores["found_talking"] == 0.5
    assert scores["balanced_accuracy"] == 0.75
    # One scene has both classes; 0.6 is above one of two.
    assert (scores["pairs"], scores["pairs_in_order"]) == (1, 0.5)
    # 0.6 (half of FAKE) is above 3/4 of REAL, 0.9 (a quarter) above all, 0.3 (a quarter) above 3/4.
    assert scores["auc"] == pytest.approx(0.5 * 0.75 + 0.25 + 0.25 * 0.75)


def test_voted_metrics_of_one_class_say_what_they_can():
    scores = voted_metrics(np.zeros(2, int), np.array([0.2, 0.9]), np.array(["a", "b"]))
    assert scores["false_alarm_rate"] == 0.5
    assert np.isnan(scores["auc"])
    assert np.isnan(scores["found_rate"])


def test_source_votes_intervals_draw_whole_sources():
    labels = np.tile([0, 1], 40)
    sources = np.repeat(list("abcdefgh"), 10)
    # Two sources of eight are wrong throughout.
    wrong = np.isin(sources, ["a", "b"])
    probabilities = np.where((labels == 1) ^ wrong, 0.9, 0.1)
    votes = SourceVotes(labels, probabilities, sources)
    assert votes.metrics() == voted_metrics(labels, probabilities, sources)
    assert votes.metrics()["found_rate"] == pytest.approx(0.75)
    low, high = votes.intervals(rounds=200)["found_rate"]
    assert low <= 0.5
    assert high == 1
    assert votes.intervals(rounds=200)["found_rate"] == (low, high)


def test_source_votes_count_a_source_as_often_as_it_is_drawn():
    labels = np.array([0, 0, 1, 1])
    votes = SourceVotes(labels, np.array([0.9, 0.1, 0.9, 0.1]), np.array(["a", "b", "a", "b"]))
    assert votes.metrics(np.array([3, 1]))["false_alarm_rate"] == 0.75
