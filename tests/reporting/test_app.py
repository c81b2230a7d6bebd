import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

import cv2
import pytest

from dfdetect.cli import main
from dfdetect.errors import ArgumentError
from dfdetect.reporting.app import _AnnotatedVideos, _Uploads, serve_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = ("unshare", "--map-root-user", "--net")
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio")


def can_go_offline():
    try:
        return subprocess.run([*OFFLINE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_app_without_gradio_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'dfdetect[app]'" in line


@needs_gradio
@pytest.mark.slow
def test_serve_app_names_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"127.0.0.1:{port}"), serve_app(port=port):
            pass


@needs_gradio
@pytest.mark.slow
@pytest.mark.parametrize("port", [99999999, -1, 0])
def test_serve_app_names_an_impossible_port(port):
    with pytest.raises(ArgumentError, match=f"127.0.0.1:{port}"), serve_app(port=port):
        pass


@needs_gradio
@pytest.mark.slow
def test_serve_app_names_an_impossible_host_at_once():
    start = monotonic()
    abroad = serve_app(host="203.0.113.1", device="cpu")
    with pytest.raises(ArgumentError, match=r"203\.0\.113\.1, ports from 7860"), abroad:
        pass
    with pytest.raises(ArgumentError, match="give an IPv4 address"), serve_app(host="::1"):
        pass
    assert monotonic() - start < 60


def test_uploads_are_deleted_when_no_check_needs_them(tmp_path):
    upload = tmp_path / "hash" / "a.mp4"
    upload.parent.mkdir()
    upload.touch()
    uploads = _Uploads()
    for session in ("first", "first", "second"):
        uploads.need(upload, session)
    uploads.release(upload, "first")
    uploads.release(upload, "second")
    assert upload.exists()
    uploads.forget("first")  # the page was closed while its second check was waiting
    assert not upload.parent.exists()
    uploads.release(upload, "first")


def test_annotated_copies_of_long_names_have_names_that_can_be_written(tmp_path):
    drawn = _AnnotatedVideos(tmp_path)
    target = drawn.replace("session", Path(f"{'顔' * 83}.mp4"))
    target.touch()
    assert target.name.endswith("-annotated.mp4")
    drawn.delete("session")
    assert not target.parent.exists()


@needs_gradio
@pytest.mark.slow
@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_serve_app_serves_this_machine_only_and_leaves_nothing(monkeypatch, tmp_path, name):
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serve_app(device="cpu", host=name) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        assert len(list(tmp_path.iterdir())) == 1
        for host, status in ((f"{name}:{port}", 200), (f"elsewhere.example:{port}", 400)):
            connection = HTTPConnection(name, port)
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            assert answer.status == status
            if status == 200:
                assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert list(tmp_path.iterdir()) == []
    assert os.environ["no_proxy"] == "example.org"


@needs_gradio
@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_serve_app_warns_of_a_page_that_others_can_use(host, warns, caplog):
    with pytest.raises(ArgumentError, match="frames"), serve_app(host=host, frames=0):
        pass
    assert ("no password" in caplog.text) == warns


@needs_gradio
@pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright")
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
@pytest.mark.browser
@pytest.mark.slow
def test_serve_app_in_a_browser_answers_and_keeps_nothing(sample_data, tmp_path):
    """The test runs without a network if the system allows that."""
    good = sample_data / "test_videos" / "ehtdtkmmli.mp4"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    command = [sys.executable, str(Path(__file__).with_name("drive_app.py"))]
    command += [str(tmp_path), str(good), str(broken)]
    if can_go_offline():
        command = [*OFFLINE, *command, "--offline"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=900, check=True)
    seen = json.loads(run.stdout)
    first, reason, second = seen["answers"]
    assert "P(FAKE)" in first
    assert "not a readable video" in reason
    assert "P(FAKE)" in second
    assert {
        url.split("/")[2] for url in seen["requests"] if not url.startswith(("data", "blob"))
    } == {seen["url"].split("/")[2]}
    assert "ASKED FOR" not in seen["stderr"]
    assert "Traceback" not in seen["stderr"]
    assert seen["faults"] == []
    assert "Person 1: P(FAKE)" in seen["people"]
    assert seen["heat_maps"] >= 2
    assert [Path(file).name for file in seen["kept_while_shown"]] == [f"{good.stem}-annotated.mp4"]
    assert seen["kept_afterwards"] == [], "files of an upload whose page was closed"
    assert seen["folders_left"] == []
    assert seen["status"] == 130
    for width in (1200, 400):
        assert seen[f"scroll_{width}"] <= width
        assert cv2.imread(str(tmp_path / f"{width}.png")).std() > 20
