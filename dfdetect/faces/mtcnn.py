"""MTCNN, which finds faces with three networks that run one after another (Zhang et al. 2016).

The first network looks at ever smaller copies of an image and proposes boxes. The second and the
third network reject most boxes, and correct the edges of the others.

The networks, their weights and the arithmetic of boxes come from facenet_pytorch. The search in
this module finds the same boxes as the search of facenet_pytorch. It is faster, because it resizes
images with summed-area tables (Crow 1984).
"""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import (
    batched_nms_numpy,
    bbreg,
    generateBoundingBox,
    pad,
    rerec,
)
from torch import nn
from torchvision.ops import batched_nms

from dfdetect.runtime.device import split_on_oom
from dfdetect.runtime.engines import EngineNetwork

# For each of the three networks, the height and width in pixels of an input for which the network
# gives a single answer.
SIDES = 12, 24, 48
# Size of each copy of an image, divided by the size of the copy before.
FACTOR = 0.709
# Maximum number of boxes in a batch. An image of a crowd can have tens of thousands of boxes, which
# would take gigabytes of memory in one batch. The number of boxes in a batch is rounded up to a
# multiple of `STEP`, because engines other than torch compile a network anew for each input size.
BOXES, STEP = 512, 8
# Number of rows that are resized at a time. This many rows fit into the caches of a CPU.
ROWS = 32
# Two boxes with a larger IoU are taken for the same face. The first limit is for boxes from one
# copy of an image, and the second is for boxes from all copies.
SAME_COPY_IOU, SAME_IOU = 0.5, 0.7


