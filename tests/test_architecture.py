"""Check that each module of the package imports only modules that come before it in a list."""

import ast
from functools import cache
from pathlib import Path

import pytest

import dfdetect

PACKAGE = Path(dfdetect.__file__).parent
# Packages and modules in the order in which data flows; each may use itself and those before it.
ORDER = (
    *("errors", "files", "defaults", "results"),
    *("video", "runtime", "faces", "models", "scoring", "checkpoints", "classifier", "detector"),
    *("kaggle", "reporting", "prediction"),
    *("data", "evaluation.metrics", "training", "evaluation", "benchmark"),
    *("cli", "__main__"),
)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}
# Libraries that a package must not import.
FOREIGN = {
    "video": ("torch", "torchvision", "timm", "facenet_pytorch"),
    "models": ("pathlib", "os", "io", "safetensors", "pandas", "cv2"),
}


def place_of(module):
    """Return the position in ORDER of a module or of its package."""
    while module not in ORDER:
        module, dot, _ = module.rpartition(".")
        assert dot, "a module that no entry of ORDER holds"
    return ORDER.index(module)


@cache
def imports_of(module):
    """Return the modules of this package and the other packages that a module imports."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # A name may be a module.
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            package, _, rest = name.partition(".")
            if package != "dfdetect":
                others.add(package)
            elif rest in MODULES:
                own.add(rest)
            elif rest.rpartition(".")[0] in MODULES:
                own.add(rest.rpartition(".")[0])
            else:
                assert name == "dfdetect.__version__", "public names are for users"
    return own, others


def test_order_allows_imports_of_earlier_modules_only():
    below = [
        (module, other)
        for module in MODULES
        for other in imports_of(module)[0]
        if place_of(other) > place_of(module)
    ]
    assert below == []


def test_imports_of_gradio_are_in_build_page_only():
    assert {module for module in MODULES if "gradio" in imports_of(module)[1]} == {"reporting.app"}
    tree = ast.parse(MODULES["reporting.app"].read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "gradio" not in " ".join(map(ast.unparse, at_import))


def test_imports_of_models_are_errors_only():
    models = [module for module in MODULES if module.startswith("models.")]
    used = set().union(*(imports_of(module)[0] for module in models))
    assert {other for other in used if not other.startswith("models.")} <= {"errors"}


@pytest.mark.parametrize("package", FOREIGN)
def test_imports_of_a_package_exclude_foreign_libraries(package):
    modules = [module for module in MODULES if module.partition(".")[0] == package]
    used = {other for module in modules for other in imports_of(module)[1]}
    assert used.isdisjoint(FOREIGN[package])


def test_imports_of_inference_exclude_training_and_evaluation():
    seen, left = set(), ["detector", "prediction"]
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += imports_of(module)[0]
    packages = {module.partition(".")[0] for module in seen}
    assert packages.isdisjoint({"data", "training", "evaluation", "benchmark"})


def test_init_of_a_package_has_only_a_docstring():
    for path in MODULES.values():
        if path.name == "__init__.py":
            (docstring,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(docstring.value.value, str)
