import ast
from importlib import import_module
from pathlib import Path

import pytest

import dfdetect
from dfdetect.errors import ArgumentError, DfdetectError

PACKAGE = Path(dfdetect.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# What Python itself raises for a fault of the program, and users cannot tell from one.
FOR_FAULTS = {"ValueError", "RuntimeError", "TypeError", "KeyError", "Exception", "AssertionError"}


@pytest.mark.parametrize("module", MODULES)
def test_raise_of_each_module_is_expected_errors_only(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    # A fault in a decoder process, told to the process that started it.
    faults = {"RuntimeError"} if module == "dfdetect.video.isolated" else set()
    assert raised & FOR_FAULTS <= faults


@pytest.mark.parametrize("module", MODULES)
def test_exceptions_of_each_module_are_dfdetect_errors(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    ]
    for name in names:
        assert issubclass(getattr(import_module(module), name), DfdetectError)


def test_argument_error_is_a_value_error():
    """Callers who know nothing of dfdetect expect a ValueError for a bad argument."""
    with pytest.raises(ValueError, match="at least 1"):
        dfdetect.load_detector(frames=0)
    assert issubclass(ArgumentError, ValueError)
