"""Starting programs from outside: the sandbox's first, and what `cloche exec` adds to it.

Each is a process in a session of its own, with the ids, environment, directory and limits that were asked for.  The
first is a child of the sandbox's init (or is pid 1 itself); others have no parent inside, as with docker exec,
and their namespaces and root are those of that init, or else of the first program, which they may precede.
"""

import os
from collections.abc import Callable
from typing import Final

from cloche.abi.errno import EACCES, EINVAL, EISDIR, ENOENT, ENOTDIR, EPERM, LinuxError
from cloche.abi.errno import name as errno_name
from cloche.abi.resource import RLIMIT_FSIZE
from cloche.abi.termios import ONLCR
from cloche.boot.attributes import StartAttributes
from cloche.boot.passed import describe_passed
from cloche.boot.spec import SandboxSpec
from cloche.fs.host_tty import TerminalBridge, bridge_terminal
from cloche.fs.hostfd import HostFd
from cloche.kernel.container import new_leader
from cloche.kernel.exec import begin_first_exec, open_exec, parse_script, prepare, release_image
from cloche.kernel.fd_table import FdTable
from cloche.kernel.loader import read_image
from cloche.kernel.rlimits import default_rlimits
from cloche.kernel.seccomp import install
from cloche.kernel.seccomp_filter import Filter, checked_program
from cloche.kernel.task import ENTERED, Container, KernelContext, Task
from cloche.mm.address_space import AddressSpace
from cloche.vfs.credentials import Credentials
from cloche.vfs.namei import LOOKUP_DIRECTORY, LOOKUP_FOLLOW, path_lookup
from cloche.vfs.objects import MAY_EXEC, Context, Path
from cloche.vfs.userns import NO_ID, map_gid, map_uid
from cloche.wire.requests import CWD

_STDIO_LIMIT: Final = 1024
_STANDARD: Final = 3  # descriptors
_MOST_LINKS: Final = 40
CAP_SETS: Final = 5  # effective, permitted, inheritable, ambient, bounding
DEFAULT_PATH: Final = b"/usr/local/bin:/usr/bin:/bin"


class Failure:
    """Why a program could not start."""

    def __init__(self, text: str, status: int, argument: str = "") -> None:
        self.text: str = text
        self.status: int = status
        self.argument: str = argument  # of `exec`, whose fault it is


def user_credentials(
    container: Container, spec: SandboxSpec, uid: int, gid: int, groups: list[int]
) -> Credentials:
    """What a process of this user starts with, as in Docker: root has the sandbox's capabilities, others may get them
    by what they execute (--allow-suid) but have none; nothing is inheritable.

    The ids are those of the container's user namespace.  Raises LinuxError(EINVAL) if it does not have them.
    """
    ns = container.user_ns
    ids = [map_uid(ns, uid), *[map_gid(ns, each) for each in (gid, *groups)]]
    if NO_ID in ids:
        raise LinuxError(EINVAL)
    creds = Credentials(ids[0], ids[1], ids[2:], spec.capabilities if uid == 0 else 0)
    creds.cap_bounding = spec.capabilities
    creds.user_ns = ns
    return creds


