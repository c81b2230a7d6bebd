import weakref

import numpy as np
import pytest
import torch

from dfdetect.faces import tracking
from dfdetect.faces.detection import MTCNNDetector
from dfdetect.faces.geometry import CropFormat, CropRule, iou
from dfdetect.faces.tracking import track_faces
from dfdetect.video.reader import Frame, read_frames

SMALL, LARGE = (CropFormat(CropRule(), size) for size in (16, 64))


class ScriptedDetector:
    """A face detector that returns `script(number)` as the boxes of a frame.

    The detector reads the number of the frame from the frame's pixels.
    """

    def __init__(self, script):
        self.script = script
        self.looked_at = []
        self.known = {}

    def detect(self, images, smallest=None):
        numbers = [int(image[0, 0, 0]) for image in images]
        self.looked_at += numbers
        self.known |= dict.fromkeys(numbers, smallest)
        return [self.script(number) for number in numbers]


class ScriptedNearbyDetector(ScriptedDetector):
    """A `ScriptedDetector` that can also look for a face near its expected box.

    It finds a face of the script whose centre lies in the box where the face is expected.
    """

    def __init__(self, script):
        super().__init__(script)
        self.looked_nearby = []

    def detect_nearby(self, images, boxes):
        numbers = [int(image[0, 0, 0]) for image in images]
        self.looked_nearby += numbers
        return [
            [self.nearby(number, box) for box in own]
            for number, own in zip(numbers, boxes, strict=True)
        ]

    def nearby(self, number, box):
        left, top, right, bottom = box
        for face in self.script(number):
            if left < (face[0] + face[2]) / 2 < right and top < (face[1] + face[3]) / 2 < bottom:
                return face
        return None


def blank_frames(count, size=(200, 300)):
    return [Frame(number / 10, np.full((*size, 3), number, np.uint8)) for number in range(count)]


@pytest.fixture(scope="module")
def face_detector():
    return MTCNNDetector(torch.device("cpu"))


def track_with(face_detector, frames):
    return track_faces(frames, face_detector.detect, [SMALL], face_detector.detect_nearby)


def test_track_faces_searches_most_frames_for_known_sizes_only():
    face_detector = ScriptedDetector(lambda number: [(10, 10, 60, 70 - number)])
    track_faces(blank_frames(32), face_detector.detect, [SMALL])
    smallest = {number for number, known in face_detector.known.items() if known is None}
    assert smallest == {0, 16}
    assert (face_detector.known[4], face_detector.known[31]) == (44, 44)


@pytest.mark.parametrize("speed", [0, 6])
def test_track_faces_searches_few_frames_if_known_faces_are_found_nearby(speed):
    def script(number):
        return [(10 + speed * number, 10, 60 + speed * number, 60)]

    face_detector = ScriptedNearbyDetector(script)
    (track,) = track_with(face_detector, blank_frames(32))
    assert sorted(face_detector.looked_at) == [0, 8, 16, 24, 31]
    assert {*face_detector.looked_at, *face_detector.looked_nearby} == set(range(32))
    assert track.boxes == [pytest.approx(script(number)[0]) for number in range(32)]


def test_track_faces_follows_a_swaying_face():
    def script(number):
        left = 100 + 50 * (number % 4 == 1) - 50 * (number % 4 == 3)
        return [(left, 10, left + 50, 60)]

    (track,) = track_with(ScriptedNearbyDetector(script), blank_frames(32))
    assert track.boxes == [pytest.approx(script(number)[0]) for number in range(32)]


@pytest.mark.parametrize(("start", "end"), [(3, 31), (9, 31), (18, 31), (27, 31), (0, 5), (11, 21)])
def test_track_faces_finds_the_start_and_the_end_of_a_second_face(start, end):
    always, other = (10, 10, 60, 60), (200, 100, 260, 180)
    face_detector = ScriptedNearbyDetector(
        lambda number: [always, other] if start <= number <= end else [always]
    )
    first, second = track_with(face_detector, blank_frames(32))
    assert len(first.times) == 32
    assert (second.times[0], second.times[-1]) == (start / 10, end / 10)


def test_track_faces_keeps_a_known_face_that_searches_miss():
    hard, easy = (10, 10, 60, 60), (200, 100, 260, 180)
    face_detector = ScriptedNearbyDetector(lambda number: [hard, easy])
    found = face_detector.detect

    def detect(images, smallest=None):
        boxes = found(images, smallest)
        return [
            one if image[0, 0, 0] == 0 else [easy] for image, one in zip(images, boxes, strict=True)
        ]

    face_detector.detect = detect
    tracks = track_with(face_detector, blank_frames(40))
    assert [track.times[-1] for track in tracks] == [3.9, 3.9]


