"""How the sentry, the gofer and egress give up what they do not need, one measure at a time.

Every measure is tried on its own; a `Report` says which are in force, why the others are not and how to mend
it (`cloche doctor` prints it).  Works as root and as an ordinary user, with and without user namespaces.
Nothing here raises for a host that lacks a feature; the caller decides from the report whether what is left
is enough.

Order for a sentry:
1. `detach_from_terminal`, `enter_namespaces`; then fork if PID_NAMESPACE is in force (the child is pid 1);
2. open what is needed later (the stub, procfs, the gofer's socket), import every module;
3. `empty_root`, `become_unprivileged`, `drop_capabilities`, `deny_paths`: before the platform starts, because
guests
   must have the sentry's user id and Landlock domain for process_vm_readv(2) to work (ptrace access mode:
   same ids, a dumpable target, the same or a nested domain);
4. start the platform; 5. `set_undumpable`, `boot.seccomp.install`.
A gofer opens its attach points first and then does all of it in one go (`cloche.gofer.launch`).

Only a process with a single thread may call these.
"""

import os
import resource
import socket
from typing import Final

from cloche.abi.capability import CAP_LAST_CAP, CAP_SETPCAP, CAP_SYS_CHROOT
from cloche.abi.errno import EACCES, EINVAL, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, EUSERS
from cloche.abi.fs import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)
from cloche.abi.misc import (
    LANDLOCK_ACCESS_FS_IOCTL_DEV,
    LANDLOCK_ACCESS_FS_REFER,
    LANDLOCK_ACCESS_FS_TRUNCATE,
    LANDLOCK_ACCESS_NET_BIND_TCP,
    LANDLOCK_ACCESS_NET_CONNECT_TCP,
    LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET,
    LANDLOCK_SCOPE_SIGNAL,
)
from cloche.abi.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    PR_SET_SECUREBITS,
)
from cloche.abi.sched import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from cloche.abi.signal import SIGKILL
from cloche.platform import hostsys

USER_NAMESPACE: Final = "user namespace"
MOUNT_NAMESPACE: Final = "mount namespace"
PID_NAMESPACE: Final = "pid namespace"
NET_NAMESPACE: Final = "network namespace"
IPC_NAMESPACE: Final = "ipc namespace"
UTS_NAMESPACE: Final = "uts namespace"
CGROUP_NAMESPACE: Final = "cgroup namespace"
EMPTY_ROOT: Final = "empty root"
OWN_PROC: Final = "own /proc"
LANDLOCK: Final = "landlock"
NO_CAPABILITIES: Final = "no capabilities"
UNPRIVILEGED_USER: Final = "unprivileged user"
NO_NEW_PRIVILEGES: Final = "no new privileges"
UNDUMPABLE: Final = "not dumpable"
LIMITS: Final = "resource limits"
SECCOMP: Final = "seccomp filter"

# The user that root becomes: the kernel's overflow id, which owns no files.
NOBODY: Final = 65534

_FLAGS: Final[dict[str, int]] = {
    MOUNT_NAMESPACE: CLONE_NEWNS,
    PID_NAMESPACE: CLONE_NEWPID,
    NET_NAMESPACE: CLONE_NEWNET,
    IPC_NAMESPACE: CLONE_NEWIPC,
    UTS_NAMESPACE: CLONE_NEWUTS,
    CGROUP_NAMESPACE: CLONE_NEWCGROUP,
}
GOFER_NAMESPACES: Final = (MOUNT_NAMESPACE, NET_NAMESPACE, IPC_NAMESPACE, UTS_NAMESPACE)
SENTRY_NAMESPACES: Final = (*GOFER_NAMESPACES, PID_NAMESPACE)

# NOROOT, NO_SETUID_FIXUP and KEEP_CAPS' lock, all locked (linux/securebits.h)
_SECUREBITS_LOCKED: Final = 0x2F
_NOEXEC_MOUNT: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC


class Measure:
    """One thing that confinement tried."""

    def __init__(self, name: str, reason: str = "", remedy: str = "", *, is_in_force: bool) -> None:
        self.name: str = name
        self.is_in_force: bool = is_in_force
        self.reason: str = reason  # why it is not in force, or only in part; empty if all is well
        self.remedy: str = remedy  # what the operator can do


