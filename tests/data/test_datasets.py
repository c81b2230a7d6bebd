import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfdetect.cli import main
from dfdetect.data.datasets import registry
from dfdetect.data.datasets.dataset import Dataset, sample_frames
from dfdetect.data.datasets.registry import read_dataset
from dfdetect.data.video_groups import group_videos, read_videos
from dfdetect.errors import ArgumentError, InputError
from dfdetect.evaluation.evaluate import evaluate


def make(root, *names, text=""):
    """Write small files: images for names that end in `.png`, text files for other names."""
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            image = np.full((16, 16, 3), 10 * len(name) % 255, np.uint8)
            cv2.imwrite(str(path), image)
        else:
            path.write_text(text if isinstance(text, str) else json.dumps(text))


def labels(dataset):
    return Counter(video.label for video in dataset.videos)


def by_name(dataset):
    return {Path(video.name).name: video for video in dataset.videos}


@pytest.fixture
def faceforensics(tmp_path):
    root = tmp_path / "FaceForensics++"
    for compression in ("c23", "c40"):
        make(
            root,
            *(
                f"original_sequences/youtube/{compression}/videos/{n}.mp4"
                for n in ("000", "003", "953", "974")
            ),
        )
        for method in ("Deepfakes", "Face2Face", "FaceSwap"):
            make(
                root,
                *(
                    f"manipulated_sequences/{method}/{compression}/videos/{n}.mp4"
                    for n in ("000_003", "003_000", "953_974")
                ),
            )
    make(root, "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4")
    make(root, "splits/train.json", text=[["000", "003"]])
    make(root, "splits/test.json", text=[["953", "974"]])
    return root


def test_read_faceforensics_by_compression_method_and_split(faceforensics):
    dataset = read_dataset(faceforensics)
    assert dataset.name == "FaceForensics++"
    assert labels(dataset) == {"REAL": 8, "FAKE": 18}
    assert {video.source for video in dataset.videos} == {
        "FaceForensics++ c23",
        "FaceForensics++ c40",
    }
    assert dataset.missing == ("NeuralTextures",)
    test = read_dataset(faceforensics, "test")
    assert labels(test) == {"REAL": 4, "FAKE": 6}
    assert {video.group for video in test.videos} == {"FaceForensics++ 953"}
    assert Counter(video.method for video in test.videos)["FaceSwap"] == 2
    fake = by_name(test)["953_974.mp4"]
    assert fake.original[1].is_file()
    assert fake.original[1].name == "953.mp4"


def test_read_faceforensics_without_split_files(faceforensics):
    for file in faceforensics.glob("splits/*.json"):
        file.unlink()
    assert "split files" in read_dataset(faceforensics).describe()
    with pytest.raises(InputError, match=r"nothing here belongs to the split 'test'.*test\.json"):
        read_dataset(faceforensics, "test")
    make(faceforensics, "test.json", text={"953": "974"})
    with pytest.raises(InputError, match="not a list of pairs"):
        read_dataset(faceforensics)


def test_read_faceforensics_of_deepfakedetection(tmp_path):
    make(
        tmp_path,
        "original_sequences/actors/c23/videos/01__exit_phone_room.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
    )
    dataset = read_dataset(tmp_path, "test")
    assert dataset.name == "DeepFakeDetection"
    assert labels(dataset) == {"REAL": 1, "FAKE": 1}
    real, fake = dataset.videos
    assert real.group == fake.group == "DeepFakeDetection 01"
    assert fake.original == (None, real.path)
    assert "no official split" in dataset.describe()