class ProcessSettings:
    """What a program starts with beside its user: of a spec, or of a request to execute one."""

    def __init__(
        self,
        umask: int,
        rlimits: list[tuple[int, int, int]],
        cap_sets: list[int],
        oom_score_adj: int,
        attributes: StartAttributes,
        *,
        no_new_privileges: bool,
    ) -> None:
        self.umask: int = umask
        self.rlimits: list[tuple[int, int, int]] = rlimits
        self.cap_sets: list[int] = cap_sets
        self.oom_score_adj: int = oom_score_adj
        self.attributes: StartAttributes = attributes
        self.no_new_privileges: bool = no_new_privileges

    def apply_to_credentials(self, creds: Credentials) -> None:
        """Capability sets and no_new_privs, before a process has them."""
        if len(self.cap_sets) == CAP_SETS:
            creds.cap_effective, creds.cap_permitted, creds.cap_inheritable = self.cap_sets[:3]
            creds.cap_ambient, creds.cap_bounding = self.cap_sets[3:]
        creds.no_new_privs = self.no_new_privileges

    def apply(self, task: Task, spec: SandboxSpec) -> Failure | None:
        """Apply all other settings, before the program is executed; the container's seccomp filter comes last.

        Returns which attribute the program cannot have, or None. Raises LinuxError for a limit or a filter that Linux
        would refuse.
        """
        group = task.group
        task.fs.umask = self.umask
        for number, soft, hard in self.rlimits:
            if not 0 <= number < len(group.rlimits) or (hard >= 0 and (soft < 0 or soft > hard)):
                raise LinuxError(EINVAL)
            group.rlimits[number] = (soft, hard)
            if number == RLIMIT_FSIZE:
                task.file_size_limit = soft
        group.oom_score.begin(self.oom_score_adj)
        problem = self.attributes.apply(task)
        if problem:
            return Failure(problem, 125)
        if spec.filter:
            install(task, Filter(checked_program(spec.filter), None))
        return None


def attributes_of(spec: SandboxSpec) -> StartAttributes:
    """Those of the first program."""
    return StartAttributes(spec.scheduler, spec.io_priority, spec.personality, spec.memory_policy, [])


def settings_of(spec: SandboxSpec) -> ProcessSettings:
    """The settings of the first program."""
    return ProcessSettings(
        spec.umask,
        spec.rlimits,
        spec.cap_sets,
        spec.oom_score_adj,
        attributes_of(spec),
        no_new_privileges=spec.no_new_privileges,
    )


def new_process(
    container: Container, spec: SandboxSpec, creds: Credentials, where: Context, files: FdTable
) -> Task:
    """A process in a blank host process, leader of a session, but without a parent.

    Raises OSError when the platform has none, and LinuxError.
    """
    kernel = container.kernel
    process = kernel.platform.new_process(container.family[0])
    mm = AddressSpace(process, kernel.platform.min_address(), kernel.platform.max_address())
    mm.is_patching = kernel.is_patching
    nofile = (min(1024, spec.nofile_limit), spec.nofile_limit)
    rlimits = default_rlimits(nofile=nofile, nproc=spec.max_tasks)
    try:
        return new_leader(container, process.main_thread(), mm, creds, where, files, rlimits)
    except LinuxError:
        process.kill()
        raise


class Streams:
    """The first descriptors of a first program: the host's; instead of standard streams perhaps a terminal of its own
    on these.
    """

    def __init__(self, container: Container, spec: SandboxSpec, fds: list[int]) -> None:
        """Takes `fds` over; -1 is closed, and so it is inside.  Raises LinuxError, OSError."""
        self.files: FdTable = FdTable()
        self.bridge: TerminalBridge | None = None
        kernel = container.kernel
        given = {number: HostFd(kernel, fd, is_owned=True) for number, fd in enumerate(fds) if fd >= 0}
        self.hosts: list[HostFd] = list(given.values())
        for host in self.hosts:
            host.hold()
        root = container.root
        if spec.has_terminal and root is not None:
            owner = KernelContext(container, root.fs, root.mount_ns)
            owner.creds = user_credentials(container, spec, spec.uid, spec.gid, spec.groups)
            self.bridge, slave = bridge_terminal(owner, kernel, fds[0], fds[1])
            if spec.keeps_newlines:
                self.bridge.tty.termios.oflag &= ~ONLCR
            container.console = self.bridge.tty
            for _fd in range(_STANDARD):
                self.files.install(slave, _STDIO_LIMIT)
            given = {number: host for number, host in given.items() if number >= _STANDARD}
        self.given: dict[int, HostFd] = given

    def install(self, container: Container) -> None:
        """Give the program what it has of the host's, once its network is there.  Raises LinuxError."""
        for number, host in self.given.items():
            self.files.install(describe_passed(container, host), _STDIO_LIMIT, lowest=number)
        self.given = {}

    def finish(self, done: Callable[[], None]) -> None:
        """The program has ended: write out the rest of its output, restore the modes of host terminals, then call
        `done`.
        """

        def drained() -> None:
            for host in self.hosts:
                host.restore()
                host.close()
            self.hosts = []
            done()

        if self.bridge is not None:
            self.bridge.drain(drained)
        else:
            drained()