class Report:
    """The measures that are in force, in the order in which they were tried."""

    def __init__(self) -> None:
        self.measures: list[Measure] = []

    def in_force(self, name: str, note: str = "") -> None:
        """Record a success."""
        self.measures.append(Measure(name, note, is_in_force=True))

    def missing(self, name: str, reason: str, remedy: str = "") -> None:
        """Record a failure."""
        self.measures.append(Measure(name, reason, remedy, is_in_force=False))

    def has(self, name: str) -> bool:
        """Whether the measure is in force."""
        return any(measure.name == name and measure.is_in_force for measure in self.measures)

    def encode(self) -> bytes:
        """A line per measure, for a pipe."""
        lines: list[str] = []
        for measure in self.measures:
            fields = [measure.name, "1" if measure.is_in_force else "0", measure.reason, measure.remedy]
            lines.append("\t".join([" ".join(field.split()) for field in fields]))
        return "\n".join(lines).encode()

    @staticmethod
    def decode(data: bytes) -> "Report":
        """The inverse of `encode`; lines that do not parse are left out."""
        report = Report()
        for line in data.decode(errors="replace").splitlines():
            fields = line.split("\t")
            if len(fields) == 4:
                report.measures.append(Measure(fields[0], fields[2], fields[3], is_in_force=fields[1] == "1"))
        return report


def _explain(error: OSError) -> str:
    return error.strerror or f"errno {error.errno}"


def _read_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


# -- namespaces --------------------------------------------------------------------------------------------
def _user_namespace_remedy(error: OSError) -> tuple[str, str]:
    """Why unshare(CLONE_NEWUSER) failed and what helps."""
    if error.errno in (ENOSPC, EUSERS):
        if _read_line("/proc/sys/user/max_user_namespaces") == "0":
            return "user.max_user_namespaces is 0", "sysctl user.max_user_namespaces=10000"
        return "too many user namespaces", "raise user.max_user_namespaces, or nest less deeply"
    if error.errno in (EPERM, EACCES):
        if _read_line("/proc/sys/kernel/unprivileged_userns_clone") == "0":
            return "kernel.unprivileged_userns_clone is 0", "sysctl kernel.unprivileged_userns_clone=1"
        if _read_line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
            return (
                "AppArmor restricts unprivileged user namespaces",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile with `userns,`",
            )
        return (
            "not permitted: a container's seccomp profile, or a chroot",
            "run outside, or with a seccomp profile that allows unshare",
        )
    if error.errno in (EINVAL, ENOSYS):
        return "the kernel has no user namespaces", "CONFIG_USER_NS=y"
    return _explain(error), ""


