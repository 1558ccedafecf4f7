"""An IPC namespace (ipc_namespaces(7)): the System V objects that its tasks see; POSIX queues are added by `fs`."""

from typing import Final

from cloche.kernel.ipc.ids import IpcQuota
from cloche.kernel.ipc.msg import QueueIds
from cloche.kernel.ipc.sem import SemaphoreIds
from cloche.kernel.ipc.shm import SegmentIds
from cloche.vfs.objects import FileSystem
from cloche.vfs.userns import Place, UserNamespace

FIRST_IPC_INO: Final = 0xEFFFFFFF  # PROC_IPC_INIT_INO


class IpcNamespace:
    """Identifiers of one namespace; the quota is the sandbox's."""

    def __init__(self, dev: int, quota: IpcQuota) -> None:
        self.quota: IpcQuota = quota
        self.ino: int = FIRST_IPC_INO  # of /proc/PID/ns/ipc
        self.segments: SegmentIds = SegmentIds(dev, quota)
        self.semaphores: SemaphoreIds = SemaphoreIds(quota)
        self.queues: QueueIds = QueueIds(quota)
        self.user_ns: UserNamespace | None = None  # the owner
        self.place: Place | None = None  # kernel.namespaces.NamespaceCount
        self.mqueue_fs: FileSystem | None = None  # owned by fs.mqueue, made at first use

    def set_owner(self, user_ns: UserNamespace | None) -> None:
        """Set the owner, whose capabilities apply to its objects; to be called before there are any."""
        self.user_ns = user_ns
        self.segments.user_ns = self.semaphores.user_ns = self.queues.user_ns = user_ns

    def __del__(self) -> None:
        """The last task has left it and its last file is closed: remove its objects."""
        self.segments.release()
        self.semaphores.release()
        self.queues.release()
