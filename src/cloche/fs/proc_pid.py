"""The directories of /proc/PID and /proc/PID/task/TID (fs/proc/base.c): a table of names, modes and
functions.

A `PidDir` belongs to one task and exists as long as that task (or its zombie): looked up again, the
same task gives the same inodes; afterwards every operation gives ESRCH or ENOENT. Rights: files that show a process's
memory or descriptors need ptrace access (`kernel.access`); the others are readable by all.
"""

from collections.abc import Callable, Generator
from typing import Final

from cloche.abi.errno import EACCES, EAGAIN, EINVAL, EIO, ENOENT, ENXIO, ESRCH, LinuxError
from cloche.abi.fcntl import O_CLOEXEC
from cloche.abi.fs import SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET
from cloche.abi.poll import POLLERR, POLLIN, POLLPRI, POLLRDNORM
from cloche.abi.stat import S_IFLNK, S_IFREG, dtype
from cloche.fs import proc_text
from cloche.fs.nsfs import namespace_of
from cloche.fs.pidfd import PidFile
from cloche.fs.pieces import ENOUGH, PartsDescription, PiecedDescription
from cloche.fs.proc_mem import MemInode, PageMapInode
from cloche.fs.proc_system import pid_shower
from cloche.fs.proc_table import (
    FAR_FILES,
    MOUNT_FILES,
    MOUNT_LINES,
    PIECES,
    PLAIN_FILES,
    PROCESS_FILES,
    ROWS,
    THREAD_FILES,
    FileRow,
    TaskStore,
    TaskText,
    no_module,
    no_module_store,
    no_text,
)
from cloche.fs.proc_task import is_present, note_names, own_by_task, reader_of, task_ino
from cloche.kernel.access import may_access, thread_count, threads_of
from cloche.kernel.accounting import space_of
from cloche.kernel.births import birth_queue
from cloche.kernel.parts import TaskNames
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.kernel.task import Kernel, Task
from cloche.mm.usermem import IovIter
from cloche.vfs.dcache import drop_child
from cloche.vfs.locks import proc_locks_parts
from cloche.vfs.objects import (
    UNSEEN_FLAGS,
    Context,
    FileDescription,
    Inode,
    Mount,
    MountNamespace,
    Path,
    generic_permission,
)
from cloche.vfs.pseudo import (
    MAX_NON_LFS,
    DirEntry,
    GeneratedDescription,
    GeneratedInode,
    MagicLink,
    PseudoDir,
    PseudoDirDescription,
    PseudoFs,
    anonymous_path,
    path_text,
)
from cloche.vfs.waitqueue import WaitQueue

_NAMESPACES: Final = [
    b"cgroup",
    b"ipc",
    b"mnt",
    b"net",
    b"pid",
    b"pid_for_children",
    b"time",
    b"time_for_children",
    b"user",
    b"uts",
]
_ID_MAPS: Final = frozenset({b"uid_map", b"gid_map", b"projid_map", b"setgroups"})
_MANY_ENTRIES: Final = 512  # entries of a directory at once: more than a usual buffer holds
_FD_INO: Final = 0x1000  # inode numbers of fd/N and fdinfo/N, from their task's
_FDINFO_INO: Final = 0x200000
_LINKS: Final = frozenset({b"cwd", b"root", b"exe"})
_DIRECTORIES: Final = frozenset({b"task", b"fd", b"fdinfo", b"ns", b"net", b"attr"})
_FIXED: Final = [b"fd", b"fdinfo", b"ns", b"net", b"attr", b"cwd", b"root", b"exe", b"mem", b"pagemap"]
_PROCESS_NAMES: Final = [b"task", *_FIXED, *PROCESS_FILES]
_THREAD_NAMES: Final = [*_FIXED, *THREAD_FILES]


