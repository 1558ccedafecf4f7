"""Every constant of cloche.abi that the system's headers define has the value that they give it."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

import cloche.abi
from cloche.arch.x86_64 import syscalls

ABI: Final = Path(cloche.abi.__file__).parent

NETLINK_HEADERS: Final = [
    "linux/netlink.h",
    "linux/rtnetlink.h",
    "linux/if_link.h",
    "linux/if_addr.h",
    "linux/neighbour.h",
    "linux/if.h",
    "linux/sock_diag.h",
    "linux/inet_diag.h",
    "linux/unix_diag.h",
    "linux/genetlink.h",
]
SOCKET_HEADERS: Final = [
    "sys/socket.h",
    "asm/socket.h",
    "netinet/in.h",
    "linux/in6.h",
    "linux/tcp.h",
    "netinet/tcp.h",
    "linux/udp.h",
    "linux/icmp.h",
    "linux/icmpv6.h",
    "net/if.h",
    "linux/if_arp.h",
    "time.h",
    "linux/errqueue.h",
    "linux/vm_sockets.h",
    "linux/if_packet.h",
    "linux/if_ether.h",
]

# The headers that define each module's names.  Those that cannot be included together are tried one by one.
HEADERS: Final[dict[str, list[str]]] = {
    "aio": ["linux/aio_abi.h"],
    "capability": ["linux/capability.h"],
    "elf": ["linux/elf.h", "linux/elf-em.h", "linux/auxvec.h"],
    "errno": ["linux/errno.h"],
    "eventfd": ["sys/eventfd.h", "sys/timerfd.h", "sys/signalfd.h", "linux/timerfd.h", "linux/userfaultfd.h"],
    "fcntl": ["linux/fcntl.h", "linux/fs.h", "linux/openat2.h", "linux/fadvise.h", "linux/close_range.h"],
    "fs": [
        "linux/fs.h",
        "linux/falloc.h",
        "linux/fscrypt.h",
        "linux/fiemap.h",
        "linux/mount.h",
        "sys/mount.h",
        "sys/statvfs.h",
        "linux/quota.h",
    ],
    "futex": ["linux/futex.h", "linux/rseq.h"],
    "inotify": ["linux/inotify.h", "linux/fanotify.h"],
    "ioctl": [
        "sys/ioctl.h",
        "linux/tty_flags.h",
        "asm/ioctls.h",
        "termio.h",
        "asm/termbits.h",
        "linux/fs.h",
        "linux/sockios.h",
        "linux/ioctl.h",
        "linux/random.h",
        "linux/nsfs.h",
    ],
    "ipc": ["linux/ipc.h", "linux/msg.h", "linux/sem.h", "linux/shm.h", "sys/ipc.h", "sys/shm.h"],
    "kcmp": ["linux/kcmp.h"],
    "ptrace": ["linux/ptrace.h"],
    "limits": ["linux/limits.h"],
    "magic": ["linux/magic.h"],
    "misc": [
        "linux/random.h",
        "linux/reboot.h",
        "linux/ipc.h",
        "linux/msg.h",
        "linux/sem.h",
        "linux/shm.h",
        "linux/mqueue.h",
        "linux/keyctl.h",
        "linux/landlock.h",
        "linux/utsname.h",
        "linux/major.h",
    ],
    "mman": ["linux/mman.h", "linux/memfd.h", "asm/mman.h", "linux/membarrier.h", "linux/mempolicy.h"],
    "netlink": NETLINK_HEADERS,
    "rtnetlink": NETLINK_HEADERS,
    "if_link": NETLINK_HEADERS,
    "sock_diag": NETLINK_HEADERS,
    "personality": ["linux/personality.h"],
    "poll": ["linux/poll.h", "linux/eventpoll.h", "sys/epoll.h"],
    "prctl": ["linux/prctl.h", "asm/prctl.h"],
    "resource": ["linux/resource.h"],
    "sched": ["linux/sched.h", "linux/ioprio.h"],
    "seccomp": ["linux/seccomp.h", "linux/filter.h", "linux/audit.h"],
    "signal": ["linux/signal.h"],
    "socket": SOCKET_HEADERS,
    "inet": SOCKET_HEADERS,
    "tcp": SOCKET_HEADERS,
    "icmp": SOCKET_HEADERS,
    "packet": SOCKET_HEADERS,
    "splice": ["fcntl.h"],
    "stat": ["linux/stat.h", "dirent.h"],
    "termios": ["asm/termbits.h"],
    "time": ["linux/time.h", "linux/timex.h"],
    "uio": ["linux/fs.h", "linux/uio.h"],
    "wait": ["linux/wait.h", "linux/pidfd.h"],
    "xattr": ["linux/xattr.h", "linux/limits.h"],
}

# Names of cloche or of the kernel's own, which no header has; the rest must be found.
OWN: Final = re.compile(
    "|".join(
        [
            "PAGE_.*|.*_SIZE(_VER0)?|.*_SET|IOV_MAX|UIO_FASTIOV|MAX_.*|BINPRM_BUF_SIZE|TASK_.*|PIPE_.*|PID_MAX.*",
            "HOST_NAME_MAX|SOMAXCONN|UNIX_PATH_MAX|SCM_MAX_FD|STACK_ALIGN|STATUS_CONTINUED|USER_HZ|[NU]SEC_PER_.*",
            "UTIME_.*|RLIM_INFINITY|NSIG|SIG(DFL|IGN|ERR|RTMIN|RTMAX)|SIG_(DFL|IGN|ERR)|NO_SIGNALS|ALL_SIGNALS",
            "UNBLOCKABLE|SYNCHRONOUS|DEFAULT_.*|MQUEUE_MAGIC|ERESTART.*|ENOIOCTLCMD|ENOTSUP|[FXWR]_OK|TIOCM_.*|NCC",
            "FD_SETSIZE|CAP_FULL_SET|POLL(IN|OUT|EX)_SET",
        ]
    )
)


def constants(path: Path) -> dict[str, int]:
    """The integer constants of a module, in source order."""
    tree = ast.parse(path.read_text())
    namespace: dict[str, object] = {}
    exec(compile(tree, str(path), "exec"), namespace)
    names = [
        n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    ]
    values = {
        name: namespace[name]
        for name in names
        if not name.startswith("_") or name.startswith(("__W", "_IOC", "_LINUX"))
    }
    return {name: value for name, value in values.items() if isinstance(value, int)}


def values_from_headers(headers: list[str], names: list[str], work: Path) -> dict[str, int]:
    """The values that a C program with `headers` prints for `names`; those that do not compile are left out."""
    head = "#define _GNU_SOURCE 1\n" + "".join(f"#include <{h}>\n" for h in headers)
    # Not stdio.h: with the libc's version macros in sight some of the kernel's headers leave things out.
    head += "int printf(const char *, ...);\n"
    wanted = list(names)
    for _ in range(3):
        lines = head.count("\n")
        source = head + "int main(void)\n{\n"
        source += "".join(f'printf("%s %lld\\n", "{n}", (long long)({n}));\n' for n in wanted) + "}\n"
        (work / "names.c").write_text(source)
        build = subprocess.run(
            ["gcc", "-w", "-fmax-errors=0", "-o", str(work / "names"), str(work / "names.c")],
            capture_output=True,
            text=True,
            timeout=100,
        )
        if build.returncode == 0:
            break
        bad = {int(m) - lines - 3 for m in re.findall(r"names\.c:(\d+):\d+: error", build.stderr)}
        wanted = [name for i, name in enumerate(wanted) if i not in bad]
    else:
        return {}
    run = subprocess.run([str(work / "names")], capture_output=True, text=True, timeout=60, check=True)
    return {line.split()[0]: int(line.split()[1]) for line in run.stdout.splitlines()}


@pytest.mark.parametrize("module", sorted(HEADERS))
def test_values(module: str, tmp_path: Path) -> None:
    ours = constants(ABI / f"{module}.py")
    theirs = values_from_headers(HEADERS[module], list(ours), tmp_path)
    for header in HEADERS[module]:
        missing = [name for name in ours if name not in theirs]
        if missing:
            theirs.update(values_from_headers([header], missing, tmp_path))
    theirs.pop("NSIG", None)  # 32 there: without the real-time signals
    wrong = {
        n: (v, theirs[n])
        for n, v in ours.items()
        if n in theirs and v & (2**64 - 1) != theirs[n] & (2**64 - 1)
    }
    assert not wrong
    unknown = [name for name in ours if name not in theirs and not OWN.fullmatch(name)]
    # Headers older than the ones that the modules were made from lack a few names, never many.
    assert len(unknown) <= len(ours) // 5, unknown


def test_every_module_is_compared() -> None:
    modules = {path.stem for path in ABI.glob("*.py")}
    others = {"__init__", "bpf_program"}  # the latter writes programs, and has no constants of its own
    assert {name for name in modules if not name.endswith("structs")} - others == set(HEADERS)


def test_syscall_numbers(tmp_path: Path) -> None:
    ours = {f"SYS_{name}": number for number, name in enumerate(syscalls.NAMES) if name}
    theirs = values_from_headers(["sys/syscall.h"], list(ours), tmp_path)
    assert {name: number for name, number in ours.items() if name in theirs} == theirs
    assert len(theirs) > 340
    for name, number in ours.items():
        assert getattr(syscalls, name) == number
    assert syscalls.syscall_name(0) == "read"
    assert syscalls.syscall_name(335) == "uretprobe"
    assert syscalls.syscall_name(462) == "mseal"
    assert syscalls.syscall_name(400) == "syscall_400"
    assert syscalls.syscall_name(-1) == "syscall_-1"
