import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from dfdetect.evaluation.metrics import (
    auc_within,
    bootstrap_intervals,
    calibration_error,
    metrics,
    reweighted_metrics,
    vote_weights,
    voted_metrics,
)


def test_metrics_by_hand():
    scores = metrics(np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.4, 0.8, 0.9]))
    assert scores.n == 5
    assert scores.fake_fraction == pytest.approx(0.6)
    expected = -np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean()
    assert scores.log_loss == pytest.approx(expected)
    assert scores.auc == pytest.approx(5 / 6)
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.constant_accuracy == pytest.approx(0.6)
    assert scores.constant_log_loss == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))


def test_metrics_of_a_constant_answer_at_the_balance_of_the_study():
    labels = np.repeat([0, 1], [77, 323])
    scores = metrics(labels, np.full(400, 0.8075))
    assert scores.accuracy == scores.constant_accuracy == pytest.approx(0.8075)
    assert scores.balanced_accuracy == scores.auc == 0.5
    assert scores.log_loss == scores.constant_log_loss == pytest.approx(0.4898, abs=1e-4)


def test_metrics_of_one_class_have_no_auc():
    scores = metrics(np.ones(4, int), np.array([0.6, 0.7, 0.8, 0.4]))
    assert np.isnan(scores.auc)
    assert np.isnan(scores.false_alarm_rate)
    assert scores.found_rate == 0.75


def test_calibration_error():
    labels = np.tile([0, 1], 500)
    assert calibration_error(labels, np.full(1000, 0.5)) == pytest.approx(0)
    assert calibration_error(labels, np.full(1000, 0.9)) == pytest.approx(0.4)
    assert calibration_error(np.ones(3), np.full(3, 1.0)) == 0


def test_metrics_at_all_thresholds():
    labels = np.repeat([0, 1], 100)
    # One of 100 REAL items is as high as most FAKE items, and 40 of 100 FAKE items are low.
    probabilities = np.concatenate([[0.9], np.full(99, 0.2), np.full(60, 0.9), np.full(40, 0.2)])
    scores = metrics(labels, probabilities)
    assert scores.tpr_at_1_fpr == scores.tpr_at_5_fpr == pytest.approx(0.6)
    assert scores.average_precision == pytest.approx(0.6 * 60 / 61 + 0.4 * 0.5)
    # On the line of the ROC curve from (0.01, 0.6) to (1, 1), both error rates are equal here.
    assert scores.eer == pytest.approx(0.01 + 0.99 * 0.39 / 1.39)


def test_metrics_agree_with_scikit_learn():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 300)
    probabilities = generator.integers(1, 20, 300) / 20  # so that many are equal
    sources = generator.integers(0, 7, 300).astype(str)
    scores = metrics(labels, probabilities)
    assert scores.auc == pytest.approx(roc_auc_score(labels, probabilities))
    assert scores.average_precision == pytest.approx(average_precision_score(labels, probabilities))
    assert scores.log_loss == pytest.approx(log_loss(labels, probabilities))
    weights = {"sample_weight": vote_weights(labels, sources)}
    voted = voted_metrics(labels, probabilities, sources)
    assert voted.auc == pytest.approx(roc_auc_score(labels, probabilities, **weights))
    assert voted.log_loss == pytest.approx(log_loss(labels, probabilities, **weights))


def test_metrics_eer_of_a_perfect_and_of_a_constant_answer():
    labels = np.tile([0, 1], 10)
    assert metrics(labels, np.where(labels == 1, 0.9, 0.1)).eer == 0
    constant = metrics(labels, np.full(20, 0.7))
    assert constant.eer == constant.average_precision == 0.5
    assert constant.tpr_at_5_fpr == 0