class ProcFs(PseudoFs):
    """An instance of proc: the kernel that it shows, and the directories of tasks that were looked up."""

    def __init__(self, kernel: Kernel, magic: int, dev: int, pid_ns: PidNamespace | None) -> None:
        super().__init__("proc", magic, dev)
        self.kernel: Kernel = kernel
        self.pid_ns: PidNamespace | None = pid_ns  # whose processes it shows
        self.user_ns = pid_ns.user_ns if pid_ns is not None else None
        self.has_stable_dentries = False
        self.absent_errno = ENOENT  # proc's lookups fail, so there is nothing to make
        self.id_map_hook: Callable[[ProcFs, Task, bytes], Inode] | None = None  # fs.proc_idmap
        self.pid_dirs: dict[int, PidDir] = {}
        self.net_dir: Inode | None = None  # what /proc/PID/net shows

    def self_name(self, ctx: Context) -> bytes:
        """The target of /proc/self. Raises LinuxError(ENOENT) for a reader of another pid namespace."""
        pid = pid_in(self.pid_ns, reader_of(ctx).group.tgid)
        if not pid:
            raise LinuxError(ENOENT)
        return b"%d" % pid

    def thread_self_name(self, ctx: Context) -> bytes:
        """The target of /proc/thread-self."""
        return self.self_name(ctx) + b"/task/%d" % pid_in(self.pid_ns, reader_of(ctx).tid)

    def pid_dir(self, task: Task) -> "PidDir":
        """The directory of a thread group leader (or, by its tid, of any thread)."""
        known = self.pid_dirs.get(task.tid)
        if known is not None and known.task is task:
            return known
        made = PidDir(self, task, is_thread=False)
        self.pid_dirs[task.tid] = made
        note_names(task, made)
        if len(self.pid_dirs) > 2 * len(self.kernel.groups) + 64:
            self.pid_dirs = {tid: one for tid, one in self.pid_dirs.items() if is_present(one.task)}
        return made


class TaskFile(GeneratedInode):
    """A file of a task: a function of the reader and the task, perhaps one that takes writes."""

    def __init__(
        self, fs: PseudoFs, task: Task, mode: int, text: TaskText, store: "TaskStore | None" = None
    ) -> None:
        super().__init__(fs, mode)
        self.task: Task = task
        self.text: TaskText = text
        self.taker: TaskStore | None = store
        self.is_mode_fixed = True
        self.has_end = text in PLAIN_FILES
        self.is_by_segment = text not in MOUNT_FILES
        if self.has_end and text not in FAR_FILES:
            self.max_pos = MAX_NON_LFS

    def refresh(self, ctx: Context) -> None:
        own_by_task(self, self.task)

    def permission(self, ctx: Context, mask: int) -> bool:
        own_by_task(self, self.task)
        return generic_permission(self, ctx.creds, mask)

    def generate(self, ctx: Context) -> bytes:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        reader = reader_of(ctx)
        fs = self.fs
        reader.proc_view = fs.pid_ns if isinstance(fs, ProcFs) else None
        return self.text(reader, self.task)

    def store(self, ctx: Context, data: bytes, offset: int) -> int:
        taker = self.taker
        if taker is None:
            return -EIO
        if not is_present(self.task):
            return -ESRCH
        return taker(reader_of(ctx), self.task, data)


class GuardedFile(TaskFile):
    """A file that can be opened only with ptrace access (maps, environ, auxv …)."""

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        if not may_access(reader_of(ctx), self.task, uses_real_ids=False):
            raise LinuxError(EACCES)
        piece = PIECES.get(self.text)
        if piece is not None:
            return PieceDescription(path, self, flags, self.task, piece)
        return GeneratedDescription(path, self, flags)


