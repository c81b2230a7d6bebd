import numpy as np
import pytest

from dfdetect.scoring.aggregation import Aggregation, Calibration, fit_calibration


def test_one_fake_person_makes_a_fake_video():
    rule = Aggregation()
    real, fake = rule.person_logit(np.full(32, -3.0)), rule.person_logit(np.full(32, 2.0))
    assert rule.video_logit([real, fake]) == rule.video_logit([fake]) == 2.0
    assert rule.probability(rule.video_logit([real])) < 0.1


def test_clear_frames_outweigh_undecided_ones():
    logits = np.array([4.0, 0.1, -0.1, 0.0])
    assert Aggregation().person_logit(logits) == pytest.approx(1.0)


def test_probabilities_keep_their_distance_from_0_and_1():
    probabilities = Aggregation(floor=0.02).probability(np.array([-1e9, -1, 0, 1, 1e9]))
    assert probabilities[0] == 0.02
    assert probabilities[-1] == 0.98
    assert probabilities[2] == 0.5
    assert probabilities[3] == pytest.approx(1 / (1 + np.exp(-1)))
    assert np.all(np.diff(probabilities) > 0)


def test_calibration_mends_overconfidence():
    generator = np.random.default_rng(0)
    true_logits = generator.normal(0, 2, 20_000)
    labels = generator.random(20_000) < 1 / (1 + np.exp(-true_logits))
    fitted = fit_calibration(3 * true_logits + 1, labels.astype(int))
    assert fitted.scale == pytest.approx(1 / 3, rel=0.05)
    assert fitted.bias == pytest.approx(-1 / 3, abs=0.05)


def test_calibration_does_not_learn_the_class_balance():
    generator = np.random.default_rng(0)
    logits = np.concatenate([generator.normal(-1, 1, 1000), generator.normal(1, 1, 9000)])
    labels = np.repeat([0, 1], [1000, 9000])
    assert fit_calibration(logits, labels).apply(0.0) == pytest.approx(0, abs=0.15)


def test_calibration_of_tiny_logits():
    logits = 1e-6 * np.array([-3.0, -1.0, 0.5, -0.5, 1.0, 3.0])
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = Aggregation().probability(fit_calibration(logits, labels).apply(logits))
    assert probabilities[0] < 0.3
    assert probabilities[-1] > 0.7


def test_a_few_crops_told_apart_perfectly_make_nothing_certain():
    few = fit_calibration(np.array([-0.1, 0.1]), np.array([0, 1])).apply([-0.1, 0.1])
    many = fit_calibration(np.repeat([-0.1, 0.1], 500), np.repeat([0, 1], 500)).apply([0.1])
    probabilities = Aggregation().probability(few)
    assert 0.6 < probabilities[1] < 0.75  # Platt's target for one crop is 2/3
    assert Aggregation().probability(many)[0] > 0.95
    with pytest.raises(ValueError, match="both REAL and FAKE"):
        fit_calibration(np.array([0.1, 0.2]), np.array([1, 1]))


def test_calibration_refuses_to_turn_answers_round():
    with pytest.raises(ValueError, match="positive scale"):
        fit_calibration(np.array([2.0, 1.5, -1.0, -2.0, 0.3, 0.1]), np.array([0, 0, 1, 1, 1, 0]))


@pytest.mark.parametrize("values", [{"scale": 0}, {"scale": float("nan")}, {"bias": float("inf")}])
def test_impossible_calibrations(values):
    with pytest.raises(ValueError, match="positive scale and finite"):
        Calibration(**values)


@pytest.mark.parametrize("values", [{"video": "mean"}, {"person": "vote"}, {"floor": 0.6}])
def test_unknown_aggregations(values):
    with pytest.raises(ValueError, match=r"unknown aggregation|floor"):
        Aggregation(**values)


def test_the_soft_maximum_lies_between_mean_and_maximum():
    logits = np.array([-2.0, -1.0, 0.5, 3.0])
    values = [
        Aggregation("soft_maximum", sharpness=sharpness, window=1).person_logit(logits)
        for sharpness in (1e-6, 0.5, 1, 2, 1e6)
    ]
    assert values == sorted(values)
    assert values[0] == pytest.approx(logits.mean(), abs=1e-4)
    assert values[2] == pytest.approx(np.log(np.mean(np.exp(logits))))
    assert values[-1] == pytest.approx(3.0, abs=1e-4)


def test_smoothing_tells_a_stretch_from_single_frames():
    rule = Aggregation("soft_maximum", sharpness=2.0, window=3)
    stretch, scattered = np.full(20, -2.0), np.full(20, -2.0)
    stretch[5:9] = 3
    scattered[[2, 7, 12, 17]] = 3
    assert rule.person_logit(stretch) > rule.person_logit(scattered) + 1
    assert rule.person_logit(np.array([0.7])) == pytest.approx(0.7)
    assert rule.person_logit(np.array([0.7, 0.7])) == pytest.approx(0.7)


@pytest.mark.parametrize("setting", [{"sharpness": 0.0}, {"window": 0}, {"window": 2.5}])
def test_impossible_soft_maxima_are_refused(setting):
    with pytest.raises(ValueError, match="sharpness and window must be above 0"):
        Aggregation("soft_maximum", **setting)