def _write_file(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def map_ids(pid: int, uid: int, gid: int) -> None:
    """Map `uid` and `gid`, each alone and to itself, in the user namespace of another process. Raises OSError."""
    _write_file(f"/proc/{pid}/setgroups", "deny")
    _write_file(f"/proc/{pid}/uid_map", f"{uid} {uid} 1")
    _write_file(f"/proc/{pid}/gid_map", f"{gid} {gid} 1")


def _map_from_outside(uid: int, gid: int) -> tuple[int, int]:
    """Fork a helper that will map `uid` and `gid` for this process, each alone and to itself.

    Returns its pid and a pipe to start it. Once it is inside, root can map no other id than its own, so a process
    that stays outside must do it.
    """
    target = os.getpid()
    read_end, write_end = os.pipe()
    helper = os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(write_end)
            if os.read(read_end, 1) == b"1":
                map_ids(target, uid, gid)
                status = 0
        finally:
            os._exit(status)
    os.close(read_end)
    return helper, write_end


def enter_user_namespace(report: Report, outside: socket.socket | None = None) -> None:
    """A user namespace with one id: the caller's own, or for root `NOBODY` (which the caller then is).

    Inside, this process has every capability over the namespaces that it makes next, none outside.
    Root's ids are mapped by the process that reads `outside`: when it receives b"M", it calls `map_ids` for this
    process and answers b"1" or b"0". Without `outside` a helper is forked.
    """
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        try:
            hostsys.unshare(CLONE_NEWUSER)
        except OSError as error:
            reason, remedy = _user_namespace_remedy(error)
            report.missing(USER_NAMESPACE, reason, remedy)
            return
        try:
            _write_file("/proc/self/setgroups", "deny")
            _write_file("/proc/self/uid_map", f"{uid} {uid} 1")
            _write_file("/proc/self/gid_map", f"{gid} {gid} 1")
        except OSError as error:
            report.missing(USER_NAMESPACE, f"ids could not be mapped: {_explain(error)}")
            return
        report.in_force(USER_NAMESPACE)
        return

    try:
        os.setgroups([])  # not permitted inside the namespace
    except OSError as error:
        report.missing(USER_NAMESPACE, f"supplementary groups: {_explain(error)}", "grant CAP_SETGID")
        return
    failure: OSError | None = None
    helper, start = (0, -1) if outside is not None else _map_from_outside(NOBODY, NOBODY)
    try:
        hostsys.unshare(CLONE_NEWUSER)
    except OSError as error:
        failure = error
    is_mapped = False
    if outside is None:
        os.write(start, b"0" if failure is not None else b"1")
        os.close(start)
        is_mapped = os.waitpid(helper, 0)[1] == 0
    elif failure is None:
        outside.send(b"M")
        is_mapped = outside.recv(1) == b"1"
    if failure is not None:
        reason, remedy = _user_namespace_remedy(failure)
        report.missing(USER_NAMESPACE, reason, remedy)
        return
    try:
        if not is_mapped:
            raise OSError(EPERM, "ids could not be mapped")
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # The change of ids made the process undumpable, so its files in /proc belong to root until this.
        hostsys.prctl(PR_SET_DUMPABLE, 1)
    except OSError as error:
        report.missing(USER_NAMESPACE, _explain(error), "grant CAP_SETUID and CAP_SETGID")
        return
    report.in_force(USER_NAMESPACE, f"as user {NOBODY}")


def join_user_namespace(fd: int) -> None:
    """Become root of the user namespace that `fd` refers to, which is closed: every capability there, none outside.

    Raises OSError.
    """
    hostsys.setns(fd, CLONE_NEWUSER)
    os.close(fd)
    become_root()


def become_root() -> None:
    """Take the ids of root, and no other group, in a user namespace that was just entered.  Raises OSError."""
    try:
        os.setgroups([])
    except PermissionError:
        pass  # denied in namespaces that ordinary users make: there were no rights to give up
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # The change of ids made the process undumpable, so its files in /proc belong to root outside until this.
    hostsys.prctl(PR_SET_DUMPABLE, 1)


def enter_namespaces(report: Report, names: tuple[str, ...]) -> None:
    """Leave the host's namespaces of these kinds: all at once if possible, else one by one.

    After PID_NAMESPACE the next child is pid 1 of the new namespace; this process stays where it is.
    """
    flags = 0
    for name in names:
        flags |= _FLAGS[name]
    try:
        hostsys.unshare(flags)
    except OSError:
        pass
    else:
        for name in names:
            report.in_force(name)
        return
    for name in names:
        try:
            hostsys.unshare(_FLAGS[name])
        except OSError as error:
            remedy = ""
            if error.errno == EPERM and not report.has(USER_NAMESPACE):
                remedy = "run as root, or allow user namespaces"
            report.missing(name, _explain(error), remedy)
        else:
            report.in_force(name)


# -- the file system -----------------------------------------------------------------------------------------
def mount_own_proc(report: Report) -> None:
    """Put a procfs of this process's own pid namespace over /proc, in its own mount namespace.

    Through it the platform reads how much memory the guests have; without it that is not known.  Where the host's
    /proc is partly hidden (a container) the kernel refuses, and things stay as they are.
    """
    if not report.has(MOUNT_NAMESPACE) or not report.has(PID_NAMESPACE):
        return
    try:
        hostsys.mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)  # nothing may propagate to the host
        hostsys.mount(b"proc", b"/proc", b"proc", _NOEXEC_MOUNT)
    except OSError as error:
        report.missing(OWN_PROC, _explain(error), "sizes of guests' memory read as 0")
    else:
        report.in_force(OWN_PROC)


def empty_root(report: Report) -> None:
    """Replace the root by an empty read-only directory, and move there.

    With a mount namespace of its own: a tmpfs without room for a single file, and the host's mounts are gone.
    Otherwise, with CAP_SYS_CHROOT: a removed directory, in which nothing can be created.
    Descriptors that are open keep working, mounts below them included: they belong to the old mount
    namespace.
    """
    if report.has(MOUNT_NAMESPACE):
        try:
            _pivot_to_tmpfs()
        except OSError as error:
            failure = f"pivot_root: {_explain(error)}"
        else:
            report.in_force(EMPTY_ROOT)
            return
    else:
        failure = "no mount namespace"
    if not hostsys.capget()[0] & (1 << CAP_SYS_CHROOT):
        report.missing(EMPTY_ROOT, failure, "run as root, or allow user namespaces")
        return
    path = f"/tmp/cloche-{os.getpid()}-{os.urandom(8).hex()}"
    try:
        os.mkdir(path, 0o700)
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.rmdir(path)
        os.fchdir(fd)
        os.close(fd)
        os.chroot(b".")
    except OSError as error:
        report.missing(EMPTY_ROOT, f"{failure}; chroot: {_explain(error)}")
    else:
        report.in_force(EMPTY_ROOT, f"a removed directory ({failure})")


