"""The notebook from top to bottom, without a network, where Kaggle would have its data."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dfdetect.kaggle import COMPETITION
from dfdetect.submission import check_submission

NO_NETWORK = """
import socket

class NoNetwork(socket.socket):
    def connect(self, address):
        raise OSError(f"the internet is off, {address} was asked for")

socket.socket = NoNetwork
socket.create_connection = socket.getaddrinfo = NoNetwork.connect
"""
CELL_LINES = 15


@pytest.fixture
def notebook(sample_data):
    (path,) = (sample_data.parent / "kernel").glob("*.ipynb")
    return nbformat.read(path, as_version=4)


def run(notebook: nbformat.NotebookNode, parameters: str, folder: Path) -> str:
    """Execute in `folder` with `parameters` after the cell of that tag; the printed text."""
    tagged = [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(NO_NETWORK + parameters))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    return "".join(output.get("text", "") for output in outputs)


def names(sample_data):
    return sorted(path.name for path in (sample_data / "test_videos").iterdir())


@pytest.mark.parametrize("layout", [f"competitions/{COMPETITION}", COMPETITION])
def test_on_kaggles_layouts(notebook, sample_data, tmp_path, layout):
    root, working = tmp_path / "input", tmp_path / "working"
    working.mkdir()
    shutil.copytree(sample_data, root / layout)
    printed = run(notebook, f"INPUT = {str(root)!r}\nFRAMES = 4", working)
    assert f"6 videos in {root / layout / 'test_videos'}" in printed
    assert "6 videos, 6 scored" in printed
    check_submission(working / "submission.csv", names(sample_data))


def test_beside_the_sample_data(notebook, sample_data, tmp_path):
    shutil.copytree(sample_data, tmp_path / "sample_data")
    run(notebook, "INPUT = 'nowhere'\nFRAMES = 4", tmp_path)
    check_submission(tmp_path / "submission.csv", names(sample_data))


@pytest.mark.parametrize("layout", ["datasets/owner/dfdetect", "dfdetect"])
def test_wheels_are_installed_from_either_mount(notebook, tmp_path, monkeypatch, layout):
    """What the install cell does where dfdetect is not there yet."""
    wheel = tmp_path / layout / "dfdetect-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    commands = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    (cell,) = [cell.source for cell in notebook.cells if "find_spec" in cell.source]
    exec(cell, {"INPUT": str(tmp_path)})
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "install"]
    assert {"--no-index", "--no-deps"} <= set(command)
    assert command[-1] == str(wheel)
    with pytest.raises(AssertionError, match="attach the data set"):
        exec(cell, {"INPUT": str(tmp_path / "elsewhere")})


def test_cells_are_short_and_have_no_outputs(notebook):
    for cell in notebook.cells:
        assert cell.source.count("\n") < CELL_LINES
        if cell.cell_type == "code":
            assert cell.outputs == []
