"""Decode videos in separate processes, so that a malicious file cannot harm the caller's process.

FFmpeg is a large library in C, and the files that it reads may come from strangers. If a decoder
process crashes, takes too long or needs too much memory, the caller only gets a `VideoError`.

A decoder process sends images through shared memory, as plain bytes. Nothing is unpickled, because
unpickling can run code. FFmpeg's messages are discarded, unless the log level of this module is
DEBUG.
"""

import json
import logging
import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any, NoReturn, cast

import numpy as np

from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import DfdetectError
from dfdetect.results import Status
from dfdetect.video.reader import Frame, VideoError, read_frames, show_ffmpeg_warnings

# Seconds that reading one video may take, including the time in which the caller uses the frames.
TIME_LIMIT = 300.0
# Bytes of address space that a decoder process may use.
MEMORY_LIMIT = 4 * 2**30
# Without these settings, the C library of Linux returns the buffer of each frame to the system. The
# system would then clear memory for the next frame, which takes time.
KEEP_BUFFERS = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
LOGGER = logging.getLogger(__name__)


class CancelledError(DfdetectError):
    """The `DecoderPool` was closed before a video was read to its end."""


class DecoderPool:
    """A pool of decoder processes, each of which reads one video at a time.

    Several threads may use a pool at the same time, each of them for its own video. The processes
    end when the pool is closed or no longer referenced. A pickled pool keeps its settings, but not
    its processes.

    Args:
        threads: Number of frames that each process decodes at once. 0 means that FFmpeg chooses the
            number.

    Example:
        >>> with DecoderPool() as decoders:
        ...     frames = list(decoders.read_frames("video.mp4", 8))
    """

    def __init__(self, threads: int = 0):
        self.threads = threads
        self._processes = _Processes()
        weakref.finalize(self, self._processes.end)

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return DecoderPool, (self.threads,)

    @property
    def idle(self) -> "list[DecoderProcess]":
        """Return the processes that are waiting for a video."""
        return list(self._processes.idle)

    @property
    def busy(self) -> "list[DecoderProcess]":
        """Return the processes that are reading a video."""
        return list(self._processes.busy)

    @property
    def closed(self) -> bool:
        """Return whether the pool was closed."""
        return self._processes.ended

    def read_frames(
        self,
        path: str | Path,
        num_frames: int = DEFAULT_FRAMES,
        *,
        indices: Sequence[int] | None = None,
        seconds: float = TIME_LIMIT,
    ) -> Iterator[Frame]:
        """Yield evenly spaced frames of a video, or frames with given numbers, in order of time.

        The frames are the same as from `dfdetect.video.reader.read_frames`. On Windows, the
        caller's process decodes them, without a time limit.

        Args:
            path: Any video or image file that `dfdetect.video.reader.read_frames` takes.
            num_frames: Number of evenly spaced frames, at least 1.
            indices: Numbers of the frames to read, counted from 0, in increasing order. None means
                that evenly spaced frames are read.
            seconds: Time limit for reading the video. The clock also runs while the caller works on
                a frame.

        Raises:
            VideoError: No frame can be read, or the decoder crashed, took too long or needed
                too much memory.
            CancelledError: The pool was closed.
            RuntimeError: The decoder process raised an unexpected exception.
        """
        if os.name == "nt":  # processes cannot share open files there
            yield from read_frames(path, num_frames, indices=indices, threads=self.threads)
            return
        decoder = self._processes.take(path)
        try:
            wanted = {
                "num_frames": int(num_frames),
                "indices": None if indices is None else [int(index) for index in indices],
                "threads": self.threads,
            }
            yield from decoder.read(path, wanted, seconds)
        finally:
            self._processes.give_back(decoder)

    def close(self) -> None:
        """Kill all processes, even while they read videos.

        Threads that are reading a video then get a `CancelledError`, and so do later calls of
        `read_frames`.
        """
        self._processes.end()


def main(shared: int, verbose: bool) -> None:
    """Answer requests for frames until standard input is closed.

    A decoder process runs this function. The requests come through standard input.

    Args:
        shared: Descriptor of the file that serves as shared memory for the frames.
        verbose: Whether FFmpeg prints its warnings.
    """
    if verbose:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.DEBUG)
        show_ffmpeg_warnings()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # printed text must not mix with answers
    limit_memory()
    areas = _Areas(shared)
    while line := sys.stdin.buffer.readline():
        _serve(sys.stdin.buffer, out, areas, **json.loads(line))


