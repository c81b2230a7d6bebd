"""Labelled face crops on disk: an index `NAME.csv` beside `NAME.tar`, shards, or a folder `NAME/`.

The index has at least the columns `id` and `label` (REAL or FAKE); the images are `<id>.jpg` or
`<id>.png`. In a large face set, the columns `shard`, `offset` and `size` give the file
`NAME-<shard>.tar` that holds each image, and its place in this file.

An `actor_group` column says which crops show people who look alike: splits keep a group on one
side, because a model that has seen a face knows more about it than about a stranger's.
"""

import tarfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from dfdetect.data.shards import SHARD_COLUMNS, shard_path
from dfdetect.errors import InputError
from dfdetect.faces.clips import windows
from dfdetect.files import read_table
from dfdetect.runtime.device import available_cores

LABELS = ("REAL", "FAKE")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
GROUP = "actor_group"
# The columns that together name one face in one video.
TRACK = ("video", "track", "frame")
TEXT_COLUMNS = ("id", "label", GROUP, "source", "method", "kind", "pair", "original")
# The value of the column `kind` for crops that `dfdetect reconstruct` has made.
RECONSTRUCTION = "reconstruction"
# A crop and its original are not aligned if their mean difference at the border is larger.
ALIGNED_BORDER = 6.0
MOST_PIXELS = 8192
MOST_IMAGE_BYTES = 64 * 2**20


