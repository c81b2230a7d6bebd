"""The command line. Each command calls a public function and prints the result."""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from fnmatch import fnmatchcase
from functools import partial
from json import dumps
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

# `--help` must not wait for torch. Most modules are therefore imported inside the commands.
from dfdetect import __version__
from dfdetect.defaults import (
    AUTOENCODER_STEPS,
    DEFAULT_FRAMES,
    DEFAULT_PRIOR,
    DEGRADATIONS,
    ENGINES,
    SPLITS,
)
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.training.config import CHOICES, LIMITS, TrainConfig, recipe

if TYPE_CHECKING:  # imports torch
    from dfdetect.checkpoints.io import Spec

# Exit status if `--strict` was given and a video has no score.
REASONS_GIVEN = 1
# Exit status if the arguments, the input or the output cannot be used.
UNUSABLE = 2
SEE_FACES = "To see who was judged, and when, add --report FILE.html or --annotate FOLDER."
# The weights that a command uses if none are given.
MARKED = "the weights that `dfdetect models` marks as the default"
# What happens to an existing file.
NEW_FILE = "an existing file is an error"
OWN_FILE = "an existing file is an error, unless the same command has made it"
REPLACED = "an existing file is replaced"
VERBOSE = "print debug messages, FFmpeg's included, and tracebacks of errors"
# If a signal stops the command, the exit status is this number plus the signal's number.
SIGNALLED = 128
SIGPIPE = 13  # the module `signal` lacks it on Windows
# Options of `predict` that name something to write.
PREDICTED = ("out", "details", "report", "annotate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `dfdetect`, and return its exit status.

    An expected error (`DfdetectError`, `OSError`) is printed as one line on standard error. With
    `--verbose`, the traceback is printed above this line. Any other exception is a defect of the
    program and is not caught.

    Args:
        arguments: The command and its arguments. None means the arguments of the process.

    Returns:
        The exit status:

        - 0: the command succeeded, or the program that reads its output ended early;
        - 1: `--strict` was given, and some videos have no score;
        - 2: the arguments, the input or the output cannot be used;
        - 130: Ctrl-C stopped the command;
        - 141: the program that reads the output of `predict` ended early, and files were to be
          written, or `--strict` was given;
        - 143: SIGTERM stopped the command.

    Raises:
        SystemExit: The arguments cannot be parsed (status 2), or they ask for help or for the
            version (status 0).
    """
    parsed, unknown = _parser().parse_known_args(arguments)
    options = vars(parsed)
    parser = options.pop("parser")
    if unknown:  # argparse itself would print the usage of `dfdetect`, not of the command
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    command = options.pop("command")
    verbose = options.pop("verbose")
    level = logging.WARNING if options.get("quiet") else logging.INFO
    if hasattr(sys.stdout, "reconfigure"):
        # Letters that the output cannot hold are escaped, as Python does on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings(), _one_interrupt(), _log_on_terminal(verbose, level):
            warnings.showwarning = _show_warning
            status = command(**options)
            sys.stdout.flush()
    except BrokenPipeError:  # the program that reads the output, such as `head`, has ended
        _close_output()
        cut_short = command is _predict and any(map(options.get, (*PREDICTED, "strict")))
        return SIGNALLED + SIGPIPE if cut_short else 0
    except (DfdetectError, OSError) as error:
        if verbose:
            traceback.print_exc()
        print(f"dfdetect: {_printable(error)}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt as error:
        print("dfdetect: stopped", file=sys.stderr)
        return SIGNALLED + (error.args[0] if error.args else signal.SIGINT)
    return status or 0


def _close_output() -> None:
    """Discard all further output, because the program that reads it has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _TerminalHandler(logging.Handler):
    """Prints the log lines of the library on standard error, above the progress bars."""

    def __init__(self, verbose: bool, level: int):
        super().__init__(logging.DEBUG if verbose else level)
        self.verbose = verbose
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        text = self.format(record) if self.verbose else f"dfdetect: {record.getMessage()}"
        tqdm.write(_printable(text), file=sys.stderr)


@contextmanager
def _log_on_terminal(verbose: bool, level: int) -> Iterator[None]:
    logger, handler = logging.getLogger("dfdetect"), _TerminalHandler(verbose, level)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """Stop the command at the first Ctrl-C or SIGTERM, and ignore all further ones."""

    def stop(number: int, _: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        print(
            "\ndfdetect: stopping, which takes a few seconds; results that go to a file are kept",
            file=sys.stderr,
        )
        raise KeyboardInterrupt(number)

    # Only the main thread can handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:  # if the command was stopped, the signals remain ignored
        for one, handler in before.items():
            if signal.getsignal(one) is stop:
                signal.signal(one, handler)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"dfdetect: warning: {_printable(message)}", file=sys.stderr)


def _print_above_bars(text: str) -> None:
    """Print a text at once. If the terminal also shows progress bars, print it above the bars."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text)
    else:
        print(text, flush=True)


def _one_log() -> bool:
    """Return whether standard output and standard error go to the same file, as with `2>&1`.

    A progress bar would stand in the same line as a result there. A terminal does not count.
    """
    try:
        same = os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except OSError:  # the caller has replaced one of them by an object that is no file
        return False
    return same and not sys.stderr.isatty()


def _printable(message: object) -> str:
    """Return the text of a message with all control characters escaped, except line breaks."""
    from dfdetect.files import printable

    return "\n".join(map(printable, str(message).splitlines()))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds default values to the help texts, except for options that are off by default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        off = action.default is None or action.default is False or action.default == []
        return action.help if off else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dfdetect", description="Detect face-manipulated videos.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dfdetect {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help=VERBOSE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_app(commands)
    _add_evaluate(commands)
    _add_extract(commands)
    _add_reconstruct(commands)
    _add_train(commands)
    _add_ensemble(commands)
    _add_convert(commands)
    _add_calibrate(commands)
    _add_fit_texture(commands)
    _add_export(commands)
    _add_models(commands)
    _add_bench(commands)
    _add_bundle(commands)
    _add_compare(commands)
    _add_compare_aggregation(commands)
    _add_compare_conditions(commands)
    return parser


def _add_command(
    commands: argparse._SubParsersAction, name: str, function: object, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    # Without SUPPRESS, the default value of this option would replace the value of a --verbose that
    # was given before the command.
    parser.add_argument(
        *("-v", "--verbose"), action="store_true", default=argparse.SUPPRESS, help=VERBOSE
    )
    parser.set_defaults(command=function, parser=parser)
    return parser


def _add_detector_options(
    parser: argparse._ActionsContainer, frames: int | None = DEFAULT_FRAMES
) -> None:
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="NAME|FILE",
        help=f"installed weights or files; several form an ensemble; default: {MARKED}",
    )
    text = "number of frames to sample from each video"
    if frames is None:  # None tells the command that the option was not given
        text += f" (default: {DEFAULT_FRAMES}); not for face sets"
    parser.add_argument("--frames", type=int, default=frames, help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_out_option(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar=name, help=text)


def _add_weights_option(parser: argparse.ArgumentParser) -> None:
    text = f"installed weights or a file; default: {MARKED}"
    parser.add_argument("--weights", metavar="NAME|FILE", help=text)


def _add_engine_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="library that runs the networks on a CPU; auto: the fastest installed one",
    )


def _add_cluster_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS|local",
        help="address of the Ray cluster to run on; `local` starts one on this machine",
    )


def _add_split_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="use only this part of the data set, as its authors split it; default: all videos",
    )


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "predict", _predict, "Score videos and images.")
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="videos, folders of videos, and images (.jpg, .jpeg, .png, .webp)",
    )
    detector = parser.add_argument_group("detector")
    _add_detector_options(detector)
    _add_engine_option(detector)
    shown = parser.add_argument_group("what is printed")
    shown.add_argument(
        "--json", action="store_true", help="print one JSON object per video, each on one line"
    )
    shown.add_argument(
        *("-q", "--quiet"),
        action="store_true",
        help="print one line per video, and warnings, but no progress, explanation or summary",
    )
    written = parser.add_argument_group("files to write (by default none)")
    written.add_argument(
        "--out",
        type=Path,
        metavar="FILE.csv|.json|.jsonl",
        help="a submission (filename,label), or the full results as JSON; if the run is "
        "interrupted, the same command continues it",
    )
    written.add_argument(
        "--sample-submission",
        type=Path,
        metavar="CSV",
        help="submission that gives the names and the order of the rows of --out",
    )
    written.add_argument(
        "--prior",
        type=float,
        default=DEFAULT_PRIOR,
        help="P(FAKE) in a submission for videos without a score",
    )
    written.add_argument(
        "--details",
        type=Path,
        metavar="CSV",
        help="a table of the probability, verdict, status and time of each video",
    )
    written.add_argument(
        "--report",
        type=Path,
        metavar="HTML",
        help="a page that shows the faces and their probabilities over time",
    )
    written.add_argument(
        "--annotate",
        type=Path,
        metavar="DIR",
        help="folder for copies of the videos, with boxes and curves drawn, and with sound",
    )
    run = parser.add_argument_group("how to run")
    _add_cluster_option(run)
    run.add_argument(
        "--time-budget",
        metavar="8h30m",
        help="end within this time; if necessary, sample fewer frames or skip videos",
    )
    run.add_argument(
        "--strict", action="store_true", help="exit with status 1 if a video has no score"
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "Measure a detector on labelled data.")
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="INDEX.csv|VIDEO_FOLDER|ZIP|JSON",
        help="one or more face sets, which are measured together; a data set in the layout of its "
        "authors; or a folder or zip file of videos, labelled by manifest.csv, metadata.json or "
        "folders named real and fake",
    )
    _add_split_option(parser)
    _add_detector_options(parser.add_argument_group("detector"), frames=None)
    _add_cluster_option(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="folder for plots and a table of all scores"
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE.md|FILE.csv",
        help="file for the metrics of videos and frames, by source and method, with confidence "
        "intervals",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="measure two detectors (names or files), and test whether their scores differ",
    )
    parser.add_argument(
        "--fake-share",
        type=float,
        metavar="SHARE",
        help="also compute the metrics for data with this share of FAKE",
    )
    parser.add_argument(
        "--degrade",
        choices=DEGRADATIONS,
        help="damage the crops first: compress them as JPEG of quality 50, resize them to half the "
        "size and back, or make them 40 %% darker",
    )
    parser.add_argument(
        "--subgroups",
        action="store_true",
        help="also measure small, dark, blurred and turned faces, each group separately",
    )


def _add_extract(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "extract",
        _extract,
        "Make a face set from labelled videos. The same command continues an interrupted run.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="VIDEO_FOLDER|ZIP|INDEX.csv",
        help="a data set in the layout of its authors; videos labelled by manifest.csv, "
        "metadata.json or folders named real and fake; or a face set of whole photographs",
    )
    _add_split_option(parser)
    _add_out_option(
        parser,
        "INDEX.csv",
        f"index of the face set to write; its crops go to INDEX-00000.tar and so on; {OWN_FILE}",
    )
    parser.add_argument(
        "--frames", type=int, default=DEFAULT_FRAMES, help="number of frames to sample per video"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels")
    for name in ("crop_scale", "crop_shift"):
        setting = TrainConfig.__dataclass_fields__[name]
        flag = "--" + name.replace("_", "-")
        text = setting.metadata["help"]
        parser.add_argument(flag, type=float, default=setting.default, help=text)
    parser.add_argument(
        "--blend",
        action="store_true",
        help="also make a self-blended fake of each person in a REAL video",
    )
    _add_cluster_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_reconstruct(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "reconstruct",
        _reconstruct,
        "Train autoencoders on REAL crops, and write a face set of their reconstructions (FAKE).",
    )
    parser.add_argument(
        "faces", nargs="+", type=Path, metavar="INDEX.csv", help="face sets with REAL crops"
    )
    _add_out_option(
        parser,
        "INDEX.csv",
        "index of the face set to write; its crops go to INDEX-00000.tar and so on, and the "
        f"autoencoders to INDEX.autoencoders; {OWN_FILE}",
    )
    parser.add_argument(
        "--autoencoders", nargs="+", metavar="NAME", help="autoencoders to use; default: all"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=AUTOENCODER_STEPS,
        help="number of training steps of each autoencoder",
    )
    parser.add_argument(
        "--copies", type=int, default=1, help="number of reconstructions of each crop"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of all random choices")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "train", _train, "Train a detector on face sets.")
    parser.add_argument("architecture", help="a name that `dfdetect models` lists")
    parser.add_argument(
        "--faces",
        nargs="+",
        required=True,
        type=_index_and_weights,
        metavar="INDEX.csv[=WEIGHT]",
        help="face sets to train on; WEIGHT (default: 1) is the relative share of a face set in "
        "each batch; two numbers REAL:FAKE give each class its own share, and 0 leaves a class out",
    )
    parser.add_argument(
        "--val",
        nargs="+",
        type=_index_or_fraction,
        default=0.1,
        metavar="INDEX.csv|SHARE",
        help="held-out crops, which are used to choose the best epoch: a face set of other actors "
        "and sources, or the share of the actors or sources of --faces to hold out (a number "
        "between 0 and 1); several values are used together",
    )
    _add_out_option(
        parser,
        "FILE.safetensors",
        f"checkpoint to write, beside FILE.history.csv and FILE.history.png; {NEW_FILE}",
    )
    parser.add_argument(
        "--init", metavar="FILE|imagenet", help="weights to start from; default: random weights"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    settings = parser.add_argument_group("settings")
    for setting in fields(TrainConfig):
        if setting.default is not MISSING:
            flag = "--" + setting.name.replace("_", "-")
            kind = type(setting.default)
            text = f"{setting.metadata['help']} (default: the architecture's, or {setting.default})"
            settings.add_argument(flag, type=kind, choices=CHOICES.get(setting.name), help=text)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "convert",
        _convert,
        "Convert a published checkpoint of another project to a checkpoint of dfdetect.",
    )
    parser.add_argument(
        "path", type=Path, metavar="FILE", help="the published file: .pth, .h5 and so on"
    )
    parser.add_argument(
        "--from",
        dest="format",
        default="auto",
        metavar="FORMAT",
        help="format of the file (docs/checkpoints.md lists all), or auto to recognise it",
    )
    _add_out_option(parser, "FILE.safetensors", f"checkpoint to write; {REPLACED}")


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "calibrate",
        _calibrate,
        "Fit the calibration and the verdict thresholds of a detector on new faces.",
    )
    _add_refit_arguments(
        parser, "face sets of people and sources that the detector was not trained on"
    )


def _add_fit_texture(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "fit-texture",
        _fit_texture,
        "Let a trained tf_efficientnet_lite2 also use the texture of faces.",
    )
    _add_refit_arguments(
        parser, "face sets with sources, and the faces of the challenge, which have none"
    )
    parser.add_argument(
        "--val",
        nargs="+",
        type=_index_or_fraction,
        default=0.08,
        metavar="INDEX.csv|SHARE",
        help="crops to calibrate on, given as in train; choose crops that were not trained on",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="seed of all random choices; the seed of the training holds out the same crops",
    )


def _add_refit_arguments(parser: argparse.ArgumentParser, faces: str) -> None:
    """Add the arguments of a command that fits one part of a trained detector on other faces.

    For example, the command `calibrate` fits the calibration. `faces` is the help text of
    `--faces`.
    """
    parser.add_argument("weights", metavar="NAME|FILE", help="installed weights or a file")
    parser.add_argument(
        "--faces", nargs="+", required=True, type=Path, metavar="INDEX.csv", help=faces
    )
    _add_out_option(parser, "FILE.safetensors", f"checkpoint to write; {NEW_FILE}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands, "compare", _compare, "Train the architectures of the study, and measure them."
    )
    parser.add_argument(
        "--faces",
        nargs="+",
        required=True,
        type=Path,
        metavar="INDEX.csv",
        help="face sets to train on",
    )
    parser.add_argument(
        "--val", required=True, type=Path, metavar="INDEX.csv", help="face set to measure on"
    )
    parser.add_argument(
        "--clips",
        nargs="+",
        default=[],
        type=Path,
        metavar="INDEX.csv",
        help="face sets with tracks, made by `dfdetect extract`, to train models that take clips",
    )
    parser.add_argument(
        "--val-clips",
        type=Path,
        metavar="INDEX.csv",
        help="face set with tracks, on which models that take clips are measured",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for checkpoints and tables"
    )
    parser.add_argument(
        "--architectures", nargs="+", metavar="NAME", help="architectures to train; default: all"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_compare_aggregation(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "compare-aggregation",
        _compare_aggregation,
        "Compare rules that combine the logits of frames and people into one score.",
    )
    parser.add_argument(
        "index", type=Path, metavar="INDEX.csv", help="face set made by `dfdetect extract --blend`"
    )
    _add_weights_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_compare_conditions(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "compare-conditions",
        _compare_conditions,
        "Measure a detector on small, dark, blurred and turned faces, and on compressed videos.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="INDEX.csv|VIDEO_FOLDER",
        help="face sets or folders of labelled videos, all measured together; for videos, the "
        "compression and the frame rate are varied",
    )
    parser.add_argument(
        "--crops",
        type=int,
        default=200,
        metavar="N",
        help="maximum number of good crops to damage",
    )
    _add_weights_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "bench",
        _bench,
        "Measure the time per video, and compare it with OpenCV and the winner of the challenge.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="videos and folders")
    detector = parser.add_argument_group("detector")
    _add_detector_options(detector)
    _add_engine_option(detector)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plan",
        nargs=2,
        metavar=("VIDEOS", "NODES"),
        help="estimate time, disk space and memory for VIDEOS videos on NODES machines like this "
        "one; NODES may be several numbers, such as 1,8,64",
    )


def _add_bundle(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands, "bundle", _bundle, "Make the data set and the kernel to upload to Kaggle."
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--owner",
        default="OWNER",
        metavar="NAME",
        help="your Kaggle user name; needed to upload the folders",
    )
    _add_weights_option(parser)
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="DIR",
        help="folder with wheels of facenet-pytorch and PyAV; default: download them",
    )
    parser.add_argument("--name", default="dfdetect", help="name of the data set")


def _add_ensemble(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands,
        "ensemble",
        _ensemble,
        "Write one checkpoint that combines several as an ensemble.",
    )
    parser.add_argument(
        "members", nargs="+", metavar="NAME|FILE", help="two or more installed weights or files"
    )
    _add_out_option(parser, "FILE.safetensors", f"checkpoint to write; {REPLACED}")
    parser.add_argument(
        "--shares",
        nargs="+",
        type=float,
        metavar="NUMBER",
        help="weight of each member (default: equal weights)",
    )


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands, "export", _export, "Export a detector to an ONNX file for other programs."
    )
    _add_weights_option(parser)
    _add_out_option(parser, "FILE.onnx", f"file to write; {REPLACED}")


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "models", _models, "List installed weights and architectures.")
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN|FILE",
        help="names to list, such as 'tf_efficientnet*', or a checkpoint to describe; default: "
        "all weights, and the architectures with a training recipe",
    )


def _add_app(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "app", _app, "Check videos on a local page in the browser.")
    _add_detector_options(parser.add_argument_group("detector"))
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of the page; only `localhost` and addresses that begin with 127 keep it to "
        "this computer",
    )
    parser.add_argument(
        "--port", type=int, help="port of the page (default: the first free one from 7860 on)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _index_and_weights(text: str) -> tuple[Path, tuple[float, float]]:
    """Return the path of a face set, and the weights of its REAL and FAKE crops in training.

    There are three forms of `text`:

    - `index.csv`: both weights are 1;
    - `index.csv=2`: both weights are 2;
    - `index.csv=2:1`: the weight of REAL is 2, and the weight of FAKE is 1.
    """
    index, _, weights = text.rpartition("=")
    real, separator, fake = weights.partition(":")
    try:
        return Path(index), (float(real), float(fake if separator else real))
    except ValueError:
        if index.endswith(".csv") and not text.endswith(".csv"):
            message = f"{index}: its weight {weights!r} is no number"
            raise argparse.ArgumentTypeError(message) from None
        return Path(text), (1.0, 1.0)  # there is no equals sign, or it is part of the file name


def _seed(text: str) -> int:
    lowest, highest = LIMITS["seed"]
    if text.isdecimal() and lowest <= int(text) <= highest:
        return int(text)
    message = f"a seed is a whole number from {lowest} to {highest}, not {text!r}"
    raise argparse.ArgumentTypeError(message)


def _index_or_fraction(text: str) -> Path | float:
    try:
        return float(text)
    except ValueError:
        return Path(text)


def _predict(
    out: Path | None,
    prior: float,
    time_budget: str | None,
    details: Path | None,
    report: Path | None,
    annotate: Path | None,
    strict: bool,
    json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    start = monotonic()
    from dfdetect.prediction import is_submission, predict
    from dfdetect.reporting import terminal
    from dfdetect.reporting.json_file import to_json
    from dfdetect.runtime.budget import parse_duration

    seconds = None
    if time_budget is not None:  # the imports above took some of this time
        seconds = max(0.1, parse_duration(time_budget) - (monotonic() - start))
    to_line = partial(terminal.result_line, colour=terminal.wants_colour(sys.stdout))
    to_text = to_json if json else to_line
    outputs: dict[str, Any] = dict(zip(PREDICTED, (out, details, report, annotate), strict=True))
    results = predict(
        prior=prior,
        time_budget=seconds,
        on_result=lambda result: _print_above_bars(to_text(result)),
        progress=not (quiet or _one_log()),
        **outputs,
        **options,
    )
    scored = [result.probability is not None for result in results.values()]
    lines = []
    if not (json or quiet):
        lines.append(terminal.ending(results, prior if is_submission(out) else None))
        if any(scored) and not (report or annotate):
            lines.append(SEE_FACES)
        if files := [str(file) for file in outputs.values() if file and Path(file).exists()]:
            lines.append(f"wrote {', '.join(files)}")
    try:  # the run is complete, even if nobody reads these lines
        for line in filter(None, lines):
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
    return REASONS_GIVEN if strict and not all(scored) else 0


def _evaluate(json: bool, compare: list[str] | None, **options: Any) -> None:
    from dfdetect.evaluation.evaluate import evaluate
    from dfdetect.evaluation.paired import PairedComparison, compare_detectors
    from dfdetect.evaluation.result import EvaluationResult

    result: EvaluationResult | PairedComparison
    if compare is None:
        result = evaluate(progress=True, **options)
    else:
        single = ("weights", "plots", "table")
        if given := [name for name in single if options.pop(name) is not None]:
            raise ArgumentError(f"--{given[0]} is for one detector; leave it out with --compare")
        first, second = compare
        result = compare_detectors(detectors=(first, second), progress=True, **options)
        if not json:
            print(f"first: {first}; second: {second}")
    print(dumps(result.to_dict()) if json else result)


def _extract(sources: list[Path], out: Path, **options: Any) -> None:
    from dfdetect.data.extract import extract

    done = extract(sources, out=out, progress=True, **options)
    print(f"{out}: {done['crops'].sum()} crops of {len(done)} videos")
    for status, count in done["status"].value_counts().items():
        print(f"  {count} {status}")


def _reconstruct(faces: list[Path], out: Path, **options: Any) -> None:
    from dfdetect.data.reconstruct import reconstruct

    given = {name: value for name, value in options.items() if value is not None}
    table = reconstruct(faces, out, progress=True, **given)
    print(f"{out}: {len(table)} reconstructions; samples in {out.with_suffix('.autoencoders')}")


def _convert(out: Path, **options: Any) -> None:
    from dfdetect.checkpoints.converters.convert import convert

    spec = convert(out=out, **options)
    print(
        f"{out}: {spec.architecture}, {spec.input_size} px, of the format "
        f"{spec.training['converted_from']}"
    )


def _compare(**options: Any) -> None:
    from dfdetect.evaluation.compare import compare, to_markdown

    print(to_markdown(compare(progress=True, **options)))


def _compare_aggregation(**options: Any) -> None:
    from dfdetect.evaluation.aggregation_study import compare_aggregations

    print(compare_aggregations(progress=True, **options).to_string(float_format="{:.3f}".format))


def _compare_conditions(sources: list[Path], crops: int, **options: Any) -> None:
    from dfdetect.detector import load_detector
    from dfdetect.evaluation.conditions_study import compare_conditions
    from dfdetect.evaluation.encodings_study import FRAMES, compare_encodings

    folders = [source for source in sources if source.is_dir()]
    if not folders:
        table = compare_conditions(sources, crops=crops, progress=True, **options)
    elif len(folders) == len(sources):
        table = compare_encodings(folders, load_detector(frames=FRAMES, **options), progress=True)
    else:
        raise ArgumentError("give face sets or folders of videos, not both")
    print(table.to_string(index=False, float_format="{:.3f}".format, na_rep=""))


def _train(
    faces: list[tuple[Path, tuple[float, float]]],
    val: float | list[Path | float],
    out: Path,
    init: str | None,
    device: str,
    resume: bool,
    **settings: Any,
) -> None:
    from dfdetect.training.trainer import train

    given = {name: value for name, value in settings.items() if value is not None}
    indexes, weights = zip(*faces, strict=True)
    spec = train(
        recipe(**given),
        indexes,
        out,
        val=val,
        init=init,
        device=device,
        resume=resume,
        weights=weights,
        progress=True,
    )
    if os.environ.get("RANK", "0") != "0":  # only the first of several processes prints
        return
    scores = spec.scores["held_out_actors"]
    best = " ".join(f"{name} {value}" for name, value in spec.training["best"].items())
    print(
        f"{out}: {best}; {scores['n']} faces of held-out actors: log loss "
        f"{scores['log_loss']:.3f}, AUC {scores['auc']:.3f}"
    )


def _calibrate(weights: str, faces: list[Path], out: Path, device: str) -> None:
    from dfdetect.training.calibrate import calibrate

    _print_calibration(out, calibrate(weights, faces, out, device=device, progress=True))


def _fit_texture(
    weights: str,
    faces: list[Path],
    val: float | list[Path | float],
    out: Path,
    device: str,
    seed: int,
) -> None:
    from dfdetect.training.texture import fit_texture

    spec = fit_texture(weights, faces, out, val=val, seed=seed, device=device, progress=True)
    _print_calibration(out, spec)


def _print_calibration(out: Path, spec: "Spec") -> None:
    for member in spec.members:
        name = f" {member.architecture}" if len(spec.members) > 1 else ""
        fitted = member.calibration
        print(f"{out}: calibrated{name} = {fitted.scale:.3f} * logit {fitted.bias:+.3f}")
    if (points := spec.operating_points) is not None:
        from dfdetect.reporting.terminal import fakes_found

        print(f"uncertain above {points.uncertain:.3f}, fake above {points.fake:.3f}")
        if text := fakes_found(points):
            print(text)


def _bench(
    paths: list[Path],
    json: bool,
    plan: list[str] | None,
    frames: int,
    device: str,
    engine: str,
    **options: Any,
) -> None:
    from dfdetect.benchmark import projection
    from dfdetect.benchmark.bench import bench

    wanted = None if plan is None else projection.parse_plan(*plan)
    common: dict[str, Any] = {"frames": frames, "device": device, "progress": True}
    result = bench(paths, engine=engine, **common, **options)
    planned = None
    if wanted is not None:
        videos, nodes = wanted
        planned = projection.plan(paths, result, videos=videos, nodes=nodes, **common)
    if json:
        more = {} if planned is None else {"plan": planned.to_dict()}
        print(dumps(result.to_dict() | more, indent=2))
    else:
        print(result if planned is None else f"{result}\n\n{planned}")


def _bundle(**options: Any) -> None:
    from dfdetect.kaggle.bundle import bundle

    print("\n".join(bundle(**options)))


def _ensemble(members: list[str], out: Path, shares: list[float] | None) -> None:
    from dfdetect.checkpoints.io import make_ensemble
    from dfdetect.checkpoints.weights import find_all_weights

    spec = make_ensemble(find_all_weights(members), out, shares=shares)
    print(f"{out}: {spec.describe()}")
    print("The ensemble gives no verdicts until dfdetect calibrate has fitted its thresholds.")


def _app(no_browser: bool, **options: Any) -> None:
    from dfdetect.reporting.app import serve_app

    with serve_app(**options) as url:
        print(f"the page is at {url} (Ctrl-C stops it)", flush=True)
        if not no_browser:
            webbrowser.open(url)
        threading.Event().wait()


def _export(**options: Any) -> None:
    from dfdetect.checkpoints.export import export_onnx

    print(export_onnx(**options))


def _models(pattern: str | None) -> None:
    from dfdetect.checkpoints.io import read_spec
    from dfdetect.checkpoints.weights import DEFAULT_WEIGHTS, list_weights
    from dfdetect.models.registry import list_models, list_recipes

    if pattern is not None and Path(pattern).is_file():
        print(f"{pattern}  ({read_spec(pattern).describe()})")
        return
    wanted = pattern or "*"
    weights = {name: path for name, path in list_weights().items() if fnmatchcase(name, wanted)}
    architectures, with_recipe = list_models(wanted), list_recipes()
    if not weights and not architectures:
        raise ArgumentError(f"no weights and no architectures have the name {pattern!r}")
    print("weights:")
    for name, path in weights.items():
        mark = ", the default" if name == DEFAULT_WEIGHTS else ""
        print(f"  {name}{mark}  ({read_spec(path).describe()})")
    if not pattern:
        print("  Use the default; the others are for comparisons (docs/study.md).")
    print("architectures (* with a training recipe):")
    # The thousand architectures of timm would push the weights off the screen.
    shown = architectures if pattern else [one for one in architectures if one in with_recipe]
    for name in shown:
        print(f"  {name}{' *' if name in with_recipe else ''}")
    if not pattern:
        rest = len(architectures) - len(shown)
        print(f"  and {rest} more; to list them: dfdetect models 'resnet*', or '*' for all")
