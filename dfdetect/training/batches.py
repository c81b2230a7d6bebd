"""Face sets -> balanced batches of crops or clips."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dfdetect.clips import make_clip, still_clip
from dfdetect.faces import to_tensor
from dfdetect.training.blend import self_blend
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

    Items are uint8 (3, size, size), or (length, 3, size, size) for clips, and 0.0 or 1.0. The item
    at `position + len(dataset)` is a self-blended fake of that at `position`.
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


class BalancedSampler(Sampler[list[int]]):
    """Batches of positions, half of each class; all of the rarer class once an epoch.

    The other class gives as many, drawn anew each epoch. The last, incomplete batch is left
    out, unless it is the only one.

    Args:
        labels: 1 for FAKE, 0 for REAL, shape (n,).
        batch_size: Positions in a batch.
        seed: Of the order.
        blend: Share of the FAKE half that is made by self-blending REAL crops of the same batch,
            each beside its original; their positions are moved by n, as `ClipDataset` takes them.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int, blend: float = 0.0):
        self.real, self.fake = (np.flatnonzero(labels == label) for label in (0, 1))
        half = max(1, batch_size // 2)
        fakes = half - round(blend * half)
        if min(len(self.real) // half, len(self.fake) // max(1, fakes)) == 0:
            half = min(len(self.real), len(self.fake))
            fakes = half - round(blend * half)
        self.half, self.fakes = half, fakes
        self.steps = min(len(self.real) // half, len(self.fake) // max(1, fakes))
        self.moved = len(labels)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        # Dropout draws from torch, on whatever device: an epoch's depends on nothing before it.
        torch.manual_seed(int(generator.integers(2**31)))
        real, fake = (generator.permutation(rows) for rows in (self.real, self.fake))
        for step in range(self.steps):
            reals = real[step * self.half :][: self.half]
            fakes = fake[step * self.fakes :][: self.fakes]
            blended = reals[: self.half - self.fakes] + self.moved
            yield [*reals.tolist(), *fakes.tolist(), *blended.tolist()]
