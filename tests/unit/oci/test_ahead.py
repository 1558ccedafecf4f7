"""The monitor that is forked before it is known of what: what it hears, and its end when nobody needs it."""

import json
import os
import socket
from pathlib import Path

import pytest

from cloche.boot.spec import PLATFORMS, SandboxSpec, is_usual
from cloche.oci.ahead import fork_monitor
from cloche.oci.begin import PLATFORM_ANNOTATION, begin
from cloche.oci.messages import hear, say


def test_messages_arrive_whole_and_with_their_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        null = os.open(os.devnull, os.O_RDONLY)
        pid = os.fork()
        if pid == 0:  # the second is longer than the socket's buffer
            try:
                say(ours, [0, -1], [null, null])
                say(ours, (b"x" * 3_000_000, "\udcff"), [])
                say(ours, None, [null])
            finally:
                os._exit(0)
        ours.close()
        streams, fds = hear(theirs)
        assert streams == [0, -1] and len(fds) == 2
        assert {os.readlink(f"/proc/self/fd/{fd}") for fd in fds} == {os.devnull}
        assert not any(os.get_inheritable(fd) for fd in fds)
        assert hear(theirs) == ((b"x" * 3_000_000, "\udcff"), [])
        told, more = hear(theirs)
        assert told is None and len(more) == 1
        assert hear(theirs) == (None, [])  # it has ended
        for fd in (null, *fds, *more):
            os.close(fd)
        assert os.waitpid(pid, 0) == (pid, 0)


def test_a_part_of_a_message_is_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send((100).to_bytes(8, "little") + b"half")
        ours.close()
        assert hear(theirs) == (None, [])


def test_a_monitor_that_nobody_needs_ends(tmp_path: Path) -> None:
    """One that is forked late, and one that calls what it is given first of all."""
    mark = tmp_path / "forgotten"
    for forget in (None, mark.touch):
        ahead = fork_monitor(forget)
        assert ahead.is_empty == (forget is not None)
        assert os.getpgid(ahead.pid) != 0
        ahead.link.close()
        assert os.waitpid(ahead.pid, 0) == (ahead.pid, 0)
    assert mark.exists()


@pytest.mark.parametrize("flag", ["", *PLATFORMS])
@pytest.mark.parametrize("asked", ["", *PLATFORMS])
def test_the_sentry_gets_ready_ahead_for_what_is_usual(tmp_path: Path, flag: str, asked: str) -> None:
    """What is guessed from words and annotations is what the specification says then."""
    annotations = {PLATFORM_ANNOTATION: asked} if asked else {}
    (tmp_path / "config.json").write_text(json.dumps({"annotations": annotations}))
    spec = SandboxSpec([])
    spec.platform = flag or asked or spec.platform
    # A scope of systemd's: nothing is made yet.
    found = begin(str(tmp_path), "any", str(tmp_path), [], has_groups=True, is_systemd=True, platform=flag)
    assert found.is_usual == is_usual(spec, dict(os.environ))
