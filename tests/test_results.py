import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dfdetect import (
    HeatMap,
    OperatingPoints,
    Status,
    TrackResult,
    Verdict,
    VideoResult,
    to_dataframe,
)
from dfdetect.errors import InputError
from dfdetect.results import counted

TRACK = TrackResult(0.9, [0.0, 0.5], [(1.0, 2.0, 3.0, 4.0), (2.0, 3.0, 4.0, 5.0)], [0.8, 0.9])
SCORED = VideoResult(
    path=Path("videos/a.mp4"),
    name="a.mp4",
    probability=0.9,
    verdict=Verdict.FAKE,
    operating_points=OperatingPoints(
        uncertain=0.6, fake=0.8, fakes={"people": {"videos": 9, "uncertain": 5, "fake": 2}}
    ),
    aggregation={"frames": "mean_logit", "tracks": "max"},
    tracks=[TRACK],
    frames_sampled=32,
    warnings=("The face is dark.",),
    timings={"total": 1.5},
)
CROP = np.random.default_rng(0).integers(0, 255, (16, 12, 3), dtype=np.uint8)
HEAT_MAP = HeatMap(0.5, CROP, np.array([[0.1, 1.0], [0.0, 1 / 3]], np.float32))
UNSCORED = VideoResult.without_score(None, "b.mp4", Status.UNREADABLE_VIDEO, "Invalid data")


@pytest.mark.parametrize("result", [SCORED, UNSCORED], ids=["scored", "without score"])
def test_from_dict_restores_what_to_dict_gave_to_json(result):
    assert VideoResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_track_result_from_dict_restores_boxes():
    assert TrackResult.from_dict(json.loads(json.dumps(TRACK.to_dict()))) == TRACK


def test_to_dict_has_heat_maps_if_they_are_asked_for():
    track = replace(TRACK, heat_maps=[HEAT_MAP])
    result = replace(SCORED, tracks=[track])
    assert VideoResult.from_dict(json.loads(json.dumps(result.to_dict()))) == SCORED
    with_maps = json.loads(json.dumps(result.to_dict(heat_maps=True)))
    assert VideoResult.from_dict(with_maps) == result != SCORED
    (restored,) = TrackResult.from_dict(with_maps["tracks"][0]).heat_maps
    assert (restored.crop.dtype, restored.values.dtype) == (np.uint8, np.float32)


@pytest.mark.parametrize("crop", ["aGVsbG8=", "abc", ""])
def test_heat_map_from_dict_refuses_what_is_no_image(crop):
    with pytest.raises(InputError, match="no image"):
        HeatMap.from_dict({**HEAT_MAP.to_dict(), "crop": crop})


def test_from_dict_refuses_an_unknown_status():
    with pytest.raises(ValueError, match="sleepy"):
        VideoResult.from_dict({**UNSCORED.to_dict(), "status": "sleepy"})


def test_without_score_says_why():
    assert UNSCORED.probability is None
    assert UNSCORED.status == "unreadable_video"
    assert UNSCORED.message == "not a readable video (Invalid data)"


def test_repr_is_one_line():
    assert repr(SCORED) == (
        "VideoResult('a.mp4', probability=0.900, verdict=fake, status=ok, 1 track, 32 frames)"
    )
    assert repr(HEAT_MAP) == "HeatMap(0.5 s, 2 x 2)"
    assert repr(TRACK) == "TrackResult(probability=0.900, 2 frames from 0.0 to 0.5 s)"


def test_counted_adds_an_s_unless_the_number_is_1():
    assert [counted(number, "frame") for number in range(3)] == ["0 frames", "1 frame", "2 frames"]


def test_status_values_are_snake_case_and_unique():
    assert all(status.value == status.name.lower() for status in Status)
    assert len({status.sentence for status in Status}) == len(Status)
    assert f"{Status.NO_FACE}" == "no_face"


def test_to_dataframe_has_a_row_for_each_video():
    table = to_dataframe([SCORED, UNSCORED])
    assert table["filename"].tolist() == ["a.mp4", "b.mp4"]
    assert table["probability"].isna().tolist() == [False, True]
    assert table["verdict"].fillna("").tolist() == ["fake", ""]
    assert table["status"].tolist() == ["ok", "unreadable_video"]
    assert table.loc[0, ["people", "frames", "seconds"]].tolist() == [1, 2, 1.5]
    assert to_dataframe([]).columns.tolist() == table.columns.tolist()


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [(0.1, Verdict.REAL), (0.4, Verdict.REAL), (0.5, Verdict.UNCERTAIN), (0.81, Verdict.FAKE)],
)
def test_verdict_is_above_a_threshold(probability, verdict):
    assert OperatingPoints(uncertain=0.4, fake=0.8).verdict(probability) is verdict


@pytest.mark.parametrize("points", [(0.8, 0.4), (-0.1, 0.5), (0.5, 1.5), (float("nan"), 0.5)])
def test_operating_points_refuse_impossible_thresholds(points):
    with pytest.raises(ValueError, match="operating points must be between 0 and 1"):
        OperatingPoints(*points)


@pytest.mark.parametrize(
    "fakes",
    [
        {"people": {"videos": 9, "uncertain": 2, "fake": 5}},
        {"people": {"videos": 0, "uncertain": 0, "fake": 0}},
        {"people": {"videos": 9}},
        {"cats": {"videos": 9, "uncertain": 5, "fake": 2}},
    ],
)
def test_operating_points_refuse_impossible_numbers_of_fakes(fakes):
    with pytest.raises(ValueError, match="impossible numbers of fakes"):
        OperatingPoints(fakes=fakes)


def test_most_suspicious_are_moments_apart():
    times = [0.0, 1.0, 1.5, 2.0, 3.0, 4.0]
    track = TrackResult(0.1, times, [(0, 0, 9, 9)] * 6, [0.1, 0.8, 0.9, 0.85, 0.7, 0.2])
    assert track.most_suspicious() == [(1.5, 0.9), (3.0, 0.7), (4.0, 0.2)]
    assert track.most_suspicious(1) == [(1.5, 0.9)]
    assert TrackResult(0.8, [], [], []).most_suspicious() == []


@pytest.mark.parametrize(
    ("probability", "times"), [(0.303, [0.0, 2.0]), (0.41, [0.0]), (0.1, [0.0, 2.0, 4.0])]
)
def test_most_suspicious_are_not_below_the_track(probability, times):
    moments = [0.4, 0.3026, 0.276]
    track = TrackResult(probability, [0.0, 2.0, 4.0], [(0, 0, 9, 9)] * 3, moments)
    assert [time for time, _ in track.most_suspicious()] == times
