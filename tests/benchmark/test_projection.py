from dataclasses import replace

import pytest

from dfdetect.benchmark.bench import BenchResult
from dfdetect.benchmark.projection import NETWORK, Measured, plan, project
from dfdetect.cli import main

MEASURED = Measured(
    predict_seconds=2.0,
    extract_seconds=1.5,
    video_bytes=4e6,
    crop_bytes=1e6,
    write_bytes_per_second=5e7,
    process_mb=500.0,
)


def test_project_finds_what_takes_longest():
    result = project(MEASURED, videos=36_000, nodes=[1, 100, 1000], cores=4)
    rows = {(row.job, row.nodes): row for row in result.projected}
    assert rows["predict", 1].hours == pytest.approx(20)
    assert rows["predict", 100].hours == pytest.approx(0.2)
    assert rows["extract", 1].hours == pytest.approx(15)
    assert rows["extract", 1].bound == "compute"
    # One machine writes all 36 GB, at 50 MB/s, however many machines extract crops.
    assert rows["extract", 100].hours == pytest.approx(0.2)
    assert rows["extract", 100].bound == rows["extract", 1000].bound == "writer"
    assert rows["extract", 1000].disk_gb == pytest.approx(36)
    assert {row.memory_gb for row in result.projected} == {2.0}
    fast = replace(MEASURED, write_bytes_per_second=1e9)
    last = project(fast, videos=36_000, nodes=[1000], cores=4).projected[-1]
    assert last.bound == "network"
    assert last.hours == pytest.approx(36e9 / NETWORK / 3600)


def test_plan_prints_as_a_table():
    lines = str(project(MEASURED, videos=1000, nodes=[1, 8], cores=4)).splitlines()
    assert "1000 videos" in lines[1]
    assert [line.split("|")[1].strip() for line in lines[5:]] == ["predict"] * 2 + ["extract"] * 2
    unknown = replace(MEASURED, process_mb=None)
    assert "unknown" in str(project(unknown, videos=1000, nodes=[1], cores=4))


@pytest.mark.slow
def test_plan_measures_the_videos(real_clip, monkeypatch):
    monkeypatch.setattr("dfdetect.benchmark.projection.LEAST_VIDEOS", 1)
    bench = BenchResult(
        videos=1,
        seconds_per_video=2.0,
        stages={},
        engine="torch",
        engines={"torch": 2.0},
        decode_seconds_per_video=0.1,
        read_seconds_per_video=1.0,
        reference_seconds_per_video=4.0,
        face_agreement=1.0,
        probability_difference_mean=0.0,
        probability_difference_max=0.0,
        peak_memory_mb=100.0,
        process_mb=512.0,
    )
    measured = plan([real_clip], bench, videos=1000, nodes=[1], frames=4).measured
    assert (measured.predict_seconds, measured.process_mb) == (2.0, 512.0)
    assert measured.video_bytes == real_clip.stat().st_size
    assert 0.01 < measured.extract_seconds < 60
    assert 10_000 < measured.crop_bytes < 400_000
    assert measured.write_bytes_per_second > 1e5


@pytest.mark.parametrize(
    ("videos", "nodes", "message"),
    [
        ("0", "1", "at least one video and one node"),
        ("many", "1", "whole numbers"),
        ("10", "1,0", "at least one video and one node"),
    ],
)
def test_bench_command_refuses_other_plans(videos, nodes, message, capsys):
    assert main(["bench", "no-such-folder", "--plan", videos, nodes]) == 2
    assert message in capsys.readouterr().err
