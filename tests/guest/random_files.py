"""Makes random calls on files, the same for a seed, and prints what each gives.

    python3 random_files.py FOLDER FIRST LAST

Runs natively and in a sandbox, below a FOLDER that is a tmpfs in both, as root.  Nothing that it names lies outside of a
directory that it makes there: links are relative, and `..` leads at most to the directory above the one it works in.
FIFOs are left out: how full one is depends on where its pages came from.  What depends on the file system's way of
numbering is not printed: sizes and link counts of directories, positions in them.
"""

import ctypes
import errno
import fcntl
import os
import random
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable

LONG = b"x" * 255
NAMES = [
    *(b"a", b"b", b"c", b"d", b"e", b"l", b"s", b"d/a", b"d/b", b"d/d", b"d/d/a", b"e/a", b"e/../b", b"s/a", b"./a"),
    *(b"d/", b"s/", b"a/", b"", LONG, LONG + b"x", b"..", b".", b"d/..", b"d/."),
]  # fmt: skip
TARGETS = [b"a", b"d", b"none", b"s", b"../x", b"l", b"d/a", b"./none", b"x" * 4095, b""]
OPEN_FLAGS = (
    *(os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_PATH, os.O_NOATIME, os.O_SYNC),
)
MODES = [
    0o644,
    0o755,
    0o4755,
    0o2755,
    0o1755,
    0o000,
    0o7775,
]  # sticky and for all: left to fs.protected_symlinks
ATTRIBUTES = ["user.a", "user.b", "user.", "trusted.a", "bad", "system.x"]
KINDS = [stat.S_IFREG, stat.S_IFSOCK, stat.S_IFDIR, 0]
SIZES = [0, 1, 10, 4095, 4096, 5000, 70000]
OFFSETS = [0, 1, -1, 4095, 4096, 100000, 1 << 33]
CALLS_A_SEED = 700
MOST_OPEN = 40
LIBC = ctypes.CDLL(None, use_errno=True)


def shown(st: os.stat_result) -> str:
    """What must be the same of a file."""
    size = "" if stat.S_ISDIR(st.st_mode) else f" {st.st_nlink} names {st.st_size} bytes"
    return f"{st.st_mode:o} {st.st_uid}:{st.st_gid}{size}"


