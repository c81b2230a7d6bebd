import os

import pytest

from dfdetect.errors import ArgumentError, InputError
from dfdetect.files import atomic_path, read_table, require_writable


def test_atomic_path_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "folder" / "file.csv"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.suffix == ".csv"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_path_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_takes_the_longest_name(tmp_path):
    path = tmp_path / f"{'x' * 251}.mp4"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_atomic_path_gives_default_permissions(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "file"
    plain.write_text("")
    with atomic_path(path) as temporary:
        temporary.unlink()  # as libraries do that write to a private file of their own
        os.close(os.open(temporary, os.O_CREAT, mode=0o600))
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and links")
def test_atomic_path_refuses_pipes_and_keeps_links(tmp_path):
    pipe, file, link = (tmp_path / name for name in ("pipe", "file", "link"))
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="is no regular file"):
        require_writable(pipe)
    with pytest.raises(ValueError, match="is no regular file"), atomic_path(pipe):
        pass
    assert pipe.is_fifo()
    file.write_text("old")
    link.symlink_to(file)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_atomic_path_leaves_the_umask_alone(tmp_path, monkeypatch):
    """The umask belongs to the whole process, in which other threads may create files."""
    monkeypatch.setattr(os, "umask", None)
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("")


def test_require_writable_creates_nothing(tmp_path):
    require_writable(tmp_path / "new" / "folder" / "file.csv")
    assert list(tmp_path.iterdir()) == []


def test_require_writable_refuses_a_file_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="cannot be written"):
        require_writable(tmp_path / "file" / "folder" / "file.csv")


def test_read_table_refuses_rows_with_more_cells_than_the_header(tmp_path):
    path = tmp_path / "sample.csv"
    path.write_text("filename,label\na.mp4,0.12,\nb.mp4,0.93,\n")
    with pytest.raises(InputError, match=r"sample\.csv: its rows have more cells than its header"):
        read_table(path, ("filename",))
