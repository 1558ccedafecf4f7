"""Structs of System V IPC and of message queues (x86-64 layouts); see cloche.abi.structs."""

from struct import Struct
from typing import Final

from cloche.abi.structs import unpack_u32

IPC_PERM: Final = Struct("<iIIIIIHxxxxxxQQ")
IPC_PERM_SIZE: Final = 48
SHMID_DS_SIZE: Final = 112
SEMID_DS_SIZE: Final = 104
MSQID_DS_SIZE: Final = 120
SEMBUF: Final = Struct("<Hhh")
SEMBUF_SIZE: Final = 6
MQ_ATTR: Final = Struct("<qqqq32x")
MQ_ATTR_SIZE: Final = 64
_SHM_TAIL: Final = Struct("<QqqqiiQ16x")
_SEM_TAIL: Final = Struct("<qxxxxxxxxqxxxxxxxxQ16x")
_MSG_TAIL: Final = Struct("<qqqQQQii16x")


def pack_ipc_perm(key: int, uid: int, gid: int, cuid: int, cgid: int, mode: int, seq: int) -> bytes:
    """struct ipc64_perm, 48 bytes."""
    return IPC_PERM.pack(key, uid, gid, cuid, cgid, mode, seq, 0, 0)


def unpack_ipc_perm(data: bytes) -> tuple[int, int, int]:
    """(uid, gid, mode): what IPC_SET takes."""
    return unpack_u32(data, 4), unpack_u32(data, 8), unpack_u32(data, 20)


def pack_shmid_ds(
    perm: bytes,
    segsz: int,
    atime_s: int,
    dtime_s: int,
    ctime_s: int,
    cpid: int,
    lpid: int,
    nattch: int,
) -> bytes:
    """struct shmid64_ds, 112 bytes (shmctl(2))."""
    return perm + _SHM_TAIL.pack(segsz, atime_s, dtime_s, ctime_s, cpid, lpid, nattch)


def pack_semid_ds(perm: bytes, otime_s: int, ctime_s: int, nsems: int) -> bytes:
    """struct semid64_ds, 104 bytes (semctl(2))."""
    return perm + _SEM_TAIL.pack(otime_s, ctime_s, nsems)


def pack_msqid_ds(
    perm: bytes,
    stime_s: int,
    rtime_s: int,
    ctime_s: int,
    cbytes: int,
    qnum: int,
    qbytes: int,
    lspid: int,
    lrpid: int,
) -> bytes:
    """struct msqid64_ds, 120 bytes (msgctl(2))."""
    return perm + _MSG_TAIL.pack(stime_s, rtime_s, ctime_s, cbytes, qnum, qbytes, lspid, lrpid)


def unpack_mq_attr(data: bytes) -> tuple[int, int, int, int]:
    """(flags, maxmsg, msgsize, curmsgs) (mq_getattr(3))."""
    flags, maxmsg, msgsize, curmsgs = MQ_ATTR.unpack_from(data, 0)
    return flags, maxmsg, msgsize, curmsgs


def pack_mq_attr(flags: int, maxmsg: int, msgsize: int, curmsgs: int) -> bytes:
    """struct mq_attr, 64 bytes."""
    return MQ_ATTR.pack(flags, maxmsg, msgsize, curmsgs)