class FaceSetError(InputError):
    """A face set cannot be used; the message names the file, the fault and how to fix it."""


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """The place of one image's bytes: a whole file, or a part of a tar file."""

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Read the encoded image."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class FaceSet:
    """An index of labelled crops and the places of their images.

    Args:
        table: The index, with one row for each crop and at least the columns `id` and `label`.
        locations: One `ImageLocation` for each row, in the same order.

    Example:
        >>> faces = FaceSet.read("train.csv")
        >>> train, held_out = faces.split(0.1, seed=0)
        >>> held_out.image(0).shape
        (224, 224, 3)
    """

    def __init__(self, table: pd.DataFrame, locations: Sequence[ImageLocation]):
        self.table = table.reset_index(drop=True)
        self.locations = list(locations)

    @classmethod
    def read(cls, index: str | Path) -> "FaceSet":
        """Read an index and find its images.

        Raises:
            FileNotFoundError: The index, or both the tar file and the folder, are missing.
            FaceSetError: Missing columns, unknown labels, double ids, empty groups, ids without an
                image, or an archive that is damaged or has members that no face set needs: links,
                devices, sparse or huge files, and names that lead out of a folder; or a shard that
                is missing, cut off or elsewhere.
        """
        index = Path(index)
        if not index.is_file():
            raise FileNotFoundError(f"{index}: no such face set or folder")
        table = read_table(index, TEXT_COLUMNS)
        _check_table(index, table)
        if set(SHARD_COLUMNS) <= set(table):
            return cls(table, _find_in_shards(index, table))
        images = _find_images(index)
        missing = [name for name in table["id"] if name not in images]
        if missing:
            raise FaceSetError(
                f"{index}: {len(missing)} of {len(table)} ids have no image, first "
                f"{missing[0]!r}: add {missing[0]}.jpg to {index.stem}.tar or {index.stem}/, "
                "or delete the row"
            )
        return cls(table, [images[name] for name in table["id"]])

    @classmethod
    def join(cls, parts: Sequence["FaceSet"]) -> "FaceSet":
        """Put face sets one after another.

        Raises:
            FaceSetError: An id occurs in two of them.
        """
        numbered = [part.table.assign(face_set=number) for number, part in enumerate(parts)]
        table = pd.concat(numbered, ignore_index=True)
        if GROUP in table:
            table[GROUP] = table[GROUP].where(table[GROUP].notna(), table["id"])
        twice = table.loc[table["id"].duplicated(), "id"]
        if len(twice):
            raise FaceSetError(
                f"{len(twice)} ids are in two face sets, first {twice.iloc[0]!r}: "
                "give each index once and rename what differs"
            )
        return cls(table, [place for part in parts for place in part.locations])

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each crop, 1 for FAKE and 0 for REAL; int64 of shape (n,)."""
        return (self.table["label"] == "FAKE").to_numpy(dtype=np.int64)

    @property
    def sources(self) -> np.ndarray:
        """Return the source of each crop, or an empty string where the index has none."""
        return self.texts("source")

    def texts(self, column: str) -> np.ndarray:
        """Return a column as text of shape (n,), with empty strings where the index has none."""
        if column not in self.table:
            return np.full(len(self), "")
        return self.table[column].fillna("").to_numpy(dtype=str)

    @property
    def face_sets(self) -> np.ndarray:
        """Return the number, from 0, of the joined face set of each crop; int64 of shape (n,)."""
        if "face_set" not in self.table:
            return np.zeros(len(self), np.int64)
        return self.table["face_set"].to_numpy(dtype=np.int64)

    @property
    def unpaired_real(self) -> np.ndarray:
        """Return which crops are REAL and of a source without FAKE crops; bool of shape (n,)."""
        recorded = (self.labels == 1) & ~self.reconstructed
        return (self.labels == 0) & ~np.isin(self.sources, self.sources[recorded])

    @property
    def reconstructed(self) -> np.ndarray:
        """Return which crops are reconstructions of REAL ones; bool of shape (n,)."""
        return self.texts("kind") == RECONSTRUCTION

    def partners(self) -> dict[int, np.ndarray]:
        """Return the rows of the REAL crops that each FAKE crop can be compared with, by its row.

        The partner is the crop that the column `original` names. Otherwise the partners are the
        crops with the same value in the column `pair` (the same scene) and the nearest `frame`.
        """
        found = {}
        labels, sets = self.labels, self.face_sets
        if "original" in self.table:
            real = np.flatnonzero(labels == 0)
            rows = dict(zip(self.table["id"].iloc[real], real.tolist(), strict=True))
            for row in np.flatnonzero(labels == 1).tolist():
                if (original := rows.get(self.table["original"].iloc[row])) is not None:
                    found[row] = np.array([original])
        if "pair" in self.table:
            scenes = self.texts("pair")
            frames = (
                pd.to_numeric(self.table["frame"]).to_numpy() if "frame" in self.table else sets
            )
            known = pd.Series(np.flatnonzero(scenes != ""))
            for _, members in known.groupby([sets[known], scenes[known]]):
                scene = members.to_numpy()
                real = scene[labels[scene] == 0]
                for row in scene[labels[scene] == 1].tolist() if len(real) else ():
                    gaps = np.abs(frames[real] - frames[row])
                    found[row] = real[gaps == gaps.min()]
        return found

    @property
    def shards(self) -> np.ndarray:
        """Return the number of the shard that holds each crop, 0 if there is none; int64 (n,)."""
        paths = [str(place.path) if place.offset else "" for place in self.locations]
        return np.unique(paths, return_inverse=True)[1]

    @property
    def groups(self) -> np.ndarray:
        """Return the actor group of each crop, or its id if the index has no such column."""
        return self.table[GROUP if GROUP in self.table else "id"].to_numpy(dtype=str)

    def image(self, row: int) -> np.ndarray:
        """Decode one crop; return RGB uint8 of shape (height, width, 3).

        Raises:
            FaceSetError: The file is not an image.
        """
        return decode_image(self.locations[row], self.table["id"][row])

    def select(self, rows: np.ndarray) -> "FaceSet":
        """Return a face set of the crops that a boolean mask or row numbers select."""
        rows = np.arange(len(self))[rows]
        return FaceSet(self.table.iloc[rows], [self.locations[row] for row in rows])

    def tracks(self) -> list[list[int]]:
        """Return the rows of each track (one face of one video), in the order of the frames.

        A crop without a track in the index is a track by itself.
        """
        if not set(TRACK) <= set(self.table):
            return [[row] for row in range(len(self))]
        known = self.table[list(TRACK)].notna().all(axis=1)
        tracks = [[row] for row in np.flatnonzero(~known).tolist()]
        # A fake that was made from a track has the number of that track.
        names = [self.face_sets[known], "video", "track", "label"]
        for _, track in self.table[known].groupby(names, sort=False):
            tracks.append(track.sort_values("frame").index.tolist())
        return tracks

    def videos(self) -> list[list[list[int]]]:
        """Return the tracks of each video, each track as the rows of its crops.

        A crop without a video in the index counts as a video with one track.

        Example:
            >>> faces.videos()  # one video with two tracks, and a single crop
            [[[0, 1], [2, 3]], [[4]]]
        """
        names, labels, sets = self.texts("video"), self.labels, self.face_sets
        videos: dict[tuple[object, ...], list[list[int]]] = {}
        for track in self.tracks():
            first = track[0]
            # A fake that was made from a video has the name of that video.
            key = (sets[first], names[first], labels[first]) if names[first] else (first,)
            videos.setdefault(key, []).append(track)
        return list(videos.values())

    def clips(self, length: int) -> list[list[int]]:
        """Return the rows of each input of a model: `length` neighbouring crops of a track.

        An input has a single row if `length` is 1, or if its track has only one crop.
        """
        if length == 1:
            return [[row] for row in range(len(self))]
        clips = []
        for track in self.tracks():
            parts = windows(len(track), length) if len(track) > 1 else [[0]]
            clips += [[track[place] for place in part] for part in parts]
        return clips

    def without_label_noise(self, min_pair_difference: float) -> "FaceSet":
        """Leave out FAKE crops that hardly differ from their originals.

        Args:
            min_pair_difference: Lowest value of the column `pair_diff`, if the index has it. This
                is the difference (0 to 255) between a crop and the same place in its original.
                Crops that are not aligned with their original (`pair_border` above 6) are kept,
                because their difference says nothing.
        """
        if not {"pair_diff", "pair_border"} <= set(self.table):
            return self
        alike = self.table["pair_diff"] < min_pair_difference
        aligned = self.table["pair_border"] < ALIGNED_BORDER
        return self.select(~(alike & aligned & (self.table["label"] == "FAKE")).to_numpy())

    def require_readable(self, progress: bool = False) -> None:
        """Decode every image, to find damaged images before hours of training.

        Raises:
            FaceSetError: An image cannot be decoded; the message names the first such image.
        """
        # OpenCV lets other threads run while it decodes.
        with ThreadPoolExecutor(available_cores()) as pool:
            images = pool.map(lambda row: self.image(row).shape, range(len(self)))
            bar = tqdm(images, "reading", len(self), unit="crop", disable=not progress)
            deque(bar, maxlen=0)

    def split(self, fraction: float, seed: int = 0) -> tuple["FaceSet", "FaceSet"]:
        """Split by source or actor group; return the rest and the part of about `fraction`.

        A model knows more about sources and faces that it has seen than about others. Each of the
        joined face sets is therefore split by itself: by source if its FAKE crops have several
        sources, and otherwise by actor group. Face sets without FAKE crops stay in the rest,
        because they cannot be used for judging. In face sets that are split by actor group, sources
        without FAKE crops stay in the rest, too. Crops of held-out actors that belong to a source
        which is not held out are left out of both sides.

        Raises:
            FaceSetError: Either side would lack a class, or the fraction is not in (0, 1).
        """
        if not 0 < fraction < 1:
            raise FaceSetError(f"the share to hold out must be between 0 and 1, not {fraction}")
        held_out = np.zeros(len(self), bool)
        fake = (self.labels == 1) & ~self.reconstructed
        for number in np.unique(self.face_sets):
            own = self.face_sets == number
            known = np.unique(self.sources[own & fake])
            if len(known) > 1:
                others = np.setdiff1d(self.sources[own], known)
                chosen = [*_choose(known, fraction, seed), *_choose(others, fraction, seed)]
                held_out |= own & np.isin(self.sources, chosen)
            elif len(known):
                own &= ~self.unpaired_real
                groups = _choose(np.unique(self.groups[own]), fraction, seed)
                held_out |= own & np.isin(self.groups, groups)
        rest = ~held_out & ~np.isin(self.groups, self.groups[held_out])
        parts = self.select(rest), self.select(held_out)
        for part in parts:
            part.require_both_classes(f"the split of {fraction:g} by source and {GROUP}")
        return parts

    def require_both_classes(self, name: str) -> None:
        """Raise FaceSetError unless REAL and FAKE both occur."""
        absent = [label for label in LABELS if label not in set(self.table["label"])]
        if absent:
            raise FaceSetError(
                f"{name}: no {' and no '.join(absent)} crops among {len(self)}; both are needed"
            )


def _choose(names: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return about `fraction` of some names, and at least one if there are any."""
    count = max(1, round(fraction * len(names)))
    return np.random.default_rng(seed).permutation(names)[:count]


