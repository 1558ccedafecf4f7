"""linux/aio_abi.h."""

from struct import Struct
from typing import Final

IOCB_CMD_PREAD: Final = 0
IOCB_CMD_PWRITE: Final = 1
IOCB_CMD_FSYNC: Final = 2
IOCB_CMD_FDSYNC: Final = 3
IOCB_CMD_POLL: Final = 5
IOCB_CMD_PREADV: Final = 7
IOCB_CMD_PWRITEV: Final = 8
IOCB_FLAG_RESFD: Final = 1
IOCB_FLAG_IOPRIO: Final = 2
KIOCB_KEY: Final = 0

# data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes, offset, reserved2, flags, resfd
IOCB: Final = Struct("<QIiHhIQqqQIi")
IOCB_SIZE: Final = 64
IOCB_KEY_OFFSET: Final = 8
IO_EVENT: Final = Struct("<QQqq")
IO_EVENT_SIZE: Final = 32
