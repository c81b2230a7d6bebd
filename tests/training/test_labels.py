import json

import pytest

from dfdetect.training.labels import read_labels


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_metadata(sample_data):
    labels = {
        name: label for name, (_, label) in read_labels(sample_data / "train_sample_videos").items()
    }
    assert labels["ajqslcypsw.mp4"] == "REAL"
    assert labels["bvgwelbeof.mp4"] == "FAKE"


def test_folders(tmp_path):
    for name in ("source/real/a.mp4", "source/FAKE/method/b.mp4", "Real/c.mp4"):
        touch(tmp_path / name)
    labels = {name: label for name, (_, label) in read_labels(tmp_path).items()}
    assert labels == {"a.mp4": "REAL", "b.mp4": "FAKE", "c.mp4": "REAL"}


def test_metadata_beside_a_video_goes_before_its_folder(tmp_path):
    touch(tmp_path / "real" / "a.mp4")
    (tmp_path / "real" / "metadata.json").write_text(json.dumps({"a.mp4": {"label": "FAKE"}}))
    assert read_labels(tmp_path)["a.mp4"][1] == "FAKE"


def test_unlabelled_videos_are_named(tmp_path):
    touch(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4: no label"):
        read_labels(tmp_path)


def test_the_given_folder_may_be_the_label(tmp_path):
    touch(tmp_path / "fake" / "a.mp4")
    assert read_labels(tmp_path / "fake")["a.mp4"][1] == "FAKE"


@pytest.mark.parametrize("text", ["[]", '{"a.mp4": "FAKE"}', "{", ""])
def test_metadata_of_another_form_is_named(tmp_path, text):
    touch(tmp_path / "a.mp4")
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.json: not of the form"):
        read_labels(tmp_path)