class PieceDescription(PiecedDescription):
    """An open maps or its kin."""

    def __init__(
        self, path: Path, inode: GeneratedInode, flags: int, task: Task, piece: proc_text.TaskPiece
    ) -> None:
        super().__init__(path, inode, flags)
        self.task: Task = task
        self.piece: proc_text.TaskPiece = piece
        self.cursor: int = 0  # of the next piece

    def check(self, ctx: Context) -> None:
        if not is_present(self.task):
            raise LinuxError(ESRCH)

    def restart(self, ctx: Context) -> None:
        self.cursor = 0

    def more(self, ctx: Context) -> bytes | None:
        if self.cursor < 0:
            return None
        reader = reader_of(ctx)
        fs = self.inode.fs
        reader.proc_view = fs.pid_ns if isinstance(fs, ProcFs) else None
        text, self.cursor = self.piece(reader, self.task, self.cursor)
        return text


class MountsFile(TaskFile):
    """mounts and mountinfo: they can be polled for changes."""

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        return MountsDescription(path, self, flags, self.task, MOUNT_LINES[self.text])


class MountsDescription(PiecedDescription):
    """Open mounts or mountinfo; POLLERR and POLLPRI report a change of mounts once (mounts_poll)."""

    def __init__(
        self, path: Path, inode: GeneratedInode, flags: int, task: Task, line: Callable[[Path, Mount], bytes]
    ) -> None:
        super().__init__(path, inode, flags)
        self.task: Task = task
        self.namespace: MountNamespace = task.mount_ns
        self.line: Callable[[Path, Mount], bytes] = line
        self.mounts: list[Mount] = []
        self.index: int = 0
        self.seen: int = self.namespace.changes

    def check(self, ctx: Context) -> None:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        if self.task.is_exited:
            raise LinuxError(EINVAL)

    def restart(self, ctx: Context) -> None:
        self.mounts = list(self.namespace.mounts)
        self.index = 0

    def more(self, ctx: Context) -> bytes | None:
        if self.index >= len(self.mounts):
            self.mounts = []
            return None
        lines: list[bytes] = []
        length = 0
        while self.index < len(self.mounts) and length < ENOUGH and len(lines) < 64:
            lines.append(self.line(self.task.fs.root, self.mounts[self.index]))
            length += len(lines[-1])
            self.index += 1
        return b"".join(lines)

    def poll(self, ctx: Context) -> int:
        changes = self.namespace.changes
        if changes == self.seen:
            return POLLIN | POLLRDNORM
        self.seen = changes
        return POLLIN | POLLRDNORM | POLLERR | POLLPRI

    def wait_queue(self) -> WaitQueue | None:
        return self.walkers if self.is_walking else self.namespace.queue


class MemoryText(TaskFile):
    """A file whose text is in the task's own memory (cmdline, environ)."""

    def __init__(self, fs: PseudoFs, task: Task, row: FileRow) -> None:
        super().__init__(fs, task, row.mode, row.text)
        self.is_guarded: bool = row.is_guarded

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        if self.is_guarded and not may_access(reader_of(ctx), self.task, uses_real_ids=False):
            raise LinuxError(EACCES)
        return MemoryTextDescription(path, self, flags, self.task)


class MemoryTextDescription(GeneratedDescription):
    """Open cmdline or environ; a reader waits while the fork that makes the process is under way."""

    def __init__(self, path: Path, inode: GeneratedInode, flags: int, task: Task) -> None:
        super().__init__(path, inode, flags)
        self.task: Task = task

    def pread(self, ctx: Context, dst: IovIter, offset: int, flags: int = 0) -> int:
        if self.wait_queue() is not None:
            return -EAGAIN
        return super().pread(ctx, dst, offset, flags)

    def wait_queue(self) -> WaitQueue | None:
        space = space_of(self.task)
        return birth_queue(self.task.kernel, space) if space is not None else None


class ThreadStat(TaskFile):
    """stat below task/: the thread's own figures."""

    def generate(self, ctx: Context) -> bytes:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        reader = reader_of(ctx)
        fs = self.fs
        reader.proc_view = fs.pid_ns if isinstance(fs, ProcFs) else None
        return proc_text.stat_text(reader, self.task, is_thread=True)


# -- links -----------------------------------------------------------------------------------------------


