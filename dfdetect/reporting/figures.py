"""Plot a result with Matplotlib: a frame with boxes, the faces of a person, P(FAKE) over time.

P(FAKE) is the detector's score, from 0 (REAL) to 1 (FAKE). A person is one face that was tracked
through a video. The most suspicious person is the one with the highest P(FAKE) for the whole video.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError
from dfdetect.faces.crops import cut_faces
from dfdetect.results import VideoResult
from dfdetect.video.isolated import DecoderPool

REAL_COLOUR, FAKE_COLOUR = "tab:green", "tab:red"
THRESHOLD = 0.5


def draw_frame(
    axes: Axes, path: str | Path, result: VideoResult, frames: int = DEFAULT_FRAMES
) -> None:
    """Draw the frame in which the most suspicious person's P(FAKE) is highest.

    Each person in the frame has a bounding box. A label at the box gives the person's P(FAKE) in
    this frame. The box and the label are red if this P(FAKE) is above 0.5, and otherwise green.

    Args:
        axes: The axes to draw in.
        path: The video.
        result: The detector's result for the video, with at least one track.
        frames: Number of frames that the detector sampled from the video.

    Raises:
        ArgumentError: The result has no tracks.
        VideoError: The video cannot be read.
    """
    worst = result.tracks[_most_suspicious(result)]
    time = worst.times[int(np.argmax(worst.frame_probabilities))]
    with DecoderPool() as decoders:
        sampled = decoders.read_frames(path, frames)
        frame = min(sampled, key=lambda frame: abs(frame.time - time))
    axes.imshow(frame.image)
    axes.set(title=f"{result.name}  P(FAKE) {result.probability:.2f}", xticks=[], yticks=[])
    for track in result.tracks:
        if time in track.times:
            moment = track.times.index(time)
            x1, y1, x2, y2 = track.boxes[moment]
            probability = track.frame_probabilities[moment]
            colour = FAKE_COLOUR if probability > THRESHOLD else REAL_COLOUR
            outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=2)
            axes.add_patch(outline)
            axes.text(x1, y1, f"{probability:.2f}", color="white", backgroundcolor=colour)


def draw_curve(axes: Axes, result: VideoResult) -> None:
    """Draw P(FAKE) over time, as one line for each person. A dotted line marks 0.5."""
    for number, track in enumerate(result.tracks, start=1):
        axes.plot(
            track.times,
            track.frame_probabilities,
            marker=".",
            label=f"person {number}: {track.probability:.2f}",
        )
    axes.axhline(THRESHOLD, color="grey", linestyle=":")
    axes.set(xlabel="seconds", ylabel="P(FAKE)", ylim=(0, 1))
    axes.legend()


def draw_faces(axes: Axes, path: str | Path, result: VideoResult) -> None:
    """Draw pictures of the most suspicious person's face at several moments, side by side.

    If no picture can be cut out of the video, a label says so.

    Args:
        axes: The axes to draw in.
        path: The video.
        result: The detector's result for the video, with at least one track.

    Raises:
        ArgumentError: The result has no tracks.
        VideoError: The video cannot be read.
    """
    worst = _most_suspicious(result)
    with DecoderPool() as decoders:
        strip = cut_faces(path, result, decoders)[worst]
    if not strip:
        axes.set(xticks=[], yticks=[], xlabel="no picture: the video has changed")
        return
    axes.imshow(np.concatenate([image for _, image in strip], axis=1))
    side = strip[0][1].shape[1]
    axes.set(
        xticks=[side * (number + 0.5) for number in range(len(strip))],
        xticklabels=[f"{time:.1f} s" for time, _ in strip],
        yticks=[],
    )


def _most_suspicious(result: VideoResult) -> int:
    """Return the number of the most suspicious person, counted from 0."""
    if not result.tracks:
        raise ArgumentError(f"{result.name}: nothing to draw, {result.message}")
    return max(range(len(result.tracks)), key=lambda person: result.tracks[person].probability)
