import io
import struct
import tarfile
import zlib

import cv2
import numpy as np
import pandas as pd
import pytest

from dfdetect.data.faceset import FaceSet, FaceSetError, require_disjoint_actors
from dfdetect.data.shards import SHARD_COLUMNS, ShardWriter, shard_path


def edit(index, function):
    table = pd.read_csv(index, dtype=str)
    function(table).to_csv(index, index=False)


def test_split_does_not_hold_out_sources_without_fakes(face_set):
    def change(table):
        table["source"] = ["photos" if label == "REAL" else "" for label in table["label"]]
        table.loc[:23, "source"] = ""
        return table

    edit(face_set, change)
    faces = FaceSet.read(face_set)
    assert np.flatnonzero(faces.unpaired_real).tolist() == list(range(24, 48, 2))
    train, held_out = faces.split(0.25, seed=1)
    # Four of these crops show held-out actors, and are left out of both parts.
    assert (train.unpaired_real.sum(), held_out.unpaired_real.sum()) == (8, 0)
    assert not set(train.select(~train.unpaired_real).groups) & set(held_out.groups)


def test_read_finds_labels_groups_and_images(face_set):
    faces = FaceSet.read(face_set)
    assert len(faces) == 48
    assert faces.labels[:4].tolist() == [0, 1, 0, 1]
    assert faces.groups[:5].tolist() == ["actor0"] * 4 + ["actor1"]
    image = faces.image(1)
    assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)


def test_read_keeps_the_names_of_videos_that_are_numbers(face_set):
    def change(table):
        table["video"] = ["001", "1", "1.0", ""] + ["004"] * 44
        table["track"] = 0
        table["frame"] = range(48)
        return table

    edit(face_set, change)
    faces = FaceSet.read(face_set)
    assert faces.texts("video")[:5].tolist() == ["001", "1", "1.0", "", "004"]
    sizes = sorted(sum(map(len, video)) for video in faces.videos())
    assert sizes == [1, 1, 1, 1, 22, 22]  # the REAL and the FAKE crops of 004 are two videos


@pytest.mark.parametrize("others", [{}, {"track": [0] * 24 + [""] * 24}])
def test_crops_of_a_video_whose_track_is_unknown_show_one_face(face_set, others):
    """Without the frames, they keep the order of the table."""
    edit(face_set, lambda table: table.assign(video=["a"] * 24 + ["b"] * 22 + [""] * 2, **others))
    tracks = FaceSet.read(face_set).tracks()
    expected = [[46], [47], *(list(range(start, start + 24, 2)) for start in (0, 1))]
    assert tracks == expected + [list(range(start, 46, 2)) for start in (24, 25)]


def test_image_is_rgb(tmp_path):
    blue_in_bgr = np.zeros((8, 8, 3), np.uint8)
    blue_in_bgr[..., 0] = 255
    (tmp_path / "set").mkdir()
    cv2.imwrite(str(tmp_path / "set" / "a.png"), blue_in_bgr)
    (tmp_path / "set.csv").write_text("id,label\na,REAL\n")
    assert FaceSet.read(tmp_path / "set.csv").image(0)[0, 0].tolist() == [0, 0, 255]


def test_read_gives_the_same_from_a_tar_file_and_a_folder(face_set):
    from_folder = FaceSet.read(face_set)
    with tarfile.open(face_set.with_suffix(".tar"), "w") as tar:
        tar.add(face_set.with_suffix(""), arcname=".")
    from_tar = FaceSet.read(face_set)
    assert from_tar.locations[0].path.suffix == ".tar"
    for row in (0, 17, 47):
        assert np.array_equal(from_folder.image(row), from_tar.image(row))


def test_read_refuses_two_images_of_one_id(face_set):
    folder = face_set.with_suffix("")
    (folder / "unlisted.jpg").touch()
    (folder / "unlisted.png").touch()
    FaceSet.read(face_set)
    (folder / "007.jpeg").touch()
    with pytest.raises(FaceSetError, match="the second image of the id '007'"):
        FaceSet.read(face_set)
    with tarfile.open(face_set.with_suffix(".tar"), "w") as tar:
        tar.add(folder, arcname=".")
    with pytest.raises(FaceSetError, match=r"\.tar: \S+ is the second image of the id '007'"):
        FaceSet.read(face_set)


