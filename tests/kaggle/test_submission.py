from pathlib import Path

import pandas as pd
import pytest

from dfdetect import Status, TrackResult, Verdict, VideoResult
from dfdetect.kaggle.submission import (
    SubmissionError,
    check_submission,
    read_sample_submission,
    write_details,
    write_submission,
)

SCORES = {
    "a.mp4": VideoResult(
        path=Path("videos/a.mp4"),
        name="a.mp4",
        probability=0.8,
        verdict=Verdict.FAKE,
        tracks=[TrackResult(0.8, [0.0, 1.0], [(0, 0, 9, 9)] * 2, [0.7, 0.9])],
        timings={"total": 1.25},
    ),
    "b.mp4": VideoResult.without_score(Path("videos/b.mp4"), "b.mp4", Status.NO_FACE),
    "c.mp4": VideoResult.without_score(Path("videos/c.mp4"), "c.mp4", Status.NO_FACE),
    "d.mp4": VideoResult.without_score(None, "d.mp4", Status.NO_SUCH_VIDEO),
}


def test_write_submission_keeps_odd_names(tmp_path):
    names = ['a "b".mp4', "c,d.mp4", "e\nf.mp4", "g\rh.mp4", "caf\udce9.mp4", "顔.mp4", "NA", "1"]
    write_submission(tmp_path / "submission.csv", names, {})
    assert check_submission(tmp_path / "submission.csv", names)["filename"].tolist() == names


def test_write_submission_refuses_invalid_rows(tmp_path):
    path = tmp_path / "submission.csv"
    broken = {"a.mp4": VideoResult(path=None, name="a.mp4", probability=float("nan"))}
    with pytest.raises(SubmissionError):
        write_submission(path, ["a.mp4"], broken)
    assert list(tmp_path.iterdir()) == []


def test_write_submission_writes_all_rows_in_order(tmp_path):
    path = tmp_path / "sub" / "submission.csv"
    names = ["d.mp4", "a.mp4", "missing.mp4", "b.mp4"]
    write_submission(path, names, SCORES, prior=0.4)
    assert path.read_text() == "filename,label\nd.mp4,0.4\na.mp4,0.8\nmissing.mp4,0.4\nb.mp4,0.4\n"
    assert check_submission(path, names)["label"].tolist() == [0.4, 0.8, 0.4, 0.4]
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]


def test_write_details_says_why_there_is_no_score(tmp_path):
    path = tmp_path / "details.csv"
    write_details(path, SCORES)
    table = pd.read_csv(path)
    assert table.columns.tolist() == [
        *("filename", "probability", "verdict", "status", "people", "frames", "seconds"),
        *("message", "path"),
    ]
    first = ["a.mp4", 0.8, "fake", "ok", 1, 2, 1.25, "ok", "videos/a.mp4"]
    assert table.iloc[0].tolist() == first
    assert table["probability"].isna().tolist() == [False, True, True, True]
    assert table["status"].tolist() == ["ok", "no_face", "no_face", "no_such_video"]
    assert table["message"][3] == "no such video"
    assert table["path"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\nb.mp4,0.5\na.mp4,0.5\n", "not the 2 requested names"),
        ("filename,label\na.mp4,0.5\n", "not the 2 requested names"),
        ("filename,label\na.mp4,0.5\na.mp4,0.5\n", "twice"),
        ("filename,label\na.mp4,0\nb.mp4,0.5\n", "'a.mp4' is not strictly"),
        ("filename,label\na.mp4,0.5\nb.mp4,1.0\n", "'b.mp4' is not strictly"),
        ("filename,label\na.mp4,0.5\nb.mp4,nan\n", "'b.mp4' is not strictly"),
        ("filename,label\na.mp4,0.5\nb.mp4,\n", "'b.mp4' is not strictly"),
        ("name,label\na.mp4,0.5\nb.mp4,0.5\n", "header"),
        ("", "not a CSV table"),
    ],
)
def test_check_submission_refuses_invalid_files(tmp_path, text, message):
    path = tmp_path / "submission.csv"
    path.write_text(text)
    with pytest.raises(SubmissionError, match=message):
        check_submission(path, ["a.mp4", "b.mp4"])


def test_read_sample_submission_keeps_the_order(tmp_path):
    path = tmp_path / "sample_submission.csv"
    path.write_text("filename,label\nz.mp4,0\nNA,0\n007,0\na.mp4,0\n")
    assert read_sample_submission(path) == ["z.mp4", "NA", "007", "a.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\na\n", "no column"),
        ("filename,label\n", "no rows"),
        ("filename\na\na\n", "twice"),
        ("", "CSV"),
    ],
)
def test_read_sample_submission_refuses_unusable_files(tmp_path, text, message):
    path = tmp_path / "sample_submission.csv"
    path.write_text(text)
    with pytest.raises(SubmissionError, match=message):
        read_sample_submission(path)
