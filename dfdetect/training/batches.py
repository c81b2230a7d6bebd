"""Face sets -> balanced batches of crops or clips."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dfdetect.clips import make_clip, still_clip
from dfdetect.faces import to_tensor
from dfdetect.training.faceset import FaceSet

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

    Items are uint8 (3, size, size), or (length, 3, size, size) for clips, and 0.0 or 1.0.
    """

    def __init__(self, faces: FaceSet, transform: Transform, length: int = 1, jitter: bool = True):
        self.faces = faces
        self.transform = transform
        self.length = length
        self.jitter = jitter
        self.clips = faces.clips(length)
        first = np.array([rows[0] for rows in self.clips])
        self.labels = faces.labels[first]
        self.groups = faces.groups[first]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, float]:
        rows = self.clips[position]
        label = float(self.labels[position])
        if len(rows) > 1:
            crops = [to_tensor(self.faces.image(row)) for row in rows]
            return self.transform(torch.stack(crops)), label
        crop = self.transform(to_tensor(self.faces.image(rows[0])))
        if self.length > 1 and self.jitter:
            return still_clip(crop, self.length, torch.default_generator), label
        return make_clip([crop], self.length), label


class BalancedSampler(Sampler[list[int]]):
    """Batches of positions, half of each class; all of the rarer class once an epoch.

    The other class gives as many, drawn anew each epoch. The last, incomplete batch is left
    out, unless it is the only one.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        self.classes = [np.flatnonzero(labels == label) for label in (0, 1)]
        rarer = min(len(rows) for rows in self.classes)
        self.half = min(max(1, batch_size // 2), rarer)
        self.steps = rarer // self.half
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        # Dropout draws from torch, on whatever device: an epoch's depends on nothing before it.
        torch.manual_seed(int(generator.integers(2**31)))
        real, fake = (generator.permutation(rows) for rows in self.classes)
        for start in range(0, self.steps * self.half, self.half):
            rows = slice(start, start + self.half)
            yield [*real[rows].tolist(), *fake[rows].tolist()]
