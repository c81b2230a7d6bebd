from types import SimpleNamespace

import numpy as np
import pytest

from dfdetect.training.dataset import Role
from dfdetect.training.distributed import DistributedContext
from dfdetect.training.sampler import OPEN_SHARDS, BalancedSampler


def stand_in(labels, **columns):
    """Return an object with the attributes of a dataset that the sampler uses."""
    labels = np.asarray(labels)
    nothing = np.zeros(len(labels), int)
    defaults = {
        "labels": labels,
        "face_sets": nothing,
        "sources": np.full(len(labels), ""),
        "has_reconstruction": nothing.astype(bool),
        "shards": nothing,
        "partners": {},
    }
    return SimpleNamespace(**(defaults | columns))


def positions(sampler):
    return [[item.position for item in batch] for batch in sampler]


def test_sampler_balances_batches_and_uses_up_the_rarer_class():
    labels = np.array([0] * 20 + [1] * 100)
    sampler = BalancedSampler(stand_in(labels), batch_size=8, seed=0)
    batches = positions(sampler)
    assert len(batches) == len(sampler) == 5
    for batch in batches:
        assert labels[batch].tolist() == [0] * 4 + [1] * 4
    rows = np.concatenate(batches)
    assert sorted(rows[labels[rows] == 0]) == list(range(20))
    assert len(set(rows)) == len(rows)
    sampler.epoch = 1
    assert set(np.concatenate(positions(sampler))) != set(rows)


def test_sampler_makes_one_batch_of_few_crops():
    (batch,) = positions(BalancedSampler(stand_in([0, 1, 1]), batch_size=64, seed=0))
    assert batch[0] == 0
    assert batch[1] in (1, 2)


def test_sampler_epoch_items_sets_the_length():
    sampler = BalancedSampler(stand_in([0] * 20 + [1] * 20), 8, seed=0, epoch_items=800)
    assert len(positions(sampler)) == len(sampler) == 100


def test_sampler_puts_self_blended_fakes_beside_their_originals():
    labels = np.array([0] * 40 + [1] * 100)
    sampler = BalancedSampler(stand_in(labels), batch_size=16, seed=0, self_blend_share=0.5)
    batches = list(sampler)
    assert len(batches) == 5
    recorded = set()
    for batch in batches:
        real, made, fake = batch[:8], batch[8:12], batch[12:]
        assert {item.role for item in real} == {Role.RECORDED}
        assert {item.role for item in made} == {Role.SELF_BLENDED}
        # The fake also has the seed of its original, so that both are augmented alike.
        assert {item[:2] for item in made} <= {item[:2] for item in real}
        assert labels[[item.position for item in fake]].tolist() == [1] * 4
        recorded |= {item.position for item in fake}
    assert len(recorded) == 20


def test_sampler_shares_made_fakes_between_both_kinds():
    dataset = stand_in([0] * 400 + [1] * 400, has_reconstruction=np.arange(800) < 200)
    sampler = BalancedSampler(
        dataset, 40, seed=0, self_blend_share=0.25, reconstruction_share=0.25, epoch_items=4000
    )
    roles = [item.role for batch in sampler for item in batch]
    # Half of the REAL items have a reconstruction, which half of their fakes should show.
    assert roles.count(Role.RECONSTRUCTED) == pytest.approx(250, rel=0.2)
    assert roles.count(Role.MATCHED) == roles.count(Role.RECONSTRUCTED)
    assert roles.count(Role.SELF_BLENDED) == 1000 - roles.count(Role.RECONSTRUCTED)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_sampler_gives_unpaired_real_items_fakes_of_their_own(share):
    unpaired = np.arange(160) < 20
    dataset = stand_in([0] * 60 + [1] * 100, sources=np.where(unpaired, "lonely", "both"))
    batches = list(BalancedSampler(dataset, 12, seed=0, self_blend_share=share))
    assert len(batches) == 10
    for batch in batches:
        real = [item for item in batch if item.role is Role.RECORDED and item.position < 60]
        made = {item.position for item in batch if item.role is Role.SELF_BLENDED}
        assert len(real) == 6
        alone = {item.position for item in real if unpaired[item.position]}
        assert alone <= made <= {item.position for item in real}
        assert len(made) == max(len(alone), 6 * share)
        # The sources are drawn in the ratio of the roots of 20 and 40.
        assert len(alone) in (2, 3)


def test_sampler_draws_face_sets_by_weight_and_sources_by_the_root_of_their_size():
    labels = np.array([0, 1] * 500)
    face_sets = np.arange(1000) // 500
    sources = np.where(np.arange(1000) % 500 < 450, "large", "small")
    dataset = stand_in(labels, face_sets=face_sets, sources=sources)
    sampler = BalancedSampler(dataset, 20, seed=0, weights=[(3, 3), (1, 1)], epoch_items=8000)
    rows = np.concatenate(positions(sampler))
    assert (face_sets[rows] == 0).mean() == pytest.approx(0.75, abs=0.01)
    assert (sources[rows] == "large").mean() == pytest.approx(0.75, abs=0.01)
    counts = np.bincount(rows, minlength=1000)
    small_of_second = (face_sets == 1) & (sources == "small") & (labels == 0)
    assert np.ptp(counts[small_of_second]) <= 1


