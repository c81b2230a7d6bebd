import subprocess
import sys
from importlib.metadata import distribution

import pytest

import dfdetect

SLOW = {"av", "cv2", "numpy", "pandas", "sklearn", "timm", "torch"}


def test_modules_are_there_without_being_imported():
    code = "import dfdetect; print(dfdetect.results.Status.OK)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "ok"


def test_every_public_name_is_there():
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
def test_nothing_slow_is_loaded_before_it_is_needed(code):
    code = f"{code}\nimport sys; print('loaded:', *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split("loaded:")[1].split()
    assert "dfdetect" in loaded
    assert SLOW.isdisjoint(loaded)


def test_the_metadata_names_the_terms_of_code_and_weights():
    metadata = distribution("dfdetect").metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-dfdetect-weights"
    assert set(metadata.get_all("License-File")) == {"LICENSE", "weights/LICENSE"}
