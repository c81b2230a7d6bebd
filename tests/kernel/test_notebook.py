"""Run the notebook from top to bottom: beside the sample data, and as Kaggle would run it.

To imitate Kaggle, the tests build the bundle and mount it where Kaggle mounts data sets. The
notebook then runs without a network, in an environment that has Kaggle's packages, but not the
packages that the bundle brings.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import venv
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from nbclient import NotebookClient

from dfdetect.kaggle.bundle import bundle
from dfdetect.kaggle.data import COMPETITION
from dfdetect.kaggle.submission import check_submission

CELL_LINES = 15
BROUGHT = ("dfdetect", "facenet-pytorch", "av")
# Engines that Kaggle's image does not have.
NOT_ON_KAGGLE = ("openvino", "onnxruntime")
# Code that keeps dfdetect from compiling networks for another engine, which takes longer than to
# score a few videos.
USE_TORCH = """
import sys
from dfdetect.runtime import engines

engines.PAYS_AFTER = sys.maxsize
"""
# A script that runs a notebook and writes the outputs into it. Its arguments are the notebook and
# the path of a Unix socket, which is used because there is no network.
RUNNER = """
import sys, nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
manager = AsyncKernelManager(transport="ipc", ip=sys.argv[2])
try:
    NotebookClient(notebook, km=manager, timeout=600).execute()
finally:
    nbformat.write(notebook, sys.argv[1])
"""
# Code that blocks the network, for systems on which a process cannot be cut off from it.
NO_NETWORK = """
import socket

class UnixOnly(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            raise OSError(f"the network is blocked, but {address} was requested")
        super().connect(address)

socket.socket = UnixOnly
"""


@pytest.fixture
def notebook(sample_data):
    (path,) = (sample_data.parent / "kernel").glob("*.ipynb")
    return nbformat.read(path, as_version=4)


def with_parameters(notebook, parameters):
    """Return the notebook with a new cell after the cell that is tagged `parameters`."""
    (tagged,) = (
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    )
    notebook.cells.insert(tagged + 1, nbformat.v4.new_code_cell(parameters))
    return notebook


def printed_by(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labelled", "said"), [(True, "4 videos, 4 scored"), (False, "no labelled videos are attached")]
)
def test_notebook_beside_the_sample_data(notebook, sample_data, tmp_path, labelled, said):
    copy = tmp_path / "sample_data"
    if labelled:
        shutil.copytree(sample_data / "train_sample_videos", copy / "train_sample_videos")
    names = [path.name for path in sorted((sample_data / "test_videos").iterdir())[:2]]
    (copy / "test_videos").mkdir(parents=True)
    for name in names:
        shutil.copy(sample_data / "test_videos" / name, copy / "test_videos")
    parameters = ["INPUT = 'nowhere'", "FRAMES = 4", USE_TORCH]
    with_parameters(notebook, "\n".join(parameters))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    printed = printed_by(notebook)
    assert "installed: nothing" in printed
    assert "2 videos, 2 scored" in printed
    assert said in printed
    check_submission(tmp_path / "submission.csv", names)


def test_notebook_cells_are_short_and_have_no_outputs(notebook):
    for cell in notebook.cells:
        assert cell.source.count("\n") < CELL_LINES
        if cell.cell_type == "code":
            assert cell.outputs == []


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return the data set of the bundle, with a wheel of PyAV that fits this Python."""
    folder = tmp_path_factory.mktemp("bundle")
    bundle(folder, owner="ada")
    if sys.version_info < (3, 12):
        (wheel,) = (folder / "dataset").glob("av-*.whl")
        wheel.unlink()
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "av>=14.2"]
        subprocess.run([*pip, "--dest", folder / "dataset"], check=True)
    return folder / "dataset"


@pytest.fixture
def machine(tmp_path, dataset, sample_data):
    """Return a machine with a new environment that has Kaggle's packages."""
    venv.create(tmp_path / "environment", with_pip=False)
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    installed = Path(pd.__file__).parent.parent
    # The argument `path` leaves out the metadata that an editable install has left in the clone.
    absent = {
        file.parts[0]
        for name in (*BROUGHT, *NOT_ON_KAGGLE)
        for found in distributions(name=name, path=[str(installed)])
        for file in found.files
    }
    for entry in installed.iterdir():
        if entry.name not in absent:
            (packages / entry.name).symlink_to(entry)
    return Machine(tmp_path, sample_data)


