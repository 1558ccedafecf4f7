"""The driver of a context for Python, a program that runs inside the sandbox; its argument is the token of its marks.

See cloche/sdk/code.py. It reads cells (a length on a line, then as many bytes) and runs them all in one namespace.
Results, and the ends of cells, it writes on its own copies of the standard streams. The results are the value of a
last expression, the arguments of `display()`, and the figures of matplotlib.
"""

from __future__ import annotations

import ast
import base64
import builtins
import inspect
import io
import json
import linecache
import os
import signal
import sys
import traceback
from typing import Any

TOKEN = sys.argv[1]
IN, OUT, ERR = os.dup(0), os.dup(1), os.dup(2)
LIMIT = 8 << 20  # bytes of a result
METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
}


def put(fd: int, kind: str, payload: bytes) -> None:
    """Write a mark for the SDK."""
    data = b"\x1e%s:%s:%d\n%s" % (TOKEN.encode(), kind.encode(), len(payload), payload)
    while data:
        data = data[os.write(fd, data) :]


def as_text(mime: str, found: Any) -> str | None:
    """A representation as text for JSON; None for none."""
    if isinstance(found, tuple):  # with metadata
        found = found[0]
    if found is None:
        return None
    if mime == "application/json":
        return json.dumps(found)
    return base64.b64encode(found).decode() if isinstance(found, bytes) else str(found)


def formats_of(value: Any) -> dict[str, str | None]:
    """The forms of a value, by MIME type."""
    formats: dict[str, str | None] = {}
    try:
        formats["text/plain"] = repr(value)
    except Exception as error:
        formats["text/plain"] = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    if isinstance(value, type):
        return formats
    try:
        bundle = getattr(value, "_repr_mimebundle_", None)
        found = bundle() if bundle is not None else None
        found = found[0] if isinstance(found, tuple) else found
        for mime, each in (found or {}).items():
            formats[mime] = as_text(mime, each)
    except Exception:
        pass
    for mime, method in METHODS.items():
        try:
            function = getattr(value, method, None)
            text = as_text(mime, function()) if callable(function) else None
            if text is not None:
                formats[mime] = text
        except Exception:
            pass
    if isinstance(value, (dict, list)) and "application/json" not in formats:
        try:
            formats["application/json"] = json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            pass
    return formats


def show(formats: dict[str, str | None], *, is_main: bool) -> None:
    """Tell of a result; what is too long is left out."""
    kept = {mime: text for mime, text in formats.items() if isinstance(text, str) and len(text) <= LIMIT}
    flush()
    put(OUT, "result", json.dumps({"is_main": is_main, "formats": kept}).encode())


def display(*values: Any) -> None:
    """Show values as results."""
    for value in values:
        show(formats_of(value), is_main=False)


def show_figures() -> None:
    """Figures that a cell has drawn."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        text = base64.b64encode(file.getvalue()).decode()
        show({"text/plain": repr(figure), "image/png": text}, is_main=False)
    pyplot.close("all")


def flush() -> None:
    """Write out what was printed, so that it comes before the next mark."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


class Cells:
    """Runs cells in one namespace."""

    def __init__(self) -> None:
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        self.names: dict[str, Any] = module.__dict__
        self.names["__builtins__"] = builtins
        self.names["display"] = display
        self.count = 0
        self.loop: Any = None

    def evaluate(self, code: Any) -> Any:
        """Run a code object and return its value, awaited if the cell uses `await` at its top."""
        value = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            import asyncio

            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self.loop)
            value = self.loop.run_until_complete(value)
        return value

    def execute(self, text: str, name: str) -> None:
        """Run a cell; raises what it raises."""
        tree = ast.parse(text, name)
        last: ast.Expression | None = None
        final = tree.body[-1] if tree.body else None
        if isinstance(final, ast.Expr):
            tree.body.pop()
            last = ast.Expression(final.value)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if tree.body:
            self.evaluate(compile(tree, name, "exec", flags))
        if last is not None:
            value = self.evaluate(compile(last, name, "eval", flags))
            if value is not None:
                self.names["_"] = value
                show(formats_of(value), is_main=True)
        show_figures()

    def run(self, text: str) -> dict[str, str] | None:
        """Run a cell; returns the contents of the mark for its end."""
        self.count += 1
        name = f"<cell {self.count}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        try:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self.execute(text, name)
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        except BaseException as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if isinstance(error, SystemExit) and error.code in (None, 0):
                return None
            here = error.__traceback__
            while here is not None and here.tb_frame.f_code.co_filename == DRIVER:
                here = here.tb_next
            lines = traceback.format_exception(type(error), error, here)
            return {"name": type(error).__name__, "value": str(error), "traceback": "".join(lines)}
        return None


DRIVER = put.__code__.co_filename


def main() -> None:
    """Run cells until the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.argv[:] = [""]
    sys.path[:] = ["", *[path for path in sys.path if path]]
    cells = Cells()
    put(OUT, "ready", b"")
    with os.fdopen(IN, "rb") as cells_in:
        for line in cells_in:
            text = cells_in.read(int(line)).decode("utf-8", "replace")
            error = cells.run(text)
            flush()
            put(ERR, "end", b"")
            put(OUT, "end", json.dumps({"error": error}).encode())


if __name__ == "__main__":
    main()
