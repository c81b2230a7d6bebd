"""Use the page of `dfdetect app` in Chromium as a person would, and print what it showed.

`python drive_app.py FOLDER GOOD BROKEN [--offline]` prints JSON.

FOLDER gets the screenshots, and the app keeps its temporary files there. GOOD is a video, and
BROKEN is a file that cannot be read. With `--offline`, the only network is a loopback interface:
start the script by `unshare --map-root-user --net`.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

from playwright.sync_api import Page, sync_playwright

# A script that starts the command, and reports each access to another machine on stderr.
START = """
import sys
from dfdetect.cli import main
from dfdetect.runtime import engines

engines.PAYS_AFTER = sys.maxsize  # other engines take longer to compile than this script to run

def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in (None, "127.0.0.1", "localhost", b"127.0.0.1", "::1"):
        print(f"ASKED FOR {host}", file=sys.stderr, flush=True)

sys.addaudithook(watch)
sys.exit(main(["app", "--no-browser", "--device", "cpu", "--frames", "4"]))
"""
WAIT = 120_000


def bring_loopback_up() -> None:
    """Bring up the loopback interface, like `ip link set lo up`, which may not be installed."""
    flags, get, put = 0x1, 0x8913, 0x8914  # IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS of netdevice(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (before,) = struct.unpack("16xh14x", fcntl.ioctl(control, get, request))
        fcntl.ioctl(control, put, struct.pack("16sh14x", b"lo", before | flags))


def upload(page: Page, file: Path) -> str:
    """Upload a file and return the text of the answer, once the page is ready for another file."""
    page.set_input_files("input[type=file]", file)
    page.wait_for_selector(f"#verdict .file:text-is('{file.name}')", timeout=WAIT)
    page.wait_for_selector("input[type=file]", state="attached", timeout=WAIT)
    return page.inner_text("#verdict")


def files_left(folder: Path) -> list[str]:
    """Return the files in the app's folder that are not empty."""
    found = (file for place in folder.glob("dfdetect-*") for file in place.rglob("*"))
    return [str(file) for file in found if file.is_file() and file.stat().st_size]


def wait_until_none_left(folder: Path, seconds: float = 60) -> list[str]:
    """Wait until the app's files are deleted, at most for some seconds; return those left."""
    end = monotonic() + seconds
    while (left := files_left(folder)) and monotonic() < end:
        sleep(0.5)
    return left


def main(folder: Path, good: Path, broken: Path) -> None:
    seen: dict[str, object] = {}
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "stderr").open("w+") as errors:
        app = subprocess.Popen(
            [sys.executable, "-c", START],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            url = re.search(r"http://\S+", app.stdout.readline())[0]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
                    args=["--no-sandbox"],
                )
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                requests, faults = [], []
                page.on("request", lambda request: requests.append(request.url))
                page.on("pageerror", lambda error: faults.append(str(error)))
                page.goto(url)
                seen["answers"] = [upload(page, file) for file in (good, broken, good)]
                seen["people"] = page.inner_text("#people")
                seen["heat_maps"] = page.locator("#people .faces img").count()
                page.wait_for_function("document.querySelector('video')?.duration", timeout=WAIT)
                for width in (1200, 400):
                    page.set_viewport_size({"width": width, "height": 900})
                    page.screenshot(path=folder / f"{width}.png", full_page=True)
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    seen[f"scroll_{width}"] = wide
                seen["kept_while_shown"] = files_left(folder)
                page.set_input_files("input[type=file]", good)
                # Wait for any note of progress: the note of a single frame may be gone too soon.
                page.wait_for_selector("#verdict .note:has-text(' ...')", timeout=WAIT)
                browser.close()
                seen["kept_afterwards"] = wait_until_none_left(folder)
        finally:
            app.send_signal(signal.SIGINT)
            seen["status"] = app.wait(60)
        errors.seek(0)
        seen["stderr"] = errors.read()
    seen["requests"] = requests
    seen["faults"] = faults
    seen["folders_left"] = [str(place) for place in folder.glob("dfdetect-*")]
    print(json.dumps({"url": url, **seen}))


if __name__ == "__main__":
    if "--offline" in sys.argv:
        bring_loopback_up()
    main(*map(Path, sys.argv[1:4]))