class Machine:
    """A folder that imitates Kaggle, with the sub-folders `input`, `working` and `environment`."""

    def __init__(self, root, sample_data):
        self.root = root
        self.working = root / "working"
        self.working.mkdir()
        self.sample_data = sample_data
        self.names: list[str] = []

    def mount(self, dataset, at, competition, copies=1):
        """Mount the data set and the competition, which holds each test video `copies` times."""
        target = self.root / "input" / at
        target.parent.mkdir(parents=True)
        target.symlink_to(dataset)
        data = self.root / "input" / competition
        (data / "test_videos").mkdir(parents=True)
        (data / "train_sample_videos").symlink_to(self.sample_data / "train_sample_videos")
        for video in sorted((self.sample_data / "test_videos").glob("*.mp4")):
            for copy in range(copies):
                self.names.append(f"{copy}-{video.name}")
                (data / "test_videos" / self.names[-1]).symlink_to(video)
        self.names.sort(reverse=True)  # the order in the sample submission
        rows = "".join(f"{name},0\n" for name in self.names)
        (data / "sample_submission.csv").write_text(f"filename,label\n{rows}")

    def start(self, notebook, **parameters):
        """Start the notebook."""
        parameters |= {"INPUT": str(self.root / "input")}
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        cut_off = ["unshare", "--map-root-user", "--net"]
        try:
            alone = subprocess.run([*cut_off, "true"], capture_output=True).returncode == 0
        except FileNotFoundError:
            alone = False
        text = "\n".join(lines if alone else [NO_NETWORK, *lines])
        nbformat.write(with_parameters(notebook, text), self.working / "notebook.ipynb")
        (python,) = (self.root / "environment").glob("bin/python")
        command = [*(cut_off if alone else []), python, "-c", RUNNER, "notebook.ipynb"]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"}
        }
        return subprocess.Popen(
            [*command, str(self.working / "socket")],
            cwd=self.working,
            env=environment,
        )

    def run(self, notebook, **parameters):
        """Run the notebook to its end, and return what it printed."""
        assert self.start(notebook, **parameters).wait() == 0
        check_submission(self.working / "submission.csv", self.names)
        return printed_by(nbformat.read(self.working / "notebook.ipynb", as_version=4))


@pytest.mark.network
@pytest.mark.slow
def test_notebook_on_kaggle_when_the_time_is_short(machine, notebook, dataset):
    """Only this test has folders for the kind and the owner of a data set, as Kaggle has."""
    at = "datasets/ada/dfdetect"
    machine.mount(dataset, at, f"competitions/{COMPETITION}", copies=100)
    printed = machine.run(notebook, TIME_BUDGET="20s")
    for wheel in dataset.glob("*.whl"):
        assert wheel.name in printed
    weights = machine.root / "input" / at / "tf_efficientnet_lite2_texture.safetensors"
    assert f"weights: {weights}" in printed
    assert "no time was left for it" in printed or "for lack of time" in printed
    details = pd.read_csv(machine.working / "details.csv")
    assert len(details) == 600
    assert (details["status"] == "ok").any()
    assert details["frames"].min() < details["frames"].max() == 32


@pytest.mark.network
@pytest.mark.slow
def test_notebook_on_kaggle_killed_half_way_and_run_again(machine, notebook, dataset):
    # There are more videos than threads on any machine, so that some are left.
    machine.mount(dataset, "dfdetect", COMPETITION, copies=3)
    notes = machine.working / "submission.progress.jsonl"
    run = machine.start(notebook, FRAMES=4)
    while not notes.exists() or notes.read_bytes().count(b"}}\n") < 3:
        assert run.poll() is None
        time.sleep(0.02)
    for process in [*psutil.Process(run.pid).children(recursive=True), run]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the process ended with its parent
            process.kill()
        process.wait()
    check_submission(machine.working / "submission.csv", machine.names)
    fresh = nbformat.read(machine.working / "notebook.ipynb", as_version=4)
    done = notes.read_bytes().count(b"}}\n")
    assert 3 <= done < 18
    del fresh.cells[2]
    printed = machine.run(fresh, FRAMES=4)
    assert f"{done} of 18 videos are scored already" in printed
    assert "installed: nothing" in printed
    assert "18 videos, 18 scored" in printed
    assert "4 videos, 4 scored" in printed
    assert (machine.working / "report.html").stat().st_size > 10_000
    assert not notes.exists()
