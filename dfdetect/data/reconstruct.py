"""Make fakes by reconstructing REAL crops with small autoencoders.

An autoencoder compresses a face and synthesises it again. Generators of talking heads do so too.
The REAL crop and its reconstruction show the same face in the same pose and light, with the same
colours, and are stored with the same compression. They differ only by the synthesis.

The method is described by Rajan et al., "Aligned Datasets Improve Detection of Latent
Diffusion-Generated Images", ICLR 2025, and by Guillaro et al., "A Bias-Free Training Paradigm for
More General AI-generated Image Detection", CVPR 2025. The papers use the autoencoders of large
diffusion models. Here, small autoencoders are trained within minutes, on the same REAL crops.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image, JpegImagePlugin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2
from tqdm import tqdm

from dfdetect.data.faceset import GROUP, RECONSTRUCTION, FaceSet, FaceSetError, ImageLocation
from dfdetect.data.writer import EncodedCrop, FaceSetWriter
from dfdetect.defaults import AUTOENCODER_STEPS
from dfdetect.errors import ArgumentError, InputError
from dfdetect.files import atomic_path, require_writable
from dfdetect.models.autoencoder import Autoencoder, AutoencoderSpec, PatchDiscriminator
from dfdetect.runtime.device import choose_device

AUTOENCODERS: dict[str, AutoencoderSpec] = {
    "nearest-4": AutoencoderSpec("nearest", 4, 4, 32, adversarial=True),
    "nearest-8": AutoencoderSpec("nearest", 8, 24, 32),
    "bilinear-4": AutoencoderSpec("bilinear", 4, 6, 32),
    "bilinear-8": AutoencoderSpec("bilinear", 8, 16, 32, adversarial=True),
    "transposed-4": AutoencoderSpec("transposed", 4, 8, 32),
    "transposed-8": AutoencoderSpec("transposed", 8, 32, 32, adversarial=True),
    "shuffle-4": AutoencoderSpec("shuffle", 4, 4, 32, adversarial=True),
    "shuffle-8": AutoencoderSpec("shuffle", 8, 16, 32),
}
# Training: number of pieces in a batch, and side of a piece in pixels. A piece is a square part of
# a crop.
BATCH = 8
PIECE = 96
# For training, a crop is resized to a random side within these limits, in pixels, before a piece is
# cut from the crop. For reconstruction, the random side is one of `DRAWN_SIDES`.
SIDES = (96, 224)
DRAWN_SIDES = range(96, 225, 8)
LEARNING_RATE = 2e-3
GRADIENT_WEIGHT = 1.0
ADVERSARIAL_WEIGHT = 0.03
# Share of the training steps that pass before the discriminator is used.
ADVERSARIAL_START = 0.4
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
# The colours of a reconstruction are corrected on this scale: standard deviation of the blur, as a
# share of the crop's side.
COLOUR_SCALE = 1 / 16
SAMPLES = 8
RECENT_STEPS = 50
COPIED_COLUMNS = ("source", "actor_group", "video", "track", "frame", "time", "native_px")
COLUMNS = ["id", "label", "original", "method", "kind", "side", *COPIED_COLUMNS]


def reconstruct(
    faces: Sequence[str | Path],
    out: str | Path,
    *,
    autoencoders: Sequence[str] = tuple(AUTOENCODERS),
    steps: int = AUTOENCODER_STEPS,
    copies: int = 1,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Train autoencoders on REAL crops, and write a face set of the reconstructed crops.

    The folder `NAME.autoencoders/` beside the new index `NAME.csv` holds the trained autoencoders,
    and a picture `samples.png` with some REAL crops and their reconstructions. If a run was
    stopped, a call with the same arguments continues the run.

    Args:
        faces: Indexes of the face sets whose REAL crops are used.
        out: The index to write, called `NAME.csv`. Four of its columns describe a reconstruction:
            `original` (id of the REAL crop), `method` (name of the autoencoder), `kind` (always
            `reconstruction`) and `side` (side in pixels at which the crop was reconstructed).
            Columns such as `source`, `actor_group` and `track` are copied from the REAL crop.
        autoencoders: Names of the autoencoders to use: keys of `AUTOENCODERS`.
        steps: Number of training steps of each autoencoder.
        copies: Number of reconstructions of each crop, at most the number of `autoencoders`. Each
            reconstruction of a crop is made by another autoencoder, chosen at random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        seed: Seed of the autoencoders' initial weights and of all random choices.
        progress: Whether to show progress bars.

    Returns:
        The index of the new face set, as a table.

    Raises:
        FaceSetError: A face set cannot be used, or has no REAL crops.
        ArgumentError: An autoencoder is unknown or named twice, a number is out of range, or `out`
            was made with other settings or from other REAL crops.
        InputError: `out` exists and was not made by this function, or the file of a trained
            autoencoder is damaged.

    Example:
        >>> reconstruct(["train.csv"], "reconstructions.csv", steps=200)["label"].unique()
        array(['FAKE'], dtype=object)
    """
    out = Path(out)
    _check(autoencoders, steps, copies)
    require_writable(out)
    torch_device = choose_device(device)
    joined = FaceSet.join([FaceSet.read(index) for index in faces])
    real = joined.select(joined.labels == 0)
    if not len(real):
        raise FaceSetError(f"{', '.join(map(str, faces))}: no REAL crops to reconstruct")
    folder = out.with_suffix(".autoencoders")
    made_by = {"autoencoders": list(autoencoders), "copies": copies, "seed": seed, "steps": steps}
    made_by["colour_scale"] = COLOUR_SCALE  # earlier versions did not correct the colours
    settings = json.dumps({**made_by, "crops": _digest(real)})
    log = out.with_suffix(".reconstruct.csv")
    # The writer refuses other settings, before autoencoders are trained with them.
    with FaceSetWriter(out, log, COLUMNS, ["id"], settings) as writer:
        nets = {
            name: _trained(
                name, real, folder / f"{name}.safetensors", steps, seed, torch_device, progress
            )
            for name in autoencoders
        }
        _draw_samples(nets, real, folder / "samples.png")
        jobs = list(_plan(real, autoencoders, copies, seed))
        done = len(writer.done)
        bar = tqdm(total=len(jobs), initial=done, desc="faces", unit="crop", disable=not progress)
        with bar:
            for row, name, side, interpolation in jobs[done:]:
                original = real.image(row)
                drawn = _redraw(nets[name], original, side, interpolation)
                image = _keep_colours(drawn, original)
                description = _describe(real, row, name, side)
                crop = EncodedCrop(description, *_encode_like(real.locations[row], image))
                writer.add({"id": description["id"]}, [crop])
                bar.update()
    return FaceSet.read(out).table


