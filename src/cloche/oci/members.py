"""The containers of a monitor: their anchors, and the further containers of a pod that have joined its sandbox.

A container that joins has its own gofer (asked of the keeper), its own anchor and control groups, and is made, started
and ended in the sentry by the same requests as the first. Its end ends nothing else. Its anchor ends after every part
of it is gone, as far as its control groups show.
"""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cloche.boot.control_server import Client, ControlServer
from cloche.boot.launch import Sandbox
from cloche.boot.spec import HOST, RW, MountSpec, SandboxSpec, from_fields, to_fields
from cloche.oci import cgroups
from cloche.oci.records import Record
from cloche.wire import protocol, requests
from cloche.wire.protocol import Fields, Message, ProtocolError, take_bytes, take_int, take_list, take_strings

if TYPE_CHECKING:
    from cloche.oci.trust import Trust

__all__ = ["STATUS_KILLED", "Held", "Member", "Members"]

STATUS_KILLED: Final = 9  # wait status
_STATUS: Final = struct.Struct("<i")
_MAX_GROUPS: Final = 64
_MAX_VOLUMES: Final = 64
_WRITABLE: Final = b":w"
_LOOK_MS: Final = 5
_PATIENCE_S: Final = 5.0  # for processes that were killed to be gone
_LEAVING_MS: Final = 1000
_SENTRY_S: Final = 15.0  # for the sentry to end a container


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = cgroups.read(f"/proc/{name}/stat").rpartition(")")[2].split()
        if len(fields) > 1 and fields[1] == str(pid):
            found.append(int(name))
    return found


def inner_pid(pid: int) -> int:
    """The pid that a process has in its own pid namespace; 0 if it is gone."""
    for line in cgroups.read(f"/proc/{pid}/status").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0


class Held:
    """An anchor, and the program that it represents: that of the container (`ident` 0), or of an exec."""

    def __init__(self, sock: socket.socket, pid: int, container: str = requests.MAIN) -> None:
        self.sock: socket.socket = sock
        self.pid: int = pid
        self.container: str = container
        self.ident: int = 0  # of the request at the sentry
        self.terminal: int = -1  # the terminal from which window sizes are read
        self.is_over: bool = False

    def end(self, status: int) -> None:
        """The program's wait status becomes the anchor's."""
        if self.is_over:
            return
        self.is_over = True
        try:
            self.sock.send(_STATUS.pack(status), socket.MSG_DONTWAIT)
        except OSError:
            pass
        self.sock.close()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1


class Volume:
    """A directory of the host that containers of the pod mount, and its gofer."""

    def __init__(self, name: bytes) -> None:
        self.name: bytes = name
        self.number: int = 0  # of its gofer
        self.sock: socket.socket | None = None  # until the sentry has it
        self.is_known: bool = False  # the sentry has it, or its gofer is there


def _nothing() -> None:
    pass


class Member:
    """A container that has joined."""

    def __init__(self, record: Record, held: Held, spec: SandboxSpec) -> None:
        self.record: Record = record
        self.held: Held = held
        self.spec: SandboxSpec = spec
        self.number: int = 0  # of its gofer
        self.status: int = STATUS_KILLED
        self.streams: list[int] = []  # descriptors, until the sentry has them
        self.roles: list[str] = []
        self.share: list[str] = []
        self.share_with: str = ""
        self.volumes: list[Volume] = []
        self.gofer: socket.socket | None = None  # until the sentry has it
        self.resume: Callable[[], None] = _nothing  # when a gofer of a volume serves, or does not
        self.problem: str = ""  # why not
        self.has_gofer: bool = True
        self.is_leaving: bool = False  # the sentry has been asked to end what is left
        self.is_deleted: bool = False  # and has done so
        self.deadline_s: float = 0.0

    def close_streams(self) -> None:
        """Close this process's copies, and its user namespace."""
        if self.spec.user_ns_fd >= 0:
            os.close(self.spec.user_ns_fd)
            self.spec.user_ns_fd = -1
        for fd in self.streams:
            os.close(fd)
        self.streams = []


