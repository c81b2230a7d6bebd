import subprocess
import sys
from importlib.metadata import distribution

import pytest

import dfdetect

SLOW = {"av", "cv2", "numpy", "pandas", "sklearn", "timm", "torch"}


def test_getattr_imports_a_submodule():
    code = "import dfdetect; print(dfdetect.results.Status.OK)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "ok"


def test_getattr_of_every_public_name():
    assert {name for name in dfdetect.__all__ if getattr(dfdetect, name) is None} == set()
    assert set(dfdetect.__all__) <= set(dir(dfdetect))
    assert dfdetect.VideoResult.__module__ == "dfdetect.results"
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = dfdetect.fly


@pytest.mark.parametrize(
    "code",
    [
        "import dfdetect",
        "from dfdetect.cli import main\ntry: main(['--help'])\nexcept SystemExit: 0",
    ],
)
def test_import_loads_no_slow_module(code):
    code = f"{code}\nimport sys; print('loaded:', *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split("loaded:")[1].split()
    assert "dfdetect" in loaded
    assert SLOW.isdisjoint(loaded)


def test_metadata_names_the_licences_of_code_and_weights():
    metadata = distribution("dfdetect").metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-dfdetect-weights"
    assert set(metadata.get_all("License-File")) == {"LICENSE", "weights/LICENSE"}
