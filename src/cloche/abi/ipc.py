"""System V IPC and POSIX message queues: constants and structures (linux/ipc.h, shm.h, sem.h, msg.h, mqueue.h,
asm-generic/*buf.h).
"""

from struct import Struct
from typing import Final

IPC_CREAT: Final = 0o1000
IPC_EXCL: Final = 0o2000
IPC_NOWAIT: Final = 0o4000
IPC_PRIVATE: Final = 0

IPC_RMID: Final = 0
IPC_SET: Final = 1
IPC_STAT: Final = 2
IPC_INFO: Final = 3
IPC_64: Final = 0x100  # of the commands of 32-bit libraries; x86-64 refuses it

# -- shared memory -----------------------------------------------------------------------------------------
SHM_RDONLY: Final = 0o10000
SHM_RND: Final = 0o20000
SHM_REMAP: Final = 0o40000
SHM_EXEC: Final = 0o100000
SHM_HUGETLB: Final = 0o4000
SHM_NORESERVE: Final = 0o10000
SHM_LOCK: Final = 11
SHM_UNLOCK: Final = 12
SHM_STAT: Final = 13
SHM_INFO: Final = 14
SHM_STAT_ANY: Final = 15
SHM_DEST: Final = 0o1000  # in shm_perm.mode
SHM_LOCKED: Final = 0o2000
SHMLBA: Final = 4096

# -- semaphores --------------------------------------------------------------------------------------------
SEM_UNDO: Final = 0x1000
GETPID: Final = 11
GETVAL: Final = 12
GETALL: Final = 13
GETNCNT: Final = 14
GETZCNT: Final = 15
SETVAL: Final = 16
SETALL: Final = 17
SEM_STAT: Final = 18
SEM_INFO: Final = 19
SEM_STAT_ANY: Final = 20
SEMVMX: Final = 32767
SEMAEM: Final = 32767

# -- message queues ----------------------------------------------------------------------------------------
MSG_NOERROR: Final = 0o10000
MSG_EXCEPT: Final = 0o20000
MSG_COPY: Final = 0o40000
MSG_STAT: Final = 11
MSG_INFO: Final = 12
MSG_STAT_ANY: Final = 13

MQ_PRIO_MAX: Final = 32768
MQ_NAME_MAX: Final = 255

SIGEV_SIGNAL: Final = 0
SIGEV_NONE: Final = 1
SIGEV_THREAD: Final = 2
NOTIFY_COOKIE_LEN: Final = 32

IPC_PERM: Final = Struct("<iIIIIIHHIQQ")  # struct ipc64_perm, 48 bytes
SHMID_DS: Final = Struct("<QqqqiiQQQ")  # after the ipc64_perm
SEMID_DS: Final = Struct("<qQqQQQQ")
MSQID_DS: Final = Struct("<qqqQQQiiQQ")
SHMINFO: Final = Struct("<QQQQQQQQQ")
SHM_INFO_FIGURES: Final = Struct("<iIQQQQQ")
SEMINFO: Final = Struct("<10i")
MSGINFO: Final = Struct("<7iHH")
SEMBUF: Final = Struct("<Hhh")
MQ_ATTR: Final = Struct("<8q")

IPC_PERM_SIZE: Final = 48
SHMID_DS_SIZE: Final = 112
SEMID_DS_SIZE: Final = 104
MSQID_DS_SIZE: Final = 120
SEMBUF_SIZE: Final = 6
MQ_ATTR_SIZE: Final = 64


def pack_perm(key: int, ids: tuple[int, int, int, int], mode: int, seq: int) -> bytes:
    """struct ipc64_perm; `ids` are uid, gid, cuid, cgid."""
    return IPC_PERM.pack(key, ids[0], ids[1], ids[2], ids[3], mode, seq, 0, 0, 0, 0)


def unpack_perm(data: bytes) -> tuple[int, int, int]:
    """uid, gid and mode of a struct ipc64_perm: what IPC_SET takes."""
    fields = IPC_PERM.unpack_from(data, 0)
    return fields[1], fields[2], fields[5]


def unpack_qbytes(data: bytes) -> int:
    """msg_qbytes of a struct msqid64_ds."""
    value: int = MSQID_DS.unpack_from(data, IPC_PERM_SIZE)[5]
    return value


def unpack_sembufs(data: bytes) -> list[tuple[int, int, int]]:
    """An array of struct sembuf: number, operation, flags."""
    return [(number, op, flags) for number, op, flags in SEMBUF.iter_unpack(data)]