def test_track_faces_finds_a_face_again_that_jumped():
    face_detector = ScriptedNearbyDetector(
        lambda number: [(10, 10, 60, 60) if number < 13 else (200, 100, 250, 150)]
    )
    first, second = track_with(face_detector, blank_frames(32))
    assert (first.times[0], first.times[-1]) == (0, 1.2)
    assert (second.times[0], second.times[-1]) == (1.3, 3.1)


def test_track_faces_counts_a_face_once_that_is_expected_twice():
    """Two faces approach each other and only one of them stays: both are expected there."""
    face_detector = ScriptedNearbyDetector(
        lambda number: [(10, 10, 60, 60), (50, 10, 100, 60)] if number < 8 else [(30, 10, 80, 60)]
    )
    tracks = track_with(face_detector, blank_frames(32))
    for track in tracks:
        assert len(track.times) == len(set(track.times))
    assert len(tracks) == 2


def test_track_faces_searches_for_all_sizes_while_no_face_is_known():
    face_detector = ScriptedDetector(lambda number: [(10, 10, 60, 60)] if number > 15 else [])
    (track,) = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert all(face_detector.known[number] is None for number in range(0, 17, 2))
    assert (track.times[0], track.times[-1]) == (1.6, 3.1)


@pytest.mark.parametrize(("speed", "looked_at"), [(0, range(0, 32, 4)), (4, range(0, 32, 2))])
def test_track_faces_detects_on_fewer_frames_if_faces_keep_still(speed, looked_at):
    face_detector = ScriptedDetector(
        lambda number: [(10 + speed * number, 10, 60 + speed * number, 60)]
    )
    (track,) = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert sorted(face_detector.looked_at) == [*looked_at, 31]
    assert track.times == [number / 10 for number in range(32)]


def test_track_faces_detects_on_more_frames_when_a_face_appears():
    always, later = (10, 10, 60, 60), (200, 100, 260, 180)
    face_detector = ScriptedDetector(lambda number: [always, later] if number >= 14 else [always])
    first, second = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert 14 in face_detector.looked_at
    assert 10 not in face_detector.looked_at
    assert (len(first.times), second.times[0]) == (32, 1.4)


def test_track_faces_interpolates_boxes_between_detection_frames():
    face_detector = ScriptedDetector(lambda number: [(10 + number, 20, 60 + number, 70)])
    (track,) = track_faces(blank_frames(20), face_detector.detect, [SMALL])
    for time, box in zip(track.times, track.boxes, strict=True):
        assert box == pytest.approx((10 + 10 * time, 20, 60 + 10 * time, 70))


def test_track_faces_keeps_two_moving_people_apart():
    face_detector = ScriptedDetector(
        lambda number: [(200 - number, 50, 260 - number, 120), (10 + number, 50, 70 + number, 120)]
    )
    first, second = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert first.boxes[-1][0] == pytest.approx(169)
    assert second.boxes[-1][0] == pytest.approx(41)
    assert len(first.crops[SMALL]) == len(second.crops[SMALL]) == 32


@pytest.mark.parametrize("missed", [4, 8, 12, 16, 20])
def test_track_faces_bridges_four_missed_detection_frames(missed):
    face_detector = ScriptedDetector(
        lambda number: [] if number in range(missed, missed + 8) else [(10, 10, 60, 60)]
    )
    (track,) = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert track.times == [number / 10 for number in range(32)]
    assert set(range(missed, missed + 8, 2)) <= set(face_detector.looked_at)


def test_track_faces_follows_a_face_that_moves_by_its_own_width():
    face_detector = ScriptedDetector(lambda number: [(10 + 24 * number, 20, 60 + 24 * number, 80)])
    (track,) = track_faces(blank_frames(10), face_detector.detect, [SMALL])
    assert track.boxes[5] == pytest.approx((130, 20, 180, 80))


def test_track_faces_of_a_face_that_appears_late_and_leaves():
    face_detector = ScriptedDetector(lambda number: [(10, 10, 60, 60)] if 8 <= number <= 16 else [])
    (track,) = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert (track.times[0], track.times[-1]) == (0.8, 1.6)


