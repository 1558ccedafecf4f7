"""Named volumes that have a size: what programs see of it, and one account for several sandboxes."""

import errno
import json
import os
import signal
from pathlib import Path

from tests.cli.harness import is_one_line, wait_until
from tests.cli.images import Images

MIB = 1 << 20

# Each line that a guest program prints is a step's result.
STEPS = """
import ctypes, errno, mmap, os
os.chdir("/data")
def say(*words): print(*words, flush=True)
def fill(name, want):
    done = 0
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        while done < want:
            done += os.write(fd, bytes(min(65536, want - done)))
    except OSError as error:
        return done, error.errno
    finally:
        os.close(fd)
    return done, 0
def attempt(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
def free():
    st = os.statvfs("/data")
    return st.f_blocks * st.f_frsize, st.f_bavail * st.f_frsize
"""


def python(images: Images, program: str, *options: str) -> list[str]:
    (images.top / "steps.py").write_text(STEPS + program)
    done = images("run", *options, "--", "python3", "steps.py")
    assert done.status == 0 and not done.err, done
    return done.out.splitlines()


def test_the_size_is_an_account_of_all_that_files_take(images: Images) -> None:
    assert images("volume", "create", "--size", "8m", "v").status == 0
    out = python(
        images,
        """
say(*free())
say(*fill("a", 5 << 20))
say(*fill("b", 5 << 20))
say(free()[1])
say(*fill("a", 5 << 20))                     # what is there already may be written again
os.truncate("a", 1 << 20)
say(free()[1] == 4 << 20)
fd = os.open("c", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 30)                    # a hole takes nothing
say(free()[1] == 4 << 20)
say(attempt(lambda: os.posix_fallocate(fd, 0, 5 << 20)))
say(attempt(lambda: mmap.mmap(fd, 1 << 20)))  # a mapping of it could fill all the holes
os.ftruncate(fd, 1 << 20)
memory = mmap.mmap(fd, 1 << 20)
say(free()[1] == 3 << 20)
memory[:] = b"x" * (1 << 20)
os.unlink("b")
os.rename("c", "a")
say(free()[1] == 7 << 20)                    # c, which now has the name of a
held = os.open("d", os.O_RDWR | os.O_CREAT)
os.pwrite(held, bytes(1 << 20), 0)
os.unlink("d")
say(free()[1] == 6 << 20)                    # still open
os.close(held)
say(free()[1] == 7 << 20)
os.mkdir("dir"); os.rmdir("dir")
os.link("a", "e"); os.unlink("a")
say(free()[1] == 7 << 20)
os.close(os.open(".", os.O_TMPFILE | os.O_RDWR))
say(*fill("f", 8 << 20))
say(attempt(lambda: os.mkdir("more")))
say(attempt(lambda: open("empty", "w").close()))
""",
        "-v",
        "v:/data",
    )
    quota = errno.EDQUOT
    assert out == [
        f"{8 * MIB} {8 * MIB}", f"{5 * MIB} 0", f"{3 * MIB} {quota}", "0", f"{5 * MIB} 0", "True", "True", str(quota),
        str(quota), "True", "True", "True", "True", "True", f"{7 * MIB} {quota}", str(quota), "0",
    ]  # fmt: skip
    row = json.loads(images("volume", "ls", "--json").out)[0]
    assert row["limit"] == 8 * MIB and row["size"] == 8 * MIB
    # the next sandbox counts the files anew; a larger size counts at once
    assert images("volume", "create", "--size", "9m", "v").status == 0
    assert python(images, 'say(*free()); os.unlink("f"); say(free()[1])', "-v", "v:/data") == [
        f"{9 * MIB} {MIB}", str(8 * MIB)]  # fmt: skip


