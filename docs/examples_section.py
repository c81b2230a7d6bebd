"""Griffe extension: show the section `Example:` of a docstring as code, as it shows `Examples:`."""

from typing import Any

import griffe


class ExamplesSection(griffe.Extension):
    """Renames the section before the docstring is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
