"""Split faces into those that a model is trained on, and those that it is measured on."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfdetect.data.faceset import GROUP, FaceSet, require_disjoint_actors
from dfdetect.training.distributed import DistributedContext


@dataclass(frozen=True)
class Split:
    """The faces of a training run.

    Attributes:
        train: Crops to train on, without reconstructions.
        reconstructions: Reconstructions of REAL crops (see `dfdetect.data.reconstruct`), or None.
        held_out: Crops on which the model is measured. If the face sets have the column
            `actor_group`, these crops show other actors than `train`. If whole sources are held
            out, the crops also come from other sources.
    """

    train: FaceSet
    reconstructions: FaceSet | None
    held_out: FaceSet

    def require_readable(self, context: DistributedContext, progress: bool) -> None:
        """Check that every image can be decoded. Each process checks a part of the images.

        Raises:
            FaceSetError: An image cannot be decoded.
        """
        for faces in filter(None, (self.train, self.reconstructions, self.held_out)):
            own = faces.select(context.shard(np.arange(len(faces))))
            own.require_readable(progress)


def read_split(
    faces: Sequence[str | Path],
    val: str | Path | float | Sequence[str | Path | float],
    seed: int,
    min_pair_difference: float = 0.0,
) -> Split:
    """Read face sets, and split them into faces to train on and held-out faces.

    Args:
        faces: Paths of the index files of face sets.
        val: What to hold out: the path of another face set's index file, or a fraction between 0
            and 1 of each face set in `faces`. If the FAKE crops of a face set come from several
            sources, it is a fraction of the sources. Otherwise it is a fraction of the actor groups
            (see `FaceSet.split`). A list may mix paths and fractions. Its entries are applied in
            order, so a fraction refers to what is left.
        seed: Seed of the random choice of held-out faces.
        min_pair_difference: FAKE crops that differ less than this from their originals are not
            trained on (see `FaceSet.without_label_noise`).

    Raises:
        FaceSetError: A face set is unusable or has only one class, or a crop is both in `faces` and
            in a face set that `val` names.
    """
    parts = [FaceSet.read(index) for index in faces]
    # Of face sets without recorded fakes, nothing is held out.
    divided = [part for part in parts if ((part.labels == 1) & ~part.reconstructed).any()]
    joined = FaceSet.join(parts)
    joined.require_both_classes(", ".join(map(str, faces)))
    held_out = []
    for one in as_list(val):
        if isinstance(one, float):
            if any(GROUP not in part.table for part in divided):
                warnings.warn(
                    f"no column {GROUP!r}: crops of one person may be in both parts of the split, "
                    "and the metrics may be too good",
                    stacklevel=3,
                )
            joined, part = joined.split(one, seed)
        else:
            part = FaceSet.read(one)
            part.require_both_classes(str(one))
            joined = _without_actors(joined, part, str(one))
        held_out.append(part)
    made = joined.reconstructed
    return Split(
        joined.select(~made).without_label_noise(min_pair_difference),
        joined.select(made) if made.any() else None,
        FaceSet.join(held_out),
    )


def _without_actors(faces: FaceSet, held_out: FaceSet, name: str) -> FaceSet:
    """Return `faces` without the crops whose actor group also occurs in `held_out`.

    `name` is the name of the held-out face set in warnings and errors.

    Raises:
        FaceSetError: Some crops are in both face sets. Or only one of the two face sets has the
            column `actor_group`. Or all faces that are left have the same class.
    """
    shared = np.zeros(len(faces), bool)
    if GROUP in held_out.table and not set(faces.table["id"]) & set(held_out.table["id"]):
        shared = np.isin(faces.groups, held_out.groups)
    if shared.any():
        warnings.warn(
            f"{name}: {shared.sum()} training crops show actors of this face set and are left out",
            stacklevel=4,
        )
    rest = faces.select(~shared)
    require_disjoint_actors(rest, held_out, name)
    rest.require_both_classes(f"the faces whose actors are not in {name}")
    return rest


def as_list(val: str | Path | float | Sequence[str | Path | float]) -> list[str | Path | float]:
    """Return the argument `val` of `train` as a list."""
    return [val] if isinstance(val, str | Path | float) else list(val)
