"""Default values and allowed values of command-line arguments.

This module imports nothing, so that `dfdetect --help` is fast.
"""

# Number of frames sampled from each video.
DEFAULT_FRAMES = 32
# Number of training steps of each autoencoder that `dfdetect reconstruct` uses.
AUTOENCODER_STEPS = 600
# Label of videos without a score in a submission.
DEFAULT_PRIOR = 0.5
# Rules that combine the frames of a track, and rules that combine the tracks of a video.
# `dfdetect.scoring.aggregation` describes them.
FRAME_AGGREGATIONS = (
    *("mean_logit", "soft_maximum", "mean_probability"),
    *("confident_majority", "confident_fives", "power_law"),
)
TRACK_AGGREGATIONS = ("max", "pooled", "agreement")
# Names of the parts into which the authors of a data set divide it.
SPLITS = ("train", "val", "test")
# Ways to damage crops before a detector is tested on the damaged crops.
DEGRADATIONS = ("jpeg", "half", "dark")
# Libraries that run the networks on a CPU. `auto` is the fastest installed library.
ENGINES = ("auto", "torch", "openvino", "onnxruntime")
