"""Pages of a template that its forks share again: contents stay, memory shrinks, nobody can change what all have."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import ctypes, gc, os, signal, sys, threading
from cloche.platform import shared_pages

def private_kib():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

libc = ctypes.CDLL(None, use_errno=True)
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
block = libc.mmap(None, 1 << 20, 3, 0x22, -1, 0)  # MAP_PRIVATE | MAP_ANONYMOUS, as malloc(3) has
ctypes.memset(block, 5, 1 << 20)
things = [object() for _ in range(100_000)]
words = [f"word {number}" for number in range(50_000)]
expected = hash(tuple(words))
gc.collect(); gc.freeze()
shared_pages.share_pages()

def touch():
    "Count references up and down again: all of these pages are copied, and have their old contents."
    held = [*things, *words]
    del held

def main():
{body}

child = os.fork()
if child == 0:
    try:
        main()
        assert hash(tuple(words)) == expected and len(set(map(id, things))) == 100_000
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert hash(tuple(words)) == expected
"""


@pytest.mark.parametrize(
    "body",
    {
        "memory shrinks": """
            touch()
            before = private_kib()
            dropped = shared_pages.share_again()
            after = private_kib()
            assert dropped > 500 and before - after > dropped * 2, (before, after, dropped)
            touch()
            again = private_kib()
            assert again > after + 2000, (before, after, dropped, again)
            shared_pages.share_again()
            last = private_kib()
            assert last < again - 2000, (before, after, dropped, again, last)
        """,
        "what changed stays": """
            kept = words[::7]
            words[::11] = [word.upper() for word in words[::11]]
            copy = list(words)
            mark = bytearray(300_000)
            mark[::4096] = b"x" * len(mark[::4096])
            for _ in range(3):
                shared_pages.share_again()
                gc.collect()
                assert words == copy and kept[1] == "word 7" and mark.count(b"x") == len(mark[::4096])
            words[::11] = [word.lower() for word in words[::11]]
        """,
        "a fork of a fork": """
            touch()
            shared_pages.share_again()
            pid = os.fork()
            if pid == 0:
                touch()
                os._exit(0 if shared_pages.share_again() > 500 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        """,
        "not with threads": """
            touch()
            go = threading.Event()
            thread = threading.Thread(target=go.wait)
            thread.start()
            assert shared_pages.share_again() == 0
            go.set()
            thread.join()
        """,
        "signals are not lost": """
            seen = []
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            signal.signal(signal.SIGALRM, lambda signo, frame: seen.append(signo))
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            while len(seen) < 30:
                touch()
                shared_pages.share_again()
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        """,
        "memory that became something else": """
            own = [m for m in shared_pages._mappings() if m.name.startswith("/memfd:cloche-template")]
            # a page of nobody's with contents of the template's, where the template had a page of its own
            large = max((m for m in own if m.rights == "rw-p"), key=lambda m: m.end - m.start)
            at = (large.start + large.end) // 2 & -4096
            content = ctypes.string_at(at, 4096)
            assert libc.mmap(at, 4096, 3, 0x32, -1, 0) == at  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
            ctypes.memmove(at, content, 4096)
            shared_pages.share_again()
            assert ctypes.string_at(at, 4096) == content
        """,
        "memory that grew": """
            size, more = 1 << 20, 64 << 20
            at = libc.mremap(block, size, more, 1)  # MREMAP_MAYMOVE; behind it are others' contents, and the hole
            assert at != ctypes.c_void_p(-1).value and ctypes.string_at(at, size) == b"\\5" * size
            ctypes.memset(at + size, 7, more - size)
            for _ in range(2):
                shared_pages.share_again()
                assert ctypes.string_at(at, size) == b"\\5" * size
                assert ctypes.string_at(at + size, more - size) == b"\\7" * (more - size)
        """,
        "nobody can change it": """
            [twin] = [m for m in shared_pages._mappings() if m.rights == "r--s" and "cloche-template" in m.name]
            assert libc.mprotect(twin.start, 4096, 3) == -1 and ctypes.get_errno() == 13
            assert not any("memfd" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                           if os.path.lexists(f"/proc/self/fd/{fd}"))
            if os.geteuid() == 0:  # only root may open it at all
                path = f"/proc/self/map_files/{twin.start:x}-{twin.end:x}"
                try:
                    fd = os.open(path, os.O_RDWR)
                except PermissionError:
                    return
                try:
                    os.pwrite(fd, b"x", 0)
                except PermissionError:
                    return
                raise AssertionError("written")
        """,
    }.items(),
    ids=lambda item: item[0],
)
def test_sharing_again(body: tuple[str, str]) -> None:
    text = textwrap.indent(textwrap.dedent(body[1]), "    ")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{body}", text)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_process_that_is_no_fork() -> None:
    from cloche.platform.shared_pages import share_again

    assert share_again() == 0