def _pivot_to_tmpfs() -> None:
    hostsys.mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)  # nothing may propagate to the host
    target = b"/tmp" if os.path.isdir(b"/tmp") else b"/proc"
    hostsys.mount(b"none", target, b"tmpfs", _NOEXEC_MOUNT, b"size=4k,nr_inodes=1,mode=555")
    os.chdir(target)
    # pivot_root(2): old and new root may be the same directory; the old one then lies on top.
    hostsys.pivot_root(b".", b".")
    hostsys.umount2(b".", MNT_DETACH)
    os.chdir(b"/")
    hostsys.mount(b"none", b"/", b"", MS_REMOUNT | MS_BIND | MS_RDONLY | _NOEXEC_MOUNT)


def deny_paths(
    report: Report,
    allowed: list[tuple[int, int]],
    *,
    may_signal: bool,
    may_connect: bool = False,
    may_bind: bool = False,
) -> None:
    """Landlock: from now on no path may be opened, no TCP port used, no abstract socket connected to.

    `allowed` are pairs of a directory descriptor and LANDLOCK_ACCESS_FS_* bits: below the directory these accesses
    stay possible. `may_signal`: processes outside of the domain may be signalled (the sentry ends its guests).
    `may_connect`: TCP ports may be connected to (egress); `may_bind`: TCP ports may be bound (the network process).
    Sets no_new_privs.
    """
    try:
        abi = hostsys.landlock_abi()
    except OSError as error:
        if error.errno == EOPNOTSUPP:
            report.missing(LANDLOCK, "disabled at boot", "add landlock to the lsm= kernel parameter")
        elif error.errno == ENOSYS:
            report.missing(LANDLOCK, "the kernel has none", "Linux 5.13 with CONFIG_SECURITY_LANDLOCK=y")
        else:
            report.missing(LANDLOCK, _explain(error))
        return
    handled = (1 << 13) - 1  # every right of ABI 1
    if abi >= 2:
        handled |= LANDLOCK_ACCESS_FS_REFER
    if abi >= 3:
        handled |= LANDLOCK_ACCESS_FS_TRUNCATE
    if abi >= 5:
        handled |= LANDLOCK_ACCESS_FS_IOCTL_DEV
    net = 0
    if abi >= 4:
        net = 0 if may_bind else LANDLOCK_ACCESS_NET_BIND_TCP
        net |= 0 if may_connect else LANDLOCK_ACCESS_NET_CONNECT_TCP
    scoped = 0
    if abi >= 6:
        scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | (0 if may_signal else LANDLOCK_SCOPE_SIGNAL)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    try:
        ruleset = hostsys.landlock_create_ruleset(handled, net, scoped, size)
        try:
            for fd, access in allowed:
                hostsys.landlock_add_path(ruleset, fd, access & handled)
            hostsys.prctl(PR_SET_NO_NEW_PRIVS, 1)
            hostsys.landlock_restrict_self(ruleset)
        finally:
            os.close(ruleset)
    except OSError as error:
        report.missing(LANDLOCK, _explain(error))
    else:
        report.in_force(LANDLOCK, f"ABI {abi}")


# -- privileges ----------------------------------------------------------------------------------------------
def become_unprivileged(report: Report) -> None:
    """Change the ids of root outside of a user namespace to `NOBODY`; other users keep theirs. Drops every
    capability.
    """
    if os.geteuid() != 0:
        report.in_force(UNPRIVILEGED_USER, f"user {os.geteuid()}")
        return
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        hostsys.prctl(PR_SET_DUMPABLE, 1)
    except OSError as error:
        report.missing(UNPRIVILEGED_USER, _explain(error), "grant CAP_SETUID and CAP_SETGID")
    else:
        report.in_force(UNPRIVILEGED_USER, f"user {NOBODY}")


def drop_capabilities(report: Report, keep: int = 0) -> None:
    """Drop all capabilities but those in the mask `keep`, from every set, and set no_new_privs."""
    effective, permitted, _inheritable = hostsys.capget()
    note = ""
    if permitted & (1 << CAP_SETPCAP):
        for cap in range(64):
            if keep >> cap & 1:
                continue
            try:
                if hostsys.prctl(PR_CAPBSET_READ, cap):
                    hostsys.prctl(PR_CAPBSET_DROP, cap)
            except OSError as error:
                if error.errno == EINVAL and cap > CAP_LAST_CAP:
                    break  # past the last that the kernel knows
                if error.errno != EINVAL:
                    note = f"bounding set: {_explain(error)}"
                    break
        try:
            hostsys.prctl(PR_SET_SECUREBITS, _SECUREBITS_LOCKED)
        except OSError:
            pass  # no permission, or locked already; without execve and with no_new_privs it adds little
    try:
        hostsys.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass  # before Linux 4.3 there are none
    try:
        hostsys.capset(permitted & keep, permitted & keep, 0)
    except OSError as error:
        report.missing(NO_CAPABILITIES, _explain(error))
    else:
        report.in_force(
            NO_CAPABILITIES, note if not keep else note or f"but {capability_names(permitted & keep)}"
        )
    try:
        hostsys.prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        report.missing(NO_NEW_PRIVILEGES, _explain(error))
    else:
        report.in_force(NO_NEW_PRIVILEGES)