def test_sampler_brings_the_real_partner_of_a_recorded_fake():
    partners = {row: np.array([row - 50]) for row in range(50, 100)}
    dataset = stand_in([0] * 50 + [1] * 50, partners=partners)
    for batch in BalancedSampler(dataset, 10, seed=0, pair_share=1.0):
        real, fake = batch[:5], batch[5:]
        assert [(item.position - 50, item.seed) for item in fake] == [item[:2] for item in real]
    apart = BalancedSampler(dataset, 10, seed=0)
    assert any(
        item.position - 50 not in {one[0] for one in batch} for batch in apart for item in batch[5:]
    )


def test_sampler_reads_many_shards_a_few_at_a_time():
    labels, shards = np.arange(4000) % 2, np.arange(4000) // 40
    sampler = BalancedSampler(stand_in(labels, shards=shards), 20, seed=0)
    epochs = []
    for epoch in range(2):
        sampler.epoch = epoch
        batches = positions(sampler)
        shown = [position for batch in batches for position in batch]
        assert sorted(shown) == list(range(4000))
        opened = [set(shards[batch]) for batch in batches]
        # At the end of a turn, a batch may hold items of the next turn.
        assert max(map(len, opened)) <= 20
        span = 16 * 40 // 20
        assert len(set().union(*opened[:span])) == OPEN_SHARDS
        epochs.append(shown)
    assert set(shards[epochs[0][:640]]) != set(shards[epochs[1][:640]])


def test_sampler_continues_within_an_epoch_with_the_same_batches():
    dataset = stand_in([0] * 40 + [1] * 60)
    whole = list(BalancedSampler(dataset, 8, seed=3, self_blend_share=0.25))
    rest = BalancedSampler(dataset, 8, seed=3, self_blend_share=0.25)
    rest.start = 4
    assert list(rest) == whole[4:]


def test_sampler_refuses_fewer_items_than_processes():
    with pytest.raises(ValueError, match="batches of 2 items are too small for 3 processes"):
        BalancedSampler(stand_in(np.arange(10) % 2), 2, seed=0, context=DistributedContext(0, 3))


@pytest.mark.parametrize("without", [{0}, {0, 1}])
def test_sampler_leaves_out_the_fakes_of_a_face_set_whose_weight_is_0(without):
    labels, face_sets = np.arange(400) % 2, np.arange(400) // 200
    weights = [(1, 0 if number in without else 2) for number in (0, 1)]
    items = [
        item
        for batch in BalancedSampler(stand_in(labels, face_sets=face_sets), 8, 0, weights=weights)
        for item in batch
    ]
    used = {
        (int(face_sets[item.position]), int(labels[item.position]), item.role) for item in items
    }
    recorded = {(number, 0, Role.RECORDED) for number in (0, 1)}
    recorded |= {(number, 1, Role.RECORDED) for number in {0, 1} - without}
    made = {(number, 0, Role.SELF_BLENDED) for number in (0, 1)}
    assert used == (recorded if without == {0} else recorded | made)


def test_sampler_makes_fakes_from_sources_whose_fakes_are_left_out():
    labels, face_sets = np.arange(80) % 2, np.arange(80) // 40
    dataset = stand_in(labels, face_sets=face_sets, sources=np.where(face_sets, "web", "studio"))
    batches = list(BalancedSampler(dataset, 8, 0, weights=[(1, 0), (1, 1)]))
    for batch in batches:
        made = {item.position for item in batch if item.role is Role.SELF_BLENDED}
        assert made == {item.position for item in batch if item.position < 40}
        assert len(made) == 2
    assert len(batches) == 10  # half of the fakes are made, and 20 are recorded


def test_sampler_epochs_do_not_count_what_is_left_out():
    labels = np.array([0] * 10 + [1] * 50 + [0] * 90 + [1] * 50)
    dataset = stand_in(labels, face_sets=np.arange(200) // 60)
    dataset.face_sets = np.minimum(dataset.face_sets, 1)
    assert len(BalancedSampler(dataset, 4, 0, weights=[(1, 1), (0, 1)])) == 5


def test_sampler_without_fakes_makes_all_fakes():
    (batch,) = BalancedSampler(stand_in([0] * 4), 8, 0)
    assert sorted(item.position for item in batch) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sum(item.role is Role.SELF_BLENDED for item in batch) == 4


@pytest.mark.parametrize("weights", [[(1, 1)], [(1, 1), (0, 0)], [(1, 1), (1, -1)]])
def test_sampler_refuses_weights_that_do_not_fit(weights):
    dataset = stand_in([0, 1, 0, 1], face_sets=np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="2 face sets need as many pairs of weights"):
        BalancedSampler(dataset, 2, seed=0, weights=weights)


def test_sampler_refuses_weights_without_real_crops():
    with pytest.raises(ValueError, match="leave out all REAL crops"):
        BalancedSampler(stand_in([0, 1, 0, 1]), 2, seed=0, weights=[(0, 1)])