class TaskLink(MagicLink):
    """cwd, root and exe."""

    def __init__(self, fs: PseudoFs, task: Task, kind: str) -> None:
        super().__init__(fs)
        self.task: Task = task
        self.kind: str = kind

    def refresh(self, ctx: Context) -> None:
        own_by_task(self, self.task)

    def target(self, ctx: Context) -> Path:
        task = self.task
        if not may_access(reader_of(ctx), task, uses_real_ids=False):
            raise LinuxError(EACCES)
        if task.is_exited:
            raise LinuxError(ENOENT)
        if self.kind == "cwd":
            return task.fs.cwd
        if self.kind == "root":
            return task.fs.root
        exe = task.group.exe.path
        if not isinstance(exe, Path):
            raise LinuxError(ENOENT)
        return exe


class FdLink(MagicLink):
    """fd/N: the open file itself; opening it opens the file anew, a pipe included."""

    def __init__(self, fs: PseudoFs, task: Task, fd: int, file: FileDescription) -> None:
        super().__init__(fs)
        self.task: Task = task
        self.fd: int = fd
        self.file: FileDescription = file
        if file.flags & 0o10000000:  # O_PATH
            self.mode = S_IFLNK
        else:
            readable = 0o500 if file.is_readable() else 0
            self.mode = S_IFLNK | readable | (0o300 if file.is_writable() else 0)
        self.size = 64

    def refresh(self, ctx: Context) -> None:
        own_by_task(self, self.task)

    def _file(self, ctx: Context) -> FileDescription:
        if not may_access(reader_of(ctx), self.task, uses_real_ids=False):
            raise LinuxError(EACCES)
        file = self.task.files.find(self.fd) if not self.task.is_exited else None
        if file is not self.file:
            raise LinuxError(ENOENT)
        return self.file

    def target(self, ctx: Context) -> Path:
        file = self._file(ctx)
        if file.path is not None:
            return file.path
        text = file.link_text()
        return anonymous_path(text if text is not None else b"anon_inode:[unknown]", file.inode)

    def readlink(self, ctx: Context) -> bytes:
        file = self._file(ctx)
        text = file.link_text()
        if text is not None:
            return text
        if file.path is None:
            raise LinuxError(ENOENT)
        return path_text(ctx.fs.root, file.path)


class NamespaceLink(MagicLink):
    """ns/NAME."""

    def __init__(self, fs: ProcFs, task: Task, name: bytes) -> None:
        super().__init__(fs)
        self.proc: ProcFs = fs
        self.task: Task = task
        self.kind: bytes = name

    def refresh(self, ctx: Context) -> None:
        own_by_task(self, self.task)

    def target(self, ctx: Context) -> Path:
        if not may_access(reader_of(ctx), self.task, uses_real_ids=False):
            raise LinuxError(EACCES)
        if self.task.is_exited:
            raise LinuxError(ENOENT)
        inode = namespace_of(self.task, self.kind)
        if inode is None:
            raise LinuxError(ENOENT)
        return anonymous_path(inode.label(), inode)


# -- directories -----------------------------------------------------------------------------------------


class TaskDir(PseudoDir):
    """Base of the directories that belong to a task."""

    def __init__(self, fs: ProcFs, task: Task, mode: int = 0o555) -> None:
        super().__init__(fs, mode)
        self.proc: ProcFs = fs
        self.task: Task = task
        self.base_ino: int = task_ino(task.tid, is_thread=False)
        self.is_mode_fixed = True

    def refresh(self, ctx: Context) -> None:
        task = self.task
        if self.mode & 0o777 == 0o555:
            self.uid, self.gid = task.creds.euid, task.creds.egid
        else:
            own_by_task(self, task)


class FdListing(PseudoDirDescription):
    """An open fd/: lseek(2) does not use the size that stat(2) shows."""

    def lseek(self, ctx: Context, offset: int, whence: int) -> int:
        if whence == SEEK_END:
            return super().lseek(ctx, offset, SEEK_SET)
        return -ENXIO if whence in (SEEK_DATA, SEEK_HOLE) else super().lseek(ctx, offset, whence)


