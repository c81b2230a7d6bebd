"""The local web page, which shows the verdict on a video, an image or a webcam recording.

The page needs Gradio (`pip install 'dfdetect[app]'`). Neither the server nor the page loads
anything from the internet. Each uploaded file is deleted right after its check.
"""

import json
import logging
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from dfdetect.checkpoints.weights import Weights
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.detector import Detector, load_detector
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.reporting.answer import render_note, render_people, render_verdict
from dfdetect.reporting.overlay import annotate
from dfdetect.results import MOMENTS, VideoResult
from dfdetect.runtime.device import available_cores
from dfdetect.video.isolated import CancelledError, DecoderPool
from dfdetect.video.reader import Frame

if TYPE_CHECKING:
    import gradio

LARGEST_UPLOAD = "2 GB"
# Maximum number of checks that wait while another one runs.
QUEUE = 20
# Parts of interrupted uploads are deleted when they are older than LONGEST_KEPT seconds. Gradio
# looks for such parts every CLEANED_EVERY seconds.
LONGEST_KEPT, CLEANED_EVERY = 3600, 60
# A clone of the repository has the sample videos beside the package. A wheel does not contain them.
SAMPLES = Path(__file__).parents[2] / "sample_data" / "train_sample_videos"
SYSTEM_FONTS = ["system-ui", "sans-serif"]
LOCAL_NAMES = ["127.0.0.1", "localhost"]
# With this policy, the browser loads nothing from other servers.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
INTRODUCTION = """
<h1>Was a face in this video manipulated?</h1>
<p>dfdetect looks for faces that were swapped with another face or re-enacted. The file is checked
on the computer that runs this page, and deleted right afterwards.</p>
"""
WAITING = '<p class="note">Drop a video or an image, and the verdict appears here.</p>'
SAMPLES_NOTE = (
    '<p class="note">Or try a sample. Its label is in brackets; the detector misses some fakes.</p>'
)
# This script makes screen readers announce the verdict. They do not announce the progress messages,
# because these messages change with each frame.
ANNOUNCE = """
const spoken = document.createElement("p");
spoken.setAttribute("role", "status");
spoken.className = "spoken";
document.body.append(spoken);
watch("value", () => {
  const heading = element.querySelector("h2");
  const text = heading ? heading.textContent : "Checking the file";
  if (spoken.textContent !== text) spoken.textContent = text;
});
"""
LOGGER = logging.getLogger(__name__)
# Beginning of the names of folders with annotated videos.
DRAWN = "drawn-"
# Bytes of a video's name that are kept in the name of its annotated copy.
LONGEST_STEM = 200


