import os
from dataclasses import replace
from pathlib import Path

import pytest

from dfdetect.results import Status, TrackResult, Verdict, VideoResult
from dfdetect.runtime.journal import MAY_PASS, Journal

FACE = TrackResult(0.9, [0.0, 0.5], [(1.0, 2.0, 3.0, 4.0), (2.0, 3.0, 4.0, 5.0)], [0.8, 0.9])
SCORE = VideoResult(
    path=Path("a.mp4"),
    name="a.mp4",
    probability=0.9,
    verdict=Verdict.FAKE,
    tracks=[FACE],
    frames_sampled=2,
    timings={"total": 1.5},
)
SETTINGS = {"weights": "5c1e", "frames": 32}


def make(tmp_path, **settings):
    return Journal(tmp_path / "submission.progress.jsonl", {**SETTINGS, **settings})


def test_read_returns_the_results_that_were_added(tmp_path):
    names = ["a.mp4", "line\nbreak.mp4", "caf\udce9.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"12345")
        make(tmp_path).add(name, tmp_path / name, SCORE)
    videos = {name: tmp_path / name for name in names}
    found = make(tmp_path).read(videos)
    assert found == {name: replace(SCORE, path=path) for name, path in videos.items()}
    assert make(tmp_path).read({"b.mp4": tmp_path / "a.mp4"}) == {}


def test_read_ignores_results_of_other_files_and_settings(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12345")
    make(tmp_path).add("a.mp4", video, SCORE)
    assert make(tmp_path, weights="other").read({"a.mp4": video}) == {}
    assert make(tmp_path, frames=16).read({"a.mp4": video}) == {}
    video.write_bytes(b"another film")
    assert make(tmp_path).read({"a.mp4": video}) == {}


def test_close_keeps_the_results_of_other_settings(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12345")
    first, second = make(tmp_path), make(tmp_path, weights="other")
    first.add("a.mp4", video, SCORE)
    second.add("a.mp4", video, SCORE)
    assert len(second.of_others()) == 1
    second.close()
    assert second.read({"a.mp4": video}) == {}
    assert first.read({"a.mp4": video}) == {"a.mp4": replace(SCORE, path=video)}
    first.close()
    assert not first.path.exists()


def test_read_ignores_damaged_lines(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12345")
    journal = make(tmp_path)
    journal.path.write_bytes(b'{"name": "a.mp4", "size"')
    journal.add("a.mp4", video, SCORE)
    with journal.path.open("ab") as file:
        file.write(b'\n\xff\n{"name": 7}\n[]\n')
    assert journal.read({"a.mp4": video}) == {"a.mp4": replace(SCORE, path=video)}


def test_add_ignores_results_that_a_later_run_may_improve(tmp_path):
    journal = make(tmp_path)
    for status in MAY_PASS:
        result = VideoResult.without_score(tmp_path / "a.mp4", "a.mp4", status)
        journal.add("a.mp4", tmp_path / "a.mp4", result)
    assert not journal.path.exists()
    result = VideoResult.without_score(tmp_path / "a.mp4", "a.mp4", Status.NO_SUCH_FILE)
    journal.add("a.mp4", tmp_path / "a.mp4", result)
    assert list(journal.read({"a.mp4": tmp_path / "a.mp4"})) == ["a.mp4"]
    journal.close()
    assert not journal.path.exists()


def test_add_names_the_file_that_it_cannot_write_and_says_what_to_do(tmp_path):
    journal = make(tmp_path)
    journal.path.mkdir()
    message = r"progress\.jsonl: cannot be written \(Is a directory\): free disk space, or allow"
    with pytest.warns(UserWarning, match=message):
        journal.add("a.mp4", tmp_path / "a.mp4", SCORE)


def test_read_ignores_lines_of_another_version(tmp_path, monkeypatch):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12345")
    make(tmp_path).add("a.mp4", video, SCORE)
    monkeypatch.setattr("dfdetect.runtime.journal.__version__", "99.0")
    assert make(tmp_path).read({"a.mp4": video}) == {}


def test_read_ignores_results_of_a_video_that_was_rewritten(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12345")
    make(tmp_path).add("a.mp4", video, SCORE)
    video.write_bytes(b"54321")
    os.utime(video, ns=(0, 0))
    assert make(tmp_path).read({"a.mp4": video}) == {}