def test_read_ignores_a_column_named_face_set(face_set):
    edit(face_set, lambda table: table.assign(face_set="mine"))
    assert not FaceSet.read(face_set).face_sets.any()


def test_read_keeps_leading_zeros_of_ids(face_set):
    assert FaceSet.read(face_set).table["id"][7] == "007"


def test_split_keeps_actors_apart(face_set):
    faces = FaceSet.read(face_set)
    train, held_out = faces.split(0.25, seed=1)
    assert len(train) + len(held_out) == 48
    assert len(set(held_out.groups)) == 3
    assert not set(train.groups) & set(held_out.groups)
    assert np.array_equal(held_out.image(0), faces.image(int(held_out.table["id"][0])))
    again = faces.split(0.25, seed=1)[1]
    assert again.table["id"].tolist() == held_out.table["id"].tolist()
    other = faces.split(0.25, seed=2)[1]
    assert other.table["id"].tolist() != held_out.table["id"].tolist()


def test_groups_without_actors_are_the_ids(face_set):
    edit(face_set, lambda table: table.drop(columns="actor_group"))
    assert len(set(FaceSet.read(face_set).groups)) == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="label"), "no column 'label'"),
        (lambda table: table.iloc[:0], "no rows"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "1 ids occur twice, first '000'"),
        (lambda table: table.replace({"label": {"REAL": "real"}}), "line 2: label 'real'"),
        (lambda table: table.replace({"id": {"005": "nobody"}}), "1 of 48 ids have no image"),
        (lambda table: table.replace({"actor_group": {"actor1": ""}}), "line 6: actor_group is"),
    ],
)
def test_read_refuses_unusable_indexes(face_set, change, message):
    edit(face_set, change)
    with pytest.raises(FaceSetError, match=message) as caught:
        FaceSet.read(face_set)
    assert str(face_set) in str(caught.value)


def test_read_names_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such face set"):
        FaceSet.read(tmp_path / "none.csv")
    (tmp_path / "bare.csv").write_text("id,label\na,REAL\n")
    with pytest.raises(FileNotFoundError, match="its images are missing"):
        FaceSet.read(tmp_path / "bare.csv")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_image_names_an_unreadable_image(face_set, content):
    (face_set.with_suffix("") / "003.png").write_bytes(content)
    with pytest.raises(FaceSetError, match="'003' cannot be decoded"):
        FaceSet.read(face_set).image(3)


def test_require_both_classes_refuses_one_class(face_set):
    faces = FaceSet.read(face_set)
    reals = faces.select(faces.labels == 0)
    with pytest.raises(FaceSetError, match=r"here: no FAKE crops among 24"):
        reals.require_both_classes("here")
    with pytest.raises(FaceSetError, match="both are needed"):
        reals.split(0.25)


def test_split_of_few_crops_says_what_to_do(face_set):
    faces = FaceSet.read(face_set)
    actor = faces.groups == "actor0"
    few = faces.select(actor == (faces.labels == 0))  # only this actor has REAL crops
    with pytest.raises(FaceSetError, match=r"held out by the split of .*: no REAL crops") as caught:
        few.split(0.1, seed=1)
    assert str(caught.value).endswith(
        "both are needed; hold out a larger share, take another seed, or give a face set of its "
        "own as val"
    )
    with pytest.raises(FaceSetError, match=r"left by the split of .*: no REAL .* a smaller share"):
        few.split(0.9)


def test_join_keeps_rows_and_images(face_set):
    faces = FaceSet.read(face_set)
    halves = faces.select(np.arange(24)), faces.select(np.arange(24, 48))
    joined = FaceSet.join(halves)
    assert joined.table["id"].tolist() == faces.table["id"].tolist()
    assert np.array_equal(joined.image(30), faces.image(30))
    with pytest.raises(FaceSetError, match="24 ids are in two face sets"):
        FaceSet.join([faces, halves[0]])


