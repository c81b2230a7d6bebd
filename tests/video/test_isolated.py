import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from dfdetect.video import isolated
from dfdetect.video.isolated import CancelledError, cancel_all, read_frames_apart
from dfdetect.video.reader import Frame, VideoError, read_frames


@pytest.fixture
def misbehave(monkeypatch, real_clip):
    """A function that reads a clip by a decoder in which `read_frames` runs other code first."""
    monkeypatch.setattr(isolated, "_IDLE", [])

    def read(code, seconds=isolated.TIME_LIMIT, count=4):
        patched = (
            "import os, time, numpy; import dfdetect.video.isolated as w\n"
            "original = w.read_frames\n"
            "def read_frames(path, count, threads):\n"
            "    frames = original(path, count, threads); yield next(frames)\n"
            f"    {code}\n"
            "    yield from frames\n"
            "w.read_frames = read_frames\n"
        )
        template = "import sys; sys.path[:] = {!r}; exec({!r}); w.main({}, False)"
        with monkeypatch.context() as patch:
            popen = subprocess.Popen

            def start(command, **options):
                shared = options["pass_fds"][0]
                return popen([*command[:2], template.format(sys.path, patched, shared)], **options)

            patch.setattr(isolated.subprocess, "Popen", start)
            yield from read_frames_apart(real_clip, count, seconds=seconds)

    yield read
    isolated._end_decoders()


def test_frames_are_those_of_this_process(sample_data):
    for path in sorted(sample_data.glob("test_videos/*.mp4"))[:3]:
        for one, other in zip(read_frames(path, 5), read_frames_apart(path, 5), strict=True):
            assert (one.time, one.number) == (other.time, other.number)
            assert np.array_equal(one.image, other.image)


def test_one_decoder_reads_many_videos(sample_data, monkeypatch, tmp_path):
    monkeypatch.setattr(isolated, "_IDLE", [])
    (tmp_path / "text.mp4").write_text("no video")
    for path in sample_data.glob("test_videos/*.mp4"):
        assert len(list(read_frames_apart(path, 3))) == 3
        with pytest.raises(VideoError, match=r"text\.mp4: not a readable video"):
            next(read_frames_apart(tmp_path / "text.mp4", 3))
    assert len(isolated._IDLE) == 1
    isolated._end_decoders()


def test_frames_stay_what_they_are(write_clip, numbered_frames):
    """The memory that they pass through is used again."""
    path = write_clip(numbered_frames(20))
    kept = list(read_frames_apart(path, 20))
    for frame, expected in zip(kept, read_frames(path, 20), strict=True):
        assert np.array_equal(frame.image, expected.image)


def test_a_crash_costs_one_video(misbehave, real_clip):
    frames = misbehave("os.kill(os.getpid(), 11)")
    assert isinstance(next(frames), Frame)
    with pytest.raises(VideoError, match=r"its decoder crashed \(status -11\)"):
        next(frames)
    assert isolated._IDLE == []
    assert len(list(read_frames_apart(real_clip, 4))) == 4


def test_a_decoder_that_dies_while_it_is_idle_is_replaced(misbehave, real_clip):
    assert len(list(read_frames_apart(real_clip, 2))) == 2
    (idle,) = isolated._IDLE
    idle.process.kill()
    idle.process.wait()
    assert len(list(read_frames_apart(real_clip, 2))) == 2


def test_a_decoder_that_hangs_is_stopped(misbehave):
    start = time.monotonic()
    with pytest.raises(VideoError, match="takes too long to decode"):
        list(misbehave("time.sleep(100)", seconds=2))
    assert time.monotonic() - start < 10


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep the limit")
def test_memory_is_bounded(misbehave):
    with pytest.raises(VideoError, match="needs too much memory"):
        list(misbehave(f"numpy.ones({isolated.MEMORY_LIMIT // 8})"))


def test_a_fault_of_ours_is_no_reason(misbehave):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        list(misbehave("1 / 0"))


def test_what_is_printed_does_not_get_among_the_frames(misbehave):
    assert len(list(misbehave("print('chatter'); os.write(1, b'more')"))) == 4


def test_what_is_no_longer_wanted_is_given_up(misbehave):
    threading.Timer(2, cancel_all).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        list(misbehave("time.sleep(100)"))
    assert time.monotonic() - start < 10


def test_a_reader_who_stops_leaves_nothing(misbehave, real_clip):
    frames = read_frames_apart(real_clip, 32)
    next(frames)
    (busy,) = isolated._BUSY
    frames.close()
    assert not psutil.pid_exists(busy.process.pid)
    assert not isolated._BUSY
    assert not isolated._IDLE


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_no_decoder_outlives_its_caller(real_clip):
    code = (
        "import sys, time; from dfdetect.video.isolated import _IDLE, read_frames_apart\n"
        "list(read_frames_apart(sys.argv[1], 1)); print(_IDLE[0].process.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    command = [sys.executable, "-c", code, real_clip]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        pid = int(run.stdout.readline())
        assert psutil.pid_exists(pid)
        run.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the decoder is still there")


def test_modules_beside_the_videos_are_not_imported(real_clip, tmp_path, monkeypatch):
    (tmp_path / "av.py").write_text("open('imported', 'w')")
    (tmp_path / "numpy.py").write_text("open('imported', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(isolated, "_IDLE", [])
    assert len(list(read_frames_apart(real_clip, 1))) == 1
    assert not (tmp_path / "imported").exists()
    isolated._end_decoders()


def test_a_decoder_that_dies_while_it_is_spoken_to_has_crashed(real_clip, monkeypatch):
    monkeypatch.setattr(isolated, "_IDLE", [])
    get = isolated._Slot.get

    def get_and_kill(self, shape):
        (busy,) = isolated._BUSY
        busy.process.kill()
        busy.process.wait()
        return get(self, shape)

    monkeypatch.setattr(isolated._Slot, "get", get_and_kill)
    with pytest.raises(VideoError, match=r"its decoder crashed \(status -9\)"):
        list(read_frames_apart(real_clip, 8))
