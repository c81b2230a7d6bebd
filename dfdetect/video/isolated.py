"""Frames of a video, read in a process of its own: a hostile file takes that down, and no more.

FFmpeg is half a million lines of C that read what strangers send. So videos are opened by decoder
processes, which are kept for the next video: one that crashes, takes too long or asks for too much
memory costs its video a reason, and another takes its place. Frames come back one by one through
shared memory, as plain bytes; nothing is unpickled. What FFmpeg prints goes nowhere.
"""

import atexit
import json
import logging
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO, NoReturn

import numpy as np

from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import DfdetectError
from dfdetect.results import CRASHED, TOO_LARGE, TOO_SLOW
from dfdetect.video.reader import Frame, VideoError, av, read_frames

# Seconds that reading a video may take, pauses in which nobody wants its frames included.
TIME_LIMIT = 300.0
# Bytes of a decoder's address space.
MEMORY_LIMIT = 4 * 2**30
LOGGER = logging.getLogger(__name__)


class CancelledError(DfdetectError):
    """The video is no longer wanted."""


def read_frames_apart(
    path: str | Path,
    count: int | Sequence[int] = DEFAULT_FRAMES,
    threads: int = 0,
    seconds: float = TIME_LIMIT,
) -> Iterator[Frame]:
    """Yield frames of a video, as `read_frames`, from a process of their own.

    May be used by several threads, each for another video. On Windows, where processes do not share
    open files, this is `read_frames`.

    Args:
        path: Any video file that FFmpeg reads.
        count: As in `read_frames`.
        threads: Of the decoder; 0 for as many as there are cores.
        seconds: How long reading it may take, to the last frame.

    Raises:
        VideoError: As `read_frames`; or the decoder crashed, took too long or too much memory.
        CancelledError: `cancel_all` was called.

    Example:
        >>> frames = list(read_frames_apart("video.mp4", count=8))
    """
    if os.name == "nt":
        yield from read_frames(path, count, threads)
        return
    decoder = _idle_decoder()
    _BUSY.add(decoder)
    try:
        yield from decoder.read(path, count, threads, seconds)
    finally:
        _BUSY.discard(decoder)
        if decoder.ready:
            _IDLE.append(decoder)
        else:
            decoder.close()


def cancel_all() -> None:
    """Give up all videos that are being read, at once; may be called by a signal's handler."""
    for decoder in list(_BUSY):
        decoder.cancelled = True
        decoder.process.kill()


def main(shared: int, verbose: bool) -> None:
    """Serve requests from standard input until it ends: what a decoder process runs.

    Args:
        shared: Descriptor of the file that frames are passed through.
        verbose: Let FFmpeg say what it thinks of the files.
    """
    if verbose:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.DEBUG)
        if av is not None:
            av.logging.set_level(av.logging.WARNING)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else gets among the answers
    _limit_memory()
    slot = _Slot(shared)
    while line := sys.stdin.buffer.readline():
        _serve(sys.stdin.buffer, out, slot, **json.loads(line))


def _serve(
    requests: BinaryIO,
    out: BinaryIO,
    slot: "_Slot",
    path: str,
    count: int | list[int],
    threads: int,
) -> None:
    """Hand out frames, each once the one before was taken; then say how it ended."""
    end: dict[str, Any] = {}
    pending_ack = False
    try:
        for frame in read_frames(path, count, threads):
            if pending_ack:
                requests.readline()
            slot.put(frame.image)
            _write_line(
                out, {"time": frame.time, "number": frame.number, "shape": frame.image.shape}
            )
            pending_ack = True
    except VideoError as error:
        end["reason"] = error.reason
    except MemoryError:
        end["reason"] = TOO_LARGE
    except Exception as error:  # whatever it is, it belongs to the caller
        LOGGER.exception("%s", path)
        end["fault"] = f"{type(error).__name__}: {error}"
    if pending_ack:
        requests.readline()
    _write_line(out, end)