def decode_image(place: ImageLocation, name: str) -> np.ndarray:
    """Decode the image at a place; return RGB uint8 of shape (height, width, 3).

    Raises:
        FaceSetError: The file is not an image; the message has its name.
    """
    data = place.read()
    image = None
    if _is_of_reasonable_size(data):
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FaceSetError(
            f"{place.path}: the image of id {name!r} cannot be decoded, or has a side of more than "
            f"{MOST_PIXELS} pixels: replace it or delete its row from the index"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def require_disjoint_actors(train: FaceSet, held_out: FaceSet, name: str) -> None:
    """Raise FaceSetError if both sides share an actor group or an id, or might share one."""
    if (GROUP in train.table) != (GROUP in held_out.table):
        raise FaceSetError(
            f"{name}: only one side has a column {GROUP!r}, so nobody can tell whether they share "
            "actors; add it to the other, or drop it where there are no repeats"
        )
    for what, column in (("actor groups", GROUP), ("ids", "id")):
        if column in train.table:
            shared = set(train.table[column]) & set(held_out.table[column])
            if shared:
                raise FaceSetError(
                    f"{name}: {len(shared)} of its {what} are also in the training faces, first "
                    f"{min(shared)!r}: scores on faces that were trained on mean nothing; remove "
                    "them from one side"
                )


def _check_table(index: Path, table: pd.DataFrame) -> None:
    absent = [column for column in ("id", "label") if column not in table]
    if absent:
        raise FaceSetError(f"{index}: no column {absent[0]!r}; it needs at least id and label")
    if table.empty:
        raise FaceSetError(f"{index}: the index has no rows")
    unknown = table.loc[~table["label"].isin(LABELS), "label"]
    if len(unknown):
        raise FaceSetError(
            f"{index}: line {unknown.index[0] + 2}: label {unknown.iloc[0]!r}; use REAL or FAKE"
        )
    twice = table.loc[table["id"].duplicated(), "id"]
    if len(twice):
        raise FaceSetError(
            f"{index}: {len(twice)} ids occur twice, first {twice.iloc[0]!r}: keep one row of each"
        )
    if GROUP in table and (table[GROUP] == "").any():
        line = int((table[GROUP] == "").to_numpy().argmax()) + 2
        raise FaceSetError(
            f"{index}: line {line}: {GROUP} is empty; name a group, or drop the column"
        )


def _find_images(index: Path) -> dict[str, ImageLocation]:
    folder, archive = index.with_suffix(""), index.with_suffix(".tar")
    if archive.is_file():
        try:
            # Images are read from their place in the archive, so it must not be compressed.
            with tarfile.open(archive, "r:") as tar:
                images = {}
                for member in tar:
                    _require_harmless(archive, member)
                    if member.name.lower().endswith(IMAGE_SUFFIXES):
                        place = ImageLocation(archive, member.offset_data, member.size)
                        images[Path(member.name).stem] = place
                return images
        except tarfile.TarError as error:
            raise FaceSetError(
                f"{archive}: no uncompressed tar file, or damaged ({error}): make or copy it again"
            ) from error
    if folder.is_dir():
        return {
            path.stem: ImageLocation(path)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES
        }
    raise FileNotFoundError(f"{index}: its images are missing: neither {archive} nor {folder}/")


def _find_in_shards(index: Path, table: pd.DataFrame) -> list[ImageLocation]:
    """Return the places of the images that an index gives."""
    places = table[SHARD_COLUMNS].apply(pd.to_numeric, errors="coerce")
    good = (places == places.round()).all(axis=1) & (places >= 0).all(axis=1)
    numbers = places.loc[good, "shard"].astype(int).unique().tolist()
    paths = {number: shard_path(index, number) for number in numbers}
    absent = [path for path in paths.values() if not path.is_file()]
    if absent:
        raise FaceSetError(f"{absent[0]}: no such shard of {index.name}: copy it beside the index")
    lengths = {number: path.stat().st_size for number, path in paths.items()}
    good &= places["size"].between(1, MOST_IMAGE_BYTES)
    good &= places["offset"] + places["size"] <= places["shard"].map(lengths)
    if not good.all():
        line = int((~good).to_numpy().argmax()) + 2
        raise FaceSetError(
            f"{index}: line {line}: no image is at the place that it names, or its shard is cut "
            "off: copy index and shards again, or extract anew"
        )
    columns = (places[name].astype(int) for name in SHARD_COLUMNS)
    return [ImageLocation(paths[number], *rest) for number, *rest in zip(*columns, strict=True)]


def _require_harmless(archive: Path, member: tarfile.TarInfo) -> None:
    """Refuse an archive with members that no face set needs, although nothing is unpacked."""
    name = PurePosixPath(member.name)
    fault = None
    if name.is_absolute() or ".." in name.parts:
        fault = "its name leads out of the folder"
    elif not (member.isdir() or member.isfile()) or member.issparse():
        fault = "is neither a plain file nor a folder"
    elif member.size > MOST_IMAGE_BYTES:
        fault = f"has {member.size} bytes; {MOST_IMAGE_BYTES} are the most"
    elif member.offset_data + member.size > archive.stat().st_size:
        fault = "is cut off"
    if fault:
        raise FaceSetError(
            f"{archive}: member {member.name!r} {fault}: make the archive again with images alone"
        )


def _is_of_reasonable_size(data: bytes) -> bool:
    """Return whether an image is small enough to be decoded, judging by its header."""
    try:
        with Image.open(BytesIO(data)) as image:
            return max(image.size) <= MOST_PIXELS
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