def test_require_disjoint_actors_refuses_actors_on_both_sides(face_set):
    faces = FaceSet.read(face_set)
    first, second = faces.select(np.arange(25)), faces.select(np.arange(25, 48))
    with pytest.raises(FaceSetError, match=r"val\.csv: 1 of its actor groups .*'actor6'"):
        require_disjoint_actors(first, second, "val.csv")
    require_disjoint_actors(*faces.split(0.5), "val.csv")


def test_require_disjoint_actors_refuses_ids_on_both_sides(face_set):
    faces = FaceSet.read(face_set)
    renamed = faces.table.assign(actor_group="somebody else")
    with pytest.raises(FaceSetError, match="48 of its ids are also"):
        require_disjoint_actors(faces, FaceSet(renamed, faces.locations), "val.csv")


def test_require_disjoint_actors_refuses_actor_groups_on_one_side_only(face_set):
    faces = FaceSet.read(face_set)
    anonymous = FaceSet(faces.table.drop(columns="actor_group"), faces.locations)
    with pytest.raises(FaceSetError, match="only one side has a column 'actor_group'"):
        require_disjoint_actors(faces, anonymous, "val.csv")


def test_groups_that_are_numbers_are_text(face_set):
    edit(face_set, lambda table: table.assign(actor_group=np.arange(48) // 4))
    assert FaceSet.read(face_set).groups[5] == "1"


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("inf"), float("nan")])
def test_split_refuses_impossible_fractions(face_set, fraction):
    with pytest.raises(FaceSetError, match="between 0 and 1"):
        FaceSet.read(face_set).split(fraction)


@pytest.mark.parametrize("mode", ["damaged", "compressed"])
def test_read_refuses_unusable_archives(face_set, mode):
    archive = face_set.with_suffix(".tar")
    with tarfile.open(archive, "w:gz" if mode == "compressed" else "w") as tar:
        tar.add(face_set.with_suffix(""), arcname=".")
    if mode == "damaged":
        archive.write_bytes(b"x" * 1000 + archive.read_bytes()[1000:])
    with pytest.raises(FaceSetError, match=r"faces\.tar: no uncompressed tar file, or damaged"):
        FaceSet.read(face_set)


@pytest.mark.parametrize("content", [b"", b'id,label\na,REAL,3,4\n"', b"\x00\xff\xfe" * 50])
def test_read_names_a_file_that_is_no_table(tmp_path, content):
    path = tmp_path / "faces.csv"
    path.write_bytes(content)
    with pytest.raises(FaceSetError, match=r"faces\.csv: "):
        FaceSet.read(path)


@pytest.mark.corpus
def test_read_of_dfdc_faces(corpus):
    faces = FaceSet.read(corpus / "dfdc_faces" / "val.csv")
    assert len(faces) == 2000
    assert faces.labels.sum() == 1000
    assert faces.image(1234).shape == (224, 224, 3)


def test_without_label_noise_leaves_out_unaltered_fakes(face_set):
    table = pd.read_csv(face_set, dtype=str)
    table["pair_diff"], table["pair_border"] = 10.0, 1.0
    table.loc[[1, 3], "pair_diff"] = 2.0
    table.loc[3, "pair_border"] = 9.0  # not aligned, so that its difference means nothing
    table.loc[table["label"] == "REAL", ["pair_diff", "pair_border"]] = np.nan
    table.to_csv(face_set, index=False)
    faces = FaceSet.read(face_set)
    kept = faces.without_label_noise(4.0)
    assert set(faces.table["id"]) - set(kept.table["id"]) == {"001"}
    assert len(faces.without_label_noise(0.0)) == 48


def with_archive(face_set, *members):
    """Pack the images of a face set into an archive together with other members."""
    folder, archive = face_set.with_suffix(""), face_set.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return archive


