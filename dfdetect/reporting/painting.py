"""Annotate videos and images: draw boxes around faces, and a panel with the curves of P(FAKE).

P(FAKE) is the detector's score, from 0 (REAL) to 1 (FAKE). A person is one face that was tracked
through a video.
"""

import json
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfdetect.results import Box, OperatingPoints, TrackResult, VideoResult
from dfdetect.video.discovery import IMAGE_SUFFIXES
from dfdetect.video.isolated import limit_memory
from dfdetect.video.planes import Planes
from dfdetect.video.reader import ANNOTATED, VideoError, read_frames
from dfdetect.video.rewriting import rewrite_video

# RGB colours that mark the people in a video. Colour-blind viewers can tell these colours apart
# (Okabe & Ito 2008), and black text is readable on each colour.
PERSON_COLOURS = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((204, 121, 167), (213, 94, 0), (255, 255, 255)),
)
# Frames with a side of more than LONGEST_SIDE pixels are reduced, because encoding them would take
# longer than detection. Frames narrower than NARROWEST pixels are enlarged, so that the text fits.
LONGEST_SIDE, NARROWEST = 1280, 480
# A face is assumed to keep its place for this number of seconds before and after a sampled frame
# that shows the face.
NEARBY = 1.0
# Where a person's box is not interpolated, the person has a box only if a sampled frame that shows
# the person is at most this share of the sampling interval away.
REACH = 0.55
# A person's curve has a gap between two successive frames of the person that are more than this
# number of sampling intervals apart.
BREAK = 2.5
# Height of letters, as a share of the frame's width, and the smallest and the largest height in
# pixels.
LETTER_SHARE, SMALLEST_LETTER, LARGEST_LETTER = 1 / 40, 14, 32
# Lengths in the panel, as multiples of the height of letters: the space above the chart, the height
# of the chart, the space below it, and the space on each side of it.
CHART_TOP, CHART_HEIGHT, CHART_BOTTOM, CHART_SIDE = 2.6, 4.5, 1.9, 2.0
# The panel is drawn larger by this factor and then reduced, so that lines have smooth edges.
SMOOTH = 2
IMAGE_QUALITY = 95
DISCLAIMER = "an estimate, not proof"
BLACK, WHITE, PANEL = (0, 0, 0), (255, 255, 255), (18, 20, 24)
LIGHT, GREY, LINE = (205, 208, 214), (155, 159, 167), (80, 84, 92)
# Opacity of the curves after the time of the current frame.
FAINT = 0.35


class PersonPath:
    """The bounding box and P(FAKE) of one person at any time of the video.

    The detector gives a box and a P(FAKE) only for the sampled frames that show the person. At any
    other time, these rules apply:

    - Between two such frames that are at most 2 seconds apart, the box and P(FAKE) are
      interpolated.
    - Otherwise, the nearest such frame is used if it is at most 1 second and at most 0.55 sampling
      intervals away.
    - Otherwise, the box and P(FAKE) are unknown.

    Args:
        track: The detector's result for the person.
        interval: Seconds from one sampled frame of the video to the next.

    Example:
        >>> path = PersonPath(TrackResult(0.8, [1.0, 2.0], [(0, 0, 8, 8)] * 2, [0.7, 0.9]), 1.0)
        >>> path.at(1.5)
        ((0.0, 0.0, 8.0, 8.0), 0.8)
        >>> path.at(9.0) is None
        True
    """

    def __init__(self, track: TrackResult, interval: float):
        self.times = np.array(track.times)
        self.values = np.column_stack([np.array(track.boxes), track.frame_probabilities])
        self.reach = min(NEARBY, REACH * interval)

    def at(self, time: float) -> tuple[Box, float] | None:
        """Return the box and P(FAKE) at a time in seconds, or None if they are unknown."""
        after = int(np.searchsorted(self.times, time))
        near = [place for place in (after - 1, after) if 0 <= place < len(self.times)]
        first, last = near[0], near[-1]
        gap = self.times[last] - self.times[first]
        if 0 < gap <= 2 * NEARBY:
            share = (time - self.times[first]) / gap
            values = (1 - share) * self.values[first] + share * self.values[last]
        else:
            nearest = min(near, key=lambda place: abs(self.times[place] - time))
            if abs(self.times[nearest] - time) > self.reach:
                return None
            values = self.values[nearest]
        x1, y1, x2, y2, probability = values.tolist()
        return (x1, y1, x2, y2), probability


