"""Which items of a data set are in which batch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from dfdetect.training.distributed import ONE_PROCESS, DistributedContext

# Shards that are read at a time: random places in them are as fast as the memory they fit into.
OPEN_SHARDS = 16


class BalancedSampler(Sampler[list[tuple[int, int]]]):
    """Batches of positions and seeds, half REAL, half FAKE.

    An epoch shows each REAL item once, or each FAKE one where those are rarer, and as many of the
    other class, drawn anew. The last, incomplete batch is left out, unless it is the only one.

    Face sets of many shards are read in a streaming order: a few shards at a time, drawn at random,
    and the items of these in any order.

    Args:
        labels: 1 for FAKE, 0 for REAL, shape (n,).
        batch_size: Positions in a batch.
        seed: Of the order.
        self_blend_share: Share of the FAKE half that is made by self-blending REAL items of the
            same batch, each beside its original; their positions are moved by n, as `ClipDataset`
            takes them.
        unpaired_real: Which items are of a source that has no fakes, shape (n,). Each of them
            stands beside a fake of itself, whatever `self_blend_share` says: else their source
            gives REAL away.
        shards: Number of the shard that holds each item, shape (n,).
        context: The processes that train together, each of which gets its part of every batch.

    Raises:
        ValueError: A batch has fewer items than there are processes.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        self_blend_share: float = 0.0,
        unpaired_real: np.ndarray | None = None,
        shards: np.ndarray | None = None,
        context: DistributedContext = ONE_PROCESS,
    ):
        self.shards = np.zeros(len(labels), int) if shards is None else shards
        self.context = context
        unpaired_real = np.zeros(len(labels), bool) if unpaired_real is None else unpaired_real
        self.unpaired_real = np.flatnonzero(unpaired_real)
        self.real = np.flatnonzero((labels == 0) & ~unpaired_real)
        self.fake = np.flatnonzero(labels == 1)
        self.blend_offset = len(labels)
        self.seed = seed
        self.epoch = 0
        self.start = 0  # batches of the epoch that are passed over
        half = max(1, batch_size // 2)
        if self._steps(half, self_blend_share) == 0:
            half = min(len(self.real) + len(self.unpaired_real), len(self.fake))
        self.steps = self._steps(half, self_blend_share)
        self.half = half
        self.batch = 2 * half
        if self.batch < context.world_size:
            raise ValueError(
                f"batches of {self.batch} items are too few for {context.world_size} processes: "
                "give a larger --batch-size, or start fewer"
            )

    def _steps(self, half: int, self_blend_share: float) -> int:
        """Set how many items of each kind a batch has; the number of batches in an epoch."""
        share = len(self.unpaired_real) / (len(self.unpaired_real) + len(self.real))
        self.unpaired_in_batch = round(half * share)
        self.blended = max(self.unpaired_in_batch, round(self_blend_share * half))
        wanted = (
            (self.unpaired_real, self.unpaired_in_batch),
            (self.real, half - self.unpaired_in_batch),
            (self.fake, half - self.blended),
        )
        return min(len(rows) // count for rows, count in wanted if count)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        turns = self._turns(generator)
        unpaired_real, real, fake = (
            _in_turns(generator.permutation(rows), turns)
            for rows in (self.unpaired_real, self.real, self.fake)
        )
        for step in range(self.steps):
            # Unpaired ones first: they are those that are blended in any case.
            reals = np.concatenate(
                [
                    _part(unpaired_real, self.unpaired_in_batch, step),
                    _part(real, self.half - self.unpaired_in_batch, step),
                ]
            )
            fakes = _part(fake, self.half - self.blended, step)
            blended = reals[: self.blended] + self.blend_offset
            batch = np.concatenate([reals, fakes, blended])
            seeds = generator.integers(2**31, size=len(batch))
            if step < self.start:
                continue
            yield self.context.shard(list(zip(batch.tolist(), seeds.tolist(), strict=True)))

    def _turns(self, generator: np.random.Generator) -> np.ndarray:
        """When each item's shard has its turn, shape (n,)."""
        found, numbers = np.unique(self.shards, return_inverse=True)
        if len(found) <= OPEN_SHARDS:
            return np.zeros(len(numbers), int)
        return (generator.permutation(len(found)) // OPEN_SHARDS)[numbers]


def _in_turns(rows: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return rows[np.argsort(turns[rows], kind="stable")]


def _part(rows: np.ndarray, count: int, step: int) -> np.ndarray:
    return rows[step * count : (step + 1) * count]
