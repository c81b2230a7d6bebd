"""Detect face-manipulated videos.

>>> import dfdetect
>>> detector = dfdetect.load_detector()
>>> detector.score("clip.mp4").probability
"""

from dfdetect.checkpoint import CheckpointError, find_weights, list_weights
from dfdetect.detector import Detector, FaceScore, VideoScore, load_detector
from dfdetect.models import create_model, list_models
from dfdetect.prediction import predict
from dfdetect.video import VideoError, read_frames

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Detector",
    "FaceScore",
    "VideoError",
    "VideoScore",
    "create_model",
    "find_weights",
    "list_models",
    "list_weights",
    "load_detector",
    "predict",
    "read_frames",
]