def _serve(
    requests: IO[bytes],
    out: IO[bytes],
    areas: "_Areas",
    path: str,
    returned: list[int],
    **wanted: Any,
) -> None:
    """Send the frames of a video to the caller, and then a last message.

    A decoder process runs this function. The caller is the process that asked for the frames. Each
    message is sent only after the caller has received the previous frame. If an error occurred, the
    last message names the error.

    `returned` lists the areas that the caller gives back (see `_Areas`). The other keyword
    arguments are passed to `dfdetect.video.reader.read_frames`.
    """
    areas.take_back(returned)
    end: dict[str, Any] = {}
    pending_ack = False
    try:
        for frame in read_frames(path, **wanted):
            if pending_ack:
                areas.take_back(**json.loads(requests.readline()))
            values = {name: value for name, value in vars(frame).items() if name != "image"}
            area = {"place": areas.put(frame.image), "shape": frame.image.shape}
            _write_line(out, {**values, "area": area})
            pending_ack = True
    except VideoError as error:
        end = {"status": error.status.value, "details": error.details}
    except MemoryError:
        end = {"status": Status.DECODER_OUT_OF_MEMORY.value, "details": ""}
    except Exception as error:  # the caller raises an error with this text
        LOGGER.exception("%s", path)
        end = {"fault": f"{type(error).__name__}: {error}"}
    if pending_ack:
        areas.take_back(**json.loads(requests.readline()))
    _write_line(out, end)


class _Areas:
    """The areas of the shared memory, as the decoder process manages them.

    The shared memory is a file. An area is a part of this file that holds one image. The place of
    an area is its offset in the file, in bytes.

    An area with an image belongs to the caller, the process that asked for frames. When the caller
    gives the area back, the decoder process can write another image to it.

    Attributes:
        size: Size of new areas in bytes: the size of the largest image so far.
        lent: The areas that belong to the caller: a dictionary from the place of an area to its
            size in bytes.
        free: The places of the free areas whose size is `size`.
        end: The place of the next new area.
    """

    def __init__(self, file: int):
        self.file = file
        self.size = 0
        self.lent: dict[int, int] = {}
        self.free: list[int] = []
        self.end = 0

    def put(self, image: np.ndarray) -> int:
        """Write an image to a free area, and return the area's place (its offset in bytes)."""
        if image.nbytes > self.size:
            self.size = image.nbytes
            self.free.clear()
            if not self.lent:
                os.ftruncate(self.file, 0)
                self.end = 0
        if not self.free:
            self.free.append(self.end)
            self.end += self.size
            # The caller maps the whole file again after each growth. Large steps make this rare.
            if self.end > os.fstat(self.file).st_size:
                os.ftruncate(self.file, 2 * self.end)
        place = self.free.pop()
        os.pwrite(self.file, np.ascontiguousarray(image).data, place)
        self.lent[place] = self.size
        return place

    def take_back(self, returned: list[int]) -> None:
        """Mark areas of the shared memory as free, because the caller no longer uses them.

        `returned` holds the places of these areas: their offsets in bytes.
        """
        self.free += [place for place in returned if self.lent.pop(place) == self.size]


class _SharedImages:
    """The images in the shared memory, as the caller uses them.

    This class also lists the areas that the caller no longer uses. `_Areas` explains the terms
    caller, area and place.
    """

    def __init__(self, file: int):
        self.file = file
        self.bytes = np.zeros(0, np.uint8)
        self.returned: deque[int] = deque()

    def get(self, place: int, shape: list[int]) -> np.ndarray:
        """Return the image in the area at `place`, without copying the image."""
        end = place + prod(shape)
        if end > len(self.bytes):
            self.bytes = np.frombuffer(mmap.mmap(self.file, 0), np.uint8)
        return np.asarray(_Loan(self.bytes[place:end].reshape(shape), place, self.returned))

    def take_returned(self) -> list[int]:
        """Return the places of the areas that the caller has given back since the last call."""
        return [self.returned.popleft() for _ in range(len(self.returned))]


class _Loan:
    """An image that the caller uses in an area of the shared memory.

    Each array that uses the area keeps the `_Loan` alive. When the last such array is deleted, the
    `_Loan` appends the place of the area (see `_Areas`) to a list of returned areas. The decoder
    process may then write to the area again.
    """

    def __init__(self, image: np.ndarray, place: int, returned: deque[int]):
        self.__array_interface__ = image.__array_interface__
        self._image = image
        self._place = place
        self._returned = returned

    def __del__(self) -> None:
        self._returned.append(self._place)


def _write_line(out: IO[bytes], values: dict[str, Any]) -> None:
    out.write(json.dumps(values).encode() + b"\n")
    out.flush()


