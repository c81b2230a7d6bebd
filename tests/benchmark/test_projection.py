import json

import pytest

from dfdetect.benchmark import projection as module
from dfdetect.benchmark.projection import plan, report
from dfdetect.cli import main

BENCH = {"seconds_per_video": 2.0, "process_mb": 512.0}
MEASURED = {
    "extract_seconds": 1.5,
    "video_bytes": 4e6,
    "crop_bytes": 1e6,
    "write_bytes_per_second": 5e7,
}


def test_what_takes_longest_is_the_bound(monkeypatch):
    monkeypatch.setattr(module, "_measure", lambda *rest: dict(MEASURED))
    monkeypatch.setattr(module, "available_cores", lambda: 4)
    result = plan(["videos"], BENCH, 36_000, [1, 100, 1000], frames=32)
    rows = {(row["job"], row["nodes"]): row for row in result["projected"]}
    assert rows["predict", 1]["hours"] == pytest.approx(20)
    assert rows["predict", 100]["hours"] == pytest.approx(0.2)
    assert rows["extract", 1]["hours"] == pytest.approx(15)
    assert rows["extract", 1]["bound"] == "compute"
    # One machine writes 36 GB at 50 MB/s, however many work.
    assert rows["extract", 100]["hours"] == pytest.approx(0.2)
    assert rows["extract", 100]["bound"] == rows["extract", 1000]["bound"] == "writer"
    assert rows["extract", 1000]["disk_gb"] == pytest.approx(36)
    assert {row["memory_gb"] for row in result["projected"]} == {2.0}
    monkeypatch.setitem(MEASURED, "write_bytes_per_second", 1e9)
    fast = plan(["videos"], BENCH, 36_000, [1000], frames=32)["projected"][-1]
    assert fast["bound"] == "network"
    assert fast["hours"] == pytest.approx(36e9 / module.NETWORK / 3600)


@pytest.mark.slow
def test_it_is_measured_on_the_videos(real_clip, monkeypatch):
    monkeypatch.setattr(module, "LEAST_VIDEOS", 1)
    result = plan([real_clip], BENCH, 1000, [1, 8], frames=4, progress=False)
    measured = result["measured"]
    assert measured["video_bytes"] == real_clip.stat().st_size
    assert 0.01 < measured["extract_seconds"] < 20
    assert 10_000 < measured["crop_bytes"] < 400_000
    assert measured["write_bytes_per_second"] > 1e5
    lines = report(result).splitlines()
    assert "1000 videos" in lines[1]
    assert [line.split("|")[1].strip() for line in lines[5:]] == ["predict"] * 2 + ["extract"] * 2


@pytest.mark.slow
def test_command_line(sample_data, capsys, monkeypatch):
    monkeypatch.setattr("dfdetect.benchmark.bench.LEAST_VIDEOS", 1)
    monkeypatch.setattr(module, "_measure", lambda *rest: dict(MEASURED))
    clip = str(next(sample_data.glob("test_videos/*.mp4")))
    options = ["bench", clip, "--frames", "2"]
    assert main([*options, "--plan", "100", "1,8", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["plan"]
    assert planned["videos"] == 100
    assert [row["nodes"] for row in planned["projected"]] == [1, 8, 1, 8]
    for videos, nodes, message in (
        ("0", "1", "at least one video and one node"),
        ("many", "1", "whole numbers"),
        ("10", "1,0", "at least one video and one node"),
    ):
        assert main([*options, "--plan", videos, nodes]) == 2
        assert message in capsys.readouterr().err