def test_track_faces_drops_a_face_detected_once_beside_other_faces():
    always, once = (10, 10, 60, 60), (200, 100, 260, 180)
    face_detector = ScriptedDetector(lambda number: [always, once] if number == 12 else [always])
    (track,) = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert track.boxes[0] == pytest.approx(always)


def test_track_faces_keeps_the_only_face_if_it_is_detected_once():
    face_detector = ScriptedDetector(lambda number: [(10, 10, 60, 60)] if number == 12 else [])
    (track,) = track_faces(blank_frames(32), face_detector.detect, [SMALL])
    assert track.times == [1.2]
    assert len(track.crops[SMALL]) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 17, 18])
def test_track_faces_of_any_number_of_frames(count):
    face_detector = ScriptedDetector(lambda number: [(10, 10, 60, 60)])
    tracks = track_faces(blank_frames(count), face_detector.detect, [SMALL])
    assert [len(track.times) for track in tracks] == ([count] if count else [])


def test_track_faces_holds_few_frames_at_a_time(monkeypatch):
    monkeypatch.setattr("dfdetect.faces.tracking.RUN_BYTES", 1)
    drawn = []

    def frames():
        for frame in blank_frames(40):
            drawn.append(frame)
            yield frame

    def look(number):
        assert len(drawn) - number <= 5
        return [(10, 10, 60, 60)]

    (track,) = track_faces(frames(), ScriptedDetector(look).detect, [SMALL])
    assert len(track.times) == 40


def test_track_faces_holds_few_large_frames_after_a_face_has_left(monkeypatch):
    frame = np.zeros((200, 300, 3), np.uint8)
    monkeypatch.setattr(tracking, "RUN_BYTES", 4 * frame.nbytes)
    monkeypatch.setattr(tracking, "WAITING_BYTES", 4 * frame.nbytes)
    box = (50.0, 50.0, 100.0, 100.0)
    detector = ScriptedDetector(lambda number: [box] if number < 3 else [])
    alive, most = set(), 0

    def frames():
        nonlocal most
        for number in range(60):
            image = np.full_like(frame, number)
            alive.add(number)
            weakref.finalize(image, alive.discard, number)
            most = max(most, len(alive))
            yield Frame(number / 10, image)
            del image

    (track,) = track_faces(frames(), detector.detect, [SMALL])
    assert len(track.times) == 3
    assert most <= 4 + 4 + 2  # frames that wait, a run, and those just read


def side_by_side(sample_data, count, start=0):
    """Return frames of two people. The right half is grey up to the frame with number `start`."""
    folder = sample_data / "train_sample_videos"
    left = read_frames(folder / "ajqslcypsw.mp4", count)
    right = read_frames(folder / "cknyxaqouy.mp4", count)
    return [
        Frame(
            one.time,
            np.hstack([one.image, other.image if number >= start else 0 * other.image + 128]),
        )
        for number, (one, other) in enumerate(zip(left, right, strict=True))
    ]


@pytest.mark.parametrize("nearby", [False, True])
def test_track_faces_of_two_people_in_a_real_video(face_detector, sample_data, nearby):
    frames = side_by_side(sample_data, 16)
    detect_nearby = face_detector.detect_nearby if nearby else None
    tracks = track_faces(frames, face_detector.detect, [LARGE], detect_nearby)
    assert len(tracks) == 2
    centres = sorted((track.boxes[0][0] + track.boxes[0][2]) / 2 for track in tracks)
    assert centres[0] < 640 < centres[1]
    assert [len(track.times) for track in tracks] == [16, 16]


def test_track_faces_of_a_person_who_comes_late_in_a_real_video(face_detector, sample_data):
    frames = side_by_side(sample_data, 16, start=11)
    first, second = track_faces(frames, face_detector.detect, [LARGE], face_detector.detect_nearby)
    assert (len(first.times), len(second.times)) == (16, 5)
    assert second.boxes[0][0] > 640


@pytest.mark.parametrize("nearby", [False, True])
def test_track_faces_covers_faces_where_a_search_of_each_frame_finds_them(
    face_detector, real_clip, nearby
):
    frames = list(read_frames(real_clip, 32))
    detect_nearby = face_detector.detect_nearby if nearby else None
    (track,) = track_faces(frames, face_detector.detect, [LARGE], detect_nearby)
    found = face_detector.detect([frame.image for frame in frames])
    overlaps = [iou(box, boxes[0]) for box, boxes in zip(track.boxes, found, strict=True) if boxes]
    assert len(overlaps) >= 28
    assert min(overlaps) > (0.7 if nearby else 0.5)
