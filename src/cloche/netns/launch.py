"""Starts the network process: fork, join the container's network namespace, confine, serve.

The caller is the keeper, a process with a single thread. By then the engine's hooks have set the namespace up. It
keeps no access to the host except that namespace: an empty root, no files, and only the three capabilities that it
needs (`CAPABILITIES`). These apply to the namespace only, since the filter does not allow joining another. It ends
when the sentry does.
"""

import errno
import gc
import os
import socket
from typing import Final

from cloche.abi.capability import CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SETUID
from cloche.abi.sched import CLONE_NEWNET
from cloche.boot import confine, seccomp
from cloche.boot.part import EXIT_START, FAILED, HELLO, Part, say, settle, start_part
from cloche.boot.seccomp_netns import guarded_policy, netns_policy
from cloche.netns.links import Links, read_parameters
from cloche.netns.server import Server
from cloche.platform import hostsys

__all__ = ["NetworkProcess", "start_network"]

# The ports below 1024 and ping sockets where programs may have them, and sockets under the programs' users.
CAPABILITIES: Final = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_NET_RAW | 1 << CAP_SETUID
_NAMESPACES: Final = (confine.MOUNT_NAMESPACE, confine.IPC_NAMESPACE, confine.UTS_NAMESPACE)


class NetworkProcess(Part):
    """A running network process."""


def start_network(
    namespace: int, user_ns: int = -1, *, is_confined: bool, is_guarded: bool = False
) -> NetworkProcess:
    """Fork it, into the network namespace that a descriptor refers to.  It is ready after `wait_ready`.

    With a user namespace of the container's own, `user_ns`, it is in that: its capabilities hold only for what belongs
    to it, and the sentry names users as that does.
    `is_guarded`: egress decides what leaves, and this process sends nothing.
    """

    def work(channel: socket.socket, speak: socket.socket, parent: int) -> int:
        return _run(
            channel, speak, namespace, user_ns, parent, is_confined=is_confined, is_guarded=is_guarded
        )

    return NetworkProcess("the network process", *start_part(socket.SOCK_SEQPACKET, work))


def _run(
    channel: socket.socket,
    speak: socket.socket,
    namespace: int,
    user_ns: int,
    parent: int,
    *,
    is_confined: bool,
    is_guarded: bool,
) -> int:
    """The child.  The exit status."""
    gc.freeze()
    gc.disable()  # no cycles are made while serving
    given = [user_ns] if user_ns >= 0 else []
    settle("cloche-network", [channel.fileno(), speak.fileno(), namespace, *given])
    try:
        own = os.stat("/proc/self/ns/net")
        if not os.path.samestat(own, os.fstat(namespace)):  # joining one's own namespace may not be permitted
            hostsys.setns(namespace, CLONE_NEWNET)
        os.close(namespace)
        if user_ns >= 0:
            confine.join_user_namespace(user_ns)
        links = Links(read_parameters())
    except OSError as error:
        say(speak, FAILED + f"the network: cannot join its namespace: {error.strerror}".encode())
        return EXIT_START
    if is_confined:
        _confine()
    if not confine.die_with(parent):
        return EXIT_START
    server = Server(channel, links, is_guarded=is_guarded)
    policy = guarded_policy(channel.fileno(), links.asking.fileno()) if is_guarded else netns_policy()
    if is_guarded:
        say(speak, HELLO)  # before the filter, which allows only those two sockets
    if is_confined:
        seccomp.install(policy)
    if not is_guarded:
        say(speak, HELLO)
    server.run()
    return 0


def _confine() -> None:
    report = confine.Report()
    confine.set_limits(report)
    confine.enter_namespaces(report, _NAMESPACES)
    confine.empty_root(report)
    try:
        os.setgroups([])
    except PermissionError:
        pass  # denied in namespaces that ordinary users make
    try:
        os.setresgid(confine.NOBODY, confine.NOBODY, confine.NOBODY)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # a user namespace without this id: it stays root there, with capabilities over little
    confine.drop_capabilities(report, CAPABILITIES)
    try:
        # does not change capabilities any more (securebits)
        os.setresuid(confine.NOBODY, confine.NOBODY, confine.NOBODY)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    confine.deny_paths(report, [], may_signal=False, may_connect=True, may_bind=True)
    confine.set_undumpable(report)