def member_of(name, kind=tarfile.REGTYPE, **attributes):
    member = tarfile.TarInfo(name)
    member.type = kind
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (member_of("../x.jpg"), "leads out of the folder"),
        (member_of("a/../../x.jpg"), "leads out of the folder"),
        (member_of("/etc/x.jpg"), "leads out of the folder"),
        (member_of("x.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"), "neither a plain file"),
        (member_of("x.jpg", tarfile.LNKTYPE, linkname="000.png"), "neither a plain file"),
        (member_of("x.jpg", tarfile.FIFOTYPE), "neither a plain file"),
        (member_of("x.jpg", tarfile.CHRTYPE), "neither a plain file"),
        (member_of("x.jpg", size=65 * 2**20), "68157440 bytes, but at most 67108864 are allowed"),
    ],
)
def test_read_refuses_archives_with_members_that_no_face_set_needs(face_set, member, fault):
    archive = with_archive(face_set, member)
    with pytest.raises(FaceSetError, match=fault) as caught:
        FaceSet.read(face_set)
    assert str(archive) in str(caught.value)
    with_archive(face_set)
    assert len(FaceSet.read(face_set)) == 48


def test_image_refuses_an_image_that_would_take_gigabytes(face_set):
    """A PNG of 10 kB can hold 40,000 x 40,000 pixels."""
    path = face_set.with_suffix("") / "000.png"
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(FaceSetError, match="has a side of more than 8192 pixels"):
        FaceSet.read(face_set).image(0)


@pytest.fixture
def sharded(tmp_path, face_set):
    """Return the index of a copy of `face_set` whose images are in two shards."""
    faces = FaceSet.read(face_set)
    index = tmp_path / "sharded.csv"
    places = []
    with ShardWriter(index, (0, 0)) as shards:
        for row, name in enumerate(faces.table["id"]):
            if row == 30:
                shards.close()
                shards = ShardWriter(index, (1, 0))
            places.append(shards.add(f"{name}.png", faces.locations[row].read()))
        shards.close()
    places = pd.DataFrame(places, columns=SHARD_COLUMNS)
    pd.concat([faces.table, places], axis=1).to_csv(index, index=False)
    return index


def test_read_gives_the_same_from_shards_and_a_folder(face_set, sharded):
    faces, expected = FaceSet.read(sharded), FaceSet.read(face_set)
    for row in range(len(expected)):
        assert np.array_equal(faces.image(row), expected.image(row))
    assert faces.shards.tolist() == [0] * 30 + [1] * (len(expected) - 30)
    faces.require_readable()


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", -1), ("offset", 10**9), ("size", 0), ("size", 1e300), ("shard", 0.5), ("size", "")],
)
def test_read_refuses_places_outside_of_shards(sharded, column, value):
    table = pd.read_csv(sharded).astype({column: object})
    table.loc[5, column] = value
    table.to_csv(sharded, index=False)
    with pytest.raises(FaceSetError, match=r"sharded\.csv: line 7: no image is at the place"):
        FaceSet.read(sharded)


def test_read_names_a_missing_shard(sharded):
    shard_path(sharded, 1).unlink()
    with pytest.raises(FaceSetError, match=r"sharded-00001\.tar: no such shard of sharded\.csv"):
        FaceSet.read(sharded)


def of_sources(**columns):
    """Return a face set without images, with these columns."""
    table = pd.DataFrame(columns)
    table["id"] = [f"{row:03}" for row in range(len(table))]
    return FaceSet(table, [None] * len(table))


def test_known_sources_names_each_source_once():
    faces = of_sources(label=["REAL", "FAKE", "REAL"] * 2, source=["b", "a", None] * 2)
    assert faces.known_sources == ["a", "b"]


def test_split_holds_out_sources_if_fakes_have_several_sources():
    sources = np.repeat([f"s{number}" for number in range(20)], 6)
    labels = np.where(np.arange(120) % 6 < 3, "REAL", "FAKE")
    labels[60:] = "REAL"  # ten sources have no fakes
    faces = of_sources(label=labels, source=sources, actor_group=sources)
    rest, held_out = faces.split(0.2, seed=1)
    assert set(rest.sources).isdisjoint(held_out.sources)
    assert len(set(held_out.sources)) == 4
    assert held_out.unpaired_real.sum() == 2 * 6
    assert len(rest) + len(held_out) == 120


