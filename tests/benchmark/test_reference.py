import resource

import numpy as np
import pytest

from dfdetect import load_detector
from dfdetect.benchmark.bench import face_agreement
from dfdetect.benchmark.reference import ReferenceDetector, read_with_opencv
from dfdetect.results import Status
from dfdetect.video.discovery import find_videos


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def remember(detect):
    """Return a `detect` that searches the same images only once."""
    found = {}

    def detect_once(images, smallest=None):
        key = tuple(hash(image.tobytes()) for image in images)
        if key not in found:
            found[key] = detect(images, smallest)
        return found[key]

    return detect_once


@pytest.mark.corpus
@pytest.mark.slow
def test_detector_answers_as_the_reference_detector_does(corpus):
    """One video of the challenge shows two people, and one video is dark."""
    videos = list(find_videos([corpus / "videos" / "dfdc"]).values())
    idle = peak_mb()
    names = (None, "tf_efficientnet_lite2_224")
    detectors = [load_detector(name, "cpu", engine="torch") for name in names]
    scores = [list(detector.predict_videos(videos)) for detector in detectors]
    assert peak_mb() - idle < 1500

    references = [ReferenceDetector(detector) for detector in detectors]
    detect = remember(references[0].detect)
    expected = [[], []]
    for video in videos:
        frames = list(read_with_opencv(video, detectors[0].frames))
        for reference, results in zip(references, expected, strict=True):
            reference.detect = detect
            results.append(reference.predict(frames))
    for name, *pair in zip(names, scores, expected, strict=True):
        assert face_agreement(*pair) >= 0.99, name
        found, wanted = ([result.probability for result in results] for results in pair)
        differences = np.abs(np.subtract(found, wanted))
        assert differences.mean() <= 0.02, name
        assert differences.max() <= 0.1, name


def test_reference_detector_says_if_opencv_finds_no_frame(detector, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    result = ReferenceDetector(detector).predict_file(tmp_path / "text.mp4")
    assert result.status == Status.NO_FRAME


def test_read_with_opencv_yields_evenly_spaced_frames(write_clip, numbered_frames):
    frames = list(read_with_opencv(write_clip(numbered_frames(40)), 4))
    assert [frame.number for frame in frames] == [5, 15, 24, 34]
    for frame in frames:
        digits = [round(frame.image[40:56, left : left + 16].mean() / 25) for left in (40, 72)]
        assert digits == [frame.number // 10, frame.number % 10]
        assert frame.time == pytest.approx(frame.number / 25)
