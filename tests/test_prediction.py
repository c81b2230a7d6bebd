import shutil

import pandas as pd
import pytest

from dfdetect import Detector, predict
from dfdetect.submission import check_submission


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


def test_every_video_gets_a_row_or_a_reason(mixed_folder, tmp_path, capsys):
    out, details = tmp_path / "submission.csv", tmp_path / "details.csv"
    scores = predict([mixed_folder], out, details=details, frames=8, prior=0.4)
    names = ["empty.mp4", "faceless.mp4", "good.mp4", "text.mp4", "truncated.mp4"]
    submission = check_submission(out, names).set_index("filename")["label"]
    table = pd.read_csv(details, index_col="filename")
    assert table.index.tolist() == names
    reasons = table["status"]
    assert reasons["good.mp4"] == "ok"
    assert reasons["empty.mp4"] == "the file is empty"
    assert reasons["faceless.mp4"] == "no face found"
    assert reasons["text.mp4"].startswith("not a readable video")
    assert reasons["truncated.mp4"].startswith("not a readable video")
    for name in names:
        assert pd.isna(table["probability"][name]) == (reasons[name] != "ok")
        expected = 0.4 if reasons[name] != "ok" else scores[name].probability
        assert submission[name] == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert "5 videos, 1 scored, 4 without a score (given the prior 0.4)" in printed
    assert "1 x no face found: faceless.mp4" in printed


def test_rows_follow_the_sample_submission(sample_data, tmp_path, capsys):
    sample = tmp_path / "sample.csv"
    sample.write_text("filename,label\njytrvwlewz.mp4,0\ngone.mp4,0\nehtdtkmmli.mp4,0\n")
    out = tmp_path / "submission.csv"
    scores = predict([sample_data / "test_videos"], out, sample, frames=4)
    assert list(scores) == ["jytrvwlewz.mp4", "gone.mp4", "ehtdtkmmli.mp4"]
    labels = check_submission(out, list(scores))["label"]
    assert labels[1] == 0.5
    assert scores["gone.mp4"].status == "no such video"
    assert "4 more videos are not in" in capsys.readouterr().out


def test_two_runs_give_the_same_file(sample_data, tmp_path):
    files = tmp_path / "first.csv", tmp_path / "second.csv"
    for file in files:
        predict([sample_data / "test_videos"], file, frames=4, progress=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_scores_carry_the_names_of_the_rows(tmp_path, real_clip):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shutil.copy(real_clip, tmp_path / folder / "a.mp4")
    scores = predict([tmp_path], tmp_path / "out" / "submission.csv", frames=2, progress=False)
    assert [score.filename for score in scores.values()] == ["x/a.mp4", "y/a.mp4"]
    assert scores["x/a.mp4"].probability == scores["y/a.mp4"].probability


@pytest.mark.parametrize("prior", [0, 1, -0.1, float("nan")])
def test_impossible_priors(sample_data, prior):
    with pytest.raises(ValueError, match="prior"):
        predict([sample_data], prior=prior)


def test_what_is_done_is_written_when_interrupted(sample_data, tmp_path, monkeypatch):
    score = Detector.score
    third = sorted((sample_data / "test_videos").glob("*.mp4"))[2]

    def stop_at_the_third(self, path, threads):
        if path == third:
            raise KeyboardInterrupt
        return score(self, path, threads)

    monkeypatch.setattr(Detector, "score", stop_at_the_third)
    out, details = tmp_path / "submission.csv", tmp_path / "details.csv"
    with pytest.raises(KeyboardInterrupt):
        predict(sample_data / "test_videos", out, frames=2, details=details)
    status = pd.read_csv(details)["status"].tolist()
    assert status == ["ok"] * 2 + ["interrupted before it was scored"] * 4
    assert pd.read_csv(out)["label"].tolist()[2:] == [0.5] * 4


def test_outputs_that_cannot_be_written_are_refused_at_once(sample_data, tmp_path, monkeypatch):
    monkeypatch.setattr("dfdetect.prediction.load_detector", lambda *_: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a folder"):
        predict(sample_data, tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        predict(sample_data, tmp_path / "file" / "submission.csv")
    with pytest.raises(ValueError, match="files of their own"):
        predict(sample_data, tmp_path / "s.csv", details=tmp_path / "s.csv")