def test_split_leaves_out_other_crops_of_held_out_actors():
    sources = np.repeat(list("abcd"), 6)
    groups = np.arange(24).astype(str)
    groups[::6] = "known everywhere"
    faces = of_sources(label=["REAL", "FAKE"] * 12, source=sources, actor_group=groups)
    rest, held_out = faces.split(0.25)
    assert "known everywhere" in held_out.groups
    assert set(rest.groups).isdisjoint(held_out.groups)
    assert len(rest) == 24 - 6 - 3


def test_split_holds_a_source_out_of_all_face_sets():
    first = of_sources(
        label=["REAL", "FAKE"] * 6, source=np.repeat(list("abc"), 4), actor_group=range(12)
    )
    second = of_sources(
        label=["REAL", "FAKE"] * 6, source=np.repeat(list("abc"), 4), actor_group=range(20, 32)
    )
    second.table = second.table[second.table["source"] != "b"].reset_index(drop=True)
    second.table["id"] = "s" + second.table["id"]
    second = FaceSet(second.table, [None] * len(second.table))
    for seed in range(5):
        rest, held_out = FaceSet.join([first, second]).split(0.3, seed)
        assert set(rest.sources).isdisjoint(held_out.sources)


def test_split_splits_each_face_set_separately():
    by_actor = of_sources(label=["REAL", "FAKE"] * 10, actor_group=np.arange(20) // 2)
    real_only = of_sources(label=["REAL"] * 5, source=["p"] * 5)
    real_only.table["id"] = [f"p{row}" for row in range(5)]
    _, held_out = FaceSet.join([by_actor, real_only]).split(0.2)
    assert len(held_out) == 4
    assert set(held_out.sources) == {""}


def test_partners_are_originals_and_crops_of_the_same_scene():
    faces = of_sources(
        label=["REAL", "FAKE", "FAKE", "REAL", "REAL", "FAKE"],
        original=["000", "000", "gone", None, None, None],
        pair=["", "", "", "scene", "scene", "scene"],
        frame=[0, 0, 0, 10, 40, 30],
    )
    assert {row: found.tolist() for row, found in faces.partners().items()} == {1: [0], 5: [4]}


def test_join_numbers_face_sets_and_fills_in_groups():
    first = of_sources(label=["REAL", "FAKE"], actor_group=["a", "b"])
    second = of_sources(label=["REAL"])
    second.table["id"] = "alone"
    joined = FaceSet.join([first, second])
    assert joined.face_sets.tolist() == [0, 0, 1]
    assert joined.groups.tolist() == ["a", "b", "alone"]


def test_join_keeps_the_face_sets_of_joined_parts_apart():
    sets = [of_sources(label=["REAL"], video=["1.mp4"], track=[0]) for _ in range(4)]
    for number, one in enumerate(sets):
        one.table["id"] = f"id{number}"
    both = FaceSet.join(sets[:2])
    joined = FaceSet.join([both, sets[2], FaceSet.join(sets[2:]).select([1])])
    assert joined.face_sets.tolist() == [0, 1, 2, 3]
    assert joined.tracks() == [[0], [1], [2], [3]]


def test_join_refuses_no_face_sets():
    with pytest.raises(FaceSetError, match="no face sets"):
        FaceSet.join([])


@pytest.mark.parametrize("unknown", [None, "soon"])
def test_partners_without_a_frame_number_are_all_crops_of_the_scene(unknown):
    faces = of_sources(
        label=["REAL", "REAL", "FAKE", "FAKE"], pair=["scene"] * 4, frame=[10, 40, unknown, 30]
    )
    assert {row: found.tolist() for row, found in faces.partners().items()} == {2: [0, 1], 3: [1]}
    faces = of_sources(label=["REAL", "REAL", "FAKE"], pair=["scene"] * 3, frame=[unknown, 40, 10])
    assert faces.partners()[2].tolist() == [1]


def test_unpaired_real_ignores_reconstructions():
    faces = of_sources(label=["REAL", "FAKE"], source=["s", "s"], kind=[None, "reconstruction"])
    assert faces.reconstructed.tolist() == [False, True]
    assert faces.unpaired_real.tolist() == [True, False]