class BoxPainter:
    """Draws people's bounding boxes and P(FAKE) on each frame, and a panel below the frame.

    The frame and the panel together are called the picture. The panel shows the verdict, and a
    curve of P(FAKE) over time for each person. The curves are bright up to the time of the frame,
    and faint after this time.

    Args:
        result: The detector's result for the video, with at least one person.
        width: Width of a frame in pixels, after the frame was turned upright.
        height: Height of a frame in pixels, after the frame was turned upright.
        seconds: Time from the first frame to the last, in seconds, or 0 for an image. For an image,
            no curves are drawn.

    Attributes:
        frame_size: Width and height in pixels of the resized frame.
        size: Width and height in pixels of the whole picture. Both are even. The frame is in the
            top left corner of the picture.
    """

    def __init__(self, result: VideoResult, width: int, height: int, seconds: float):
        self.scale = min(LONGEST_SIDE / max(width, height), max(1, NARROWEST / width))
        self.frame_size = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        wanted = round(self.frame_size[0] * LETTER_SHARE)
        self.letter = min(LARGEST_LETTER, max(SMALLEST_LETTER, wanted))
        interval = sampling_interval(result)
        self.paths = [PersonPath(track, interval) for track in result.tracks]
        self.colours = [Planes.colour(person_colour(place)) for place in range(len(self.paths))]
        self.black, self.white = Planes.colour(BLACK), Planes.colour(WHITE)
        even = [-(-side // 2) * 2 for side in self.frame_size]
        panels = [
            Planes.of_rgb(_draw_panel(result, even[0], self.letter, seconds, interval, strength))
            for strength in (FAINT, 1.0)
        ]
        self.faint_panel, self.bright_panel = panels
        self.top = even[1]
        self.seconds = seconds
        self.size = even[0], even[1] + self.bright_panel.frame.height
        self.label = lru_cache(maxsize=1000)(self._draw_label)

    def draw(self, picture: Planes, time: float) -> None:
        """Draw the people's boxes, and the panel, on a picture.

        Args:
            picture: The picture to draw on. It already contains the resized frame. Its width and
                height are `self.size`.
            time: Time of the frame in seconds since the first frame.
        """
        for place, path in enumerate(self.paths):
            found = path.at(time)
            if found is not None:
                self._draw_person(picture, place, *found)
        self._draw_panel(picture, time)

    def _draw_person(self, picture: Planes, place: int, box: Box, probability: float) -> None:
        width, height = self.frame_size
        limits = (width, height, width, height)
        left, top, right, bottom = (
            int(np.clip(round(edge * self.scale), 0, limit))
            for edge, limit in zip(box, limits, strict=True)
        )
        thickness = max(2, self.letter // 10 * 2)
        # A dark outline makes the box visible on any background.
        rim = (left - 2, top - 2, right + 2, bottom + 2)
        picture.outline(_within(rim, limits), self.black, thickness + 4)
        picture.outline((left, top, right, bottom), self.colours[place], thickness)
        label = self.label(place, round(probability, 2))
        above = top - label.frame.height
        across = max(0, min(left, width - label.frame.width))
        picture.paste(label, across, above if above >= 0 else top)

    def _draw_panel(self, picture: Planes, time: float) -> None:
        picture.paste(self.faint_panel, 0, self.top)
        if not self.seconds:
            return
        left, top, right, bottom = _chart_box(picture.frame.width, self.letter)
        now = round(left + (right - left) * min(1.0, time / self.seconds))
        picture.paste(self.bright_panel.left_part(now), 0, self.top)
        picture.fill((now, self.top + top, now + 2, self.top + bottom), self.white)

    def _draw_label(self, place: int, probability: float) -> Planes:
        text = f"{place + 1}: {probability:.2f}"
        font = _font(self.letter, bold=True)
        width = -(-(round(font.getlength(text)) + self.letter) // 2) * 2
        image = Image.new("RGB", (width, round(self.letter * 0.7) * 2), person_colour(place))
        middle = width / 2, image.height / 2
        ImageDraw.Draw(image).text(middle, text, BLACK, font, anchor="mm")
        return Planes.of_rgb(np.asarray(image))


def person_colour(place: int) -> tuple[int, int, int]:
    """Return the RGB colour of a person. Some people share a colour if there are many people.

    Args:
        place: Index of the person's track in the result.
    """
    return PERSON_COLOURS[place % len(PERSON_COLOURS)]


def sampling_interval(result: VideoResult) -> float:
    """Return the median time in seconds between two successive sampled frames that show a face.

    If fewer than two sampled frames show a face, 1 second is returned.
    """
    times = sorted({time for track in result.tracks for time in track.times})
    return float(np.median(np.diff(times))) if len(times) > 1 else NEARBY


def paint_image(image: np.ndarray, result: VideoResult) -> np.ndarray:
    """Return a copy of an image with a box around each face and a panel with the verdict.

    Args:
        image: RGB uint8 of shape (height, width, 3).
        result: The detector's result for the image, with at least one person.

    Returns:
        RGB uint8 of shape (new height, new width, 3). The image is resized as described in
        `dfdetect.reporting.overlay.annotate`. The panel is below the image.
    """
    import av

    height, width = image.shape[:2]
    painter = BoxPainter(result, width, height, 0)
    picture = Planes.of_size(*painter.size)
    picture.place(av.VideoFrame.from_ndarray(image, format="rgb24"), *painter.frame_size)
    painter.draw(picture, result.tracks[0].times[0])
    return picture.frame.to_ndarray(format="rgb24")


def main(threads: int) -> None:
    """Annotate one video or image. A separate process runs this function.

    The function reads a JSON object from standard input. Its entries are `path` (the file to
    annotate), `out` (the file to write) and `result` (a dictionary that `VideoResult.to_dict`
    returned). If the video or image cannot be read, the function writes a JSON object with the
    entries `status` and `details` to standard output.

    Args:
        threads: Number of decoding threads, which is also the number of encoding threads.
    """
    request = json.loads(sys.stdin.buffer.read())
    path, out, result = request["path"], request["out"], VideoResult.from_dict(request["result"])
    limit_memory()
    try:
        if Path(path).suffix.lower() in IMAGE_SUFFIXES:
            (frame,) = read_frames(path, 1)
            Image.fromarray(paint_image(frame.image, result)).save(out, quality=IMAGE_QUALITY)
        else:
            rewrite_video(path, out, partial(BoxPainter, result), threads, ANNOTATED)
    except VideoError as error:
        print(json.dumps({"status": error.status.value, "details": error.details}))


def _within(box: Sequence[int], limits: Sequence[int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (
        min(max(edge, 0), limit) for edge, limit in zip(box, limits, strict=True)
    )
    return left, top, right, bottom


def _chart_box(width: int, letter: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom edges of the chart in the panel, in pixels.

    `width` is the width of the panel, and `letter` is the height of letters, both in pixels.
    """
    side = round(CHART_SIDE * letter)
    top = round(CHART_TOP * letter)
    return side, top, width - side, top + round(CHART_HEIGHT * letter)


def _draw_panel(
    result: VideoResult, width: int, letter: int, seconds: float, interval: float, strength: float
) -> np.ndarray:
    """Return the panel with the verdict and the curves: RGB uint8 of shape (height, width, 3).

    Args:
        result: The detector's result for the video.
        width: Width of the panel in pixels.
        letter: Height of letters in pixels.
        seconds: Duration of the video in seconds. 0 means that no curves are drawn.
        interval: Seconds from one sampled frame to the next. Where a person is missing for more
            than `BREAK` intervals, the person's curve has a gap.
        strength: Opacity of the curves, 0 to 1.
    """
    chart = CHART_HEIGHT + CHART_BOTTOM if seconds else 0
    height = -(-round((CHART_TOP + chart) * letter) // 2) * 2
    image = Image.new("RGB", (width * SMOOTH, height * SMOOTH), PANEL)
    draw = ImageDraw.Draw(image)
    _draw_verdict(draw, result, width * SMOOTH, letter * SMOOTH)
    if seconds:
        box = [SMOOTH * edge for edge in _chart_box(width, letter)]
        _draw_scale(draw, box, letter * SMOOTH, seconds, result.operating_points)
        for place, track in enumerate(result.tracks):
            colour = tuple(
                round(strength * one + (1 - strength) * other)
                for one, other in zip(person_colour(place), PANEL, strict=True)
            )
            x, y = _draw_curve(draw, box, letter * SMOOTH, seconds, track, interval, colour)
            font = _font(round(0.8 * letter * SMOOTH), bold=True)
            draw.text((x, y), f" {place + 1}", person_colour(place), font, anchor="lm")
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _draw_verdict(draw: ImageDraw.ImageDraw, result: VideoResult, width: int, letter: int) -> None:
    probability = f"P(FAKE) {result.probability:.2f}"
    verdict = probability if result.verdict is None else f"{result.verdict}: {probability}"
    bold, plain = _font(letter, bold=True), _font(letter, bold=False)
    room = width - letter - bold.getlength(verdict) - plain.getlength(f"  {DISCLAIMER}")
    if room < letter:
        smaller = max(1, int(letter * (width - 2 * letter) / (width - letter - room)))
        bold, plain = _font(smaller, bold=True), _font(smaller, bold=False)
    line = CHART_TOP / 2 * letter
    draw.text((letter / 2, line), verdict, WHITE, bold, anchor="lm")
    draw.text((width - letter / 2, line), DISCLAIMER, LIGHT, plain, anchor="rm")


def _draw_scale(
    draw: ImageDraw.ImageDraw,
    box: Sequence[int],
    letter: int,
    seconds: float,
    thresholds: OperatingPoints | None,
) -> None:
    """Draw the axes of the curves, a line for each threshold, and a caption with the thresholds.

    `box` holds the left, top, right and bottom edges of the chart, and `letter` is the height of
    letters. Both are in pixels of the drawing, before it is reduced by the factor `SMOOTH`.
    """
    left, top, right, bottom = box
    font = _font(round(0.8 * letter), bold=False)
    levels, text = [0.0, 1.0], "P(FAKE) over time"
    if thresholds is not None:
        levels += [thresholds.uncertain, thresholds.fake]
        text += (
            f"; lines: uncertain above {thresholds.uncertain:.3f}, fake above {thresholds.fake:.3f}"
        )
    for level in levels:
        y = bottom - level * (bottom - top)
        draw.line((left, y, right, y), LINE, SMOOTH)
    for level, y in ((0, bottom), (1, top)):
        draw.text((left - letter / 3, y), f"{level}", GREY, font, anchor="rm")
    line = bottom + 0.9 * letter
    draw.text((left, line), text, GREY, font, anchor="lm")
    draw.text((right, line), _clock(seconds), GREY, font, anchor="rm")


def _draw_curve(
    draw: ImageDraw.ImageDraw,
    box: Sequence[int],
    letter: int,
    seconds: float,
    track: TrackResult,
    interval: float,
    colour: tuple[int, ...],
) -> tuple[float, float]:
    """Draw a person's P(FAKE) over time, and return the position (x, y) of the curve's end."""
    left, top, right, bottom = box
    points = [
        (left + (right - left) * time / seconds, bottom - (bottom - top) * probability)
        for time, probability in zip(track.times, track.frame_probabilities, strict=True)
    ]
    gaps = np.diff(track.times)
    for start, end, gap in zip(points[:-1], points[1:], gaps, strict=True):
        if gap <= BREAK * interval:
            draw.line((*start, *end), colour, letter // 8)
    radius = letter // 8
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return points[-1]


def _clock(seconds: float) -> str:
    """Return a time as minutes and seconds, such as `1:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


@lru_cache
def _font(height: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), height)
