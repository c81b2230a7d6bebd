import pytest

from dfdetect.data import shards
from dfdetect.data.faceset import FaceSet
from dfdetect.data.writer import EncodedCrop, FaceSetWriter
from dfdetect.errors import ArgumentError, InputError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes entries of two crops each.

    The function returns the entries that were complete before it was called.
    """
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)

    def write(name, entries, settings="{}"):
        log = tmp_path / f"{name}.log.csv"
        columns = ["id", "label"], ["entry"]
        with FaceSetWriter(tmp_path / f"{name}.csv", log, *columns, settings) as writer:
            done = list(writer.done)
            for entry in entries:
                rows = [{"id": f"{entry}-{number}", "label": "REAL"} for number in range(2)]
                writer.add({"entry": entry}, [EncodedCrop(row, b"image", ".png") for row in rows])
        return done

    return write


def files(folder, name):
    return {path.name.removeprefix(name): path.read_bytes() for path in folder.glob(f"{name}[.-]*")}


def test_face_set_writer_writes_a_readable_face_set(write, tmp_path):
    assert write("faces", "abc") == []
    faces = FaceSet.read(tmp_path / "faces.csv")
    assert faces.table["id"].tolist() == ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]
    assert {location.read() for location in faces.locations} == {b"image"}


@pytest.mark.parametrize("count", range(4))
def test_face_set_writer_continues_with_the_same_bytes(write, tmp_path, count):
    write("whole", "abc")
    write("part", "abc"[:count])
    last = sorted(tmp_path.glob("part-*.tar"))[-1:]
    for path in (tmp_path / "part.csv", tmp_path / "part.log.csv", *last):
        with path.open("ab") as file:  # as if the run was killed while it wrote the next entry
            file.write(b"half a line")
    assert write("part", "abc"[count:]) == list("abc"[:count])
    assert files(tmp_path, "part") == files(tmp_path, "whole")


def test_face_set_writer_refuses_files_that_it_did_not_write(write, tmp_path):
    (tmp_path / "faces.csv").write_text("precious")
    with pytest.raises(InputError, match=r"faces\.csv: exists, and faces\.log\.csv is not"):
        write("faces", "a")
    (tmp_path / "other.log.csv").write_text("precious\n1\n")
    with pytest.raises(InputError, match="made by another version of dfdetect"):
        write("other", "a")
    assert (tmp_path / "faces.csv").read_text() == "precious"


def test_face_set_writer_refuses_other_settings(write):
    write("faces", "a")
    with pytest.raises(ArgumentError, match=r"made with other settings, \{\}: use these settings"):
        write("faces", "b", settings="others")
