"""`Classifier`: scores the crops of faces with one model."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.faces.clips import by_crop, make_clip, windows
from dfdetect.models.activation_maps import activation_maps
from dfdetect.models.fuse import fuse_batch_norms, pad_evenly
from dfdetect.models.tracks import CropNetwork, TrackModel, track_logits
from dfdetect.runtime.device import half_type, has_fast_half, split_on_oom
from dfdetect.runtime.engines import EngineNetwork
from dfdetect.runtime.executor import map_at_once

# Maximum number of crops in a batch, on a GPU and on a CPU. The caches of a CPU are too small for
# larger batches.
GPU_BATCH, CPU_BATCH = 64, 8
Item = TypeVar("Item")


class Classifier:
    """Scores the crops of faces with one model.

    A model takes either single crops or clips. A clip is several crops of one face in the order of
    time.

    Args:
        model: Network that returns logits of FAKE of shape (batch, 1). It takes normalised clips
            if `spec.frames_per_clip` is above 1, and otherwise normalised crops.
        spec: Description of the model, with the format of its input and the calibration of its
            logits.
        device: The device on which the model runs.
        engine: The library that runs the model on a CPU: `torch`, `openvino`, `onnxruntime`, or
            `auto` for the fastest installed library.
    """

    def __init__(
        self, model: nn.Module, spec: ModelSpec, device: torch.device, engine: str = "torch"
    ):
        self.spec = spec
        self.device = device
        model = pad_evenly(fuse_batch_norms(model.eval(), spec.input_shape))
        self.model = model.to(device).to(memory_format=torch.channels_last)
        example = torch.zeros(spec.input_shape, device=device)
        self.choose_precision()
        self.network = EngineNetwork(CropNetwork(self.model), example, (0,), engine, self.half)

    def choose_precision(self) -> None:
        """Set `half`: whether to compute in half precision, which is faster on some devices."""
        # Some values of a `TrackModel` would be too inexact in half precision.
        self.half = has_fast_half(self.device) and not isinstance(self.model, TrackModel)

    def frame_logits(
        self,
        clips: Iterable[Sequence[torch.Tensor]],
        check: Callable[[], None] = lambda: None,
    ) -> list[np.ndarray]:
        """Return the calibrated logits of all crops of several faces.

        Args:
            clips: For each face, a sequence of its crops in the order of time. The crops are RGB
                uint8 tensors of shape (3, height, width), cut in the format `spec.crop_format`.
            check: Function that is called before each batch. It may raise an error to stop the
                computation. Several threads may call it at the same time.

        Returns:
            For each face, the calibrated logits of FAKE, float64 of shape (crops,).

            - If the model is a `TrackModel`, the logit of a crop depends on all crops of the face.
            - If the model takes clips, each crop gets the logit of its clip. A crop that is in two
              clips gets the mean of their logits.
            - If `spec.mirror` is true and a face has only one crop, this crop and its mirror image
              are scored. The crop gets the mean of both logits.

        Raises:
            ArgumentError: A face has no crops.
        """
        inputs: list[int] = []
        frames: list[int] = []

        def make_inputs() -> Iterator[torch.Tensor]:
            for number, crops in enumerate(clips):
                made = self._make_clips(crops)
                if not made:
                    raise ArgumentError(f"clip {number}: no crops")
                inputs.append(len(made))
                frames.append(len(crops))
                yield from made

        at_once = self.network.calls_at_once
        values = list(self._in_batches(self._forward, make_inputs(), check, at_once))
        ends = np.cumsum(inputs).tolist()
        tracks = [range(end - count, end) for end, count in zip(ends, inputs, strict=True)]
        logits = self._logits(values, tracks)
        return [
            by_crop(logits[track], count, self.spec.frames_per_clip)
            for track, count in zip(tracks, frames, strict=True)
        ]

    def activation_maps(
        self, crops: Sequence[torch.Tensor], positions: Sequence[int]
    ) -> np.ndarray | None:
        """Return maps that show which parts of the chosen crops raise or lower the logit of FAKE.

        Args:
            crops: All crops of one face, in the order of time: RGB uint8 tensors of shape
                (3, height, width), cut in the format `spec.crop_format`.
            positions: Indexes of the chosen crops, at least one.

        Returns:
            float32 of shape (positions, rows, columns), or None if the model has no feature map.
            Values above 0 are evidence for FAKE, and values below 0 are evidence for REAL.

            - If the model takes single crops, the values of a map add up to the calibrated logit
              that the model gives to the crop alone.
            - If the model takes clips, each crop of a clip has a map. The values of a map add up to
              one sum, and the mean of the clip's sums is the calibrated logit of the clip. A crop
              that is in two clips gets the mean of two maps.
            - If `spec.mirror` is true and there is only one crop, it gets the mean of its own map
              and the map of its mirror image.
        """
        inputs, length = self._make_clips(crops), self.spec.frames_per_clip
        alone = len(crops) == 1
        parts = [[0] * length for _ in inputs] if alone else windows(len(crops), length)
        wanted = [
            number for number, part in enumerate(parts) if not set(positions).isdisjoint(part)
        ]
        maps = self._in_batches(self._input_maps, (inputs[number] for number in wanted))
        by_position: dict[int, list[np.ndarray]] = defaultdict(list)
        for number, over_time in zip(wanted, maps, strict=True):
            if over_time is None:
                return None
            if self.spec.mirror and number % 2:
                over_time = over_time[..., ::-1]
            for position, one in zip(parts[number], over_time, strict=True):
                by_position[position].append(one)
        return np.stack([np.mean(by_position[position], axis=0) for position in positions])

    def _make_clips(self, crops: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the inputs of the model (single crops or clips) for all crops of a face."""
        length = self.spec.frames_per_clip
        if self.spec.mirror:
            crops = [*crops, *crops] if len(crops) == 1 else crops
            return [crop.flip(-1) if number % 2 else crop for number, crop in enumerate(crops)]
        if len(crops) == 1:
            return [make_clip(crops, length)]
        parts = windows(len(crops), length)
        return [make_clip([crops[position] for position in part], length) for part in parts]

    @torch.inference_mode()
    def _logits(
        self, values: Sequence[torch.Tensor], tracks: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Return the calibrated logit of each input, float64 of shape (inputs,).

        Args:
            values: The tensor that the network returned for each input.
            tracks: For each face, the positions in `values` of the inputs that show the face.
        """
        if not values:
            return np.zeros(0)
        logits = track_logits(self.model, torch.stack(list(values)), tracks)
        calibrated = self.spec.calibration.apply(logits.cpu().numpy())
        if not np.isfinite(calibrated).all():
            raise DfdetectError("the model gave a logit that is not a finite number")
        return calibrated

    def _in_batches(
        self,
        function: Callable[[Sequence[torch.Tensor]], Sequence[Item]],
        inputs: Iterable[torch.Tensor],
        check: Callable[[], None] = lambda: None,
        at_once: int = 1,
    ) -> Iterator[Item]:
        """Call `function` with batches of inputs, and yield one result for each input.

        Up to `at_once` batches are computed at the same time. `check` is called before each batch.
        It may raise an error to stop the computation.
        """
        most = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        size = max(1, most // self.spec.frames_per_clip)
        left = iter(inputs)
        batches = iter(lambda: list(islice(left, size)), [])

        def compute(batch: Sequence[torch.Tensor]) -> Sequence[Item]:
            check()
            return split_on_oom(function, batch)

        for found in map_at_once(compute, batches, at_once):
            yield from found

    @torch.inference_mode()
    def _forward(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return the output of the network for each input: a one-dimensional float32 tensor."""
        images = self._upload(inputs)
        with torch.autocast(self.device.type, half_type(self.device), self.half):
            return self.network(self.spec.normalise(images)).float().unbind()

    def _input_maps(self, inputs: Sequence[torch.Tensor]) -> Sequence[np.ndarray | None]:
        """Return, for each input, the activation maps of its crops.

        An input is a single crop, or a clip of several crops. The maps of an input are float32 of
        shape (crops, rows, columns), as in `activation_maps`. If the model has no feature map, the
        result for each input is None.
        """
        images = self._upload(inputs)
        with torch.autocast(self.device.type, half_type(self.device), self.half):
            maps = activation_maps(self.model, self.spec.normalise(images))
        if maps is None:
            return [None] * len(inputs)
        places = maps.shape[-2] * maps.shape[-1]
        calibration = self.spec.calibration
        return list((calibration.scale * maps + calibration.bias / places).cpu().numpy())

    def _upload(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        images = torch.stack(list(inputs))
        if self.device.type == "cuda":
            images = images.pin_memory().to(self.device, non_blocking=True)
        return images
