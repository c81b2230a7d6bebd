import ast
from importlib import import_module
from pathlib import Path

import pytest

import dfdetect
from dfdetect.errors import ArgumentError, DfdetectError

PACKAGE = Path(dfdetect.__file__).parent
TREES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Errors that Python itself raises for a defect of the program; dfdetect must not raise them.
FOR_FAULTS = {"ValueError", "RuntimeError", "TypeError", "KeyError", "Exception", "AssertionError"}


def test_raise_of_each_module_is_expected_errors_only():
    raised = {
        (module, node.exc.func.id)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    # A defect in a decoder process is raised again in the process that started it.
    faults = {("dfdetect.video.isolated", "RuntimeError")}
    assert {(module, name) for module, name in raised if name in FOR_FAULTS} <= faults


def test_exceptions_of_each_module_are_dfdetect_errors():
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                assert issubclass(getattr(import_module(module), node.name), DfdetectError)


def test_argument_error_is_a_value_error():
    """Callers who know nothing of dfdetect expect a ValueError for a bad argument."""
    with pytest.raises(ValueError, match="at least 1"):
        dfdetect.load_detector(frames=0)
    assert issubclass(ArgumentError, ValueError)
