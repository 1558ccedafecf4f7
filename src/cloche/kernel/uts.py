"""The contents of uname(2) and /proc/version; the only place that states the kernel's version."""

from typing import Final

SYSNAME: Final = b"Linux"
RELEASE: Final = b"6.12.0-cloche"
VERSION: Final = b"#1 SMP PREEMPT_DYNAMIC cloche"
PROC_VERSION: Final = b"Linux version 6.12.0-cloche (cloche@cloche) (mypyc) #1 SMP PREEMPT_DYNAMIC cloche\n"
UNAME26_RELEASE: Final = b"2.6.72-cloche"  # personality UNAME26: 2.6.(60 + 12), as override_release does
HOST_NAME_LIMIT: Final = 64