@pytest.mark.parametrize("between", ["", "videos/"])
def test_read_celebdf(tmp_path, between):
    root = tmp_path / "Celeb-DF-v2"
    make(
        root,
        *(f"Celeb-real/{between}id0_000{n}.mp4" for n in range(3)),
        *(f"Celeb-synthesis/{between}id0_id{n}_0001.mp4" for n in (1, 2)),
        f"Youtube-real/{between}00000.mp4",
    )
    listed = (
        "1 Celeb-real/id0_0001.mp4\n1 YouTube-real/00000.mp4\n0 Celeb-synthesis/id0_id2_0001.mp4"
    )
    make(root, "List_of_testing_videos.txt", text=listed + "\n1 Celeb-real/id9_0000.mp4\n")
    dataset = read_dataset(root)
    assert (dataset.name, labels(dataset)) == ("Celeb-DF-v2", {"REAL": 4, "FAKE": 2})
    assert dataset.missing == ("1 of 4 test videos",)
    test = by_name(read_dataset(root, "test"))
    assert set(test) == {"id0_0001.mp4", "id0_id2_0001.mp4", "00000.mp4"}
    assert test["id0_id2_0001.mp4"].group == test["id0_0001.mp4"].group == "Celeb-DF id0"
    assert test["id0_id2_0001.mp4"].original == (None, test["id0_0001.mp4"].path)
    assert labels(read_dataset(root, "train")) == {"REAL": 2, "FAKE": 1}


