"""`Detector`: decodes a video, tracks its faces, and scores them with one or several models."""

import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from dfdetect.checkpoints.ensemble import MIXED_CROPS
from dfdetect.checkpoints.io import Spec, load_ensemble
from dfdetect.checkpoints.weights import Weights, find_all_weights
from dfdetect.classifier import Classifier
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.faces.attributes import ATTRIBUTE_FORMAT, measure_face
from dfdetect.faces.crops import resize_crop, to_tensor
from dfdetect.faces.detection import FaceDetector, MTCNNDetector, NearbyFaceDetector
from dfdetect.faces.geometry import CropFormat
from dfdetect.faces.tracking import FaceTrack, track_faces
from dfdetect.models.activation_maps import average_maps
from dfdetect.results import (
    HeatMap,
    OperatingPoints,
    Status,
    TrackResult,
    VideoResult,
    pick_moments,
)
from dfdetect.runtime.budget import OutOfTimeError, VideoAllowance
from dfdetect.runtime.device import available_cores, choose_device
from dfdetect.runtime.engines import AUTO
from dfdetect.runtime.executor import Executor, prefetch
from dfdetect.scoring.reliability import describe_damage, find_warnings
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import Frame, VideoError

# At most FRAMES_AHEAD frames are decoded ahead of face detection. Together, these frames have at
# most AHEAD_BYTES bytes.
FRAMES_AHEAD = 8
AHEAD_BYTES = 64 * 2**20
# Maximum number of characters by which a result describes an unexpected error.
MESSAGE_LENGTH = 200
# Maximum number of crops that are measured to decide whether a result needs a warning.
LOOKS = 4
# What `Detector.predict` takes, in words.
SOURCES = (
    "a path, an RGB uint8 array, or several such arrays or frames; for an image of PIL, "
    'np.asarray(image.convert("RGB"))'
)
LOGGER = logging.getLogger(__name__)
Item = TypeVar("Item")


