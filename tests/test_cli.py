import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from dfdetect.cli import _parser, main
from dfdetect.errors import DfdetectError
from dfdetect.kaggle.submission import check_submission
from dfdetect.video.reader import read_frames


@pytest.mark.slow
def test_predict_from_any_folder(sample_data, tmp_path):
    command = [sys.executable, "-m", "dfdetect", "predict", str(sample_data / "test_videos")]
    options = ["--frames", "4", "--out", "submission.csv", "--details", "d.csv"]
    options += ["--engine", "torch"]
    run = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    names = sorted(path.name for path in (sample_data / "test_videos").iterdir())
    assert len(check_submission(tmp_path / "submission.csv", names)) == 6
    assert (tmp_path / "d.csv").is_file()
    lines = run.stdout.splitlines()
    assert [line.split()[-1] for line in lines[:6]] == names
    assert "6 videos, 6 scored" in run.stdout
    assert lines[-1] == "wrote submission.csv, d.csv"
    # Nothing but the progress bar.
    assert {line.partition(":")[0] for line in run.stderr.split("\n") if line.strip()} == {"videos"}
    assert "6/6" in run.stderr
    assert "video/s" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere"], "nowhere: no such file or folder"),
        (["predict", ".", "--prior", "2"], "prior must be strictly between 0 and 1"),
        (["predict", "a.mp4", "--weights", "none"], "no weights 'none'"),
        (["predict", "a.mp4", "--weights", "a.mp4"], "not a checkpoint"),
        (["predict", "a.mp4", "--frames", "0"], "frames must be at least 1"),
        (["predict", "a.mp4", "--device", "abacus"], "unknown device"),
        (["predict", "a.mp4", "--sample-submission", "n.csv"], "gives the rows of `out`"),
        (
            ["predict", "a.mp4", "--sample-submission", "n.csv", "--out", "s.csv"],
            "n.csv: no such sample submission",
        ),
        (["predict", "a.mp4", "--out", "s.txt"], "s.txt: must end in .csv or .json"),
        (["evaluate", "none.csv"], "none.csv: no such face set or folder"),
        (["train", "resnet18", "--faces", "none.csv", "--out", "x.safetensors"], "none.csv"),
        (["train", "resnet18", "--faces", "none.csv", "--out", "x.pt"], "must end in .safetensors"),
    ],
)
def test_main_names_unusable_input_and_returns_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"junk")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "submission.csv").exists()


def test_main_names_a_wrong_option_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "a.mp4", "--outt", "x"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: dfdetect predict ")
    assert error.endswith("dfdetect predict: error: unrecognized arguments: --outt x\n")


@pytest.mark.parametrize(("text", "weight"), [("faces.csv=x", "x"), ("faces.csv=1:", "1:")])
def test_train_names_a_weight_that_is_no_number(text, weight, capsys):
    with pytest.raises(SystemExit):
        main(["train", "resnet18", "--out", "a.safetensors", "--faces", text])
    assert f"faces.csv: its weight '{weight}' is no number" in capsys.readouterr().err


def test_train_takes_a_file_with_an_equals_sign_in_its_name(capsys):
    for name in ("a=b.csv", "folder=1/faces"):
        assert main(["train", "resnet18", "--out", "a.safetensors", "--faces", name]) == 2
        assert f"{name}: no such face set" in capsys.readouterr().err


def test_predict_of_a_folder_counts_the_images_that_it_ignores(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "cover.jpg").touch()
    assert main(["predict", str(tmp_path), "--engine", "torch"]) == 0
    assert "not scored: 1 image in folders; name an image to score it" in capsys.readouterr().err
    assert main(["predict", str(tmp_path), "--engine", "torch", "-q"]) == 0
    assert "image" not in capsys.readouterr().err


