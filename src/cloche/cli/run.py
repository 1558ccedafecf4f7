"""`cloche run`: run a command in a new sandbox and exit as it does."""

import argparse
import fcntl
import os
import re
import signal
import struct
import sys
import termios
import time
import tty
from typing import Any, Final

from cloche.boot.launch import LaunchError, Sandbox, launch, wait_readable
from cloche.boot.spec import COW, DEV, HOST, PROC, RO, RW, SYSFS, MountSpec, PublishSpec, SandboxSpec
from cloche.boot.view import base_environment, default_view, host_user

EXIT_INTERNAL: Final = 125
EXIT_TIMEOUT: Final = 124
# Passed on to the command; what the keyboard sends, to its whole process group, as a terminal would.
_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_KEYBOARD: Final = (signal.SIGINT, signal.SIGQUIT)
_SIZES: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


Modes = list[Any]  # what termios.tcgetattr gives


class UsageError(Exception):
    """The command line is wrong; the text says what and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche run`."""
    add = parser.add_argument
    add(
        "--rootfs",
        metavar="DIR",
        help="use this directory as the root instead of the host's system directories",
    )
    add("-v", "--volume", action="append", default=[], metavar="SRC:DST[:ro|:rw|:cow]",
        help="show a host directory or file; cow (the default) keeps writes private")  # fmt: skip
    add(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="K=V",
        help="set a variable (K alone: the host's value)",
    )
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, one K=V a line")
    add(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[HOSTIP:][HOSTPORT]:PORT",
        help="let the host (by default its loopback only) reach a TCP port of the sandbox; no HOSTPORT: any",
    )
    add("-w", "--workdir", metavar="DIR", help="directory to start in")
    add("-u", "--user", metavar="UID[:GID]", help="user and group inside")
    add("-i", "--interactive", action="store_true", help="pass standard input on even if it is a terminal")
    add("-t", "--tty", action="store_true", help="give the command a terminal of its own")
    add("--hostname", default="cloche", help="host name inside")
    add(
        "--init",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pid 1 is an init of the sandbox's own, which reaps orphans (the default); --no-init: the command",
    )
    add("--memory", metavar="SIZE", help="limit of memory, e.g. 512m")
    add("--pids", type=int, metavar="N", help="limit of processes and threads")
    add("--timeout", type=float, metavar="SECONDS", help="end the command after this time; exit status 124")
    add("--read-only", action="store_true", help="no writes at all but to /tmp, /dev and volumes")
    add("--platform", default="systrap", choices=["systrap"], help="how guest code runs")
    add("--mm", default="strict", choices=["strict", "direct"], help="who checks memory operations")
    add("--no-patch", dest="patch", action="store_false", help="leave programs' text as it is: slower system calls")
    add(
        "--strace",
        nargs="?",
        const="-",
        metavar="FILE",
        help="log every system call, to standard error or FILE",
    )
    add(
        "--log-level",
        default="warning",
        choices=["debug", "info", "warning", "error"],
        help="what cloche itself says",
    )
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND [ARG …]", help="what to run")


