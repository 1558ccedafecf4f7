"""Rows of the table of system calls: memory, of a task itself and of others.

The columns are explained in `row.py`.
"""

from typing import Final

from cloche.syscalls.row import FULL, PARTIAL, REFUSED, Row, row
from cloche.syscalls.sys_inspect import sys_kcmp, sys_process_vm_readv, sys_process_vm_writev
from cloche.syscalls.sys_mm import (
    sys_brk,
    sys_madvise,
    sys_mincore,
    sys_mlock,
    sys_mlock2,
    sys_mlockall,
    sys_mmap,
    sys_mprotect,
    sys_mremap,
    sys_msync,
    sys_munlock,
    sys_munlockall,
    sys_munmap,
    sys_pkey_alloc,
    sys_pkey_free,
    sys_pkey_mprotect,
    sys_remap_file_pages,
)
from cloche.syscalls.sys_numa import (
    sys_get_mempolicy,
    sys_mbind,
    sys_migrate_pages,
    sys_move_pages,
    sys_set_mempolicy,
    sys_set_mempolicy_home_node,
)
from cloche.syscalls.sys_process_mm import sys_mseal, sys_process_madvise, sys_process_mrelease

ROWS: Final[list[Row]] = [
    row(9, "mmap", sys_mmap, FULL, "puPMfx=x"),
    row(10, "mprotect", sys_mprotect, FULL, "puP"),
    row(11, "munmap", sys_munmap, FULL, "pu"),
    row(12, "brk", sys_brk, FULL, "p=x"),
    row(25, "mremap", sys_mremap, FULL, "puudp=x"),
    row(26, "msync", sys_msync, FULL, "pud"),
    row(27, "mincore", sys_mincore, PARTIAL, "pup", "every mapped page counts as resident"),
    row(
        28,
        "madvise",
        sys_madvise,
        PARTIAL,
        "pud",
        "hints (huge pages, read-ahead) are accepted without effect",
    ),
    row(
        149,
        "mlock",
        sys_mlock,
        PARTIAL,
        "pu",
        "counted against RLIMIT_MEMLOCK, not locked in the host's memory",
    ),
    row(150, "munlock", sys_munlock, FULL, "pu"),
    row(
        151,
        "mlockall",
        sys_mlockall,
        PARTIAL,
        "x",
        "counted against RLIMIT_MEMLOCK, not locked in the host's memory",
    ),
    row(152, "munlockall", sys_munlockall, FULL, ""),
    row(216, "remap_file_pages", sys_remap_file_pages, FULL, "puPux"),
    row(237, "mbind", sys_mbind, FULL, "puxpux"),
    row(238, "set_mempolicy", sys_set_mempolicy, FULL, "xpu"),
    row(239, "get_mempolicy", sys_get_mempolicy, FULL, "ppupx"),
    row(256, "migrate_pages", sys_migrate_pages, FULL, "dupp"),
    row(279, "move_pages", sys_move_pages, PARTIAL, "duppp", "every mapped page counts as present"),
    row(310, "process_vm_readv", sys_process_vm_readv, FULL, "dpupux"),
    row(311, "process_vm_writev", sys_process_vm_writev, FULL, "dpupux"),
    row(312, "kcmp", sys_kcmp, FULL, "dddxx"),
    row(
        325,
        "mlock2",
        sys_mlock2,
        PARTIAL,
        "pux",
        "counted against RLIMIT_MEMLOCK, not locked in the host's memory",
    ),
    row(
        329, "pkey_mprotect", sys_pkey_mprotect, REFUSED, "puPd", "as on a processor without protection keys"
    ),
    row(330, "pkey_alloc", sys_pkey_alloc, REFUSED, "xx", "as on a processor without protection keys"),
    row(331, "pkey_free", sys_pkey_free, REFUSED, "d", "as on a processor without protection keys"),
    row(
        440,
        "process_madvise",
        sys_process_madvise,
        PARTIAL,
        "fpudx",
        "as madvise; other processes' memory is not collapsed",
    ),
    row(448, "process_mrelease", sys_process_mrelease, FULL, "fx"),
    row(450, "set_mempolicy_home_node", sys_set_mempolicy_home_node, FULL, "puux"),
    row(462, "mseal", sys_mseal, FULL, "pux"),
]
