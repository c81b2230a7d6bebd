"""Face sets -> crops or clips, as a model takes them."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import Dataset

from dfdetect.data.faceset import FaceSet
from dfdetect.data.self_blend import self_blend
from dfdetect.faces.clips import make_clip, still_clip
from dfdetect.faces.crops import to_tensor

Transform = Callable[[torch.Tensor], torch.Tensor]


class ClipDataset(Dataset):
    """What a model takes, one after another, as (images, label).

    Args:
        faces: The crops.
        transform: From uint8 (..., 3, height, width) to (..., 3, size, size); the crops of a clip
            go through it together.
        length: Crops in a clip; 1 for image models, which see every crop by itself. A clip model
            sees crops of one track in a row, and a crop without a track as moved copies of it.
        jitter: Whether these copies are moved anew each time, as for training.

    Items are uint8 (3, size, size), or (length, 3, size, size) for clips, and 0.0 or 1.0. The item
    at `position + len(dataset)` is a self-blended fake of that at `position`. A pair of a position
    and a seed may be given instead: then what is drawn depends on nothing but these.
    """

    def __init__(self, faces: FaceSet, transform: Transform, length: int = 1, jitter: bool = True):
        self.faces = faces
        self.transform = transform
        self.length = length
        self.jitter = jitter
        self.clips = faces.clips(length)
        first = np.array([rows[0] for rows in self.clips])
        self.labels = faces.labels[first]
        self.unpaired_real = faces.unpaired_real[first]
        self.shards = faces.shards[first]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[torch.Tensor, float]:
        if isinstance(item, int):
            return self._make(item)
        position, seed = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._make(position)

    def _make(self, position: int) -> tuple[torch.Tensor, float]:
        blended, position = divmod(position, len(self))
        rows = self.clips[position]
        crops = torch.stack([to_tensor(self.faces.image(row)) for row in rows])
        if blended:
            crops = self_blend(crops)
        images = self.transform(crops)
        label = 1.0 if blended else float(self.labels[position])
        if len(rows) > 1:
            return images, label
        if self.length > 1 and self.jitter:
            return still_clip(images[0], self.length, torch.default_generator), label
        return make_clip([images[0]], self.length), label