def train_autoencoder(
    spec: AutoencoderSpec,
    faces: FaceSet,
    *,
    steps: int = AUTOENCODER_STEPS,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool = False,
    title: str = "autoencoder",
) -> Autoencoder:
    """Train an autoencoder on random pieces of crops, and return it.

    The loss is the mean absolute error of the pixels, plus the same error of the differences
    between neighbouring pixels. If `spec.adversarial` is True, a patch discriminator with the hinge
    loss (Lim & Ye 2017) adds a term to the loss after two fifths of the steps.

    Args:
        spec: The design of the autoencoder.
        faces: The crops for training.
        steps: Number of steps.
        device: The device on which the training runs.
        seed: Seed of the initial weights and of all random choices.
        progress: Whether to show a progress bar.
        title: Text before the progress bar.

    Returns:
        The autoencoder, in evaluation mode, on the device.
    """
    torch.manual_seed(seed)
    net = Autoencoder(spec).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, betas=(0.5, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    critic = _Critic(device) if spec.adversarial else None
    losses: list[float] = []
    with tqdm(total=steps, desc=title, unit="step", disable=not progress) as bar:
        for step, images in enumerate(_pieces(faces, steps, seed)):
            images = images.to(device).float() / 127.5 - 1
            drawn = net(images)
            loss = _difference(drawn, images)
            if critic and step >= ADVERSARIAL_START * steps:
                loss = loss + ADVERSARIAL_WEIGHT * critic.judge(drawn, images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{np.mean(losses[-RECENT_STEPS:]):.4f}", refresh=False)
            bar.update()
    return net.eval()


class _Critic:
    """A patch discriminator and its optimiser."""

    def __init__(self, device: torch.device | str):
        self.net = PatchDiscriminator().to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), LEARNING_RATE, betas=(0.5, 0.99))

    def judge(self, drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Train the discriminator for one step, and return the adversarial loss of the autoencoder.

        Args:
            drawn: Reconstructions, float32 of shape (batch, 3, height, width), from -1 to 1.
            images: The images that were reconstructed, in the same shape and range.
        """
        real, fake = self.net(images), self.net(drawn.detach())
        loss = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return -self.net(drawn).mean()


class _Pieces(Dataset):
    """A dataset of random pieces of crops, uint8 of shape (3, PIECE, PIECE).

    Each access cuts a new piece. The random numbers come from torch's global generator.
    """

    def __init__(self, faces: FaceSet):
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, row: int) -> torch.Tensor:
        image = torch.from_numpy(self.faces.image(row)).permute(2, 0, 1)
        side = int(torch.randint(SIDES[0], SIDES[1] + 1, ()))
        image = v2.functional.resize(image, [side, side], antialias=True)
        return v2.RandomHorizontalFlip()(v2.RandomCrop(PIECE)(image))


def _pieces(faces: FaceSet, steps: int, seed: int) -> Iterator[torch.Tensor]:
    order = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(faces, replacement=True, num_samples=steps * BATCH, generator=order)
    return iter(DataLoader(_Pieces(faces), BATCH, sampler=sampler))


def _difference(drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    across = functional.l1_loss(drawn.diff(dim=-1), images.diff(dim=-1))
    down = functional.l1_loss(drawn.diff(dim=-2), images.diff(dim=-2))
    return functional.l1_loss(drawn, images) + GRADIENT_WEIGHT * (across + down)


def _check(autoencoders: Sequence[str], steps: int, copies: int) -> None:
    unknown = [name for name in autoencoders if name not in AUTOENCODERS]
    if unknown or not autoencoders:
        raise ArgumentError(
            f"unknown autoencoders {', '.join(unknown)!r}: use some of {', '.join(AUTOENCODERS)}"
        )
    if len(set(autoencoders)) < len(autoencoders):
        raise ArgumentError(f"name each autoencoder once, not {', '.join(autoencoders)}")
    if steps < 1 or not 1 <= copies <= len(autoencoders):
        raise ArgumentError(
            "steps must be at least 1, and copies 1 to the number of autoencoders, "
            f"{len(autoencoders)}; got {steps} and {copies}"
        )


def _trained(
    name: str,
    faces: FaceSet,
    path: Path,
    steps: int,
    seed: int,
    device: torch.device,
    progress: bool,
) -> Autoencoder:
    """Return a trained autoencoder: read it from `path`, or train it and write it to `path`."""
    spec = AUTOENCODERS[name]
    made_by = {**asdict(spec), "steps": steps, "seed": seed, "crops": _digest(faces)}
    description = json.dumps(made_by)
    if path.is_file():
        net = Autoencoder(spec).to(device).eval()
        net.load_state_dict(_read_weights(path, description))
        return net
    net = train_autoencoder(
        spec, faces, steps=steps, device=device, seed=seed, progress=progress, title=name
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {key: tensor.cpu().contiguous() for key, tensor in net.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, {"made_by": description})
    return net


def _digest(faces: FaceSet) -> str:
    """Return a hash of the ids of all crops, in their order."""
    return sha256("\n".join(faces.texts("id")).encode()).hexdigest()


def _read_weights(path: Path, description: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("made_by") != description:
                raise ArgumentError(
                    f"{path}: trained with other settings or faces: delete its folder to train "
                    "again, or give another output"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}): delete it to train again") from error


def _plan(
    faces: FaceSet, autoencoders: Sequence[str], copies: int, seed: int
) -> Iterator[tuple[int, str, int, int]]:
    """Yield one tuple for each reconstruction to make.

    The tuple holds the row number of the REAL crop, the name of the autoencoder, and the arguments
    `side` and `interpolation` of `_redraw`.
    """
    draw = np.random.default_rng(seed)
    for row in range(len(faces)):
        for name in draw.permutation(autoencoders)[:copies].tolist():
            yield row, name, int(draw.choice(DRAWN_SIDES)), int(draw.choice(INTERPOLATIONS))


@torch.inference_mode()
def _redraw(net: nn.Module, image: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """Return the reconstruction of an RGB uint8 image, in the size of the image.

    The image is first resized to a square with a side of `side` pixels. The autoencoder `net`
    reconstructs this square. The reconstruction is then resized to the size of the image, with
    OpenCV's method `interpolation`.
    """
    device = next(net.parameters()).device
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    values = torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
    drawn = ((net(values)[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = np.ascontiguousarray(drawn.permute(1, 2, 0).cpu().numpy())
    return cv2.resize(pixels, image.shape[1::-1], interpolation=interpolation)


def _keep_colours(drawn: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return a reconstruction with the colours that its original has on a large scale.

    Autoencoders that were trained for minutes do not get colours and brightness right. Without
    this correction, a detector could recognise reconstructions by their colours.

    Args:
        drawn: The reconstruction, RGB uint8 of shape (height, width, 3).
        image: The original, of the same shape.
    """
    error = image.astype(np.float32) - drawn
    corrected = drawn + cv2.GaussianBlur(error, (0, 0), COLOUR_SCALE * len(image))
    return corrected.round().clip(0, 255).astype(np.uint8)


def _encode_like(place: ImageLocation, image: np.ndarray) -> tuple[bytes, str]:
    """Encode an RGB image like the image stored at `place`; return the data and the file suffix.

    If the stored image is a JPEG, the result is a JPEG with the same quantisation tables and the
    same chroma subsampling (4:2:0 if the subsampling is unknown). Otherwise, the result is a PNG.
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(place.read())) as original:
        if not isinstance(original, JpegImagePlugin.JpegImageFile):
            Image.fromarray(image).save(buffer, "PNG")
            return buffer.getvalue(), ".png"
        sampling = JpegImagePlugin.get_sampling(original)
        Image.fromarray(image).save(
            buffer,
            "JPEG",
            qtables=original.quantization,
            subsampling=sampling if sampling >= 0 else "4:2:0",
        )
    return buffer.getvalue(), ".jpg"


def _describe(faces: FaceSet, row: int, autoencoder: str, side: int) -> dict[str, Any]:
    values = faces.table.iloc[row]
    copied = {name: values[name] for name in COPIED_COLUMNS if name in values}
    return {
        "id": f"{values['id']}-{autoencoder}",
        "label": "FAKE",
        "original": values["id"],
        "method": autoencoder,
        "kind": RECONSTRUCTION,
        "side": side,
        **copied,
        GROUP: faces.groups[row],
    }


def _draw_samples(nets: dict[str, Autoencoder], faces: FaceSet, path: Path) -> None:
    """Write a picture with some crops in the first row, and one row below for each autoencoder."""
    rows = np.linspace(0, len(faces) - 1, min(SAMPLES, len(faces))).astype(int).tolist()
    images = [faces.image(row) for row in rows]
    lines = {"original": images}
    for name, net in nets.items():
        drawn = (_redraw(net, one, one.shape[0] // 8 * 8, cv2.INTER_LINEAR) for one in images)
        lines[name] = [_keep_colours(*pair) for pair in zip(drawn, images, strict=True)]
    figure = Figure(figsize=(1.5 * len(images) + 1, 1.5 * len(lines)), layout="constrained")
    grid = figure.subplots(len(lines), len(images), squeeze=False)
    for axes_of_line, (name, line) in zip(grid, lines.items(), strict=True):
        for axes, image in zip(axes_of_line, line, strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        axes_of_line[0].set_ylabel(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
