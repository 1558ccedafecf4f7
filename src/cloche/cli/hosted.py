"""The monitor of a sandbox that a program has made with the SDK: no verb, but a process that the SDK starts.

It forks at once, and the first process ends, so that its starter has no child to wait for. Over a socket it gets
options of `cloche run`, so the SDK can ask for what that verb can, and is refused the same. The sandbox has no first
program, only commands from outside. The socket is then its leash: when the other end is closed, because the program
has ended or closed it, the sandbox ends, unless the program has released it.

Order: fork, start the keeper (it gets ready meanwhile), read the request, start the sandbox, answer, supervise. The
keeper is started before the request is read, because the request brings the caller's environment into this process.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from cloche.abi.prctl import PR_SET_CHILD_SUBREAPER
from cloche.boot.launch import LaunchError
from cloche.boot.orphans import end_orphans
from cloche.boot.spawn import HOST_FD, KeeperProcess, spawn_keeper
from cloche.boot.spec import SandboxSpec
from cloche.cli.monitor import GONE, HELD, RELEASED, Monitor
from cloche.cli.options import UsageError
from cloche.cli.plain import PlainParser
from cloche.platform import hostsys
from cloche.runtime.records import Record, RecordError, State, Store, new_name
from cloche.runtime.template import LEND
from cloche.wire import protocol
from cloche.wire.channel import Channel
from cloche.wire.protocol import (
    Fields,
    Message,
    ProtocolError,
    take_bool,
    take_bytes,
    take_strings,
    take_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.runtime.layers import KeptLayer

# The one request: words, name, root, metadata, network, is_leashed, template (the name of a layer or an image; empty:
# none); to a fork of the template process also environment and directory, and the caller's standard error.
LAUNCH: Final = "launch"
SOFTWARE: Final = "cloche monitor"
# From the starter of a sandbox that has no leash, when it has the answer: up to then the sandbox ends with it.
RELEASE: Final = "release"
_MAX_WORDS: Final = 65536
_MAX_METADATA: Final = 256
_MAX_METADATA_BYTES: Final = 4096
_EXIT_INTERNAL: Final = 125
EXIT_USAGE: Final = 2  # the request makes no sense
_FAREWELL_S: Final = 5.0


class Refusal(Exception):
    """The sandbox cannot be started; the text says why in one line."""

    def __init__(self, text: str, status: int = _EXIT_INTERNAL) -> None:
        super().__init__(text)
        self.status: int = status


def main() -> NoReturn:
    """Run a monitor that was executed for one sandbox."""
    if os.fork():
        os._exit(0)
    os.set_inheritable(HOST_FD, False)
    status = _EXIT_INTERNAL
    try:
        status = _host(Channel(socket.socket(fileno=HOST_FD), SOFTWARE), spawn_keeper)
    except BaseException as failure:
        sys.excepthook(type(failure), failure, failure.__traceback__)
    finally:
        os._exit(status)


def host_forked(sock: socket.socket, keeper: KeeperProcess) -> int:
    """Run a monitor that is a fork of the template; its keeper was forked before there was a caller. Returns the exit
    status.
    """
    return _host(Channel(sock, SOFTWARE), lambda: keeper)


def _host(channel: Channel, make_keeper: Callable[[], KeeperProcess]) -> int:
    ident = 0
    try:
        keeper = make_keeper()
        message = _request(channel)
        if message is None:
            return _EXIT_INTERNAL  # the caller is gone
        ident = message.ident
        if message.name == LEND:
            return _lend(channel, ident, keeper)
        _take_surroundings(message, keeper)
        return _launch(channel, message, keeper)
    except UsageError as wrong:
        failure = Refusal(str(wrong), EXIT_USAGE)
    except (RecordError, ProtocolError) as error:
        failure = Refusal(str(error))
    except LaunchError as broken:
        failure = Refusal(str(broken), broken.status)
    except Refusal as refusal:
        failure = refusal
    except OSError as problem:
        failure = Refusal(problem.strerror or str(problem))
    channel.send(protocol.error(ident, failure.status, str(failure)))
    channel.flush_all(_FAREWELL_S)
    return failure.status


def _request(channel: Channel) -> Message | None:
    """Read the request. Raises ProtocolError."""
    while True:
        found = channel.receive(is_waiting=True)
        if found is None:
            return None
        for message in found:
            if message.kind == protocol.REQUEST:
                if message.name not in (LAUNCH, LEND):
                    raise ProtocolError(f"an unknown request: {message.name}")
                return message
            message.close_fds()


def _lend(channel: Channel, ident: int, keeper: KeeperProcess) -> int:
    """Give the keeper to the caller (`cloche run --template`), and stay to end what it leaves if it dies.

    The caller could not do that: the children of a keeper that dies become those of its parent, this process.
    """
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    channel.send(protocol.reply(ident, {"pid": keeper.pid}, 1), [os.dup(keeper.link.fileno())])
    channel.flush_all(_FAREWELL_S)
    channel.close()
    keeper.link.close()
    os.waitpid(keeper.pid, 0)
    end_orphans()
    return 0


def _take_surroundings(message: Message, keeper: KeeperProcess) -> None:
    """Take over the caller's environment, directory and standard error from the request: an executed process inherits
    these. Raises ProtocolError.
    """
    fields = message.fields
    if "environment" in fields:
        os.environ.clear()
        for item in take_strings(fields, "environment", _MAX_WORDS):
            key, _equals, value = item.partition(b"=")
            os.environb[key] = value
        try:
            os.chdir(take_bytes(fields, "directory"))
        except OSError:
            pass  # the directory was removed: paths relative to it do not exist
    if message.fds:
        os.dup2(message.fds[0], 2)
        keeper.errors_fd = 2
    message.close_fds()


def make_hosted_spec(words: list[bytes], network: object = None) -> SandboxSpec:
    """The sandbox that these options of `cloche run` ask for, without a command.  Raises UsageError, RecordError.

    `network`: further rules, as data.
    """
    return _make_spec(_parse(words), network, "")


def _make_spec(options: Any, network: object, template: str) -> SandboxSpec:
    """The sandbox that the options ask for. They are changed: paths are made absolute, and `template` is looked up.

    Raises UsageError, RecordError.
    """
    from cloche.cli import run

    for name, is_given in (("--from", options.origin is not None), ("-d", options.detach)):
        if is_given:
            raise UsageError(f"{name}: say template=NAME, and leash=False for one that goes on without you")
    options.net_document = network
    options.volume = [_absolute(each) for each in options.volume]
    options.net = [os.path.abspath(each) if os.path.exists(each) else each for each in options.net]
    options.net_log = os.path.abspath(options.net_log) if options.net_log else options.net_log
    options.env_file = [os.path.abspath(each) for each in options.env_file]
    if (
        options.image
        and ("/" in options.image or options.image in (".", ".."))
        and os.path.exists(options.image)
    ):
        options.image = os.path.abspath(options.image)
    options.rootfs = os.path.abspath(options.rootfs) if options.rootfs else options.rootfs
    os.chdir("/")  # the program's current directory is not to be visible inside
    base = _begin_as(options, template) if template else None
    spec, _warning = run.make_spec(options, base)
    spec.argv = []
    spec.is_idle = True
    if not spec.has_init:
        raise UsageError("--no-init: without a first program the sandbox's own init is all there is")
    if not options.workdir and not options.rootfs and not options.image:
        spec.cwd = spec.env.get(b"HOME", b"/")
    spec.has_terminal = spec.is_interactive = spec.is_attached = False
    return spec


def _begin_as(options: Any, template: str) -> SandboxSpec | None:
    """Begin with the layer that was kept under this name, or else with the image that has it; None: an image.

    Raises UsageError, RecordError.
    """
    from cloche.cli.layered import begin_as
    from cloche.runtime import layers
    from cloche.runtime.records import NAME_PATTERN

    layer = layers.find_of(template, options.root) if NAME_PATTERN.fullmatch(template) else None
    if layer is not None:
        return begin_as(options, layer)
    if options.image or options.rootfs:
        raise UsageError(f"template {template}: it has a root already: neither image nor rootfs")
    options.image, options.pull = template, "never"
    return None


def _absolute(volume: str) -> str:
    """Make the source of a volume absolute; the name of a named volume stays as it is."""
    source, colon, rest = volume.partition(":")
    if "/" not in source and source not in (".", ".."):
        return volume
    return f"{os.path.abspath(source)}{colon}{rest}" if source and colon else volume


def _parse(given: list[bytes]) -> Any:
    """Raises UsageError."""
    from cloche.cli import run

    words = [*map(os.fsdecode, given), "--", "-"]
    plain = PlainParser()
    run.add_arguments(plain)
    options = plain.parse(words)
    if options is not None:
        return options
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(message)

    parser = Parser(prog="cloche", allow_abbrev=False, add_help=False)
    run.add_arguments(parser)
    return parser.parse_args(words)


def _launch(channel: Channel, message: Message, keeper: KeeperProcess) -> int:
    """Raises UsageError, RecordError, LaunchError, ProtocolError, Refusal, OSError."""
    fields = message.fields
    options = _parse(take_strings(fields, "words", _MAX_WORDS))
    options.root, options.name = take_text(fields, "root"), take_text(fields, "name")
    spec = _make_spec(options, fields.get("network"), take_text(fields, "template"))
    state = State(options.name or new_name())
    state.pid = os.getpid()
    state.is_detached = state.is_temporary = True
    state.metadata = _metadata(fields)
    is_leashed = take_bool(fields, "is_leashed", True)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    record = Store(options.root).create(state)
    layer = None
    if options.keep or options.origin is not None or options.disk is not None:
        layer = _take_layer(options, spec, record)
    return _run(channel, message.ident, spec, record, keeper, layer, is_leashed=is_leashed)


def _take_layer(options: Any, spec: SandboxSpec, record: Record) -> "KeptLayer | None":
    """Raises UsageError, RecordError, OSError; then the record is gone."""
    from cloche.cli.layered import take_layer

    try:
        return take_layer(options, spec, record, may_show_more=True)
    except BaseException:
        record.discard()
        raise


def _metadata(fields: Fields) -> dict[str, str]:
    found = fields.get("metadata", {})
    if not isinstance(found, dict) or len(found) > _MAX_METADATA:
        raise ProtocolError(f"metadata: at most {_MAX_METADATA} pairs of text")
    metadata: dict[str, str] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ProtocolError("metadata: keys and values are text")
        if len(key) + len(value) > _MAX_METADATA_BYTES:
            raise ProtocolError(f"metadata: a pair has at most {_MAX_METADATA_BYTES} characters")
        metadata[key] = value
    return metadata


def _run(
    channel: Channel,
    ident: int,
    spec: SandboxSpec,
    record: Record,
    keeper: KeeperProcess,
    layer: "KeptLayer | None",
    *,
    is_leashed: bool,
) -> int:
    """Start, answer and supervise.  Raises LaunchError, Refusal, OSError."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    monitor = Monitor(spec)
    monitor.is_quiet = True
    monitor.layer = layer
    try:
        listener = record.listen()
        sandbox = monitor.start([null, null, null], keeper, record)
    except BaseException:
        record.discard()
        if layer is not None:
            from cloche.cli.layered import drop_layer

            drop_layer(layer)
        raise
    monitor.serve(record, listener, sandbox)
    is_told = False

    def started() -> None:
        nonlocal is_told
        is_told = True
        state = record.state
        state.published = [(each.host_ip, each.host_port, each.port) for each in spec.published]
        record.save()
        answer: Fields = {"name": state.name, "pid": state.pid, "cwd": spec.cwd}
        channel.send(protocol.reply(ident, answer))

    def heard() -> int:
        try:
            found = channel.receive()
        except ProtocolError:
            found = None
        if found is None:
            return GONE
        if is_leashed or not any(each.kind == protocol.REQUEST and each.name == RELEASE for each in found):
            return HELD
        channel.close()
        return RELEASED

    monitor.on_started = started
    monitor.leash, monitor.on_leash = channel.sock, heard
    status = monitor.supervise(sandbox)
    if not is_told:
        raise Refusal(monitor.error or "the sandbox did not start", status)
    return status
