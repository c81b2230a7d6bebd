from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.data.faceset import FaceSet
from dfdetect.faces.crops import resize_crop, to_tensor
from dfdetect.faces.geometry import ResizeRule
from dfdetect.training.augment import training_transform
from dfdetect.training.dataset import ClipDataset, DetectorDataset, Item, Role
from dfdetect.training.distributed import DistributedContext
from dfdetect.training.sampler import BalancedSampler
from dfdetect.training.trainer import predict_logits


@pytest.fixture
def tracks(face_set):
    """Return a face set: two tracks of 8 crops, the last frame first, and 32 single crops."""
    table = pd.read_csv(face_set, dtype=str)
    table["label"] = ["REAL"] * 8 + ["FAKE"] * 8 + table["label"][16:].tolist()
    table.loc[:15, "video"] = ["a.mp4"] * 8 + ["b.mp4"] * 8
    table.loc[:15, "track"] = "0"
    table.loc[:15, "frame"] = [*map(str, range(70, -1, -10))] * 2
    table.to_csv(face_set, index=False)
    for row in range(48):  # all crops get one size, as extracted crops have
        image = cv2.imread(str(face_set.with_suffix("") / f"{row:03}.png"))
        resized = cv2.resize(image, (40, 40))
        cv2.imwrite(str(face_set.with_suffix("") / f"{row:03}.png"), resized)
    return FaceSet.read(face_set)


def test_clip_dataset_of_single_crops(face_set):
    faces = FaceSet.read(face_set)
    dataset = ClipDataset(faces, nn.Identity())
    assert len(dataset) == 48
    image, label = dataset[1]
    assert (image.shape, image.dtype, label) == ((3, 48, 48), torch.uint8, 1.0)


def test_clip_dataset_makes_clips_of_neighbours_or_still_copies(tracks):
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


def test_detector_dataset_mirrors_every_second_crop_of_a_track(tracks):
    spec = ModelSpec("simple_cnn_2", 32, (0.5,) * 3, (0.5,) * 3, mirror=True)
    dataset, plain = (
        DetectorDataset(tracks, spec),
        DetectorDataset(tracks, replace(spec, mirror=False)),
    )
    mirrored = [row for row in range(48) if dataset[row][0].equal(plain[row][0].flip(-1))]
    assert mirrored == [0, 2, 4, 6, 8, 10, 12, 14]  # the fixture has the frames in reversed order
    assert all(dataset[row][0].equal(plain[row][0]) for row in range(48) if row not in mirrored)


def test_detector_dataset_resizes_by_the_rule_of_the_detector(tracks):
    rule = ResizeRule(interpolation="linear", jpeg=(64, 30))
    spec = ModelSpec("simple_cnn_2", 32, (0.5,) * 3, (0.5,) * 3, resize=rule)
    expected = resize_crop(to_tensor(tracks.image(20)), 32, rule)
    assert DetectorDataset(tracks, spec)[20][0].equal(expected)
    assert not resize_crop(to_tensor(tracks.image(20)), 32).equal(expected)