def test_sandboxes_that_share_a_volume_share_its_account(images: Images) -> None:
    assert images("volume", "create", "--size", "4m", "v").status == 0
    script = "head -c 3145728 /dev/zero >/data/big; touch /data/ready; until test -e /data/end; do sleep 0.05; done"
    started = images("run", "-d", "--name", "one", "-v", "v:/data", "--", "sh", "-c", script + "; sleep 1000")
    assert started.status == 0, started
    data = Path(json.loads(images("volume", "ls", "--json").out)[0]["path"])
    try:
        wait_until((data / "ready").exists, "the first has written")
        program = """
say(free()[1] == 1 << 20)
say(*fill("more", 2 << 20))
os.unlink("more")
say(free()[1] == 1 << 20)
"""
        assert python(images, program, "-v", "v:/data") == ["True", f"{MIB} {errno.EDQUOT}", "True"]
        refused = images("volume", "create", "--size", "1m", "other", "v")
        assert refused.status == 0  # smaller than what is there: nothing more fits
        assert python(images, 'say(free()[1], *fill("more", 1))', "-v", "v:/data") == [f"0 0 {errno.EDQUOT}"]
        record = json.loads(images("list", "--json").out)[0]
        os.kill(
            record["pid"], signal.SIGKILL
        )  # nothing is left of the sandbox, and of its slot in the account
    finally:
        images("rm", "-f", "one")
    wait_until(
        lambda: python(images, "say(free()[1])", "-v", "other:/data") == [str(MIB)], "the other is usable"
    )
    assert images("volume", "create", "--size", "4m", "v").status == 0
    program = 'say(free()[1] == 1 << 20); os.unlink("big"); say(free()[1] == 4 << 20)'
    assert python(images, program, "-v", "v:/data") == ["True", "True"]


def test_a_volume_in_use_gets_no_first_size(images: Images) -> None:
    started = images("run", "-d", "--name", "one", "-v", "v:/data", "--", "sleep", "1000")
    assert started.status == 0, started
    try:
        refused = images("volume", "create", "--size", "4m", "v")
        assert refused.status == 125 and is_one_line(refused.err) and "in use" in refused.err
    finally:
        images("rm", "-f", "one")
    refused = images("volume", "create", "--size", "much", "v")
    assert refused.status == 125 and is_one_line(refused.err)


def test_only_so_many_files(images: Images) -> None:
    assert images("volume", "create", "--inodes", "10", "v").status == 0
    out = python(
        images,
        """
def files():
    st = os.statvfs("/data")
    return st.f_files, st.f_ffree
say(*files())
for name in range(12):
    error = attempt(lambda: open(str(name), "x").close())
    if error:
        break
say(name, error, *files())
say(attempt(lambda: os.mkdir("dir")), attempt(lambda: os.symlink("a", "b")), attempt(lambda: os.mkfifo("fifo")))
say(attempt(lambda: os.link("0", "again")), attempt(lambda: open("0", "w").write("x" * 100000)))
for name in range(4):
    os.unlink(str(name))                     # 0 has another name
say(*files())
held = open("8")
os.unlink("8")
say(*files())
held.close()
os.rename("4", "5")
say(*files())
fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
say(*files())
os.close(fd)
say(*files())
""",
        "-v",
        "v:/data",
    )
    quota = errno.EDQUOT
    assert out == [
        "10 9", f"9 {quota} 10 0", f"{quota} {quota} {quota}", "0 0", "10 3", "10 3", "10 5", "10 4", "10 5",
    ]  # fmt: skip
    row = json.loads(images("volume", "ls", "--json").out)[0]
    assert (row["inodes"], row["inode_limit"], row["limit"]) == (5, 10, None)
    # more from now on, and a size beside it; the next sandbox counts them anew
    (Path(row["path"]) / "of the host").touch()
    assert images("volume", "create", "--inodes", "11", "--size", "1m", "v").status == 0
    program = """
st = os.statvfs("/data")
say(st.f_files, st.f_ffree, st.f_blocks * st.f_frsize)
say(*fill("full", 2 << 20))
"""
    assert python(images, program, "-v", "v:/data") == [f"11 5 {MIB}", f"{MIB - (100 << 10)} {quota}"]
    refused = images("volume", "create", "--inodes", "0", "v")
    assert refused.status == 125 and is_one_line(refused.err)
