"""Face sets: labelled face crops on disk, with an index `NAME.csv`.

The index has at least the columns `id` and `label` (REAL or FAKE). The images are `<id>.jpg` or
`<id>.png` in a folder `NAME/` or a file `NAME.tar`.

A large face set has several tar files, called shards: `NAME-00000.tar` and so on. Its index has
three more columns: `shard` (number of the tar file), `offset` (position of the image's first byte
in the tar file) and `size` (number of bytes).

Crops with the same value in the column `actor_group` show the same person, or people who look
alike. `FaceSet.split` never puts an actor group into both parts, because a model is more accurate
on people that it was trained on.
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
TEXT_COLUMNS = ("id", "label", GROUP, "source", "method", "kind", "pair", "original")
# The value of the column `kind` for crops that `dfdetect reconstruct` has made.
RECONSTRUCTION = "reconstruction"
# A fake crop and its original are aligned if the pixels along their borders differ by less than
# this on average (pixel values are 0 to 255).
ALIGNED_BORDER = 6.0
# Maximum side of an image in pixels, and maximum size of its file.
MOST_PIXELS = 8192
MOST_IMAGE_BYTES = 64 * 2**20


class FaceSetError(InputError):
    """A face set cannot be used. The message names the file, what is wrong, and how to fix it."""


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """The place where an image is stored: a whole file, or a part of a tar file.

    Attributes:
        path: The image file or tar file.
        offset: Position of the image's first byte in the file.
        size: Number of bytes of the image, or -1 for all bytes up to the end of the file.
    """

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Return the bytes of the encoded image."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class FaceSet:
    """Labelled face crops: a table that describes the crops (the index), and the images' locations.

    Args:
        table: The index, with one row for each crop and at least the columns `id` and `label`.
        locations: One `ImageLocation` for each row, in the order of the rows.

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
        """Return the face set that an index describes.

        The function checks that every image exists, but decodes no image.

        Raises:
            FileNotFoundError: The index is missing, or there is neither a tar file nor a folder
                with the images.
            FaceSetError: The index is no CSV table, lacks a column, or has unknown labels, repeated
                ids or empty actor groups. An image or a shard is missing, an id has two images, or
                a shard is too short.
                The tar file is damaged, or has members that no face set needs: links, devices,
                sparse files, huge files, or files whose names lead out of the folder.
        """
        index = Path(index)
        if not index.is_file():
            raise FileNotFoundError(f"{index}: no such face set or folder")
        table = read_table(index, (*TEXT_COLUMNS, "video"), FaceSetError)
        _check_table(index, table)
        table = table.drop(columns="face_set", errors="ignore")  # only `join` numbers face sets
        if "video" in table:
            table["video"] = table["video"].where(table["video"] != "")
        if set(SHARD_COLUMNS) <= set(table):
            return cls(table, _find_in_shards(index, table))
        images = _find_images(index, set(table["id"]))
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
        """Return one face set with the crops of several face sets, in the order of `parts`.

        Raises:
            FaceSetError: An id occurs in two of the face sets, or `parts` is empty.
        """
        if not parts:
            raise FaceSetError("no face sets: give the index of at least one")
        numbered, count = [], 0
        for part in parts:
            # A part may be joined, too: its face sets stay apart, with new numbers.
            own, numbers = np.unique(part.face_sets, return_inverse=True)
            numbered.append(part.table.assign(face_set=count + numbers))
            count += len(own)
        table = pd.concat(numbered, ignore_index=True)
        if GROUP in table:
            table[GROUP] = table[GROUP].where(table[GROUP].notna(), table["id"])
        twice = table.loc[table["id"].duplicated(), "id"]
        if len(twice):
            raise FaceSetError(
                f"{len(twice)} ids are in two face sets, first {twice.iloc[0]!r}: "
                "give each index once, and rename different crops that have the same id"
            )
        return cls(table, [place for part in parts for place in part.locations])

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each crop: 1 for FAKE and 0 for REAL, int64 of shape (n,)."""
        return (self.table["label"] == "FAKE").to_numpy(dtype=np.int64)

    @property
    def sources(self) -> np.ndarray:
        """Return the source of each crop as text of shape (n,). An unknown source is empty."""
        return self.texts("source")

    @property
    def known_sources(self) -> list[str]:
        """Return the name of each known source once, sorted."""
        return sorted(set(self.sources.tolist()) - {""})

    def texts(self, column: str) -> np.ndarray:
        """Return a column of the index as text of shape (n,). Missing values are empty texts."""
        if column not in self.table:
            return np.full(len(self), "")
        return self.table[column].fillna("").to_numpy(dtype=str)

    @property
    def face_sets(self) -> np.ndarray:
        """Return, for each crop, the number of the face set that it comes from.

        The numbers are int64 of shape (n,). `join` numbers the joined face sets 0, 1, 2 and so on.
        If this face set was not made by `join`, all numbers are 0.
        """
        if "face_set" not in self.table:
            return np.zeros(len(self), np.int64)
        return self.table["face_set"].to_numpy(dtype=np.int64)

    @property
    def scenes(self) -> np.ndarray:
        """Return the scene that each crop shows (column `pair`), as text of shape (n,).

        An unknown scene is empty. Two face sets may use the same name for different scenes, so a
        scene begins with the number of its face set, as in `1: kitchen`.
        """
        named = zip(self.face_sets, self.texts("pair"), strict=True)
        return np.array([f"{number}: {name}" if name else "" for number, name in named], dtype=str)

    @property
    def unpaired_real(self) -> np.ndarray:
        """Return a mask of the REAL crops whose source has no FAKE crops: bool of shape (n,).

        Reconstructions of REAL crops (see `dfdetect.data.reconstruct`) do not count as FAKE crops
        here.
        """
        recorded = (self.labels == 1) & ~self.reconstructed
        return (self.labels == 0) & ~np.isin(self.sources, self.sources[recorded])

    @property
    def reconstructed(self) -> np.ndarray:
        """Return a mask of the crops that are reconstructions of REAL crops: bool of shape (n,)."""
        return self.texts("kind") == RECONSTRUCTION

    def partners(self) -> dict[int, np.ndarray]:
        """Return the partners of each FAKE crop: the REAL crops that resemble the FAKE crop most.

        The partners of a FAKE crop are the first of these that exist:

        - The REAL crops of the same scene (column `pair`). If the index has frame numbers (column
          `frame`), only those with the nearest frame number.
        - The REAL crop that the column `original` names.

        Returns:
            A dictionary from the row number of each FAKE crop to an int64 array with the row
            numbers of its partners. FAKE crops without partners are left out.
        """
        found = {}
        labels = self.labels
        if "original" in self.table:
            real = np.flatnonzero(labels == 0)
            rows = dict(zip(self.table["id"].iloc[real], real.tolist(), strict=True))
            for row in np.flatnonzero(labels == 1).tolist():
                if (original := rows.get(self.table["original"].iloc[row])) is not None:
                    found[row] = np.array([original])
        if "pair" in self.table:
            scenes = self.scenes
            frames = np.zeros(len(self))
            if "frame" in self.table:
                frames = pd.to_numeric(self.table["frame"], errors="coerce").to_numpy(float)
            known = pd.Series(np.flatnonzero(scenes != ""))
            for _, members in known.groupby(scenes[known]):
                scene = members.to_numpy()
                real = scene[labels[scene] == 0]
                for row in scene[labels[scene] == 1].tolist() if len(real) else ():
                    # REAL crops with unknown frame numbers come last. If the number of the FAKE
                    # crop is unknown, all are partners.
                    gaps = np.nan_to_num(np.abs(frames[real] - frames[row]), nan=np.inf)
                    found[row] = real[gaps == gaps.min()]
        return found

    @property
    def shards(self) -> np.ndarray:
        """Return, for each crop, the number of its tar file: int64 of shape (n,).

        The numbers start at 0, and may differ from the column `shard`. Images that are not in a tar
        file have the number 0.
        """
        paths = [str(place.path) if place.offset else "" for place in self.locations]
        return np.unique(paths, return_inverse=True)[1]

    @property
    def groups(self) -> np.ndarray:
        """Return the actor group of each crop, as text of shape (n,).

        An actor group is a person, or several people who look alike. If the index has no column
        `actor_group`, each crop is a group of its own, named by its id.
        """
        return self.table[GROUP if GROUP in self.table else "id"].to_numpy(dtype=str)

    def image(self, row: int) -> np.ndarray:
        """Return the crop with a given row number: RGB uint8 of shape (height, width, 3).

        Raises:
            FaceSetError: The crop cannot be decoded.
        """
        return decode_image(self.locations[row], self.table["id"][row])

    def select(self, rows: np.ndarray) -> "FaceSet":
        """Return a face set that has only the selected crops.

        Args:
            rows: Boolean mask of shape (n,), or array of row numbers.
        """
        rows = np.arange(len(self))[rows]
        return FaceSet(self.table.iloc[rows], [self.locations[row] for row in rows])

    def tracks(self) -> list[list[int]]:
        """Return, for each track, the row numbers of its crops in the order of the frames.

        A track is one face in one video. A crop whose video is unknown is a track of its own. Crops
        of a video whose track is unknown are taken to show one face. If their frames are unknown,
        too, they keep the order of the table.
        """
        known = self.texts("video") != ""
        tracks = [[row] for row in np.flatnonzero(~known).tolist()]
        table = self.table[known]
        # A fake made from a track has the same number as the track, but another label.
        columns = [name for name in ("video", "track", "label") if name in table]
        groups = table.groupby([self.face_sets[known], *columns], sort=False, dropna=False)
        for _, track in groups:
            ordered = track.sort_values("frame", kind="stable") if "frame" in track else track
            tracks.append(ordered.index.tolist())
        return tracks

    def videos(self) -> list[list[list[int]]]:
        """Return the tracks of each video. A track is a list of the row numbers of its crops.

        A crop whose video is unknown is a video of its own.

        Example:
            >>> faces.videos()  # one video with two tracks, and a single crop
            [[[0, 1], [2, 3]], [[4]]]
        """
        names, labels, sets = self.texts("video"), self.labels, self.face_sets
        videos: dict[tuple[object, ...], list[list[int]]] = {}
        for track in self.tracks():
            first = track[0]
            # A fake made from a video has the same name as the video, but another label.
            key = (sets[first], names[first], labels[first]) if names[first] else (first,)
            videos.setdefault(key, []).append(track)
        return list(videos.values())

    def clips(self, length: int) -> list[list[int]]:
        """Divide each track into clips of `length` successive crops.

        Returns:
            For each clip, the row numbers of its crops. The last two clips of a track may share
            crops. A track of fewer than `length` crops gives one clip, which repeats crops. But a
            track of one crop gives a single row number.
        """
        if length == 1:
            return [[row] for row in range(len(self))]
        clips = []
        for track in self.tracks():
            parts = windows(len(track), length) if len(track) > 1 else [[0]]
            clips += [[track[place] for place in part] for part in parts]
        return clips

    def without_label_noise(self, min_pair_difference: float) -> "FaceSet":
        """Return a face set without the FAKE crops that hardly differ from their originals.

        Two columns compare the pixels of a FAKE crop and its original (levels 0 to 255).
        `pair_diff` is the 95th percentile of the blurred difference inside the face, and
        `pair_border` is the mean difference along the border of the crops. If `pair_border` is 6 or
        more, the two crops are not aligned, and the FAKE crop is kept. If one of the columns is
        missing, all crops are kept.

        Args:
            min_pair_difference: FAKE crops with a lower `pair_diff` are left out.
        """
        if not {"pair_diff", "pair_border"} <= set(self.table):
            return self
        alike = self.table["pair_diff"] < min_pair_difference
        aligned = self.table["pair_border"] < ALIGNED_BORDER
        return self.select(~(alike & aligned & (self.table["label"] == "FAKE")).to_numpy())

    def require_readable(self, progress: bool = False) -> None:
        """Decode every image, so that a damaged image is found before hours of training.

        Raises:
            FaceSetError: An image cannot be decoded. The message names the first such image.
        """
        # Threads run in parallel, because OpenCV releases Python's global lock while it decodes.
        with ThreadPoolExecutor(available_cores()) as pool:
            images = pool.map(lambda row: self.image(row).shape, range(len(self)))
            bar = tqdm(images, "reading", len(self), unit="crop", disable=not progress)
            deque(bar, maxlen=0)

    def split(self, fraction: float, seed: int = 0) -> tuple["FaceSet", "FaceSet"]:
        """Return two parts of the face set: one for training, and one that is held out.

        Joined face sets are split one by one. What is held out depends on the FAKE crops of the
        face set. (Reconstructions, see `dfdetect.data.reconstruct`, do not count as FAKE here.)

        - If the FAKE crops have several sources, whole sources are held out.
        - If all FAKE crops have the same source, whole actor groups are held out. REAL crops whose
          source has no FAKE crops are not held out.
        - If there are no FAKE crops, nothing is held out.

        No actor group is in both parts. If some crops of a group are held out, its other crops are
        left out. If a whole source is held out, its crops in other face sets are left out, too.

        Args:
            fraction: Share of the sources or actor groups to hold out, between 0 and 1.
            seed: Seed of the random choice.

        Raises:
            FaceSetError: A part would lack REAL or FAKE crops, or `fraction` is not between 0 and
                1.
        """
        if not 0 < fraction < 1:
            raise FaceSetError(f"the share to hold out must be between 0 and 1, not {fraction}")
        held_out = np.zeros(len(self), bool)
        whole: set[str] = set()  # sources that are held out as a whole
        fake = (self.labels == 1) & ~self.reconstructed
        for number in np.unique(self.face_sets):
            own = self.face_sets == number
            known = np.unique(self.sources[own & fake])
            if len(known) > 1:
                others = np.setdiff1d(self.sources[own], known)
                chosen = [*_choose(known, fraction, seed), *_choose(others, fraction, seed)]
                held_out |= own & np.isin(self.sources, chosen)
                whole |= set(chosen) - {""}
            elif len(known):
                own &= ~self.unpaired_real
                groups = _choose(np.unique(self.groups[own]), fraction, seed)
                held_out |= own & np.isin(self.groups, groups)
        rest = ~held_out & ~np.isin(self.groups, self.groups[held_out])
        rest &= ~np.isin(self.sources, list(whole))
        train, held = self.select(rest), self.select(held_out)
        which = f"the split of {fraction:g} by source and {GROUP}"
        other = "take another seed, or give a face set of its own as val"
        train.require_both_classes(f"left by {which}", f"hold out a smaller share, {other}")
        held.require_both_classes(f"held out by {which}", f"hold out a larger share, {other}")
        return train, held

    def require_both_classes(self, name: str, advice: str = "") -> None:
        """Raise FaceSetError if there are no REAL crops or no FAKE crops.

        `name` is what the error message calls the crops. `advice` says what to do, if the message
        alone does not.
        """
        absent = [label for label in LABELS if label not in set(self.table["label"])]
        if absent:
            raise FaceSetError(
                f"{name}: no {' and no '.join(absent)} crops among {len(self)}; both are needed"
                f"{advice and f'; {advice}'}"
            )


def _choose(names: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return randomly chosen names: about the share `fraction` of `names`, but at least one."""
    count = max(1, round(fraction * len(names)))
    return np.random.default_rng(seed).permutation(names)[:count]


