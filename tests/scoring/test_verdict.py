import numpy as np

from dfdetect.scoring.verdict import fit_operating_points


def test_fit_operating_points_lets_the_stated_shares_exceed():
    probabilities = np.random.default_rng(0).random(1000)
    points = fit_operating_points(probabilities, np.ones(1000))
    assert (probabilities > points.uncertain).sum() == 50
    assert (probabilities > points.fake).sum() == 10


def test_fit_operating_points_weighs_sources():
    probabilities = np.array([0.1] * 90 + [0.9] * 10)
    assert fit_operating_points(probabilities, np.ones(100)).uncertain == 0.9
    # The ten high videos are from one of fifty sources, which has 2 % of the weight.
    weights = np.array([0.98 / 90] * 90 + [0.02 / 10] * 10)
    points = fit_operating_points(probabilities, weights)
    assert (points.uncertain, points.fake) == (0.1, 0.9)
