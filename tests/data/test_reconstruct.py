from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from dfdetect.data import reconstruct as module
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.data.reconstruct import AUTOENCODERS, reconstruct, train_autoencoder
from dfdetect.errors import ArgumentError
from dfdetect.models.autoencoder import Autoencoder, AutoencoderSpec, PatchDiscriminator

NAMES = ["shuffle-4", "nearest-8"]


@pytest.fixture
def quick(monkeypatch):
    """Use small batches and narrow autoencoders."""
    monkeypatch.setattr(module, "BATCH", 2)
    for name in NAMES:
        monkeypatch.setitem(AUTOENCODERS, name, replace(AUTOENCODERS[name], width=8))


@pytest.fixture
def jpegs(tmp_path):
    """Return the index of four crops, one of them FAKE, which are JPEGs of quality 60."""
    folder = tmp_path / "faces"
    folder.mkdir()
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    for number in range(4):
        image = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64))] * 2, axis=-1)
        image = np.roll(image[..., :3], 16 * number, axis=1)
        cv2.imwrite(str(folder / f"{number}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    table = {"id": range(4), "label": ["REAL", "REAL", "FAKE", "REAL"], "source": "somewhere"}
    table |= {"actor_group": list("abcd")}
    pd.DataFrame(table).to_csv(tmp_path / "faces.csv", index=False)
    return tmp_path / "faces.csv"


def test_reconstruct_writes_a_fake_of_each_real_crop(jpegs, tmp_path, quick):
    out = tmp_path / "made.csv"
    table = reconstruct([jpegs], out, autoencoders=NAMES, steps=2, copies=2)
    assert table["original"].astype(str).tolist() == ["0", "0", "1", "1", "3", "3"]
    assert set(table["method"]) == set(NAMES)
    assert set(table["kind"]) == {"reconstruction"}
    assert table["actor_group"].tolist() == ["a", "a", "b", "b", "d", "d"]
    faces = FaceSet.read(out)
    assert faces.labels.tolist() == [1] * 6
    assert faces.image(0).shape == (64, 64, 3)
    assert (tmp_path / "made.autoencoders" / "samples.png").stat().st_size > 1000


def test_reconstruct_compresses_crops_like_the_originals(jpegs, tmp_path, quick):
    from PIL import Image

    reconstruct([jpegs], tmp_path / "made.csv", autoencoders=NAMES[:1], steps=1)
    faces = FaceSet.read(tmp_path / "made.csv")
    with Image.open(tmp_path / "faces" / "0.jpg") as original:
        tables = original.quantization
    import io

    with Image.open(io.BytesIO(faces.locations[0].read())) as made:
        assert made.quantization == tables


def test_reconstruct_keeps_the_colours_of_the_originals(jpegs, tmp_path, quick):
    """An autoencoder that was trained for one step draws nearly grey images."""
    reconstruct([jpegs], tmp_path / "made.csv", autoencoders=NAMES[:1], steps=1)
    drawn, original = (
        FaceSet.read(index).image(0).astype(float) for index in (tmp_path / "made.csv", jpegs)
    )
    differences = (drawn - original).reshape(4, 16, 4, 16, 3).mean((1, 3))
    assert original.reshape(4, 16, 4, 16, 3).mean((1, 3)).std() > 50
    assert np.abs(differences[1:3, 1:3]).max() < 10
    assert np.abs(drawn - original).mean() > 3


@pytest.mark.slow
def test_train_autoencoder_reduces_the_error(jpegs, quick):
    faces = FaceSet.read(jpegs)
    real = faces.select(faces.labels == 0)
    spec = AutoencoderSpec("bilinear", 4, 8, width=16)
    errors = []
    for steps in (1, 60):
        net = train_autoencoder(spec, real, steps=steps)
        drawn = module._redraw(net, real.image(0), 96, cv2.INTER_LINEAR)
        errors.append(np.abs(drawn.astype(int) - real.image(0)).mean())
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(
    "done", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_reconstruct_continues_where_it_was_stopped(jpegs, tmp_path, quick, done):
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    reconstruct([jpegs], whole, autoencoders=NAMES, steps=1)
    encode, count = module._encode_like, 0

    def stop(*arguments):
        nonlocal count
        count += 1
        if count > done:
            raise KeyboardInterrupt
        return encode(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_encode_like", stop)
        with pytest.raises(KeyboardInterrupt):
            reconstruct([jpegs], part, autoencoders=NAMES, steps=1)
    with part.open("a") as file:  # an incomplete row
        file.write("0-shuffle-4,FA")
    reconstruct([jpegs], part, autoencoders=NAMES, steps=1)
    assert part.read_bytes() == whole.read_bytes()
    shards = [path.with_name(f"{path.stem}-00000.tar").read_bytes() for path in (whole, part)]
    assert shards[0] == shards[1]


def test_reconstruct_refuses_unusable_arguments(jpegs, tmp_path, quick):
    with pytest.raises(ValueError, match="unknown autoencoders 'vae'"):
        reconstruct([jpegs], tmp_path / "made.csv", autoencoders=["vae"])
    with pytest.raises(ValueError, match="name each autoencoder once"):
        reconstruct([jpegs], tmp_path / "made.csv", autoencoders=NAMES[:1] * 2)
    with pytest.raises(ValueError, match="copies 1 to the number of autoencoders, 2; got 1 and 3"):
        reconstruct([jpegs], tmp_path / "made.csv", autoencoders=NAMES, steps=1, copies=3)
    with pytest.raises(ValueError, match=r"exists, and .* is not beside it: give another name"):
        reconstruct([jpegs], jpegs, autoencoders=NAMES[:1], steps=1)
    table = pd.read_csv(jpegs)
    table[table["label"] == "FAKE"].to_csv(jpegs, index=False)
    with pytest.raises(FaceSetError, match="no REAL crops to reconstruct"):
        reconstruct([jpegs], tmp_path / "none.csv", steps=1)


def test_reconstruct_refuses_autoencoders_with_other_settings(jpegs, tmp_path, quick):
    out = tmp_path / "made.csv"
    reconstruct([jpegs], out, autoencoders=NAMES[:1], steps=1)
    with pytest.raises(ValueError, match="made with other settings, steps 1, not 2"):
        reconstruct([jpegs], out, autoencoders=NAMES[:1], steps=2)
    for part in out.parent.glob("made*"):
        if part.is_file():
            part.unlink()
    with pytest.raises(ValueError, match="trained with other settings or faces: delete"):
        reconstruct([jpegs], out, autoencoders=NAMES[:1], steps=2)


def test_reconstruct_refuses_to_continue_with_other_crops(jpegs, tmp_path, quick):
    out, other = tmp_path / "made.csv", tmp_path / "other.csv"
    reconstruct([jpegs], out, autoencoders=NAMES[:1], steps=1)
    table = pd.read_csv(jpegs, dtype={"id": str})
    table["id"] = [f"x{name}" for name in table["id"]]
    table.to_csv(other, index=False)
    other.with_suffix("").mkdir()
    for image in jpegs.with_suffix("").iterdir():
        (other.with_suffix("") / f"x{image.name}").write_bytes(image.read_bytes())
    with pytest.raises(ValueError, match="made with other settings, crops"):
        reconstruct([other], out, autoencoders=NAMES[:1], steps=1)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_keeps_size_and_range(name):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    drawn = Autoencoder(AUTOENCODERS[name])(images)
    assert drawn.shape == images.shape
    assert drawn.abs().max() <= 1
    assert PatchDiscriminator()(drawn).shape == (2, 1, 4, 6)


@pytest.mark.parametrize(("upsampling", "stride"), [("cubic", 4), ("nearest", 6), ("nearest", 1)])
def test_autoencoder_refuses_unknown_designs(upsampling, stride):
    with pytest.raises(ValueError, match="an autoencoder needs one of nearest, bilinear"):
        Autoencoder(AutoencoderSpec(upsampling, stride, 8))


@pytest.mark.parametrize("width", [0, 6])
def test_autoencoder_refuses_widths_that_are_no_multiple_of_4(width):
    with pytest.raises(ArgumentError, match=f"a width that is a multiple of 4, not {width}"):
        Autoencoder(AutoencoderSpec("nearest", 4, 8, width=width))
