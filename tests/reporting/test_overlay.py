import logging
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import dfdetect
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.reporting import overlay
from dfdetect.reporting.overlay import annotate, annotate_videos, annotated_paths
from dfdetect.reporting.painting import PERSON_COLOURS
from dfdetect.results import Status, TrackResult, VideoResult
from dfdetect.runtime.budget import OutOfTimeError, TimeBudget
from dfdetect.video.reader import ANNOTATED, VideoError, read_frames

BOX = (100.0, 60.0, 200.0, 190.0)


def result(name="a.mp4", times=(0.5, 1.0, 1.5)):
    face = TrackResult(0.8, list(times), [BOX] * len(times), [0.8] * len(times))
    return VideoResult(path=None, name=name, probability=0.8, tracks=[face])


@pytest.fixture(scope="module")
def annotated(real_clip, tmp_path_factory):
    """Return an annotated copy of a video, in a folder that `annotate` has made."""
    out = tmp_path_factory.mktemp("annotated") / "new" / "out.mp4"
    dfdetect.annotate(real_clip, result(), out)
    return out


def plain(annotated):
    """Return a copy of an annotated video without the comment that keeps it from being scored."""
    copy = annotated.with_name("plain.mp4")
    copy.write_bytes(annotated.read_bytes().replace(ANNOTATED.encode(), b" " * len(ANNOTATED)))
    return copy


@pytest.mark.parametrize("reader", ["av", "opencv"])
def test_annotate_marks_the_copy_so_that_it_is_not_scored(annotated, reader, monkeypatch):
    if reader == "opencv":
        monkeypatch.setattr("dfdetect.video.reader.HAS_AV", False)
    with pytest.raises(VideoError) as caught:
        list(read_frames(annotated, 1))
    assert caught.value.status == Status.ANNOTATED_COPY


def test_annotate_draws_boxes_and_keeps_frames_and_sound(real_clip, annotated):
    with av.open(str(real_clip)) as before, av.open(str(annotated)) as after:
        assert [stream.type for stream in after.streams] == [
            stream.type for stream in before.streams
        ]
        assert after.duration == pytest.approx(before.duration, abs=50_000)
        assert after.streams.video[0].frames == before.streams.video[0].frames
    one, other = (
        next(read_frames(path, indices=[25])).image for path in (real_clip, plain(annotated))
    )
    changed = np.abs(one.astype(int) - other[: one.shape[0]]).max(axis=-1) > 60
    left, top, right, bottom = map(int, BOX)
    assert changed[top:bottom, left].mean() > 0.9
    assert changed[bottom - 1, left:right].mean() > 0.9
    changed[top - 30 : bottom + 4, left - 4 : right + 4] = False
    assert changed.mean() < 0.01
    assert np.abs(other[top + 40, left] - PERSON_COLOURS[0]).max() < 60


def test_annotate_replaces_a_file_only_by_a_complete_one(real_clip, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_text("old")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(real_clip.read_bytes()[:2000])
    with pytest.raises(VideoError, match=r"broken\.mp4: ") as caught:
        annotate(broken, result(), out)
    assert caught.value.status == Status.UNREADABLE_VIDEO
    assert out.read_text() == "old"
    annotate(real_clip, result(), out)
    assert out.stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "out.mp4"]


def test_annotate_needs_a_face_and_a_file_of_its_own(real_clip, tmp_path):
    nobody = VideoResult.without_score(real_clip, "a.mp4", Status.NO_FACE)
    with pytest.raises(ArgumentError, match="nothing to annotate: no face found"):
        annotate(real_clip, nobody, tmp_path / "out.mp4")
    with pytest.raises(ArgumentError, match="to another file"):
        annotate(real_clip, result(), real_clip)


@pytest.mark.parametrize(
    ("name", "out", "wanted"),
    [("a.avi", "b.avi", ".mp4"), ("a.mp4", "b.png", ".mp4"), ("a.png", "b.mp4", ".png or .webp")],
)
def test_annotate_refuses_other_suffixes(tmp_path, name, out, wanted):
    with pytest.raises(ArgumentError, match=f"{out}: .* {name} must end in .*{wanted}"):
        annotate(tmp_path / name, result(name), tmp_path / out)
    assert not (tmp_path / out).exists()


def test_annotate_ends_when_it_is_told_to(real_clip, tmp_path):
    def stop():
        raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        annotate(real_clip, result(), tmp_path / "out.mp4", check=stop)
    assert list(tmp_path.iterdir()) == []


def test_annotate_reports_a_process_that_crashes(real_clip, tmp_path, monkeypatch):
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    monkeypatch.setattr(overlay, "CODE", code)
    with pytest.raises(VideoError, match="its decoder crashed") as caught:
        annotate(real_clip, result(), tmp_path / "out.mp4")
    assert caught.value.status == Status.DECODER_CRASHED


