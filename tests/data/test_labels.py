import json
import zipfile

import pytest

from dfdetect.data.labels import read_labels


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def labels_of(folder):
    return {video.name: video.label for video in read_labels(folder)}


def test_read_labels_of_metadata(sample_data):
    labels = labels_of(sample_data / "train_sample_videos")
    assert labels["ajqslcypsw.mp4"] == "REAL"
    assert labels["bvgwelbeof.mp4"] == "FAKE"


def test_read_labels_of_folders(tmp_path):
    for name in ("source/real/a.mp4", "source/FAKE/method/b.mp4", "Real/c.mp4"):
        touch(tmp_path / name)
    assert labels_of(tmp_path) == {"a.mp4": "REAL", "b.mp4": "FAKE", "c.mp4": "REAL"}


def test_read_labels_prefers_metadata_to_folders(tmp_path):
    touch(tmp_path / "real" / "a.mp4")
    (tmp_path / "real" / "metadata.json").write_text(json.dumps({"a.mp4": {"label": "FAKE"}}))
    assert labels_of(tmp_path)["a.mp4"] == "FAKE"


def test_read_labels_names_unlabelled_videos(tmp_path):
    touch(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4: no label"):
        read_labels(tmp_path)


def test_read_labels_of_a_folder_named_after_its_label(tmp_path):
    touch(tmp_path / "fake" / "a.mp4")
    assert labels_of(tmp_path / "fake")["a.mp4"] == "FAKE"


@pytest.mark.parametrize("text", ["[]", '{"a.mp4": "FAKE"}', "{", ""])
def test_read_labels_names_unusable_metadata(tmp_path, text):
    touch(tmp_path / "a.mp4")
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.json: not of the form"):
        read_labels(tmp_path)


def test_read_labels_groups_a_fake_with_its_original(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        touch(tmp_path / "part_7" / name)
    entries = {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE", "original": "a.mp4"}}
    (tmp_path / "part_7" / "metadata.json").write_text(json.dumps(entries))
    real, fake = read_labels(tmp_path)
    assert (real.group, fake.group) == ("a", "a")
    assert real.source == fake.source == "part_7"


def test_read_labels_prefers_a_manifest(tmp_path):
    touch(tmp_path / "studio" / "real" / "a.mp4")
    rows = "path,label,identity,source\nstudio/real/a.mp4,FAKE,Ann,Studio 1\n"
    (tmp_path / "manifest.csv").write_text(rows)
    for folder in (tmp_path, tmp_path / "studio"):
        (video,) = read_labels(folder)
        assert (video.label, video.group, video.source) == ("FAKE", "Ann", "Studio 1")


def test_read_labels_of_a_manifest_takes_no_label_for_a_source(tmp_path):
    touch(tmp_path / "studio" / "Real" / "a.mp4")
    (tmp_path / "manifest.csv").write_text("path,label\nstudio/Real/a.mp4,REAL\n")
    (video,) = read_labels(tmp_path)
    assert video.source == "studio"


def test_read_labels_warns_of_videos_that_a_manifest_lists_in_vain(tmp_path):
    touch(tmp_path / "studio" / "a.mp4")
    touch(tmp_path / "b.mp4")
    rows = "path,label\nstudio/a.mp4,REAL\nstudio/c.mp4,FAKE\nb.mp4,REAL\nother/d.mp4,FAKE\n"
    (tmp_path / "manifest.csv").write_text(rows)
    with pytest.warns(UserWarning, match=r"manifest\.csv: 2 of the listed .* first studio/c\.mp4"):
        assert len(read_labels(tmp_path)) == 2
    with pytest.warns(UserWarning, match=r"manifest\.csv: 1 of the listed .* first c\.mp4"):
        assert len(read_labels(tmp_path / "studio")) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path\na.mp4\n", "columns path and label"),
        ("path,label\na.mp4,?\n", "'?'"),
        ("path,label\na.mp4,REAL\na.mp4,FAKE\n", "a.mp4: both REAL and FAKE; keep one row"),
    ],
)
def test_read_labels_names_an_unusable_manifest(tmp_path, rows, message):
    touch(tmp_path / "a.mp4")
    (tmp_path / "manifest.csv").write_text(rows)
    with pytest.raises(ValueError, match=r"manifest\.csv") as error:
        read_labels(tmp_path)
    assert message in str(error.value)


def test_read_labels_of_a_zip_file(tmp_path, real_clip):
    path = tmp_path / "dfdc_train_part_00.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(real_clip, "dfdc_train_part_0/x.mp4")
        metadata = {"x.mp4": {"label": "FAKE", "original": "y.mp4"}}
        archive.writestr("dfdc_train_part_0/metadata.json", json.dumps(metadata))
        archive.writestr("elsewhere/real/../../z.mp4", b"z")
        archive.writestr("__MACOSX/dfdc_train_part_0/._x.mp4", b"attributes of x.mp4")
    z, x = sorted(read_labels(path), key=lambda video: video.label, reverse=True)
    assert (x.name, x.label, x.group, x.source) == ("x.mp4", "FAKE", "y", "dfdc_train_part_0")
    assert z.label == "REAL"
    with x.open() as video:
        assert video.read_bytes() == real_clip.read_bytes()
    assert not video.exists()


def test_read_labels_names_an_unusable_zip_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a\.zip: not a zip file"):
        read_labels(tmp_path / "a.zip")
