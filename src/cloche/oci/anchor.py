"""Starts anchors (`csrc/anchor`): a child of the caller in the container's groups and namespaces.

The anchor of a container: `Anchor.begin` makes it with its namespaces; then it waits, so that hooks can run; `build`
has it make its mounts, and `go` turns it into the anchor. The anchor of a command joins the namespaces of the
container's anchor. Each step is one byte on a socket; an error comes back as text.
"""

import fcntl
import os
import resource
import signal
import socket
from errno import EIO
from struct import Struct
from typing import Final

from cloche.abi.fs import MNT_DETACH
from cloche.abi.ioctl import SIOCSIFFLAGS, TIOCSCTTY
from cloche.abi.prctl import PR_SET_CHILD_SUBREAPER
from cloche.abi.socket import IFF_RUNNING, IFF_UP
from cloche.boot import confine
from cloche.oci import cgroups
from cloche.oci.errors import OciError
from cloche.oci.mounts import build_view, open_sources
from cloche.oci.records import start_time
from cloche.oci.rootless import is_rootless
from cloche.oci.spec import Bundle
from cloche.oci.userns import write_maps
from cloche.platform import hostsys

_FLAGS: Final = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
_FILES: Final = {"mount": "mnt", "network": "net"}
_NEWNS: Final = _FLAGS["mount"]
_NEWPID: Final = _FLAGS["pid"]
_SOCKET: Final = 3
_DONE: Final = b"+"
_MAP: Final = b"M"  # asks for the maps of a new user namespace
_NETWORK: Final = "/proc/self/ns/net"
_IFREQ: Final = Struct("<16sh22x")


def namespace_file(kind: str) -> str:
    """Its name in /proc/PID/ns."""
    return _FILES.get(kind, kind)


class Anchor:
    """An anchor that is being made: its pid, and the monitor's end of its socket."""

    def __init__(self) -> None:
        self.pid: int = 0
        self.sock: socket.socket
        self.far: socket.socket  # the anchor's end of it
        self.link: socket.socket

    def open(self) -> None:
        """Make the socket between anchor and monitor."""
        self.sock, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def adopt(self, sock: socket.socket, far: socket.socket) -> None:
        """Take a socket whose one end a monitor has already."""
        self.sock, self.far = sock, far

    # -- the caller's side -------------------------------------------------------------------------------
    def begin(
        self,
        namespaces: list[tuple[str, int]],
        groups: list[str],
        bundle: Bundle | None,
        argv: list[bytes],
        terminal: int = -1,
    ) -> None:
        """Fork it into `namespaces`: (kind, a descriptor to join, or -1 for a new one).  Raises OciError.

        `argv` is what ps shows. `terminal` becomes its controlling terminal, so that it is signalled when the
        window's size changes. A new user namespace gets the maps of `bundle`.
        """
        far = self.far
        self.link, far_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid_namespace = [fd for kind, fd in namespaces if kind == "pid"]
        ground: Ground | None = None
        try:
            if any(kind == "user" for kind, _fd in namespaces):
                self.pid, ground = _fork_as_user(namespaces, groups, bundle)
                namespaces = [(kind, fd) for kind, fd in namespaces if fd < 0 and kind not in ("user", "pid")]
            elif not pid_namespace:
                self.pid = os.fork()
            elif is_rootless():  # then setns back to the caller's pid namespace is not permitted
                self.pid = _fork_by_another(pid_namespace[0])
            else:
                self.pid = _fork_into(pid_namespace[0])
            if self.pid == 0:
                self.link.close()  # or it would not notice the caller's death
                _child(far, far_link, namespaces, groups, bundle, argv, terminal, ground)
        except OSError as error:
            raise OciError(f"cannot start the container's process: {error.strerror}") from None
        finally:
            far.close()
            far_link.close()
        self._hear()

    def build(self) -> None:
        """Have it make its mounts.  Raises OciError."""
        self._step()

    def go(self) -> None:
        """Have it become the anchor.  Raises OciError."""
        self._step()
        self.link.close()
        self.sock.close()  # the monitor has it

    def end(self) -> None:
        """End an anchor that is not needed."""
        self.sock.close()
        self.link.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def began(self) -> int:
        """When its process started, for the record."""
        return start_time(self.pid)

    def _step(self) -> None:
        try:
            self.link.send(_DONE)
        except OSError:
            pass
        self._hear()

    def _hear(self) -> None:
        text = b""
        while True:
            data = self.link.recv(4096)
            text += data
            if text == _DONE:
                return
            if not data:
                raise OciError(text.decode(errors="replace") or "the container's process died")


