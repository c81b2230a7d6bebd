"""Default values and allowed values of command-line arguments.

This module imports nothing, so that `dfdetect --help` is fast.
"""

DEFAULT_FRAMES = 32
DEFAULT_PRIOR = 0.5
FRAME_AGGREGATIONS = (
    *("mean_logit", "soft_maximum", "mean_probability"),
    *("confident_majority", "confident_fives", "power_law"),
)
TRACK_AGGREGATIONS = ("max", "pooled", "agreement")
# Parts of a data set, as its authors divide it.
SPLITS = ("train", "val", "test")
# Ways to damage crops before a detector is measured on them.
DEGRADATIONS = ("jpeg", "half", "dark")
# Libraries that run the networks on a CPU. `auto` is the fastest installed library.
ENGINES = ("auto", "torch", "openvino", "onnxruntime")