def start_program(container: Container, spec: SandboxSpec) -> Failure | None:
    """Make the main thread group and start its program.

    Returns why it cannot start, or None. Raises OSError, LinuxError. An idle container has no program: its init alone
    keeps it until it is ended from outside.
    """
    root = container.root
    files = container.stdio
    assert root is not None and files is not None
    if spec.is_idle and container.init is not None:
        container.state = ENTERED
        return None
    creds = user_credentials(container, spec, spec.uid, spec.gid, spec.groups)
    settings = settings_of(spec)
    settings.apply_to_credentials(creds)
    if container.init is None and container.pid_ns is not None:
        container.pid_ns.begin_first()  # commands may have been executed before
    task = new_process(container, spec, creds, root, files)
    group = task.group
    container.main = group
    if container.init is not None:
        group.parent = container.init
        container.init.children[group] = None
    else:
        container.init = group
    if container.console is not None:
        container.console.adopt(group)
    failure = settings.apply(task, spec)
    if failure is None:
        failure = enter_and_exec(task, spec.cwd, spec.argv, spec.env)
    if failure is None:
        container.state = ENTERED
    return failure


def check_program(container: Container, spec: SandboxSpec) -> Failure | None:
    """Why the first program would not start, as far as can be found out without starting it; or None."""
    root = container.root
    assert root is not None
    who = KernelContext(container, root.fs, root.mount_ns)
    who.creds = user_credentials(container, spec, spec.uid, spec.gid, spec.groups)
    settings = settings_of(spec)
    settings.apply_to_credentials(who.creds)
    problem = settings.attributes.problem(container)
    if problem:
        return Failure(problem, 125)
    name = spec.argv[0]
    shown = name.decode(errors="replace")
    if not name:
        return Failure("the command's name is empty", 127)
    candidates = search_path(name, spec.env)
    seen = ENOENT
    for candidate in candidates:
        try:
            path = path_lookup(who, None, candidate)
            inode = path.inode()
            if inode.is_dir():
                raise LinuxError(EISDIR)
            if not inode.is_regular():
                raise LinuxError(EACCES)
            if not inode.permission(who, MAY_EXEC):
                raise LinuxError(EACCES)
        except LinuxError as error:
            if seen in (ENOENT, ENOTDIR):
                seen = error.errno
            continue
        return None
    if seen == ENOENT:
        text = _not_there(who, name) if b"/" in name else "executable file not found in $PATH"
        return Failure(f"{shown}: {text}", 127)
    return Failure(f"{shown}: {explain(seen)}", 126 if seen != ENOTDIR else 127)


def rehearse(
    container: Container,
    where: Context,
    creds: Credentials,
    cwd: bytes,
    argv: list[bytes],
    env: dict[bytes, bytes],
) -> None:
    """Look for a program and its interpreter as the start will, so that the answers are there.  Raises HostWait."""
    if not argv:
        return
    who = KernelContext(container, where.fs.clone(), where.mount_ns)
    who.creds = creds
    try:
        who.fs.cwd = _directory(container, who, cwd)
    except LinuxError:
        return  # the start will report the error
    for candidate in search_path(argv[0], env):
        try:
            path = path_lookup(who, None, candidate)
            release_image(prepare(who, container.kernel, path, candidate, argv[0]))
            return
        except LinuxError:
            continue


def search_path(name: bytes, env: dict[bytes, bytes]) -> list[bytes]:
    """Where execvp(3) looks for a command."""
    if b"/" in name:
        return [name]
    search = env.get(b"PATH", DEFAULT_PATH)
    return [(part or b".") + b"/" + name for part in search.split(b":")]


def _directory(container: Container, who: Context, cwd: bytes) -> Path:
    """Where a program starts, as runc and crun find it: looked up before the change of the user, by the container's
    root, and if that may not, again as chdir(2) by the user.  Raises LinuxError.
    """
    try:
        return _enter(KernelContext(container, who.fs, who.mount_ns), cwd)
    except LinuxError as error:
        if error.errno not in (EACCES, EPERM):
            raise
    return _enter(who, cwd)


