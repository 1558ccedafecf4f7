"""Checks shared by all of /proc/PID: whether the task exists, who reads, and who owns the file."""

from typing import Final

from cloche.abi.errno import EIO, LinuxError
from cloche.kernel.parts import TaskNames
from cloche.kernel.task import Task
from cloche.vfs.objects import (
    Context,
    Inode,
)

_MAX_NAMES: Final = 8


def note_names(task: Task, names: TaskNames) -> None:
    """A task was looked up in an instance of proc: remember its directory; if there are many, only the latest."""
    if len(task.names) >= _MAX_NAMES:
        del task.names[0]
    task.names.append(names)


def task_ino(tid: int, *, is_thread: bool) -> int:
    """The inode number of /proc/TID or task/TID; inode numbers below it follow, so that listings can compute them."""
    return 1 << 52 | tid << 26 | (1 << 25 if is_thread else 0)


def is_present(task: Task) -> bool:
    """Whether the task lives, or is a zombie that has not been reaped."""
    group = task.group
    return not task.is_exited or (group.leader is task and not group.end.is_reaped)


def reader_of(ctx: Context) -> Task:
    """The task that reads. Raises LinuxError(EIO) if the caller is not a task."""
    if isinstance(ctx, Task):
        return ctx
    raise LinuxError(EIO)


def own_by_task(inode: Inode, task: Task) -> None:
    """Owner of a task's proc inode: the task's effective ids, root's if it is not dumpable
    (task_dump_owner).
    """
    if task.group.is_dumpable or task.is_exited:
        inode.uid, inode.gid = task.creds.euid, task.creds.egid
    else:
        ns = task.mm_user_ns
        inode.uid = max(ns.uids.to_kernel(0), 0) if ns is not None else 0
        inode.gid = max(ns.gids.to_kernel(0), 0) if ns is not None else 0
