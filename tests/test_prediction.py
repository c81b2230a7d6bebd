import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from dfdetect import Detector, Status, TrackResult, VideoResult, predict
from dfdetect.kaggle import submission
from dfdetect.kaggle.submission import check_submission
from dfdetect.prediction import _Saves
from dfdetect.reporting.terminal import summary
from dfdetect.runtime.journal import Journal

# For tests in which the scores do not matter.
QUICK = {"weights": "logistic_regression", "frames": 2}


@pytest.fixture
def mixed_folder(tmp_path, sample_data, write_clip, numbered_frames):
    folder = tmp_path / "videos"
    folder.mkdir()
    good = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    shutil.copy(good, folder / "good.mp4")
    (folder / "text.mp4").write_text("a text file with another name\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "truncated.mp4").write_bytes(good.read_bytes()[:30_000])
    write_clip(numbered_frames(30)).rename(folder / "faceless.mp4")
    return folder


@pytest.fixture
def two_videos(tmp_path, sample_data):
    folder = tmp_path / "two"
    folder.mkdir()
    for path in sorted((sample_data / "test_videos").glob("*.mp4"))[:2]:
        shutil.copy(path, folder)
    return folder


def test_predict_gives_every_video_a_score_or_a_reason(mixed_folder, tmp_path):
    out, details = tmp_path / "submission.csv", tmp_path / "details.csv"
    scores = predict([mixed_folder], out=out, details=details, frames=8, prior=0.4)
    names = ["empty.mp4", "faceless.mp4", "good.mp4", "text.mp4", "truncated.mp4"]
    submission = check_submission(out, names).set_index("filename")["label"]
    table = pd.read_csv(details, index_col="filename")
    assert table.index.tolist() == names
    reasons = table["status"]
    assert reasons["good.mp4"] == "ok"
    assert reasons["empty.mp4"] == "empty_file"
    assert reasons["faceless.mp4"] == "no_face"
    assert reasons["text.mp4"] == reasons["truncated.mp4"] == "unreadable_video"
    assert table["message"]["text.mp4"].startswith("not a readable video (")
    for name in names:
        assert pd.isna(table["probability"][name]) == (reasons[name] != "ok")
        expected = 0.4 if reasons[name] != "ok" else scores[name].probability
        assert submission[name] == pytest.approx(expected)
    printed = summary(scores, prior=0.4)
    assert "5 videos, 1 scored (1 real), 4 without a score (given the prior 0.4)" in printed
    assert "1 x no face found: faceless.mp4" in printed


def test_predict_writes_the_rows_of_the_sample_submission(sample_data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "dfdetect")
    sample = tmp_path / "sample.csv"
    sample.write_text("filename,label\njytrvwlewz.mp4,0\ngone.mp4,0\nehtdtkmmli.mp4,0\n")
    out = tmp_path / "submission.csv"
    scores = predict([sample_data / "test_videos"], out=out, sample_submission=sample, frames=4)
    assert list(scores) == ["jytrvwlewz.mp4", "gone.mp4", "ehtdtkmmli.mp4"]
    labels = check_submission(out, list(scores))["label"]
    assert labels[1] == 0.5
    assert scores["gone.mp4"].status == Status.NO_SUCH_VIDEO
    assert "4 more videos are not in" in caplog.text


def test_predict_twice_writes_the_same_file(two_videos, tmp_path):
    files = tmp_path / "first.csv", tmp_path / "second.csv"
    for file in files:
        predict([two_videos], out=file, frames=4, progress=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_predict_results_have_the_names_of_the_rows(tmp_path, real_clip):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shutil.copy(real_clip, tmp_path / folder / "a.mp4")
    scores = predict([tmp_path], out=tmp_path / "out" / "submission.csv", frames=2, progress=False)
    assert [score.name for score in scores.values()] == ["x/a.mp4", "y/a.mp4"]
    assert scores["x/a.mp4"].probability == scores["y/a.mp4"].probability


@pytest.mark.parametrize("prior", [0, 1, -0.1, float("nan")])
def test_predict_refuses_impossible_priors(sample_data, prior):
    with pytest.raises(ValueError, match="prior"):
        predict([sample_data], prior=prior)


def test_predict_writes_finished_results_when_interrupted(sample_data, tmp_path, monkeypatch):
    predict_one = Detector.predict
    third = sorted((sample_data / "test_videos").glob("*.mp4"))[2]

    def stop_at_the_third(self, path, **options):
        if path.name == third.name:
            raise KeyboardInterrupt
        return predict_one(self, path, **options)

    monkeypatch.setattr(Detector, "predict", stop_at_the_third)
    out, details = tmp_path / "submission.csv", tmp_path / "details.csv"
    with pytest.raises(KeyboardInterrupt):
        predict(sample_data / "test_videos", out=out, details=details, **QUICK)
    table = pd.read_csv(details)
    assert table["status"].tolist()[:2] == ["ok"] * 2
    assert table["status"][2] == "not_scored"
    unscored = table["probability"].isna()
    assert (pd.read_csv(out)["label"][unscored] == 0.5).all()

    monkeypatch.setattr(Detector, "predict", note_and(predict_one, scored := []))
    predict(sample_data / "test_videos", out=out, details=details, **QUICK)
    # Several threads score the videos, so that `scored` may be in another order than the rows.
    assert sorted(path.name for path in scored) == table["filename"][unscored].tolist()
    assert (pd.read_csv(details)["status"] == "ok").all()
    assert not list(tmp_path.glob("*.jsonl"))


def note_and(predict_one, scored):
    """Return `predict_one` as a method that also adds the path of each video to `scored`."""

    def score_and_note(self, path, **options):
        scored.append(path)
        return predict_one(self, path, **options)

    return score_and_note


def test_predict_writes_a_submission_before_the_first_score(sample_data, tmp_path, monkeypatch):
    out = tmp_path / "submission.csv"
    names = [path.name for path in sorted((sample_data / "test_videos").glob("*.mp4"))]

    def look(*_):
        assert check_submission(out, names)["label"].eq(0.5).all()
        raise InterruptedError

    monkeypatch.setattr("dfdetect.detector.load_detector", look)
    with pytest.raises(InterruptedError):
        predict(sample_data / "test_videos", out=out)


@pytest.mark.slow
def test_predict_continues_a_killed_run(sample_data, tmp_path):
    out = tmp_path / "submission.csv"
    videos = sample_data / "test_videos"
    names = [path.name for path in sorted(videos.glob("*.mp4"))]
    notes = tmp_path / "submission.progress.jsonl"
    # With 24 frames per video, the run takes long enough to be stopped before its end.
    options = {"weights": "logistic_regression", "frames": 24, "engine": "torch"}
    command = [sys.executable, "-m", "dfdetect", "predict", videos, "--out", out]
    for name, value in options.items():
        command += [f"--{name}", value]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as run:
        while run.poll() is None and not entries(notes):
            time.sleep(0.01)
        run.kill()
    check_submission(out, names)
    done = entries(notes)
    assert 1 <= len(done) < len(names)
    with notes.open("a") as file:
        file.write('{"name": "half a line')

    def check_files(_):
        """Check what would be left if the second run were killed, too."""
        check_submission(out, names)
        assert entries(notes).items() >= done.items()
        done.update(entries(notes))

    scores = predict(videos, out=out, on_result=check_files, **options)
    assert list(scores) == sorted(done) == names
    assert not notes.exists()
    expected = predict(videos, out=tmp_path / "whole.csv", **options)
    labels = check_submission(out, names)["label"]
    assert labels.tolist() == pytest.approx([one.probability for one in expected.values()])


def entries(notes):
    """Return the lines of a journal as bytes, by video name; no name may occur twice."""
    lines = [line for line in notes.read_bytes().splitlines() if line] if notes.exists() else []
    found = [(json.loads(line)["name"], line) for line in lines if line.endswith(b"}}")]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize(("seconds", "videos"), [(6, 40), (600, 4)])
@pytest.mark.slow
def test_predict_ends_within_its_time_budget(sample_data, tmp_path, seconds, videos):
    folder = tmp_path / "videos"
    folder.mkdir()
    clip = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    for number in range(videos):
        (folder / f"{number:02}.mp4").symlink_to(clip)
    out = tmp_path / "submission.csv"
    start = time.monotonic()
    scores = predict(folder, out=out, time_budget=seconds)
    assert time.monotonic() - start < seconds
    check_submission(out, [f"{number:02}.mp4" for number in range(videos)])
    late = [score for score in scores.values() if score.status != "ok"]
    assert all(score.status == Status.OUT_OF_TIME for score in late)
    cut_down = bool(late) or min(score.frames_with_faces for score in scores.values()) < 32
    assert cut_down == (seconds == 6)
    # A slow machine may score no video in six seconds; then there is nothing to continue from.
    some_are_left = 0 < len(late) < videos
    assert (tmp_path / "submission.progress.jsonl").exists() == some_are_left


def test_predict_refuses_an_unusable_time_budget(sample_data, tmp_path):
    with pytest.raises(ValueError, match="'soon' is not a duration"):
        predict(sample_data, out=tmp_path / "s.csv", time_budget="soon")


def test_predict_refuses_unusable_outputs_before_loading(sample_data, tmp_path, monkeypatch):
    monkeypatch.setattr("dfdetect.detector.load_detector", lambda *_: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a folder"):
        predict(sample_data, out=tmp_path)
    with pytest.raises(ValueError, match=r"s.txt: must end in .csv or .json or .jsonl"):
        predict(sample_data, out=tmp_path / "s.txt")
    with pytest.raises(ValueError, match="gives the rows of `out`, but `out` is not given"):
        predict(sample_data, sample_submission=tmp_path / "sample.csv")
    with pytest.raises(ValueError, match="cannot be written"):
        predict(sample_data, out=tmp_path / "file" / "submission.csv")
    with pytest.raises(ValueError, match="must be different files"):
        predict(sample_data, out=tmp_path / "s.csv", details=tmp_path / "s.csv")
    video, sample = tmp_path / "a.mp4", tmp_path / "sample.csv"
    video.write_bytes(b"precious")
    sample.write_text("filename,label\na.mp4,0\n")
    for arguments in ({"out": video}, {"details": video}, {"report": video}, {"out": sample}):
        with pytest.raises(ValueError, match="is an input and an output; write to another file"):
            predict(video, **{"out": tmp_path / "s.csv", **arguments}, sample_submission=sample)
    (tmp_path / "link.csv").symlink_to(video)
    for other in (tmp_path / "nowhere" / ".." / "a.mp4", tmp_path / "link.csv"):
        with pytest.raises(ValueError, match="is an input and an output; write to another file"):
            predict(video, out=other)
    assert video.read_bytes() == b"precious"


def test_predict_survives_a_disk_that_is_full_for_a_while(sample_data, tmp_path, monkeypatch):
    monkeypatch.setattr("dfdetect.prediction.SAVE_EVERY", 0)
    monkeypatch.setattr("dfdetect.kaggle.submission._write_csv", full_disk(until=4))
    out = tmp_path / "submission.csv"
    check_before = out.write_text("filename,label\nold.mp4,0.3\n")
    with pytest.warns(
        UserWarning, match=r"cannot write the results.*No space left on device"
    ) as warned:
        scores = predict(sample_data / "test_videos", out=out, progress=False, **QUICK)
    assert len(warned) == 3 < check_before
    assert check_submission(out, sorted(scores))["label"].ne(0.5).all()


def test_predict_on_a_full_disk_keeps_the_old_files(two_videos, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "dfdetect")
    out, details = tmp_path / "submission.csv", tmp_path / "details.csv"
    predict(two_videos, out=out, frames=2)
    old = out.read_bytes()
    monkeypatch.setattr("dfdetect.kaggle.submission._write_csv", full_disk())
    with (
        pytest.warns(UserWarning, match="cannot write the results"),
        pytest.raises(OSError, match=f"No space left on device: '{out}'"),
    ):
        predict(two_videos, out=out, frames=3, details=details)
    assert out.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "submission.csv",
        "submission.progress.jsonl",
        "two",
    ]
    assert "2 videos, 2 scored (2 real)\n" in caplog.text
    monkeypatch.undo()
    predict(two_videos, out=out, frames=3, details=details)
    assert "2 of 2 videos are scored already" in caplog.text


def test_predict_on_a_full_disk_still_raises_the_interrupt(sample_data, tmp_path, monkeypatch):
    def stop(*_, **__):
        monkeypatch.setattr("dfdetect.kaggle.submission._write_csv", full_disk())
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "predict", stop)
    with (
        pytest.warns(UserWarning, match=r"cannot be written: .*No space left on device"),
        pytest.raises(KeyboardInterrupt),
    ):
        predict(sample_data / "test_videos", out=tmp_path / "submission.csv", progress=False)


def full_disk(until=10**9):
    """Return a function that fails as on a full disk, but writes tables from call `until` on."""
    write = submission._write_csv
    calls = iter(range(10**9))

    def fail(*arguments):
        if next(calls) < until - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    return fail


def test_predict_continues_without_a_writable_journal(sample_data, tmp_path):
    (tmp_path / "submission.progress.jsonl").mkdir()
    with pytest.warns(UserWarning, match=r"progress.jsonl: cannot be written \(Is a directory\)"):
        scores = predict(sample_data / "test_videos", out=tmp_path / "submission.csv", **QUICK)
    assert {score.status for score in scores.values()} == {"ok"}


@pytest.mark.slow
def test_predict_of_ten_thousand_files(tmp_path, real_clip, monkeypatch):
    """Half of the files are links to a video and half are junk; a quick stand-in scores them."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(10_000):
        path = folder / f"{number:05}.mp4"
        path.symlink_to(real_clip) if number % 2 else path.write_bytes(b"junk")
    monkeypatch.setattr(Detector, "predict", lambda self, path, **_: rough_score(path))
    out, details = tmp_path / "s.csv", tmp_path / "d.csv"
    memory = psutil.Process().memory_info().rss
    start = time.monotonic()
    scores = predict(folder, out=out, details=details, progress=False)
    assert time.monotonic() - start < 60
    assert psutil.Process().memory_info().rss - memory < 200 * 2**20
    names = [f"{number:05}.mp4" for number in range(10_000)]
    assert list(scores) == names
    labels = check_submission(out, names)["label"]
    assert labels.tolist() == [0.5, 0.7] * 5000
    assert len(pd.read_csv(details)) == 10_000


def rough_score(path):
    good = path.stat().st_size > 100
    if not good:
        return VideoResult.without_score(path, path.name, Status.UNREADABLE_VIDEO)
    return VideoResult(path=path, name=path.name, probability=0.7)


def test_predict_writes_no_formulas_to_the_details(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    names = ['=HYPERLINK("http:x","y").mp4', "+1.mp4", "-1.mp4", "@x.mp4", "\tx.mp4", "x.mp4"]
    for name in names:
        (folder / name).write_bytes(b"junk")
    predict(folder, out=tmp_path / "s.csv", details=tmp_path / "d.csv", progress=False)
    check_submission(tmp_path / "s.csv", sorted(names))
    cells = pd.read_csv(tmp_path / "d.csv")["filename"].tolist()
    assert cells == [name if name == "x.mp4" else f"'{name}" for name in sorted(names)]


def test_saves_take_a_small_share_of_the_time():
    """Writing the submission of a million videos takes long."""
    now = 0.0
    saves = _Saves(lambda: now)
    written = 0
    saves.done()
    while now < 1000:
        now += 0.5
        if saves.due():
            written += 1
            now += 2.0
            saves.done()
    assert 20 <= written <= 25  # 5 % of the time, two seconds each


def test_predict_prints_and_writes_nothing(sample_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    predict(sample_data / "test_videos" / "ehtdtkmmli.mp4", frames=2)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_predict_without_standard_error(sample_data, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    (result,) = predict(sample_data / "test_videos" / "ehtdtkmmli.mp4", **QUICK).values()
    assert result.status == Status.OK


def test_predict_gives_a_path_that_cannot_be_looked_up_a_row(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    long = f"{'x' * 300}.mp4"
    results = predict([tmp_path, tmp_path / long], out=tmp_path / "s.csv", **QUICK)
    assert results[long].status == Status.UNREADABLE_FILE
    check_submission(tmp_path / "s.csv", ["text.mp4", long])


def test_predict_takes_a_numpy_integer(sample_data, tmp_path):
    video = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    options = {"weights": "logistic_regression", "frames": np.int64(2)}
    (result,) = predict(video, out=tmp_path / "s.csv", **options).values()
    assert result.status == Status.OK


@pytest.mark.parametrize("asks", [True, False])
def test_results_without_boxes_are_not_kept_for_a_report(tmp_path, real_clip, monkeypatch, asks):
    face = TrackResult(0.321, [0.0], [], [])  # as from a cluster
    found = VideoResult(path=real_clip, name=real_clip.name, probability=0.321, tracks=[face])
    monkeypatch.setattr(Journal, "read", lambda *_: {real_clip.name: found})
    page = {"report": tmp_path / "report.html"} if asks else {}
    (result,) = predict(real_clip, out=tmp_path / "s.csv", **page, **QUICK).values()
    assert (result.probability == 0.321) is not asks


def test_predict_on_a_full_disk_writes_a_report_without_heat_maps(
    sample_data, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dfdetect.reporting.heat_maps.HeatMapStore.put", full)
    video = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    page = tmp_path / "report.html"
    with pytest.warns(UserWarning, match=r"ehtdtkmmli\.mp4: no heat maps in the report: "):
        (result,) = predict(video, report=page, **QUICK).values()
    assert result.status == Status.OK
    assert video.name in page.read_text(encoding="utf-8")


def test_predict_calls_on_result_once_for_each_row(mixed_folder, tmp_path, monkeypatch):
    """Rows of missing videos and results of an earlier run count, too; `out` is a JSON file."""
    sample, out = tmp_path / "sample.csv", tmp_path / "results.json"
    sample.write_text("filename\ntext.mp4\ngone.mp4\ngood.mp4\nempty.mp4\n")
    options = {"out": out, "sample_submission": sample, "frames": 2}
    seen = []

    def stop_at_the_second(result):
        seen.append(result.name)
        if len(seen) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(mixed_folder, on_result=stop_at_the_second, **options)
    assert seen == ["gone.mp4", "text.mp4"]
    stopped = [VideoResult.from_dict(one) for one in json.loads(out.read_text())]
    assert [one.name for one in stopped] == ["text.mp4", "gone.mp4", "good.mp4", "empty.mp4"]
    kept = sum(one.status not in (Status.NOT_SCORED, Status.NO_SUCH_VIDEO) for one in stopped)
    assert kept >= 1

    seen = []
    results = predict(mixed_folder, on_result=seen.append, **options)
    assert sorted(one.name for one in seen) == sorted(results)
    assert seen[0].name == "text.mp4"
    assert {one.name: one for one in seen} == results
    assert [VideoResult.from_dict(one) for one in json.loads(out.read_text())] == [
        *results.values()
    ]
    assert not list(tmp_path.glob("*.progress.jsonl"))


def test_predict_of_two_folders_with_equal_names(tmp_path, real_clip):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shutil.copy(real_clip, tmp_path / folder / "a.mp4")
    folders = [tmp_path / "x", tmp_path / "y"]
    results = predict(folders, out=tmp_path / "s.csv", frames=2)
    assert list(results) == [str(folder / "a.mp4") for folder in folders]
    assert [result.path for result in results.values()] == [folder / "a.mp4" for folder in folders]