class FdDir(TaskDir):
    """fd/: a magic link for each descriptor."""

    def __init__(self, fs: ProcFs, task: Task) -> None:
        super().__init__(fs, task, 0o500)
        self._links: dict[int, FdLink] = {}

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return FdListing(path, self, flags)

    def refresh(self, ctx: Context) -> None:
        super().refresh(ctx)
        self.size = 0 if self.task.is_exited else self.task.files.count

    def permission(self, ctx: Context, mask: int) -> bool:
        self.refresh(ctx)
        return generic_permission(self, ctx.creds, mask) or reader_of(ctx).group is self.task.group

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        fd = parse_name(name)
        task = self.task
        file = task.files.find(fd) if fd >= 0 and not task.is_exited else None
        if file is None:
            self._links.pop(fd, None)
            return None
        link = self._links.get(fd)
        if link is None or link.file is not file:
            if len(self._links) > 1024:
                self._links.clear()
            link = FdLink(self.proc, task, fd, file)
            link.ino = self.base_ino + _FD_INO + fd
            self._links[fd] = link
        return link

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        if self.task.is_exited:
            raise LinuxError(ENOENT)
        return [
            DirEntry(fd + 2, b"%d" % fd, self.base_ino + _FD_INO + fd, dtype(S_IFLNK))
            for fd in self.task.files.descriptors_from(start - 2, _MANY_ENTRIES)
        ]


class FdInfoFile(TaskFile):
    """fdinfo/N."""

    def __init__(self, fs: PseudoFs, task: Task, fd: int, file: FileDescription) -> None:
        super().__init__(fs, task, 0o444, no_text)
        self.fd: int = fd
        self.file: FileDescription = file

    def open(self, ctx: Context, path: Path, flags: int) -> FileDescription:
        return FdInfoDescription(path, self, flags)

    def watched(self) -> FileDescription:
        """The open file of the number now. Raises LinuxError(ENOENT)."""
        task = self.task
        file = task.files.find(self.fd) if not task.is_exited else None
        if file is None:
            raise LinuxError(ENOENT)
        return file

    def parts(self, ctx: Context) -> Generator[str, None, None]:
        """The text, some at a time."""
        task = self.task
        file = self.watched()
        flags = file.flags & ~UNSEEN_FLAGS | (O_CLOEXEC if task.files.is_cloexec(self.fd) else 0)
        mount = file.path.mount.ident if file.path is not None else 0
        view = reader_of(ctx).pid_ns
        head = f"pos:\t{file.pos}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{file.inode.ino}\n"
        yield head
        yield from proc_locks_parts(task.kernel.locks, pid_shower(view), file, task.files)
        if isinstance(file, PidFile):
            yield file.fdinfo_in(view)
        else:
            yield from file.fdinfo_parts()


class FdInfoDescription(PartsDescription):
    """An open fdinfo/N."""

    def __init__(self, path: Path, inode: FdInfoFile, flags: int) -> None:
        super().__init__(path, inode, flags)
        self.info: FdInfoFile = inode

    def check(self, ctx: Context) -> None:
        self.info.watched()

    def parts(self, ctx: Context) -> Generator[str, None, None]:
        return self.info.parts(ctx)


class FdInfoDir(TaskDir):
    """fdinfo/."""

    def __init__(self, fs: ProcFs, task: Task) -> None:
        super().__init__(fs, task, 0o555)
        self._files: dict[int, FdInfoFile] = {}

    def permission(self, ctx: Context, mask: int) -> bool:
        return mask & 2 == 0 and may_access(reader_of(ctx), self.task, uses_real_ids=False)

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        fd = parse_name(name)
        task = self.task
        file = task.files.find(fd) if fd >= 0 and not task.is_exited else None
        if file is None:
            return None
        info = self._files.get(fd)
        if info is None or info.file is not file:
            if len(self._files) > 1024:
                self._files.clear()
            info = FdInfoFile(self.proc, task, fd, file)
            info.ino = self.base_ino + _FDINFO_INO + fd
            self._files[fd] = info
        return info

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        if self.task.is_exited:
            raise LinuxError(ENOENT)
        return [
            DirEntry(fd + 2, b"%d" % fd, self.base_ino + _FDINFO_INO + fd, dtype(S_IFREG))
            for fd in self.task.files.descriptors_from(start - 2, _MANY_ENTRIES)
        ]


