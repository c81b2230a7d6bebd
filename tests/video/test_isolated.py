import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from dfdetect.video import isolated
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import Frame, VideoError, read_frames


@pytest.fixture
def decoders():
    with DecoderPool() as pool:
        yield pool


@pytest.fixture
def misbehave(monkeypatch, real_clip, decoders):
    """Return a function that reads a clip in a decoder process which also runs the given code.

    The process runs the code after it has read the first frame.
    """

    def read(code, seconds=isolated.TIME_LIMIT, count=4):
        patched = (
            "import os, time, numpy; import dfdetect.video.isolated as w\n"
            "original = w.read_frames\n"
            "def read_frames(path, num_frames, **options):\n"
            "    frames = original(path, num_frames, **options); yield next(frames)\n"
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
            yield from decoders.read_frames(real_clip, count, seconds=seconds)

    return read


def test_read_frames_gives_the_same_frames_as_the_reader(sample_data, decoders):
    for path in sorted(sample_data.glob("test_videos/*.mp4"))[:3]:
        for one, other in zip(read_frames(path, 5), decoders.read_frames(path, 5), strict=True):
            assert (one.time, one.number) == (other.time, other.number)
            assert np.array_equal(one.image, other.image)


def test_read_frames_tells_how_strongly_the_video_is_compressed(real_clip, decoders):
    (near,), (far,) = read_frames(real_clip, 1), decoders.read_frames(real_clip, 1)
    with av.open(str(real_clip)) as container:
        stream = container.streams.video[0]
        sizes = [packet.size for packet in container.demux(stream) if packet.size]
        pixels = len(sizes) * stream.width * stream.height
    assert near.bits_per_pixel == far.bits_per_pixel == pytest.approx(8 * sum(sizes) / pixels)


def test_read_frames_reuses_a_process(sample_data, decoders, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for path in sample_data.glob("test_videos/*.mp4"):
        assert len(list(decoders.read_frames(path, 3))) == 3
        with pytest.raises(VideoError, match=r"text\.mp4: not a readable video"):
            next(decoders.read_frames(tmp_path / "text.mp4", 3))
    assert len(decoders.idle) == 1


def test_read_frames_does_not_overwrite_earlier_frames(write_clip, numbered_frames, decoders):
    """All frames pass through the same shared memory."""
    path = write_clip(numbered_frames(20))
    kept = list(decoders.read_frames(path, 20))
    for frame, expected in zip(kept, read_frames(path, 20), strict=True):
        assert np.array_equal(frame.image, expected.image)


def test_read_frames_keeps_the_frames_of_an_earlier_video(sample_data, decoders):
    first, second, *_ = sorted(sample_data.glob("test_videos/*.mp4"))
    (frame,) = decoders.read_frames(first, 1)
    part = frame.image[2:, 2:]
    del frame
    list(decoders.read_frames(second, 5))
    assert np.array_equal(part, next(read_frames(first, 1)).image[2:, 2:])


def test_read_frames_uses_the_memory_of_dropped_frames_again(real_clip, decoders):
    for frame in decoders.read_frames(real_clip, 3):
        size = frame.image.nbytes
    del frame
    for _ in range(5):
        assert sum(1 for _ in decoders.read_frames(real_clip, 32)) == 32
    (decoder,) = decoders.idle
    assert os.fstat(decoder.images.file).st_size <= 8 * size


def test_read_frames_takes_larger_frames_after_smaller_ones(write_clip, decoders):
    clips = []
    for number, side in enumerate((32, 96, 64)):
        images = [np.full((side, side, 3), 40 * number, np.uint8)] * 4
        clips.append(write_clip(images, f"{number}.mp4"))
    for clip in clips:
        for one, other in zip(decoders.read_frames(clip, 4), read_frames(clip, 4), strict=True):
            assert np.array_equal(one.image, other.image)
    kept = [frame for clip in clips for frame in decoders.read_frames(clip, 4)]
    expected = [frame for clip in clips for frame in read_frames(clip, 4)]
    for one, other in zip(kept, expected, strict=True):
        assert np.array_equal(one.image, other.image)


def test_read_frames_survives_a_crash(misbehave, real_clip, decoders):
    frames = misbehave("os.kill(os.getpid(), 11)")
    assert isinstance(next(frames), Frame)
    with pytest.raises(VideoError, match=r"its decoder crashed \(exit status -11\)"):
        next(frames)
    assert decoders.idle == []
    assert len(list(decoders.read_frames(real_clip, 4))) == 4


def test_read_frames_replaces_a_process_that_died_while_idle(real_clip, decoders):
    assert len(list(decoders.read_frames(real_clip, 2))) == 2
    (idle,) = decoders.idle
    idle.process.kill()
    idle.process.wait()
    assert len(list(decoders.read_frames(real_clip, 2))) == 2


@pytest.mark.slow
def test_read_frames_stops_a_decoder_that_hangs(misbehave):
    start = time.monotonic()
    with pytest.raises(VideoError, match="takes too long to decode"):
        list(misbehave("time.sleep(100)", seconds=2))
    assert time.monotonic() - start < 60


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep the limit")
@pytest.mark.slow
def test_read_frames_stops_a_decoder_that_needs_too_much_memory(misbehave):
    with pytest.raises(VideoError, match="needs too much memory"):
        list(misbehave(f"numpy.ones({isolated.MEMORY_LIMIT // 8})"))


def test_read_frames_raises_unexpected_errors_of_the_decoder(misbehave):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        list(misbehave("1 / 0"))


def test_read_frames_ignores_printed_text(misbehave):
    assert len(list(misbehave("print('chatter'); os.write(1, b'more')"))) == 4


def test_close_cancels_a_video_that_is_being_read(misbehave, decoders):
    frames = misbehave("time.sleep(100)")
    next(frames)
    threading.Timer(0.5, decoders.close).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        next(frames)
    assert time.monotonic() - start < 60
    assert decoders.busy == decoders.idle == []


def test_close_ends_idle_processes(real_clip, decoders):
    list(decoders.read_frames(real_clip, 1))
    (idle,) = decoders.idle
    decoders.close()
    assert idle.process.returncode is not None
    with pytest.raises(CancelledError):
        next(decoders.read_frames(real_clip, 1))


def test_decoder_pool_ends_its_processes_if_it_is_deleted(real_clip):
    decoders = DecoderPool()
    list(decoders.read_frames(real_clip, 1))
    (idle,) = decoders.idle
    del decoders
    assert idle.process.returncode is not None


def test_decoder_pool_is_pickled_without_processes(real_clip, decoders):
    list(decoders.read_frames(real_clip, 1))
    other = pickle.loads(pickle.dumps(DecoderPool(threads=3)))
    assert (other.threads, other.idle) == (3, [])


def test_read_frames_ends_the_process_if_the_iterator_is_closed(real_clip, decoders):
    frames = decoders.read_frames(real_clip, 32)
    next(frames)
    (busy,) = decoders.busy
    frames.close()
    assert not psutil.pid_exists(busy.process.pid)
    assert decoders.busy == decoders.idle == []


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.slow
def test_decoder_pool_leaves_no_process_if_the_caller_is_killed(real_clip):
    code = (
        "import sys, time; from dfdetect.video.isolated import DecoderPool\n"
        "pool = DecoderPool(); list(pool.read_frames(sys.argv[1], 1))\n"
        "print(pool.idle[0].process.pid, flush=True); time.sleep(100)\n"
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
    pytest.fail("the decoder process is still running")


def test_read_frames_imports_no_modules_from_the_current_folder(
    real_clip, tmp_path, monkeypatch, decoders
):
    (tmp_path / "av.py").write_text("open('imported', 'w')")
    (tmp_path / "numpy.py").write_text("open('imported', 'w')")
    monkeypatch.chdir(tmp_path)
    assert len(list(decoders.read_frames(real_clip, 1))) == 1
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("closed", [[0], [0, 1, 2]], ids=str)
def test_read_frames_works_in_a_service_without_standard_streams(real_clip, tmp_path, closed):
    code = f"""
import os
from pathlib import Path
from dfdetect.video.isolated import DecoderPool
for stream in {closed}:
    os.close(stream)
with DecoderPool() as decoders:
    count = len(list(decoders.read_frames({str(real_clip)!r}, 4)))
Path("count").write_text(str(count))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60)
    assert (tmp_path / "count").read_text() == "4"


def test_read_frames_reports_a_decoder_that_dies_between_frames(real_clip, decoders):
    frames = decoders.read_frames(real_clip, 4)
    next(frames)
    (busy,) = decoders.busy
    busy.process.kill()
    busy.process.wait()
    with pytest.raises(VideoError, match=r"its decoder crashed \(exit status -9\)"):
        list(frames)


def test_read_frames_accepts_numpy_integers(real_clip):
    with DecoderPool() as decoders:
        assert len(list(decoders.read_frames(real_clip, np.int64(3)))) == 3
        chosen = decoders.read_frames(real_clip, indices=np.array([2, 5]))
        assert [frame.number for frame in chosen] == [2, 5]


def test_closed_tells_whether_the_pool_was_closed():
    decoders = DecoderPool()
    assert not decoders.closed
    decoders.close()
    assert decoders.closed


def test_decoders_start_if_the_path_of_modules_holds_other_objects(real_clip, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, Path("lib")])
    with DecoderPool() as pool:
        assert len(list(pool.read_frames(real_clip, 2))) == 2