def decode_image(place: ImageLocation, name: str) -> np.ndarray:
    """Return the image that is stored at a place: RGB uint8 of shape (height, width, 3).

    Args:
        place: The file that holds the image, and the byte offset and size of the image in the file.
        name: Id of the image, for the error message.

    Raises:
        FaceSetError: The image cannot be decoded, or is too large.
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
    """Check that the faces for training and the held-out faces show different people.

    Args:
        train: The crops for training.
        held_out: The crops that are held out.
        name: Name of the held-out crops, for error messages.

    Raises:
        FaceSetError: Both face sets have crops of the same actor group (a person, or people who
            look alike), or crops with the same id; or only one of the face sets has the column
            `actor_group`.
    """
    if (GROUP in train.table) != (GROUP in held_out.table):
        raise FaceSetError(
            f"{name}: only one side has a column {GROUP!r}, so it is unknown whether both sides "
            "show the same people: add the column to the other side, or remove it if each crop "
            "shows another person"
        )
    for what, column in (("actor groups", GROUP), ("ids", "id")):
        if column in train.table:
            shared = set(train.table[column]) & set(held_out.table[column])
            if shared:
                raise FaceSetError(
                    f"{name}: {len(shared)} of its {what} are also in the training faces, first "
                    f"{min(shared)!r}: scores on faces that a model was trained on mean nothing; "
                    "remove these crops from one side"
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


def _find_images(index: Path, ids: set[str]) -> dict[str, ImageLocation]:
    """Return the location of each image in the tar file or folder of a face set, by its id."""
    folder, archive = index.with_suffix(""), index.with_suffix(".tar")
    images: dict[str, ImageLocation] = {}

    def add(name: str, place: ImageLocation) -> None:
        found = Path(name)
        if found.suffix.lower() not in IMAGE_SUFFIXES or found.stem not in ids:
            return
        if found.stem in images:
            raise FaceSetError(
                f"{place.path}: {found.name} is the second image of the id {found.stem!r}: keep "
                "one of them"
            )
        images[found.stem] = place

    if archive.is_file():
        try:
            # Each image is read from its byte offset, so the archive must not be compressed.
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    _require_harmless(archive, member)
                    add(member.name, ImageLocation(archive, member.offset_data, member.size))
                return images
        except tarfile.TarError as error:
            raise FaceSetError(
                f"{archive}: no uncompressed tar file, or damaged ({error}): make or copy it again"
            ) from error
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            add(path.name, ImageLocation(path))
        return images
    raise FileNotFoundError(f"{index}: its images are missing: neither {archive} nor {folder}/")


def _find_in_shards(index: Path, table: pd.DataFrame) -> list[ImageLocation]:
    """Return the location of each image in the shards (tar files), as the index gives it."""
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
            f"{index}: line {line}: no image is at the place that this line gives, or the shard is "
            "too short: copy index and shards again, or extract the face set again"
        )
    columns = (places[name].astype(int) for name in SHARD_COLUMNS)
    return [ImageLocation(paths[number], *rest) for number, *rest in zip(*columns, strict=True)]


def _require_harmless(archive: Path, member: tarfile.TarInfo) -> None:
    """Raise FaceSetError if a member of a tar file is incomplete, or is harmful when unpacked.

    dfdetect does not unpack the tar file, but a user may.
    """
    name = PurePosixPath(member.name)
    fault = None
    if name.is_absolute() or ".." in name.parts:
        fault = "has a name that leads out of the folder"
    elif not (member.isdir() or member.isfile()) or member.issparse():
        fault = "is neither a plain file nor a folder"
    elif member.size > MOST_IMAGE_BYTES:
        fault = f"has {member.size} bytes, but at most {MOST_IMAGE_BYTES} are allowed"
    elif member.offset_data + member.size > archive.stat().st_size:
        fault = "is incomplete"
    if fault:
        raise FaceSetError(
            f"{archive}: member {member.name!r} {fault}: make the archive again with only images"
        )


def _is_of_reasonable_size(data: bytes) -> bool:
    """Return whether the width and the height of an image are both at most `MOST_PIXELS`.

    Only the header of the image is read. If the header is damaged, the result is False.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            return max(image.size) <= MOST_PIXELS
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