def limit_memory() -> None:
    """Limit the address space of this process to `MEMORY_LIMIT`, if the system supports limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = hard == resource.RLIM_INFINITY
    soft = MEMORY_LIMIT if unlimited else min(MEMORY_LIMIT, hard)
    with suppress(OSError, ValueError):  # macOS has the limit but ignores it
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def import_path() -> list[str]:
    """Return the folders in which a new process should search for modules, as this one does."""
    return [entry for entry in sys.path if isinstance(entry, str)]  # Python ignores other entries


class DecoderProcess:
    """Starts one decoder process, sends requests to it, and receives frames from it.

    Attributes:
        process: The decoder process.
        ready: Whether the process is waiting for a request.
        cancelled: Whether the `DecoderPool` of the process was closed while the process was reading
            a video.
        expired: Whether the process was killed because reading a video exceeded the time limit.
    """

    def __init__(self) -> None:
        # The decoder process imports from the same folders as the caller. `python -m` would also
        # import from the current folder, which may hold the videos.
        code = "import sys; sys.path[:] = {!r}; import dfdetect.video.isolated as w; w.main({}, {})"
        shared = _new_file()
        self.images = _SharedImages(shared)
        verbose = LOGGER.isEnabledFor(logging.DEBUG)
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", code.format(import_path(), shared, verbose)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            # The decoder does not need numpy's threads, and they would use up address space.
            env={**os.environ, **KEEP_BUFFERS, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            # Ctrl-C must reach only the caller, which then ends the decoders.
            start_new_session=True,
            pass_fds=[shared],
        )
        self._requests = cast(IO[bytes], self.process.stdin)
        self._answers = cast(IO[bytes], self.process.stdout)
        LOGGER.debug("started decoder %d", self.process.pid)
        self.ready = True
        self.cancelled = False
        self.expired = False

    def read(self, path: str | Path, wanted: dict[str, Any], seconds: float) -> Iterator[Frame]:
        """Yield the frames of a video, or raise the same errors as `DecoderPool.read_frames`.

        Args:
            path: The video file.
            wanted: A dictionary of the other arguments of `dfdetect.video.reader.read_frames`.
            seconds: Time limit for reading the video.
        """
        self.ready = False
        timer = Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            self._send({"path": str(Path(path).absolute()), **wanted})
            while "area" in (answer := self._receive(path)):
                self._send({})
                yield Frame(image=self.images.get(**answer.pop("area")), **answer)
        finally:
            timer.cancel()
        self.ready = True
        if "status" in answer:
            raise VideoError(path, Status(answer["status"]), answer["details"])
        if "fault" in answer:
            raise RuntimeError(answer["fault"])

    def close(self) -> None:
        """End the process, and close its pipes and its shared memory."""
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):  # the buffer may still hold a request
            self._requests.close()
        self._answers.close()
        os.close(self.images.file)

    def _expire(self) -> None:
        self.expired = True
        self.process.kill()

    def _send(self, values: dict[str, Any]) -> None:
        message = {**values, "returned": self.images.take_returned()}
        with suppress(BrokenPipeError):  # the process is dead, which `_receive` will notice
            _write_line(self._requests, message)

    def _receive(self, path: str | Path) -> dict[str, Any]:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            self._raise_end(path)
        return json.loads(line)

    def _raise_end(self, path: str | Path) -> NoReturn:
        """Raise the error that says why the process ended."""
        status = self.process.wait()
        if self.cancelled:
            raise CancelledError(path)
        if self.expired:
            raise VideoError(path, Status.DECODER_TOO_SLOW)
        raise VideoError(path, Status.DECODER_CRASHED, f"exit status {status}")


class _Processes:
    """The processes of a `DecoderPool`.

    This class must not refer to the pool. The pool's finalizer would then keep the pool alive.
    """

    def __init__(self) -> None:
        self.idle: list[DecoderProcess] = []
        self.busy: set[DecoderProcess] = set()
        self.ended = False
        self.lock = Lock()

    def take(self, path: str | Path) -> DecoderProcess:
        """Return an idle process that is alive, or a new process, to read the video at `path`."""
        with self.lock:
            if self.ended:
                raise CancelledError(path)
            decoder = self._idle() or DecoderProcess()
            self.busy.add(decoder)
        return decoder

    def give_back(self, decoder: DecoderProcess) -> None:
        """Keep a process for the next video, if the process is ready and the pool is open.

        Otherwise, close the process. A process is not ready if its video was not read to the end.
        """
        with self.lock:
            self.busy.discard(decoder)
            if decoder.ready and not self.ended:
                self.idle.append(decoder)
                return
        decoder.close()

    def end(self) -> None:
        """Kill all processes, and close the pipes of the idle processes.

        The pipes of a busy process are closed by the thread that reads a video from it.
        """
        with self.lock:
            self.ended = True
            idle, self.idle = self.idle, []
            for decoder in self.busy:
                decoder.cancelled = True
                decoder.process.kill()
        for decoder in idle:
            decoder.close()

    def _idle(self) -> DecoderProcess | None:
        while self.idle:
            decoder = self.idle.pop()
            if decoder.process.poll() is None:
                return decoder
            decoder.close()
        return None


def _new_file() -> int:
    """Return the descriptor of a new file without a name.

    On Linux, the file lies in memory. On other systems, it is a temporary file. The descriptor is
    never one of the standard streams, even if these are closed, as in a service: the decoder
    process has other files there.
    """
    import fcntl  # Windows does not have it

    if hasattr(os, "memfd_create"):
        new = os.memfd_create("dfdetect")
    else:
        with tempfile.TemporaryFile() as file:
            new = os.dup(file.fileno())
    try:
        return fcntl.fcntl(new, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(new)
