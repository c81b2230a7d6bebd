"""Check that converted networks give the same logits as the original networks.

    python tests/parity.py ispl ../icpr2020dfdc ../shared/data/dfdc_faces/val.csv

The second argument is a checkout of the repository that `docs/checkpoints.md` names. The original
networks are built by the code of this checkout. They get random weights and the statistics of real
crops, and are saved in the way in which their authors save them. The file is converted, and both
networks score 64 crops. The output is a table in Markdown.

efficientnet_pytorch must be installed: 0.6.3 for `wsdan` and `ntechlab`, 0.7.1 for `ispl`, `sbi`
and `deepfakebench`. `effort` and `gend` need transformers.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from dfdetect.checkpoints.converters.convert import convert
from dfdetect.checkpoints.converters.registry import choose_format
from dfdetect.checkpoints.converters.tensors import Tensors
from dfdetect.checkpoints.io import load_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.data.faceset import FaceSet
from dfdetect.faces.clips import make_clip, windows
from dfdetect.faces.crops import resize_crop, to_tensor

HEADER = """\
| format | network | difference | the same in float64, 2 crops | largest logit | spread | inputs |
| --- | --- | --- | --- | --- | --- | --- |"""
CROPS, BATCH, IN_DOUBLE = 64, 8, 2
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Logit = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def single(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits of a network with one output."""
    return network(images).flatten()


