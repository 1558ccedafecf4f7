"""Makes random calls on a tree that is there already, holds files in every way, and prints what each call gives.

    python3 random_names.py FIRST LAST

Runs natively and in a sandbox that keeps few names, in a directory with trees `0`, `1` … that `make_tree` has made, one
for each seed. What must stay the same is compared here: a file's number as long as it exists, and which file a held
descriptor, working directory or watch means.
"""

import ctypes
import mmap
import os
import random
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
DIRECTORIES, FILES = 12, 20
CALLS = 250
EVENTS = 0xFC6  # changes; what only reads is in the order of listings
EVENT = struct.Struct("iIII")


def make_tree(top: str) -> None:
    """The tree of one seed."""
    for d in range(DIRECTORIES):
        os.makedirs(f"{top}/d{d}/inner")
        for f in range(FILES):
            with open(f"{top}/d{d}/f{f}", "w") as file:
                file.write(f"{f} in {d}")
        os.symlink(f"../d{(d + 1) % DIRECTORIES}", f"{top}/d{d}/next")
    for d in range(1, DIRECTORIES):
        os.link(f"{top}/d0/f{d}", f"{top}/d{d}/linked")


class Calls:
    """The calls of one seed; a method `do_*` makes one and returns what is printed of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.held: list[tuple[int, int]] = []  # descriptors, and the numbers of their files
        self.maps: list[tuple[mmap.mmap, bytes]] = []
        self.numbers: dict[str, int] = {}
        self.inotify = LIBC.inotify_init1(os.O_NONBLOCK)
        self.watched: dict[int, int] = {}
        self.count = 0

    def directory(self) -> str:
        path = f"d{self.random.randrange(DIRECTORIES)}"
        while self.random.random() < 0.2:
            path += "/next"
        return path

    def path(self) -> str:
        name = self.random.choice(["linked", "inner", "next", "none", "new0", "new1"])
        return (
            f"{self.directory()}/{name if self.random.random() < 0.3 else f'f{self.random.randrange(FILES)}'}"
        )

    def do_stat(self) -> str:
        st = os.lstat(self.path())
        return f"{st.st_mode:o} {st.st_size if not os.path.stat.S_ISDIR(st.st_mode) else ''}"

    def do_number(self) -> str:
        path = os.path.realpath(self.path())
        number = os.stat(path).st_ino
        known = self.numbers.setdefault(path, number)
        return "same" if known == number else "another number"

    def do_walk(self) -> str:
        count = 0
        for top, names, files in os.walk("."):
            for name in names + files:
                os.lstat(f"{top}/{name}")
                count += 1
        return str(count)

    def do_list(self) -> str:
        return " ".join(sorted(os.listdir(self.directory())))

    def do_listed(self) -> str:
        with os.scandir(self.directory()) as entries:
            return str(all(each.inode() == each.stat(follow_symlinks=False).st_ino for each in entries))

    def do_hold(self) -> str:
        flags = self.random.choice([os.O_RDONLY, os.O_RDWR, os.O_PATH, os.O_PATH | os.O_NOFOLLOW])
        fd = os.open(self.path(), flags)
        self.held.append((fd, os.fstat(fd).st_ino))
        return "held"

    def do_check(self) -> str:
        out = []
        for fd, number in self.held:
            name = os.readlink(f"/proc/self/fd/{fd}")
            is_there = os.path.lexists(name) and os.lstat(name).st_ino == number
            st = os.fstat(fd)
            name = os.path.relpath(name, TOP)
            out.append(f"{name} {is_there} {st.st_ino == number} {st.st_mode:o}")
        return "; ".join(out)

    def do_read(self) -> str:
        if self.random.random() < 0.5 or not self.held:
            with open(self.path(), "rb") as file:
                return repr(file.read())
        return repr(os.pread(self.random.choice(self.held)[0], 100, 0))

    def do_write(self) -> str:
        self.count += 1
        if self.held and self.random.random() < 0.5:
            return str(os.pwrite(self.random.choice(self.held)[0], b"w%d" % self.count, 0))
        with open(self.path(), self.random.choice(["r+b", "ab", "wb"])) as file:
            return str(file.write(b"W%d" % self.count))

    def do_drop(self) -> str:
        if self.held:
            os.close(self.held.pop(self.random.randrange(len(self.held)))[0])
        return ""

    def do_map(self) -> str:
        with open(self.path(), "rb") as file:
            area = mmap.mmap(file.fileno(), 4, mmap.MAP_PRIVATE, mmap.PROT_READ)
        self.maps.append((area, area[:4]))
        return repr(area[:4])

    def do_look(self) -> str:
        return str([area[:1] == data[:1] or area[:1] in b"wW" for area, data in self.maps])

    def do_chmod(self) -> str:
        os.chmod(self.path(), self.random.choice([0o600, 0o640, 0o755, 0o711]))
        return ""

    def do_times(self) -> str:
        path = self.path()
        os.utime(path, (5, 7))
        return str(os.stat(path).st_mtime)

    def do_rename(self) -> str:
        old, new = self.path(), self.path()
        os.rename(old, new)
        self.numbers.clear()
        return ""

    def do_exchange(self) -> str:
        old, new = (self.directory().split("/")[0] for _each in range(2))
        if LIBC.renameat2(-100, old.encode(), -100, new.encode(), 2) < 0:
            return os.strerror(ctypes.get_errno())
        self.numbers.clear()
        return ""

    def do_unlink(self) -> str:
        path = self.path()
        self.numbers.clear()
        os.unlink(path)
        return ""

    def do_rmdir(self) -> str:
        os.rmdir(f"{self.directory()}/inner")
        return ""

    def do_mkdir(self) -> str:
        os.mkdir(f"{self.directory()}/inner")
        return ""

    def do_link(self) -> str:
        os.link(self.path(), self.path(), follow_symlinks=False)
        return str(os.stat(self.path()).st_nlink > 0)

    def do_enter(self) -> str:
        os.chdir(self.directory())
        here = os.stat(".").st_ino
        os.chdir(TOP)
        self.do_walk()
        return str(here > 0)

    def do_stay(self) -> str:
        """In a directory while everything else is looked up, and perhaps itself renamed."""
        os.chdir(self.directory())
        for top, names, files in os.walk(TOP):
            for name in names + files:
                os.lstat(f"{top}/{name}")
        result = f"{os.path.relpath(os.getcwd(), TOP)} {os.stat('.').st_ino == os.stat(os.getcwd()).st_ino}"
        os.chdir(TOP)
        return result

    def do_watch(self) -> str:
        path = self.path() if self.random.random() < 0.5 else self.directory()
        number = LIBC.inotify_add_watch(self.inotify, path.encode(), EVENTS)
        if number > 0:
            self.watched[number] = len(self.watched)
        return str(number)

    def do_events(self) -> str:
        out = []
        try:
            data = os.read(self.inotify, 1 << 16)
        except BlockingIOError:
            data = b""
        while data:
            number, mask, _cookie, length = EVENT.unpack_from(data)
            name = data[EVENT.size : EVENT.size + length].rstrip(b"\0")
            data = data[EVENT.size + length :]
            out.append(f"{number}:{mask:x}:{name.decode()}")
        return " ".join(out)

    def run(self) -> None:
        names = [name for name in dir(self) if name.startswith("do_")]
        for step in range(CALLS):
            name = self.random.choice(names)
            try:
                result = getattr(self, name)()
            except (OSError, ValueError) as error:
                result = error.strerror if isinstance(error, OSError) else "ValueError"
            print(step, name[3:], result)
        for fd, _number in self.held:
            os.close(fd)
        os.close(self.inotify)


if __name__ == "__main__":
    START = os.getcwd()
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        TOP = f"{START}/{seed}"
        os.chdir(TOP)
        Calls(seed).run()