class Members:
    """The containers that have joined a sandbox."""

    def __init__(
        self,
        sandbox: Sandbox,
        server: ControlServer,
        on_leaving: Callable[[str], None],
        trust: "Trust | None" = None,
    ) -> None:
        """`on_leaving` is called when a container has ended in the sentry, before its anchor ends."""
        self.trust: Trust | None = trust
        self.sandbox: Sandbox = sandbox
        self.server: ControlServer = server
        self.on_leaving: Callable[[str], None] = on_leaving
        self.by_name: dict[str, Member] = {}
        self.volumes: dict[bytes, Volume] = {}
        self.next_number: int = 1
        # Callbacks by the gofer's number, for its start: they get its socket, or why there is none.
        self.awaited: dict[int, Callable[[socket.socket | None, str], None]] = {}
        sandbox.on_served = self._served
        sandbox.on_lost = self._lost

    # -- the loop ----------------------------------------------------------------------------------------
    def anchors(self) -> list[Held]:
        """The anchors whose sockets are to be watched."""
        return [each.held for each in self.by_name.values() if not each.held.is_over]

    def wait_ms(self) -> int | None:
        """How long the loop may wait; None: for ever."""
        if any(each.is_deleted for each in self.by_name.values()):
            return _LOOK_MS
        return _LEAVING_MS if any(each.is_leaving for each in self.by_name.values()) else None

    def look(self) -> None:
        """End the anchors of containers of which nothing is left. If the sentry does not end a container in time, it
        hangs: the sandbox is ended.
        """
        for name, member in list(self.by_name.items()):
            if member.is_leaving and not member.is_deleted and time.monotonic() > member.deadline_s:
                self.sandbox.death = "the sentry does not answer"
                self.sandbox.kill()
                member.deadline_s += _SENTRY_S
            if not member.is_deleted or member.has_gofer:
                continue
            left = self._left(member)
            if not left:
                del self.by_name[name]
                member.held.end(member.status)
            elif time.monotonic() > member.deadline_s:
                member.deadline_s += _PATIENCE_S
                for pid in left:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass

    def _left(self, member: Member) -> list[int]:
        """The processes in its groups, without its anchor."""
        return [pid for pid in cgroups.processes(member.record.groups[:1]) if pid != member.held.pid]

    def end_all(self) -> None:
        """The sandbox has ended."""
        for member in self.by_name.values():
            member.close_streams()
            member.held.end(member.status)
        self.by_name = {}

    # -- a container joins ---------------------------------------------------------------------------------
    def join(self, client: Client, message: Message) -> None:
        """Make one.  Raises ProtocolError."""
        fields, ident = message.fields, message.ident
        name = requests.take_container(fields)
        if name in self.by_name or name == requests.MAIN:
            raise ProtocolError(f"there is a container {name}")
        data = fields.get("spec")
        if not isinstance(data, dict) or not message.fds:
            raise ProtocolError("no spec, or no anchor")
        record = Record(os.fsdecode(take_bytes(fields, "root")), name)
        record.groups = [os.fsdecode(path) for path in take_strings(fields, "groups", _MAX_GROUPS)]
        pid = take_int(fields, "pid", 0, 1, 1 << 22)
        spec = from_fields(data)
        if spec.uid_map:
            spec.user_ns_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        if self.trust is not None:
            try:
                self.trust.prepare(name, spec, pid)
            except OSError as error:
                raise ProtocolError(f"the authorities of {name}: {error.strerror}") from None
        roles: list[str] = []
        for number in requests.take_streams(fields):
            roles.append(requests.stream_role(number))
        if len(roles) != len(message.fds) - 1:
            raise ProtocolError("streams are missing")
        share: list[str] = []
        for kind in take_list(fields, "share", 8):
            if isinstance(kind, str):
                share.append(kind)
        held = Held(socket.socket(fileno=os.dup(message.fds[-1])), pid, name)
        member = Member(record, held, spec)
        member.roles, member.share = roles, share
        member.share_with = protocol.take_text(fields, "share_with")
        member.streams = [os.dup(fd) for fd in message.fds[:-1]]
        kills = cgroups.open_kills(record.groups)
        if kills >= 0:
            member.streams.append(kills)
            member.roles.append("oom")
        if spec.has_terminal and member.streams:
            held.terminal = os.dup(member.streams[0])
        self.by_name[name] = member

        def served(sock: socket.socket | None, text: str) -> None:
            if sock is not None and not member.is_leaving:
                member.gofer = sock
                self._create_when_ready(client, ident, member)
                return
            if sock is None:
                member.has_gofer = False
            else:
                sock.close()
                text = "the container's process died"
            member.is_leaving = False
            self._fail(client, ident, member, 125, text)

        own = from_fields(data)
        own.user_ns_fd = spec.user_ns_fd
        own.mounts = [mount for mount in spec.mounts if not self._has_volume(mount)]
        for mount in spec.mounts:
            if mount.volume:
                self._find_volume(client, ident, member, mount)
        member.number = self.start_gofer(own, record.groups, served)

    def _has_volume(self, mount: MountSpec) -> bool:
        """Whether a gofer of the pod serves a mount; its name is then that of the gofer.

        A gofer that may write also serves mounts that are read-only, which the sentry enforces. If the existing gofer
        may only read, a mount that may write gets another.
        """
        if mount.kind != HOST or not mount.volume:
            return False
        writable = mount.volume + _WRITABLE
        if mount.mode == RW or writable in self.volumes:
            mount.volume = writable
        if mount.volume not in self.volumes and len(self.volumes) >= _MAX_VOLUMES:
            mount.volume = b""
        elif mount.volume not in self.volumes:
            self.volumes[mount.volume] = Volume(mount.volume)
        return bool(mount.volume)

    def _find_volume(self, client: Client, ident: int, member: Member, mount: MountSpec) -> None:
        """Start its gofer, if there is none; the container waits for it."""
        volume = self.volumes[mount.volume]
        if volume not in member.volumes:
            member.volumes.append(volume)
        if volume.number:
            return

        def served(sock: socket.socket | None, text: str) -> None:
            volume.sock = sock
            volume.is_known = True
            if sock is None:
                self._forget_volume(volume)
            for each in list(self.by_name.values()):
                if each.gofer is not None and volume in each.volumes and not each.is_leaving:
                    each.problem = text if sock is None else each.problem
                    each.resume()

        spec = SandboxSpec([b""])
        only = MountSpec(b"/", HOST, mount.source, mount.mode)
        only.is_shared, only.keeps_suid = True, mount.keeps_suid
        only.is_flat, only.is_private = mount.is_flat, mount.is_private
        only.has_doors, only.shows_sockets = mount.has_doors, mount.shows_sockets
        spec.mounts = [only]
        spec.is_patching = member.spec.is_patching
        spec.user_ns_fd = member.spec.user_ns_fd
        volume.number = self.start_gofer(spec, [], served)

    def _forget_volume(self, volume: Volume) -> None:
        if self.volumes.get(volume.name) is volume:
            del self.volumes[volume.name]

    def _create_when_ready(self, client: Client, ident: int, member: Member) -> None:
        """Go on once the gofers of its volumes serve, too."""

        def again() -> None:
            self._create_when_ready(client, ident, member)

        member.resume = again
        gofer = member.gofer
        if member.problem and gofer is not None:
            gofer.close()
            member.gofer = None
            self._fail(client, ident, member, 125, member.problem)
        elif gofer is not None and all(volume.is_known for volume in member.volumes):
            member.gofer = None
            self._create(client, ident, member, gofer)

    def start_gofer(
        self, spec: SandboxSpec, groups: list[str], served: Callable[[socket.socket | None, str], None]
    ) -> int:
        """Ask the keeper for a gofer; its number."""
        number = self.next_number
        self.next_number += 1
        self.awaited[number] = served
        try:
            self.sandbox.serve_further(number, spec, groups)
        except OSError as error:
            self._served(number, None, error.strerror or str(error))
        return number

    def _served(self, number: int, sock: socket.socket | None, text: str) -> None:
        heard = self.awaited.pop(number, None)
        if heard is not None:
            heard(sock, text)
        elif sock is not None:
            sock.close()

    def _create(self, client: Client, ident: int, member: Member, gofer: socket.socket) -> None:
        """The gofer serves: the sentry can make the container."""
        name = member.record.ident
        owners: list[object] = []
        fds = [*member.streams, gofer.fileno()]
        roles: list[object] = [*member.roles, requests.GOFER]
        new = [volume for volume in member.volumes if volume.sock is not None]
        for volume in new:
            if volume.sock is not None:
                roles.append(requests.VOLUME + volume.name.decode())
                fds.append(volume.sock.fileno())
        for fd in fds:
            st = os.fstat(fd)
            owners.append([st.st_uid, st.st_gid])
        fields: Fields = {
            "container": name,
            "spec": to_fields(member.spec),
            "descriptors": roles,
            "owners": owners,
            "share": list(member.share),
            "share_with": member.share_with,
        }

        def heard(answer: Message) -> None:
            if answer.kind == protocol.REPLY:
                self.server.ask(requests.WAIT, {"container": name}, None, ended)
                problem = self._place(member, take_int(answer.fields, "zygote", 0, 0, 1 << 22))
                if problem:
                    self._fail(client, ident, member, 125, problem)
                else:
                    self.server.answer(client, protocol.reply(ident, {}))
            elif answer.kind == protocol.ERROR:
                self._fail(client, ident, member, answer.number, answer.name)

        def ended(answer: Message) -> None:
            if answer.kind == protocol.REPLY:
                try:
                    member.status = take_int(answer.fields, "status", 0, 0, 0xFFFF)
                except ProtocolError:
                    pass
            self.drop(name)

        self.server.ask(requests.CREATE, fields, fds, heard)
        gofer.close()
        for volume in new:
            if volume.sock is not None:
                volume.sock.close()
                volume.sock = None
        member.close_streams()

    def _place(self, member: Member, zygote: int) -> str:
        """Put the process of which its programs are forked into its control groups; returns an error text, or an
        empty one.

        The pid comes from the sentry, and is accepted only if it is one of the sentry's own children.
        """
        groups = member.record.groups
        for pid in children(self.sandbox.sentry_pid) if groups and zygote else []:
            if inner_pid(pid) == zygote:
                try:
                    cgroups.place(groups, pid)
                except OSError as error:
                    return f"control groups: {error.strerror}"
                return ""
        return "its programs have no process to begin with" if groups and zygote else ""

    def _fail(self, client: Client, ident: int, member: Member, status: int, text: str) -> None:
        """The container could not be made: remove its remains. The caller ends its anchor."""
        member.close_streams()
        self.drop(member.record.ident)
        self.server.answer(client, protocol.error(ident, status, text))

    # -- a container ends ----------------------------------------------------------------------------------
    def drop(self, name: str) -> None:
        """End what is left of a container in the sentry, and its gofer with it; then its anchor ends."""
        member = self.by_name.get(name)
        if member is None or member.is_leaving:
            return
        member.is_leaving = True
        if self.trust is not None:
            self.trust.forget(name)
        member.deadline_s = time.monotonic() + _SENTRY_S
        if member.number in self.awaited:
            return  # `served` handles it later

        def heard(_answer: Message) -> None:
            member.is_deleted = True
            member.deadline_s = time.monotonic() + _PATIENCE_S
            self.on_leaving(name)

        self.server.ask(requests.DELETE, {"container": name, "is_forced": True}, None, heard)

    def _lost(self, number: int) -> None:
        """A gofer has ended: end its container, or those that have mounted its volume."""
        for volume in list(self.volumes.values()):
            if volume.number == number:
                self._forget_volume(volume)
        for name, member in list(self.by_name.items()):
            if member.number == number:
                member.has_gofer = False
                self.drop(name)
            elif number in [volume.number for volume in member.volumes]:
                self.drop(name)
