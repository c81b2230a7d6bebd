import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from dfdetect import Status, TrackResult, VideoResult, predict
from dfdetect.faces.crops import cut_faces
from dfdetect.reporting.html import write_report
from dfdetect.runtime.budget import TimeBudget
from dfdetect.video.isolated import DecoderPool

BOX = (365.0, 80.0, 560.0, 340.0)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def score(name, probability, times=(0.0, 1.0, 2.0)):
    face = TrackResult(probability, list(times), [BOX] * len(times), [probability] * len(times))
    return VideoResult(
        path=None, name=name, probability=probability, tracks=[face], timings={"total": 0.5}
    )


@pytest.fixture
def scores():
    odd = 'a "<b>&\udce9.mp4'
    return {
        "low.mp4": score("low.mp4", 0.1),
        odd: score(odd, 0.9),
        "broken.mp4": VideoResult.without_score(
            None, "broken.mp4", Status.UNREADABLE_VIDEO, "is <empty>"
        ),
        "gone.mp4": score("gone.mp4", 0.4),
    }


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_a_page_needs_nothing_else(scores, real_clip, tmp_path):
    page = tmp_path / "report.html"
    videos = dict.fromkeys(scores, real_clip) | {"gone.mp4": tmp_path / "gone.mp4"}
    write_report(page, scores, videos, 0.5, "<a detector>", progress=False)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|<link|@import|src=(?!\"data:)", text)
    reader = Reader(text)
    names = {tag for tag, _ in reader.tags}
    assert {"script", "style", "table", "svg", "img"} <= names
    assert "b" not in names
    assert "4 videos, 3 scored" in reader.text
    assert "not a readable video (is <empty>)" in reader.text
    assert 'a "<b>&\\udce9.mp4' in reader.text
    assert "<a detector>" in reader.text
    pictures = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == 2 * 6  # the last moments are after the last time
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    sections = {attributes["id"] for tag, attributes in reader.tags if tag == "section"}
    assert {link.removeprefix("#") for link in links} == sections
    assert len(links) == 3


def test_without_time_there_are_no_pictures(scores, real_clip, tmp_path):
    page = tmp_path / "report.html"
    videos = dict.fromkeys(scores, real_clip)
    write_report(page, scores, videos, 0.5, "x", TimeBudget(1, 1, 1), progress=False)
    assert "<img" not in page.read_text(encoding="utf-8")
    assert "<section" in page.read_text(encoding="utf-8")


def test_faces_are_cut_where_they_are(real_clip):
    with DecoderPool() as decoders:
        (strip,) = cut_faces(real_clip, score("a.mp4", 0.5, times=(0.0, 9.0)), decoders, count=4)
    assert len(strip) == 4
    assert [image.shape for _, image in strip] == [(112, 112, 3)] * 4
    assert strip[0][0] < strip[-1][0]


def test_predict_writes_the_page(sample_data, tmp_path):
    page = tmp_path / "report.html"
    predict(
        sample_data / "test_videos", out=tmp_path / "s.csv", frames=2, report=page, progress=False
    )
    assert "6 videos, 6 scored" in page.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="files of their own"):
        predict(sample_data, out=page, report=page)


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
@pytest.mark.browser
@pytest.mark.slow
def test_in_a_browser_the_table_sorts_and_nothing_is_asked_for(scores, real_clip, tmp_path):
    page = tmp_path / "report.html"
    write_report(page, scores, dict.fromkeys(scores, real_clip), 0.5, "x", progress=False)
    clicks = """<script>
      window.onerror = message => document.body.dataset.error = message;
      const first = () => document.querySelector("tbody tr").cells[0].textContent;
      const buttons = document.querySelectorAll("th button");
      const seen = [first()];
      for (const column of [1, 1, 0]) { buttons[column].click(); seen.push(first()); }
      document.body.dataset.seen = seen.join("|");
      document.body.dataset.asked = performance.getEntriesByType("resource")
        .filter(entry => !entry.name.startsWith("data:")).length;
      document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
      document.body.dataset.pictures = [...document.images].every(image => image.naturalWidth > 9);
    </script>"""
    page.write_text(page.read_text(encoding="utf-8") + clicks, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync --disable-quic"
    quiet = "--disable-background-networking --disable-component-update"
    command = [CHROMIUM, *options.split(), *quiet.split(), f"--user-data-dir={tmp_path / 'user'}"]
    run = subprocess.run(
        [*command, "--window-size=500,900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (body,) = (attributes for tag, attributes in Reader(run.stdout).tags if tag == "body")
    assert "data-error" not in body
    seen = body["data-seen"].split("|")
    assert seen[0].startswith("a ")
    assert seen[1] == "broken.mp4"
    assert seen[2].startswith("a ")
    assert seen[3].startswith("a ")
    assert (body["data-asked"], body["data-wide"], body["data-pictures"]) == ("0", "false", "true")
