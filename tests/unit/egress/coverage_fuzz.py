"""The same comparisons under a fuzzer that is guided by coverage (atheris, which is not among the dependencies).

    python -m tests.unit.egress.coverage_fuzz hello -runs=1000000

The first word is one of `hello`, `question`, `answer`, `request`, `stream`; the rest is libFuzzer's.  It begins with what
`test_fuzz` begins with, and ends at the first input that is a crash or a wrong decision.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

# (What reads for us is not instrumented: with it there are a tenth as many inputs a second.)
with atheris.instrument_imports(include=["cloche.egress"]):
    from tests.unit.egress import slow_readers

from tests.unit.egress.test_clienthello import HELLO, records
from tests.unit.egress.test_dns import OPT, query, reply
from tests.unit.egress.test_http2 import HEAD, TUNNEL, fields, streams

CHECKS = {
    "hello": slow_readers.check_hello,
    "question": slow_readers.check_question,
    "answer": slow_readers.check_answer,
    "request": slow_readers.check_request,
    "stream": slow_readers.check_stream,
}
STARTS = {
    "hello": [HELLO, records(HELLO, 50), records(HELLO, 200)],
    "question": [query(), query(counts=(1, 0, 0, 1), more=OPT), query(b"\3www\4good\4test\0", 28)],
    "answer": [reply([("good.test.", "A", "192.0.2.1")], ident=7)],
    "request": [
        b"GET /a?b HTTP/1.1\r\nHost: good.test\r\nAccept: */*\r\n\r\n",
        b"POST http://good.test/x HTTP/1.1\r\nHost: good.test:80\r\nContent-Length: 5\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    ],
    "stream": [streams(HEAD), streams(HEAD, TUNNEL), fields(HEAD), fields(TUNNEL)],
}


def main() -> None:
    """libFuzzer does not return."""
    kind = sys.argv[1]
    folder = Path(tempfile.mkdtemp(prefix="cloche-fuzz-"))
    for number, start in enumerate(STARTS[kind]):
        (folder / str(number)).write_bytes(start)
    atheris.Setup([sys.argv[0], str(folder), "-max_len=2048", *sys.argv[2:]], CHECKS[kind])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
