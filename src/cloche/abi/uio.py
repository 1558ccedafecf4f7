"""Flags of preadv2(2) and pwritev2(2), limits of vectors (linux/fs.h, linux/uio.h)."""

from typing import Final

RWF_HIPRI: Final = 1
RWF_DSYNC: Final = 2
RWF_SYNC: Final = 4
RWF_NOWAIT: Final = 8
RWF_APPEND: Final = 16
RWF_NOAPPEND: Final = 32
RWF_ATOMIC: Final = 64
RWF_SUPPORTED: Final = 127

UIO_FASTIOV: Final = 8
UIO_MAXIOV: Final = 1024
