"""Choose the crops of each training batch, half of them REAL and half FAKE."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from dfdetect.errors import ArgumentError
from dfdetect.training.dataset import ClipDataset, Item, Role
from dfdetect.training.distributed import ONE_PROCESS, DistributedContext

# Number of shards (tar files of crops) from which items are drawn at a time. This number of shards
# fits into memory, and random access to their items is therefore fast.
OPEN_SHARDS = 16


class BalancedSampler(Sampler[list[Item]]):
    """A sampler that yields batches of items (crops or clips), half of them REAL and half FAKE.

    **Face sets.** Each half of a batch is divided among the face sets in proportion to their
    weights. A face set without items of a class gets no share of this half. Within a face set, a
    source is drawn first, and then an item of this source. The probability of a source is in
    proportion to the square root of its number of items. All items of a source are drawn once, in
    random order, before any is drawn again.

    **Made fakes.** Some fakes are made from REAL items of the same batch. Such a fake has the same
    seed as its REAL item, so both are augmented in the same way.

    - The share `self_blend_share` of the FAKE half is made by self-blending (see
      `dfdetect.data.self_blend`).
    - The share `reconstruction_share` is made from stored reconstructions of the REAL items (see
      `dfdetect.data.reconstruct`). A REAL item without a reconstruction is self-blended.
    - If a source has no FAKE items, or they are left out, a fake is made from each of its REAL
      items in the batch. There may then be more made fakes than the two shares say.

    **Recorded fakes.** The rest of the FAKE half consists of FAKE items of the dataset, called
    recorded fakes. The share `pair_share` of them gets a partner in the batch: a REAL item of the
    same scene. The partner replaces another REAL item. A recorded fake and its partner have the
    same seed.

    **Epochs.** An epoch has `epoch_items` items. By default, each item of the rarer class is used
    once on average; items that are left out do not count. Without FAKE items, all fakes are made,
    and each REAL item is used once on average. An incomplete last batch is left out, unless it is
    the only batch.

    **Shards.** If there are many shards (tar files of crops), only a few random shards are read at
    a time.

    Args:
        dataset: The dataset of the items.
        batch_size: Number of items in a batch.
        seed: Seed of all random choices.
        weights: Two weights for each face set of the dataset: one for its REAL items, and one for
            its FAKE items. One of the two may be 0: these items are left out. None for equal
            weights.
        self_blend_share: Share of the FAKE half that is made by self-blending.
        reconstruction_share: Share of the FAKE half that is made from reconstructions.
        pair_share: Share of the recorded fakes that get a partner (a REAL item of their scene).
        epoch_items: Number of items in an epoch, or 0 for the default.
        context: This process's place among the processes of the training run. Each process gets its
            part of every batch.

    Raises:
        ArgumentError: A batch has fewer items than there are processes, `weights` has fewer entries
            than there are face sets, a weight is negative, both weights of a face set are 0, or all
            REAL items are left out.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        seed: int,
        *,
        weights: Sequence[tuple[float, float]] | None = None,
        self_blend_share: float = 0.0,
        reconstruction_share: float = 0.0,
        pair_share: float = 0.0,
        epoch_items: int = 0,
        context: DistributedContext = ONE_PROCESS,
    ):
        self.dataset = dataset
        self.seed = seed
        self.self_blend_share = self_blend_share
        self.reconstruction_share = reconstruction_share
        self.pair_share = pair_share
        self.context = context
        self.epoch = 0
        self.start = 0  # number of batches to skip, because a stopped run has used them
        sets = int(dataset.face_sets.max()) + 1
        self.weights = np.asarray(weights or [(1.0, 1.0)] * sets, np.float64)
        allowed = (self.weights >= 0).all() and self.weights.any(axis=1).all()
        if len(self.weights) < sets or not allowed:
            raise ArgumentError(
                f"{sets} face sets need as many pairs of weights, from 0 on and not both 0, "
                f"not {weights}"
            )
        if not self.weights[dataset.face_sets[dataset.labels == 0], 0].any():
            raise ArgumentError(
                f"the weights {weights} leave out all REAL crops: give one of them a weight above 0"
            )
        used = self.weights[dataset.face_sets, dataset.labels] > 0
        real, fake = (used & (dataset.labels == label) for label in (0, 1))
        self.unpaired = real & ~np.isin(dataset.sources, dataset.sources[fake])
        made = max(self_blend_share + reconstruction_share, float(self.unpaired[real].mean()))
        rarer = int(real.sum())
        if fake.any():
            rarer = min(rarer, int(fake.sum() / max(1e-9, 1 - made)))
        epoch_half = epoch_items // 2 or rarer
        self.half = max(1, min(batch_size // 2, epoch_half))
        self.batch = 2 * self.half
        self.steps = epoch_half // self.half
        if self.batch < context.world_size:
            raise ArgumentError(
                f"batches of {self.batch} items are too small for {context.world_size} processes; "
                "give a larger batch_size, or start fewer processes"
            )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Item]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        turns = self._turns(generator)
        real, fake = (
            _Pool(self.dataset, label, self.weights[:, label], turns, generator) for label in (0, 1)
        )
        for step in range(self.steps):
            batch = self._batch(real, fake, generator)
            if step >= self.start:
                yield self.context.shard(batch)

    def _batch(self, real: "_Pool", fake: "_Pool", generator: np.random.Generator) -> list[Item]:
        reals = real.draw(self.half)
        # Without fakes from each source, a model could learn that all items of a source are REAL.
        unpaired = self.unpaired[reals]
        wanted = round((self.self_blend_share + self.reconstruction_share) * self.half)
        made = max(int(unpaired.sum()), wanted) if len(fake) else self.half
        order = np.argsort(~unpaired, kind="stable")  # items of sources without fakes first
        reals = reals[order]
        seeds = generator.integers(2**31, size=self.half).tolist()
        roles = self._roles(reals[:made], generator)
        items = [
            Item(int(position), seed, Role.MATCHED if role is Role.RECONSTRUCTED else Role.RECORDED)
            for position, seed, role in zip(reals[:made], seeds[:made], roles, strict=True)
        ]
        fakes = [
            Item(item.position, item.seed, role) for item, role in zip(items, roles, strict=True)
        ]
        spare = {
            slot: int(position) for slot, position in enumerate(reals[made:].tolist(), start=made)
        }
        for position in fake.draw(self.half - made).tolist():
            fakes.append(Item(position, int(generator.integers(2**31))))
            partners = self.dataset.partners.get(position, ())
            slot = self._slot_for(position, spare)
            if len(partners) and slot is not None and generator.random() < self.pair_share:
                del spare[slot]
                items.append(Item(int(generator.choice(partners)), fakes[-1].seed))
        items += [Item(position, seeds[slot]) for slot, position in spare.items()]
        return items + fakes

    def _slot_for(self, fake: int, spare: dict[int, int]) -> int | None:
        """Return the slot that the partner of a fake may take, or None.

        A slot is a position in the REAL half of the batch. The returned slot holds a REAL item from
        the same face set as the fake, and the partner replaces this item. If `spare` has no such
        item, the result is None.

        Args:
            fake: Position of the fake in the dataset.
            spare: The REAL items that may be replaced: a dictionary from their slots to their
                positions in the dataset.
        """
        face_sets = self.dataset.face_sets
        for slot, position in spare.items():
            if face_sets[position] == face_sets[fake]:
                return slot
        return None

    def _roles(self, reals: np.ndarray, generator: np.random.Generator) -> list[Role]:
        """Return, for each REAL item, the role of the fake that is made from the item.

        The role is RECONSTRUCTED or SELF_BLENDED. `reals` holds the positions of the REAL items in
        the dataset.
        """
        share = self.reconstruction_share / max(
            1e-9, self.self_blend_share + self.reconstruction_share
        )
        redrawn = self.dataset.has_reconstruction[reals]
        redrawn &= generator.random(len(reals)) < share
        return [Role.RECONSTRUCTED if one else Role.SELF_BLENDED for one in redrawn.tolist()]

    def _turns(self, generator: np.random.Generator) -> np.ndarray:
        """Return, for each item, the number of the turn in which it is drawn, int of shape (n,).

        Items are drawn in turns, so that only a few shards are read at a time. In each turn, the
        items of `OPEN_SHARDS` random shards are drawn.
        """
        found, numbers = np.unique(self.dataset.shards, return_inverse=True)
        if len(found) <= OPEN_SHARDS:
            return np.zeros(len(numbers), int)
        return (generator.permutation(len(found)) // OPEN_SHARDS)[numbers]


class _Pool:
    """Draws the items (crops or clips) of one class, REAL or FAKE, for each batch.

    Each draw chooses a face set, then one of its sources, and then the next item of this source.
    The probability of a face set is in proportion to its weight. The probability of a source is in
    proportion to the square root of its number of items. Each item of a source is drawn once before
    any of them is drawn again.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        label: int,
        weights: np.ndarray,
        turns: np.ndarray,
        generator: np.random.Generator,
    ):
        self.generator = generator
        self.turns = turns
        rows = np.flatnonzero((dataset.labels == label) & (weights[dataset.face_sets] > 0))
        by_source = defaultdict(list)
        for row in rows.tolist():
            by_source[int(dataset.face_sets[row]), str(dataset.sources[row])].append(row)
        self.queues = [_Queue(np.array(items), turns, generator) for items in by_source.values()]
        set_of = np.array([number for number, _ in by_source], dtype=int)
        sizes = np.sqrt([len(items) for items in by_source.values()])
        per_set = np.bincount(set_of, sizes, minlength=len(weights))
        self.chances = weights[set_of] * sizes / per_set[set_of] if len(rows) else np.zeros(0)
        self.count = len(rows)

    def __len__(self) -> int:
        return self.count

    def draw(self, count: int) -> np.ndarray:
        """Draw `count` items, and return their positions in the dataset."""
        if count == 0:
            return np.zeros(0, int)
        edges = np.cumsum(self.chances / self.chances.sum())
        # Systematic sampling (Kitagawa 1996) draws one random number for the whole batch.
        places = (np.arange(count) + self.generator.random()) / count
        sources = np.minimum(np.searchsorted(edges, places), len(self.queues) - 1)
        return np.array([self.queues[source].next() for source in sources.tolist()])


class _Queue:
    """An endless sequence of items. Each round has every item once, in a new random order.

    In a round, the items of one turn come before the items of the next turn (see
    `BalancedSampler._turns`).
    """

    def __init__(self, items: np.ndarray, turns: np.ndarray, generator: np.random.Generator):
        self.items = items
        self.turns = turns
        self.generator = generator
        self.left: list[int] = []

    def next(self) -> int:
        """Return the next item's position in the dataset."""
        if not self.left:
            items = self.generator.permutation(self.items)
            self.left = items[np.argsort(self.turns[items], kind="stable")][::-1].tolist()
        return self.left.pop()