def _key_of(entry: DirEntry) -> int:
    return entry.key


class ThreadsDir(TaskDir):
    """task/: a directory for each thread."""

    def __init__(self, fs: ProcFs, task: Task) -> None:
        super().__init__(fs, task)
        self._dirs: dict[int, PidDir] = {}

    def refresh(self, ctx: Context) -> None:
        super().refresh(ctx)
        self.nlink = 2 + thread_count(self.task.group)

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        tid = parse_name(name)
        for thread in threads_of(self.task.group):
            if pid_in(self.proc.pid_ns, thread.tid) == tid:
                known = self._dirs.get(tid)
                if known is None or known.task is not thread:
                    if len(self._dirs) > 2 * len(self.task.group.tasks) + 64:
                        self._dirs.clear()
                    known = PidDir(self.proc, thread, is_thread=True)
                    self._dirs[tid] = known
                    note_names(thread, known)
                return known
        return None

    def forget(self, name: bytes) -> None:
        """A thread has ended: drop its directory."""
        self._dirs.pop(int(name), None)

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        threads = threads_of(self.task.group)
        if not threads:
            raise LinuxError(ENOENT)
        view = self.proc.pid_ns
        found: list[DirEntry] = []
        for tid in sorted([thread.tid for thread in threads]):
            shown = pid_in(view, tid)
            if shown and shown + 2 >= start:
                found.append(DirEntry(shown + 2, b"%d" % shown, task_ino(tid, is_thread=True), 4))
        found.sort(key=_key_of)
        return found


class NamesDir(TaskDir):
    """A directory with a fixed table of names; its inodes are made when looked up."""

    def __init__(self, fs: ProcFs, task: Task, names: list[bytes], mode: int = 0o555) -> None:
        super().__init__(fs, task, mode)
        self.names: list[bytes] = names
        self._made: dict[bytes, Inode] = {}

    def make(self, name: bytes) -> Inode:
        """The inode called `name`, which is one of the names."""
        raise NotImplementedError

    def type_of(self, name: bytes) -> int:
        """The DT_* of a name."""
        return dtype(S_IFREG)

    def ino_of(self, name: bytes, key: int) -> int:
        """The inode number of the name at position `key`."""
        return self.ino + key - 1

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        made = self._made.get(name)
        if made is None and name in self.names:
            if not is_present(self.task):
                return None
            made = self.make(name)
            made.ino = self.ino + 1 + self.names.index(name)
            self._made[name] = made
        return made

    def entries(self, ctx: Context, start: int) -> list[DirEntry]:
        if not is_present(self.task):
            raise LinuxError(ENOENT)
        found: list[DirEntry] = []
        key = 2
        for name in self.names:
            if key >= start:
                found.append(DirEntry(key, name, self.ino_of(name, key), self.type_of(name)))
            key += 1
        return found


class NamespaceDir(NamesDir):
    """ns/."""

    def __init__(self, fs: ProcFs, task: Task) -> None:
        super().__init__(fs, task, list(_NAMESPACES), 0o511)

    def make(self, name: bytes) -> Inode:
        return NamespaceLink(self.proc, self.task, name)

    def type_of(self, name: bytes) -> int:
        return dtype(S_IFLNK)


