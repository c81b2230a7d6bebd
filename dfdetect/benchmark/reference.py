"""The reference detector of `bench`: it finds faces as the challenge's winner did."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

from dfdetect.detector import CheckedFrames, Detector
from dfdetect.errors import ArgumentError
from dfdetect.faces.detection import brighten
from dfdetect.faces.mtcnn import shrink
from dfdetect.faces.tracking import FaceTrack, track_faces
from dfdetect.results import Box, Status, VideoResult
from dfdetect.runtime.engines import TORCH
from dfdetect.video.reader import Frame, VideoError, open_with_opencv, pick_evenly


class ReferenceDetector(Detector):
    """Finds faces as the winner of the Deepfake Detection Challenge did (Seferbekov 2020).

    OpenCV decodes all frames of a video, and `WinnersFaceDetector` searches each sampled frame. The
    faces are scored with the model of another detector, in float32.

    Args:
        detector: The detector whose model and number of frames are used.

    Example:
        >>> ReferenceDetector(load_detector()).predict_file("video.mp4").probability
        0.93
    """

    def __init__(self, detector: Detector):
        super().__init__(
            detector.model, detector.spec, detector.device, detector.frames, engine=TORCH
        )
        for classifier in self.classifiers:
            classifier.half = False
        self.detect = WinnersFaceDetector(detector.device).detect

    def predict_file(self, path: Path) -> VideoResult:
        """Score a video. The result says if OpenCV finds no frame in the file."""
        try:
            return self.predict(read_with_opencv(path, self.frames))
        except (ArgumentError, VideoError):  # OpenCV reads no frame
            return VideoResult.without_score(path, path.name, Status.NO_FRAME)

    def _find_tracks(
        self, read: Callable[[], Iterator[Frame]], _: object, check: Callable[[], None]
    ) -> tuple[list[FaceTrack], CheckedFrames]:
        frames = CheckedFrames(read(), check)
        return track_faces(frames, self.detect, self._cut_formats, search_stride=1), frames


class WinnersFaceDetector:
    """The face detector of the winner of the Deepfake Detection Challenge.

    The network is the MTCNN of facenet_pytorch. It gets the frames at half their width and height,
    brightened if they are dark.
    """

    def __init__(self, device: torch.device):
        self.network = MTCNN(
            keep_all=True, min_face_size=20, thresholds=[0.6, 0.7, 0.7], device=device
        )

    def detect(
        self, images: Sequence[np.ndarray], smallest: float | None = None
    ) -> list[list[Box]]:
        """Return the boxes of the faces in each image, as `FaceDetector.detect` does.

        The argument `smallest` is ignored: the network always looks for faces of all sizes.
        """
        found: list[list[Box]] = []
        for image in images:
            height, width = image.shape[:2]
            half = brighten(shrink(image, (width // 2, height // 2)))
            boxes = self.network.detect(half)[0]
            boxes = np.zeros((0, 4)) if boxes is None else 2 * boxes.astype(float)
            found.append([tuple(box) for box in boxes.tolist()])
        return found


def read_with_opencv(path: str | Path, count: int) -> Iterator[Frame]:
    """Decode all frames of a video with OpenCV, and yield `count` evenly spaced frames.

    A video with fewer than `count` frames gives all its frames.

    Raises:
        VideoError: OpenCV finds no frame.

    Example:
        >>> [frame.number for frame in read_with_opencv("video.mp4", 4)]
        [37, 112, 187, 262]
    """
    capture = open_with_opencv(Path(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if total <= 0:
        raise VideoError(path, Status.NO_FRAME)
    wanted = set(pick_evenly(np.arange(total), count).tolist())
    for number in range(total):
        if not capture.grab():
            break
        if number in wanted:
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            good, image = capture.retrieve()
            if good:
                yield Frame(time, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), number)
    capture.release()
