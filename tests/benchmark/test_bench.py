import json

import pytest

from dfdetect.benchmark.bench import BenchResult, bench, face_agreement
from dfdetect.cli import main
from dfdetect.results import TrackResult, VideoResult

KEYS = {
    "videos",
    "seconds_per_video",
    "stages",
    "read_seconds_per_video",
    "reference_seconds_per_video",
    "ratio_to_read",
    "ratio_to_reference",
    "face_agreement",
    "probability_difference_mean",
    "probability_difference_max",
    "peak_memory_mb",
    "projected_seconds_400",
    "projected_seconds_4000",
}


def score(*faces):
    return VideoResult(path=None, name="a.mp4", probability=0.5, tracks=list(faces))


def face(times, left):
    boxes = [(left + 3 * time, 0.0, left + 3 * time + 20, 20.0) for time in times]
    return TrackResult(0.5, times, boxes, [0.5] * len(times))


@pytest.mark.slow
def test_bench_measures_all_that_is_promised(sample_data, capsys, monkeypatch):
    for module in ("bench", "projection"):
        monkeypatch.setattr(f"dfdetect.benchmark.{module}.LEAST_VIDEOS", 1)
    clips = [str(path) for path in sorted(sample_data.glob("test_videos/*.mp4"))[:2]]
    options = ["--weights", "logistic_regression", "--frames", "4", "--plan", "100", "1,8"]
    assert main(["bench", *clips, *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    plan = result["plan"]
    assert plan["videos"] == 100
    assert [row["nodes"] for row in plan["projected"]] == [1, 8, 1, 8]
    assert set(result) >= KEYS
    assert result["videos"] == 2
    assert set(result["stages"]) == {"decode", "detect", "crop", "classify", "wait"}
    assert min(result["stages"].values()) >= 0
    assert 0 < result["decode_seconds_per_video"] < result["seconds_per_video"]
    assert result["engines"][result["engine"]] == result["seconds_per_video"]
    ratio = result["seconds_per_video"] / result["reference_seconds_per_video"]
    assert result["ratio_to_reference"] == pytest.approx(ratio)
    assert result["projected_seconds_400"] == pytest.approx(400 * result["seconds_per_video"])
    assert result["face_agreement"] > 0.9
    assert result["probability_difference_mean"] <= result["probability_difference_max"] < 0.2
    assert 0 <= result["peak_memory_mb"] < 3000


def test_bench_result_follows_from_what_was_timed():
    result = BenchResult(
        videos=2,
        seconds_per_video=0.5,
        stages={"decode": 0.1},
        engine="torch",
        engines={"torch": 0.5},
        decode_seconds_per_video=0.1,
        read_seconds_per_video=0.25,
        reference_seconds_per_video=2.0,
        face_agreement=None,
        probability_difference_mean=None,
        probability_difference_max=None,
        peak_memory_mb=None,
        process_mb=None,
    )
    assert (result.videos_per_second, result.ratio_to_read, result.ratio_to_reference) == (
        2,
        2,
        0.25,
    )
    assert set(result.to_dict()) >= KEYS
    assert result.to_dict()["projected_seconds_400"] == 200
    text = str(result)
    assert "by engine (torch is used): torch 0.50" in text
    assert "dfdetect takes 2.00 times as long" in text
    assert "none found" in text
    assert "peak memory" not in text


def test_bench_refuses_videos_that_cannot_be_scored(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="no video here can be scored"):
        bench(tmp_path)


def test_face_agreement_follows_faces_between_frames():
    every = face([0.0, 1.0, 2.0, 3.0], 100)
    assert face_agreement([score(face([0.0, 2.0], 100))], [score(every)]) == 1
    assert face_agreement([score(face([0.0, 2.0], 160))], [score(every)]) == 0
    both = score(every, face([0.0, 1.0, 2.0, 3.0], 300))
    assert face_agreement([score(every)], [both]) == 0.5
    assert face_agreement([score()], [both]) == 0
    assert face_agreement([score(every)], [score()]) is None


def test_face_agreement_ends_where_a_face_leaves():
    brief, long = face([0.0, 1.0], 0), face([0.0, 1.0, 5.0, 6.0], 0)
    assert face_agreement([score(brief)], [score(long)]) == 0.5