class Cascade:
    """The three networks of MTCNN.

    Args:
        device: The device on which the networks run.
        thresholds: For each of the three networks, the confidence (0 to 1) above which the network
            keeps a box.
        engine: Name of the library that runs the networks on a CPU. The function
            `dfdetect.runtime.engines.choose_engine` returns such a name.

    Example:
        >>> cascade = Cascade(torch.device("cpu"), (0.6, 0.7, 0.9))
        >>> cascade.find([image], pyramid(1080, 1920, 24))
        [array([[804.1, 112.3, 986.2, 352.9]], dtype=float32)]
    """

    def __init__(
        self, device: torch.device, thresholds: tuple[float, float, float], engine: str = "torch"
    ):
        self.device = device
        self.thresholds = thresholds
        networks = MTCNN(device=device).to(memory_format=torch.channels_last)

        def make(name: str, side: int, varying: tuple[int, ...]) -> EngineNetwork:
            example = torch.zeros(1, 3, side, side, device=device)
            return EngineNetwork(getattr(networks, name), example, varying, engine)

        self.pnet = make("pnet", 64, (0, 2, 3))
        self.rnet = make("rnet", SIDES[1], (0,))
        self.onet = make("onet", SIDES[2], (0,))

    @torch.inference_mode()
    def find(self, images: Sequence[np.ndarray], scales: Sequence[float]) -> list[np.ndarray]:
        """Return the boxes of the faces in images.

        Args:
            images: RGB uint8 arrays of shape (height, width, 3), all of the same size.
            scales: The scales at which the first network looks at each image. The function
                `pyramid` returns such scales.

        Returns:
            One array per image with the boxes of its faces: x1, y1, x2, y2 in pixels of the image,
            float32 of shape (faces, 4).
        """
        sums = [cv2.integral(image) for image in images]
        boxes, owners = self._propose(sums, scales)
        boxes, owners = self._refine(sums, boxes, owners)
        boxes, owners = self._confirm(sums, boxes, owners)
        return [boxes[owners == number].numpy() for number in range(len(images))]

    @torch.inference_mode()
    def check(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """Return what the third network answers for parts of images.

        Args:
            faces: For each face, the part of an image around it: RGB uint8 of shape (height, width,
                3). The parts may differ in size.

        Returns:
            float64 of shape (parts, 5). The first value of a row is the confidence (0 to 1) that
            the part shows a face. The other values are corrections: the distances from the edges
            x1, y1, x2, y2 of the part to the edges of the face. Distances in x are divided by the
            part's width, and distances in y by the part's height.
        """
        parts = [cv2.integral(face) for face in faces]
        return np.array(self._answers(self.onet, SIDES[2], parts)).reshape(-1, 5)

    def _propose(
        self, sums: Sequence[np.ndarray], scales: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the first network search images, and return the squares that it proposes.

        Args:
            sums: The summed-area table of each image.
            scales: The scales at which the network looks at each image. The function `pyramid`
                returns such scales.

        Returns:
            The squares, of shape (squares, 4), and for each square the index of its image in
            `sums`, of shape (squares,).
        """
        # On a CPU, images are searched one by one, because the network's activations for a single
        # image fit into the caches of the CPU.
        batch = 1 if self.device.type == "cpu" else len(sums)
        found, owners = [torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.int64)]
        for start in range(0, len(sums), batch):
            for scale in scales:
                propose = partial(self._propose_at, scale)
                proposed = split_on_oom(propose, sums[start : start + batch])
                found += proposed
                owners += [
                    torch.full((len(one),), number) for number, one in enumerate(proposed, start)
                ]
        boxes, numbers = torch.cat(found), torch.cat(owners)
        best = batched_nms(boxes[:, :4], boxes[:, 4], numbers, SAME_IOU)
        boxes, numbers = boxes[best], numbers[best]
        sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return rerec(boxes[:, :4] + boxes[:, 5:] * sides), numbers

    def _propose_at(self, scale: float, sums: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Return the boxes that the first network proposes for copies of images at one scale.

        `scale` is the height of a copy, divided by the height of its image. `sums` holds the
        summed-area table of each image. The result has one tensor per image, with one row per box
        and nine columns: the four edges of the box in pixels of the full image, the confidence, and
        the corrections of the four edges.
        """
        height, width = (int((length - 1) * scale + 1) for length in sums[0].shape[:2])
        copies = np.stack([_resize(one, height, width) for one in sums])
        corrections, confidence = (one.cpu() for one in self.pnet(self._to_input(copies)))
        boxes, numbers = generateBoundingBox(
            corrections, confidence[:, 1], scale, self.thresholds[0]
        )
        best = batched_nms(boxes[:, :4], boxes[:, 4], numbers, SAME_COPY_IOU)
        return [boxes[best[numbers[best] == number]] for number in range(len(sums))]

    def _refine(
        self, sums: Sequence[np.ndarray], boxes: torch.Tensor, owners: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the boxes that the second network keeps, and for each box the index of its image.

        The second network corrects the edges of the boxes. The boxes are then enlarged to squares.
        `sums` holds the summed-area table of each image. `owners` holds, for each box, the index of
        its image.
        """
        looked = self._look(self.rnet, SIDES[1], self.thresholds[1], sums, boxes, owners)
        boxes, owners, confidence, corrections = looked
        best = batched_nms(boxes, confidence, owners, SAME_IOU)
        return rerec(bbreg(boxes[best], corrections[best])), owners[best]

    def _confirm(
        self, sums: Sequence[np.ndarray], boxes: torch.Tensor, owners: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the boxes that the third network keeps, and for each box the index of its image.

        The third network corrects the edges of the boxes. `sums` holds the summed-area table of
        each image. `owners` holds, for each box, the index of its image.
        """
        looked = self._look(self.onet, SIDES[2], self.thresholds[2], sums, boxes, owners)
        boxes, owners, confidence, corrections = looked
        boxes = bbreg(boxes, corrections)
        best = batched_nms_numpy(boxes, confidence, owners, SAME_IOU, "Min")
        return boxes[best], owners[best]

    def _look(
        self,
        network: nn.Module,
        side: int,
        threshold: float,
        sums: Sequence[np.ndarray],
        boxes: torch.Tensor,
        owners: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the boxes in which a network sees a face.

        Args:
            network: The second or the third network.
            side: Height and width of the network's input in pixels.
            threshold: The confidence above which a box is kept.
            sums: The summed-area table of each image.
            boxes: The boxes to look at, of shape (boxes, 4).
            owners: For each box, the index of its image in `sums`, of shape (boxes,).

        Returns:
            Four tensors with one row per kept box: the box of shape (4,), the index of its image in
            `sums`, the confidence, and the corrections of the four edges, of shape (4,).
        """
        height, width = (length - 1 for length in sums[0].shape[:2])
        tops, bottoms, lefts, rights = pad(boxes, width, height)
        tops, lefts = tops - 1, lefts - 1
        inside = np.flatnonzero((tops < bottoms) & (lefts < rights))
        boxes, owners = boxes[inside], owners[inside]
        parts = [
            sums[owner][tops[row] : bottoms[row] + 1, lefts[row] : rights[row] + 1]
            for row, owner in zip(inside, owners.tolist(), strict=True)
        ]
        answers = self._answers(network, side, parts)
        confidence, corrections = torch.tensor(answers).reshape(-1, 5).split((1, 4), 1)
        kept = confidence[:, 0] > threshold
        return boxes[kept], owners[kept], confidence[kept, 0], corrections[kept]

    def _answers(
        self, network: nn.Module, side: int, parts: Sequence[np.ndarray]
    ) -> list[list[float]]:
        """Call `_answer` with one batch of parts after another, and return all rows."""
        answers: list[list[float]] = []
        for start in range(0, len(parts), BOXES):
            answer = partial(self._answer, network, side)
            answers += split_on_oom(answer, parts[start : start + BOXES])
        return answers

    def _answer(
        self, network: nn.Module, side: int, parts: Sequence[np.ndarray]
    ) -> list[list[float]]:
        """Return what a network answers for parts of images: one row per part.

        A row has the five values that `check` describes: the confidence that the part shows a face,
        and four corrections. `parts` holds, for each part, a section of a summed-area table. The
        docstring of `_resize` describes this section.
        """
        inputs = np.zeros((-(-len(parts) // STEP) * STEP, side, side, 3), np.float32)
        for number, part in enumerate(parts):
            inputs[number] = _resize(part, side, side)
        corrections, *_, confidence = network(self._to_input(inputs))
        return torch.cat([confidence[:, 1:], corrections], 1)[: len(parts)].tolist()

    def _to_input(self, images: np.ndarray) -> torch.Tensor:
        """Turn RGB images of shape (images, height, width, 3) into an input of the networks."""
        return (torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2) - 127.5) / 128


def pyramid(height: int, width: int, min_face: float, smallest: float = 0) -> list[float]:
    """Return the scales at which the first network looks at an image.

    The first network looks at several resized copies of the image. A scale is the height of a copy,
    divided by the height of the image. The largest scale comes first.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        min_face: Height in pixels of the smallest face that can be found. It determines the largest
            scale.
        smallest: Height in pixels of the smallest face that must be found. Scales that only smaller
            faces need are left out. By default, no scale is left out.

    Example:
        >>> [round(scale, 3) for scale in pyramid(90, 160, 24)]
        [0.5, 0.354, 0.251, 0.178]
    """
    scales = []
    scale = SIDES[0] / min_face
    while min(height, width) * scale >= SIDES[0]:
        scales.append(scale)
        scale *= FACTOR
    return [scale for scale in scales if FACTOR * scale * smallest < SIDES[0]]


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink an image to a size (width, height) by averaging pixels."""
    # Halving is much faster than shrinking by other factors.
    while image.shape[1] >= 2 * size[0] and image.shape[0] >= 2 * size[1]:
        half = image.shape[1] // 2, image.shape[0] // 2
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _resize(sums: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a rectangular part of an image, resized with the image's summed-area table.

    OpenCV's `integral` makes such tables. Each pixel of the result covers some pixels of the part,
    and is the mean of these pixels, as in torch's `adaptive_avg_pool2d`.

    Args:
        sums: The section of the table that covers the part. If the part has n rows and m columns of
            pixels, the section has n + 1 rows and m + 1 columns.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        RGB levels, float32 of shape (height, width, 3).
    """
    above, below = _bins(len(sums) - 1, height)
    before, after = _bins(sums.shape[1] - 1, width)
    resized = np.empty((height, width, 3), np.float32)
    for start in range(0, height, ROWS):
        part = slice(start, start + ROWS)
        rows = sums[below[part]]
        rows -= sums[above[part]]
        totals = rows.take(after, axis=1)
        totals -= rows.take(before, axis=1)
        pixels = (below[part] - above[part])[:, None, None] * (after - before)[:, None]
        np.divide(totals, pixels, out=resized[part], casting="unsafe")
    return resized


def _bins(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide a length into `count` equal parts, and return the starts and the ends of the parts.

    Both arrays are int64 of shape (count,). Starts are rounded down, and ends are rounded up.
    """
    edges = np.arange(count + 1) * length
    return edges[:-1] // count, -(-edges[1:] // count)
