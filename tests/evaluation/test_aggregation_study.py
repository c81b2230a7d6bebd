import numpy as np
import pandas as pd
import pytest

from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.evaluation.aggregation_study import (
    AGGREGATIONS,
    Scene,
    compare_aggregations,
    find_pairs,
    make_scenes,
)

FRAMES = 10


@pytest.fixture
def matched(face_set):
    """Return a face set with two people of one source: ten REAL and ten FAKE crops of each."""
    table = pd.read_csv(face_set, dtype=str).iloc[: 4 * FRAMES]
    table["label"] = np.repeat(["REAL", "FAKE", "REAL", "FAKE"], FRAMES)
    table["method"] = np.repeat(["", "self-blended", "", "self-blended"], FRAMES)
    table["video"] = np.repeat(["a.mp4", "a.mp4", "b.mp4", "b.mp4"], FRAMES)
    table["track"] = "0"
    table["frame"] = np.tile(np.arange(FRAMES), 4)
    table["source"] = "studio"
    table.to_csv(face_set, index=False)
    return face_set


def logit(probabilities):
    return np.log(probabilities / (1 - probabilities))


def test_find_pairs_of_real_tracks_and_their_fakes(matched):
    pairs = find_pairs(FaceSet.read(matched))
    assert [(real[0], fake[0]) for real, fake in pairs] == [(0, 10), (20, 30)]
    assert all(len(real) == len(fake) == FRAMES for real, fake in pairs)


def test_make_scenes_of_all_kinds(matched):
    faces = FaceSet.read(matched)
    logits = np.where(faces.labels == 1, 2.0, -2.0)
    scenes = make_scenes(find_pairs(faces), faces, logits)
    counts = pd.Series([(scene.kind, scene.label) for scene in scenes]).value_counts()
    assert counts["all", 0] == counts["all", 1] == counts["part", 0] == 2
    assert counts["part", 1] == 6
    assert counts["one of two", 0] == counts["one of two", 1] == 1
    for scene in scenes:
        fake = np.concatenate(scene.people) > 0
        expected = {"all": 1.0, "part": 0.2, "one of two": 0.5}[scene.kind] * scene.label
        assert fake.mean() == pytest.approx(expected)


def test_aggregations_separate_clear_cases(matched):
    real, fake = np.full(32, 0.05), np.full(32, 0.95)
    for name, aggregate in AGGREGATIONS.items():
        assert aggregate([logit(real)]) < 0.2, name
        assert aggregate([logit(fake)]) > 0.8, name


def test_by_aggregation_detects_one_fake_of_two_people():
    people = [logit(np.full(32, 0.05)), logit(np.full(32, 0.95))]
    assert AGGREGATIONS["mean logit"](people) == pytest.approx(0.95)
    assert AGGREGATIONS["2nd: mean probability"](people) == pytest.approx(0.5)


def test_by_aggregation_soft_maximum_detects_a_short_fake():
    person = np.full(32, 0.05)
    person[10:16] = 0.95
    assert AGGREGATIONS["mean logit"]([logit(person)]) < 0.2
    assert AGGREGATIONS["soft maximum, sharpness 1, window 3"]([logit(person)]) > 0.5


def test_aggregations_of_the_winners():
    confident_majority, _, weighted_by_confidence, agreement_of_people = [
        lambda people, combine=combine: combine([logit(one) for one in people])
        for name, combine in AGGREGATIONS.items()
        if name[0].isdecimal()
    ]
    sure = np.array([0.9] * 20 + [0.3] * 12)
    assert confident_majority([sure]) == pytest.approx(0.9)
    assert confident_majority([1 - sure]) == pytest.approx((1 - sure).mean())
    assert confident_majority([np.array([0.1] * 30 + [0.5])]) == pytest.approx(0.1)
    moved = 0.5 + 0.3**0.65
    assert weighted_by_confidence([np.full(8, 0.8)]) == pytest.approx(moved)
    assert agreement_of_people([np.full(4, 0.95), np.full(4, 0.2)]) == pytest.approx(0.95)
    assert agreement_of_people([np.full(4, 0.1), np.full(4, 0.3)]) == pytest.approx(0.1)
    assert agreement_of_people([np.full(4, 0.3), np.full(4, 0.7)]) == pytest.approx(0.5)


def test_sparser_keeps_every_nth_frame():
    scene = Scene("all", "a", 1, [np.arange(32.0), np.arange(6.0)])
    assert scene.sparser(4).people[0].tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
    assert scene.sparser(4).people[1].tolist() == [2]
    short = Scene("all", "a", 1, [np.arange(1.0), np.arange(2.0)])
    assert [one.tolist() for one in short.sparser(4).people] == [[0], [1]]


def test_by_aggregation_combines_logits_beyond_the_floor():
    frames = np.array([10.0, -2.0, -2.0, -2.0])
    assert AGGREGATIONS["mean logit"]([frames]) == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_compare_aggregations_has_every_aggregation_and_kind(matched):
    table = compare_aggregations(matched)
    assert len(table) == 3 * len(AGGREGATIONS)
    assert list(table.columns) == [
        (kind, measure) for kind in ("all", "part", "one of two") for measure in ("auc", "log loss")
    ]
    assert table.notna().all(axis=None)


def test_compare_aggregations_refuses_a_face_set_without_pairs(face_set):
    with pytest.raises(FaceSetError, match="no REAL track has a fake of the same frames"):
        compare_aggregations(face_set)
