import re
from pathlib import Path

from dfdetect.results import REASONS

README = Path(__file__).parent.parent / "README.md"


def test_every_reason_is_explained():
    section = README.read_text(encoding="utf-8").split("## When something is wrong")[1]
    statuses = re.findall(r"^\| `([^`]+)` \|", section.split("| exit status |")[0], re.MULTILINE)
    assert statuses == ["ok", *REASONS]