class Detector:
    """Scores videos and face crops with one model, or with the members of an ensemble.

    An ensemble consists of several models, which are called its members. The faces are detected
    once for all members. Members with the same crop format also share the crops.

    Several threads may use a detector at the same time. A pickled detector can be sent to another
    process. After a fork, the new process cannot use the detector, because the threads of torch and
    of the engines do not exist there. All methods that score then raise a `DfdetectError`.

    Args:
        model: Network that returns logits of FAKE of shape (batch, 1). `spec` says whether the
            network takes normalised crops or clips. A clip is several normalised crops of one face
            in the order of time. For an ensemble, `model` is an `nn.ModuleList` of the members.
        spec: Description of the model: a `ModelSpec`, or an `EnsembleSpec` for an ensemble.
        device: The device on which the model runs. If it is `cuda`, `predict_videos` uses all GPUs.
        frames: Number of frames sampled from each video.
        decoders: Pool of the processes that decode videos. None means a new pool.
        face_detector: Object that finds the faces in frames. None means an `MTCNNDetector`.
        fallback_face_detector: Object that searches a video again if `face_detector` finds no face
            in the video. If both arguments are None, a more sensitive `MTCNNDetector` searches
            again. If only `fallback_face_detector` is None, no video is searched again.
        engine: The library that runs the networks on a CPU: `torch`, `openvino`, `onnxruntime`, or
            `auto` for the fastest installed library.

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
        self._process = _Process()
        self.decoders = DecoderPool(available_cores()) if decoders is None else decoders
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
        """Return the thresholds of the verdicts, or None if the checkpoint holds no thresholds.

        Example:
            >>> load_detector("tf_efficientnet_lite2_texture").operating_points
            OperatingPoints(uncertain=0.728..., fake=0.889..., fakes={...})
        """
        return self.spec.operating_points

    @property
    def model(self) -> nn.Module:
        """Return the model, or an `nn.ModuleList` of an ensemble's members.

        Where possible, each batch norm is fused into the convolution before it.
        """
        models = [classifier.model for classifier in self.classifiers]
        return models[0] if len(models) == 1 else nn.ModuleList(models)

    def replica(self, device: torch.device, decoders: DecoderPool) -> "Detector":
        """Return a copy of this detector for the given device and pool of decoders.

        A copy on the same device shares the model with this detector.
        """
        if device != self.device:
            model = deepcopy(self.model)
            return Detector(model, self.spec, device, self.frames, decoders, **self._given)
        twin = copy(self)
        twin.decoders = decoders
        twin.classifiers = [copy(classifier) for classifier in self.classifiers]
        for classifier in twin.classifiers:  # they may come from a machine with another kind of CPU
            classifier.choose_precision()
        return twin

    def predict(
        self,
        source: str | Path | np.ndarray | Iterable[Frame | np.ndarray],
        *,
        heat_maps: int = 0,
        allowance: VideoAllowance | None = None,
    ) -> VideoResult:
        """Return the result for a file (a video or an image), or for frames or an image in memory.

        If a file cannot be scored, no exception is raised. The `status` of the result then says why
        there is no score.

        Args:
            source: The path of a video or image, or pictures in memory. Frames are sampled from a
                video. An image must have a format that `read_frames` reads. Pictures in memory are
                one RGB uint8 array of shape (height, width, 3), or a sequence of such arrays or of
                `Frame` objects, each later than the one before. All of these pictures are scored.
                Arrays are treated as one second apart.
            heat_maps: Maximum number of heat maps for each track (a face that is followed through
                the video). They show the moments of `TrackResult.most_suspicious`. Their values are
                shares of the strongest evidence (for FAKE or for REAL) in the video. The heat map
                of a face that looks REAL is therefore nearly 0 everywhere. Models without a feature
                map, such as transformers, have no heat maps. For an ensemble, only members with the
                crop rule of the first member are used.
            allowance: The number of frames to sample from the file, and the time limit. None means
                the detector's own number of frames and no time limit.

        Raises:
            ArgumentError: `source` is nothing of the above or has no frames, a frame has a wrong
                shape or dtype, a frame is not later than the one before, or `heat_maps` is below 0.
            CancelledError: The detector's pool of decoders was closed before or during the call.

        Example:
            >>> detector.predict("video.mp4").status
            <Status.OK: 'ok'>
            >>> detector.predict(np.asarray(PIL.Image.open("face.jpg").convert("RGB"))).probability
            0.31
        """
        self._process.require_same()
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
        """Score the frames that `read` returns.

        If the face detector finds no face in the frames, `read` is called again, and the fallback
        face detector searches the frames.
        """
        watch = _Stopwatch()
        check = (lambda: None) if allowance is None else allowance.check
        try:
            with watch.measure("total"):
                check()
                tracks, frames = self._find_tracks(read, watch, check)
                with watch.measure("classify"):
                    logits = self._track_logits(tracks, check)
                    warnings = self._find_warnings(tracks, logits, frames)
                heat_maps: list[list[HeatMap]] = [[] for _ in tracks]
                if maps_per_track:
                    # `check` is not called here: an error for lack of time would lose the scores.
                    with watch.measure("heat_maps"):
                        heat_maps = self._heat_maps(tracks, logits, maps_per_track)
            if tracks:
                found = self._video_result(path, name, tracks, logits, heat_maps)
            else:
                damage = describe_damage(frames.share)
                found = VideoResult.without_score(path, name, Status.NO_FACE, damage)
            LOGGER.debug("%s: %s", path, found.status.sentence)
            seconds = dict(watch.seconds)
            return replace(found, frames_sampled=frames.count, warnings=warnings, timings=seconds)
        except CancelledError:
            raise
        except OutOfTimeError:
            status, details = Status.OUT_OF_TIME, ""
        except VideoError as error:
            status, details = error.status, error.details
        except Exception as error:
            # An unexpected error with one file must not end a run over many files.
            LOGGER.exception("%s: unexpected error", path)
            reason = (str(error).splitlines() or [""])[0]
            status, details = Status.FAILED, f"{type(error).__name__}: {reason}"[:MESSAGE_LENGTH]
        result = VideoResult.without_score(path, name, status, details)
        LOGGER.debug("%s: %s", path, result.message)
        return replace(result, timings=dict(watch.seconds))

    def predict_videos(
        self, paths: str | Path | Iterable[str | Path], *, heat_maps: int = 0
    ) -> Iterator[VideoResult]:
        """Yield the results of videos in the order of `paths`.

        The detector scores several videos at once: one on each CPU core, but at most 16. If the
        detector's device is `cuda`, the videos are divided among all GPUs.

        Args:
            paths: The path of a video, or several such paths.
            heat_maps: Maximum number of heat maps for each track, as in `predict`.
        """

        def make_worker(
            device: torch.device, decoders: DecoderPool
        ) -> Callable[[str | Path], VideoResult]:
            return partial(self.replica(device, decoders).predict, heat_maps=heat_maps)

        self._process.require_same()
        several = [paths] if isinstance(paths, str | Path) else paths
        with Executor(self.device) as executor:
            for _, result in executor.map(make_worker, several, failed=has_failed):
                yield result

    def predict_faces(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Return P(FAKE) of face crops that were cut by the checkpoint's crop rule (`spec.crop`).

        If the model takes clips, a clip is made of copies of each crop, shifted by a few pixels.
        All members of an ensemble score the same crops, even if they have different crop rules.

        Args:
            crops: RGB uint8 arrays of shape (height, width, 3), which may differ in size; or one
                array of shape (n, height, width, 3).

        Returns:
            P(FAKE) of each crop, float64 of shape (n,), strictly between 0 and 1.

        Raises:
            ArgumentError: A crop has a wrong shape or dtype.
        """
        return self.predict_clips([[crop] for crop in crops])

    def predict_clips(self, clips: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Return P(FAKE) of each sequence of face crops.

        A sequence holds crops of one face in the order of time.

        Args:
            clips: Sequences of one or more crops: RGB uint8 arrays of shape (height, width, 3).

        Returns:
            P(FAKE) of each sequence, float64 of shape (n,), strictly between 0 and 1.

        Raises:
            ArgumentError: A sequence is empty, or a crop has a wrong shape or dtype.

        Example:
            >>> detector.predict_clips([[first, second, third]])
            array([0.81])
        """
        aggregation = self.spec.aggregation
        logits = [aggregation.track_logit(one) for one in self.frame_logits(clips)]
        return aggregation.probability(logits)

    def frame_logits(self, clips: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Return the calibrated logit of each crop.

        To combine the logits of a sequence into one logit, call `spec.aggregation.track_logit`.

        Args:
            clips: Sequences of face crops, as in `predict_clips`.

        Returns:
            For each sequence, the calibrated logits of FAKE, float64 of shape (crops,). With the
            default detector, the logit of a crop depends on all crops of the sequence. If the
            model takes clips, each crop gets the logit of its clip. A crop that is in two clips
            gets the mean of their logits.

        Raises:
            ArgumentError: A sequence is empty, or a crop has a wrong shape or dtype.

        Example:
            >>> detector.frame_logits([[first, second], [third]])
            [array([0.7, 1.9]), array([-2.1])]
        """
        self._process.require_same()
        if len({member.crop for member in self.spec.members}) > 1:
            warnings.warn(MIXED_CROPS, stacklevel=2)
        return self._averaged(
            classifier.frame_logits(
                [_to_input(crop, number, classifier.spec.crop_format) for crop in clip]
                for number, clip in enumerate(clips)
            )
            for classifier in self.classifiers
        )

    def activation_maps(self, clips: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """Return maps that show which parts of each crop raise or lower the logit of FAKE.

        Args:
            clips: Sequences of face crops, as in `predict_clips`.

        Returns:
            For each sequence, float32 of shape (crops, rows, columns). A map has as many rows and
            columns as the model's last feature map. Values above 0 are evidence for FAKE, and
            values below 0 are evidence for REAL.

            - If the model takes single crops, the values of a map add up to the calibrated logit
              that the model gives to the crop alone. With the default detector, `frame_logits`
              returns another logit, because it also depends on the other crops of the sequence.
            - If a sequence has only one crop, the default detector returns the mean of two maps:
              the map of the crop and the map of its mirror image.
            - If the model takes clips, the values of each map in a clip are added up. The mean of
              these sums is the calibrated logit of the clip.
            - For an ensemble, a map is the weighted mean of the maps of all members that have a
              feature map.

        Raises:
            ArgumentError: A sequence is empty, a crop has a wrong shape or dtype, or the model has
                no feature map, for instance because it is a transformer.

        Example:
            >>> detector.activation_maps([[first, second], [third]])[0].shape
            (2, 5, 5)
        """
        self._process.require_same()
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
        """Return activation maps of one face, or None if no member of the ensemble has maps.

        The map of a crop is the weighted mean of the members' maps of this crop.

        Args:
            crops: For each member, the crops of the face in the member's crop format. A member with
                an empty sequence is left out.
            positions: Indexes of the crops that get a map, at least one.
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
        """Return at most `count` heat maps for each track.

        The heat maps show the crops that `TrackResult.most_suspicious` would choose.
        """
        first, *_ = self._crop_formats
        rule = self.spec.aggregation
        places = [
            pick_moments(
                track.times,
                rule.probability(one).tolist(),
                count,
                float(rule.probability(rule.track_logit(one))),
            )
            for track, one in zip(tracks, logits, strict=True)
        ]
        found = []
        for track, positions in zip(tracks, places, strict=True):
            crops = [
                track.crops[one] if one.rule == first.rule else () for one in self._crop_formats
            ]
            found.append(self._mean_maps(crops, positions))
        maps = [one for one in found if one is not None]
        if len(maps) < len(found):  # the model has no feature map, so no track has a map
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
        """Return the calibrated logits of the frames of each track.

        `check` is called before each batch of crops, and raises an error if no time is left.
        """
        return self._averaged(
            classifier.frame_logits(
                (track.crops[classifier.spec.crop_format] for track in tracks), check
            )
            for classifier in self.classifiers
        )

    def _averaged(self, logits: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        """Return the weighted mean of the ensemble members' logits, one array per face.

        `logits` holds one list per member, with one array per face.
        """
        by_face = zip(*logits, strict=True)
        return [np.average(members, axis=0, weights=self.spec.shares) for members in by_face]

    @property
    def _crop_formats(self) -> list[CropFormat]:
        return [member.crop_format for member in self.spec.members]

    @property
    def _cut_formats(self) -> list[CropFormat]:
        """Return the formats in which each face is cut.

        These are the crop formats of the models, and `ATTRIBUTE_FORMAT`. Crops in this format are
        measured to decide whether the result needs a warning.
        """
        return list(dict.fromkeys([*self._crop_formats, ATTRIBUTE_FORMAT]))

    def _find_tracks(
        self, read: Callable[[], Iterator[Frame]], watch: "_Stopwatch", check: Callable[[], None]
    ) -> "tuple[list[FaceTrack], CheckedFrames]":
        """Return a video's tracks, and the sampled frames in which they were found.

        `read` returns the sampled frames. If the face detector finds no face in the frames, `read`
        is called again, and the fallback face detector searches the frames.
        """
        tracks: list[FaceTrack] = []
        frames = CheckedFrames((), check)
        for face_detector in filter(None, (self.face_detector, self.fallback_face_detector)):
            detect = watch.timed("detect", face_detector.detect)
            detect_nearby = None
            if isinstance(face_detector, NearbyFaceDetector):
                detect_nearby = watch.timed("detect", face_detector.detect_nearby)
            with (
                closing(_decode_ahead(watch.iterate("decode", read()))) as ahead,
                watch.measure("crop", apart_from=("wait", "detect")),
            ):
                frames = CheckedFrames(watch.iterate("wait", ahead), check)
                tracks = track_faces(frames, detect, self._cut_formats, detect_nearby)
            if tracks:
                break
        return tracks, frames

    def _video_result(
        self,
        path: Path | None,
        name: str,
        tracks: list[FaceTrack],
        logits: list[np.ndarray],
        heat_maps: list[list[HeatMap]],
    ) -> VideoResult:
        aggregation, points = self.spec.aggregation, self.operating_points
        probability = float(aggregation.probability(aggregation.video_logit(logits)))
        return VideoResult(
            path=path,
            name=name,
            probability=probability,
            verdict=None if points is None else points.verdict(probability),
            operating_points=points,
            aggregation={"frames": aggregation.frames, "tracks": aggregation.tracks},
            tracks=[
                self._track_result(*track) for track in zip(tracks, logits, heat_maps, strict=True)
            ],
        )

    def _find_warnings(
        self, tracks: Sequence[FaceTrack], logits: Sequence[np.ndarray], frames: "CheckedFrames"
    ) -> tuple[str, ...]:
        """Return sentences that say why the most suspicious face's score is less reliable.

        Faces that the aggregation ignores have no influence.
        """
        if not tracks:
            return ()
        rule = self.spec.aggregation
        candidates = rule.counting_tracks(logits)
        track = tracks[max(candidates, key=lambda number: rule.track_logit(logits[number]))]
        crops = track.crops[ATTRIBUTE_FORMAT]
        places = np.unique(np.linspace(0, len(crops) - 1, LOOKS).round().astype(int))
        return find_warnings(
            [bottom - top for _, top, _, bottom in track.boxes],
            [measure_face(crops[place].permute(1, 2, 0).numpy()) for place in places],
            len(track.times),
            frames.bits_per_pixel,
            frames.share,
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
    """Return a detector with installed weights or with the weights in a file.

    Nothing is downloaded.

    Args:
        weights: A name from `dfdetect.list_weights()`, the path of a `.safetensors` file, or None
            for the default detector. A list of several names and paths makes an ensemble. Its
            logits are the means of the members' calibrated logits. The checkpoint of the first
            member says how the logits of frames and of tracks are combined.
        device: `auto` (a GPU if one works), `cpu`, `cuda` or `cuda:N`.
        frames: Number of frames sampled from each video, at least 1.
        engine: The library that runs the networks on a CPU: `torch`, `openvino`, `onnxruntime`, or
            `auto` for the fastest installed library. The scores of these libraries differ only by
            rounding.

    Raises:
        FileNotFoundError: `weights` names no installed weights and no file.
        CheckpointError: A file is no usable checkpoint.
        ArgumentError: The device or the engine cannot be used, or `frames` is below 1.

    Example:
        >>> detector = load_detector(device="cpu")
        >>> for result in detector.predict_videos(["a.mp4", "b.mp4"]):
        ...     print(result.name, result.probability, result.status)
    """
    if frames < 1:
        raise ArgumentError(f"frames must be at least 1, not {frames}")
    frames = int(frames)  # JSON cannot hold a numpy integer
    model, spec = load_ensemble(find_all_weights(weights))
    return Detector(model, spec, choose_device(device), frames, engine=engine)


def has_failed(result: VideoResult) -> bool:
    """Return whether an unexpected error prevented scoring.

    Another device may then succeed.
    """
    return result.status == Status.FAILED


def _decode_ahead(frames: Iterator[Frame]) -> Generator[Frame, None, None]:
    for first in frames:
        room = max(1, min(FRAMES_AHEAD, AHEAD_BYTES // first.image.nbytes))
        with closing(prefetch(chain([first], frames), room)) as ahead:
            yield from ahead


def _to_frames(source: np.ndarray | Iterable[Frame | np.ndarray]) -> list[Frame]:
    """Return one image, or several frames, as `Frame` objects.

    Arrays have no times. They get the times 0, 1, 2 and so on, in seconds.
    """
    if isinstance(source, np.ndarray) and source.ndim in (2, 3):
        source = [source]
    try:
        pictures = iter(source)
    except TypeError:
        raise ArgumentError(f"{type(source).__name__}: cannot be scored; give {SOURCES}") from None
    frames = [
        one if isinstance(one, Frame) else Frame(float(number), one, number)
        for number, one in enumerate(pictures)
    ]
    if not frames:
        raise ArgumentError("no frames: give at least one")
    for number, frame in enumerate(frames):
        if isinstance(frame.image, str | Path):
            raise ArgumentError(
                f"{frame.image}: is no frame; for several files, use predict_videos"
            )
        _require_image(frame.image, f"frame {number}")
    times = [float(frame.time) for frame in frames]  # JSON cannot hold a numpy float32
    for number, (before, time) in enumerate(pairwise([-np.inf, *times])):
        if not (np.isfinite(time) and before < time):
            raise ArgumentError(
                f"frame {number}: has the time {time}; give each frame a later time than the one "
                "before"
            )
    return [replace(frame, time=time) for frame, time in zip(frames, times, strict=True)]


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


class CheckedFrames:
    """Yields frames, counts them, and calls `check` before each frame.

    `check` raises an error if no time is left.

    Attributes:
        count: Number of frames that have been yielded so far.
        bits_per_pixel: `Frame.bits_per_pixel` of the last frame; NaN before the first frame.
        share: Sum of `Frame.share` over these frames: the share of the video that was decoded
            without errors. NaN if it is unknown.
    """

    def __init__(self, frames: Iterable[Frame], check: Callable[[], None]):
        self.frames = frames
        self.check = check
        self.count = 0
        self.bits_per_pixel = np.nan
        self.share = 0.0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            self.check()
            self.count += 1
            self.bits_per_pixel = frame.bits_per_pixel
            self.share += frame.share
            yield frame


class _Process:
    """The process that made a detector.

    A copy that was pickled belongs to the process that unpickled it.
    """

    def __init__(self) -> None:
        self._id = os.getpid()

    def __reduce__(self) -> tuple:
        return _Process, ()

    def require_same(self) -> None:
        """Raise DfdetectError in a process that was forked after the detector was made."""
        if os.getpid() != self._id:
            raise DfdetectError(
                "this process was forked after the detector was loaded, so its networks would "
                'hang: start processes with multiprocessing.get_context("spawn"), or load '
                "detectors only after the fork"
            )


class _Stopwatch:
    """Measures the seconds spent in each stage of a prediction."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str, apart_from: Sequence[str] = ()) -> Iterator[None]:
        """Measure the time of a `with` block, and add it to the time of `stage`.

        The time that the block spends in the stages `apart_from` is not counted.
        """
        start = perf_counter() - self._sum(apart_from)
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - self._sum(apart_from) - start

    def timed(self, stage: str, function: Callable[..., Item]) -> Callable[..., Item]:
        """Return a function that calls `function` and measures the time of each call."""

        def call(*arguments: Any) -> Item:
            with self.measure(stage):
                return function(*arguments)

        return call

    def iterate(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items.

        The time of reading each item is added to the time of `stage`.
        """
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
