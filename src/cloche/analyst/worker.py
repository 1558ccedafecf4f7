"""A worker of the analyst: reads one file and writes its text.

Runs in a process of its own, after a fork, with the file and an empty memfd and nothing else (`serve.py`). If the
file is truncated while it is mapped the worker dies, and the file gets no text.
"""

import mmap
import os
import resource
import signal
from typing import Final

from cloche.analyst.analyse import MAX_FILE_BYTES, analyse, has_sites
from cloche.boot import seccomp
from cloche.boot.seccomp_analyst import analyst_worker_policy

__all__ = ["WORKER_DONE", "WORKER_FAILED", "WORKER_NO_SITES", "limit_worker", "work"]

WORKER_DONE: Final = 0
WORKER_NO_SITES: Final = 1
WORKER_FAILED: Final = 2

CPU_SECONDS: Final = 6
SECONDS: Final = 60  # long enough for a slow machine; the program waits meanwhile
MEMORY_BYTES: Final = 768 << 20  # written memory; the file's mapping does not count
FILE_BYTES: Final = 160 << 20


def limit_worker(*, is_confined: bool) -> None:
    """Bound this process's time and memory and, if it is to be confined, take away all calls but a few."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)  # reads from a dead server never end
    if is_confined:
        seccomp.install(analyst_worker_policy())


def work(fd: int, out: int) -> int:
    """Write the text of the file `fd` to `out`.  The exit status: WORKER_DONE or WORKER_NO_SITES."""
    size = os.fstat(fd).st_size
    if size == 0 or size > MAX_FILE_BYTES or not has_sites(fd):
        return WORKER_NO_SITES
    text, _analysis = analyse(memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ)))
    if text is None:
        return WORKER_NO_SITES
    for part in text.parts:
        view = memoryview(part)
        while view:
            view = view[os.write(out, view) :]
    return WORKER_DONE
