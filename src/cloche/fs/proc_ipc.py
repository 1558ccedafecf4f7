"""/proc/sysvipc: the System V objects of the reader's IPC namespace (proc(5), sysvipc(7))."""

from typing import Final

from cloche.kernel.ipc.ids import IpcObject
from cloche.kernel.ipc.msg import MessageQueue
from cloche.kernel.ipc.namespace import IpcNamespace
from cloche.kernel.ipc.sem import SemaphoreSet
from cloche.kernel.ipc.shm import Segment
from cloche.kernel.pid_namespace import PidNamespace, pid_in
from cloche.kernel.task import Kernel, Task, container_of
from cloche.vfs.objects import Context
from cloche.vfs.pseudo import GeneratedFile, PseudoFs, StaticDir

_MSG_HEAD: Final = (
    b"       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid"
    b"      stime      rtime      ctime\n"
)
_SEM_HEAD: Final = b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
_SHM_HEAD: Final = (
    b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid"
    b"      atime      dtime      ctime                   rss                  swap\n"
)


def _owners(ctx: Context, found: IpcObject) -> tuple[int, int, int, int]:
    """uid, gid, cuid and cgid as the reader sees them."""
    creds = ctx.creds
    return (
        creds.show_uid(found.uid),
        creds.show_gid(found.gid),
        creds.show_uid(found.cuid),
        creds.show_gid(found.cgid),
    )


def _pid_ns(ctx: Context) -> PidNamespace | None:
    return ctx.pid_ns if isinstance(ctx, Task) else None


class _Producers:
    """One method per file; each is a `vfs.pseudo.Producer`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Kernel = kernel

    def _namespace(self, ctx: Context) -> IpcNamespace:
        return ctx.ns.ipc if isinstance(ctx, Task) else container_of(ctx).ns.ipc

    def msg(self, ctx: Context) -> bytes:
        lines = [_MSG_HEAD]
        ns = _pid_ns(ctx)
        for each in self._namespace(ctx).queues.in_order():
            assert isinstance(each, MessageQueue)
            lines.append(
                b"%10d %10d  %4o  %10d %10d %5d %5d %5d %5d %5d %5d %10d %10d %10d\n"
                % (
                    *(each.key, each.ident, each.mode, each.bytes, len(each.messages)),
                    *(pid_in(ns, each.lspid), pid_in(ns, each.lrpid), *_owners(ctx, each)),
                    *(each.stime, each.rtime, each.ctime),
                )
            )
        return b"".join(lines)

    def sem(self, ctx: Context) -> bytes:
        lines = [_SEM_HEAD]
        for each in self._namespace(ctx).semaphores.in_order():
            assert isinstance(each, SemaphoreSet)
            lines.append(
                b"%10d %10d  %4o %10d %5d %5d %5d %5d %10d %10d\n"
                % (
                    *(each.key, each.ident, each.mode, len(each.values)),
                    *(*_owners(ctx, each), each.otime, each.ctime),
                )
            )
        return b"".join(lines)

    def shm(self, ctx: Context) -> bytes:
        lines = [_SHM_HEAD]
        ns = _pid_ns(ctx)
        for each in self._namespace(ctx).segments.in_order():
            assert isinstance(each, Segment)
            lines.append(
                b"%10d %10d  %4o %21d %5d %5d  %5d %5d %5d %5d %5d %10d %10d %10d %21d %21d\n"
                % (
                    *(each.key, each.ident, each.mode, each.size),
                    *(pid_in(ns, each.cpid), pid_in(ns, each.lpid), each.nattch),
                    *(*_owners(ctx, each), each.atime, each.dtime, each.ctime),
                    *(each.resident_bytes(ctx), 0),
                )
            )
        return b"".join(lines)


def sysvipc_dir(fs: PseudoFs, kernel: Kernel) -> StaticDir:
    """The directory with its three files."""
    producers = _Producers(kernel)
    made = StaticDir(fs)
    for name, producer in ((b"msg", producers.msg), (b"sem", producers.sem), (b"shm", producers.shm)):
        file = GeneratedFile(fs, producer)
        file.is_by_segment = True
        made.add(name, file)
    return made
