import re
import shutil
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from dfdetect import (
    HeatMap,
    OperatingPoints,
    Status,
    TrackResult,
    Verdict,
    VideoResult,
    predict,
)
from dfdetect.faces.crops import cut_faces
from dfdetect.reporting.heat_maps import HeatMapStore
from dfdetect.reporting.html import write_report
from dfdetect.runtime.budget import TimeBudget
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import read_frames

BOX = (365.0, 80.0, 560.0, 340.0)
# Returns the lowest contrast of any text with the page, as WCAG 2 defines it. Level AA requires
# 4.5.
LOWEST_CONTRAST = """() => {
  const luminance = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const back = luminance(getComputedStyle(document.body).backgroundColor);
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  let lowest = 21;
  while (texts.nextNode()) {
    if (!texts.currentNode.data.trim()) continue;
    const style = getComputedStyle(texts.currentNode.parentElement);
    const inSvg = texts.currentNode.parentElement.namespaceURI.endsWith("svg");
    const front = luminance(inSvg ? style.fill : style.color);
    lowest = Math.min(lowest, (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05));
  }
  return lowest;
}"""
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


def test_write_report_needs_no_other_file(scores, real_clip, tmp_path):
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
    links = [
        attributes["href"]
        for tag, attributes in reader.tags
        if tag == "a" and attributes["href"].startswith("#")
    ]
    sections = {attributes["id"] for tag, attributes in reader.tags if tag == "section"}
    assert {link.removeprefix("#") for link in links} == sections
    assert len(links) == 3


def test_write_report_without_time_has_no_pictures(scores, real_clip, tmp_path):
    page = tmp_path / "report.html"
    videos = dict.fromkeys(scores, real_clip)
    write_report(page, scores, videos, 0.5, "x", TimeBudget(1, 1, 1), progress=False)
    assert "<img" not in page.read_text(encoding="utf-8")
    assert "<section" in page.read_text(encoding="utf-8")


def test_cut_faces_leaves_out_moments_without_a_face(real_clip):
    moments = [frame.time for frame in read_frames(real_clip, 4)]
    with DecoderPool() as decoders:
        (strip,) = cut_faces(real_clip, score("a.mp4", 0.5, moments[1:3]), decoders, count=4)
    assert [time for time, _ in strip] == moments[1:3]
    assert [image.shape for _, image in strip] == [(112, 112, 3)] * 2


def test_cut_faces_shows_a_person_who_is_seen_between_two_moments(real_clip):
    times = [frame.time for frame in read_frames(real_clip, 32)]
    always, briefly = score("a.mp4", 0.5, times), score("a.mp4", 0.5, times[2:5])
    result = replace(always, tracks=[*always.tracks, *briefly.tracks], frames_sampled=32)
    with DecoderPool() as decoders:
        strips = cut_faces(real_clip, result, decoders, count=8)
    assert len(strips[0]) == 8
    assert [time for time, _ in strips[1]] == times[2:5]


def test_predict_writes_the_page(sample_data, tmp_path):
    page = tmp_path / "report.html"
    videos = sorted((sample_data / "test_videos").glob("*.mp4"))[:2]
    predict(videos, out=tmp_path / "s.csv", frames=2, report=page, progress=False)
    text = page.read_text(encoding="utf-8")
    assert "2 videos, 2 scored" in text
    # Each video has two frames, and only one of them is not below their mean.
    assert text.count("heat map of person 1") == 2
    with pytest.raises(ValueError, match="must be different files"):
        predict(sample_data, out=page, report=page)


def full_score(name, verdict, probability):
    """Return a result with everything that a page can show of a video."""
    times = [0.0, 1.0, 2.5]
    maps = [HeatMap(2.5, np.full((32, 32, 3), 90, np.uint8), np.eye(4, dtype=np.float32))]
    face = TrackResult(probability, times, [BOX] * 3, [0.1, 0.3, probability], heat_maps=maps)
    return VideoResult(
        path=None,
        name=name,
        probability=probability,
        verdict=verdict,
        operating_points=OperatingPoints(
            uncertain=0.4, fake=0.8, fakes={"people": {"videos": 4, "uncertain": 2, "fake": 1}}
        ),
        tracks=[face],
        frames_sampled=4,
        timings={"total": 0.5},
        warnings=("The faces are <small>.",),
    )


