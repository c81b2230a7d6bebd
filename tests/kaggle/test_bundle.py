import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import pandas as pd
import pytest

import dfdetect
from dfdetect import DfdetectError
from dfdetect.checkpoints.weights import find_weights
from dfdetect.cli import main
from dfdetect.kaggle.bundle import (
    DATASET_METADATA,
    bundle,
    check_dataset,
    package_files,
    write_wheel,
)
from dfdetect.kaggle.data import COMPETITION

NAMES = "facenet_pytorch-2.5.3-py3-none-any.whl", "av-99.1.0-cp312-abi3-manylinux_2_28_x86_64.whl"


@pytest.fixture
def wheels(tmp_path):
    """Return a folder of fake wheels. The test of the notebook uses real wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in (*NAMES, "av-99.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "other.zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("content", name)
    return folder


def test_bundle_writes_both_folders_ready_to_upload(wheels, tmp_path, capsys):
    arguments = ["bundle", "--owner", "ada", "--wheels", str(wheels), "--name", "detector"]
    for _ in range(2):  # the second bundle replaces the first
        assert main([*arguments, "--out", str(tmp_path / "kaggle")]) == 0
    dataset, kernel = tmp_path / "kaggle" / "dataset", tmp_path / "kaggle" / "kernel"
    wheel = f"dfdetect-{dfdetect.__version__}-py3-none-any.whl"
    weights = "tf_efficientnet_lite2_texture.safetensors"
    expected = {*NAMES, wheel, weights, DATASET_METADATA, "files.csv"}
    assert {path.name for path in dataset.iterdir()} == expected
    table = pd.read_csv(dataset / "files.csv", index_col="file")
    # The kaggle tool does not upload the metadata.
    assert set(table.index) == expected - {"files.csv", DATASET_METADATA}
    for name, row in table.iterrows():
        data = (dataset / name).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    metadata = json.loads((dataset / DATASET_METADATA).read_text())
    assert metadata["id"] == "ada/detector"
    assert metadata["licenses"] == [{"name": "other"}]
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    assert metadata["id"] == "ada/detector-submission"
    assert metadata["id"].endswith(metadata["title"].lower().replace(" ", "-"))
    assert metadata["dataset_sources"] == ["ada/detector"]
    assert metadata["competition_sources"] == [COMPETITION]
    assert (metadata["enable_internet"], metadata["enable_gpu"]) == (False, True)
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert {path.name for path in kernel.iterdir()} == {
        "kernel-metadata.json",
        metadata["code_file"],
    }
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    steps = [words[2:4] for words in lines if words[1:2] == ["kaggle"] and words[0].endswith(".")]
    assert (
        steps
        == [
            ["datasets", "create"],
            ["kernels", "push"],
            ["kernels", "status"],
            ["kernels", "output"],
        ]
        * 2
    )


def test_bundle_without_an_owner(wheels, tmp_path):
    assert any("--owner YOURNAME" in line for line in bundle(tmp_path / "k", wheels=wheels))


def test_write_wheel_holds_the_package_without_its_weights(tmp_path):
    wheel = write_wheel(tmp_path)
    first = wheel.read_bytes()
    assert write_wheel(tmp_path).read_bytes() == first
    assert len(first) < 1_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "dfdetect/cli.py",
        "dfdetect/models/xception.py",
        "dfdetect/reporting/report.html",
    } <= set(names)
    assert not [name for name in names if "safetensors" in name or "__pycache__" in name]
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, wheel], check=True)
    code = f"import sys; sys.path.insert(0, {str(target)!r}); import dfdetect.cli as c; print(c)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(target) in run.stdout
    assert (target / "bin" / "dfdetect").is_file()


def test_package_files_leaves_out_what_setup_does_not_take(tmp_path):
    package = tmp_path / "package"
    for name in ("__init__.py", "cli.py", "cli.py.orig", "py.typed", "video.mp4", "a.html"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name)
    for name in ("reporting/__init__.py", "reporting/page.html", "reporting/page.html~"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(name)
    for folder in (".ipynb_checkpoints", "old"):
        (package / folder).mkdir()
        (package / folder / "cli.py").write_text("a copy")
    assert set(package_files(package)) == {
        "package/__init__.py",
        "package/cli.py",
        "package/py.typed",
        "package/reporting/__init__.py",
        "package/reporting/page.html",
    }


def test_write_wheel_refuses_metadata_of_another_version(tmp_path, monkeypatch):
    monkeypatch.setattr("dfdetect.kaggle.bundle.__version__", "99.0")
    with pytest.raises(DfdetectError, match=r"the code is 99\.0; run `pip install` again"):
        write_wheel(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.network
def test_write_wheel_takes_the_files_that_setup_takes(tmp_path, sample_data):
    """Only the wheel that setuptools builds has the default weights and the small weights."""
    clone = tmp_path / "clone"  # a build would leave files in the checkout
    for name in ("dfdetect", "kernel", "weights"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(sample_data.parent / name, clone / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(sample_data.parent / name, clone)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", tmp_path / "pip", clone], check=True)
    (built,) = (tmp_path / "pip").iterdir()
    names = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    beside = {name for name in names if name.startswith(("dfdetect/weights/", "dfdetect/kernel/"))}
    own = zipfile.ZipFile(write_wheel(tmp_path)).namelist()
    assert names - beside == {name for name in own if ".dist-info/" not in name}
    checkpoints = {name for name in beside if name.endswith(".safetensors")}
    assert "dfdetect/weights/tf_efficientnet_lite2_texture.safetensors" in checkpoints
    assert "dfdetect/weights/xception.safetensors" not in checkpoints
    assert built.stat().st_size < 15_000_000


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        ("a", "dfdetect", "'a' is not a Kaggle user name"),
        ("ada lovelace", "dfdetect", "not a Kaggle user name"),
        ("ada", "short", "6 to 50 lower-case letters"),
        ("ada", "Detector", "6 to 50 lower-case letters"),
        ("ada", "d" * 51, "6 to 50 lower-case letters"),
    ],
)
def test_bundle_refuses_names_that_kaggle_refuses(wheels, tmp_path, owner, name, message):
    with pytest.raises(ValueError, match=message):
        bundle(tmp_path / "k", owner, wheels=wheels, name=name)
    assert not (tmp_path / "k").exists()


def test_bundle_names_missing_wheels_and_weights(wheels, tmp_path):
    (wheels / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"no wheel of av>=14\.2 for Python 3.12"):
        bundle(tmp_path / "k", wheels=wheels)
    with pytest.raises(FileNotFoundError, match="no such folder of wheels"):
        bundle(tmp_path / "k", wheels=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no weights 'mine'"):
        bundle(tmp_path / "k", weights="mine", wheels=wheels)
    shutil.copy(find_weights("simple_cnn_2"), tmp_path / "mine.st")
    with pytest.raises(ValueError, match=r"mine\.st: the name of a checkpoint must end in"):
        bundle(tmp_path / "k", weights=tmp_path / "mine.st", wheels=wheels)
    (wheels / NAMES[1]).write_bytes(b"half a wheel")
    with pytest.raises(ValueError, match="the wheel is damaged"):
        bundle(tmp_path / "k", wheels=wheels)
    assert not (tmp_path / "k").exists() or not any((tmp_path / "k").rglob("*.*"))


def test_bundle_does_not_replace_a_folder_of_other_files(wheels, tmp_path):
    precious = tmp_path / "k" / "dataset" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.txt is not part of a bundle"):
        bundle(tmp_path / "k", wheels=wheels)
    assert precious.read_text() == "years of work"
    with pytest.raises(ValueError, match="cannot be written"):
        bundle(precious, wheels=wheels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clips.zip", "Kaggle would unpack it"),
        ("dfdetect-0.1.0.tar.gz", "Kaggle would unpack it"),
        ("model.PTH", "may run code when it is loaded"),
        ("table.pkl", "may run code when it is loaded"),
    ],
)
def test_check_dataset_refuses_other_files(wheels, tmp_path, name, message):
    bundle(tmp_path, "ada", wheels=wheels)
    (tmp_path / "dataset" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        check_dataset(tmp_path / "dataset")


def test_check_dataset_refuses_large_data_folders_and_short_titles(wheels, tmp_path):
    bundle(tmp_path, "ada", wheels=wheels)
    dataset = tmp_path / "dataset"
    large = dataset / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(ValueError, match="allows 1 GB"):
        check_dataset(dataset)
    large.unlink()
    (dataset / "more").mkdir()
    with pytest.raises(ValueError, match="skips sub-folders"):
        check_dataset(dataset)
    (dataset / "more").rmdir()
    metadata = json.loads((dataset / DATASET_METADATA).read_text())
    (dataset / DATASET_METADATA).write_text(json.dumps({**metadata, "title": "short"}))
    with pytest.raises(ValueError, match="a title has 6 to 50 characters"):
        check_dataset(dataset)
