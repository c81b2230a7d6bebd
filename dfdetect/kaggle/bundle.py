"""Write a bundle: the files that a user uploads to Kaggle to run dfdetect there offline.

The bundle consists of a notebook, and of a Kaggle data set with the package and its weights.
"""

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from dfdetect import __version__
from dfdetect.checkpoints.weights import find_weights, package_folder, require_checkpoint_name
from dfdetect.errors import ArgumentError, DfdetectError, InputError
from dfdetect.files import require_writable
from dfdetect.kaggle.data import COMPETITION

# Requirements that Kaggle's Docker image lacks, each with a pattern for the file name of its wheel.
# PyAV's wheel works on Python 3.12 and later. facenet-pytorch 2.6 would make pip install an old
# torch.
WHEELS = {
    "facenet-pytorch>=2.5.3,<2.6": r"facenet_pytorch-2\.5\.\d+-py3-none-any\.whl",
    "av>=14.2": r"av-[\d.]+-cp312-abi3-manylinux\w*x86_64(\.\w+)*\.whl",
}
PIP_PLATFORM = (
    *("--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.12"),
    *("--platform", "manylinux_2_28_x86_64", "--abi", "abi3", "--abi", "none"),
)
# Suffixes of files that Kaggle unpacks, and of files that may run code when they are loaded.
ARCHIVES = frozenset(".zip .tar .gz .tgz .bz2 .xz .7z .rar".split())
PICKLES = frozenset(".pt .pth .pkl .pickle .ckpt .bin .joblib .npy .npz".split())
MOST_BYTES = 10**9
# Placeholder for a Kaggle user name that is not known yet.
ANYONE = "OWNER"
TITLE_LENGTHS = range(6, 51)
FILE_LIST = "files.csv"
DATASET_METADATA = "dataset-metadata.json"
KERNEL_METADATA = "kernel-metadata.json"
# Patterns for the names of a bundle's files. The next bundle in the same folder replaces the files.
OURS = ("*.whl", "*.safetensors", "*.ipynb", DATASET_METADATA, KERNEL_METADATA, FILE_LIST)
# Patterns for the files of the wheel: the code, and the files that `package_data` in setup.py
# names. The weights and the notebook are not in the wheel, but are uploaded as files of their own.
PACKAGE_FILES = ("*.py", "py.typed", "reporting/*.css", "reporting/*.html", "runtime/*.yaml")
# All files in the wheel have this date, so that the same package always makes the same wheel.
WHEEL_DATE = (2020, 1, 1, 0, 0, 0)


def bundle(
    out: str | Path,
    owner: str = ANYONE,
    weights: str | Path | None = None,
    wheels: str | Path | None = None,
    name: str = "dfdetect",
) -> list[str]:
    """Write a Kaggle data set and a notebook to two folders, and return the next steps.

    The folder `dataset` in `out` holds the data set:

    - the weights
    - the wheels of dfdetect, and of the packages that Kaggle's Docker image lacks
    - `dataset-metadata.json`
    - `files.csv` with the size and SHA-256 of the weights and of each wheel

    The folder `kernel` in `out` holds the notebook and a `kernel-metadata.json` that names the data
    set.

    Args:
        out: Folder to write to. An earlier bundle in this folder is replaced.
        owner: Your Kaggle user name. The default is a placeholder that Kaggle does not accept.
        weights: Name or file of the weights, as in `find_weights`. None means the default weights.
        wheels: Folder with the wheels of facenet-pytorch and PyAV. If None, pip downloads them.
        name: Name of the data set, and first word of the notebook's title.

    Returns:
        The next steps for the user, as lines of text.

    Raises:
        FileNotFoundError: The weights, the folder of wheels or a needed wheel does not exist.
        ArgumentError: Kaggle would refuse `owner` or `name`, the name of the weights does not end
            in `.safetensors`, or the output folders contain files that do not belong to a bundle.
        InputError: Kaggle would refuse or unpack a file of the data set, or a file could run code
            when it is loaded.
        DfdetectError: pip cannot download the wheels, or dfdetect is not installed properly.

    Example:
        >>> for line in bundle("kaggle", "ada"):
        ...     print(line)
    """
    from dfdetect.checkpoints.io import read_spec

    _require_names(owner, name)
    chosen = find_weights(weights)
    require_checkpoint_name(chosen)  # the notebook finds weights by their suffix
    read_spec(chosen)
    dataset, kernel = Path(out, "dataset"), Path(out, "kernel")
    for folder in (dataset, kernel):
        _require_ours(folder)
    with TemporaryDirectory(prefix="dfdetect-") as temporary:
        ready = Path(temporary)
        _collect_wheels(ready, wheels)
        write_wheel(ready)
        shutil.copy(chosen, ready)
        _list_files(ready)
        _write_json(
            ready / DATASET_METADATA,
            {"title": name, "id": f"{owner}/{name}", "licenses": [{"name": "other"}]},
        )
        check_dataset(ready)
        for folder in (dataset, kernel):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                path.unlink()
        shutil.copytree(ready, dataset, dirs_exist_ok=True)
    code = _write_kernel(kernel, owner, name)
    return _next_steps(dataset, kernel, code)


