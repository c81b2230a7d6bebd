"""Detector: the pipeline of decoding, face tracking, models and scoring for each video."""

import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from dfdetect.checkpoints.io import Spec, load_ensemble
from dfdetect.checkpoints.weights import Weights, find_all_weights
from dfdetect.classifier import Classifier
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError
from dfdetect.faces.attributes import ATTRIBUTE_FORMAT, measure_face
from dfdetect.faces.crops import resize_crop, to_tensor
from dfdetect.faces.detection import FaceDetector, MTCNNDetector
from dfdetect.faces.geometry import CropFormat
from dfdetect.faces.tracking import FaceTrack, track_faces
from dfdetect.models.activation_maps import average_maps
from dfdetect.results import HeatMap, OperatingPoints, Status, TrackResult, VideoResult
from dfdetect.runtime.budget import OutOfTimeError, VideoAllowance
from dfdetect.runtime.device import choose_device, has_fast_half
from dfdetect.runtime.engines import AUTO
from dfdetect.runtime.executor import Executor, prefetch
from dfdetect.scoring.reliability import find_warnings
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import Frame, VideoError

# Frames decoded while those before are looked at, if they do not take more memory than this.
FRAMES_AHEAD = 8
AHEAD_BYTES = 64 * 2**20
# Characters of what an unforeseen error says that a result keeps.
MESSAGE_LENGTH = 200
# Crops of a face that are looked at for warnings.
LOOKS = 4
LOGGER = logging.getLogger(__name__)
Item = TypeVar("Item")


