from pathlib import Path

import pytest

from dfdetect.video.discovery import count_ignored_images, find_videos


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_find_videos_searches_folders_and_sorts_names(tmp_path):
    touch(tmp_path, "b.mp4", "deep/er/a.MOV", "notes.txt", "deep/metadata.json", "c.webm")
    assert list(find_videos([tmp_path])) == ["a.MOV", "b.mp4", "c.webm"]


def test_find_videos_accepts_a_given_file_with_any_suffix(tmp_path):
    touch(tmp_path, "clip", "folder/other.mp4")
    assert list(find_videos([tmp_path / "clip", tmp_path / "folder"])) == ["clip", "other.mp4"]


def test_find_videos_accepts_given_images_but_ignores_images_in_folders(tmp_path):
    touch(tmp_path, "a.mp4", "cover.jpg", "face.png")
    assert list(find_videos([tmp_path, tmp_path / "face.png"])) == ["a.mp4", "face.png"]
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(ValueError, match="images must be given one by one"):
        find_videos([tmp_path])


def test_count_ignored_images_leaves_out_those_that_are_scored(tmp_path):
    touch(tmp_path, "a.mp4", "cover.jpg", "more/FACE.PNG", "text.txt")
    given = [tmp_path, tmp_path / "more"]
    assert count_ignored_images(given, find_videos(given).values()) == 2
    given.append(tmp_path / "cover.jpg")
    assert count_ignored_images(given, find_videos(given).values()) == 1
    assert count_ignored_images([tmp_path / "cover.jpg"], []) == 0


def test_find_videos_names_equal_base_names_by_their_folders(tmp_path):
    touch(tmp_path, "x/a.mp4", "y/a.mp4", "y/b.mp4")
    found = find_videos([tmp_path])
    assert list(found) == ["b.mp4", "x/a.mp4", "y/a.mp4"]
    assert found["y/a.mp4"] == tmp_path / "y" / "a.mp4"


def test_find_videos_names_equal_files_of_two_folders_by_their_whole_paths(tmp_path, monkeypatch):
    touch(tmp_path, "x/a.mp4", "y/a.mp4", "y/b.mp4")
    monkeypatch.chdir(tmp_path)
    assert list(find_videos(["x", "y"])) == ["b.mp4", "x/a.mp4", "y/a.mp4"]
    found = find_videos(["x/a.mp4", Path("y", "a.mp4")])
    assert found == {"x/a.mp4": Path("x/a.mp4"), "y/a.mp4": Path("y/a.mp4")}


def test_find_videos_of_an_address_says_that_nothing_is_downloaded():
    with pytest.raises(FileNotFoundError, match=r"no such file or folder .*download the video"):
        find_videos([Path("https://example.com/a.mp4")])


def test_find_videos_keeps_all_files_if_a_path_equals_another_name(tmp_path, monkeypatch):
    touch(tmp_path, "x/a.mp4", "more/x/a.mp4", "other/a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(find_videos(["x", "more", "other"])) == 3


def test_find_videos_returns_a_file_given_twice_once(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4")
    assert list(find_videos([tmp_path, tmp_path / "a.mp4"])) == ["a.mp4"]
    monkeypatch.chdir(tmp_path)
    assert list(find_videos([".", tmp_path])) == ["a.mp4"]


def test_find_videos_raises_if_there_are_no_videos(tmp_path):
    with pytest.raises(ValueError, match="no videos"):
        find_videos([tmp_path])
    with pytest.raises(ValueError, match="no paths: give at least one"):
        find_videos([])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_videos([tmp_path / "nowhere"])


def test_find_videos_keeps_a_missing_path_beside_others(tmp_path):
    touch(tmp_path, "a.mp4")
    gone = tmp_path / "gone.mp4"
    assert find_videos([gone, tmp_path])["gone.mp4"] == gone
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: no such file or folder"):
        find_videos([gone, tmp_path / "nowhere"])


def test_find_videos_keeps_a_path_that_cannot_be_looked_up_beside_others(tmp_path):
    touch(tmp_path, "a.mp4")
    long = tmp_path / f"{'x' * 300}.mp4"
    found = find_videos([long, tmp_path])
    assert found[long.name] == long
    assert count_ignored_images([long, tmp_path], found.values()) == 0


def test_find_videos_ignores_the_companions_that_macos_makes(tmp_path):
    touch(tmp_path, "a.mp4", "._a.mp4")
    assert list(find_videos([tmp_path])) == ["a.mp4"]