@contextmanager
def serve_app(
    *,
    weights: Weights = None,
    device: str = "auto",
    frames: int = DEFAULT_FRAMES,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[str]:
    """Serve the local web page until the `with` block ends.

    Args:
        weights: Names or files of the weights, as in `load_detector`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        frames: Number of frames sampled from each video.
        host: Address at which the page is served. A loopback address, such as the default, can be
            reached only from this machine. With any other address, everybody who can reach this
            machine over the network can use the page, and a warning is logged.
        port: Port of the page. None means the first free port from 7860 on.

    Yields:
        The URL of the page.

    Raises:
        DfdetectError: Gradio is not installed.
        ArgumentError: The port is in use or 0, the host is not an IPv4 address or name of this
            machine, or an argument of `load_detector` cannot be used.
        FileNotFoundError: `weights` has an entry that is neither a name of installed weights nor a
            file.
        CheckpointError: A file of weights is no usable checkpoint.

    Example:
        >>> with serve_app() as url:
        ...     input(f"{url}: press Enter to stop")
    """
    if find_spec("gradio") is None:
        raise DfdetectError(
            "the page needs Gradio: pip install 'dfdetect[app]', in a clone '.[app]'"
        )
    if ":" in host or port == 0:
        place = host if port is None else f"{host}:{port}"
        raise ArgumentError(f"{place}: give an IPv4 address or a name, and a port above 0")
    if not _is_loopback(host):
        LOGGER.warning(
            "%s: everybody who can reach this machine over the network can use the page; it has no "
            "password and no encryption",
            host,
        )
    detector = load_detector(weights, device, frames)
    with tempfile.TemporaryDirectory(prefix="dfdetect-") as folder, _environment(folder, host):
        page = build_page(detector, _find_samples(), folder)
        try:
            yield _launch(page, host, port)
        finally:
            # Without its folder, an annotated video that is being drawn is given up.
            for drawing in Path(folder).glob(f"{DRAWN}*"):
                shutil.rmtree(drawing, ignore_errors=True)
            page.close(verbose=False)


def build_page(
    detector: Detector, samples: Mapping[Path, str], folder: str | Path
) -> "gradio.Blocks":
    """Return the web page that `serve_app` serves.

    Args:
        detector: The detector that checks the files. It checks one file at a time.
        samples: A dictionary from the path of each sample video to the text on the button for this
            video.
        folder: Folder in which the annotated videos are stored while the page shows them.
    """
    import gradio

    drawn, uploads = _AnnotatedVideos(folder), _Uploads()
    with gradio.Blocks(
        title="dfdetect", analytics_enabled=False, delete_cache=(CLEANED_EVERY, LONGEST_KEPT)
    ) as page:
        gradio.HTML(INTRODUCTION, elem_id="introduction")
        with gradio.Row():
            with gradio.Column(scale=2):
                with gradio.Tab("File"):
                    # Every type of file is accepted: Gradio would not delete a refused file.
                    label = f"A video or an image, up to {LARGEST_UPLOAD}"
                    file = gradio.File(label=label, height=160)
                with gradio.Tab("Webcam"):
                    # Recordings are neither mirrored nor muted, because Gradio would need the
                    # program ffmpeg to do this.
                    webcam = gradio.Video(
                        label="A clip from your webcam",
                        sources=["webcam"],
                        include_audio=True,
                        webcam_options=gradio.WebcamOptions(mirror=False),
                    )
                gradio.HTML(SAMPLES_NOTE, visible=bool(samples))
                with gradio.Row():
                    buttons = [
                        gradio.Button(text, size="sm", min_width=150) for text in samples.values()
                    ]
            with gradio.Column(scale=3):
                verdict = gradio.HTML(WAITING, elem_id="verdict", js_on_load=ANNOUNCE)
                video = gradio.Video(label="Annotated video", show_label=False, visible=False)
                people = gradio.HTML(elem_id="people")

        def wait() -> dict:
            return {
                verdict: render_note("Waiting until the file can be checked ..."),
                people: "",
                video: gradio.Video(None, visible=False),
            }

        def wait_for(upload: str | None, request: gradio.Request) -> dict:
            if upload is not None:
                uploads.need(Path(upload), request.session_hash)
            return wait()

        def check(path: Path, request: gradio.Request) -> Iterator[dict]:
            target = drawn.replace(request.session_hash, path)
            for step in _check(detector, path, target):
                shown = gradio.Video(step.video, visible=step.video is not None)
                yield {verdict: step.verdict, people: step.people, video: shown}

        def check_upload(upload: str | None, request: gradio.Request) -> Iterator[dict]:
            if upload is None:  # a recording that was discarded
                return
            try:
                yield from check(Path(upload), request)
                yield {file: None, webcam: None}
            finally:
                uploads.release(Path(upload), request.session_hash)

        def make_check(sample: Path) -> Callable[[gradio.Request], Iterator[dict]]:
            def check_sample(request: gradio.Request) -> Iterator[dict]:
                yield from check(sample, request)

            return check_sample

        def forget(request: gradio.Request) -> None:
            drawn.delete(request.session_hash)
            uploads.forget(request.session_hash)

        shared: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_id": "check",
            "outputs": [verdict, video, people, file, webcam],
            "show_progress": "hidden",
        }
        at_once = {**shared, "concurrency_id": None, "queue": False, "trigger_mode": "multiple"}
        file.upload(wait_for, file, **at_once).then(check_upload, file, **shared)
        webcam.stop_recording(wait_for, webcam, **at_once).then(check_upload, webcam, **shared)
        for button, sample in zip(buttons, samples, strict=True):
            button.click(wait, **at_once).then(make_check(sample), **shared)
        page.unload(forget)
    return page.queue(max_size=QUEUE, default_concurrency_limit=1)


