"""Prepare the training inputs of a model from the crops of face sets."""

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.data.faceset import FaceSet
from dfdetect.data.self_blend import blend_reconstruction, self_blend
from dfdetect.faces.clips import make_clip, still_clip
from dfdetect.faces.crops import resize_crops, to_tensor

Transform = Callable[[torch.Tensor], torch.Tensor]


class Role(Enum):
    """What `ClipDataset` does with a crop before the augmentation, for example to make a fake."""

    RECORDED = "the crop itself"
    SELF_BLENDED = "a fake, which is the REAL crop blended with a changed copy of itself"
    RECONSTRUCTED = "a fake, which is the REAL crop blended with its reconstruction"
    MATCHED = "the REAL crop, resized and compressed like the RECONSTRUCTED fake made of it"


class Item(NamedTuple):
    """One entry of a batch: a crop, or a clip of consecutive crops.

    Attributes:
        position: Position of the crop or clip in the dataset, from 0.
        seed: Seed of all random changes to the item. A fake and the REAL item that it is made from
            have the same seed, so that they are augmented in the same way.
        role: What the dataset does with the crop before the augmentation (see `Role`).
    """

    position: int
    seed: int
    role: Role = Role.RECORDED


class ClipDataset(Dataset):
    """A dataset of pairs (images, label) for torch's data loader.

    The images of an entry are uint8 of shape (3, size, size), or (length, 3, size, size) for clips.
    The label is 1.0 for FAKE and 0.0 for REAL. An entry is read by its position (an int) or by an
    `Item`.

    Args:
        faces: The face set of the crops.
        transform: Function from uint8 images of shape (..., 3, height, width) to uint8 images of
            shape (..., 3, size, size). It gets all crops of a clip in one call.
        length: Number of crops in each clip; 1 for models that take single crops. A clip consists
            of consecutive crops of a track. If a track has only one crop, the clip consists of
            copies of this crop, each shifted by a few pixels.
        jitter: Whether the copies of a single crop (see `length`) are shifted at random, as in
            training. If False, the shifts are the same at each access.
        reconstructions: A face set of reconstructed REAL crops, from which the dataset makes fakes
            (see `dfdetect.data.reconstruct`). Its column `original` holds the ids of the REAL crops
            in `faces`. If `length` is above 1, this argument has no effect.
        compression: Transform that is applied before `transform`, both to the fakes made from
            `reconstructions` and to the REAL crops that were reconstructed (see
            `dfdetect.training.augment.matching_compression`).
    """

    def __init__(
        self,
        faces: FaceSet,
        transform: Transform,
        length: int = 1,
        jitter: bool = True,
        reconstructions: FaceSet | None = None,
        compression: Transform | None = None,
    ):
        self.faces = faces
        self.transform = transform
        self.length = length
        self.jitter = jitter
        self.reconstructions = reconstructions
        self.compression = compression or torch.nn.Identity()
        self.clips = faces.clips(length)
        first = np.array([rows[0] for rows in self.clips])
        self.labels = faces.labels[first]
        self.face_sets = faces.face_sets[first]
        self.sources = faces.sources[first]
        self.shards = faces.shards[first]
        self.partners = faces.partners() if length == 1 else {}
        self._made_of = _by_original(faces, reconstructions) if length == 1 else {}
        self.has_reconstruction = np.isin(np.arange(len(self.clips)), list(self._made_of))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: int | Item) -> tuple[torch.Tensor, float]:
        if isinstance(item, int):
            return self._make(Item(item, 0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(item.seed)
            return self._make(item)

    def _make(self, item: Item) -> tuple[torch.Tensor, float]:
        position, seed, role = item
        rows = self.clips[position]
        crops = torch.stack([to_tensor(self.faces.image(row)) for row in rows])
        label = float(self.labels[position])
        # Draws from this generator leave torch's global generator unchanged. A fake and its REAL
        # item, which have the same seed, are therefore augmented in the same way.
        generator = torch.Generator().manual_seed(seed)
        if role is Role.SELF_BLENDED:
            crops, label = self_blend(crops, generator), 1.0
        elif role in (Role.RECONSTRUCTED, Role.MATCHED):
            real, fake = self._pair_with_reconstruction(position, crops[0], generator)
            made = role is Role.RECONSTRUCTED
            crops, label = self.compression((fake if made else real)[None]), float(made)
        images = self.transform(crops)
        if len(rows) > 1:
            return images, label
        if self.length > 1 and self.jitter:
            return still_clip(images[0], self.length, torch.default_generator), label
        return make_clip([images[0]], self.length), label

    def _pair_with_reconstruction(
        self, position: int, real: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the crop `real`, and a fake made from `real` and one of its reconstructions.

        `position` is the position of the crop in the dataset. The returned REAL crop is sometimes
        blurred (see `blend_reconstruction`).
        """
        assert self.reconstructions is not None
        rows = self._made_of[position]
        row = rows[int(torch.randint(len(rows), (), generator=generator))]
        drawn = to_tensor(self.reconstructions.image(row))
        side = int(self.reconstructions.table["side"].iloc[row])
        return blend_reconstruction(real, drawn, side, generator)


class DetectorDataset(ClipDataset):
    """A `ClipDataset` that prepares crops as a detector prepares them for its model.

    Crops are resized as in the detector. If the detector mirrors every second crop of a track, the
    dataset does the same. There is one exception: if a track has only one crop, such a detector
    also scores the crop's mirror image. The dataset does not contain this image.

    Args:
        faces: The face set of the crops.
        spec: The specification of the detector's model.

    Attributes:
        tracks: For each track, the positions of its crops in the dataset, in the order of time. If
            the model takes clips, the list is empty.
    """

    def __init__(self, faces: FaceSet, spec: ModelSpec):
        resize = partial(resize_crops, size=spec.input_size, rule=spec.resize)
        super().__init__(faces, resize, spec.frames_per_clip, jitter=False)
        # If the model takes single crops, a crop's position is its row number in the face set.
        self.tracks = faces.tracks() if spec.frames_per_clip == 1 else []
        self.mirrored = np.zeros(len(faces), bool)
        if spec.mirror:
            self.mirrored[[row for track in self.tracks for row in track[1::2]]] = True

    def _make(self, item: Item) -> tuple[torch.Tensor, float]:
        images, label = super()._make(item)
        return images.flip(-1) if self.mirrored[item.position] else images, label


def _by_original(faces: FaceSet, reconstructions: FaceSet | None) -> dict[int, list[int]]:
    """Return a dictionary from a REAL crop's row number to the row numbers of its reconstructions.

    REAL crops without reconstructions are left out.
    """
    if reconstructions is None:
        return {}
    made = reconstructions.table.groupby("original").indices
    return {row: made[name].tolist() for row, name in enumerate(faces.table["id"]) if name in made}