def _go_to(namespace: int) -> None:
    """Have later children be in this pid namespace (-1: a new one): a process cannot change its own."""
    if namespace >= 0:
        hostsys.setns(namespace, _NEWPID)
    else:
        hostsys.unshare(_NEWPID)


def _fork_into(namespace: int) -> int:
    """fork(2) into a pid namespace; later children are in the caller's again."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = -1
    try:
        _go_to(namespace)
        pid = os.fork()
        return pid
    finally:
        if pid:  # the child stays there
            hostsys.setns(own, _NEWPID)
        os.close(own)


def _fork_by_another(namespace: int) -> int:
    """Fork by an intermediate child, which ends: its child becomes the caller's. Raises OSError."""
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    hear, say = os.pipe2(os.O_CLOEXEC)
    helper = os.fork()
    if helper == 0:
        try:
            _go_to(namespace)
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or EIO)
        if pid == 0:
            return 0
        os.write(say, str(pid).encode())
        os._exit(0)
    os.close(say)
    os.waitpid(helper, 0)
    answer = int(os.read(hear, 16) or b"0")
    os.close(hear)
    if answer <= 0:
        raise OSError(-answer or EIO, os.strerror(-answer or EIO))
    return answer


class Ground:
    """What an anchor needs of the caller's rights and mount namespace."""

    def __init__(self, groups: list[str], bundle: Bundle | None) -> None:
        """In the process that becomes it, or whose child does.  Raises OSError, OciError."""
        cgroups.enter(groups)
        self.program: int = os.open(anchor_path(), os.O_RDONLY | os.O_CLOEXEC)
        self.null: int = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.network: str = os.readlink(_NETWORK)
        self.has_mounts: bool = False  # its mount namespace is the right one
        self.sources: dict[int, int] = open_sources(bundle) if bundle is not None else {}


def _fork_as_user(
    namespaces: list[tuple[str, int]], groups: list[str], bundle: Bundle | None
) -> tuple[int, "Ground | None"]:
    """Fork root of a user namespace, joined or new, which is in the other joined namespaces and the pid namespace, too.

    An intermediate process enters them, and ends. Its child becomes the caller's, and gets what was opened before. The
    namespaces that it makes later belong to the user namespace.  Raises OSError, OciError.
    """
    hostsys.prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = os.fork()
    if helper == 0:
        pid = -1
        try:
            ours.close()
            ground = Ground(groups, bundle)
            _join_as_user(namespaces, theirs)
            ground.has_mounts = dict(namespaces).get("mount", -1) >= 0
            pid = os.fork()
            if pid == 0:
                theirs.close()
                return 0, ground
            theirs.send(str(pid).encode())
        except OSError as error:
            theirs.send(b"!" + (error.strerror or str(error)).encode())
        except OciError as refusal:
            theirs.send(b"!" + str(refusal).encode(errors="replace")[:4000])
        finally:
            if pid:
                os._exit(0)
    theirs.close()
    problem, answer = "", b""
    try:
        answer = ours.recv(4096)
        if answer == _MAP and bundle is not None and bundle.maps is not None:
            write_maps(helper, bundle.maps)
            ours.send(_DONE)
            answer = ours.recv(4096)
    except OciError as refusal:
        problem = f"unable to start container process: {refusal}"
    ours.close()
    os.waitpid(helper, 0)
    if problem:
        raise OciError(problem)
    if not answer.isdigit():
        raise OciError(answer[1:].decode(errors="replace") or "the container's process died")
    return int(answer), None


def _join_as_user(namespaces: list[tuple[str, int]], outside: socket.socket) -> None:
    """Enter the namespaces that exist, and the user namespace last: the caller's rights may be needed for the others.

    A new user namespace gets its maps by the process at `outside`.  Raises OSError.
    """
    for kind, fd in namespaces:
        if fd >= 0 and kind in _FLAGS and kind not in ("user", "mount"):
            hostsys.setns(fd, _FLAGS[kind])
    joined = dict(namespaces)
    if joined.get("mount", -1) >= 0:
        hostsys.setns(joined["mount"], _NEWNS)
    if joined["user"] >= 0:
        hostsys.setns(joined["user"], _FLAGS["user"])
    else:
        hostsys.unshare(_FLAGS["user"])
        outside.send(_MAP)
        if outside.recv(1) != _DONE:
            os._exit(0)
    confine.become_root()
    if joined.get("pid", 0) < 0:
        hostsys.unshare(_NEWPID)