def test_read_challenge(tmp_path):
    part = "train/dfdc_train_part_0"
    make(tmp_path, f"{part}/a.mp4", f"{part}/b.mp4", "test/c.mp4", "test/d.mp4")
    entries = {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE", "original": "a.mp4"}}
    make(tmp_path, f"{part}/metadata.json", text=entries)
    make(tmp_path, "test/labels.csv", text="filename,label\nc.mp4,0\nd.mp4,1\ne.mp4,1\n")
    dataset = read_dataset(tmp_path)
    assert dataset.describe() == (
        "DFDC: 2 REAL and 2 FAKE videos; missing: 49 of 50 training parts, 1 videos of labels.csv"
    )
    assert set(by_name(read_dataset(tmp_path, "test"))) == {"c.mp4", "d.mp4"}
    train = by_name(read_dataset(tmp_path, "train"))
    assert train["b.mp4"].group == train["a.mp4"].group == "a"
    assert labels(read_dataset(tmp_path / "test", "test")) == {"REAL": 1, "FAKE": 1}


@pytest.mark.parametrize("label", ["fake", None])
def test_read_challenge_refuses_unknown_labels(tmp_path, label):
    make(tmp_path, "dfdc_train_part_0/a.mp4")
    make(tmp_path, "dfdc_train_part_0/metadata.json", text={"a.mp4": {"label": label}})
    with pytest.raises(InputError, match=rf"metadata\.json: a\.mp4: label {label!r}; use REAL"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(("label", "message"), [("unsure", "label 'UNSURE'"), (0, "not the index")])
def test_read_preview_refuses_unknown_labels(tmp_path, label, message):
    make(tmp_path, "original_videos/1/1_A.mp4")
    entries = {"original_videos/1/1_A.mp4": {"label": label, "set": "test"}}
    make(tmp_path, "dataset.json", text=entries)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path)


def test_read_dataset_uses_a_layout_that_was_registered_later(tmp_path, monkeypatch):
    make(tmp_path, "real/a.mp4")
    videos = read_dataset(tmp_path).videos
    monkeypatch.setattr(registry, "READERS", [lambda folder: Dataset(name="Mine", videos=videos)])
    assert read_dataset(tmp_path).name == "Mine"


def test_read_preview(tmp_path):
    names = {
        "original_videos/643049/643049_A_001.mp4": ("real", "test"),
        "method_A/643049/643049_A/643049_A_002.mp4": ("fake", "test"),
        "method_B/643049/643049_C/643049_C_002.mp4": ("fake", "train"),
        "method_B/1/1_C/absent.mp4": ("fake", "test"),
    }
    make(tmp_path, *list(names)[:3])
    index = {name: {"label": label, "set": split} for name, (label, split) in names.items()}
    make(tmp_path, "dataset.json", text=index)
    dataset = read_dataset(tmp_path, "test")
    assert labels(dataset) == {"REAL": 1, "FAKE": 1}
    assert {video.group for video in dataset.videos} == {"DFDC preview 643049"}
    assert {video.method for video in dataset.videos} == {"", "method_A"}
    assert dataset.missing == ("1 of 4 videos of dataset.json",)


def test_read_deeperforensics(tmp_path):
    make(
        tmp_path,
        "manipulated_videos/end_to_end/000_M101.mp4",
        "manipulated_videos/end_to_end_level_1/000_M101.mp4",
        "manipulated_videos/end_to_end/001_W004.mp4",
        "source_videos/M101/light_up/M101_light_up.mp4",
    )
    make(tmp_path, "lists/splits/test.txt", text="000_M101.mp4\n")
    assert "missing: the REAL videos" in read_dataset(tmp_path).describe()
    make(tmp_path, *(f"original_sequences/youtube/c23/videos/00{n}.mp4" for n in (0, 1)))
    dataset = read_dataset(tmp_path, "test")
    assert dataset.name == "DeeperForensics-1.0"
    assert labels(dataset) == {"REAL": 1, "FAKE": 2}
    assert {video.group for video in dataset.videos} == {"FaceForensics++ 000"}
    assert Counter(video.method for video in dataset.videos)["end_to_end_level_1"] == 1


def test_read_wilddeepfake(tmp_path):
    make(tmp_path, *(f"fake_test/12/fake/345/{n}.png" for n in (0, 2, 10)))
    make(tmp_path, *(f"fake_test/12/fake/346/{n}.png" for n in (0, 1)))
    make(tmp_path, "real_test/7/real/89/0.png", "real_train/8/real/1/0.png")
    dataset = read_dataset(tmp_path, "test")
    assert dataset.missing == ("fake_train",)
    faces = dataset.faces
    assert [len(video[0]) for video in faces.videos()] == [1, 3, 2]
    first = [place.path.name for place in faces.locations if "345" in str(place.path)]
    assert first == ["0.png", "2.png", "10.png"]
    assert set(faces.groups) == {"fake_test/12", "real_test/7"}
    assert "1 REAL and 2 FAKE sequences of face crops" in dataset.describe()


def test_read_wilddeepfake_refuses_packed_archives(tmp_path):
    make(tmp_path, "fake_test/12.tar.gz")
    with pytest.raises(InputError, match=r"unpack the \.tar\.gz files"):
        read_dataset(tmp_path)


def test_read_fakeavceleb(tmp_path):
    people = "African/men/id00076"
    make(
        tmp_path,
        f"RealVideo-RealAudio/{people}/00109.mp4",
        f"RealVideo-FakeAudio/{people}/00109_fake.mp4",
        f"FakeVideo-RealAudio/{people}/00109_1_id1.mp4",
        f"FakeVideo-FakeAudio/{people}/00109_1_id1_wavtolip.mp4",
    )
    header = "source,target1,target2,method,category,type,race,gender,path,\n"
    row = "id00076,-,-,{},C,x,African,men,{},FakeAVCeleb/{}/African/men/id00076\n"
    rows = row.format("faceswap", "00109_1_id1.mp4", "FakeVideo-RealAudio")
    rows += row.format("wav2lip", "00109_1_id1_wavtolip.mp4", "FakeVideo-FakeAudio")
    make(tmp_path, "meta_data.csv", text=header + rows)
    dataset = read_dataset(tmp_path, "test")
    assert labels(dataset) == {"REAL": 2, "FAKE": 2}
    assert {video.group for video in dataset.videos} == {"FakeAVCeleb id00076"}
    assert sorted(video.method for video in dataset.videos) == ["", "", "faceswap", "wav2lip"]
    assert dataset.missing == ()


def write_benchmark(root, name="Celeb-DF-v2"):
    """Write images, and in another folder a JSON file of DeepfakeBench that lists the images.

    The paths of the fakes are written as on Windows.
    """
    real = [f"Celeb-DF-v2/Celeb-real/frames/id0_0000/{n:03}.png" for n in range(3)]
    fake = [f"Celeb-DF-v2/Celeb-synthesis/frames/id0_id1_0000/{n:03}.png" for n in range(2)]
    make(root / "datasets" / "rgb", *real, *fake)
    entries = {
        "CelebDFv2_real": {
            "train": {},
            "test": {"id0_0000": {"label": "CelebDFv2_real", "frames": real}},
        },
        "CelebDFv2_fake": {
            "test": {
                "c23": {
                    "id0_id1_0000": {
                        "label": "CelebDFv2_fake",
                        "frames": [frame.replace("/", "\\") for frame in fake],
                    },
                    "absent": {"label": "CelebDFv2_fake", "frames": ["Celeb-DF-v2/x/000.png"]},
                }
            }
        },
    }
    file = root / "preprocessing" / "dataset_json" / f"{name}.json"
    make(root, file.relative_to(root), text={name: entries})
    return file


def test_read_deepfakebench(tmp_path):
    dataset = read_dataset(write_benchmark(tmp_path), "test")
    assert dataset.name == "Celeb-DF-v2"
    faces = dataset.faces
    assert Counter(faces.table["label"]) == {"REAL": 3, "FAKE": 2}
    assert set(faces.groups) == {"Celeb-DF-v2 id0"}
    assert set(faces.texts("method")) == {"", "CelebDFv2_fake"}
    assert dataset.missing == ("1 of 3 listed videos",)
    assert faces.image(0).shape == (16, 16, 3)


def test_read_deepfakebench_of_files_as_their_authors_write_them(tmp_path):
    frames = [f"d/{name}.png" for name in ("10", "9", "100")]
    make(tmp_path, *frames)
    video = {"label": "whichisreal_Fake", "frames": frames}
    by_split = {"train": {"v": video}, "test": {"v": video}, "val": video}  # as in DFDC.json
    make(tmp_path, "a.json", text={"A": {"whichisreal_Fake": by_split}})
    faces = read_dataset(tmp_path / "a.json").faces
    assert faces.table["label"].tolist() == ["FAKE"] * 3
    assert [place.path.stem for place in faces.locations] == ["9", "10", "100"]
    assert set(read_dataset(tmp_path / "a.json", "test").faces.texts("split")) == {"test"}


def test_read_df40_takes_still_images_for_videos(tmp_path):
    make(tmp_path, "DF40/e4e/ff/inversions/000.png", "DF40/e4e/ff/inversions/001.png")
    make(tmp_path, "DF40/e4e/ff/inversions/._000.png")  # made by macOS
    faces = read_dataset(tmp_path / "DF40").faces
    assert [len(track) for track in faces.tracks()] == [1, 1]
    assert len(set(faces.groups)) == 2


@pytest.mark.parametrize("content", ["[]", "{", {"A": {"B": {"holdout": {}}}}, {"A": {"B": 1}}])
def test_read_deepfakebench_refuses_other_json_files(tmp_path, content):
    make(tmp_path, "a.json", text=content)
    with pytest.raises(InputError, match=r"a\.json: not a JSON file of DeepfakeBench"):
        read_dataset(tmp_path / "a.json")


def test_read_df40(tmp_path):
    root = tmp_path / "DF40"
    make(root, "simswap/ff/000_003/000.png", "simswap/ff/000_003/010.png")
    make(root, "simswap/cdf/id0_id1_0000/000.png", "heygen/heygen_new/fake/frames/a/000.png")
    make(root, "heygen/heygen_new/real/b/000.png")
    make(tmp_path, "FaceForensics++/original_sequences/youtube/c23/frames/000/000.png")
    dataset = read_dataset(root, "test")
    assert dataset.name == "DF40"
    assert [one.split(":")[0] for one in dataset.missing] == ["the REAL crops of cdf"]
    videos = dataset.faces.table.drop_duplicates("video")
    assert Counter(videos["label"]) == {"FAKE": 3, "REAL": 2}
    assert Counter(videos["source"]) == {"DF40 ff": 2, "DF40 cdf": 1, "DF40 heygen": 2}
    assert Counter(videos["method"]) == {"simswap": 2, "heygen": 1, "": 2}


@pytest.mark.parametrize("links", ["", "-with-links"])
def test_read_deepfake_eval_2024(tmp_path, links):
    make(tmp_path, *(f"video-data/{n}.mp4" for n in "abcd"))
    header = "Filename,Date,Video Ground Truth,Audio Ground Truth,Public Comments,Finetuning Set\n"
    truths = {"a": "Real,,,test", "b": "Fake,,,Test", "c": "fake,,,train", "d": "Unknown,,,test"}
    rows = [f"{name}.mp4,2024,{rest}\n" for name, rest in (truths | {"e": "Fake,,,test"}).items()]
    make(tmp_path, f"video-metadata-publish{links}.csv", text=header + "".join(rows))
    dataset = read_dataset(tmp_path)
    assert labels(dataset) == {"REAL": 1, "FAKE": 2}
    assert "1 videos of unknown truth are left out" in dataset.describe()
    assert set(by_name(read_dataset(tmp_path, "test"))) == {"a.mp4", "b.mp4"}


def test_read_dataset_names_the_folder_of_a_damaged_list(tmp_path):
    make(tmp_path, "Celeb-synthesis/id0_id1_0000.mp4")
    (tmp_path / "List_of_testing_videos.txt").write_bytes(b"1 \xff\xfe")
    with pytest.raises(InputError, match="a list of its videos is not text"):
        read_dataset(tmp_path)


def test_read_dataset_prefers_a_manifest(faceforensics):
    path = "original_sequences/youtube/c23/videos/000.mp4"
    for other in faceforensics.rglob("*.mp4"):
        if not str(other).endswith(path):
            other.unlink()
    make(faceforensics, "manifest.csv", text=f"path,label\n{path},FAKE\n")
    (video,) = read_dataset(faceforensics).videos
    assert video.label == "FAKE"


def test_read_dataset_of_a_users_own_layout(sample_data):
    folder = sample_data / "train_sample_videos"
    assert labels(read_dataset(folder))["REAL"] > 0
    with pytest.raises(InputError, match="nothing here belongs to the split 'test'"):
        read_dataset(folder, "test")
    with pytest.raises(ArgumentError, match="split must be one of train, val, test"):
        read_dataset(folder, "all")


def test_read_dataset_refuses_a_layout_without_videos(tmp_path):
    (tmp_path / "manipulated_sequences").mkdir()
    with pytest.raises(InputError, match=r"layout of FaceForensics\+\+, but holds no videos"):
        read_dataset(tmp_path)


def test_evaluate_of_sequences_of_crops(tmp_path):
    result = evaluate(write_benchmark(tmp_path), split="test", weights="logistic_regression")
    assert (result.metrics.n, result.frame_level.n) == (2, 5)
    assert list(result.methods) == ["CelebDFv2_fake"]


def test_evaluate_samples_frames_of_sequences_evenly(tmp_path):
    make(
        tmp_path,
        *(f"{part}/1/x/1/{n}.png" for part in ("real_test", "fake_test") for n in range(9)),
    )
    faces = sample_frames(read_dataset(tmp_path).faces, 3)
    assert faces.table.groupby("video")["frame"].apply(list).tolist() == [[1, 4, 7]] * 2
    result = evaluate(tmp_path, frames=3, weights="logistic_regression")
    assert (result.metrics.n, result.frame_level.n) == (2, 6)


def test_main_evaluate_says_which_data_set_was_recognised(tmp_path, capsys):
    file = write_benchmark(tmp_path)
    options = ["--split", "test", "--weights", "logistic_regression", "--device", "cpu"]
    assert main(["evaluate", str(file), *options]) == 0
    line = "recognised Celeb-DF-v2: 1 REAL and 1 FAKE sequences of face crops; missing: "
    assert line in capsys.readouterr().err


def test_read_videos_of_one_split(faceforensics):
    videos = read_videos([faceforensics], "train")
    assert Counter(video.label for video in videos) == {"REAL": 4, "FAKE": 12}
    # A fake is extracted at the boxes of its original.
    groups = group_videos(videos, {video.name for video in videos})
    assert sorted(len(group.fakes) for group in groups) == [3, 3, 3, 3]


def test_extract_refuses_crops_that_are_already_cut(tmp_path, capsys):
    make(tmp_path, "real_test/7/real/89/0.png")
    assert main(["extract", str(tmp_path), "--out", str(tmp_path / "out.csv")]) == 2
    assert "comes as face crops that are already cut" in capsys.readouterr().err
