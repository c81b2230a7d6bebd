"""Find video files below folders, and give each file a unique name."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path

from dfdetect.errors import InputError

# Images in folders are ignored, because they may be the covers of videos.
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp"))
VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
# macOS puts a file with this prefix beside a file whose attributes the disk cannot hold.
COMPANION = "._"
# The beginning of an internet address as a path, which has one slash only.
ADDRESS = re.compile(r"[a-z]{2,}:/", re.IGNORECASE)


def find_videos(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Return the given files and all videos below the given folders, each with a unique name.

    In a folder, all files whose suffix is in `VIDEO_SUFFIXES` count as videos, except files named
    `._NAME`, which macOS makes. Sub-folders and linked folders are searched too. A folder that
    cannot be read causes a warning.

    A video is named by its file name. Videos with the same file name are named by their paths below
    the given folder. If these paths are equal too, the videos are named by their whole paths.

    Args:
        paths: Folders, and files with any suffix, images included. A missing path is returned like
            a file if at least one other path exists. So is a path that cannot be looked up, such as
            one with too long a name.

    Returns:
        A dictionary from the name of each video to the path of its file, sorted by name.

    Raises:
        FileNotFoundError: All paths are missing.
        InputError: No path is given, or no video was found.

    Example:
        >>> find_videos(["videos"])
        {'a.mp4': PosixPath('videos/a.mp4'), 'b.mp4': PosixPath('videos/more/b.mp4')}
    """
    given = [Path(path) for path in paths]
    if not given:
        raise InputError("no paths: give at least one video, image or folder")
    if not any(map(_may_exist, given)):
        network = " (dfdetect never uses the network: download the video first)"
        advice = network if ADDRESS.match(str(given[0])) else ""
        raise FileNotFoundError(f"{given[0]}: no such file or folder{advice}")
    below: dict[Path, str] = {}
    known: set[Path] = set()
    for path in given:
        if _is_folder(path):
            files = _files_below(path, VIDEO_SUFFIXES, _warn_of_folder)
            found = {file: file.relative_to(path).as_posix() for file in files}
        else:
            found = {path: path.name}
        for file, name in found.items():
            if file.absolute() not in known:
                known.add(file.absolute())
                below[file] = name
    if not below:
        raise InputError(
            f"no videos in {', '.join(map(str, given))}; looked for "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}; images must be given one by one"
        )
    return dict(sorted((name, file) for file, name in _name_each(below).items()))


def count_ignored_images(paths: Iterable[str | Path], found: Iterable[Path]) -> int:
    """Return how many images below the given folders are not among the files that were found.

    Example:
        >>> count_ignored_images(["videos"], find_videos(["videos"]).values())
        1
    """
    images = {
        file.absolute()
        for path in map(Path, paths)
        if _is_folder(path)
        for file in _files_below(path, IMAGE_SUFFIXES)
    }
    return len(images - {file.absolute() for file in found})


def _may_exist(path: Path) -> bool:
    """Return whether a path exists, or may exist in a folder that cannot be searched."""
    try:
        return path.exists()
    except OSError:  # reading the file later will give the reason
        return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _name_each(below: Mapping[Path, str]) -> dict[Path, str]:
    """Return a unique name for each file.

    `below` maps each file to its path below the folder that the user gave. A file that the user
    gave directly is mapped to its file name.
    """
    forms = {file: (file.name, path, file.as_posix()) for file, path in below.items()}
    counts = [Counter(form) for form in zip(*forms.values(), strict=True)]
    names = {
        file: next((name for name, count in zip(form, counts, strict=True) if count[name] == 1), "")
        for file, form in forms.items()
    }
    count = Counter(names.values())
    return {
        file: name if name and count[name] == 1 else file.absolute().as_posix()
        for file, name in names.items()
    }


def _files_below(
    folder: Path,
    suffixes: Container[str],
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[Path]:
    """Yield all files below a folder whose suffix is one of `suffixes`.

    A folder is searched only once, even if several links lead to it. `on_error` is called for each
    folder that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        status = Path(parent).stat()
        identity = status.st_dev, status.st_ino
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in suffixes and not name.startswith(COMPANION):
                yield Path(parent, name)


def _warn_of_folder(error: OSError) -> None:
    warnings.warn(f"{error.filename}: cannot be searched ({error.strerror})", stacklevel=2)