def test_predict_into_one_log_has_no_progress_bar(sample_data, tmp_path):
    clip = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    command = [sys.executable, "-m", "dfdetect", "predict", str(clip), "--frames", "1"]
    command += ["--engine", "torch"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert re.match(r"(real|uncertain|fake) +0\.\d{3}  1 person", run.stdout)
    assert "video/s" not in run.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_predict_on_a_terminal_says_at_once_that_the_detector_is_loaded(sample_data):
    clip = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    command = [sys.executable, "-m", "dfdetect", "predict", str(clip), "--frames", "1"]
    terminal, end = os.openpty()
    subprocess.run(["stty", "rows", "24", "columns", "80"], stdin=end, check=True)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    with os.fdopen(terminal, "rb") as shown:
        assert shown.read(21) == b"\rloading the detector"  # without waiting for the end of it
        run.kill()
        run.wait()


@pytest.fixture
def scored(sample_data, tmp_path, monkeypatch, capsys):
    """Return a function that scores a video and returns (stdout, stderr), in an empty folder."""
    clip = str(sample_data / "test_videos" / "ehtdtkmmli.mp4")
    monkeypatch.chdir(tmp_path)

    def score(*options):
        assert main(["predict", clip, "--frames", "2", *options]) == 0
        return capsys.readouterr()

    return score


def test_predict_of_one_video_prints_the_score_and_writes_nothing(scored, tmp_path):
    first, *rest = scored().out.splitlines()
    verdict, probability, one, person, name = first.split()
    assert verdict in ("real", "uncertain", "fake")
    assert 0 < float(probability) < 1
    assert (one, person, name) == ("1", "person", "ehtdtkmmli.mp4")
    text = "\n".join(rest)
    assert f"person 1: P(FAKE) {probability}, seen from 0:0" in text
    assert "most suspicious moments: 0:0" in text
    assert "which 1 % of them exceed" in text
    assert list(tmp_path.iterdir()) == []


def test_predict_json_prints_only_objects_of_the_schema(scored):
    printed = scored("--json", "--out", "r.jsonl").out
    result = json.loads(printed)
    schema = Path(__file__).parent.parent / "docs" / "result.schema.json"
    jsonschema.validate(result, json.loads(schema.read_text(encoding="utf-8")))
    assert len(result["tracks"][0]["boxes"]) == 2
    assert printed == Path("r.jsonl").read_text()


def test_predict_of_an_image_warns_of_a_single_frame(real_clip, tmp_path, capsys):
    image = tmp_path / "face.jpg"
    (frame,) = read_frames(real_clip, 1)
    Image.fromarray(frame.image).save(image)
    assert main(["predict", str(image)]) == 0
    line, warning, *rest = capsys.readouterr().out.splitlines()
    assert line.endswith("1 person   face.jpg")
    assert warning.strip().startswith("warning: Only one frame was scored")
    assert not any("seen" in text or "moments" in text for text in rest)
    assert rest[-1].startswith("To see who was judged")


def test_predict_gives_a_missing_path_beside_others_a_row(real_clip, capsys):
    arguments = ["predict", "gone.mp4", str(real_clip), "--frames", "2", "--quiet"]
    arguments += ["--weights", "logistic_regression"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("gone.mp4: no such file")] != []
    assert len(lines) == 2
    assert main([*arguments, "--strict"]) == 1


def test_predict_quiet_prints_one_line(scored):
    assert len(scored("--quiet").out.splitlines()) == 1
    assert scored("-q").err == ""


def test_predict_with_force_color_prints_colours(scored, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert scored("-q").out.startswith("\x1b[")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["predict"], ["predict", "x", "--colour", "1"]])
def test_main_exits_with_2_for_unusable_arguments(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "arguments", [["--verbose", "predict", "nowhere"], ["predict", "nowhere", "--verbose"]]
)
def test_main_verbose_shows_the_traceback_of_an_expected_error(arguments, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("dfdetect: nowhere: no such file or folder")


def test_main_raises_unexpected_errors(tmp_path, monkeypatch):
    """A ValueError that dfdetect did not raise on purpose is a defect of the program."""
    (tmp_path / "a.mp4").write_bytes(b"junk")

    def faulty(*_, **__):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("dfdetect.prediction.predict", faulty)
    with pytest.raises(ValueError, match="broadcast"):
        main(["predict", str(tmp_path / "a.mp4")])


def test_models_lists_weights_and_architectures(capsys):
    assert main(["models", "tf_efficientnet_lite*"]) == 0
    printed = capsys.readouterr().out
    weights, architectures = printed.split("architectures")
    name = "tf_efficientnet_lite2_texture"
    assert f"{name}, the default  ({name}, 160 px" in weights
    assert "xception" not in weights
    assert "tf_efficientnet_lite2 *\n" in architectures
    assert "tf_efficientnet_lite4\n" in architectures
    assert "resnet" not in architectures


def test_models_without_a_pattern_fits_on_a_screen(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "  xception  (xception" in printed
    assert "  simple_cnn_1 *\n" in printed
    assert "more; to list them: dfdetect models 'resnet*'" in printed
    assert re.search(r", the default  \(.*AUC 0\.\d{3} on its held-out actors", printed)
    assert "Use the default; the others are for comparisons" in printed
    assert len(printed.splitlines()) < 50


@pytest.mark.slow
def test_evaluate_prints_json_and_writes_plots(sample_data, tmp_path, capsys):
    plots = tmp_path / "plots"
    command = ["evaluate", str(sample_data / "train_sample_videos"), "--frames", "2"]
    command += ["--weights", "logistic_regression"]
    assert main([*command, "--json", "--plots", str(plots)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n"] == 4
    assert scores["fake_fraction"] == 0.5
    assert scores["constant_log_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert {"log_loss", "auc", "accuracy", "balanced_accuracy", "intervals"} <= scores.keys()
    for name in ("roc.png", "reliability.png", "histogram.png"):
        assert (plots / name).read_bytes().startswith(b"\x89PNG")
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "4 videos or single crops, 50.0% FAKE" in printed
    assert "constant answer" in printed


def test_train_help_shows_a_default_as_it_is_typed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert "(default: 0.1)" in " ".join(capsys.readouterr().out.split())


def every_command():
    (commands,) = (one.choices for one in _parser()._actions if isinstance(one.choices, dict))
    return commands


@pytest.mark.parametrize("command", every_command())
def test_each_argument_has_a_help_text(command):
    for action in every_command()[command]._actions:
        assert action.help, action.dest
        if action.dest == "weights" and action.option_strings:
            assert "default: the weights that `dfdetect models` marks" in action.help


@pytest.mark.parametrize("command", ["train", "calibrate", "fit-texture"])
def test_help_says_that_no_checkpoint_is_replaced(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "an existing file is an error" in " ".join(capsys.readouterr().out.split())


def test_reconstruct_help_shows_the_number_of_steps(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["reconstruct", "--help"])
    assert "steps of each autoencoder (default: 600)" in " ".join(capsys.readouterr().out.split())


def test_fit_texture_holds_out_by_the_given_seed(monkeypatch):
    given = {}

    def fit(*_, **options):
        given.update(options)
        raise DfdetectError("enough")

    monkeypatch.setattr("dfdetect.training.texture.fit_texture", fit)
    options = ["--faces", "a.csv", "--out", "b.safetensors"]
    assert main(["fit-texture", "a.safetensors", *options, "--seed", "3"]) == 2
    assert given["seed"] == 3


@pytest.mark.parametrize("seed", ["-1", "1.5", str(2**32)])
def test_a_seed_is_a_whole_number(seed, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["reconstruct", "a.csv", "--out", "b.csv", f"--seed={seed}"])
    assert f"a seed is a whole number from 0 to 4294967295, not '{seed}'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*trained on a face set of this name")
@pytest.mark.slow
def test_train_then_evaluate(face_set, tmp_path, capsys):
    out = tmp_path / "tiny.safetensors"
    options = ["--input-size", "32", "--epochs", "1", "--batch-size", "8", "--val", "0.25"]
    assert main(["train", "test_efficientnet", "--faces", str(face_set), "--out", str(out),
                 *options]) == 0  # fmt: skip
    assert main(["evaluate", str(face_set), "--weights", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] == 48


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ([], None),
        (["../evil.jpg"], "leads out of the folder"),
        (["{outside}/evil.jpg"], "leads out of the folder"),
        (["link", "link/evil.jpg"], "is neither a plain file nor a folder"),
    ],
    ids=["harmless", "parent", "absolute", "link"],
)
def test_evaluate_refuses_archive_members_outside_the_folder(
    face_set, tmp_path, monkeypatch, capsys, names, fault
):
    """No file is written, neither from a malicious archive nor from a harmless one."""
    for name in ("inside", "outside", "temporary"):
        (tmp_path / name).mkdir()
    index = face_set.rename(tmp_path / "inside" / "index.csv")
    with tarfile.open(index.with_suffix(".tar"), "w") as tar:
        for path in sorted((tmp_path / "faces").iterdir()):
            tar.add(path, path.name)
        for name in names:
            member = tarfile.TarInfo(name.format(outside=tmp_path / "outside"))
            member.size = path.stat().st_size
            if name == "link":
                member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
                member.size = 0
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    monkeypatch.chdir(tmp_path / "inside")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = sorted(tmp_path.rglob("*"))
    options = ["--weights", "logistic_regression"]
    assert main(["evaluate", "index.csv", *options]) == (2 if fault else 0)
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if fault:
        assert f"index.tar: member '{names[0].format(outside=tmp_path / 'outside')}'" in said
        assert fault in said


def test_main_returns_130_when_interrupted(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dfdetect.checkpoints.weights.list_weights", stop)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "dfdetect: stopped\n"


def test_main_ignores_a_closed_output_pipe(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:  # as at the end of a process, closing writes what is left
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["models"]) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def forty_clips(sample_data, tmp_path):
    (clip, *_) = sorted((sample_data / "test_videos").glob("*.mp4"))
    (tmp_path / "clips").mkdir()
    for number in range(40):
        (tmp_path / "clips" / f"{number}.mp4").symlink_to(clip)
    return tmp_path / "clips"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_main_ignores_a_second_signal(forty_clips, tmp_path, number, status):
    command = [sys.executable, "-m", "dfdetect", "predict", forty_clips, "--out", "s.csv"]
    command += ["--weights", "logistic_regression", "--engine", "torch"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as run:
        while not (tmp_path / "s.progress.jsonl").exists():
            assert run.poll() is None
            time.sleep(0.02)
        for _ in range(3):
            run.send_signal(number)
            time.sleep(0.1)
        printed = run.stderr.read().decode()
    assert run.returncode == status
    assert "stopping, which takes a few seconds; results that go to a file are kept" in printed
    assert "terminate" not in printed
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 41
    # A cancelled video has no score, and no status that blames the file.
    assert "crashed" not in (tmp_path / "s.progress.jsonl").read_text()


def test_predict_strict_returns_1_for_an_unscored_video(sample_data, tmp_path, capsys):
    good = str(sample_data / "test_videos" / "ehtdtkmmli.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    options = ["--weights", "logistic_regression", "--frames", "2"]
    options += ["--out", str(tmp_path / "s.csv")]
    assert main(["predict", good, *options, "--strict"]) == 0
    assert main(["predict", good, str(bad), *options]) == 0
    assert main(["predict", good, str(bad), *options, "--strict"]) == 1
    check_submission(tmp_path / "s.csv", ["bad.mp4", "ehtdtkmmli.mp4"])


@pytest.mark.parametrize(
    ("options", "status"), [(["--out", "s.csv"], 141), (["--strict"], 141), ([], 0)]
)
def test_predict_whose_reader_ends_early_fails_if_more_was_asked_for(
    sample_data, tmp_path, options, status
):
    command = [sys.executable, "-m", "dfdetect", "predict", str(sample_data / "test_videos")]
    command += ["--weights", "logistic_regression", "--frames", "2", "--quiet", *options]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    assert run.wait(timeout=120) == status
    run.stderr.close()


def test_predict_does_not_claim_to_have_written_a_folder(tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    arguments = ["predict", str(tmp_path), "--weights", "logistic_regression"]
    assert main([*arguments, "--annotate", str(tmp_path / "marked")]) == 0
    assert "wrote" not in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_predict_names_a_folder_that_cannot_be_written(sample_data, capsys):
    assert main(["predict", str(sample_data / "test_videos"), "--out", "/proc/s.csv"]) == 2
    assert "/proc/s.csv: cannot be written" in capsys.readouterr().err


def test_predict_prints_messages_of_ffmpeg_only_with_verbose(
    sample_data, tmp_path, monkeypatch, capfd
):
    """The messages come from the processes that decode the videos."""
    clip = bytearray((sample_data / "test_videos" / "ehtdtkmmli.mp4").read_bytes())
    for place in range(5000, len(clip) - 5000, 500):
        clip[place] ^= 255
    (tmp_path / "damaged.mp4").write_bytes(clip)
    (tmp_path / "\x1b[31mred.mp4").write_bytes(b"junk")
    monkeypatch.chdir(tmp_path)
    printed = {}
    for options in ((), ("--verbose",)):
        command = ["predict", ".", "--frames", "8", "--weights", "logistic_regression"]
        assert main([*options, *command]) == 0
        out, errors = capfd.readouterr()
        printed[options] = "\n".join(
            line for line in errors.splitlines() if not line.startswith("videos:")
        )
        assert "\x1b[31m" not in out
    assert printed[()].strip() == ""
    assert "damaged.mp4: " in printed["--verbose",]
    assert "libav" in printed["--verbose",]


def test_predict_escapes_names_that_the_output_cannot_hold(tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    video = tmp_path / "顔.mp4"
    video.write_text("no video")
    assert main(["predict", str(video), "--weights", "logistic_regression"]) == 0
    assert b"\\u9854.mp4" in written.getvalue()
