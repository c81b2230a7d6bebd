import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from dfdetect.cli import main
from dfdetect.data import extract as module
from dfdetect.data import shards
from dfdetect.data.extract import extract
from dfdetect.data.faceset import FaceSet
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import read_frames

FRAMES = 6


@pytest.fixture
def videos(tmp_path, sample_data):
    """Return a folder with a REAL video, a FAKE video made from it, and a file that is no video."""
    clips = sample_data / "train_sample_videos"
    folder = tmp_path / "part"
    folder.mkdir()
    for name in ("ajqslcypsw.mp4", "bvgwelbeof.mp4"):
        shutil.copy(clips / name, folder)
    (folder / "broken.mp4").write_text("no video")
    metadata = {
        "ajqslcypsw.mp4": {"label": "REAL"},
        "bvgwelbeof.mp4": {"label": "FAKE", "original": "ajqslcypsw.mp4"},
        "broken.mp4": {"label": "REAL"},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def run(source, out, **options):
    return extract([source], out=out, frames=FRAMES, size=64, progress=False, **options)


def test_extract_writes_track_and_frame_of_each_crop(videos, tmp_path):
    out = tmp_path / "faces.csv"
    done = run(videos, out).set_index("video")
    assert done.loc["ajqslcypsw.mp4", ["status", "people", "crops"]].tolist() == ["ok", 1, FRAMES]
    assert done.loc["broken.mp4", "status"] == "unreadable_video"
    faces = FaceSet.read(out)
    faces.require_readable()
    assert len(faces) == 2 * FRAMES
    assert [len(track) for track in faces.tracks()] == [FRAMES, FRAMES]
    assert set(faces.groups) == {"ajqslcypsw"}
    real = faces.table[faces.table["label"] == "REAL"]
    assert real["frame"].is_monotonic_increasing
    assert real["time"].is_monotonic_increasing
    assert (real["source"] == "part").all()
    assert faces.image(0).shape == (64, 64, 3)


def test_extract_cuts_crops_where_the_detector_finds_faces(videos, tmp_path, detector, real_clip):
    out = tmp_path / "faces.csv"
    run(videos, out)
    faces = FaceSet.read(out)
    (person,) = detector.predict(real_clip).tracks
    heights = [y2 - y1 for _, y1, _, y2 in person.boxes]
    sides = faces.table.loc[faces.table["label"] == "REAL", "native_px"]
    assert sides.mean() == pytest.approx(0.8 * np.mean(heights), rel=0.1)


def test_extract_blend_adds_a_fake_of_each_real_crop(videos, tmp_path):
    out = tmp_path / "faces.csv"
    run(videos, out, blend=True)
    faces = FaceSet.read(out)
    blended = faces.table["method"] == "self-blended"
    assert blended.sum() == FRAMES
    assert (faces.table.loc[blended, "label"] == "FAKE").all()
    assert sorted(faces.table.loc[blended, "frame"]) == sorted(
        faces.table.loc[faces.table["label"] == "REAL", "frame"]
    )
    fake, real = (
        faces.image(rows[0])
        for rows in (np.flatnonzero(blended), np.flatnonzero(faces.table["label"] == "REAL"))
    )
    assert 0.2 < np.abs(fake.astype(int) - real).mean() < 40


def test_extract_cuts_a_fake_at_the_boxes_of_its_original(videos, tmp_path, monkeypatch):
    looked_at = []
    find = module.track_faces
    monkeypatch.setattr(module, "track_faces", lambda *rest: looked_at.append(rest) or find(*rest))
    out = tmp_path / "faces.csv"
    (videos / "broken.mp4").unlink()
    run(videos, out)
    assert len(looked_at) == 1
    faces = FaceSet.read(out).table.set_index("video")
    places = ["track", "frame", "time", "native_px"]
    real, fake = (faces.loc[name, places] for name in ("ajqslcypsw.mp4", "bvgwelbeof.mp4"))
    assert real.to_numpy().tolist() == fake.to_numpy().tolist()


def test_extract_finds_faces_in_a_fake_of_another_size(videos, tmp_path, write_clip):
    fake = videos / "bvgwelbeof.mp4"
    frames = [cv2.resize(frame.image, None, fx=0.5, fy=0.5) for frame in read_frames(fake, FRAMES)]
    shutil.copy(write_clip(frames), fake)
    out = tmp_path / "faces.csv"
    done = run(videos, out).set_index("video")
    assert done.loc["bvgwelbeof.mp4", "status"] == "ok"
    sides = FaceSet.read(out).table.groupby("video")["native_px"].mean()
    assert sides["bvgwelbeof.mp4"] == pytest.approx(sides["ajqslcypsw.mp4"] / 2, rel=0.15)


@pytest.mark.parametrize("content", [None, b"no video"])
def test_extract_finds_faces_in_a_fake_with_an_unusable_original(videos, tmp_path, content):
    original = videos / "ajqslcypsw.mp4"
    original.unlink() if content is None else original.write_bytes(content)
    done = run(videos, tmp_path / "faces.csv").set_index("video")
    assert done.loc["bvgwelbeof.mp4", ["status", "crops"]].tolist() == ["ok", FRAMES]


def test_extract_uses_all_gpus_and_one_decoder_thread_per_video(videos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.csv", tmp_path / "faces.csv"
    (videos / "metadata.json").write_text(
        json.dumps({path.name: {"label": "REAL"} for path in videos.glob("*.mp4")})
    )
    run(videos, whole)
    others = [torch.device("cpu", 0)] * 2  # for torch, they differ from "cpu"
    monkeypatch.setattr("dfdetect.runtime.executor.other_gpus", lambda device: others)
    made, threads = [], set()
    make, read = module.MTCNNDetector.high_recall, DecoderPool.read_frames

    def make_and_note(device):
        made.append(device)
        return make(device)

    def read_and_note(decoders, *arguments, **wanted):
        threads.add(decoders.threads)
        return read(decoders, *arguments, **wanted)

    monkeypatch.setattr(module.MTCNNDetector, "high_recall", make_and_note)
    monkeypatch.setattr(DecoderPool, "read_frames", read_and_note)
    run(videos, out)
    assert made == [torch.device("cpu"), *others]
    assert threads == {1}
    assert files_of(out) == files_of(whole)


def files_of(index):
    """Return the bytes of each file of a face set, by the file's name without the set's name."""
    found = index.parent.glob(f"{index.stem}[.-]*")
    return {path.name.removeprefix(index.stem): path.read_bytes() for path in found}


@pytest.mark.slow
def test_extract_continues_a_stopped_run(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)
    whole = tmp_path / "whole.csv"
    run(videos, whole, blend=True)
    out = tmp_path / "stopped.csv"
    add, added = module.FaceSetWriter.add, []

    def stop_at_the_third(writer, entry, crops):
        added.append(entry["video"])
        if len(added) == 3:
            raise KeyboardInterrupt
        add(writer, entry, crops)

    monkeypatch.setattr(module.FaceSetWriter, "add", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(videos, out, blend=True)
    # Leave the files as if the run was killed while it wrote the next video.
    for suffix, text in (
        (".csv", "broken-0-000001,FAKE,ajq"),
        (".videos.csv", "brok"),
        ("-00001.tar", "broken-0-000001.jpg"),
        ("-00002.tar", "broken-0-000001.jpg"),
    ):
        with out.with_name(f"stopped{suffix}").open("a") as file:
            file.write(text)
    run(videos, out, blend=True)
    assert added == ["ajqslcypsw.mp4", "bvgwelbeof.mp4", "broken.mp4", "broken.mp4"]
    assert files_of(out) == files_of(whole)
    for number in (0, 1):
        with tarfile.open(tmp_path / f"whole-{number:05}.tar") as shard:
            assert len(shard.getnames()) == (2 - number) * FRAMES


@pytest.mark.slow
def test_extract_reports_a_full_disk_and_continues_later(videos, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.csv", tmp_path / "full.csv"
    run(videos, whole)
    add, added = shards.ShardWriter.add, []

    def fill_the_disk(writer, name, data):
        added.append(name)
        if len(added) == FRAMES + 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add(writer, name, data)

    monkeypatch.setattr(shards.ShardWriter, "add", fill_the_disk)
    command = ["extract", str(videos), "--out", str(out), "--frames", str(FRAMES), "--size", "64"]
    assert main(command) == 2
    assert "full.csv" in (error := capsys.readouterr().err)
    assert "No space left on device; make room" in error
    assert main(command) == 0
    assert files_of(out) == files_of(whole)


@pytest.mark.slow
def test_extract_continues_a_run_killed_before_its_first_video(videos, tmp_path):
    whole, out = tmp_path / "whole.csv", tmp_path / "early.csv"
    run(videos, whole)
    header = whole.with_suffix(".videos.csv").read_text().splitlines(keepends=True)[0]
    out.with_suffix(".videos.csv").write_text(header)
    run(videos, out)
    assert files_of(out) == files_of(whole)


def test_extract_refuses_a_face_set_that_another_run_writes(videos, tmp_path):
    out = tmp_path / "faces.csv"
    run(videos, out)
    before = files_of(out)
    with out.with_suffix(".videos.csv").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is writing this face set"):
            run(videos, out)
    assert files_of(out) == before


def test_extract_logs_damaged_zip_members(videos, tmp_path):
    archive = tmp_path / "part.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(videos.iterdir()):
            file.write(path, f"part/{path.name}")
    data = bytearray(archive.read_bytes())
    member = data.find(b"part/bvgwelbeof.mp4")
    data[member + 2000 : member + 3000] = bytes(1000)
    archive.write_bytes(data)
    done = run(archive, tmp_path / "faces.csv").set_index("video")
    assert done["status"].tolist() == ["ok", "unreadable_file", "unreadable_video"]
    encrypted = bytearray(data)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = encrypted.find(signature)
        while place >= 0:
            encrypted[place + flags] |= 1
            place = encrypted.find(signature, place + 4)
    archive.write_bytes(encrypted)
    with pytest.raises(ValueError, match=r"part\.zip: not a zip file, damaged or encrypted"):
        run(archive, tmp_path / "other.csv")


@pytest.mark.parametrize("number", ["00000", "00001"])
def test_extract_refuses_an_existing_shard(videos, tmp_path, number):
    other = tmp_path / f"faces-{number}.tar"
    other.write_bytes(b"somebody's")
    with pytest.raises(ValueError, match=rf"faces-{number}\.tar: exists"):
        run(videos, tmp_path / "faces.csv")
    assert other.read_bytes() == b"somebody's"


@pytest.mark.parametrize("suffix", [".csv", "-00000.tar"])
def test_extract_refuses_a_face_set_that_was_changed(videos, tmp_path, suffix):
    out = tmp_path / "faces.csv"
    run(videos, out)
    changed = out.with_name(f"faces{suffix}")
    changed.write_bytes(changed.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"faces\S+: is missing or shorter than before"):
        run(videos, out)


@pytest.mark.slow
def test_extract_killed_at_any_time_ends_with_the_same_files(tmp_path, sample_data):
    source = tmp_path / "train_sample_videos"
    shutil.copytree(sample_data / "train_sample_videos", source)
    for number in range(6):  # more videos, so that the run can be killed several times
        shutil.copy(source / "ajqslcypsw.mp4", source / f"copy{number}.mp4")
    metadata = {path.name: {"label": "REAL"} for path in source.glob("*.mp4")}
    (source / "metadata.json").write_text(json.dumps(metadata))
    whole, out = tmp_path / "whole.csv", tmp_path / "killed.csv"
    extract([source], out=whole, frames=2, size=64, progress=False)
    command = ["extract", str(source), "--out", str(out), "--frames", "2", "--size", "64"]
    log, moments = out.with_suffix(".videos.csv"), random.Random(0)
    for kill in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "dfdetect", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not (log.exists() and _lines(log) > kill):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.wait()
    assert _lines(log) < _lines(whole.with_suffix(".videos.csv"))
    assert main(command) == 0
    assert files_of(out) == files_of(whole)


def _lines(path):
    return path.read_bytes().count(b"\n")


def test_extract_refuses_other_settings(videos, tmp_path):
    out = tmp_path / "faces.csv"
    run(videos, out)
    with pytest.raises(ValueError, match="made with other settings"):
        run(videos, out, blend=True)
    message = r"faces\.csv: made with other settings, crop scale 0\.8, not 1\.2: use these"
    with pytest.raises(ValueError, match=message):
        run(videos, out, crop_scale=1.2)


def test_extract_refuses_an_existing_index(videos, tmp_path):
    out = tmp_path / "faces.csv"
    out.write_text("id,label\n")
    with pytest.raises(ValueError, match=r"faces\.csv: exists"):
        run(videos, out)
    assert out.read_text() == "id,label\n"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.slow
def test_extract_gives_the_same_files_from_zip_files_and_folders(videos, tmp_path, method):
    archive = tmp_path / "dfdc_train_part_00.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in videos.iterdir():
            file.write(path, f"part/{path.name}")
    run(archive, tmp_path / "zipped.csv")
    run(videos, tmp_path / "plain.csv")
    zipped, plain = files_of(tmp_path / "zipped.csv"), files_of(tmp_path / "plain.csv")
    assert zipped.keys() == {".csv", ".videos.csv", "-00000.tar"}
    assert zipped == plain


def test_extract_renames_videos_with_equal_names_in_two_sources(videos, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(videos, other)
    out = tmp_path / "faces.csv"
    done = extract([videos, other], out=out, frames=2, size=64, progress=False)
    assert "other/ajqslcypsw.mp4" in done["video"].tolist()
    assert FaceSet.read(out).table["id"].is_unique


def test_main_extract_prints_counts_and_reasons(videos, tmp_path, capsys):
    out = tmp_path / "faces.csv"
    assert main(["extract", str(videos), "--out", str(out), "--frames", "2"]) == 0
    captured = capsys.readouterr()
    assert "4 crops of 3 videos" in captured.out
    assert "broken.mp4: not a readable video" in captured.err
    assert "video/s" in captured.err or "s/video" in captured.err
    assert len(pd.read_csv(out)) == 4
    assert main(["extract", str(videos), "--out", "faces.txt"]) == 2


def test_extract_refuses_another_video_of_the_same_name(videos, tmp_path):
    out = tmp_path / "faces.csv"
    run(videos, out)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(videos / "ajqslcypsw.mp4", other)
    (other / "metadata.json").write_text(json.dumps({"ajqslcypsw.mp4": {"label": "FAKE"}}))
    with pytest.raises(ValueError, match=r"has another video ajqslcypsw\.mp4, which is REAL from"):
        run(other, out)


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"size": -5}, {"crop_scale": 0.0}, {"crop_shift": float("nan")}]
)
def test_extract_refuses_unusable_settings(videos, tmp_path, options):
    with pytest.raises(ValueError, match=r"must be"):
        extract([videos], out=tmp_path / "x.csv", progress=False, **options)


def test_extract_refuses_videos_whose_crops_would_get_the_same_ids(tmp_path):
    for name in ("real/a.mp4", "fake/a.avi"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).touch()
    with pytest.raises(ValueError, match=r"a\.avi and a\.mp4: their crops would get the same ids"):
        run(tmp_path / "set", tmp_path / "faces.csv")
    assert not (tmp_path / "faces.csv").exists()


def test_extract_treats_photographs_as_videos_of_one_frame(tmp_path, real_clip):
    folder = tmp_path / "photos"
    folder.mkdir()
    frame = next(read_frames(real_clip, 1)).image
    cv2.imwrite(str(folder / "ann.1.jpg"), frame[..., ::-1])
    cv2.imwrite(str(folder / "wall.jpg"), np.full((200, 200, 3), 128, np.uint8))
    index = tmp_path / "photos.csv"
    index.write_text("id,label,source,method\nann.1,FAKE,studio,swap\nwall,REAL,studio,\n")
    out = tmp_path / "crops.csv"
    done = run(index, out).set_index("video")
    assert done["status"].to_dict() == {"ann.1": "ok", "wall": "no_face"}
    faces = FaceSet.read(out)
    assert faces.table["id"].tolist() == ["ann.1-0-000000"]
    assert faces.sources.tolist() == ["studio"]
    assert faces.texts("method").tolist() == ["swap"]
    assert faces.image(0).shape == (64, 64, 3)