def capability_names(mask: int) -> str:
    """The capabilities of a mask that a confined process may keep, as text."""
    names = {0: "CHOWN", 1: "DAC_OVERRIDE", 2: "DAC_READ_SEARCH", 3: "FOWNER", 4: "FSETID", 31: "SETFCAP"}
    return " ".join([names.get(cap, str(cap)) for cap in range(64) if mask >> cap & 1]) or "none were held"


def set_undumpable(report: Report) -> None:
    """No core dump, no ptrace and no /proc/PID/mem by others.  Guests are not touched: exec made them
    dumpable again.

    After it the process's files in /proc are root's, so do this last.
    """
    try:
        hostsys.prctl(PR_SET_DUMPABLE, 0)
    except OSError as error:
        report.missing(UNDUMPABLE, _explain(error))
    else:
        report.in_force(UNDUMPABLE)


def set_limits(report: Report) -> None:
    """No core files; as many descriptors as the hard limit allows."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard == resource.RLIM_INFINITY or hard > 1048576:
            hard = 1048576
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        report.missing(LIMITS, str(error))
    else:
        report.in_force(LIMITS, f"{hard} descriptors, no core files")


def leave_host(namespaces: tuple[str, ...], *, may_connect: bool = False) -> None:
    """Confine a part that needs nothing of the host but the descriptors that it has already; its seccomp filter comes
    after this.

    `may_connect`: it may make TCP connections (where Landlock can restrict these).
    """
    report = Report()
    set_limits(report)
    if os.geteuid() != 0:
        enter_user_namespace(report)
    enter_namespaces(report, namespaces)
    empty_root(report)
    become_unprivileged(report)
    drop_capabilities(report)
    deny_paths(report, [], may_signal=False, may_connect=may_connect)
    set_undumpable(report)


def name_process(name: str) -> None:
    """Set the name that ps, top and /proc/PID/comm show, at most 15 bytes."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(name)
    except OSError:
        pass


def die_with(parent: int) -> bool:
    """Have this process killed when its parent dies.

    False: the parent, whose pid was `parent`, is gone already. A change of credentials clears the setting, so call
    this after `drop_capabilities`. In a pid namespace `getppid` shows a parent outside of it as 0.
    """
    hostsys.prctl(PR_SET_PDEATHSIG, SIGKILL)
    return os.getppid() in (parent, 0)


def detach_from_terminal() -> None:
    """A session of its own, so that no terminal can signal it (ignored for a session leader)."""
    try:
        os.setsid()
    except PermissionError:
        pass


def close_all_but(keep: list[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for fd in [*sorted(set(keep)), -1]:
        last = fd - 1 if fd >= 0 else 0xFFFFFFFF
        if first <= last:
            try:
                hostsys.close_range(first, last)
            except OSError:  # before Linux 5.9, or an old container profile
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                os.closerange(first, min(last, limit) + 1)
        first = fd + 1


# -- the doctor ----------------------------------------------------------------------------------------------
def probe() -> Report:
    """Find out what this host grants a sentry: a child confines itself and reports."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            report = Report()
            _probe_in_child(report)
            os.write(write_end, report.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    parts: list[bytes] = []
    while True:
        data = os.read(read_end, 65536)
        if not data:
            break
        parts.append(data)
    os.close(read_end)
    os.waitpid(child, 0)
    return Report.decode(b"".join(parts))


def _probe_in_child(report: Report) -> None:
    set_limits(report)
    enter_user_namespace(report)
    enter_namespaces(report, SENTRY_NAMESPACES)
    empty_root(report)
    become_unprivileged(report)
    drop_capabilities(report)
    deny_paths(report, [], may_signal=True)
    set_undumpable(report)
    try:
        # RET_ALLOW: only whether filters can be installed at all.
        hostsys.seccomp_filter(b"\x06\x00\x00\x00\x00\x00\xff\x7f")
    except OSError as error:
        report.missing(SECCOMP, _explain(error), "CONFIG_SECCOMP_FILTER=y")
    else:
        report.in_force(SECCOMP)
