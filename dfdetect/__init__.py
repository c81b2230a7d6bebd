"""Detect face-manipulated videos.

>>> import dfdetect
>>> detector = dfdetect.load_detector()
>>> detector.predict("video.mp4").probability
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfdetect.checkpoints.io import CheckpointError
    from dfdetect.checkpoints.weights import find_weights, list_weights
    from dfdetect.detector import Detector, load_detector
    from dfdetect.errors import DfdetectError
    from dfdetect.models.registry import create_model, list_models
    from dfdetect.prediction import predict
    from dfdetect.reporting.overlay import annotate
    from dfdetect.results import (
        HeatMap,
        OperatingPoints,
        Status,
        TrackResult,
        Verdict,
        VideoResult,
        to_dataframe,
    )
    from dfdetect.video.reader import VideoError, read_frames

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Detector",
    "DfdetectError",
    "HeatMap",
    "OperatingPoints",
    "Status",
    "TrackResult",
    "Verdict",
    "VideoError",
    "VideoResult",
    "annotate",
    "create_model",
    "find_weights",
    "list_models",
    "list_weights",
    "load_detector",
    "predict",
    "read_frames",
    "to_dataframe",
]

# Loading torch takes seconds. Each public name is therefore imported when it is first used.
_MODULES = {
    "checkpoints.io": ("CheckpointError",),
    "detector": ("Detector", "load_detector"),
    "errors": ("DfdetectError",),
    "checkpoints.weights": ("find_weights", "list_weights"),
    "models.registry": ("create_model", "list_models"),
    "prediction": ("predict",),
    "reporting.overlay": ("annotate",),
    "video.reader": ("VideoError", "read_frames"),
    "results": (
        *("HeatMap", "OperatingPoints", "Status", "TrackResult", "Verdict", "VideoResult"),
        "to_dataframe",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = frozenset(module.partition(".")[0] for module in _MODULES)


# A library should print no log lines unless the program that uses it configures `logging`.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import and return the public object or the submodule with the name `name` (PEP 562)."""
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