class Lopsided(nn.Module):
    """A model whose logit changes its sign if the image is mirrored."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        left, right = images.chunk(2, dim=-1)
        return (self.scale * (left - right).mean((1, 2, 3)))[:, None]


def test_predict_logits_sees_the_mirrored_crops_of_the_detector(tracks):
    spec = ModelSpec("simple_cnn_2", 32, (0.5,) * 3, (0.5,) * 3)
    plain, mirrored = (
        predict_logits(Lopsided(), tracks, replace(spec, mirror=mirror), 0, False)
        for mirror in (False, True)
    )
    signs = np.ones(48)
    signs[0:16:2] = -1
    assert abs(plain).min() > 0
    assert mirrored == pytest.approx(signs * plain, abs=1e-6)


class FirstIsZero(Lopsided):
    """A model that compares the crops of a track: the first one always has the logit 0."""

    def forward_values(self, images):
        return self(images)

    def track_logits(self, values):
        return values[:, 0] - values[0, 0]


def test_predict_logits_gives_a_track_model_whole_tracks_in_the_order_of_time(tracks):
    spec = ModelSpec("simple_cnn_2", 32, (0.5,) * 3, (0.5,) * 3)
    plain, compared = (
        predict_logits(model, tracks, spec, 0, False) for model in (Lopsided(), FirstIsZero())
    )
    for track in tracks.tracks():
        assert compared[track] == pytest.approx(plain[track] - plain[track[0]], abs=1e-6)
    assert any(track[0] > track[-1] for track in tracks.tracks())


def test_clip_dataset_transforms_a_clip_together(tracks):
    seen = []

    def transform(images):
        seen.append(images.shape)
        return images

    dataset = ClipDataset(tracks, transform, length=8)
    dataset[len(dataset) - 1]
    assert seen == [(8, 3, 40, 40)]


def test_clip_dataset_moves_still_copies_anew_in_training_alone(tracks):
    moving = ClipDataset(tracks, nn.Identity(), length=4)
    assert not torch.equal(moving[0][0], moving[0][0])
    still = ClipDataset(tracks, nn.Identity(), length=4, jitter=False)
    assert torch.equal(still[0][0], still[0][0])


def test_clip_dataset_makes_self_blended_items_from_real_ones(face_set):
    dataset = ClipDataset(FaceSet.read(face_set), nn.Identity())
    real, no = dataset[Item(0, 5)]
    fake, yes = dataset[Item(0, 5, Role.SELF_BLENDED)]
    assert (no, yes) == (0.0, 1.0)
    assert fake.shape == real.shape
    assert 0 < (fake.int() - real.int()).abs().float().mean() < 60


@pytest.fixture
def with_reconstructions(face_set):
    """Return a face set, and a face set of black images as reconstructions of its REAL crops."""
    faces = FaceSet.read(face_set)
    real = faces.table[faces.table["label"] == "REAL"]
    folder = face_set.parent / "redrawn"
    folder.mkdir()
    for row, name in real["id"].items():
        cv2.imwrite(str(folder / f"{name}-x.png"), np.zeros_like(faces.image(row)))
    made = {"id": real["id"] + "-x", "label": "FAKE", "original": real["id"]}
    made |= {"kind": "reconstruction", "side": 24}
    pd.DataFrame(made).to_csv(folder.with_suffix(".csv"), index=False)
    return faces, FaceSet.read(folder.with_suffix(".csv"))


def test_clip_dataset_gives_reconstructions_the_look_of_their_originals(with_reconstructions):
    faces, made = with_reconstructions
    dataset = ClipDataset(faces, nn.Identity(), reconstructions=made)
    assert dataset.has_reconstruction.tolist() == (faces.labels == 0).tolist()
    whole = shrunk = 0
    for seed in range(40):
        original, _ = dataset[Item(0, seed)]
        real, no = dataset[Item(0, seed, Role.MATCHED)]
        fake, yes = dataset[Item(0, seed, Role.RECONSTRUCTED)]
        assert (no, yes) == (0.0, 1.0)
        whole += bool((fake == 0).all())
        # Outside the mask, the fake has the pixels of the REAL crop.
        assert bool((fake == 0).all()) or torch.equal(fake[:, 0, 0], real[:, 0, 0])
        assert (fake.float().mean() - real.float().mean()).item() < 0
        shrunk += not torch.equal(original, real)
    assert 8 <= whole <= 26
    assert 10 <= shrunk <= 30


def test_clip_dataset_compresses_reconstructions_as_their_originals(with_reconstructions):
    faces, made = with_reconstructions
    seen = []

    def compression(images):
        seen.append(torch.rand(()).item())
        return images

    dataset = ClipDataset(faces, nn.Identity(), reconstructions=made, compression=compression)
    for role in (Role.MATCHED, Role.RECONSTRUCTED):
        dataset[Item(0, 9, role)]
    assert len(seen) == 2
    assert seen[0] == seen[1]
    dataset[Item(0, 9)]
    assert len(seen) == 2


def test_clip_dataset_augments_items_of_one_seed_alike(face_set):
    dataset = ClipDataset(FaceSet.read(face_set), lambda images: torch.rand(images.shape))
    drawn = [dataset[Item(0, 4, role)][0] for role in (Role.RECORDED, Role.SELF_BLENDED)]
    assert torch.equal(*drawn)


def test_clip_dataset_items_depend_on_their_seed_alone(face_set):
    dataset = ClipDataset(FaceSet.read(face_set), training_transform(32))
    first, label = dataset[Item(3, 7)]
    state = torch.get_rng_state()
    assert torch.equal(first, dataset[Item(3, 7)][0])
    assert torch.equal(state, torch.get_rng_state())
    assert label == dataset[3][1]
    assert not torch.equal(first, dataset[Item(3, 8)][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_clip_dataset_items_are_the_same_in_any_number_of_processes(face_set, workers):
    dataset = ClipDataset(FaceSet.read(face_set), training_transform(32))
    whole = BalancedSampler(dataset, 8, seed=0)
    expected = list(DataLoader(dataset, batch_sampler=whole))
    parts = []
    for rank in range(3):
        own = BalancedSampler(dataset, 8, seed=0, context=DistributedContext(rank, 3))
        parts.append(list(DataLoader(dataset, batch_sampler=own, num_workers=workers)))
    for number, (images, labels) in enumerate(expected):
        for rank in range(3):
            assert torch.equal(parts[rank][number][0], images[rank::3])
            assert torch.equal(parts[rank][number][1], labels[rank::3])
