import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from dfdetect import find_weights
from dfdetect.kaggle.data import COMPETITION, find_data


def make(folder):
    (folder / "test_videos").mkdir(parents=True)
    (folder / "sample_submission.csv").write_text("filename,label\n")
    return folder


@pytest.mark.parametrize("layout", [f"competitions/{COMPETITION}", COMPETITION, "some/where/else"])
def test_find_data_in_both_layouts_and_any_other(tmp_path, layout):
    folder = make(tmp_path / layout)
    data = find_data(tmp_path, elsewhere=[])
    assert data.test_videos == folder / "test_videos"
    assert data.sample_submission == folder / "sample_submission.csv"
    assert data.train_videos is None


def test_find_data_prefers_known_places(tmp_path):
    make(tmp_path / "another-data-set")
    folder = make(tmp_path / COMPETITION)
    assert find_data(tmp_path).test_videos.parent == folder


def test_find_data_takes_sample_data_last(tmp_path, sample_data):
    data = find_data(tmp_path / "none", elsewhere=[tmp_path, sample_data])
    assert data.test_videos == sample_data / "test_videos"
    assert data.train_videos == sample_data / "train_sample_videos"


@pytest.mark.parametrize("mount", ["datasets/ada/detector", "detector"])
def test_find_data_finds_weights_among_other_files(tmp_path, mount):
    make(tmp_path / COMPETITION)
    assert find_data(tmp_path).weights is None
    data_set = tmp_path / mount
    data_set.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, data_set / "another-package.safetensors")
    shutil.copy(find_weights("simple_cnn_2"), data_set / "mine.safetensors")
    assert find_data(tmp_path).weights == data_set / "mine.safetensors"


def test_find_data_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="add the competition"):
        find_data(tmp_path, elsewhere=[])


def test_sample_data_has_kaggles_layout(sample_data):
    metadata = json.loads((sample_data / "train_sample_videos" / "metadata.json").read_text())
    names = {path.name for path in (sample_data / "train_sample_videos").glob("*.mp4")}
    assert set(metadata) == names
    labels = [entry["label"] for entry in metadata.values()]
    assert labels.count("REAL") == labels.count("FAKE") == 2
    for entry in metadata.values():
        assert set(entry) == {"label", "split", "original"}
        assert (entry["original"] in names) == (entry["label"] == "FAKE")
    rows = (sample_data / "sample_submission.csv").read_text().split()
    tests = sorted(path.name for path in (sample_data / "test_videos").glob("*.mp4"))
    assert rows == ["filename,label", *(f"{name},0" for name in tests)]
    assert max(path.stat().st_size for path in sample_data.rglob("*.mp4")) < 500_000


def test_kernel_metadata_is_what_kaggle_wants(sample_data):
    kernel = sample_data.parent / "kernel"
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    owner, slug = metadata["id"].split("/")
    assert slug == metadata["title"].lower().replace(" ", "-")
    assert len(metadata["title"]) >= 5
    assert (kernel / metadata["code_file"]).is_file()
    assert metadata["enable_internet"] is False
    assert metadata["enable_gpu"] is True
    assert metadata["competition_sources"] == [COMPETITION]
    assert metadata["dataset_sources"] == [f"{owner}/dfdetect"]
