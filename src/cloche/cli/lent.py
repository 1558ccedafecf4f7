"""A keeper that is forked from the template (`cli.template`), for a command that is its sandbox's monitor itself."""

import os
import select
import socket
from typing import Final

from cloche.boot.spawn import KeeperProcess, spawn_template
from cloche.runtime.template import LEND, READY, connect
from cloche.wire import protocol
from cloche.wire.channel import Channel
from cloche.wire.protocol import ProtocolError, take_int

_PATIENCE_S: Final = 20.0  # for the template to start, or start again, and to fork


def borrow_keeper() -> KeeperProcess | None:
    """Get a keeper from the template; None if there is no template, or if it dies before it has forked."""
    found = connect(spawn_template)
    if found is None:
        return None
    sock, pid = found
    with sock:
        channel = Channel(sock, "cloche run")
        channel.send(protocol.request(1, LEND, {}))
        try:
            if not _is_readable(sock) or sock.recv(1) != READY:
                return None
            while _is_readable(sock):
                messages = channel.receive()
                if messages is None:
                    break
                for message in messages:
                    if message.kind == protocol.REPLY and message.fds:
                        return _lent(take_int(message.fields, "pid", 0, 0, 1 << 30), message.fds[0])
        except (OSError, ProtocolError):
            pass
        finally:
            if pid:
                os.waitpid(pid, 0)  # the child ends as soon as it has forked the template
    return None


def _is_readable(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(_PATIENCE_S * 1000))


def _lent(pid: int, link: int) -> KeeperProcess:
    keeper = KeeperProcess(pid, socket.socket(fileno=link))
    keeper.is_child = False
    try:
        os.fstat(2)
        keeper.errors_fd = 2
    except OSError:
        pass  # closed
    return keeper