class AttrDir(NamesDir):
    """attr/: no security module, so reading and writing give EINVAL."""

    def __init__(self, fs: ProcFs, task: Task) -> None:
        super().__init__(fs, task, [b"current", b"prev", b"exec", b"fscreate", b"keycreate", b"sockcreate"])

    def make(self, name: bytes) -> Inode:
        mode = 0o444 if name == b"prev" else 0o666
        made = TaskFile(self.proc, self.task, mode, no_module, no_module_store)
        made.has_end = True
        made.max_pos = MAX_NON_LFS
        return made


class PidDir(NamesDir, TaskNames):
    """/proc/PID (`is_thread` False: figures of the whole process) or /proc/PID/task/TID."""

    def __init__(self, fs: ProcFs, task: Task, *, is_thread: bool) -> None:
        super().__init__(fs, task, _THREAD_NAMES if is_thread else _PROCESS_NAMES)
        self.is_thread: bool = is_thread
        self.ino = task_ino(task.tid, is_thread=is_thread)
        self.nlink = 7 if is_thread else 9
        shown = b"%d" % pid_in(fs.pid_ns, task.tid)
        leader = b"%d" % pid_in(fs.pid_ns, task.group.tgid)
        self.place: list[bytes] = [leader, b"task", shown] if is_thread else [shown]  # below the root

    def drop(self) -> None:
        dentry = self.proc.root_dentry
        for name in self.place[:-1]:
            dentry = dentry.children.get(name) if dentry is not None else None
        if dentry is None:
            return
        inode = dentry.inode
        if isinstance(inode, ThreadsDir):
            inode.forget(self.place[-1])
        elif self.proc.pid_dirs.get(self.task.tid) is self:
            del self.proc.pid_dirs[self.task.tid]
        drop_child(dentry, self.place[-1])

    def type_of(self, name: bytes) -> int:
        if name in _LINKS:
            return dtype(S_IFLNK)
        return 4 if name in _DIRECTORIES else dtype(S_IFREG)

    def permission(self, ctx: Context, mask: int) -> bool:
        if not is_present(self.task):
            raise LinuxError(ESRCH)
        return generic_permission(self, ctx.creds, mask)

    def ino_of(self, name: bytes, key: int) -> int:
        net = self.proc.net_dir
        return net.ino if name == b"net" and net is not None else super().ino_of(name, key)

    def lookup(self, ctx: Context, name: bytes) -> Inode | None:
        if not is_present(self.task):
            return None
        if name == b"net":
            return self.proc.net_dir
        return super().lookup(ctx, name)

    def make(self, name: bytes) -> Inode:
        fs, task = self.proc, self.task
        if name == b"fd":
            return FdDir(fs, task)
        if name == b"fdinfo":
            return FdInfoDir(fs, task)
        if name == b"task":
            return ThreadsDir(fs, task)
        if name == b"ns":
            return NamespaceDir(fs, task)
        if name == b"attr":
            return AttrDir(fs, task)
        if name in _LINKS:
            return TaskLink(fs, task, name.decode())
        if name == b"mem":
            return MemInode(fs, task)
        if name == b"pagemap":
            return PageMapInode(fs, task)
        hook = fs.id_map_hook
        if name in _ID_MAPS and hook is not None:
            return hook(fs, task, name)
        row = ROWS[name]
        if name == b"stat" and self.is_thread:
            return ThreadStat(fs, task, row.mode, row.text)
        if name == b"cmdline" or name == b"environ":
            return MemoryText(fs, task, row)
        if row.is_guarded:
            return GuardedFile(fs, task, row.mode, row.text, row.store)
        if row.name in (b"mounts", b"mountinfo"):
            return MountsFile(fs, task, row.mode, row.text)
        return TaskFile(fs, task, row.mode, row.text, row.store)


def parse_name(name: bytes) -> int:
    """A decimal number without leading zeros, as in names of pids and descriptors; -1 if it is none
    (name_to_int).
    """
    if not name.isdigit() or len(name) > 10 or (len(name) > 1 and name[:1] == b"0"):
        return -1
    return int(name)