def prepare_words(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """A lone `--strace` takes no argument: the next word is another option or the command."""
    takes_value = {
        name
        for action in parser._actions  # argparse has no other way to ask
        if action.nargs is None and action.const is None
        for name in action.option_strings
    }
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        if words[at] == "--strace":
            return [*words[:at], "--strace=-", *prepare_words(parser, words[at + 1 :])]
        at += 2 if words[at] in takes_value else 1
    return words


def parse_size(text: str, what: str) -> int:
    """Bytes of "512m" and the like.  Raises UsageError."""
    match = re.fullmatch(r"(\d+)([bkmgt]?)(?:i?b)?", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{what}: {text!r} is not a size; write a number with k, m or g, e.g. 512m")
    return int(match[1]) * _SIZES[match[2]]


def parse_volume(text: str) -> MountSpec:
    """SRC:DST[:MODE].  Raises UsageError."""
    parts = text.split(":")
    mode = COW
    if len(parts) == 3 and parts[2] in (RO, RW, COW):
        mode = parts.pop()
    if len(parts) != 2 or not parts[0] or not parts[1].startswith("/"):
        raise UsageError(f"-v {text}: write SRC:DST[:ro|:rw|:cow] with an absolute DST")
    source = os.path.abspath(parts[0])
    if not os.path.exists(source):
        raise UsageError(f"-v {text}: {parts[0]} does not exist on the host")
    destination = os.path.normpath(parts[1])
    if destination == "/":
        raise UsageError(f"-v {text}: the root cannot be a volume; use --rootfs")
    mount = MountSpec(os.fsencode(destination), HOST, source, mode)
    mount.is_shared = mode != COW
    mount.is_file = not os.path.isdir(source)
    mount.is_volume = True
    return mount


def parse_publish(text: str) -> PublishSpec:
    """[HOSTIP:][HOSTPORT]:PORT[/tcp], an IPv6 address in brackets.  Raises UsageError."""
    import ipaddress

    body, slash, protocol = text.partition("/")
    if slash and protocol != "tcp":
        raise UsageError(f"-p {text}: only TCP ports can be published; write [HOSTIP:]HOSTPORT:PORT[/tcp]")
    match = re.fullmatch(r"(?:(\[[^]]*\]|[^:[\]]*):)?(\d{0,9}):(\d{1,9})", body, re.ASCII)
    if match is None:
        raise UsageError(f"-p {text}: write [HOSTIP:]HOSTPORT:PORT[/tcp], e.g. 8080:80 or 127.0.0.1::80")
    host_port, port = int(match[2] or "0"), int(match[3])
    if not 1 <= port <= 65535 or host_port > 65535:
        raise UsageError(f"-p {text}: ports are numbers from 1 to 65535")
    given = match[1] or "127.0.0.1"
    try:
        address = ipaddress.ip_address("127.0.0.1" if given == "localhost" else given.strip("[]"))
    except ValueError:
        raise UsageError(f"-p {text}: {given} is not a numeric address of the host") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise UsageError(f"-p {text}: an address with a zone cannot be published")
    return PublishSpec(text, str(address), host_port, port)


def announce(published: list[PublishSpec], level: str) -> None:
    """Say which ports lead where: those that the host chose always, the others with --log-level info."""
    for spec in published:
        if level in ("info", "debug") or (spec.is_any_port and level != "error"):
            host = f"[{spec.host_ip}]" if ":" in spec.host_ip else spec.host_ip
            print(f"cloche: {host}:{spec.host_port} leads to port {spec.port}", file=sys.stderr)


def read_env_file(path: str) -> list[str]:
    """Lines K=V or K; blank lines and # comments are skipped.  Raises UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--env-file {path}: {error}") from None
    return [line for line in lines if line and not line.startswith("#")]


def _apply_env(spec: SandboxSpec, items: list[str]) -> None:
    for item in items:
        key, equals, value = item.partition("=")
        if not key or "\0" in item:
            raise UsageError(f"-e {item}: write K=V")
        if equals:
            spec.env[os.fsencode(key)] = os.fsencode(value)
        elif key in os.environ:
            spec.env[os.fsencode(key)] = os.fsencode(os.environ[key])


def _parse_user(text: str) -> tuple[int, int]:
    user, colon, group = text.partition(":")
    if not user.isdigit() or (colon and not group.isdigit()):
        raise UsageError(f"-u {text}: write numeric ids, UID or UID:GID")
    uid = int(user)
    gid = int(group) if colon else uid
    if uid >= 0xFFFFFFFF or gid >= 0xFFFFFFFF:
        raise UsageError(f"-u {text}: ids go up to 4294967294")
    return uid, gid


def make_spec(options: argparse.Namespace) -> tuple[SandboxSpec, str]:
    """The sandbox that the options ask for, and a warning or an empty string.  Raises UsageError."""
    command = list(options.command)
    if command and command[0] == "--":
        command.pop(0)
    if not command:
        raise UsageError("no command; write cloche run [options] -- COMMAND [ARG …]")
    spec = SandboxSpec([os.fsencode(word) for word in command])
    spec.uid, spec.gid = os.geteuid(), os.getegid()
    spec.groups = sorted(set(os.getgroups()) - {spec.gid})
    if options.user:
        spec.uid, spec.gid = _parse_user(options.user)
        spec.groups = []
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", options.hostname):
        raise UsageError(f"--hostname {options.hostname}: letters, digits, dots and hyphens, at most 64")
    spec.hostname = options.hostname.encode()
    name, home = host_user(spec.uid)
    base_environment(spec, name, home)
    warning = ""
    if options.rootfs:
        root = os.path.abspath(options.rootfs)
        if not os.path.isdir(root):
            raise UsageError(f"--rootfs {options.rootfs}: not a directory")
        spec.root_source = root
        spec.env[b"HOME"] = b"/root" if spec.uid == 0 else b"/"
        has_bash = os.path.lexists(os.path.join(root, "bin/bash"))
        spec.env[b"SHELL"] = b"/bin/bash" if has_bash else b"/bin/sh"
        for path, kind in ((b"/proc", PROC), (b"/sys", SYSFS), (b"/dev", DEV)):
            spec.mounts.append(MountSpec(path, kind))
    else:
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            raise UsageError("the current directory does not exist any more; cd somewhere else") from None
        warning = default_view(spec, cwd, home, name)
    for text in options.volume:
        spec.mounts.append(parse_volume(text))
    spec.published = [parse_publish(text) for text in options.publish]
    for name_of_file in options.env_file:
        _apply_env(spec, read_env_file(name_of_file))
    _apply_env(spec, options.env)
    if options.workdir:
        if not options.workdir.startswith("/"):
            raise UsageError(f"-w {options.workdir}: write an absolute path")
        spec.cwd = os.fsencode(os.path.normpath(options.workdir))
        warning = ""
    if options.memory:
        spec.memory_bytes = parse_size(options.memory, "--memory")
    if options.pids is not None:
        if options.pids < 1:
            raise UsageError("--pids: at least 1")
        spec.max_tasks = options.pids
    if options.timeout is not None:
        if options.timeout <= 0:
            raise UsageError("--timeout: more than 0 seconds")
        spec.timeout_s = options.timeout
    spec.is_read_only = options.read_only
    spec.has_init = options.init
    spec.is_patching = options.patch
    spec.platform, spec.mm_mode, spec.log_level = options.platform, options.mm, options.log_level
    spec.has_terminal = options.tty
    if options.strace == "-":
        spec.strace_fd = 2
    elif options.strace:
        try:
            spec.strace_fd = os.open(
                options.strace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise UsageError(f"--strace {options.strace}: {error.strerror}") from None
    if spec.has_terminal and not (os.isatty(0) and os.isatty(1)):
        raise UsageError("-t: standard input and output are not a terminal; leave -t out or run in one")
    return spec, warning


def standard_streams(*, is_interactive: bool, has_terminal: bool) -> list[int]:
    """Descriptors for the command's 0, 1 and 2, -1 for one that is closed; afterwards none of the three is free here.

    A terminal is given as input only when that was asked for: a command in the background could read what is typed
    for others.
    """
    streams = []
    for fd in range(3):
        try:
            os.fstat(fd)
            streams.append(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            streams.append(-1)
    if streams[0] == 0 and not is_interactive and not has_terminal and os.isatty(0):
        streams[0] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return streams


class Terminal:
    """The host's terminal in raw mode while a sandbox has one of its own (-t)."""

    def __init__(self) -> None:
        self._saved = termios.tcgetattr(0)
        # In the background this stops us, until we are in the foreground and may read keys.
        termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def enter(self) -> None:
        """Every key goes to the sandbox's line discipline."""
        tty.setraw(0, termios.TCSADRAIN)

    def leave(self) -> None:
        """As it was."""
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the terminal is gone


def window_size() -> tuple[int, int]:
    """Rows and columns of the host's terminal."""
    try:
        raw = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return 24, 80
    rows, columns, _x, _y = struct.unpack("<4H", raw)
    return rows or 24, columns or 80


def exit_status(wait_status: int) -> int:
    """The shell's convention: the program's own, or 128 + signal."""
    signo = wait_status & 0x7F
    return 128 + signo if signo else wait_status >> 8 & 0xFF


class Monitor:
    """What the process does that the user sees: signals, the window's size, the time limit."""

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec: SandboxSpec = spec
        self.sandbox: Sandbox | None = None
        self.modes: dict[int, Modes] = {fd: termios.tcgetattr(fd) for fd in range(3) if os.isatty(fd)}
        self.terminal: Terminal | None = Terminal() if spec.has_terminal else None
        self.wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # Before the sandbox exists: nothing that arrives meanwhile may be lost, or end us alone.
        for signo in (*_FORWARDED, *_KEYBOARD, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            if signal.getsignal(signo) != signal.SIG_IGN:  # nohup
                signal.signal(signo, _noted)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def on_signals(self, sandbox: Sandbox) -> None:
        """Pass on what has arrived."""
        for number in os.read(self.wake_read, 512):
            if number == signal.SIGWINCH or number == signal.SIGCONT:
                if number == signal.SIGCONT:
                    if self.terminal is not None:
                        self.terminal.enter()  # the shell has set its own modes
                    sandbox.send_group_signal(number)
                if self.terminal is not None:
                    sandbox.send_window(*window_size())
            elif number in _KEYBOARD:
                sandbox.send_group_signal(number)
            elif number == signal.SIGTSTP:
                if self.terminal is not None:
                    self.terminal.leave()
                sandbox.send_group_signal(signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGSTOP)
            elif number in _FORWARDED:
                sandbox.send_signal(number)

    def restore_modes(self) -> None:
        """Give terminals that the command had their modes back; a sentry that ends by itself does it."""
        for fd, modes in self.modes.items():
            try:
                if os.tcgetpgrp(fd) == os.getpgrp():
                    termios.tcsetattr(fd, termios.TCSADRAIN, modes)
            except (OSError, termios.error):
                pass  # it is gone, or not ours

    def supervise(self, sandbox: Sandbox) -> int:
        """Until the sandbox is gone; the exit status."""
        spec = self.spec
        deadline = time.monotonic() + spec.timeout_s if spec.timeout_s else 0.0
        timed_out = False
        try:
            if self.terminal is not None:
                self.terminal.enter()
                sandbox.send_window(*window_size())
            while True:
                left = deadline - time.monotonic() if deadline else -1.0
                if deadline and left <= 0:
                    timed_out = True
                    sandbox.kill()
                    break
                watched = [sandbox.control.fileno(), self.wake_read]
                asked = sandbox.analyst.fileno() if sandbox.analyst is not None else -1
                if asked >= 0:
                    watched.append(asked)
                ready = wait_readable(watched, left)
                if asked in ready:
                    sandbox.start_analyst()
                if self.wake_read in ready:
                    self.on_signals(sandbox)
                if sandbox.control.fileno() in ready and not sandbox.read_control():
                    break
        finally:
            if self.terminal is not None:
                self.terminal.leave()
            sandbox.reap()
            if sandbox.status < 0:
                self.restore_modes()
        if timed_out:
            print(f"cloche: the command took longer than {spec.timeout_s:g} s and was ended", file=sys.stderr)
            return EXIT_TIMEOUT
        if sandbox.failure:
            print(f"cloche: {sandbox.failure}", file=sys.stderr)
            return sandbox.failure_status
        if sandbox.status < 0:
            print("cloche: the sentry died", file=sys.stderr)
            return EXIT_INTERNAL
        return exit_status(sandbox.status)


def _noted(_number: int, _frame: object) -> None:
    """Signals are taken from the wake-up descriptor."""


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    streams = standard_streams(is_interactive=options.interactive, has_terminal=options.tty)
    try:
        spec, warning = make_spec(options)
    except UsageError as error:
        print(f"cloche run: {error}", file=sys.stderr)
        return EXIT_INTERNAL
    if warning and spec.log_level != "error":
        print(f"cloche: {warning}", file=sys.stderr)
    monitor = Monitor(spec)
    try:
        sandbox = launch(spec, streams)
    except (LaunchError, OSError) as failure:
        print(f"cloche: {failure}", file=sys.stderr)
        return failure.status if isinstance(failure, LaunchError) else EXIT_INTERNAL
    announce(spec.published, spec.log_level)
    return monitor.supervise(sandbox)
