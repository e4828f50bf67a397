"""Draw digits and have them read at once: a page on this machine, and a widget for notebooks, with one script."""

import base64
import io
import json
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from tempfile import TemporaryDirectory
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
from PIL import Image, ImageDraw

from .errors import DigitsumError
from .evaluation import answers, predictions, sight
from .images import read_strips
from .models import StripModel

SCRIPT = Path(__file__).with_name("draw.js").read_text("utf-8")
PAGE = """<!doctype html><html lang="en"><title>Draw digits</title><link rel="icon" href="data:,">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body id="digitsum-page"><script type="module" src="draw.js"></script>"""
FILES = {"/": ("text/html", PAGE), "/draw.js": ("text/javascript", SCRIPT)}
POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'"


def read(model: StripModel, drawing: str | bytes) -> dict[str, str]:
    """Read a drawing, a PNG in base64: "text" is the answer or the fault, "picture" what the reader sees."""
    if not drawing:
        return {"text": "\nWrite a row of digits with mouse, pen or finger."}
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder, "drawing.png")
            path.write_bytes(base64.b64decode(drawing, validate=True))
            strips = read_strips(path)[:1]
        predicted = predictions(model, strips, digits=None)
    except (DigitsumError, ValueError) as error:
        return {"text": "\n" + str(error).replace(str(path), "The drawing")}
    (answer,), readings = answers(predicted), predicted.readings
    if not readings or "error" in answer:
        return {"text": "\nNo digits found, or these are not the weights of a reader."}
    there = 255 * (1 - sight(model, strips)[0, :, :1].T)  # (1, T): how probable a digit is in each column
    step = strips.shape[2] // there.shape[1]
    seen = np.pad(np.vstack([np.kron(there, np.ones((2, step))), strips[0]]), ((12, 0), (0, 0)))
    picture = Image.fromarray(np.kron(seen, np.ones((3, 3))).astype(np.uint8))
    for digit, column in zip(readings[0].digits, readings[0].columns, strict=True):
        ImageDraw.Draw(picture).text((3 * step * (column + 0.5), 2), str(digit), 255, anchor="ma", font_size=28)
    picture.save(file := io.BytesIO(), "PNG")
    sure = f"{'UNSURE, ' * answer['unsure']}probability {answer['probability']:.1%}, next {answer['runner-up']}"
    text = f"Sum {answer['sum']}\nDigits {' '.join(answer['digits'])}, {sure}.\nAs the reader sees it:"
    return {"text": text, "picture": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}


def page(model: StripModel, request: dict[str, Any], start: Any) -> list[bytes]:
    """Answer a WSGI request of the page, and of it alone: another Host or Origin is a site's that tries to get in."""
    home, size = f"http://127.0.0.1:{request['SERVER_PORT']}", request["CONTENT_LENGTH"]
    ours = f"http://{request.get('HTTP_HOST')}" == request.get("HTTP_ORIGIN", home) == home
    status, kind, text = "403 Forbidden", "text/plain", f"Draw at {home}, up to 9,999,999 bytes."
    if ours and request["REQUEST_METHOD"] == "GET" and request["PATH_INFO"] in FILES:
        status, (kind, text) = "200 OK", FILES[request["PATH_INFO"]]
    if ours and request["REQUEST_METHOD"] == "POST" and size.isdecimal() and len(size) < 8:
        drawing = request["wsgi.input"].read(int(size))
        status, kind, text = "200 OK", "application/json", json.dumps(read(model, drawing))
    start(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Security-Policy", POLICY)])
    return [text.encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a browser opens connections before it needs them


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...


def server(model: StripModel, port: int) -> WSGIServer:
    """Return a server of the page on 127.0.0.1 alone. Port 0 takes any that is free."""
    try:
        return make_server("127.0.0.1", port, partial(page, model), _Server, _Handler)
    except (OSError, OverflowError) as error:
        raise DigitsumError(f"Port {port} cannot be used ({error}). Choose another; 0: any free one.") from error


def canvas(model: StripModel) -> Any:
    """Return a notebook's widget; without anywidget, print how to install it."""
    try:
        from anywidget import AnyWidget
    except ImportError:
        return print("Drawing here needs anywidget: pip install -r requirements-draw.txt")
    widget = type("Canvas", (AnyWidget,), {"_esm": SCRIPT})()
    widget.on_msg(lambda _, drawing, buffers: widget.send(read(model, drawing)))
    return widget