class Detector:
    """Scores videos and face crops with one model, or with the members of an ensemble.

    Faces are detected once for all members. Crops are cut once for members with the same format.

    Args:
        model: Takes normalised crops, or clips of them, as `spec` says; returns logits (batch, 1).
            An ensemble is an `nn.ModuleList` of its members.
        spec: The input of the model and its calibration: a `ModelSpec` or an `EnsembleSpec`.
        device: The device of the model; with `cuda`, `predict_videos` uses all GPUs.
        frames: Number of frames sampled from a video.
        decoders: The decoders of videos. If None, the detector makes a pool and closes it.
        face_detector: Finds the faces; None for MTCNN.
        fallback_face_detector: Searches again in videos in which no face was found. If it and
            `face_detector` are None, a more sensitive MTCNN does so; otherwise None means no
            search.
        engine: The engine that computes the networks on a CPU, as in `load_detector`.

    Example:
        >>> detector = load_detector()
        >>> detector.predict("video.mp4").probability
        0.93
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Spec,
        device: torch.device,
        frames: int = DEFAULT_FRAMES,
        decoders: DecoderPool | None = None,
        *,
        face_detector: FaceDetector | None = None,
        fallback_face_detector: FaceDetector | None = None,
        engine: str = AUTO,
    ):
        self.spec = spec
        self.device = device
        self.frames = frames
        self.decoders = DecoderPool() if decoders is None else decoders
        models = model if isinstance(model, nn.ModuleList) else [model]
        self.classifiers = [
            Classifier(*pair, device, engine) for pair in zip(models, spec.members, strict=True)
        ]
        self._given: dict[str, Any] = {
            "face_detector": face_detector,
            "fallback_face_detector": fallback_face_detector,
            "engine": engine,
        }
        if face_detector is None:
            face_detector = MTCNNDetector(device, engine=engine)
            fallback = MTCNNDetector.high_recall(device, engine)
            fallback_face_detector = fallback_face_detector or fallback
        self.face_detector = face_detector
        self.fallback_face_detector = fallback_face_detector

    @property
    def operating_points(self) -> OperatingPoints | None:
        """Return the thresholds of the verdicts, or None if the checkpoint holds none.

        Example:
            >>> load_detector("tf_efficientnet_lite2_wild").operating_points
            OperatingPoints(uncertain=0.761..., fake=0.894...)
        """
        return self.spec.operating_points

    @property
    def model(self) -> nn.Module:
        """Return the model, with fused batch norms, or an `nn.ModuleList` if there are several."""
        models = [classifier.model for classifier in self.classifiers]
        return models[0] if len(models) == 1 else nn.ModuleList(models)

    def replica(self, device: torch.device, decoders: DecoderPool) -> "Detector":
        """Return a copy of this detector with its own decoders, on the same or another device.

        Copies on the same device share the model.
        """
        if device != self.device:
            model = deepcopy(self.model)
            return Detector(model, self.spec, device, self.frames, decoders, **self._given)
        twin = copy(self)
        twin.decoders = decoders
        twin.classifiers = [copy(classifier) for classifier in self.classifiers]
        for classifier in twin.classifiers:  # they may have come here from another machine
            classifier.half = has_fast_half(device)
        return twin

    def predict(
        self,
        source: str | Path | np.ndarray | Iterable[Frame | np.ndarray],
        *,
        heat_maps: int = 0,
        allowance: VideoAllowance | None = None,
    ) -> VideoResult:
        """Score a video or image file, frames in memory, or one image in memory.

        Nothing that is wrong with a file is raised: the `status` of the result says what it is.

        Args:
            source: The path of a video, of which `frames` frames are sampled, or of an image that
                `read_frames` takes, which is one frame; or all the frames to look at, in the order
                of time: `Frame`s, or RGB uint8 arrays of shape (height, width, 3), which are taken
                to be a second apart; or a single such array.
            heat_maps: Number of heat maps of each track, of its most suspicious frames. Evidence
                for FAKE is divided by the strongest evidence, for FAKE or REAL, in the heat maps
                of the video, and evidence for REAL is shown as 0: the map of a face that looks
                REAL is nearly 0 everywhere. An ensemble shows the mean of the members that take
                the same crops as its first. A model without a feature map, such as a transformer,
                has no heat maps.
            allowance: Says how many frames of a file are sampled, and when to give up.

        Raises:
            ArgumentError: There are no frames in memory, one has another shape or type, or
                `heat_maps` is below 0.
            CancelledError: The detector's decoders were closed.

        Example:
            >>> detector.predict("video.mp4").status
            <Status.OK: 'ok'>
            >>> detector.predict(np.asarray(PIL.Image.open("face.jpg").convert("RGB"))).probability
            0.31
        """
        if heat_maps < 0:
            raise ArgumentError(f"heat_maps must be 0 or more, not {heat_maps}")
        if isinstance(source, str | Path):
            path = Path(source)
            count = self.frames if allowance is None else allowance.frames()
            read = partial(self.decoders.read_frames, path, count)
            return self._predict(path, path.name, read, heat_maps, allowance)
        frames = _to_frames(source)
        return self._predict(None, "", lambda: iter(frames), heat_maps, allowance)

    def _predict(
        self,
        path: Path | None,
        name: str,
        read: Callable[[], Iterator[Frame]],
        maps_per_track: int,
        allowance: VideoAllowance | None,
    ) -> VideoResult:
        """Score the frames that `read` returns; it may be called twice."""
        watch = _Stopwatch()
        check = (lambda: None) if allowance is None else allowance.check
        try:
            with watch.measure("total"):
                check()
                tracks, sampled = self._find_tracks(read, watch, check)
                with watch.measure("classify"):
                    logits = self._track_logits(tracks, check)
                    warnings = self._find_warnings(tracks, logits)
                heat_maps: list[list[HeatMap]] = [[] for _ in tracks]
                if maps_per_track:  # without `check`: the scores are there, and must not be lost
                    with watch.measure("heat_maps"):
                        heat_maps = self._heat_maps(tracks, logits, maps_per_track)
            found = self._video_result(path, name, tracks, logits, heat_maps)
            LOGGER.debug("%s: %s", path, found.status.sentence)
            seconds = dict(watch.seconds)
            return replace(found, frames_sampled=sampled, warnings=warnings, timings=seconds)
        except CancelledError:
            raise
        except OutOfTimeError:
            status, details = Status.OUT_OF_TIME, ""
        except VideoError as error:
            status, details = error.status, error.details
        except Exception as error:
            # A run over many files must not lose the others to a fault that nobody foresaw.
            LOGGER.exception("%s: unexpected error", path)
            reason = (str(error).splitlines() or [""])[0]
            status, details = Status.FAILED, f"{type(error).__name__}: {reason}"[:MESSAGE_LENGTH]
        result = VideoResult.without_score(path, name, status, details)
        LOGGER.debug("%s: %s", path, result.message)
        return replace(result, timings=dict(watch.seconds))

    def predict_videos(
        self, paths: Iterable[str | Path], *, heat_maps: int = 0
    ) -> Iterator[VideoResult]:
        """Score videos in the given order, one on each core at a time, and 16 at most.

        With the device `cuda`, the videos are divided among all GPUs.

        Args:
            paths: The files.
            heat_maps: As in `predict`.
        """

        def make_worker(
            device: torch.device, decoders: DecoderPool
        ) -> Callable[[str | Path], VideoResult]:
            return partial(self.replica(device, decoders).predict, heat_maps=heat_maps)

        with Executor(self.device) as executor:
            for _, result in executor.map(make_worker, paths, failed=has_failed):
                yield result

    def predict_faces(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Score face crops that are already cut by the checkpoint's crop rule (`spec.crop`).

        A model that looks at clips sees each crop as a clip of slightly moved copies. All members
        of an ensemble see the same crops, even if they were trained on differently cut ones.

        Args:
            crops: RGB uint8 arrays of shape (height, width, 3), of any sizes; or one array of
                shape (n, height, width, 3).

        Returns:
            P(FAKE) of each, float64 of shape (n,), strictly between 0 and 1.

        Raises:
            ArgumentError: A crop has another shape or type.
        """
        return self.predict_clips([[crop] for crop in crops])

    def predict_clips(self, clips: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Score sequences of crops of one face each, in the order of time.

        Args:
            clips: Sequences of one or more RGB uint8 arrays of shape (height, width, 3).

        Returns:
            P(FAKE) of each sequence, float64 of shape (n,), strictly between 0 and 1.

        Raises:
            ArgumentError: A sequence is empty, or a crop has another shape or type.

        Example:
            >>> detector.predict_clips([[first, second, third]])
            array([0.81])
        """
        aggregation = self.spec.aggregation
        logits = [aggregation.track_logit(one) for one in self.frame_logits(clips)]
        return aggregation.probability(logits)

    def frame_logits(self, clips: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Score every crop of each sequence; `spec.aggregation` can combine the logits.

        Args:
            clips: As in `predict_clips`.

        Returns:
            The calibrated logits of FAKE of each sequence, float64 of shape (crops,). A model that
            looks at clips gives all crops of one clip the same logit.

        Raises:
            ArgumentError: A sequence is empty, or a crop has another shape or type.

        Example:
            >>> detector.frame_logits([[first, second], [third]])
            [array([0.7, 1.9]), array([-2.1])]
        """
        if len({member.crop for member in self.spec.members}) > 1:
            warnings.warn(
                "the members of the ensemble were trained on crops that are cut differently; all "
                "of them see these crops as they are, so their answers are worse than for videos",
                stacklevel=2,
            )
        return self._averaged(
            classifier.frame_logits(
                [_to_input(crop, number, classifier.spec.crop_format) for crop in clip]
                for number, clip in enumerate(clips)
            )
            for classifier in self.classifiers
        )

    def activation_maps(self, clips: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Divide the logit of every crop among the places of the model's last feature map.

        Args:
            clips: As in `predict_clips`.

        Returns:
            For each sequence float32 of shape (crops, rows, columns), in the model's own low
            resolution: above 0 what speaks for FAKE, below 0 for REAL. The sum over a map is the
            crop's calibrated logit, as in `frame_logits`. A model that looks at clips gives each
            crop a map of its own, and the mean of their sums is the logit of the clip. An ensemble
            gives the mean of the members that have a feature map.

        Raises:
            ArgumentError: A sequence is empty, a crop has another shape or type, or the model has
                no feature map, such as a transformer.

        Example:
            >>> detector.activation_maps([[first, second], [third]])[0].shape
            (2, 5, 5)
        """
        found = []
        for number, clip in enumerate(clips):
            if not len(clip):
                raise ArgumentError(f"clip {number}: no crops")
            crops = [
                [_to_input(crop, number, member.crop_format) for crop in clip]
                for member in self.spec.members
            ]
            maps = self._mean_maps(crops, range(len(clip)))
            if maps is None:
                raise ArgumentError("the model has no feature map that shows where it looks")
            found.append(maps)
        return found

    def _mean_maps(
        self, crops: Sequence[Sequence[torch.Tensor]], positions: Sequence[int]
    ) -> np.ndarray | None:
        """Average the members' maps of some crops of one face.

        Args:
            crops: Those of the face for each member; none for a member that is left out.
            positions: Which of them are wanted, at least one.
        """
        maps, shares = [], []
        members = zip(self.classifiers, crops, self.spec.shares, strict=True)
        for classifier, own, share in members:
            one = classifier.activation_maps(own, positions) if own else None
            if one is not None:
                maps.append(one)
                shares.append(share)
        return average_maps(maps, shares) if maps else None

    def _heat_maps(
        self, tracks: Sequence[FaceTrack], logits: Sequence[np.ndarray], count: int
    ) -> list[list[HeatMap]]:
        """Return heat maps of the `count` frames of each track whose logits are highest."""
        first, *_ = self._crop_formats
        places = [np.argsort(-one, kind="stable")[:count].tolist() for one in logits]
        found = []
        for track, positions in zip(tracks, places, strict=True):
            crops = [
                track.crops[one] if one.rule == first.rule else () for one in self._crop_formats
            ]
            found.append(self._mean_maps(crops, positions))
        maps = [one for one in found if one is not None]
        if len(maps) < len(found):  # then there are none
            return [[] for _ in tracks]
        largest = max((np.abs(one).max() for one in maps), default=0) or 1
        return [
            [
                HeatMap(
                    time=track.times[position],
                    crop=track.crops[first][position].permute(1, 2, 0).numpy(),
                    values=np.clip(one / largest, 0, 1),
                )
                for position, one in zip(positions, of_track, strict=True)
            ]
            for track, positions, of_track in zip(tracks, places, maps, strict=True)
        ]

    def _track_logits(
        self, tracks: Sequence[FaceTrack], check: Callable[[], None]
    ) -> list[np.ndarray]:
        """Return the calibrated logits of the frames of each track."""
        return self._averaged(
            classifier.frame_logits(
                (track.crops[classifier.spec.crop_format] for track in tracks), check
            )
            for classifier in self.classifiers
        )

    def _averaged(self, logits: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        """Average the members' logits of each face."""
        by_face = zip(*logits, strict=True)
        return [np.average(members, axis=0, weights=self.spec.shares) for members in by_face]

    @property
    def _crop_formats(self) -> list[CropFormat]:
        return [member.crop_format for member in self.spec.members]

    def _find_tracks(
        self, read: Callable[[], Iterator[Frame]], watch: "_Stopwatch", check: Callable[[], None]
    ) -> tuple[list[FaceTrack], int]:
        """Return the tracks, and the number of frames in which faces were looked for."""
        sampled = 0
        for face_detector in filter(None, (self.face_detector, self.fallback_face_detector)):
            detect = watch.timed("detect", face_detector.detect)
            with (
                closing(_decode_ahead(watch.iterate("decode", read()))) as ahead,
                watch.measure("crop", apart_from=("wait", "detect")),
            ):
                frames = _CheckedFrames(watch.iterate("wait", ahead), check)
                formats = list(dict.fromkeys([*self._crop_formats, ATTRIBUTE_FORMAT]))
                tracks = track_faces(frames, detect, formats)
            sampled = frames.count
            if tracks:
                return tracks, sampled
        return [], sampled

    def _video_result(
        self,
        path: Path | None,
        name: str,
        tracks: list[FaceTrack],
        logits: list[np.ndarray],
        heat_maps: list[list[HeatMap]],
    ) -> VideoResult:
        if not tracks:
            return VideoResult.without_score(path, name, Status.NO_FACE)
        aggregation, points = self.spec.aggregation, self.operating_points
        probability = float(aggregation.probability(aggregation.video_logit(logits)))
        return VideoResult(
            path=path,
            name=name,
            probability=probability,
            verdict=None if points is None else points.verdict(probability),
            operating_points=points,
            tracks=[
                self._track_result(*track) for track in zip(tracks, logits, heat_maps, strict=True)
            ],
        )

    def _find_warnings(
        self, tracks: Sequence[FaceTrack], logits: Sequence[np.ndarray]
    ) -> tuple[str, ...]:
        """Say why the score of the most suspicious face is less reliable than usual."""
        if not tracks:
            return ()
        scores = [self.spec.aggregation.track_logit(one) for one in logits]
        track = tracks[int(np.argmax(scores))]
        crops = track.crops[ATTRIBUTE_FORMAT]
        places = np.unique(np.linspace(0, len(crops) - 1, LOOKS).round().astype(int))
        return find_warnings(
            [bottom - top for _, top, _, bottom in track.boxes],
            [measure_face(crops[place].permute(1, 2, 0).numpy()) for place in places],
            len(track.times),
        )

    def _track_result(
        self, track: FaceTrack, logits: np.ndarray, heat_maps: list[HeatMap]
    ) -> TrackResult:
        aggregation = self.spec.aggregation
        return TrackResult(
            probability=float(aggregation.probability(aggregation.track_logit(logits))),
            times=track.times,
            boxes=track.boxes,
            frame_probabilities=aggregation.probability(logits).tolist(),
            heat_maps=heat_maps,
        )


def load_detector(
    weights: Weights = None,
    device: str = "auto",
    frames: int = DEFAULT_FRAMES,
    engine: str = AUTO,
) -> Detector:
    """Load a detector; nothing is downloaded.

    Args:
        weights: Name of installed weights (`dfdetect.list_weights()`), a `.safetensors` file, or
            None for the default detector; or several of these, which answer together: the mean of
            their calibrated logits counts, and the aggregation is that of the first.
        device: `auto` (a GPU if one works), `cpu`, `cuda` or `cuda:N`.
        frames: Number of frames sampled from each video, at least 1.
        engine: What computes the networks on a CPU: `torch`, `openvino`, `onnxruntime`, or `auto`
            for the fastest of them that is installed. Their answers are the same except for
            rounding.

    Raises:
        FileNotFoundError: There are no such weights.
        CheckpointError: The file is no usable checkpoint.
        ArgumentError: The device or the engine does not work, or `frames` is below 1.

    Example:
        >>> detector = load_detector(device="cpu")
        >>> for result in detector.predict_videos(["a.mp4", "b.mp4"]):
        ...     print(result.name, result.probability, result.status)
    """
    if frames < 1:
        raise ArgumentError(f"frames must be at least 1, not {frames}")
    frames = int(frames)  # a numpy integer has no place in JSON
    model, spec = load_ensemble(find_all_weights(weights))
    return Detector(model, spec, choose_device(device), frames, engine=engine)


def has_failed(result: VideoResult) -> bool:
    """Return whether the detector itself failed on a video, so that another device may succeed."""
    return result.status == Status.FAILED


def _decode_ahead(frames: Iterator[Frame]) -> Generator[Frame, None, None]:
    for first in frames:
        room = max(1, min(FRAMES_AHEAD, AHEAD_BYTES // first.image.nbytes))
        with closing(prefetch(chain([first], frames), room)) as ahead:
            yield from ahead


def _to_frames(source: np.ndarray | Iterable[Frame | np.ndarray]) -> list[Frame]:
    """Return the frames of images in memory; arrays without times count as one second apart."""
    if isinstance(source, np.ndarray) and source.ndim == 3:
        source = [source]
    frames = [
        one if isinstance(one, Frame) else Frame(float(number), one, number)
        for number, one in enumerate(source)
    ]
    if not frames:
        raise ArgumentError("no frames: give at least one")
    for number, frame in enumerate(frames):
        _require_image(frame.image, f"frame {number}")
    return frames


def _to_input(crop: np.ndarray, number: int, wanted: CropFormat) -> torch.Tensor:
    _require_image(crop, f"crop {number}")
    return resize_crop(to_tensor(crop), wanted.size, wanted.resize)


def _require_image(image: np.ndarray, name: str) -> None:
    good = getattr(image, "dtype", None) == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not good or image.size == 0:
        raise ArgumentError(
            f"{name}: needs RGB uint8 of shape (height, width, 3), got "
            f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        )


class _CheckedFrames:
    """Yield frames, and call a function before each.

    Attributes:
        count: Number of frames that were taken.
    """

    def __init__(self, frames: Iterable[Frame], check: Callable[[], None]):
        self.frames = frames
        self.check = check
        self.count = 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            self.check()
            self.count += 1
            yield frame


class _Stopwatch:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str, apart_from: Sequence[str] = ()) -> Iterator[None]:
        """Time a block, without the time that it spends in the stages `apart_from`."""
        start = perf_counter() - self._sum(apart_from)
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - self._sum(apart_from) - start

    def timed(self, stage: str, function: Callable[..., Item]) -> Callable[..., Item]:
        """Return the function, with its calls timed."""

        def call(*arguments: Any) -> Item:
            with self.measure(stage):
                return function(*arguments)

        return call

    def iterate(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Time how long each item takes to make, but not how it is used."""
        iterator = iter(items)
        while True:
            with self.measure(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _sum(self, stages: Sequence[str]) -> float:
        return sum(self.seconds[stage] for stage in stages)
