"""The drawing page, its server and the widget: strokes in a real browser, and requests that are none of the page's."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import ENVIRONMENT, REPOSITORY
from PIL import Image

from digitsum import load_checkpoint
from digitsum.__main__ import main
from digitsum.draw import SCRIPT, canvas, read, server
from digitsum.models import StripModel

CHROMIUM = shutil.which("chromium")
EXAMPLE = base64.b64encode((REPOSITORY / "docs" / "example.png").read_bytes())
STROKES = {  # of digits that are one wide and two high
    "4": [[(0.6, 0), (0, 1.3), (1, 1.3)], [(0.7, 0.7), (0.7, 2)]],
    "7": [[(0, 0), (1, 0), (0.4, 2)]],
}


def need(there: object) -> None:
    """Skip a test that lacks something; with DIGITSUM_EXTRAS=1 let it fail instead."""
    if not there and not os.environ.get("DIGITSUM_EXTRAS"):
        pytest.skip("anywidget, playwright or chromium is not installed")


def drawing(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue())


@pytest.fixture(scope="module")
def reader() -> StripModel:
    return load_checkpoint(REPOSITORY / "models" / "mnist" / "reader_handwriting.safetensors")


@pytest.fixture(scope="module")
def port(reader: StripModel) -> Iterator[int]:
    """The port of the page, while it is served."""
    with server(reader, 0) as page:
        threading.Thread(target=page.serve_forever).start()
        yield page.server_port
        page.shutdown()


def request(port: int, method: str, path: str = "/", body: bytes = b"", **headers: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def test_the_page_may_reach_no_other_host_and_nothing_else_is_served(port: int) -> None:
    page, script = request(port, "GET"), request(port, "GET", "/draw.js")
    assert page.status == script.status == 200 and script.read().decode() == SCRIPT
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert not re.search("https?:", page.read().decode() + SCRIPT)
    for path in ("/draw.py", "/../draw.py", "//etc/passwd", "/models/mnist/"):
        assert request(port, "GET", path).status == 403


def test_a_drawing_is_answered_as_by_predict(port: int, reader: StripModel) -> None:
    answer = json.load(request(port, "POST", body=EXAMPLE, Origin=f"http://127.0.0.1:{port}"))
    assert answer == read(reader, EXAMPLE) and answer["text"].startswith("Sum 23\nDigits 3 8 2 6 4, probability ")
    assert answer["picture"].startswith("data:image/png;base64,")


REFUSED = {
    "Host": ["example.org", "localhost.example.org:80"],
    "Origin": ["http://example.org", "null"],
    "Content_Length": ["10000000", "-1", "", "many"],
}


@pytest.mark.parametrize(("header", "value"), [(header, value) for header in REFUSED for value in REFUSED[header]])
def test_other_sites_and_large_bodies_are_refused_in_one_line(header: str, value: str, port: int) -> None:
    answer = request(port, "POST", **{header: value})
    assert answer.status == 403
    assert answer.read().decode() == f"Draw at http://127.0.0.1:{port}, up to 9,999,999 bytes."


BAD = {
    b"": "Write a row of digits",
    b"%%%": "base64",
    base64.b64encode(b"no image"): "The drawing is not a readable image",
    drawing(np.zeros((240, 960, 4), np.uint8)): "no ink found",
    drawing(np.tile(np.uint8(255), (6, 6))): "6x6 pixels",
}


@pytest.mark.parametrize("body", BAD, ids=BAD.values())
def test_what_cannot_be_read_is_said_in_one_line(body: bytes, port: int) -> None:
    answer = json.load(request(port, "POST", body=body))
    assert answer.keys() == {"text"} and BAD[body] in answer["text"] and len(answer["text"].split("\n")) == 2
    assert "/" not in answer["text"]  # no path of a temporary file


def test_weights_of_another_model_are_named(reader: StripModel) -> None:
    other = load_checkpoint(REPOSITORY / "models" / "mnist" / "baseline_cnn-regression.safetensors")
    assert "not the weights of a reader" in read(other, EXAMPLE)["text"]


def test_the_command_tells_its_address_and_ends_with_ctrl_c(monkeypatch, capsys) -> None:
    command = [sys.executable, "-m", "digitsum", "draw", "--port", "0"]
    options = {"cwd": REPOSITORY, "env": ENVIRONMENT, "stdout": -1, "stderr": -1, "text": True}
    # A process in the background ignores Ctrl-C, and so would its child.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **options) as running:
        port = int(re.search(r"http://127.0.0.1:(\d+)/", running.stdout.readline())[1])
        assert request(port, "GET").status == 200
        monkeypatch.chdir(REPOSITORY)
        assert main(["draw", "--port", str(port)]) == 1  # it is taken
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60) == ("\nStopped.\n", "") and running.returncode == 0
    error = capsys.readouterr().err
    assert error.startswith(f"digitsum: Port {port} cannot be used") and error.count("\n") == 1


# The browser


def with_mouse(page, points: list) -> None:
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def with_finger(page, points: list) -> None:
    session = page.context.new_cdp_session(page)
    for kind, (x, y) in zip(["touchStart"] + ["touchMove"] * len(points), points, strict=False):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize(
    ("width", "scheme", "draw", "digits"), [(1200, "light", with_mouse, "4774"), (380, "dark", with_finger, "747")]
)
def test_strokes_are_read_in_a_browser(width: int, scheme: str, draw: Callable, digits: str, port: int) -> None:
    need(find_spec("playwright") and CHROMIUM)
    from playwright.sync_api import expect, sync_playwright

    home, seen, faults = f"http://127.0.0.1:{port}/", [], []
    with sync_playwright() as playwright:
        nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[nowhere])
        view = {"viewport": {"width": width, "height": 700}, "color_scheme": scheme, "has_touch": draw is with_finger}
        page = browser.new_page(**view)
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(home)
        output, picture = page.locator("output"), page.locator("img")
        expect(output).to_contain_text("Write a row of digits")
        box, size = page.locator("canvas").bounding_box(), 70
        for k, digit in enumerate(digits):
            left, top = box["x"] + 20 + 1.5 * k * size, box["y"] + 45
            for stroke in STROKES[digit]:
                draw(page, [(left + size * x, top + size * y) for x, y in stroke])
        expect(output).to_contain_text(f"Digits {' '.join(digits)}, ", timeout=60_000)
        assert output.inner_text().startswith(f"Sum {sum(map(int, digits))}\n")
        assert picture.bounding_box()["width"] > 300 and page.evaluate("scrollY") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="Clear").click()
        expect(output).to_contain_text("Write a row of digits")
        assert not picture.get_attribute("src")
        browser.close()
    assert faults == [] and {url for url in seen if not url.startswith("data:")} == {home, home + "draw.js"}


# The notebook


def test_the_widget_has_the_same_script_and_answers(reader: StripModel, monkeypatch) -> None:
    need(find_spec("anywidget"))
    widget, sent = canvas(reader), []
    monkeypatch.setattr(widget, "send", sent.append)
    widget._handle_custom_msg(EXAMPLE.decode(), [])
    assert widget._esm == SCRIPT and sent == [read(reader, EXAMPLE)]


def test_without_anywidget_the_cell_says_what_to_install(reader: StripModel, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    assert canvas(reader) is None
    assert capsys.readouterr().out == "Drawing here needs anywidget: pip install -r requirements-draw.txt\n"