class _Slot:
    """Memory for one image, in a file that two processes have open."""

    def __init__(self, file: int):
        self.file = file
        self.bytes = np.zeros(0, np.uint8)

    def put(self, image: np.ndarray) -> None:
        if image.nbytes > len(self.bytes):
            os.ftruncate(self.file, image.nbytes)
        self._room(image.nbytes)[:] = image.reshape(-1)

    def get(self, shape: list[int]) -> np.ndarray:
        return self._room(prod(shape)).reshape(shape).copy()

    def _room(self, size: int) -> np.ndarray:
        if size > len(self.bytes):
            self.bytes = np.frombuffer(mmap.mmap(self.file, size), np.uint8)
        return self.bytes[:size]


def _write_line(out: BinaryIO, values: dict[str, Any]) -> None:
    out.write(json.dumps(values).encode() + b"\n")
    out.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = hard == resource.RLIM_INFINITY
    soft = MEMORY_LIMIT if unlimited else min(MEMORY_LIMIT, hard)
    with suppress(OSError, ValueError):  # macOS has the limit and does not keep it
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class DecoderProcess:
    """The caller's end of a decoder process.

    Attributes:
        ready: Whether it waits for a request.
        cancelled: Whether what it reads is no longer wanted.
    """

    def __init__(self) -> None:
        # Its path is this process's: `python -m` would look for modules among the videos.
        code = "import sys; sys.path[:] = {!r}; import dfdetect.video.isolated as w; w.main({}, {})"
        shared = _new_file()
        self.slot = _Slot(shared)
        verbose = LOGGER.isEnabledFor(logging.DEBUG)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code.format(sys.path, shared, verbose)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            # numpy's threads would take address space and are of no use.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            # Ctrl-C is for the caller, who ends the decoders.
            start_new_session=True,
            pass_fds=[shared],
        )
        LOGGER.debug("started decoder %d", self.process.pid)
        self.ready = True
        self.cancelled = False
        self.expired = False

    def read(
        self, path: str | Path, count: int | Sequence[int], threads: int, seconds: float
    ) -> Iterator[Frame]:
        """Yield frames; arguments and errors are as of `read_frames_apart`."""
        self.ready = False
        timer = Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            self._send({"path": str(Path(path).absolute()), "count": count, "threads": threads})
            while "shape" in (answer := self._receive(path)):
                image = self.slot.get(answer["shape"])
                self._send({})
                yield Frame(answer["time"], image, answer["number"])
        finally:
            timer.cancel()
        self.ready = True
        if "reason" in answer:
            raise VideoError(path, answer["reason"])
        if "fault" in answer:
            raise RuntimeError(answer["fault"])

    def close(self) -> None:
        """End the process, and close all that leads to it."""
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):  # a request may still wait in it
            self.process.stdin.close()
        self.process.stdout.close()
        os.close(self.slot.file)

    def _expire(self) -> None:
        self.expired = True
        self.process.kill()

    def _send(self, values: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it is dead, and there will be no answer
            _write_line(self.process.stdin, values)

    def _receive(self, path: str | Path) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            self._raise_end(path)
        return json.loads(line)

    def _raise_end(self, path: str | Path) -> NoReturn:
        """Say why the decoder has ended."""
        status = self.process.wait()
        if self.cancelled:
            raise CancelledError(path)
        if self.expired:
            raise VideoError(path, TOO_SLOW)
        raise VideoError(path, f"{CRASHED} (status {status})")


_IDLE: list[DecoderProcess] = []
_BUSY: set[DecoderProcess] = set()


def _idle_decoder() -> DecoderProcess:
    while _IDLE:
        with suppress(IndexError):  # another thread was faster
            decoder = _IDLE.pop()
            if decoder.process.poll() is None:
                return decoder
            decoder.close()
    return DecoderProcess()


@atexit.register
def _end_decoders() -> None:
    for decoder in [*_IDLE, *_BUSY]:
        decoder.process.kill()
        decoder.process.wait()


def _new_file() -> int:
    """Descriptor of a file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dfdetect")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
