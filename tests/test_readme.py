"""Check the documents against the code: statuses, options of commands, names of files."""

import contextlib
import io
import re
import shlex
import shutil
from functools import cache
from pathlib import Path

import pytest

import dfdetect
from dfdetect.cli import main
from dfdetect.results import Status
from dfdetect.video.discovery import VIDEO_SUFFIXES

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "weights" / "README.md",
    REPOSITORY / "sample_data" / "README.md",
]
README_BYTES = 9_000
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
# A code block of any language, so that the end of a block is not taken for the start of another.
CODE = re.compile(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:.* )?(?:\S*/)?dfdetect ([a-z]+(?:-[a-z]+)*)(?= |$)(.*)$", re.MULTILINE)


def find_commands(path):
    """Return the commands in the code of a document, each with its options."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    code = [a or b for kind, a, b in CODE.findall(text) if kind in ("", "bash")]
    return [
        (name, re.findall(r"(?<!\S)--?[a-z][a-z-]*", re.split(r"\s#\s|&&|\||;", rest)[0]))
        for name, rest in COMMAND.findall("\n".join(code))
    ]


def anchors(path):
    """Return the anchors of a document's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    assert len(README.read_bytes()) <= README_BYTES


def test_errors_page_explains_every_status():
    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    section = page.split("## A video without a score")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
    assert rows == [(status.value, status.sentence) for status in Status]


def test_errors_page_lists_the_suffixes_of_videos():
    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    listed = page.split("A folder is searched for the suffixes ")[1].split(",")[0]
    assert set(listed.split()) == VIDEO_SUFFIXES


def test_reference_shows_a_returns_section_as_one_text():
    griffe = pytest.importorskip("griffe")
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    (handlers,) = (one["mkdocstrings"] for one in config["plugins"] if "mkdocstrings" in one)
    options = handlers["handlers"]["python"]["options"]
    docstring = griffe.Docstring("Measure.\n\nReturns:\n    A table with a row\n    per video.\n")
    sections = docstring.parse(options["docstring_style"], **options["docstring_options"])
    assert [len(one.value) for one in sections if one.kind.value == "returns"] == [1]


def test_contributing_names_files_and_what_they_hold():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## Where to change what")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.(?:py|html|json|md)|\w+/)`(?: \(((?:`\w+`(?:, )?)+))?", table)
    assert len(named) > 20
    for name, identifiers in named:
        path = next(
            (
                base / name
                for base in (REPOSITORY / "dfdetect", REPOSITORY)
                if (base / name).exists()
            ),
            None,
        )
        assert path is not None, name
        for identifier in re.findall(r"\w+", identifiers):
            assert re.search(rf"\b{identifier}\b", path.read_text(encoding="utf-8")), identifier


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(path):
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file = path.parent / target if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


@cache
def known_options(command):
    """Return the options of a command, from its help."""
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0, f"there is no command {command}"
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text.getvalue()))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_have_the_options_that_documents_give_them(path):
    for command, options in find_commands(path):
        assert set(options) <= known_options(command), command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shell_blocks_are_complete(path):
    for block in re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S):
        shlex.split(block, comments=True)  # raises at an open quotation mark


@pytest.mark.slow
@pytest.mark.parametrize("path", [README, REPOSITORY / "docs" / "prediction.md"], ids=str)
def test_python_blocks_run(path, sample_data, real_clip, tmp_path, monkeypatch):
    (tmp_path / "sample_data").symlink_to(sample_data)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(real_clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    blocks = [text for kind, text, _ in CODE.findall(path.read_text()) if kind == "python"]
    assert blocks
    names = {"detector": dfdetect.load_detector(device="cpu")}
    for block in blocks:
        exec(block, names)


def test_architecture_page_names_every_module():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for path in (REPOSITORY / "dfdetect").rglob("*.py") if path.name[0] != "_"}
    assert {name for name in modules if not re.search(rf"\b{re.escape(name)}", page)} == set()