class Calls:
    """The calls of one seed; a method `do_*` makes one and returns what is printed of its result."""

    def __init__(self, seed: int, top: str) -> None:
        self.random = random.Random(seed)
        self.top = top
        self.files: list[int] = []

    def pick(self, items: list[int]) -> int:
        return self.random.choice(items)

    def name(self) -> bytes:
        return self.random.choice(NAMES)

    def mode(self) -> int:
        return self.random.choice(MODES)

    def file(self) -> int:
        return self.random.choice(self.files) if self.files else 999

    def is_chosen(self, share: float) -> bool:
        return self.random.random() < share

    def keep(self, fd: int) -> str:
        self.files.append(fd)
        return f"{shown(os.fstat(fd))} flags {fcntl.fcntl(fd, fcntl.F_GETFL):x}"

    def do_open(self) -> str:
        flags = self.pick([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]) | os.O_NONBLOCK
        flags |= os.O_CREAT if self.is_chosen(0.5) else 0
        flags |= sum(flag for flag in OPEN_FLAGS if self.is_chosen(0.12))
        flags |= os.O_TMPFILE if self.is_chosen(0.04) else 0
        return self.keep(os.open(self.name(), flags, self.mode()))

    def do_openat(self) -> str:
        flags = self.pick([os.O_RDONLY, os.O_CREAT | os.O_RDWR]) | os.O_NONBLOCK
        return self.keep(os.open(self.name(), flags, self.mode(), dir_fd=self.file()))

    def do_close(self) -> None:
        fd = self.file()
        if fd in self.files:
            self.files.remove(fd)
        os.close(fd)

    def do_dup(self) -> None:
        self.files.append(os.dup(self.file()))

    def do_write(self) -> int:
        return os.write(self.file(), self.random.randbytes(1) * self.pick(SIZES))

    def do_pwrite(self) -> int:
        return os.pwrite(self.file(), b"p" * self.pick(SIZES), self.pick(OFFSETS))

    def do_read(self) -> str:
        data = os.read(self.file(), self.pick(SIZES))
        return f"{len(data)} {zlib.crc32(data):x}"

    def do_pread(self) -> str:
        data = os.pread(self.file(), self.pick(SIZES), self.pick(OFFSETS))
        return f"{len(data)} {zlib.crc32(data):x}"

    def do_lseek(self) -> int:
        fd = self.file()
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return 0
        return os.lseek(fd, self.pick(OFFSETS), self.pick([0, 1, 2, os.SEEK_DATA, os.SEEK_HOLE, 9]))

    def do_ftruncate(self) -> None:
        os.ftruncate(self.file(), self.pick([*SIZES, -1, 1 << 34]))

    def do_truncate(self) -> None:
        os.truncate(self.name(), self.pick(SIZES))

    def do_fallocate(self) -> str:
        fd, mode = self.file(), self.pick([0, 1, 2, 3, 8, 0x10, 0x11, 0x20, 0x40, 0x41])
        if (
            LIBC.fallocate(fd, mode, ctypes.c_long(self.pick(OFFSETS[:-1])), ctypes.c_long(self.pick(SIZES)))
            < 0
        ):
            raise OSError(ctypes.get_errno(), "fallocate")
        return shown(os.fstat(fd))

    def do_copy_file_range(self) -> int:
        places = [self.random.choice([None, 0, 100]) for _ in range(2)]
        return os.copy_file_range(self.file(), self.file(), self.pick(SIZES), *places)

    def do_sendfile(self) -> int | None:
        out, source = self.file(), self.file()
        if os.path.sameopenfile(out, source):
            return None  # which of the bytes that are written meanwhile are read is the page cache's affair
        return os.sendfile(out, source, self.random.choice([None, 0, 10]), self.pick(SIZES))

    def do_unlink(self) -> None:
        os.unlink(self.name())

    def do_rmdir(self) -> None:
        os.rmdir(self.name())

    def do_mkdir(self) -> None:
        os.mkdir(self.name(), self.mode())

    def do_mknod(self) -> None:
        os.mknod(self.name(), self.pick(KINDS) | self.mode() & 0o777)

    def do_link(self) -> None:
        os.link(self.name(), self.name(), follow_symlinks=self.is_chosen(0.5))

    def do_link_open(self) -> None:
        os.link(f"/proc/self/fd/{self.file()}", self.name(), follow_symlinks=True)

    def do_symlink(self) -> None:
        os.symlink(self.random.choice(TARGETS), self.name())

    def do_readlink(self) -> bytes:
        return os.readlink(self.name())[:20]

    def do_rename(self) -> None:
        os.rename(self.name(), self.name())

    def do_renameat2(self) -> None:
        flags = self.pick([0, 1, 2, 3, 8])
        if LIBC.renameat2(-100, self.name(), -100, self.name(), flags) < 0:
            raise OSError(ctypes.get_errno(), "renameat2")

    def do_renameat(self) -> None:
        os.rename(self.name(), self.name(), src_dir_fd=self.file(), dst_dir_fd=self.file())

    def do_stat(self) -> str:
        return shown(os.stat(self.name(), follow_symlinks=self.is_chosen(0.5)))

    def do_fstat(self) -> str:
        return shown(os.fstat(self.file()))

    def do_access(self) -> bool:
        return os.access(self.name(), self.pick([0, 1, 2, 4, 6]))

    def do_chmod(self) -> None:
        os.chmod(self.name(), self.mode())

    def do_fchmod(self) -> None:
        os.fchmod(self.file(), self.mode())

    def do_chown(self) -> None:
        os.chown(
            self.name(), self.pick([-1, 0, 5]), self.pick([-1, 0, 7]), follow_symlinks=self.is_chosen(0.5)
        )

    def do_utime(self) -> None:
        os.utime(self.name(), ns=(0, self.pick([0, 10**18, -(10**9)])), follow_symlinks=self.is_chosen(0.5))

    def do_list(self) -> list[bytes]:
        return sorted(each[:5] for each in os.listdir(self.name()))

    def do_list_open(self) -> list[str]:
        return sorted(each[:5] for each in os.listdir(self.file()))

    def do_chdir(self) -> None:
        os.chdir(self.name())
        os.chdir(self.top)

    def do_setxattr(self) -> None:
        value = b"v" * self.pick([0, 1, 100, 5000])
        os.setxattr(
            self.name(),
            self.random.choice(ATTRIBUTES),
            value,
            self.pick([0, 1, 2]),
            follow_symlinks=self.is_chosen(0.5),
        )

    def do_getxattr(self) -> int:
        return zlib.crc32(os.getxattr(self.name(), self.random.choice(ATTRIBUTES), follow_symlinks=False))

    def do_listxattr(self) -> list[str]:
        found = os.listxattr(self.name(), follow_symlinks=self.is_chosen(0.5))
        return sorted(each for each in found if not each.startswith("security."))

    def do_removexattr(self) -> None:
        os.removexattr(self.name(), self.random.choice(ATTRIBUTES))

    def do_flock(self) -> None:
        fcntl.flock(self.file(), self.pick([1, 2, 8]) | fcntl.LOCK_NB)

    def do_setfl(self) -> str:
        fd = self.file()
        fcntl.fcntl(fd, fcntl.F_SETFL, self.pick([0, os.O_APPEND]) | os.O_NONBLOCK)
        return f"{fcntl.fcntl(fd, fcntl.F_GETFL):x}"

    def do_fsync(self) -> None:
        os.fsync(self.file())

    def run(self) -> None:
        """All of them, a line each."""
        methods: list[Callable[[], object]] = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")
        ]
        methods += [self.do_open] * 6 + [self.do_write] * 3 + [self.do_mkdir] * 2
        for number in range(CALLS_A_SEED):
            if len(self.files) > MOST_OPEN:
                self.close_all()
            method = self.random.choice(methods)
            try:
                result = str(method())
            except OSError as error:
                result = errno.errorcode[error.errno or 0]
            except ValueError as error:
                result = str(error)
            print(number, method.__name__, result)

    def close_all(self) -> None:
        for fd in self.files:
            os.close(fd)
        self.files.clear()


def main() -> None:
    folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.umask(0o022)
    for seed in range(first, last):
        print("seed", seed)
        base = tempfile.mkdtemp(dir=folder)
        top = os.path.join(base, "above", "top")
        os.makedirs(top)
        os.chdir(top)
        calls = Calls(seed, top)
        try:
            calls.run()
        finally:
            calls.close_all()
            os.chdir("/")
            shutil.rmtree(base)


main()