@pytest.fixture(scope="module")
def page(real_clip, tmp_path_factory):
    """Return the path of a page with all parts that a page can have, and write its videos."""
    parent = tmp_path_factory.mktemp("page")
    results = {
        "fake one.mp4": full_score("fake one.mp4", Verdict.FAKE, 0.95),
        "maybe.mp4": full_score("maybe.mp4", Verdict.UNCERTAIN, 0.5),
        "a_name_without_any_space_that_goes_on_and_on_and_on.mp4": full_score(
            "a_name_without_any_space_that_goes_on_and_on_and_on.mp4", Verdict.REAL, 0.1
        ),
        "none.mp4": VideoResult.without_score(None, "none.mp4", Status.NO_FACE),
    }
    folder = parent / "videos #1"
    folder.mkdir()
    videos = {name: folder / name for name in results}
    for video in videos.values():
        shutil.copy(real_clip, video)
    path = parent / "reports" / "report.html"
    write_report(path, results, videos, None, "a detector")
    return path


def test_write_report_states_verdicts_and_what_they_mean(page):
    text = Reader(page.read_text(encoding="utf-8")).text
    assert "P(FAKE) above 0.800, which 1 % of them exceed" in text
    assert "P(FAKE) above 0.400, which 5 % of them exceed" in text
    assert "Of 4 fakes like those that the detector was trained on, 25 % get" in text
    assert "never proof" in text
    assert "docs/interpretation.md" in text
    assert "The faces are <small>." in text
    assert "1 fake, 1 uncertain, 1 real" in text


def test_write_report_of_an_image_speaks_of_images_and_has_no_times(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((400, 600, 3), 90, np.uint8))
    heat_map = HeatMap(0.0, np.full((32, 32, 3), 90, np.uint8), np.eye(4, dtype=np.float32))
    face = TrackResult(0.95, [0.0], [BOX], [0.95], heat_maps=[heat_map])
    image = replace(full_score("a.jpg", Verdict.FAKE, 0.95), tracks=[face], frames_sampled=1)
    page = tmp_path / "report.html"
    write_report(page, {"a.jpg": image}, {"a.jpg": tmp_path / "a.jpg"}, None, "a detector")
    html = page.read_text(encoding="utf-8")
    text = Reader(html).text
    assert "How many REAL images exceed them was not measured." in text
    assert "an image is real" in text
    assert 'alt="heat map of person 1, strongest' in html
    assert 'alt="person 1"' in html
    assert "0:00" not in html


def test_write_report_without_thresholds_says_that_there_are_no_verdicts(scores, tmp_path):
    write_report(tmp_path / "report.html", scores, {}, None, "x")
    text = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "There are no verdicts" in text
    assert "no verdict" in text


def test_write_report_links_moments_to_the_videos(page):
    tags = Reader(page.read_text(encoding="utf-8")).tags
    links = [found["href"] for tag, found in tags if tag == "a" and "#t=" in found["href"]]
    address, _, time = links[0].partition("#t=")
    assert time == "2.50"
    assert (page.parent / unquote(address)).resolve().name == "fake one.mp4"
    assert (page.parent / unquote(address)).is_file()


def test_write_report_describes_each_picture(page):
    tags = Reader(page.read_text(encoding="utf-8")).tags
    texts = [found["alt"] for tag, found in tags if tag == "img"]
    assert sum(text.startswith("person 1 at 0:0") for text in texts) > 3
    assert "heat map of person 1 at 0:02.5, strongest in the central middle" in texts
    assert all(found.get("aria-label") for tag, found in tags if tag == "svg")