def _enter(who: Context, cwd: bytes) -> Path:
    path = path_lookup(who, None, cwd, LOOKUP_FOLLOW | LOOKUP_DIRECTORY)
    if not path.inode().permission(who, MAY_EXEC):
        raise LinuxError(EACCES)
    return path


def enter_and_exec(task: Task, cwd: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> Failure | None:
    """Change to the directory and start the command. Returns why that has failed, or None."""
    try:
        path = _directory(task.group.container, task, cwd)
    except LinuxError as error:
        return Failure(f"working directory {cwd.decode(errors='replace')}: {explain(error.errno)}", 125, CWD)
    task.fs.cwd = path
    return _exec_first(task, argv, env)


def explain(errno: int) -> str:
    """The C library's text for an error."""
    return f"{os.strerror(errno)} ({errno_name(errno)})"


def _exec_first(task: Task, argv: list[bytes], env: dict[bytes, bytes]) -> Failure | None:
    """Search PATH as execvp(3) does and start the command."""
    name = argv[0]
    envp = [key + b"=" + value for key, value in env.items()]
    shown = name.decode(errors="replace")
    if not name:
        return Failure("the command's name is empty", 127)
    candidates = search_path(name, env)
    seen = ENOENT
    broken = b""  # the first candidate that exists, but whose interpreter does not
    for candidate in candidates:
        try:
            path = path_lookup(task, None, candidate)
        except LinuxError as error:
            if error.errno not in (ENOENT, ENOTDIR) and seen == ENOENT:
                seen = error.errno
            continue
        try:
            begin_first_exec(task, path, candidate, argv, envp)
        except LinuxError as error:
            if error.errno in (EACCES, ENOENT) and len(candidates) > 1:
                seen = error.errno if seen == ENOENT else seen
                broken = candidate if error.errno == ENOENT and not broken else broken
                continue
            return _cannot_run(task, shown, candidate, error.errno)
        return None
    if seen != ENOENT:
        return Failure(f"{shown}: {explain(seen)}", 126)
    if broken:
        return _cannot_run(task, shown, broken, ENOENT)
    text = _not_there(task, name) if b"/" in name else "command not found"
    return Failure(f"{shown}: {text}", 127)


def _not_there(ctx: Context, name: bytes) -> str:
    """Why a file is missing: a link may lead out of the sandbox, as that of a virtual environment to its Python."""
    text = "no such file or directory"
    place = name
    for _ in range(_MOST_LINKS):
        try:
            inode = path_lookup(ctx, None, place, 0).inode()
            if not inode.is_symlink():
                return text
            place = os.path.join(os.path.dirname(place), inode.readlink(ctx))
        except LinuxError:
            break
    if place == name:
        return text
    goal = os.fsdecode(os.path.normpath(place))
    return f"{text}: it leads to {goal!a}, which the sandbox does not have (-v shows more of the host)"


def _cannot_run(task: Task, shown: str, candidate: bytes, errno: int) -> Failure:
    """The executable is there but does not start."""
    if errno == ENOENT:
        missing = find_interpreter(task, candidate)
        if missing:
            interpreter = missing.decode(errors="replace")
            return Failure(f"{shown}: its interpreter {interpreter}: {_not_there(task, missing)}", 127)
        return Failure(f"{shown}: no such file or directory", 127)
    return Failure(f"{shown}: {explain(errno)}", 126)


def find_interpreter(task: Task, candidate: bytes) -> bytes:
    """The ELF interpreter or script interpreter that an executable asks for, empty if none can be read."""
    try:
        file = open_exec(task, path_lookup(task, None, candidate))
        try:
            header = file.read_bytes(task, 0, 4096)
            if header[:2] == b"#!":
                return parse_script(header)[0]
            return read_image(task, file, candidate, task.mm.max_address, header).interpreter or b""
        finally:
            file.put()
    except LinuxError:
        return b""
