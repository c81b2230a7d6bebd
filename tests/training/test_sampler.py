import numpy as np
import pytest

from dfdetect.training.distributed import DistributedContext
from dfdetect.training.sampler import OPEN_SHARDS, BalancedSampler


def positions(sampler):
    """The batches, without the items' seeds."""
    return [[position for position, _ in batch] for batch in sampler]


def test_batches_are_balanced_and_the_rarer_class_is_used_up():
    labels = np.array([0] * 20 + [1] * 100)
    sampler = BalancedSampler(labels, batch_size=8, seed=0)
    batches = positions(sampler)
    assert len(batches) == len(sampler) == 5
    for batch in batches:
        assert labels[batch].tolist() == [0] * 4 + [1] * 4
    rows = np.concatenate(batches)
    assert sorted(rows[labels[rows] == 0]) == list(range(20))
    assert len(set(rows)) == len(rows)
    sampler.epoch = 1
    assert set(np.concatenate(positions(sampler))) != set(rows)


def test_few_crops_make_one_batch():
    (batch,) = positions(BalancedSampler(np.array([0, 1, 1]), batch_size=64, seed=0))
    assert batch[0] == 0
    assert batch[1] in (1, 2)


def test_blended_fakes_stand_beside_their_originals():
    labels = np.array([0] * 40 + [1] * 100)
    sampler = BalancedSampler(labels, batch_size=16, seed=0, self_blend_share=0.5)
    batches = positions(sampler)
    assert len(batches) == 5
    for batch in batches:
        real, fake, blended = batch[:8], batch[8:12], np.array(batch[12:])
        assert labels[real].tolist() == [0] * 8
        assert labels[fake].tolist() == [1] * 4
        assert set(blended - 140) <= set(real)
    assert len({place for batch in batches for place in batch[8:12]}) == 20


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_real_items_of_sources_without_fakes_stand_beside_their_own(share):
    labels = np.array([0] * 60 + [1] * 100)
    unpaired_real = np.arange(160) < 20
    sampler = BalancedSampler(
        labels, batch_size=12, seed=0, self_blend_share=share, unpaired_real=unpaired_real
    )
    batches = positions(sampler)
    assert len(batches) == 10
    for batch in batches:
        real, fake = np.array(batch[:6]), np.array(batch[6:])
        blended = fake[fake >= 160] - 160
        assert labels[real].tolist() == [0] * 6
        assert len(blended) == max(2, 6 * share)
        assert set(real[unpaired_real[real]]) <= set(blended) <= set(real)
    assert sorted(set(np.concatenate(batches)) & set(range(20))) == list(range(20))


def test_many_shards_are_read_a_few_at_a_time():
    labels, shards = np.arange(4000) % 2, np.arange(4000) // 40
    sampler = BalancedSampler(labels, 20, seed=0, shards=shards)
    epochs = []
    for epoch in range(2):
        sampler.epoch = epoch
        batches = positions(sampler)
        shown = [position for batch in batches for position in batch]
        assert sorted(shown) == list(range(4000))
        opened = [set(shards[batch]) for batch in batches]
        # At the end of a turn, a batch may hold items of the next.
        assert max(map(len, opened)) <= 20
        span = 16 * 40 // 20
        assert len(set().union(*opened[:span])) == OPEN_SHARDS
        epochs.append(shown)
    assert set(shards[epochs[0][:640]]) != set(shards[epochs[1][:640]])


def test_a_batch_needs_an_item_for_each_process():
    with pytest.raises(ValueError, match="batches of 2 items are too few for 3 processes"):
        BalancedSampler(np.arange(10) % 2, 2, seed=0, context=DistributedContext(0, 3))
