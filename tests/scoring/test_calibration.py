import numpy as np
import pytest

from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration, fit_calibration


def test_calibration_corrects_overconfidence():
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


def test_calibration_of_few_separable_items_is_not_certain():
    few = fit_calibration(np.array([-0.1, 0.1]), np.array([0, 1])).apply([-0.1, 0.1])
    many = fit_calibration(np.repeat([-0.1, 0.1], 500), np.repeat([0, 1], 500)).apply([0.1])
    probabilities = Aggregation().probability(few)
    assert 0.6 < probabilities[1] < 0.75  # Platt's target for one crop is 2/3
    assert Aggregation().probability(many)[0] > 0.95
    with pytest.raises(ValueError, match=r"both REAL and FAKE .* no REAL ones, add"):
        fit_calibration(np.array([0.1, 0.2]), np.array([1, 1]))


def test_calibration_refuses_to_swap_the_classes():
    with pytest.raises(ValueError, match=r"positive scale, .*: check the labels"):
        fit_calibration(np.array([2.0, 1.5, -1.0, -2.0, 0.3, 0.1]), np.array([0, 0, 1, 1, 1, 0]))


@pytest.mark.parametrize("values", [{"scale": 0}, {"scale": float("nan")}, {"bias": float("inf")}])
def test_calibration_refuses_impossible_numbers(values):
    with pytest.raises(ValueError, match="positive scale and finite"):
        Calibration(**values)
