"""Put the face of one person into a video of another, as face-swapping tools do.

The donor's face is bent to the mesh of the target's face in each frame, drawn at the small size
that such tools use, matched in colours and shadows, and blended in under a soft mask of the inner
face. Landmarks and colours are smoothed over time.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from mediapipe.python.solutions.face_mesh import FaceMesh
from mediapipe.python.solutions.face_mesh_connections import FACEMESH_FACE_OVAL
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import gaussian_filter1d

# Points of the face mesh that keep their place when a face changes its expression: the bridge and
# the base of the nose, the corners of the eyes.
STEADY = [168, 6, 197, 195, 2, 98, 327, 33, 133, 263, 362]
OUTLINE = sorted({point for edge in FACEMESH_FACE_OVAL for point in edge})
FOREHEAD = {109, 10, 338, 67, 297, 103, 332, 54, 284, 21, 251}
CHEEKS_AND_CHIN = [point for point in OUTLINE if point not in FOREHEAD]
BROWS = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
EYES = [(33, 133, 159, 145), (263, 362, 386, 374)]  # corners, upper lid, lower lid
MESH_POINTS = 468  # the points after these are the irises, which eyelids cover
SIDE = 160  # pixels: swapping tools draw a face in a square of 128 to 256 pixels
MARGIN = 1.15  # side of the square, in heights of the face
INNER = 0.86  # where the mask ends on the way from the middle of the face to its outline
ABOVE_BROWS = 1.15  # the same for the brows: the mask ends above them, and below the hair
SHUT, OPEN = 0.06, 0.12  # height of the eye in its widths
FEATHER = 0.05  # width of the mask's soft edge, in sides of the square
SEAM = 1.2  # pixels of the square, over which narrow triangles of the mesh are smoothed
LIGHT = 0.15  # size of the smallest shadow that is taken from the target, in sides of the square
JITTER = 1.0  # frames: landmarks are averaged over about twice as many before and after
FLICKER = 6.0  # frames: the same for colours


def landmarks(frames: list[np.ndarray], title: str) -> np.ndarray:
    """Find the face mesh in each of `frames` (RGB uint8) and smooth it over time.

    Returns x and y in pixels, of shape (frames, 468, 2). Raises ValueError, which names `title`,
    if a frame shows no face.
    """
    found = []
    with FaceMesh(max_num_faces=1, refine_landmarks=True) as mesh:
        for number, frame in enumerate(frames):
            faces = mesh.process(frame).multi_face_landmarks
            if not faces:
                raise ValueError(f"{title}: no face in frame {number}; choose another start")
            points = faces[0].landmark[:MESH_POINTS]
            height, width = frame.shape[:2]
            found.append([(point.x * width, point.y * height) for point in points])
    return gaussian_filter1d(np.array(found), JITTER, axis=0, mode="nearest")


def swap(frames: list[np.ndarray], donors: list[np.ndarray], title: str) -> Iterator[np.ndarray]:
    """Give the face in `frames` the looks of the one in `donors`, frame by frame (RGB uint8).

    The face keeps the target's pose. It has the target's expression, and the changes of the
    donor's. `donors` are as many as `frames`, or one picture for all of them.
    """
    donors = donors if len(donors) > 1 else donors * len(frames)
    target, source = landmarks(frames, title), landmarks(donors, title)
    goal = target + expression(source, target)
    squares = [square_around(points) for points in goal]
    drawn = [draw_face(*each) for each in zip(donors, source, goal, squares, strict=True)]
    originals = [
        cv2.warpAffine(frame, square, (SIDE, SIDE), flags=cv2.INTER_AREA)
        for frame, square in zip(frames, squares, strict=True)
    ]
    masks = [
        inner_face(cv2.transform(points[None], square)[0])
        for points, square in zip(target, squares, strict=True)
    ]
    faces = match_light(drawn, originals, masks)
    for each in zip(frames, faces, masks, squares, strict=True):
        yield blend(*each)


def blend(frame: np.ndarray, face: np.ndarray, mask: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Lay the face of the square over the frame where the mask of the square shows it."""
    size = frame.shape[1::-1]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(face, square, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, square, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    blended = frame + weight[..., None] * (laid - frame.astype(np.float32))
    return np.clip(np.round(blended), 0, 255).astype(np.uint8)


def expression(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How far the donor's expression moved each point since the first frame, in target pixels."""
    moved = []
    for points, goal in zip(source, target, strict=True):
        now, first = (align(each, goal) for each in (points, source[0]))
        moved.append(now - first)
    return np.array(moved)


def align(points: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Shift, turn and scale `points` so that the steady ones lie on those of `goal`."""
    matrix, _ = cv2.estimateAffinePartial2D(points[STEADY], goal[STEADY], method=cv2.LMEDS)
    return cv2.transform(points[None], matrix)[0]


def square_around(points: np.ndarray) -> np.ndarray:
    """The matrix from the pixels of a frame to those of an upright square around the face."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = SIDE / (MARGIN * (high - low).max())
    shift = SIDE / 2 - scale * (low + high) / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def draw_face(
    donor: np.ndarray, points: np.ndarray, goal: np.ndarray, square: np.ndarray
) -> np.ndarray:
    """The donor's face in the square, each point of its mesh moved to `goal`; float32 RGB."""
    place = LinearNDInterpolator(cv2.transform(goal[None], square)[0], points)
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    # Outside the mesh, where the mask is empty, any colour will do.
    maps = np.nan_to_num(place(columns, rows), nan=0.0).astype(np.float32)
    maps = cv2.GaussianBlur(maps, (0, 0), SEAM)
    drawn = cv2.remap(donor, maps[..., 0], maps[..., 1], cv2.INTER_CUBIC)
    return drawn.astype(np.float32)


def inner_face(points: np.ndarray) -> np.ndarray:
    """A mask of the square, 1 within the inner face and falling to 0 at its edge; float32.

    An eye that is shut is left out: the lids of an open eye cannot be drawn together.
    """
    centre = points[STEADY].mean(axis=0)
    mask = fill(centre + INNER * (points[OUTLINE] - centre))
    brows = centre + ABOVE_BROWS * (points[BROWS] - centre)
    mask = mask * fill(np.concatenate([points[CHEEKS_AND_CHIN], brows]))
    radius = round(2 * FEATHER * SIDE)
    mask = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (radius, radius)))
    for eye in EYES:
        outer, inner, upper, lower = points[list(eye)]
        width = np.linalg.norm(outer - inner)
        height = (lower - upper) @ [0, 1] / width
        shown = float(np.clip((height - SHUT) / (OPEN - SHUT), 0, 1))
        middle = np.round((outer + inner) / 2).astype(int).tolist()
        hidden = np.zeros_like(mask)
        cv2.circle(hidden, middle, round(0.7 * width), 1 - shown, thickness=-1)
        mask = mask * (1 - hidden)
    return cv2.GaussianBlur(mask, (0, 0), FEATHER * SIDE / 2)


def fill(points: np.ndarray) -> np.ndarray:
    """A picture of the square, 1 within the convex hull of `points` and 0 outside; float32."""
    mask = np.zeros((SIDE, SIDE), np.float32)
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    return cv2.fillConvexPoly(mask, hull, 1.0)


def match_light(
    faces: list[np.ndarray], goals: list[np.ndarray], masks: list[np.ndarray]
) -> list[np.ndarray]:
    """Give `faces` the colours and the soft shadows of `goals` within `masks`; float32 RGB.

    Colours are matched by mean and spread in Lab (Reinhard et al. 2001).
    """
    lab_faces, lab_goals = ([to_lab(image) for image in images] for images in (faces, goals))
    now, wanted = (
        gaussian_filter1d(
            [colours(*pair) for pair in zip(images, masks, strict=True)], FLICKER, axis=0
        )
        for images in (lab_faces, lab_goals)
    )
    lit = []
    for number, (face, goal, mask) in enumerate(zip(lab_faces, lab_goals, masks, strict=True)):
        (mean, spread), (wanted_mean, wanted_spread) = now[number], wanted[number]
        face = (face - mean) * (wanted_spread / spread) + wanted_mean
        face = face + soft(goal - face, mask)
        lit.append(255 * cv2.cvtColor(face.astype(np.float32), cv2.COLOR_LAB2RGB))
    return lit


def to_lab(image: np.ndarray) -> np.ndarray:
    """RGB of 0 to 255 in Lab, float32."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def colours(lab: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean and spread of each channel within the mask, of shape (2, 3)."""
    inside = lab[mask > 0.5]
    return np.array([inside.mean(axis=0), np.maximum(inside.std(axis=0), 1)])


def soft(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blur `image` with no regard to what lies outside the mask."""
    weight = cv2.GaussianBlur(mask, (0, 0), LIGHT * SIDE)
    blurred = cv2.GaussianBlur(image * mask[..., None], (0, 0), LIGHT * SIDE)
    return blurred / np.maximum(weight, 1e-3)[..., None]