def _find_samples() -> dict[Path, str]:
    """Return a dictionary from the path of each sample video to a text with its name and label."""
    try:
        text = (SAMPLES / "metadata.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {SAMPLES / name: f"{name} ({row['label']})" for name, row in json.loads(text).items()}


class _Step(NamedTuple):
    """What the page shows at one step of a check.

    Attributes:
        verdict: The upper part of the page as HTML: a message or the verdict.
        people: The lower part of the page as HTML: the people in the video. Empty until the check
            has a result.
        video: The annotated video, or None if there is none.
    """

    verdict: str
    people: str = ""
    video: Path | None = None


def _check(detector: Detector, path: Path, target: Path) -> Iterator[_Step]:
    """Check a file, and yield the content of the page at each step of the check.

    If the file is a video that shows a face, an annotated copy of the video is also written.

    Args:
        detector: The detector that checks the file.
        path: The video or image to check.
        target: The path of the annotated copy.
    """
    result = yield from _predict(detector, path)
    verdict, people = render_verdict(result), render_people(result)
    if result.frames_sampled <= 1 or not result.tracks:  # an image, or no face in the video
        yield _Step(verdict, people)
        return
    yield _Step(verdict + render_note("Drawing the annotated video ..."), people)

    def check() -> None:
        if not target.parent.is_dir():  # the page was closed, or the server stops
            raise CancelledError

    try:
        check()  # `annotate` would make the folder again
        annotate(path, result, target, check=check)
    except CancelledError:
        return
    except (DfdetectError, OSError) as error:  # the page still shows the verdict
        LOGGER.warning("no annotated video: %s", error)
        yield _Step(verdict + render_note("The annotated video could not be drawn."), people)
    else:
        yield _Step(verdict, people, target)


def _predict(detector: Detector, path: Path) -> Generator[_Step, None, VideoResult]:
    """Score a file, yield the page's content after each decoded frame, and return the result."""
    counts: SimpleQueue[int | None] = SimpleQueue()
    # When the page is closed, Gradio closes this generator. The `with` statement then closes
    # the decoders, which ends the job.
    with ThreadPoolExecutor(1) as thread, _CountingDecoders(counts.put) as decoders:
        replica = detector.replica(detector.device, decoders)
        job = thread.submit(replica.predict, path, heat_maps=MOMENTS)
        job.add_done_callback(lambda _: counts.put(None))
        for count in iter(counts.get, None):
            yield _Step(render_note(f"Looking at frame {count} of {detector.frames} ..."))
        return job.result()


class _CountingDecoders(DecoderPool):
    """A pool of decoders that reports how many frames of the current video have been decoded.

    Args:
        on_frame: Function that is called after each decoded frame. Its argument is the number of
            frames of the video that have been decoded so far.
    """

    def __init__(self, on_frame: Callable[[int], None]):
        super().__init__(available_cores())
        self.on_frame = on_frame

    def read_frames(self, path: str | Path, *options: Any, **named: Any) -> Iterator[Frame]:
        for number, frame in enumerate(super().read_frames(path, *options, **named), start=1):
            self.on_frame(number)
            yield frame


class _AnnotatedVideos:
    """The annotated videos of open pages: at most one per page, each in a folder of its own."""

    def __init__(self, folder: str | Path):
        self.folder = folder
        self.shown: dict[str | None, Path] = {}

    def replace(self, session: str | None, video: Path) -> Path:
        """Delete a page's annotated video, and return the path for the page's next annotated video.

        Args:
            session: Gradio's identifier of the open page.
            video: The video that will be annotated next. Its name is a part of the returned path.
        """
        self.delete(session)
        self.shown[session] = Path(tempfile.mkdtemp(prefix=DRAWN, dir=self.folder))
        # Names of files may have 255 bytes.
        stem = os.fsencode(video.stem)[:LONGEST_STEM].decode(errors="ignore")
        return self.shown[session] / f"{stem}-annotated.mp4"

    def delete(self, session: str | None) -> None:
        if session in self.shown:
            shutil.rmtree(self.shown.pop(session), ignore_errors=True)


class _Uploads:
    """The uploaded files, and the open pages whose checks still need them.

    Gradio stores equal files with the same name only once, so several checks may need one file.
    """

    def __init__(self) -> None:
        self._needed: dict[Path, Counter[str | None]] = {}
        self._lock = Lock()

    def need(self, upload: Path, session: str | None) -> None:
        """Keep a file for a check of an open page, until `release` or `forget` is called.

        `session` is Gradio's identifier of the page.
        """
        with self._lock:
            self._needed.setdefault(upload, Counter())[session] += 1

    def release(self, upload: Path, session: str | None) -> None:
        """End a check. The file is deleted if no other check needs it."""
        with self._lock:
            pages = self._needed.get(upload, Counter())
            pages[session] -= 1
            self._needed[upload] = +pages  # without counts of 0
            self._delete_unneeded()

    def forget(self, session: str | None) -> None:
        """End all checks of a page that was closed, whether they have begun or not."""
        with self._lock:
            for pages in self._needed.values():
                del pages[session]
            self._delete_unneeded()

    def _delete_unneeded(self) -> None:
        """Delete files that no check needs, and the folders that Gradio made for them."""
        for upload in [upload for upload, pages in self._needed.items() if not pages]:
            del self._needed[upload]
            upload.unlink(missing_ok=True)
            # If the same file was also uploaded under another name, the folder is not empty.
            with suppress(OSError):
                upload.parent.rmdir()


def _launch(page: "gradio.Blocks", host: str, port: int | None) -> str:
    """Serve the page in another thread, and return the URL of the page."""
    from gradio.themes import Default
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [Middleware(_add_policy)]
    # Only requests to LOCAL_NAMES and to `host` are answered. Otherwise, a malicious website could
    # point its own domain name to 127.0.0.1 and read the page (DNS rebinding).
    if _is_loopback(host):
        names = [*LOCAL_NAMES, host]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names))
    try:
        # Gradio would try each of its 100 ports for seconds if it cannot listen at the host.
        socket.create_server((host, port or 0)).close()
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=LARGEST_UPLOAD.replace(" ", "").lower(),
            theme=Default(primary_hue="blue", font=SYSTEM_FONTS, font_mono=["monospace"]),
            css_paths=[str(files("dfdetect.reporting").joinpath("app.css"))],
            app_kwargs={"middleware": middleware},
            footer_links=[],
            inline=False,
            mcp_server=False,
            prevent_thread_lock=True,
            pwa=False,
            quiet=True,
            run_history=False,
            share=False,
            ssr_mode=False,
        )
    except (OSError, OverflowError) as error:  # the second one: the port is above 65535
        place = f"{host}, ports from 7860" if port is None else f"{host}:{port}"
        raise ArgumentError(f"{place}: cannot listen there; give another host or port") from error
    return url


def _add_policy(app: Callable) -> Callable:
    """Return an ASGI app that adds the security policy `POLICY` to each response of `app`."""

    async def call(scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        await app(scope, receive, send_with_policy)

    return call


@contextmanager
def _environment(folder: str, host: str) -> Iterator[None]:
    """Set environment variables that Gradio reads, and restore them when the `with` block ends.

    With these variables, Gradio stores its files in `folder`, sends no usage reports, and uses no
    proxy for its own requests to the page.
    """
    known = [os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), *LOCAL_NAMES, host]
    no_proxy = ",".join(filter(None, known))
    wanted = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