def test_metrics_intervals_hold_the_value_and_widen_with_fewer_groups():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400)
    probabilities = np.clip(0.5 + 0.2 * (labels - 0.5) + generator.normal(0, 0.2, 400), 0.01, 0.99)
    many = metrics(labels, probabilities, groups=np.arange(400))
    few = metrics(labels, probabilities, groups=np.arange(400) // 40)
    for name in ("auc", "average_precision", "eer", "log_loss", "found_rate"):
        low, high = many.intervals[name]
        assert low < getattr(many, name) < high, name
    # Draws nearly always have a higher error or a better best threshold than the data.
    assert not {"calibration_error", "best_accuracy"} & set(many.intervals)
    for one in (many, few):
        low, high = one.intervals["auc"]
        assert low < one.auc < high
    low, high = many.intervals["auc"]
    assert 0.02 < high - low < 0.2
    assert metrics(labels, probabilities, groups=np.arange(400)) == many
    assert "intervals" not in metrics(labels, probabilities).to_dict()


def test_metrics_intervals_of_one_class_leave_out_what_needs_both():
    scores = metrics(np.ones(3, int), np.array([0.6, 0.4, 0.7]), groups=np.arange(3))
    assert "found_rate" in scores.intervals
    assert not {"auc", "eer", "balanced_accuracy", "false_alarm_rate"} & set(scores.intervals)


def test_bootstrap_intervals_draw_as_many_groups_as_there_are():
    low, high = bootstrap_intervals(lambda times: {"drawn": times.sum()}, 7, rounds=20)["drawn"]
    assert low == high == 7


def test_auc_within_leaves_out_sources_with_one_class():
    labels = np.array([0, 0, 1, 1])
    one = metrics(labels, np.array([0.1, 0.5, 0.4, 0.9]))
    none = metrics(np.ones(9, int), np.full(9, 0.5))
    assert auc_within({"a": one, "b": none}) == one.auc == 0.75
    assert np.isnan(auc_within({"b": none}))


def test_reweighted_metrics_count_each_class_by_its_share():
    labels = np.array([0, 0, 1, 1, 1, 1])
    sure = np.array([0.01, 0.99, 0.99, 0.99, 0.99, 0.01])
    scores = reweighted_metrics(labels, sure, 0.8)
    assert scores.accuracy == pytest.approx(0.8 * 3 / 4 + 0.2 * 1 / 2)
    undecided = reweighted_metrics(labels, np.full(6, 0.5), 0.8)
    assert undecided.accuracy == undecided.constant_accuracy == pytest.approx(0.8)
    assert undecided.log_loss == pytest.approx(undecided.constant_log_loss)
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
    assert (scores.real_sources, scores.fake_sources) == (2, 2)
    assert scores.false_alarm_rate == 0.25
    assert scores.found_rate == 0.75
    assert scores.found_by_kind["swap"] == 1
    assert scores.found_by_kind["talking"] == 0.5
    assert scores.balanced_accuracy == 0.75
    # One scene has both classes. Its FAKE item (0.6) is above one of its two REAL items.
    assert (scores.pairs, scores.pairs_in_order) == (1, 0.5)
    # The FAKE items 0.6, 0.9 and 0.3 have 1/2, 1/4 and 1/4 of the weight of FAKE. They are above
    # 3/4, all and 3/4 of the weight of REAL.
    assert scores.auc == pytest.approx(0.5 * 0.75 + 0.25 + 0.25 * 0.75)


def test_voted_metrics_of_one_class_say_what_they_can():
    scores = voted_metrics(np.zeros(2, int), np.array([0.2, 0.9]), np.array(["a", "b"]))
    assert scores.false_alarm_rate == 0.5
    assert np.isnan(scores.auc)
    assert np.isnan(scores.found_rate)


def test_voted_metrics_intervals_draw_whole_sources():
    labels = np.tile([0, 1], 40)
    sources = np.repeat(list("abcdefgh"), 10)
    # All answers for two of the eight sources are wrong.
    wrong = np.isin(sources, ["a", "b"])
    probabilities = np.where((labels == 1) ^ wrong, 0.9, 0.1)
    scores = voted_metrics(labels, probabilities, sources, intervals=True)
    assert scores.found_rate == pytest.approx(0.75)
    low, high = scores.intervals["found_rate"]
    assert low <= 0.5
    assert high == pytest.approx(1)
    assert voted_metrics(labels, probabilities, sources, intervals=True) == scores
    assert voted_metrics(labels, probabilities, sources).intervals == {}


def test_voted_metrics_to_dict_names_each_kind():
    labels, kinds = np.array([0, 1]), np.array(["", "swap"])
    found = voted_metrics(labels, np.array([0.2, 0.8]), np.array(["a", "b"]), kinds).to_dict()
    assert found["found_swap"] == 1
    assert "found_by_kind" not in found
    assert "intervals" not in found


def test_voted_metrics_interval_of_the_log_loss_comes_from_draws_of_both_classes():
    labels = np.array([0, 1])
    scores = voted_metrics(labels, np.array([0.1, 0.2]), np.array(["a", "b"]), intervals=True)
    assert scores.intervals["log_loss"] == pytest.approx((scores.log_loss, scores.log_loss))
    real = voted_metrics(
        np.zeros(2, int), np.array([0.1, 0.2]), np.array(["a", "b"]), intervals=True
    )
    low, high = real.intervals["log_loss"]
    assert low < real.log_loss < high


def test_reweighted_metrics_find_as_many_fakes_at_a_false_alarm_rate():
    labels = np.repeat([0, 1], 100)
    probabilities = np.concatenate([np.linspace(0.1, 0.6, 100), np.linspace(0.3, 0.9, 100)])
    plain = metrics(labels, probabilities)
    weighted = reweighted_metrics(labels, probabilities, 0.375)
    assert weighted.tpr_at_1_fpr == pytest.approx(plain.tpr_at_1_fpr)
    assert weighted.tpr_at_5_fpr == pytest.approx(plain.tpr_at_5_fpr)


def test_metrics_at_the_best_threshold():
    scores = metrics(np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.55, 0.8, 0.9]))
    assert scores.accuracy == pytest.approx(4 / 5)
    assert scores.best_accuracy == pytest.approx(4 / 5)
    shifted = metrics(np.array([0, 0, 1, 1]), np.array([0.6, 0.7, 0.8, 0.9]))
    assert (shifted.accuracy, shifted.best_accuracy) == (0.5, 1.0)
    assert shifted.best_threshold == 0.8
    # If FAKE items are below REAL items, it is best to call nothing FAKE.
    wrong = metrics(np.array([0, 0, 1]), np.array([0.6, 0.7, 0.2]))
    assert (wrong.best_accuracy, wrong.best_threshold) == (pytest.approx(2 / 3), 1.0)
