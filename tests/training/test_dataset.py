import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dfdetect.data.faceset import FaceSet
from dfdetect.training.augment import training_transform
from dfdetect.training.dataset import OPEN_SHARDS, BalancedSampler, ClipDataset
from dfdetect.training.distributed import Team


@pytest.fixture
def tracks(face_set):
    """The first 16 crops as two tracks of 8, out of order in the index; the others single."""
    table = pd.read_csv(face_set, dtype=str)
    table["label"] = ["REAL"] * 8 + ["FAKE"] * 8 + table["label"][16:].tolist()
    table.loc[:15, "video"] = ["a.mp4"] * 8 + ["b.mp4"] * 8
    table.loc[:15, "track"] = "0"
    table.loc[:15, "frame"] = [*map(str, range(70, -1, -10))] * 2
    table.to_csv(face_set, index=False)
    for row in range(48):  # one size, as extracted crops have
        image = cv2.imread(str(face_set.with_suffix("") / f"{row:03}.png"))
        resized = cv2.resize(image, (40, 40))
        cv2.imwrite(str(face_set.with_suffix("") / f"{row:03}.png"), resized)
    return FaceSet.read(face_set)


def test_single_crops(face_set):
    faces = FaceSet.read(face_set)
    dataset = ClipDataset(faces, nn.Identity())
    assert len(dataset) == 48
    image, label = dataset[1]
    assert (image.shape, image.dtype, label) == ((3, 48, 48), torch.uint8, 1.0)


def test_clips_are_neighbours_of_one_track_and_still_copies(tracks):
    dataset = ClipDataset(tracks, nn.Identity(), length=4)
    assert len(dataset) == 32 + 4
    by_length = {len(rows): rows for rows in dataset.clips}
    assert set(by_length) == {1, 4}
    assert [rows for rows in dataset.clips if len(rows) == 4] == [
        [7, 6, 5, 4],
        [3, 2, 1, 0],
        [15, 14, 13, 12],
        [11, 10, 9, 8],
    ]
    assert dataset.labels[-4:].tolist() == [0, 0, 1, 1]
    for position in (0, len(dataset) - 1):
        clip, _ = dataset[position]
        assert (clip.shape, clip.dtype) == ((4, 3, 40, 40), torch.uint8)


def test_a_clip_goes_through_a_transform_together(tracks):
    seen = []

    def transform(images):
        seen.append(images.shape)
        return images

    dataset = ClipDataset(tracks, transform, length=8)
    dataset[len(dataset) - 1]
    assert seen == [(8, 3, 40, 40)]


def test_still_copies_move_anew_in_training_alone(tracks):
    moving = ClipDataset(tracks, nn.Identity(), length=4)
    assert not torch.equal(moving[0][0], moving[0][0])
    still = ClipDataset(tracks, nn.Identity(), length=4, jitter=False)
    assert torch.equal(still[0][0], still[0][0])


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
    sampler = BalancedSampler(labels, batch_size=16, seed=0, blend=0.5)
    batches = positions(sampler)
    assert len(batches) == 5
    for batch in batches:
        real, fake, blended = batch[:8], batch[8:12], np.array(batch[12:])
        assert labels[real].tolist() == [0] * 8
        assert labels[fake].tolist() == [1] * 4
        assert set(blended - 140) <= set(real)
    assert len({place for batch in batches for place in batch[8:12]}) == 20


@pytest.mark.parametrize("blend", [0.0, 0.5])
def test_real_items_of_sources_without_fakes_stand_beside_their_own(blend):
    labels = np.array([0] * 60 + [1] * 100)
    lonely = np.arange(160) < 20
    sampler = BalancedSampler(labels, batch_size=12, seed=0, blend=blend, lonely=lonely)
    batches = positions(sampler)
    assert len(batches) == 10
    for batch in batches:
        real, fake = np.array(batch[:6]), np.array(batch[6:])
        blended = fake[fake >= 160] - 160
        assert labels[real].tolist() == [0] * 6
        assert len(blended) == max(2, 6 * blend)
        assert set(real[lonely[real]]) <= set(blended) <= set(real)
    assert sorted(set(np.concatenate(batches)) & set(range(20))) == list(range(20))


def test_blended_items_are_fakes_of_real_ones(face_set):
    faces = FaceSet.read(face_set)
    dataset = ClipDataset(faces, nn.Identity())
    (real, no), (fake, yes) = dataset[0], dataset[48]
    assert (no, yes) == (0.0, 1.0)
    assert fake.shape == real.shape
    assert 0 < (fake.int() - real.int()).abs().float().mean() < 60


def test_what_is_drawn_for_an_item_depends_on_its_seed_alone(face_set):
    dataset = ClipDataset(FaceSet.read(face_set), training_transform(32))
    first, label = dataset[3, 7]
    state = torch.get_rng_state()
    assert torch.equal(first, dataset[3, 7][0])
    assert torch.equal(state, torch.get_rng_state())
    assert label == dataset[3][1]
    assert not torch.equal(first, dataset[3, 8][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_the_same_whoever_makes_them(face_set, workers):
    dataset = ClipDataset(FaceSet.read(face_set), training_transform(32))
    whole = BalancedSampler(dataset.labels, 8, seed=0)
    expected = list(DataLoader(dataset, batch_sampler=whole))
    parts = []
    for rank in range(3):
        own = BalancedSampler(dataset.labels, 8, seed=0, team=Team(rank, 3))
        parts.append(list(DataLoader(dataset, batch_sampler=own, num_workers=workers)))
    for number, (images, labels) in enumerate(expected):
        for rank in range(3):
            assert torch.equal(parts[rank][number][0], images[rank::3])
            assert torch.equal(parts[rank][number][1], labels[rank::3])


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
        BalancedSampler(np.arange(10) % 2, 2, seed=0, team=Team(0, 3))
