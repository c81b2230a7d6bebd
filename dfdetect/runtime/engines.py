"""Run networks on a CPU with an engine: OpenVINO, ONNX Runtime or torch.

OpenVINO and ONNX Runtime are optional. `pip install 'dfdetect[fast]'` installs OpenVINO. It needs a
little less processor time than torch, and its outputs differ from torch's only by rounding. ONNX
Runtime classifies faster than OpenVINO, but runs the face detector slower than torch. On a GPU,
torch is always used.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, local
from typing import Any

import numpy as np
import torch
from torch import nn

from dfdetect.defaults import ENGINES
from dfdetect.errors import ArgumentError
from dfdetect.runtime.device import available_cores

AUTO, TORCH = ENGINES[:2]
# The packages that each engine needs. The fastest engine comes first.
PACKAGES = {"openvino": ["openvino"], "onnxruntime": ["onnxruntime", "onnx"], "torch": ["torch"]}
# Maximum absolute and relative difference between outputs that count as equal, for an engine that
# computes in float32 and for an engine that may compute in bfloat16.
SAME = 1e-3
SAME_IN_BFLOAT16 = 5e-2
# Compiling takes seconds. With `auto`, torch therefore runs a network for this number of calls (the
# first few videos), and the network is compiled afterwards.
PAYS_AFTER = 40
# Number of input sizes whose kernels OpenVINO keeps. It is large, because the face detector gets
# images of many sizes.
KEPT_KERNELS = 256
# The activation functions that torch computes in one step with the convolution before them.
FUSED_ACTIVATIONS = {nn.ReLU, nn.ReLU6}
ACTIVATIONS = [getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__]
LOGGER = logging.getLogger(__name__)
# Tracing a network uses global state of torch, so only one thread may trace at a time.
_ONE_AT_A_TIME = Lock()

Compute = Callable[[np.ndarray], list[np.ndarray]]


def choose_engine(engine: str, device: torch.device) -> str:
    """Return the name of the engine that runs the networks on a device.

    If `engine` is `auto`, this is the fastest installed engine on a CPU, and torch on a GPU.

    Args:
        engine: `torch`, `openvino`, `onnxruntime` or `auto`.
        device: The device on which the networks run. Engines other than torch run only on a CPU.

    Raises:
        ArgumentError: The engine is unknown, is not installed, or cannot use the device.

    Example:
        >>> choose_engine("torch", torch.device("cpu"))
        'torch'
    """
    if engine not in ENGINES:
        raise ArgumentError(f"unknown engine {engine!r}: use {', '.join(ENGINES)}")
    if engine == AUTO:
        usable = [name for name in PACKAGES if is_installed(name) and device.type == "cpu"]
        return usable[0] if usable else TORCH
    if engine == TORCH:
        return TORCH
    if device.type != "cpu":
        raise ArgumentError(f"the engine {engine!r} runs on CPUs only, not on {device}")
    if missing := _missing(engine):
        raise ArgumentError(
            f"the engine {engine!r} is not installed: pip install {' '.join(missing)}"
        )
    return engine


class EngineNetwork(nn.Module):
    """A network that an engine runs, with the same outputs as the original network up to rounding.

    The first call compiles the network for the engine, which takes seconds. With `auto`, torch runs
    the first calls, and a later call compiles the network. After unpickling, the network is
    compiled again. The engine torch compiles a network only if this makes the network faster.

    After compiling, the outputs of the engine and of torch for the input `example` are compared. If
    they differ by more than rounding, or if compiling fails, torch runs the original network. A
    warning says why, unless the engine is torch itself.

    Args:
        network: A network in evaluation mode. It takes one float32 tensor, and returns a tensor or
            a tuple of tensors.
        example: An input of the network, on the device on which the network runs.
        varying: Indexes of the input's dimensions whose sizes differ from input to input. Index 0
            is the batch dimension.
        engine: `torch`, `openvino`, `onnxruntime` or `auto`, as in `choose_engine`.
        bfloat16: Whether the engine may compute in bfloat16.

    Example:
        >>> network = EngineNetwork(model, torch.zeros(1, 3, 160, 160), (0,), "openvino")
        >>> network(torch.zeros(8, 3, 160, 160)).shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        network: nn.Module,
        example: torch.Tensor,
        varying: tuple[int, ...],
        engine: str,
        bfloat16: bool = False,
    ):
        super().__init__()
        self.network = network
        self.example = example
        self.varying = varying
        self.engine = choose_engine(engine, example.device)
        self.in_bfloat16 = bfloat16
        self.calls_left = PAYS_AFTER if engine == AUTO else 0
        self._start()

    def _start(self) -> None:
        self.lock = Lock()
        self.compute: Compute | None = None
        self.usable = self.engine != TORCH or self._gains_by_tracing()

    def _gains_by_tracing(self) -> bool:
        """Return whether torch would run a traced copy of the network faster than the original.

        This is the case if three conditions hold:

        - Torch can compute every activation function (such as ReLU) in one step with the
          convolution before it.
        - All images have the same size.
        - The network computes in float32 on a CPU, as the copy does.
        """
        activations = {type(module) for module in self.network.modules()} & set(ACTIVATIONS)
        return (
            bool(activations)
            and activations <= FUSED_ACTIVATIONS
            and self.varying == (0,)
            and self.example.device.type == "cpu"
            and not self.in_bfloat16
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of the object, without the parts that cannot be pickled."""
        return {
            name: value for name, value in vars(self).items() if name not in ("lock", "compute")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()

    def forward(self, inputs: torch.Tensor) -> Any:
        """Return the output of the network."""
        if not self._ready():
            return self.network(inputs)
        assert self.compute is not None
        values = self.compute(inputs.detach().float().contiguous().numpy())
        outputs = tuple(torch.from_numpy(value) for value in values)
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def calls_at_once(self) -> int:
        """Return the number of calls that should be made at the same time, for full speed.

        If torch runs the network, the number is 1, because torch uses several cores for one call.
        The other engines use one core for one call, so the number is `torch.get_num_threads()`.

        If the next call would compile the network, the network is compiled now.
        """
        if self.calls_left == 0:
            self._ready()
        return 1 if self.compute is None or self.engine == TORCH else torch.get_num_threads()

    def _ready(self) -> bool:
        """Compile the network if it is time to do so, and return whether it is compiled.

        With `auto`, it is time after `PAYS_AFTER` calls of the network. If an engine was chosen by
        name, it is time at the first call. If the engine failed, the network is never compiled.
        """
        if self.compute is not None or not self.usable:
            return self.compute is not None
        with self.lock:
            if self.compute is None and self.usable:
                self.calls_left -= 1
                if self.calls_left < 0:
                    self._compile()
        return self.compute is not None

    def _compile(self) -> None:
        network = deepcopy(self.network).to(memory_format=torch.contiguous_format)
        try:
            with (
                _ONE_AT_A_TIME,
                torch.inference_mode(),
                torch.autocast("cpu", enabled=False),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # converters warn that some shapes are constant
                compute = COMPILERS[self.engine](
                    network, self.example, self.varying, self.in_bfloat16
                )
                problem = self._difference(compute)
        except Exception as error:
            # Whatever the engine raises, torch can run the network.
            LOGGER.debug("the engine %s failed", self.engine, exc_info=True)
            problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if problem:
            self.usable = False
            if self.engine != TORCH:
                warnings.warn(
                    f"the engine {self.engine} cannot be used, so torch is used: {problem}",
                    stacklevel=2,
                )
        else:
            self.compute = compute

    def _difference(self, compute: Compute) -> str:
        """Compare the outputs of the engine and of torch for the input `self.example`.

        Return a message if the outputs differ by more than rounding, and an empty text otherwise.
        """
        expected = self.network(self.example)
        expected = expected if isinstance(expected, tuple) else (expected,)
        limit = SAME_IN_BFLOAT16 if self.in_bfloat16 else SAME
        found = compute(self.example.contiguous().numpy())
        if all(
            np.allclose(one, other.float().numpy(), limit, limit)
            for one, other in zip(found, expected, strict=True)
        ):
            return ""
        return "its outputs differ from torch's"


def is_installed(engine: str) -> bool:
    """Return whether the packages of an engine are installed."""
    return not _missing(engine)


def _missing(engine: str) -> list[str]:
    return [name for name in PACKAGES[engine] if find_spec(name) is None]


def _compile_openvino(
    network: nn.Module, example: torch.Tensor, varying: tuple[int, ...], bfloat16: bool
) -> Compute:
    openvino = import_openvino()
    # The model must not share memory with Python objects, because another thread may free them.
    model = openvino.convert_model(network, example_input=example, share_weights=False)
    shape = [-1 if number in varying else size for number, size in enumerate(example.shape)]
    model.reshape({model.inputs[0]: openvino.PartialShape(shape)})
    cores = available_cores()
    compiled = _openvino_core().compile_model(
        model,
        "CPU",
        {
            # Each call is computed on one core, because other calls keep the other cores busy.
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
        },
    )
    of_thread = local()  # each thread needs its own inference request

    def compute(values: np.ndarray) -> list[np.ndarray]:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        found = of_thread.request.infer([values], share_inputs=True)
        return [found[output] for output in compiled.outputs]

    return compute


@cache
def _openvino_core() -> Any:
    """Return the `Core` object of OpenVINO. All calls in a process return the same object.

    A process with two `Core` objects can crash with a segmentation fault (issue 35338 in OpenVINO's
    repository).
    """
    return import_openvino().Core()


def import_openvino() -> Any:
    """Return the module `openvino`, kept from reporting its use over the network.

    OpenVINO uses the package `openvino_telemetry` to report each import and each converted network
    to Google Analytics. This function hides the package from OpenVINO.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # any import of the package then fails
    return import_module("openvino")


def _compile_onnxruntime(
    network: nn.Module, example: torch.Tensor, varying: tuple[int, ...], _: bool
) -> Compute:
    import onnxruntime

    with TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        torch.onnx.export(
            network,
            (example,),
            str(file),
            input_names=["input"],
            dynamic_axes={"input": {number: f"size_{number}" for number in varying}},
            dynamo=False,
        )
        model = file.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {"input": values})


def _compile_torch(
    network: nn.Module, example: torch.Tensor, _varying: tuple[int, ...], _bfloat16: bool
) -> Compute:
    # `torch.compile` would need a C++ compiler on the user's machine.
    traced = torch.jit.trace(network, example, check_trace=False)
    optimised = torch.jit.optimize_for_inference(traced)

    def compute(values: np.ndarray) -> list[np.ndarray]:
        found = optimised(torch.from_numpy(values))
        return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]

    return compute


COMPILERS: dict[str, Callable[..., Compute]] = {
    "torch": _compile_torch,
    "openvino": _compile_openvino,
    "onnxruntime": _compile_onnxruntime,
}