def test_write_report_table_has_headers_for_screen_readers(page):
    tags = Reader(page.read_text(encoding="utf-8")).tags
    scopes = [found.get("scope") for tag, found in tags if tag == "th"]
    assert scopes == ["col"] * 7 + ["row"] * 4
    assert [tag for tag, _ in tags].count("caption") == 1


def test_write_report_memory_does_not_grow_with_the_videos(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    maps = [HeatMap(0.0, noise, np.ones((4, 4), np.float32))] * 10
    plain = score("a.mp4", 0.5)
    found = replace(plain, tracks=[replace(plain.tracks[0], heat_maps=maps)])

    def peak(count):
        with HeatMapStore() as store:
            results = {f"{one}.mp4": plain for one in range(count)}
            for name in results:
                store.put(name, found)
            tracemalloc.start()
            write_report(tmp_path / "page.html", results, {}, None, "x", heat_maps=store)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most, (tmp_path / "page.html").stat().st_size

    (few, _), (many, size) = peak(20), peak(220)
    assert size > 4_000_000
    assert many - few < size / 8


def in_browser(test):
    """Mark a test that opens a page in Chromium."""
    test = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")(test)
    test = pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright")(test)
    return pytest.mark.browser(test)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def show(browser, page):
    asked, errors, contexts = [], [], []

    def show(width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.as_uri())
        return tab

    yield show
    for context in contexts:
        context.close()
    assert errors == []
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def names(tab):
    return tab.locator("tbody tr:visible th").all_text_contents()


@in_browser
def test_write_report_table_sorts_by_keyboard(show):
    tab = show()
    assert names(tab)[0] == "fake one.mp4"
    tab.get_by_role("button", name="P(FAKE)").focus()
    tab.keyboard.press("Enter")
    assert names(tab)[0] == "none.mp4"
    assert tab.locator("thead th").nth(2).get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Enter")
    assert names(tab)[0] == "fake one.mp4"
    tab.get_by_role("button", name="verdict").click()
    assert names(tab)[0] == "fake one.mp4"
    assert names(tab)[-1] == "maybe.mp4"


@in_browser
def test_write_report_search_and_filter_hide_rows_and_videos(show):
    tab = show()
    tab.get_by_label("Search names").fill("MAYBE")
    assert names(tab) == ["maybe.mp4"]
    assert tab.locator("section:visible h2").all_text_contents() == ["maybe.mp4"]
    assert tab.get_by_role("status").inner_text() == "1 of 4 shown"
    tab.get_by_label("Verdict").select_option("fake")
    assert names(tab) == []
    tab.get_by_label("Search names").fill("")
    assert names(tab) == ["fake one.mp4"]
    tab.get_by_label("Verdict").select_option("no score")
    assert names(tab) == ["none.mp4"]


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_write_report_page_fits_and_can_be_read(show, width, scheme):
    tab = show(width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 9)")
    lines = tab.locator("tbody td.number").evaluate_all(
        "cells => cells.map(cell => { const range = document.createRange();"
        "range.selectNodeContents(cell.firstChild ?? cell);"
        "return range.getClientRects().length; })"
    )
    assert max(lines) == 1
    assert tab.evaluate(LOWEST_CONTRAST) >= 4.5


@in_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_write_report_heat_maps_are_large_and_become_larger(show, width):
    tab = show(width)
    button = tab.get_by_role("button", name="heat map of person 1").first
    assert button.bounding_box()["width"] >= 160
    button.focus()
    tab.keyboard.press("Enter")
    assert button.bounding_box()["width"] >= 360
    assert button.get_attribute("aria-pressed") == "true"
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    button.click()
    assert button.bounding_box()["width"] < 200


@in_browser
def test_write_report_page_has_no_controls_on_paper(show):
    tab = show(color_scheme="dark")
    tab.emulate_media(media="print")
    assert not tab.get_by_label("Search names").is_visible()
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert tab.evaluate(LOWEST_CONTRAST) >= 4.5