def difference(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits of FAKE of a network with two classes: the differences of its outputs."""
    return network(images).diff().flatten()


@dataclass
class Original:
    """An original network, with functions for its logit of FAKE and for the file of its weights."""

    name: str
    network: nn.Module
    logit: Logit
    content: Callable[[dict[str, torch.Tensor]], object] = dict
    file: str = "weights.pth"

    def save(self, folder: Path) -> Path:
        path = folder / self.file
        content = self.content(self.network.state_dict())
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
        return path


def in_parallel(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with the names that networks on several GPUs have."""
    return {f"module.{name}": tensor for name, tensor in state.items()}


def stub(*names: str) -> None:
    """Replace modules that the networks import but do not need."""
    sys.modules.update({name: MagicMock() for name in names})


def package(folder: Path, **members: object) -> ModuleType:
    """Return a folder as a package with these members, without running its `__init__.py`."""
    module = ModuleType(folder.name)
    module.__path__ = [str(folder)]
    vars(module).update(members)
    sys.modules[folder.name] = module
    return module


def module_of(folder: Path, name: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    return import_module(name)


def efficientnets() -> ModuleType:
    """Return the package efficientnet_pytorch, changed so that it downloads nothing."""
    found = import_module("efficientnet_pytorch")
    found.EfficientNet.from_pretrained = classmethod(
        lambda kind, name, advprop=False, weights_path=None, **options: kind.from_name(
            name, **options
        )
    )
    return found


def deepfakebench(home: Path) -> Iterator[Original]:
    training = benchmark_packages(home / "training")
    efficientnets()
    for name in "xception core efficientnetb4 meso4 meso4Inception spsl srm ucf".split():
        file = training / "config" / "detector" / f"{name}.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            config["pretrained"] = str(Path(folder, "imagenet.pth"))
            torch.save({"conv1.weight": torch.randn(32, 3, 3, 3)}, config["pretrained"])
            import_module(f"detectors.{name}_detector")
            network = sys.modules["detectors"].DETECTOR[name](config)
        yield Original(name, network, benchmark_logit)


def benchmark_logit(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    data = {"image": images, "label": torch.zeros(len(images))}
    return network(data, inference=True)["cls"].diff().flatten()


def benchmark_packages(training: Path) -> Path:
    """Make DeepfakeBench's packages importable, with only the networks that are needed."""
    stub("torch.utils.tensorboard", "loralib")
    registry = module_of(training, "metrics.registry")
    package(training / "detectors", DETECTOR=registry.DETECTOR)
    package(training / "networks", BACKBONE=registry.BACKBONE)
    package(training / "loss", LOSSFUNC=MagicMock())
    for name in ("xception", "efficientnetb4", "mesonet"):
        import_module(f"networks.{name}")
    return training


def clip_model() -> nn.Module:
    """Return CLIP ViT-L/14 with random weights instead of downloaded weights."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    model = CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config=vision))
    CLIPModel.from_pretrained = lambda *_: model
    return model


def effort(home: Path) -> Iterator[Original]:
    benchmark_packages(home / "DeepfakeBench" / "training")
    clip_model()
    detector = import_module("detectors.effort_detector").EffortDetector()
    yield Original("CLIP ViT-L/14", detector, benchmark_logit, in_parallel)


def gend(home: Path) -> Iterator[Original]:
    clip_model()
    sys.modules["transformers"].CLIPProcessor = MagicMock()
    module = module_of(home / "src" / "hf", "modeling_gend")
    network = module.GenD(module.GenDConfig(head="LinearNorm"))
    yield Original("CLIP ViT-L/14", network, difference, file="model.safetensors")


def faceforensics(home: Path) -> Iterator[Original]:
    stub("pretrainedmodels")
    models = module_of(home / "classification", "network.models")
    models.return_pytorch04_xception = partial(models.xception, pretrained=False)
    for dropout in (0.0, 0.5):
        network = models.TransferModel("xception", dropout=dropout)
        yield Original(f"Xception, dropout {dropout}", network, difference)


def ispl(home: Path) -> Iterator[Original]:
    efficientnets()
    fornet = module_of(home, "architectures.fornet")
    fornet.externals.xception = partial(fornet.externals.xception, pretrained=False)
    names = "EfficientNetB4 EfficientNetB4ST EfficientNetAutoAttB4 EfficientNetAutoAttB4ST Xception"
    for name in names.split():
        yield Original(name, getattr(fornet, name)(), single)


def ntechlab(home: Path) -> Iterator[Original]:
    stub("albumentations", "albumentations.pytorch", "ffmpeg", "torch.utils.tensorboard")
    stub("datasets", "extract_tracks_from_videos", "generate_track_pairs")
    sequences = module_of(home, "train_b7_ns_seq_aa_original_100k")
    build = partial(
        sequences.EfficientNet.from_name, "efficientnet-b7", override_params={"num_classes": 1}
    )
    yield Original("EfficientNet-B7", build(), single, halved)
    network = build()
    for block in network.modules():
        if isinstance(block, sequences.MBConvBlock) and block._block_args.expand_ratio != 1:
            channels = block._expand_conv.in_channels, block._expand_conv.out_channels
            block._expand_conv = sequences.SeqExpandConv(*channels, len(sequences.TRAIN_INDICES))
    yield Original("EfficientNet-B7 for sequences", network, mean_of_frames, halved)


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.half() for name, tensor in state.items()}


def mean_of_frames(network: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    return network(clips.flatten(0, 1)).view(len(clips), -1).mean(dim=1)


def robustforensics(home: Path) -> Iterator[Original]:
    stub("utils")
    models = module_of(home / "image_based", "models")
    networks = {f"EfficientNet-B{size}": f"efficientnet-b{size}" for size in (0, 1, 3)}
    for name in ("Xception", *networks, "ResNet-34"):
        if name == "Xception":
            network = models.model_selection("xception", 2)
        elif name == "ResNet-34":
            network = models.resnet34(num_classes=2)
        else:
            network = models.EfficientNet.from_pretrained(networks[name], num_classes=2)
        yield Original(
            name, network, difference, lambda state: {"state_dict": in_parallel(state), "step": 1}
        )


def sbi(home: Path) -> Iterator[Original]:
    efficientnets()
    network = module_of(home / "src" / "inference", "model").Detector()
    yield Original("EfficientNet-B4", network, difference, lambda state: {"model": state})


def selimsef(home: Path) -> Iterator[Original]:
    for size in range(2, 8):
        build = partial(timm.create_model, f"tf_efficientnet_b{size}")
        without = lambda pretrained, build=build, **options: build(**options)  # noqa: E731
        setattr(timm.models.efficientnet, f"tf_efficientnet_b{size}_ns", without)
    classifiers = module_of(home / "training", "zoo.classifiers")
    for kind, size in (("", 7), ("GWAP", 2), ("SRM", 2)):
        build = getattr(classifiers, f"DeepFakeClassifier{kind}")
        network = build(encoder=f"tf_efficientnet_b{size}_ns")
        name = f"EfficientNet-B{size} {kind}".strip()
        yield Original(
            name,
            network,
            single,
            lambda state: {"epoch": 36, "state_dict": in_parallel(state), "bce_best": 0.2},
            "final_111_DeepFakeClassifier",
        )


def wsdan(home: Path) -> Iterator[Original]:
    sys.modules["model_def.efficientnet_pytorch"] = import_module("efficientnet_pytorch")
    models = module_of(home, "model_def")

    def logit(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return network(images)[0].diff().flatten()

    for name in ("xception", "efficientnet"):
        network = models.WSDAN(num_classes=2, M=8, net=name)
        content = lambda state: {"logs": {}, "state_dict": state}  # noqa: E731
        yield Original(f"WS-DAN of {name}", network, logit, content)
    network = models.xception(num_classes=2, pretrained=False)
    yield Original("Xception", network, difference, lambda state: {"state_dict": state})


ORIGINALS = {
    one.__name__: one
    for one in (deepfakebench, effort, faceforensics, gend, ispl, ntechlab, robustforensics)
} | {one.__name__: one for one in (sbi, selimsef, wsdan)}


@torch.no_grad()
def settle(original: Original, images: torch.Tensor) -> None:
    """Make all weights differ, and give batch norms the statistics of real crops."""
    network = original.network.eval()
    for parameter in network.parameters():
        if parameter.ndim <= 1:
            parameter += 0.1 * torch.randn_like(parameter)
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    original.logit(network, images)
    network.eval()
    if original.content is halved:
        network.half().float()


def read_spec(original: Original) -> ModelSpec:
    """Return the specification in a checkpoint of this network."""
    state = original.network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    path = Path(original.file)
    return choose_format(path, shapes).read(Tensors(path, state))[0]


def make_inputs(faces: FaceSet, spec: ModelSpec) -> torch.Tensor:
    crops = [
        resize_crop(to_tensor(faces.image(row)), spec.input_size, spec.resize)
        for row in range(CROPS)
    ]
    length = spec.frames_per_clip
    crops = [make_clip([crops[row] for row in part], length) for part in windows(CROPS, length)]
    return spec.normalise(torch.stack(crops)).contiguous()


@torch.inference_mode()
def compare(original: Original, faces: FaceSet) -> str:
    """Convert a network, compare its logits before and after, and return a row of the table."""
    images = make_inputs(faces, read_spec(original))
    settle(original, images[:BATCH])
    with tempfile.TemporaryDirectory() as folder:
        path = original.save(Path(folder))
        out = Path(folder, "converted.safetensors")
        spec = convert(path, out)
        model = load_checkpoint(out)[0].eval()
    theirs, ours = [], []
    for part in images.split(BATCH):
        theirs.append(original.logit(original.network, part))
        ours.append(model(part)[:, 0])
    expected = torch.cat(theirs)
    gap = (torch.cat(ours) - expected).abs().max()
    exact = images[:IN_DOUBLE].double()
    gap_in_double = model.double()(exact)[:, 0] - original.logit(original.network.double(), exact)
    return (
        f"| `{spec.training['converted_from']}` | {original.name} | {gap:.1e} | "
        f"{gap_in_double.abs().max():.1e} | {expected.abs().max():.2f} | {expected.std():.2f} | "
        f"{len(images)} |"
    )


def main() -> None:
    """Print a table with a row for each network of a format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=ORIGINALS)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("faces", type=Path, help="index of a face set with 64 crops or more")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the networks' names")
    options = parser.parse_args()
    torch.manual_seed(0)
    faces = FaceSet.read(options.faces)
    print(HEADER)
    for original in ORIGINALS[options.format](options.checkout.resolve()):
        if any(part in original.name for part in options.only):
            print(compare(original, faces), flush=True)


if __name__ == "__main__":
    main()