def _child(
    sock: socket.socket,
    link: socket.socket,
    namespaces: list[tuple[str, int]],
    groups: list[str],
    bundle: Bundle | None,
    argv: list[bytes],
    terminal: int,
    ground: "Ground | None",
) -> None:
    """The child; it does not return."""
    try:
        if ground is None:
            ground = Ground(groups, bundle)
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _enter(namespaces, has_mounts=ground.has_mounts)
        if ("network", -1) in namespaces:
            _raise_loopback()
        if bundle is not None and bundle.hostname and ("uts", -1) in namespaces:
            socket.sethostname(bundle.hostname)  # for other containers of the pod, which join the namespace
        if terminal >= 0:
            fcntl.ioctl(terminal, TIOCSCTTY, 0)
        _say_and_wait(link)
        if bundle is not None:
            _set_parameters(bundle.sysctls, is_outside=os.readlink(_NETWORK) == ground.network)
            root = build_view(bundle, ground.sources)
            _say_and_wait(link)
            os.fchdir(root)
            hostsys.pivot_root(b".", b".")
            hostsys.umount2(b".", MNT_DETACH)
        os.chdir("/")
        confine.drop_capabilities(confine.Report())
        for fd in (0, 1, 2):
            os.dup2(ground.null, fd)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        # Duplicated upwards: these descriptors may have the numbers to which others are to be moved.
        high = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16)
            for fd in (sock.fileno(), link.fileno(), ground.program)
        ]
        os.dup2(high[0], _SOCKET)
        confine.close_all_but([0, 1, 2, _SOCKET, high[1], high[2]])
        os.write(high[1], _DONE)
        os.execve(high[2], argv, {})
    except OSError as error:
        _complain(link, error.strerror or str(error))
    except OciError as refusal:
        _complain(link, str(refusal))
    except BaseException as failure:
        _complain(link, f"internal error: {failure!r}")
    finally:
        os._exit(1)


def _complain(link: socket.socket, text: str) -> None:
    try:
        link.send(text.encode(errors="replace"))
    except OSError:
        pass


def _enter(namespaces: list[tuple[str, int]], *, has_mounts: bool) -> None:
    """Join, or leave for a new one; the mounts' comes last, because names may be looked up until then. `has_mounts`:
    it is joined already.
    """
    new = 0
    for kind, fd in namespaces:
        if kind in ("pid", "mount") or kind not in _FLAGS:
            continue
        if fd >= 0:
            hostsys.setns(fd, _FLAGS[kind])
        else:
            new |= _FLAGS[kind]
    joined = [fd for kind, fd in namespaces if kind == "mount" and fd >= 0]
    if new:
        hostsys.unshare(new)
    if joined:
        hostsys.setns(joined[0], _NEWNS)
    elif not has_mounts:
        hostsys.unshare(_NEWNS)


def _raise_loopback() -> None:
    """Set lo up in a new network namespace, as runc does; everything else is the engine's task."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, _IFREQ.pack(b"lo", IFF_UP | IFF_RUNNING))


def _set_parameters(sysctls: dict[str, str], *, is_outside: bool) -> None:
    """Kernel parameters of the network, which are the namespace's (all others are the sandbox's).  Raises OciError."""
    for key, value in sysctls.items():
        path = key.replace(".", "/")
        if not path.startswith("net/"):
            continue
        if is_outside:
            raise OciError(f'sysctl "{key}" is not allowed in the hosts network namespace')
        try:
            with open(
                os.path.join("/proc/sys", path), "w", encoding="utf-8", errors="surrogateescape"
            ) as file:
                file.write(value)
        except OSError as error:
            raise OciError(f"sysctl {key}: {error.strerror}") from None


def _say_and_wait(link: socket.socket) -> None:
    link.send(_DONE)
    if link.recv(1) != _DONE:
        os._exit(1)  # it is not wanted


def anchor_path() -> str:
    """The program."""
    here = os.path.dirname(os.path.abspath(hostsys.__file__))
    return os.path.join(here, "anchor.elf")
