"""Command line: arguments only; each command calls one public function with the same keywords."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from dfdetect import __version__
from dfdetect.checkpoint import list_weights, read_spec
from dfdetect.models import list_models
from dfdetect.prediction import predict
from dfdetect.submission import DEFAULT_PRIOR
from dfdetect.training.config import TrainConfig
from dfdetect.video import DEFAULT_FRAMES

UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when every video got a score or a stated reason, 2 for unusable input."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        command(**options)
    except (OSError, ValueError) as error:
        print(f"dfdetect: {error}", file=sys.stderr)
        return UNUSABLE
    return 0


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for options that are off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        off = action.default is None or action.default is False
        return action.help if off else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dfdetect", description="Detect face-manipulated videos.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dfdetect {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_evaluate(commands)
    _add_train(commands)
    _add_models(commands)
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
    parser.set_defaults(command=function)
    return parser


def _add_detector_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="NAME|FILE", help="installed weights or a file")
    parser.add_argument(
        "--frames", type=int, default=DEFAULT_FRAMES, help="frames sampled from each video"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "predict", predict, "Score videos, write submission.csv.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="videos and folders")
    parser.add_argument("--out", type=Path, default=Path("submission.csv"), help="file to write")
    parser.add_argument(
        "--sample-submission", type=Path, metavar="CSV", help="names and order of the rows"
    )
    _add_detector_options(parser)
    parser.add_argument(
        "--details", type=Path, metavar="CSV", help="also write people, frames, reasons, seconds"
    )
    parser.add_argument(
        "--prior", type=float, default=DEFAULT_PRIOR, help="P(FAKE) for videos without a score"
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "Measure a detector on labelled data.")
    parser.add_argument(
        "source",
        type=Path,
        metavar="INDEX.csv|VIDEO_FOLDER",
        help="a face set, or a folder with metadata.json or with real/ and fake/ sub-folders",
    )
    _add_detector_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write curves as PNG files")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "train", _train, "Train an image model on face sets.")
    parser.add_argument("architecture", help="see `dfdetect models`")
    parser.add_argument(
        "--faces", nargs="+", required=True, type=Path, metavar="INDEX.csv", help="to train on"
    )
    parser.add_argument(
        "--val",
        type=_index_or_fraction,
        default=0.1,
        metavar="INDEX.csv|SHARE",
        help="other actors to choose the epoch by, or the share of actors to hold out for it",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    parser.add_argument(
        "--init", metavar="FILE|imagenet", help="weights to start from; random if not given"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="go on where a run was stopped")
    for setting in fields(TrainConfig):
        if setting.default is not MISSING:
            flag = "--" + setting.name.replace("_", "-")
            kind = type(setting.default)
            text = setting.metadata["help"]
            parser.add_argument(flag, type=kind, default=setting.default, help=text)


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "models", _models, "List installed weights and architectures.")
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'tf_efficientnet*'")


def _index_or_fraction(text: str) -> Path | float:
    try:
        return float(text)
    except ValueError:
        return Path(text)


def _evaluate(json: bool, **options: object) -> None:
    from dfdetect.training.evaluate import evaluate, report

    scores = evaluate(progress=True, **options)
    print(report(scores, as_json=json))


def _train(
    faces: list[Path],
    val: Path | float,
    out: Path,
    init: str | None,
    device: str,
    resume: bool,
    **settings: object,
) -> None:
    from dfdetect.training.fit import train

    train(TrainConfig(**settings), faces, out, val, init, device, resume)


def _models(pattern: str) -> None:
    print("weights:")
    for name, path in list_weights().items():
        spec = read_spec(path)
        print(f"  {name}  ({spec.architecture}, {spec.input_size} px; {spec.licence})")
    print("architectures:")
    for name in list_models(pattern):
        print(f"  {name}")
