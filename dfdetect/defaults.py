"""Defaults and choices that the command line shows. `--help` loads only this module."""

DEFAULT_FRAMES = 32
DEFAULT_PRIOR = 0.5
FRAME_AGGREGATIONS = (
    *("mean_logit", "soft_maximum", "mean_probability"),
    *("confident_majority", "confident_fives", "power_law"),
)
TRACK_AGGREGATIONS = ("max", "pooled", "agreement")
# Into which authors split their data sets.
SPLITS = ("train", "val", "test")
# Ways to damage crops before they are measured.
DEGRADATIONS = ("jpeg", "half", "dark")
# What computes the networks; `auto` is the fastest one that is installed.
ENGINES = ("auto", "torch", "openvino", "onnxruntime")
