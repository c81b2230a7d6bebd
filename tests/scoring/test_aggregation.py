import numpy as np
import pytest

from dfdetect.scoring.aggregation import Aggregation


def test_video_logit_is_that_of_the_most_suspicious_track():
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


def test_track_logit_lets_clear_frames_outweigh_undecided_ones():
    logits = np.array([4.0, 0.1, -0.1, 0.0])
    assert Aggregation().track_logit(logits) == pytest.approx(1.0)


def test_probability_keeps_its_distance_from_0_and_1():
    probabilities = Aggregation(floor=0.02).probability(np.array([-1e9, -1, 0, 1, 1e9]))
    assert probabilities[0] == 0.02
    assert probabilities[-1] == 0.98
    assert probabilities[2] == 0.5
    assert probabilities[3] == pytest.approx(1 / (1 + np.exp(-1)))
    assert np.all(np.diff(probabilities) > 0)


@pytest.mark.parametrize("values", [{"tracks": "mean"}, {"frames": "vote"}, {"floor": 0.6}])
def test_aggregation_refuses_unknown_rules(values):
    with pytest.raises(ValueError, match=r"unknown aggregation|floor"):
        Aggregation(**values)


def test_soft_maximum_lies_between_mean_and_maximum():
    logits = np.array([-2.0, -1.0, 0.5, 3.0])
    values = [
        Aggregation("soft_maximum", sharpness=sharpness, window=1).track_logit(logits)
        for sharpness in (1e-6, 0.5, 1, 2, 1e6)
    ]
    assert values == sorted(values)
    assert values[0] == pytest.approx(logits.mean(), abs=1e-4)
    assert values[2] == pytest.approx(np.log(np.mean(np.exp(logits))))
    assert values[-1] == pytest.approx(3.0, abs=1e-4)


def test_soft_maximum_tells_a_stretch_from_single_frames():
    aggregation = Aggregation("soft_maximum", sharpness=2.0, window=3)
    stretch, scattered = np.full(20, -2.0), np.full(20, -2.0)
    stretch[5:9] = 3
    scattered[[2, 7, 12, 17]] = 3
    assert aggregation.track_logit(stretch) > aggregation.track_logit(scattered) + 1
    assert aggregation.track_logit(np.array([0.7])) == pytest.approx(0.7)
    assert aggregation.track_logit(np.array([0.7, 0.7])) == pytest.approx(0.7)


@pytest.mark.parametrize("setting", [{"sharpness": 0.0}, {"window": 0}, {"window": 2.5}])
def test_aggregation_refuses_impossible_soft_maxima(setting):
    with pytest.raises(ValueError, match="sharpness and window must be above 0"):
        Aggregation("soft_maximum", **setting)


def logits_of(*probabilities):
    values = np.array(probabilities)
    return np.log(values / (1 - values))


def probability_of(frames, *tracks, rule="max"):
    aggregation = Aggregation(frames=frames, tracks=rule, floor=1e-6)
    return float(aggregation.probability(aggregation.video_logit(tracks)))


def test_mean_probability_averages_probabilities():
    assert probability_of("mean_probability", logits_of(0.2, 0.4, 0.9)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.9] * 13 + [0.5] * 17, 0.9),  # many are surely FAKE
        ([0.9] * 12 + [0.1] * 18, 0.42),  # not more than 30 // 2.5
        ([0.9] * 5, 0.9),
        ([0.1] * 19 + [0.9], 0.1),  # more than 90 % are surely REAL
        ([0.1] * 9 + [0.9], 0.18),
    ],
)
def test_confident_majority_of_each_kind_of_track(probabilities, expected):
    logits = logits_of(*probabilities)
    assert probability_of("confident_majority", logits) == pytest.approx(expected)


def test_confident_fives_take_the_sure_groups():
    groups = [logits_of(*[value] * 5) for value in (0.9, 0.9, 0.9, 0.3)]
    assert probability_of("confident_fives", np.concatenate(groups)) == pytest.approx(0.9)
    assert probability_of("confident_fives", np.concatenate(groups[2:])) == pytest.approx(0.6)
    assert probability_of("confident_fives", logits_of(0.7, 0.7)) == pytest.approx(0.7)


def test_power_law_pushes_and_weighs():
    assert probability_of("power_law", logits_of(0.9)) == pytest.approx(0.99)
    assert probability_of("power_law", logits_of(0.6)) == pytest.approx(0.5 + 0.1**0.65)
    pushed, weights = [0.99, 0.5 - 0.1**0.65], [0.4 + 1e-4, 0.1 + 1e-4]
    assert probability_of("power_law", logits_of(0.9, 0.4)) == pytest.approx(
        np.average(pushed, weights=weights)
    )


def test_pooled_takes_people_for_one():
    tracks = logits_of(0.9, 0.9, 0.9), logits_of(0.1)
    assert probability_of("mean_probability", *tracks, rule="pooled") == pytest.approx(0.7)
    assert probability_of("mean_probability", *tracks) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("people", "expected"),
    [((0.95, 0.1), 0.95), ((0.7, 0.8), 0.8), ((0.3, 0.1), 0.1), ((0.7, 0.3), 0.5)],
)
def test_agreement_of_several_people(people, expected):
    tracks = [logits_of(person) for person in people]
    assert probability_of("mean_logit", *tracks, rule="agreement") == pytest.approx(expected)