def write_wheel(folder: Path) -> Path:
    """Write a wheel of dfdetect without its weights, and return the path of the wheel.

    The files are those of the running package. The same files always give the same wheel, byte for
    byte.

    Raises:
        DfdetectError: The package's metadata is missing, or has another version than the code.
    """
    # Building with setuptools would need a clone of the repository and access to the internet.
    try:
        installed = distribution("dfdetect")
    except PackageNotFoundError as error:
        raise DfdetectError(
            "dfdetect is not installed; run `pip install .` in its clone"
        ) from error
    if installed.version != __version__:
        raise DfdetectError(
            f"the installed metadata is that of dfdetect {installed.version}, but the code is "
            f"{__version__}; run `pip install` again in its clone"
        )
    information = f"dfdetect-{__version__}.dist-info"
    files = package_files(Path(__file__).parent.parent)
    # In a clone, `distribution` may find setuptools' copy of the metadata, which is named PKG-INFO.
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    files[f"{information}/METADATA"] = metadata.encode()
    entry_points = installed.read_text("entry_points.txt") or ""
    files[f"{information}/entry_points.txt"] = entry_points.encode()
    files[f"{information}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: dfdetect\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = f"{information}/RECORD"
    rows = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[record] = "".join([*rows, f"{record},,\n"]).encode()
    wheel = folder / f"dfdetect-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, WHEEL_DATE), data, zipfile.ZIP_DEFLATED)
    return wheel


def package_files(package: Path) -> dict[str, bytes]:
    """Return the files of a package that belong in a wheel.

    These are the files that match a pattern in `PACKAGE_FILES`, in folders with an `__init__.py`.

    Args:
        package: The folder of the package.

    Returns:
        A dictionary from the path of a file in the wheel to the content of the file.
    """
    return {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for marker in sorted(package.rglob("__init__.py"))
        for path in sorted(marker.parent.iterdir())
        if any(path.match(pattern) for pattern in PACKAGE_FILES)
    }


def check_dataset(folder: str | Path) -> None:
    """Check that Kaggle will accept a folder as a data set, and will not unpack any of its files.

    Raises:
        InputError: The folder holds sub-folders, more than 1 GB of files, archives that Kaggle
            would unpack, damaged wheels, or files that may run code when they are loaded; or Kaggle
            refuses the title of the data set.
        ArgumentError: Kaggle refuses the name of the data set or of its owner.
    """
    folder = Path(folder)
    size = 0
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            raise InputError(f"{path}: the kaggle tool skips sub-folders; move its files up")
        if path.suffix.lower() in ARCHIVES:
            raise InputError(f"{path}: Kaggle would unpack it; leave it out")
        if path.suffix == ".whl" and not zipfile.is_zipfile(path):
            raise InputError(f"{path.name}: the wheel is damaged; download it again")
        if path.suffix.lower() in PICKLES:
            raise InputError(f"{path}: may run code when it is loaded; use .safetensors instead")
        size += path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{folder}: {size / 1e9:.2f} GB; the competition allows 1 GB")
    metadata = json.loads((folder / DATASET_METADATA).read_text())
    owner, _, name = metadata["id"].partition("/")
    _require_names(owner, name)
    if len(metadata["title"]) not in TITLE_LENGTHS:
        raise InputError(f"{folder / DATASET_METADATA}: a title has 6 to 50 characters")


def _require_ours(folder: Path) -> None:
    """Raise an error if a folder is not writable, or has files that do not belong to a bundle."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() or not any(path.match(pattern) for pattern in OURS):
                raise ArgumentError(f"{path} is not part of a bundle; give another folder")
    require_writable(folder / FILE_LIST)


def _require_names(owner: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,49}", owner):
        raise ArgumentError(
            f"{owner!r} is not a Kaggle user name; yours is in the address of your page"
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) not in TITLE_LENGTHS:
        raise ArgumentError(
            f"{name!r}: a data set's name has 6 to 50 lower-case letters, digits and single hyphens"
        )


def _collect_wheels(dataset: Path, wheels: str | Path | None) -> None:
    """Fill the folder `dataset` with wheels of packages that Kaggle's Docker image lacks.

    The wheels are copied from the folder `wheels`. If `wheels` is None, pip downloads them.
    """
    if wheels is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        run = subprocess.run([*command, "--dest", dataset, *PIP_PLATFORM, *WHEELS], check=False)
        if run.returncode:
            raise DfdetectError(
                "pip could not download the wheels of facenet-pytorch and PyAV (see above); "
                "without a network, give a folder that contains them as wheels"
            )
        wheels = dataset
    if not Path(wheels).is_dir():
        raise FileNotFoundError(f"{wheels}: no such folder of wheels")
    for requirement, pattern in WHEELS.items():
        fitting = sorted(
            path for path in Path(wheels).iterdir() if re.fullmatch(pattern, path.name)
        )
        if not fitting:
            raise FileNotFoundError(
                f"{wheels}: no wheel of {requirement} for Python 3.12 and later on Linux; get it "
                f"with `pip download {' '.join(PIP_PLATFORM)} --no-deps '{requirement}'`"
            )
        if fitting[-1].parent != dataset:
            shutil.copy(fitting[-1], dataset)


def _list_files(dataset: Path) -> None:
    rows = []
    for path in sorted(dataset.iterdir()):
        data = path.read_bytes()
        rows.append((path.name, len(data), hashlib.sha256(data).hexdigest()))
    table = pd.DataFrame(rows, columns=["file", "bytes", "sha256"])
    table.to_csv(dataset / FILE_LIST, index=False)


def _write_kernel(kernel: Path, owner: str, name: str) -> str:
    """Copy the notebook to a folder, write its metadata, and return the notebook's id on Kaggle."""
    source = package_folder("kernel")
    metadata = json.loads((source / KERNEL_METADATA).read_text())
    metadata["title"] = f"{name} submission"
    metadata["id"] = f"{owner}/{name}-submission"
    metadata["dataset_sources"] = [f"{owner}/{name}"]
    metadata["competition_sources"] = [COMPETITION]
    shutil.copy(source / metadata["code_file"], kernel)
    _write_json(kernel / KERNEL_METADATA, metadata)
    return metadata["id"]


def _next_steps(dataset: Path, kernel: Path, code: str) -> list[str]:
    size = sum(path.stat().st_size for path in dataset.iterdir()) / 1e6
    data, notebook = shlex.quote(str(dataset)), shlex.quote(str(kernel))
    steps = [
        (f"kaggle datasets create -p {data}", f"later: kaggle datasets version -p {data} -m NOTE"),
        ("", f"on the data set's page: are all files of {FILE_LIST} there, none unpacked?"),
        ("", f"join the competition {COMPETITION} on its page, or its videos cannot be read"),
        (f"kaggle kernels push -p {notebook}", "a source that is 'not valid' is missing: 1 or 3"),
        (f"kaggle kernels status {code}", f"on an error: kaggle kernels logs {code}"),
        (f"kaggle kernels output {code} -p output", "submission.csv, details.csv, report.html"),
    ]
    lines = [f"{dataset} ({size:.0f} MB) and {kernel} are ready. With Kaggle's tool, from here:"]
    if code.startswith(f"{ANYONE}/"):
        lines.append("  first run this again with --owner YOURNAME")
    for number, (command, remark) in enumerate(steps, start=1):
        lines.append(f"  {number}. {command or remark}")
        if command:
            lines.append(f"     ({remark})")
    return lines


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _digest(data: bytes) -> str:
    """Return the SHA-256 of data in the form that a wheel's RECORD needs."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
