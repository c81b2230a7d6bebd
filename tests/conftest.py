"""Fixtures: the sample videos, the research data if it exists, and videos made by the tests."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from timm.models import vgg

from dfdetect import Detector, load_detector
from dfdetect.models import xception
from dfdetect.runtime import engines
from dfdetect.video import reader

REPOSITORY = Path(__file__).parent.parent
CORPUS = REPOSITORY.parent / "shared" / "data"


def pytest_configure() -> None:
    """Let each process of pytest-xdist, and the commands that it starts, compute on one core."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        cv2.setNumThreads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not CORPUS.is_dir():
        skip = pytest.mark.skip(reason="the research footage is not beside this checkout")
        for item in items:
            if item.get_closest_marker("corpus"):
                item.add_marker(skip)


@pytest.fixture
def two_torch_threads():
    """Let torch use two cores in this thread, also on a machine or in a process with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def engine_auto_is_torch() -> Iterator[None]:
    """Make torch the default engine: the others take longer to compile than most tests to run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "PAYS_AFTER", sys.maxsize)
        yield


@pytest.fixture
def narrow_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build VGGs with an eighth of their channels, because they have up to 140 million weights."""
    for name, layers in vgg.cfgs.items():
        narrow = [layer if isinstance(layer, str) else layer // 8 for layer in layers]
        monkeypatch.setitem(vgg.cfgs, name, narrow)


@pytest.fixture
def short_xception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build Xceptions whose middle flow has one of its eight equal modules."""
    monkeypatch.setattr(xception, "MIDDLE_MODULES", 1)


@pytest.fixture(scope="session")
def sample_data() -> Path:
    return REPOSITORY / "sample_data"


@pytest.fixture(scope="session")
def real_clip(sample_data: Path) -> Path:
    return sample_data / "train_sample_videos" / "ajqslcypsw.mp4"


@pytest.fixture(scope="session")
def corpus() -> Path:
    return CORPUS


@pytest.fixture(scope="session")
def detector() -> Detector:
    return load_detector(device="cpu", frames=12)


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that encodes RGB frames as a video and returns its path.

    `stamps` are the times of the frames, in units of 1 / `rate`; `options` are for the codec.
    """

    def write(
        frames: Sequence[np.ndarray],
        name: str = "clip.mp4",
        codec: str = "libx264",
        rate: int = 25,
        pix_fmt: str = "yuv420p",
        movflags: str = "",
        stamps: Sequence[int] | None = None,
        frames_kept: int | None = None,
        **options: str,
    ) -> Path:
        path = tmp_path / name
        container_options = {"movflags": movflags} if movflags else {}
        with usual_priority(), av.open(str(path), "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.pix_fmt = pix_fmt
            stream.height, stream.width = frames[0].shape[:2]
            stream.codec_context.time_base = Fraction(1, rate)
            container.start_encoding()
            for number, image in enumerate(frames[:frames_kept]):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number if stamps is None else stamps[number]
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@contextmanager
def usual_priority() -> Iterator[None]:
    """Take back the real-time priority that SVT-AV1 gives to a process of root.

    Otherwise, processes that the tests start later would inherit this priority, and all other
    processes would hardly run.
    """
    try:
        yield
    finally:
        if sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[av.VideoFrame]:
    """Return a list to which every frame that this process decodes is added."""
    frames = []
    decode = reader._decode

    def note(*arguments: object) -> Iterator[av.VideoFrame]:
        for frame in decode(*arguments):
            frames.append(frame)
            yield frame

    monkeypatch.setattr(reader, "_decode", note)
    return frames


@pytest.fixture
def numbered_frames() -> Callable[[int], list[np.ndarray]]:
    """Return a function that makes numbered frames.

    The number is shown by two grey patches in moving noise, with 25 grey levels for each digit.
    """

    def make(count: int, size: tuple[int, int] = (96, 128)) -> list[np.ndarray]:
        noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
        frames = []
        for number in range(count):
            frame = np.roll(noise, 3 * number, axis=1)
            frame[32:64, 32:64] = 25 * (number // 10)
            frame[32:64, 64:96] = 25 * (number % 10)
            frames.append(frame)
        return frames

    return make


@pytest.fixture
def face_set(tmp_path: Path) -> Path:
    """Return the index of a face set that `make_face_set` has written."""
    return make_face_set(tmp_path)


def make_face_set(parent: Path) -> Path:
    """Write 48 crops of 12 actors in three sizes; FAKE crops have a checkerboard pattern."""
    generator = np.random.default_rng(0)
    folder = parent / "faces"
    folder.mkdir()
    rows = []
    for number in range(48):
        size = 40 + 8 * (number % 3)
        image = generator.integers(60, 120, (size, size, 3), dtype=np.uint8)
        label = ("REAL", "FAKE")[number % 2]
        if label == "FAKE":
            image[(np.indices((size, size)) // 8).sum(axis=0) % 2 == 0] += 100
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
        rows.append((f"{number:03}", label, f"actor{number // 4}"))
    index = parent / "faces.csv"
    pd.DataFrame(rows, columns=["id", "label", "actor_group"]).to_csv(index, index=False)
    return index
