"""What cloche-oci tells engines and users, in logrus's form."""

import sys
import time


class Log:
    """Where errors go: standard error, and the file that the engine reads."""

    def __init__(self, path: str, kind: str) -> None:
        self.path: str = path
        self.kind: str = kind

    def line(self, level: str, text: str) -> str:
        """As logrus writes it."""
        from cloche.oci import quickjson as json

        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.kind == "json":
            return json.dumps({"level": level, "msg": text, "time": when})
        return f'time="{when}" level={level} msg={json.dumps(text)}'

    def error(self, text: str) -> None:
        """A command has failed."""
        if self.path:
            self._append(self.line("error", text))
        if sys.stderr is not None:
            shown = text if self.path else self.line("error", text)
            try:
                print(shown, file=sys.stderr)
            except OSError:
                pass

    def warning(self, text: str) -> None:
        """Something that was asked for has no effect: in the file, or where there is none on standard error."""
        if self.path:
            self._append(self.line("warning", text))
        elif sys.stderr is not None:
            try:
                print(self.line("warning", text), file=sys.stderr)
            except OSError:
                pass

    def _append(self, line: str) -> None:
        try:
            with open(self.path, "a", encoding="utf-8", errors="replace") as file:
                file.write(line + "\n")
        except OSError:
            pass
