"""`cloche exec`: run a further command in a sandbox that runs, and exit as it does."""

import argparse
import os
import signal
import sys
from typing import Final

from cloche.cli.client import connect, report_errors
from cloche.cli.options import UsageError, env_items, parse_user, read_env_file
from cloche.cli.terminal import (
    FORWARDED,
    KEYBOARD,
    Terminal,
    TerminalModes,
    exit_status,
    note_signals,
    standard_streams,
    wait_readable,
    window_size,
)
from cloche.wire import protocol
from cloche.wire.control_client import ControlClient
from cloche.wire.requests import FOREGROUND, PROCESS, ExecRequest

_VARIABLES: Final = ("TERM", "COLORTERM")  # of the host's terminal, with -t


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche exec`."""
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass standard input on even if it is a terminal")
    add("-t", "--tty", action="store_true", help="give the command a terminal of its own")
    add("-d", "--detach", action="store_true", help="do not wait for it")
    add("-e", "--env", action="append", default=[], metavar="K=V", help="set a variable")
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, one K=V a line")
    add("-w", "--workdir", metavar="DIR", help="directory to start in")
    add("-u", "--user", metavar="UID[:GID]", help="user and group inside")
    add("name", metavar="NAME", help="the sandbox")
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND [ARG …]", help="what to run")


def make_request(options: argparse.Namespace) -> ExecRequest:
    """The request that the options make, without descriptors.  Raises UsageError."""
    command = list(options.command)
    if command and command[0] == "--":
        command.pop(0)
    if not command:
        raise UsageError("no command; write cloche exec [options] NAME -- COMMAND [ARG …]")
    request = ExecRequest([os.fsencode(word) for word in command])
    for path in options.env_file:
        request.env += env_items(read_env_file(path))
    if options.tty:
        request.has_terminal = True
        request.env += env_items([key for key in _VARIABLES if key in os.environ])
        if options.detach:
            raise UsageError("-t and -d: a terminal needs somebody who looks at it")
        if not (os.isatty(0) and os.isatty(1)):
            raise UsageError("-t: standard input and output are not a terminal; leave -t out or run in one")
        request.rows, request.columns = window_size()
    request.env += env_items(options.env)
    if options.user:
        request.uid, request.gid = parse_user(options.user)
    if options.workdir:
        if not options.workdir.startswith("/"):
            raise UsageError(f"-w {options.workdir}: write an absolute path")
        request.cwd = os.fsencode(os.path.normpath(options.workdir))
    if options.detach:
        request.is_detached = True
    return request


class Executor:
    """Follows one command: passes on the host's signals and window sizes, and waits for its end."""

    def __init__(self, client: ControlClient, *, has_terminal: bool) -> None:
        self.client: ControlClient = client
        self.modes: TerminalModes = TerminalModes()
        self.terminal: Terminal | None = Terminal() if has_terminal else None
        self.wake_read: int = note_signals()
        self.ident: int = 0  # id of the request

    def _on_signals(self) -> None:
        client = self.client
        for number in os.read(self.wake_read, 512):
            if number == signal.SIGWINCH or number == signal.SIGCONT:
                if number == signal.SIGCONT:
                    if self.terminal is not None:
                        self.terminal.enter()
                    client.signal(self.ident, number, FOREGROUND)
                if self.terminal is not None:
                    client.resize(self.ident, *window_size())
            elif number in KEYBOARD:
                client.signal(self.ident, number, FOREGROUND)
            elif number == signal.SIGTSTP:
                if self.terminal is not None:
                    self.terminal.leave()
                client.signal(self.ident, signal.SIGSTOP, FOREGROUND)
                os.kill(os.getpid(), signal.SIGSTOP)
            elif number in FORWARDED:
                client.signal(self.ident, number, PROCESS)

    def follow(self, request: ExecRequest, fds: list[int]) -> int:
        """Execute, and wait for the end: the exit status.  Raises ControlError, OSError."""
        is_over = False
        try:
            if self.terminal is not None:
                self.terminal.enter()
            self.ident = self.client.execute(request, fds)
            while True:
                # Signals and window sizes are requests, too; they may fail because the command has just ended.
                message = self.client.take(self.ident)
                if message is not None and message.kind == protocol.REPLY:
                    is_over = True
                    if request.is_detached:
                        return 0
                    return exit_status(protocol.take_int(message.fields, "status", 0, 0, 0xFFFF))
                while not self.client.has_message():
                    ready = wait_readable([self.client.fileno(), self.wake_read], -1)
                    if self.wake_read in ready:
                        self._on_signals()
                    if self.client.fileno() in ready:
                        break
        finally:
            if self.terminal is not None:
                self.terminal.leave()
            elif not is_over:
                self.modes.restore()


def _run(options: argparse.Namespace) -> int:
    streams = standard_streams(
        is_interactive=options.interactive and not options.detach, has_terminal=options.tty
    )
    request = make_request(options)
    client = connect(options, options.name)
    if options.detach:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        streams = [null, null, null]
    if options.tty:
        streams[2] = -1  # the terminal is used instead
    fds: list[int] = []
    for number, fd in enumerate(streams):
        if fd >= 0:
            request.streams.append(number)
            fds.append(fd)
    if sys.stdout is not None:
        sys.stdout.flush()
    return Executor(client, has_terminal=options.tty).follow(request, fds)


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("exec", _run, options)
