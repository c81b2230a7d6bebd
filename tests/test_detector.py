import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import dfdetect.detector as detector_module
from dfdetect import Detector, Status, Verdict, VideoResult, create_model, load_detector
from dfdetect.checkpoints.ensemble import join_specs
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.classifier import Classifier
from dfdetect.data.faceset import FaceSet
from dfdetect.data.self_blend import EYES, MOUTH, self_blend
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.faces.geometry import CropRule, iou
from dfdetect.results import OperatingPoints
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration
from dfdetect.video.reader import Frame, read_frames


class BrightIsFake(torch.nn.Module):
    """A model whose logit is the mean normalised brightness."""

    def forward(self, images):
        return images.mean(dim=(1, 2, 3))[:, None]


class BrighterIsFake(torch.nn.Module):
    """A model of clips whose logit tells how much brighter the last crop is than the first."""

    def forward(self, clips):
        brightness = clips.mean(dim=(2, 3, 4))
        return (brightness[:, -1] - brightness[:, 0])[:, None]


@pytest.fixture
def clip_detector():
    values = {"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.1, 0.1), "frames_per_clip": 4}
    spec = ModelSpec("cnn_lstm", 32, **values)
    return Detector(BrighterIsFake(), spec, torch.device("cpu"), frames=16)


def test_predict_clips_gives_the_model_consecutive_crops(clip_detector):
    frames = [np.full((40, 40, 3), level, np.uint8) for level in (100, 110, 120, 130)]
    rising, falling, still = clip_detector.predict_clips([frames, frames[::-1], frames[:1]])
    assert falling < 0.3 < 0.7 < rising
    assert still == pytest.approx(0.5)
    (alone,) = clip_detector.predict_faces([frames[0]])
    assert alone == pytest.approx(0.5)
    with pytest.raises(ValueError, match="clip 1: no crops"):
        clip_detector.predict_clips([frames, []])


class LeftIsFake(torch.nn.Module):
    """A model whose logit tells how much brighter the left half is than the right half."""

    def forward(self, images):
        left, right = images.chunk(2, dim=-1)
        return (left.mean(dim=(1, 2, 3)) - right.mean(dim=(1, 2, 3)))[:, None]


def test_predict_clips_mirrors_every_second_crop():
    crop = np.zeros((32, 32, 3), np.uint8)
    crop[:, :16] = 200
    values = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    one_way, both_ways = (
        Detector(
            LeftIsFake(), ModelSpec("xception", 32, **values, mirror=mirror), torch.device("cpu")
        )
        for mirror in (False, True)
    )
    assert one_way.predict_faces([crop])[0] > 0.7
    assert both_ways.predict_faces([crop])[0] == pytest.approx(0.5)
    assert both_ways.predict_clips([[crop, crop]])[0] == pytest.approx(0.5)
    assert 0.5 < both_ways.predict_clips([[crop, crop, crop]])[0] < 0.7
    with pytest.raises(ValueError, match="mirror must be true or false, and false for clips"):
        ModelSpec("cnn_lstm", 32, **values, frames_per_clip=4, mirror=True)


def test_predict_with_a_clip_model(clip_detector, real_clip):
    score = clip_detector.predict(real_clip)
    assert score.status == "ok"
    (face,) = score.tracks
    assert len(face.frame_probabilities) == len(face.times) == 16
    # All frames of a clip have the clip's score. A clip has four frames.
    assert len(set(face.frame_probabilities[:4])) == 1
    assert 1 < len(set(face.frame_probabilities)) <= 4


@pytest.fixture
def bright_detector():
    spec = ModelSpec("test_efficientnet", 32, mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
    return Detector(BrightIsFake(), spec, torch.device("cpu"), frames=16)


def test_predict_returns_tracks_boxes_times_and_timings(detector, real_clip):
    score = detector.predict(real_clip)
    assert isinstance(score, VideoResult)
    assert (score.name, score.status) == ("ajqslcypsw.mp4", "ok")
    assert 0 < score.probability < 1
    (face,) = score.tracks
    assert score.probability == face.probability
    assert len(face.times) == len(face.boxes) == len(face.frame_probabilities) == detector.frames
    assert face.times == sorted(face.times)
    middle = face.boxes[len(face.boxes) // 2]
    assert iou(middle, (365, 80, 560, 340)) > 0.5
    assert set(score.timings) == {"decode", "detect", "crop", "classify", "wait", "total"}
    stages = [score.timings[stage] for stage in ("detect", "crop", "classify", "wait")]
    assert min(stages) > 0
    assert 0 < score.timings["decode"] < score.timings["total"]
    assert score.timings["total"] / 2 < sum(stages) < score.timings["total"]


def test_predict_twice_gives_the_same_result(detector, real_clip):
    assert detector.predict(real_clip).tracks == detector.predict(real_clip).tracks


def test_predict_samples_the_number_of_frames(bright_detector, real_clip):
    assert bright_detector.predict(real_clip).frames_with_faces == 16


def test_predict_returns_the_score_of_the_most_suspicious_person(
    bright_detector, sample_data, write_clip
):
    folder = sample_data / "train_sample_videos"
    dark, bright = (
        [frame.image for frame in read_frames(folder / name, 16)]
        for name in ("ajqslcypsw.mp4", "cknyxaqouy.mp4")
    )
    both = write_clip([np.hstack(pair) for pair in zip(dark, bright, strict=True)])
    score = bright_detector.predict(both)
    probabilities = sorted(face.probability for face in score.tracks)
    assert len(probabilities) == 2
    assert probabilities[0] < 0.4 < 0.6 < probabilities[1]
    assert score.probability == probabilities[1]


def test_predict_videos_keeps_the_given_order(bright_detector, sample_data, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    clips = sorted(sample_data.glob("test_videos/*.mp4"), reverse=True)[:2]
    paths = [clips[0], text, tmp_path / "missing.mp4", clips[1]]
    scores = list(bright_detector.predict_videos(paths))
    assert [score.name for score in scores] == [path.name for path in paths]
    assert [score.probability is None for score in scores] == [False, True, True, False]
    assert scores[1].status == Status.UNREADABLE_VIDEO
    assert scores[2].status == Status.NO_SUCH_FILE


def test_predict_videos_gives_the_scores_of_predict(sample_data):
    detector = load_detector(device="cpu", frames=4)
    paths = sorted(sample_data.glob("test_videos/*.mp4"))[:2]
    together = [score.probability for score in detector.predict_videos(paths)]
    assert together == pytest.approx(
        [detector.predict(path).probability for path in paths], abs=0.01
    )
    (alone,) = detector.predict_videos(iter(paths[:1]))
    assert alone.probability == pytest.approx(together[0], abs=0.01)
    assert list(detector.predict_videos([])) == []


@pytest.fixture
def three_gpus(monkeypatch):
    """Pretend to have three GPUs, all of which are the CPU, under names that torch tells apart."""
    others = [torch.device("cpu", 0)] * 2
    monkeypatch.setattr("dfdetect.runtime.executor.other_gpus", lambda device: others)


def test_predict_videos_uses_all_gpus(bright_detector, sample_data, three_gpus, monkeypatch):
    used = []
    predict_one = Detector.predict

    def note(self, path, **options):
        used.append(self)
        return predict_one(self, path, **options)

    monkeypatch.setattr(Detector, "predict", note)
    clips = sorted(sample_data.glob("test_videos/*.mp4"))
    names = [score.name for score in bright_detector.predict_videos(clips)]
    assert names == [clip.name for clip in clips]
    assert [used.count(one) for one in set(used)] == [len(clips) // 3] * 3
    # The replica on the detector's own device shares the detector's model.
    assert [one.model is bright_detector.model for one in used[:3]].count(True) == 1
    assert {one.decoders.threads for one in used} == {1}


def test_predict_videos_retries_on_the_first_gpu(
    bright_detector, real_clip, three_gpus, monkeypatch
):
    logits = Classifier._logits

    def fail(self, *arguments):
        if self.device != bright_detector.device:
            raise RuntimeError("CUDA error")
        return logits(self, *arguments)

    monkeypatch.setattr(Classifier, "_logits", fail)
    statuses = [score.status for score in bright_detector.predict_videos([real_clip] * 4)]
    assert statuses == ["ok"] * 4


def test_predict_on_a_full_gpu_uses_smaller_batches(bright_detector, real_clip, monkeypatch):
    expected = bright_detector.predict(real_clip)
    forward = BrightIsFake.forward

    def full(self, images):
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(BrightIsFake, "forward", full)
    assert bright_detector.predict(real_clip).probability == pytest.approx(expected.probability)


def test_predict_without_faces_has_the_status_no_face(bright_detector, write_clip, numbered_frames):
    score = bright_detector.predict(write_clip(numbered_frames(20)))
    assert (score.probability, score.status, score.tracks) == (None, Status.NO_FACE, [])


def test_predict_reports_an_unexpected_error_in_the_result(bright_detector, real_clip, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of something\nand many more lines")

    monkeypatch.setattr(bright_detector.face_detector, "detect", fail)
    score = bright_detector.predict(real_clip)
    assert score.probability is None
    assert score.message == "dfdetect failed (RuntimeError: out of something)"


def test_predict_fails_if_the_model_returns_nan(bright_detector, real_clip, monkeypatch):
    monkeypatch.setattr(BrightIsFake, "forward", lambda _, images: images[:, :1, 0, 0] * np.nan)
    score = bright_detector.predict(real_clip)
    assert score.probability is None
    assert "not a finite number" in score.message


def test_predict_faces_takes_crops_of_any_size(bright_detector):
    crops = [np.full((size, size + 10, 3), level, np.uint8) for size, level in ((20, 0), (90, 255))]
    dark, bright = bright_detector.predict_faces(crops)
    assert dark == bright_detector.spec.aggregation.floor
    assert bright == 1 - bright_detector.spec.aggregation.floor
    assert bright_detector.predict_faces(np.stack([crops[0]] * 3)).shape == (3,)
    assert bright_detector.predict_faces([]).shape == (0,)


def test_predict_faces_scores_many_crops_like_one(detector):
    crops = np.random.default_rng(0).integers(0, 255, (70, 40, 40, 3), dtype=np.uint8)
    alone = [detector.predict_faces(crops[row : row + 1])[0] for row in (0, 33, 69)]
    assert detector.predict_faces(crops)[[0, 33, 69]] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_predict_faces_refuses_other_shapes_and_dtypes(detector, crop):
    with pytest.raises(ValueError, match="crop 0: needs RGB uint8"):
        detector.predict_faces([crop])


def test_load_detector_takes_a_numpy_integer():
    detector = load_detector("logistic_regression", device="cpu", frames=np.int64(8))
    assert type(detector.frames) is int  # JSON takes no numpy integers


@pytest.mark.parametrize(("name", "value"), [("frames", 0), ("device", "abacus")])
def test_load_detector_refuses_unusable_arguments(name, value):
    with pytest.raises(ValueError, match=name):
        load_detector(**{name: value})


def test_predict_of_an_untrained_model_is_near_one_half(real_clip):
    spec = ModelSpec("resnet18", 64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    detector = Detector(create_model("resnet18"), spec, torch.device("cpu"), frames=4)
    assert detector.predict(real_clip).probability == pytest.approx(0.5, abs=0.2)


@pytest.mark.slow
def test_predict_scores_swapped_faces_higher_than_originals(detector, sample_data):
    folder = sample_data / "train_sample_videos"
    metadata = json.loads((folder / "metadata.json").read_text())
    differences = [
        detector.predict(folder / name).probability
        - detector.predict(folder / entry["original"]).probability
        for name, entry in metadata.items()
        if entry["label"] == "FAKE"
    ]
    assert len(differences) == 2
    assert np.mean(differences) > 0


@pytest.mark.corpus
@pytest.mark.slow
def test_predict_scores_fakes_of_the_challenge_higher(detector, corpus):
    scores = {
        label: [
            detector.predict(path) for path in sorted((corpus / "videos/dfdc" / label).iterdir())
        ]
        for label in ("real", "fake")
    }
    assert {score.status for group in scores.values() for score in group} == {"ok"}
    means = {
        label: np.mean([score.probability for score in group]) for label, group in scores.items()
    }
    assert means["fake"] > means["real"] + 0.2


@pytest.mark.corpus
def test_predict_faces_scores_fakes_of_unseen_actors_higher(detector, corpus):
    faces = FaceSet.read(corpus / "dfdc_faces" / "val.csv")
    rows = np.random.default_rng(0).permutation(len(faces))[:100]
    probabilities = detector.predict_faces([faces.image(row) for row in rows])
    labels = faces.labels[rows]
    assert probabilities[labels == 1].mean() > probabilities[labels == 0].mean() + 0.3


def test_predict_of_names_with_spaces_and_other_letters(bright_detector, real_clip, tmp_path):
    path = tmp_path / "a clip (1) лицо 顔.MP4"
    shutil.copy(real_clip, path)
    score = bright_detector.predict(path)
    assert (score.name, score.status) == (path.name, "ok")


class OneFace:
    """A face detector that finds one face at the same position in every image."""

    def __init__(self, box):
        self.box = box
        self.calls = 0

    def detect(self, images, smallest=None):
        self.calls += 1
        return [[self.box] for _ in images]


class NoFaces:
    """A face detector that finds no face."""

    def detect(self, images, smallest=None):
        return [[] for _ in images]


@pytest.fixture
def one_face_detector():
    spec = ModelSpec("test_efficientnet", 32, mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
    face_detector = OneFace((10.0, 10.0, 50.0, 60.0))
    return Detector(BrightIsFake(), spec, torch.device("cpu"), face_detector=face_detector)


@pytest.mark.parametrize("form", ["frames", "list", "array", "generator"])
def test_predict_takes_frames_in_memory(one_face_detector, form):
    images = np.full((6, 100, 80, 3), 255, np.uint8)
    source = {
        "frames": [Frame(0.5 * number, image, number) for number, image in enumerate(images)],
        "list": list(images),
        "array": images,
        "generator": (image for image in images),
    }[form]
    result = one_face_detector.predict(source)
    assert (result.path, result.status, result.frames_sampled) == (None, Status.OK, 6)
    assert result.probability > 0.9
    (track,) = result.tracks
    assert track.times == [number * (0.5 if form == "frames" else 1.0) for number in range(6)]


@pytest.mark.parametrize(
    "times", [(2.0, 1.0), (1.0, 1.0), (np.nan, np.nan), (0.0, np.inf), (-np.inf, 0.0)], ids=str
)
def test_predict_refuses_frames_out_of_order(one_face_detector, times):
    image = np.zeros((100, 80, 3), np.uint8)
    with pytest.raises(ArgumentError, match=r"^frame [01]: has the time .*; give each frame a la"):
        one_face_detector.predict([Frame(time, image) for time in times])


def test_predict_of_frames_with_numpy_times_gives_json(one_face_detector):
    image = np.zeros((100, 80, 3), np.uint8)
    result = one_face_detector.predict([Frame(time, image) for time in np.float32([0.5, 1.5])])
    assert json.loads(json.dumps(result.to_dict()))["tracks"][0]["times"] == [0.5, 1.5]


def test_predict_takes_one_image(one_face_detector):
    result = one_face_detector.predict(np.zeros((100, 80, 3), np.uint8))
    assert result.probability < 0.1
    assert result.tracks[0].boxes == [(10.0, 10.0, 50.0, 60.0)]
    assert result.frames_sampled == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no frames"),
        (np.zeros((100, 80, 3)), "frame 0: needs RGB uint8"),
        ([np.zeros((100, 80), np.uint8)], "frame 0: needs RGB uint8"),
        (np.zeros((100, 80), np.uint8), r"frame 0: needs RGB .* got uint8 \(100, 80\)"),
        (Image.new("RGB", (80, 100)), r"^Image: cannot be scored; give a path, .*convert\("),
        (None, "^NoneType: cannot be scored; give a path"),
        (lambda: iter(()), "^function: cannot be scored; give a path"),
        (["a.mp4", "b.mp4"], "^a.mp4: is no frame; for several files, use predict_videos"),
    ],
    ids=["empty", "float", "greys", "grey", "pillow", "none", "function", "paths"],
)
def test_predict_refuses_what_is_no_image(one_face_detector, source, message):
    with pytest.raises(ArgumentError, match=message):
        one_face_detector.predict(source)


USES = {
    "predict": lambda detector, image: detector.predict(image),
    "predict_videos": lambda detector, image: next(detector.predict_videos([])),
    "predict_faces": lambda detector, image: detector.predict_faces([image]),
    "activation_maps": lambda detector, image: detector.activation_maps([[image]]),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("use", USES)
def test_a_detector_refuses_to_hang_after_a_fork(one_face_detector, use):
    image = np.zeros((100, 80, 3), np.uint8)
    child = os.fork()
    if child == 0:
        try:
            USES[use](one_face_detector, image)
        except DfdetectError as error:
            os._exit(0 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pickled_detector_scores_like_the_original(one_face_detector):
    image = np.full((100, 80, 3), 255, np.uint8)
    twin = pickle.loads(pickle.dumps(one_face_detector))
    assert twin.predict(image).probability == one_face_detector.predict(image).probability


def test_predict_of_a_folder_names_the_function_for_folders(one_face_detector, tmp_path):
    result = one_face_detector.predict(tmp_path)
    assert result.status == Status.UNREADABLE_FILE
    assert result.message.endswith("(a folder; dfdetect.predict takes folders)")


def test_predict_videos_takes_one_path(one_face_detector, tmp_path):
    for path in (tmp_path / "gone.mp4", str(tmp_path / "gone.mp4")):
        (result,) = one_face_detector.predict_videos(path)
        assert (result.name, result.status) == ("gone.mp4", Status.NO_SUCH_FILE)


def test_predict_of_a_file_uses_the_given_face_detector(one_face_detector, real_clip):
    result = one_face_detector.predict(real_clip)
    assert (result.path, result.frames_sampled) == (real_clip, 32)
    assert {box for track in result.tracks for box in track.boxes} == {(10.0, 10.0, 50.0, 60.0)}
    twin = one_face_detector.replica(torch.device("cpu", 0), one_face_detector.decoders)
    assert twin.face_detector is one_face_detector.face_detector
    assert twin.fallback_face_detector is None


def test_predict_of_an_image_says_that_it_is_one_frame(one_face_detector, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (100, 80, 3), dtype=np.uint8)
    one_face_detector.face_detector.box = (0.0, 0.0, 80.0, 100.0)
    Image.fromarray(image).save(tmp_path / "face.png")
    result = one_face_detector.predict(tmp_path / "face.png")
    assert (result.name, result.frames_sampled) == ("face.png", 1)
    warning = result.warnings[-1]
    assert warning.startswith("Only one frame")
    in_memory = one_face_detector.predict(image)
    assert (in_memory.probability, in_memory.warnings) == (result.probability, result.warnings)
    assert warning not in one_face_detector.predict([image] * 32).warnings


def test_predict_warns_of_the_most_suspicious_face(one_face_detector):
    grain = np.random.default_rng(0).integers(0, 60, (200, 400, 3), dtype=np.uint8)
    dark, bright = (0.0, 0.0, 160.0, 200.0), (220.0, 0.0, 400.0, 200.0)
    image = grain // 3
    image[:, 200:] = grain[:, 200:] + 150

    class TwoFaces:
        def detect(self, images, smallest=None):
            return [[dark, bright] for _ in images]

    one_face_detector.face_detector = TwoFaces()
    result = one_face_detector.predict([image] * 8)
    assert len(result.tracks) == 2
    assert not any("dark" in warning for warning in result.warnings)
    one_face_detector.face_detector = OneFace(dark)
    assert any("dark" in one for one in one_face_detector.predict([image] * 8).warnings)


def test_predict_does_not_warn_of_a_face_that_the_score_ignores(one_face_detector):
    image = np.full((200, 400, 3), 20, np.uint8)
    image[:, 200:] = np.random.default_rng(0).integers(150, 210, (200, 200, 3), dtype=np.uint8)
    dark, bright = (0.0, 0.0, 160.0, 200.0), (220.0, 0.0, 400.0, 200.0)

    class BrightIsSeenBriefly:
        def detect(self, images, smallest=None):
            return [[dark, bright] if one[0, -1].all() else [dark] for one in images]

    spec = replace(one_face_detector.spec, aggregation=Aggregation(min_track_share=0.25))
    detector = Detector(
        BrightIsFake(), spec, torch.device("cpu"), face_detector=BrightIsSeenBriefly()
    )
    empty = image.copy()
    empty[0, -1] = 0
    result = detector.predict([image] * 4 + [empty] * 20)
    scores = [track.probability for track in result.tracks]
    assert result.probability == min(scores) < max(scores)
    assert any("dark" in warning for warning in result.warnings)


@pytest.mark.parametrize(("bits_per_pixel", "warned"), [(0.01, True), (0.04, False)])
def test_predict_warns_of_strong_compression(one_face_detector, bits_per_pixel, warned):
    image = np.full((100, 80, 3), 100, np.uint8)
    frames = [Frame(0.1 * number, image, number, bits_per_pixel) for number in range(6)]
    said = " ".join(one_face_detector.predict(frames).warnings)
    assert ("strongly compressed" in said) == warned


@pytest.mark.parametrize(("share", "warned"), [(1 / 32, True), (1 / 6, False), (np.nan, False)])
def test_predict_warns_of_a_damaged_video(one_face_detector, share, warned):
    image = np.full((100, 80, 3), 100, np.uint8)
    frames = [Frame(0.1 * number, image, number, 0.05, share) for number in range(6)]
    said = " ".join(one_face_detector.predict(frames).warnings)
    assert ("Less than 19 % of the video could be decoded" in said) == warned
    one_face_detector.face_detector = NoFaces()
    message = one_face_detector.predict(frames).message
    assert message.startswith("no face found")
    assert ("(less than 19 % of the video could be decoded" in message) == warned


def test_predict_does_not_warn_of_a_short_video(one_face_detector, write_clip):
    short = one_face_detector.predict(write_clip([np.full((64, 64, 3), 100, np.uint8)] * 3))
    assert short.frames_sampled == 3
    assert not any("decoded" in warning for warning in short.warnings)


def test_predict_returns_a_verdict_if_there_are_operating_points(one_face_detector):
    assert one_face_detector.predict(np.full((100, 80, 3), 255, np.uint8)).verdict is None
    points = OperatingPoints(uncertain=0.4, fake=0.8)
    one_face_detector.spec = replace(one_face_detector.spec, operating_points=points)
    assert one_face_detector.operating_points == points
    result = one_face_detector.predict(np.full((100, 80, 3), 255, np.uint8))
    assert (result.verdict, result.operating_points) == (Verdict.FAKE, points)
    assert result.aggregation == {"frames": "mean_logit", "tracks": "max"}
    assert one_face_detector.predict(np.zeros((100, 80, 3), np.uint8)).verdict == Verdict.REAL


def test_predict_clips_resizes_crops_batch_by_batch(one_face_detector, monkeypatch):
    """Resized copies of a million crops would not fit into memory."""
    made, seen = [], []
    resize, forward = detector_module.resize_crop, Classifier._forward
    monkeypatch.setattr(
        detector_module, "resize_crop", lambda *rest: made.append(1) or resize(*rest)
    )
    monkeypatch.setattr(
        Classifier, "_forward", lambda *arguments: seen.append(len(made)) or forward(*arguments)
    )
    crops = [np.full((20, 20, 3), 255 * (number % 2), np.uint8) for number in range(100)]
    probabilities = one_face_detector.predict_faces(crops)
    assert seen[0] < 10
    assert (probabilities[1::2] > 0.9).all()
    assert (probabilities[::2] < 0.1).all()


@pytest.fixture
def two_members():
    """Return a model of small crops and a model of clips of large crops, with specifications."""
    values = {"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.1, 0.1)}
    image = ModelSpec("test_efficientnet", 32, **values)
    clip = ModelSpec("cnn_lstm", 48, **values, frames_per_clip=4, crop=CropRule(1.4, 0.0))
    return (BrightIsFake(), image), (BrighterIsFake(), clip)


def join(*members, shares=None):
    models, specs = zip(*members, strict=True)
    return Detector(
        torch.nn.ModuleList(models), join_specs(specs, shares), torch.device("cpu"), frames=16
    )


def logit(probabilities):
    probabilities = np.array(probabilities)
    return np.log(probabilities / (1 - probabilities))


def test_predict_of_an_ensemble_averages_logits(two_members, real_clip):
    alone = [
        Detector(*member, torch.device("cpu"), frames=16).predict(real_clip)
        for member in two_members
    ]
    together = join(*two_members, shares=[3, 1]).predict(real_clip)
    (first, second), (both,) = [one.tracks[0] for one in alone], together.tracks
    assert both.boxes == first.boxes
    expected = 0.75 * logit(first.frame_probabilities) + 0.25 * logit(second.frame_probabilities)
    assert logit(both.frame_probabilities) == pytest.approx(expected, abs=1e-3)
    assert together.status == Status.OK
    assert together.verdict is None


def test_predict_of_an_ensemble_detects_faces_once(two_members, real_clip):
    looked_at = []

    class Counting:
        def detect(self, images, smallest=None):
            looked_at.extend(images)
            return [[(100, 100, 200, 200)] for _ in images]

    counts = []
    for members in (two_members[:1], two_members):
        models, specs = zip(*members, strict=True)
        model, spec = (models[0], specs[0]) if len(specs) == 1 else (models, join_specs(specs))
        model = torch.nn.ModuleList(model) if isinstance(model, tuple) else model
        device = torch.device("cpu")
        Detector(model, spec, device, frames=16, face_detector=Counting()).predict(real_clip)
        counts.append(len(looked_at))
        looked_at.clear()
    assert counts[0] == counts[1] > 0


def test_predict_of_an_ensemble_of_equal_members(two_members, real_clip):
    alone = Detector(*two_members[0], torch.device("cpu"), frames=16)
    together = join(two_members[0], two_members[0])
    assert together.predict(real_clip).probability == alone.predict(real_clip).probability
    crops = [np.full((20, 20, 3), level, np.uint8) for level in (100, 130)]
    assert together.predict_faces(crops) == pytest.approx(alone.predict_faces(crops))


def test_predict_faces_of_an_ensemble_warns_of_different_crop_rules(two_members):
    crops = [np.full((20, 20, 3), 130, np.uint8)]
    with pytest.warns(UserWarning, match="crops that were cut in different ways"):
        join(*two_members).predict_faces(crops)


def test_load_detector_of_several_weights():
    names = ["simple_cnn_2", "logistic_regression"]
    crops = [np.full((64, 64, 3), level, np.uint8) for level in (0, 255)]
    both, *alone = (load_detector(one, "cpu") for one in (names, *names))
    mean = np.mean([logit(one.predict_faces(crops)) for one in alone], axis=0)
    assert logit(both.predict_faces(crops)) == pytest.approx(mean)
    with pytest.raises(ArgumentError, match="no weights: give at least one"):
        load_detector([])


class RedIsFake(torch.nn.Module):
    """A model with a 4 x 4 feature map, whose logit is the mean red minus the mean green."""

    def forward(self, images):
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images[..., :2, :, :], 4)

    def forward_head(self, features):
        red, green = features.mean(dim=(2, 3)).T
        return (red - green)[:, None]


def red_detector(**options):
    spec = ModelSpec("xception", 32, mean=(0.0,) * 3, std=(0.1,) * 3, **options)
    face_detector = OneFace((0.0, 0.0, 80.0, 80.0))
    return Detector(RedIsFake(), spec, torch.device("cpu"), face_detector=face_detector)


def coloured(colour, rows=slice(None), columns=slice(None)):
    """Return a grey image of which one part is coloured."""
    image = np.full((80, 80, 3), 60, np.uint8)
    image[rows, columns] = colour
    return image


class RedderThanBefore(RedIsFake):
    """A model that compares the crops of a track: the first one always has the logit 0."""

    def forward_values(self, images):
        return self(images)

    def track_logits(self, values):
        return values[:, 0] - values[0, 0]


RED, GREEN = (200, 0, 0), (0, 200, 0)


def test_predict_has_no_heat_maps_by_default():
    result = red_detector().predict(coloured(RED))
    assert result.tracks[0].heat_maps == []
    assert "heat_maps" not in result.timings


def test_predict_maps_the_most_suspicious_frames():
    frames = [coloured(RED, slice(size, None)) for size in (78, 55, 48, 66)]
    result = red_detector().predict(frames, heat_maps=2)
    first, second = result.tracks[0].heat_maps
    assert (first.time, second.time) == (2.0, 1.0)
    assert (first.crop.shape, first.crop.dtype) == ((32, 32, 3), np.uint8)
    assert (first.values.shape, first.values.dtype) == ((4, 4), np.float32)
    assert second.values[2:].sum() > 0.8 * second.values.sum()
    assert max(first.values.max(), second.values.max()) == 1
    assert result.timings["heat_maps"] > 0
    maps = red_detector().predict(frames, heat_maps=9).tracks[0].heat_maps
    assert [one.time for one in maps] == [2.0, 1.0]  # the others are below the track's P(FAKE)


def test_predict_maps_the_moments_that_most_suspicious_finds():
    frames = [
        Frame(0.4 * number, coloured(RED, slice(size, None)))
        for number, size in enumerate((78, 52, 48, 53, 66, 78, 58))
    ]
    (track,) = red_detector().predict(frames, heat_maps=3).tracks
    assert [one.time for one in track.heat_maps] == [time for time, _ in track.most_suspicious()]
    assert [one.time for one in track.heat_maps] == pytest.approx([0.8, 2.4])


def test_predict_heat_maps_are_zero_for_a_real_face():
    (heat_map,) = red_detector().predict(coloured(GREEN), heat_maps=1).tracks[0].heat_maps
    assert heat_map.values.max() == 0
    half = coloured(GREEN)
    half[40:] = (130, 100, 0)  # little evidence for FAKE, and much for REAL
    (heat_map,) = red_detector().predict(half, heat_maps=1).tracks[0].heat_maps
    assert 0 < heat_map.values.max() < 0.2
    assert np.unravel_index(heat_map.values.argmax(), (4, 4))[0] >= 2


def test_predict_heat_maps_of_a_grey_face_are_finite():
    (heat_map,) = red_detector().predict(coloured((9, 9, 9)), heat_maps=1).tracks[0].heat_maps
    assert heat_map.values.tolist() == np.zeros((4, 4)).tolist()


@pytest.mark.parametrize("mirror", [False, True])
def test_activation_maps_add_up_to_calibrated_logits(mirror):
    detector = red_detector(mirror=mirror, calibration=Calibration(scale=0.5, bias=-0.3))
    left = coloured(RED, columns=slice(30))
    clips = [[left], [left, left, coloured(GREEN)]]
    maps, logits = detector.activation_maps(clips), detector.frame_logits(clips)
    for one, expected in zip(maps, logits, strict=True):
        assert one.sum(axis=(1, 2)) == pytest.approx(expected, abs=1e-4)
    # Mirrored inputs are mirrored back: the evidence lies where it is in the crop.
    for one in (maps[0][0], maps[1][0], maps[1][1]):
        assert (one[:, :1] > 0).all()
        assert (one[:, 2:] < 0).all()


def test_frame_logits_depend_on_the_track_if_the_model_compares_its_crops():
    spec = ModelSpec(
        "xception", 32, (0.0,) * 3, (0.1,) * 3, calibration=Calibration(scale=0.5, bias=-0.3)
    )
    detector = Detector(RedderThanBefore(), spec, torch.device("cpu"))
    plain = Detector(RedIsFake(), spec, torch.device("cpu"))
    # More crops than a batch holds, so that a track spans several batches.
    clips = [[coloured(GREEN)], [coloured(RED, slice(size)) for size in range(0, 60, 5)]]
    for one, alone in zip(detector.frame_logits(clips), plain.frame_logits(clips), strict=True):
        assert one == pytest.approx(alone - alone[0] - 0.3, abs=1e-5)
        assert len(one) == 1 or one[-1] > one[0] + 1
    assert detector.frame_logits([]) == []


def test_activation_maps_of_a_clip_model():
    spec = ModelSpec("cnn_lstm", 64, mean=(0.5,) * 3, std=(0.2,) * 3, frames_per_clip=4)
    torch.manual_seed(0)
    detector = Detector(create_model("cnn_lstm"), spec, torch.device("cpu"))
    crops = list(np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8))
    (maps,), (logits,) = detector.activation_maps([crops]), detector.frame_logits([crops])
    assert maps.shape == (8, 4, 4)
    assert maps[:4].sum(axis=(1, 2)).mean() == pytest.approx(logits[0], abs=1e-4)
    (alone,), (logit,) = detector.activation_maps([crops[:1]]), detector.frame_logits([crops[:1]])
    assert alone.sum() == pytest.approx(logit[0], abs=1e-4)


def test_activation_maps_of_an_ensemble_are_the_mean_of_its_members():
    left = coloured(RED, columns=slice(30))
    first, second = red_detector(), red_detector(calibration=Calibration(scale=0.2))
    members = [(detector.model, detector.spec) for detector in (first, second)]
    together = join(*members, (BrightIsFake(), second.spec), shares=[3, 1, 4])
    (expected,), (other,) = (one.activation_maps([[left]]) for one in (first, second))
    (maps,) = together.activation_maps([[left]])
    assert maps == pytest.approx(0.75 * expected + 0.25 * other, abs=1e-4)


def test_predict_heat_maps_of_an_ensemble_use_members_with_the_same_crops():
    members = [
        (red_detector(crop=CropRule(scale)).model, red_detector(crop=CropRule(scale)).spec)
        for scale in (0.8, 1.4)
    ]
    together = join(*members)
    together.face_detector = OneFace((0.0, 0.0, 80.0, 80.0))
    image = coloured(RED, slice(50, None))
    (both,) = together.predict(image, heat_maps=1).tracks[0].heat_maps
    (alone,) = red_detector().predict(image, heat_maps=1).tracks[0].heat_maps
    assert both == alone


def test_predict_of_a_model_without_a_feature_map_has_no_heat_maps(one_face_detector):
    image = np.full((100, 80, 3), 255, np.uint8)
    result = one_face_detector.predict(image, heat_maps=1)
    assert (result.status, result.tracks[0].heat_maps) == (Status.OK, [])
    with pytest.raises(ArgumentError, match="no feature map"):
        one_face_detector.activation_maps([[image]])


def test_activation_maps_refuse_an_empty_clip():
    with pytest.raises(ArgumentError, match="clip 1: no crops"):
        red_detector().activation_maps([[coloured(RED)], []])
    with pytest.raises(ArgumentError, match="heat_maps must be 0 or more"):
        red_detector().predict(coloured(RED), heat_maps=-1)


def lower_share(detector, crops, region):
    """Return the share of the evidence for FAKE in the lower half of self-blended crops.

    One region of each crop is blended. Only crops whose logit rises by more than 1 are counted.
    """
    fakes = [
        self_blend(torch.from_numpy(crop).permute(2, 0, 1), generator, [region])
        for number, crop in enumerate(crops)
        for generator in [torch.Generator().manual_seed(number)]
    ]
    maps = detector.activation_maps([[fake.permute(1, 2, 0).numpy()] for fake in fakes])
    before = np.concatenate(detector.frame_logits([[crop] for crop in crops]))
    noticed = [one for one, logit in zip(maps, before, strict=True) if one.sum() > logit + 1]
    assert len(noticed) > len(crops) / 4
    evidence = np.clip(np.concatenate(noticed), 0, None).sum(axis=(0, 2))
    middle, odd = divmod(len(evidence), 2)
    lower = evidence[middle + odd :].sum() + odd * evidence[middle] / 2
    return lower / evidence.sum()


def test_activation_maps_of_blended_mouths_lie_in_the_lower_half(detector, sample_data):
    folder = sample_data / "train_sample_videos"
    crops = [
        heat_map.crop
        for name in ("ajqslcypsw.mp4", "cknyxaqouy.mp4")
        for heat_map in detector.predict(folder / name, heat_maps=4).tracks[0].heat_maps
    ]
    assert lower_share(detector, crops, MOUTH) > 0.5 > lower_share(detector, crops, EYES)


@pytest.mark.corpus
@pytest.mark.slow
def test_activation_maps_of_blended_mouths_of_unseen_actors(detector, corpus):
    faces = FaceSet.read(corpus / "dfdc_faces" / "val.csv")
    crops = [faces.image(row) for row in np.flatnonzero(faces.labels == 0)[:60]]
    assert lower_share(detector, crops, MOUTH) > 0.5 > lower_share(detector, crops, EYES)
