import numpy as np
import pytest

from dfdetect.scoring.aggregation import Aggregation


def test_one_fake_person_makes_a_fake_video():
    aggregation = Aggregation()
    real, fake = np.full(32, -3.0), np.full(32, 2.0)
    assert aggregation.video_logit([real, fake]) == aggregation.video_logit([fake]) == 2.0
    assert aggregation.probability(aggregation.video_logit([real])) < 0.1


def test_video_logit_ignores_tracks_of_few_frames():
    seen, glimpsed = np.full(32, -3.0), np.full(7, 2.0)
    assert Aggregation().video_logit([seen, glimpsed]) == 2.0
    careful = Aggregation(min_track_share=0.25)
    assert careful.video_logit([seen, glimpsed]) == -3.0
    assert careful.video_logit([seen, np.full(8, 2.0)]) == 2.0
    assert careful.video_logit([glimpsed]) == 2.0
    with pytest.raises(ValueError, match="min_track_share must be 0 to 1"):
        Aggregation(min_track_share=2)


def test_clear_frames_outweigh_undecided_ones():
    logits = np.array([4.0, 0.1, -0.1, 0.0])
    assert Aggregation().track_logit(logits) == pytest.approx(1.0)


def test_probabilities_keep_their_distance_from_0_and_1():
    probabilities = Aggregation(floor=0.02).probability(np.array([-1e9, -1, 0, 1, 1e9]))
    assert probabilities[0] == 0.02
    assert probabilities[-1] == 0.98
    assert probabilities[2] == 0.5
    assert probabilities[3] == pytest.approx(1 / (1 + np.exp(-1)))
    assert np.all(np.diff(probabilities) > 0)


@pytest.mark.parametrize("values", [{"tracks": "mean"}, {"frames": "vote"}, {"floor": 0.6}])
def test_unknown_aggregations(values):
    with pytest.raises(ValueError, match=r"unknown aggregation|floor"):
        Aggregation(**values)


def test_the_soft_maximum_lies_between_mean_and_maximum():
    logits = np.array([-2.0, -1.0, 0.5, 3.0])
    values = [
        Aggregation("soft_maximum", sharpness=sharpness, window=1).track_logit(logits)
        for sharpness in (1e-6, 0.5, 1, 2, 1e6)
    ]
    assert values == sorted(values)
    assert values[0] == pytest.approx(logits.mean(), abs=1e-4)
    assert values[2] == pytest.approx(np.log(np.mean(np.exp(logits))))
    assert values[-1] == pytest.approx(3.0, abs=1e-4)


def test_smoothing_tells_a_stretch_from_single_frames():
    aggregation = Aggregation("soft_maximum", sharpness=2.0, window=3)
    stretch, scattered = np.full(20, -2.0), np.full(20, -2.0)
    stretch[5:9] = 3
    scattered[[2, 7, 12, 17]] = 3
    assert aggregation.track_logit(stretch) > aggregation.track_logit(scattered) + 1
    assert aggregation.track_logit(np.array([0.7])) == pytest.approx(0.7)
    assert aggregation.track_logit(np.array([0.7, 0.7])) == pytest.approx(0.7)


@pytest.mark.parametrize("setting", [{"sharpness": 0.0}, {"window": 0}, {"window": 2.5}])
def test_impossible_soft_maxima_are_refused(setting):
    with pytest.raises(ValueError, match="sharpness and window must be above 0"):
        Aggregation("soft_maximum", **setting)