def test_annotate_reports_an_error_of_the_process_in_one_line(real_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(overlay, "CODE", "raise OSError('the disk is full')")
    with pytest.raises(DfdetectError, match="cannot be annotated: OSError: the disk is full"):
        annotate(real_clip, result(), tmp_path / "out.mp4")


def test_annotated_paths_keep_names_apart(tmp_path):
    names = ["a.mp4", "a.mov", "A.MP4", "b/a.mp4", "/top/c.mp4", "../d.mp4", "d.mp4", "e.jpg"]
    names += ["C:/v/f.mp4", "//server/g.mp4"]
    videos = {name: tmp_path / "videos" / name.strip("./") for name in names}
    found = annotated_paths(videos, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in found.values()] == [
        *("a.mp4", "a.mov.mp4", "A (2).MP4", "b/a.mp4", "top/c.mp4", "d.mp4", "d (2).mp4"),
        *("e.jpg", "v/f.mp4", "server/g.mp4"),
    ]


def test_annotated_paths_never_overwrite_a_video(tmp_path):
    video = tmp_path / "a.mp4"
    video.touch()
    with pytest.raises(
        ArgumentError, match=r"a\.mp4: is an input; write annotated videos to another"
    ):
        annotated_paths({"a.mp4": video}, tmp_path)
    with pytest.raises(ArgumentError, match=r"a\.mp4: is no folder"):
        annotated_paths({"b.mp4": tmp_path / "b.mp4"}, video)


def test_annotate_videos_continues_after_unusable_videos(real_clip, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(real_clip.read_bytes()[:2000])
    videos = {"broken.mp4": broken, "good.mp4": real_clip, "nobody.mp4": real_clip}
    results = {name: result(name) for name in ("broken.mp4", "good.mp4")}
    results["nobody.mp4"] = VideoResult.without_score(real_clip, "nobody.mp4", Status.NO_FACE)
    targets = annotated_paths(videos, tmp_path / "out")
    with caplog.at_level(logging.INFO, "dfdetect"):
        written = annotate_videos(results, videos, targets)
    assert written == {"good.mp4": tmp_path / "out" / "good.mp4"}
    assert written["good.mp4"].is_file()
    assert "broken.mp4: not annotated" in caplog.text
    assert "1 video without a score, so not annotated" in caplog.text


def test_annotate_videos_without_time_writes_nothing(real_clip, tmp_path, caplog):
    targets = {"a.mp4": Path(tmp_path / "a.mp4")}
    budget = TimeBudget(1, 1, 1)
    assert annotate_videos({"a.mp4": result()}, {"a.mp4": real_clip}, targets, budget) == {}
    assert "a.mp4: not annotated: no time was left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_predict_annotates_what_it_scored(sample_data, tmp_path):
    videos = sample_data / "test_videos"
    dfdetect.predict(videos / "ehtdtkmmli.mp4", frames=4, annotate=tmp_path / "annotated")
    assert [path.name for path in (tmp_path / "annotated").iterdir()] == ["ehtdtkmmli.mp4"]
    with pytest.raises(ArgumentError, match="to another folder"):
        dfdetect.predict(videos, annotate=videos)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_annotate_of_an_image_writes_an_image(tmp_path, suffix):
    image = np.full((240, 480, 3), 90, np.uint8)
    path, out = tmp_path / f"face{suffix}", tmp_path / f"out{suffix}"
    Image.fromarray(image).save(path)
    annotate(path, result(times=(0.0,)), out)
    drawn = np.asarray(Image.open(out).convert("RGB")).astype(int)
    assert drawn.shape[1] == 480
    assert drawn.shape[0] > 240
    left, top, right, _ = map(int, BOX)
    assert np.abs(drawn[top + 40, left] - PERSON_COLOURS[0]).max() < 60
    assert np.abs(drawn[:240, right + 20 :] - 90).max() < 12


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
@pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright")
@pytest.mark.browser
def test_annotate_writes_a_video_that_browsers_play(real_clip, annotated):
    from playwright.sync_api import sync_playwright

    play_and_jump = """async () => {
      const video = document.querySelector("video");
      video.muted = true;
      await video.play();
      const jumped = new Promise(resolve => video.onseeked = resolve);
      video.currentTime = 1;
      await jumped;
      return [video.error, Math.round(video.duration), video.currentTime >= 1];
    }"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page()
        tab.goto(annotated.as_uri())
        with av.open(str(real_clip)) as container:
            seconds = round(container.duration / 1e6)
        assert tab.evaluate(play_and_jump) == [None, seconds, True]
        browser.close()
