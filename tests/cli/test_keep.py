"""Layers that last: `run --keep`, `--from`, `--disk`, `discard`; crashes at any moment."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.crashes import crash_rounds
from tests.cli.harness import (
    CLOCHE,
    TIMEOUT_S,
    Outcome,
    descendants,
    environment,
    is_one_line,
    name_of,
    run_words,
    wait_until,
)

LIST = "find . -mindepth 1 -printf '%p %y %m %U %s %n %T@ %l\\n' | sort; find . -type f -exec cat {} + | sha256sum"

IS_SLOW = os.environ.get("CLOCHE_SLOW") == "1"
LONG_S = 1800


class Keeper:
    """Where layers are kept, and a project."""

    def __init__(self, top: Path, project: Path) -> None:
        self.project = project
        self.data = top / "data"
        self.words = [*CLOCHE, "--root", str(top / "root")]
        self.layers = self.data / "cloche" / "layers"

    def __call__(self, *words: str, timeout: float = TIMEOUT_S) -> Outcome:
        return run_words(
            [*self.words, *words], cwd=self.project, timeout=timeout, XDG_DATA_HOME=str(self.data)
        )

    def run(self, script: str, *options: str) -> str:
        done = self("run", *options, "--", "sh", "-ec", script)
        assert done.status == 0 and not done.err, done
        return done.out

    def popen(self, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*self.words, *words],
            cwd=self.project,
            env=environment(XDG_DATA_HOME=str(self.data)),
            stdout=subprocess.PIPE,
        )

    def journal(self, name: str) -> Path:
        return self.layers / name / "files" / "journal"


@pytest.fixture
def keeper(tmp_path: Path, project: Path) -> Iterator[Keeper]:
    yield Keeper(tmp_path, project)


NEW = ("--name", "k", "--keep")
AGAIN = ("--name", "k", "--keep", "--from", "k")
WORK = (
    "echo more >>file; mkdir -p new/deep; echo x >new/deep/x; mv sub moved; echo y >moved/y; ln new/deep/x hard; rm script;"
    "mkfifo fifo; ln -s target link; dd if=/dev/urandom of=big bs=1000k count=3 2>/dev/null; truncate -s 5m holes;"
    "touch -d 2001-02-03 old; chmod 4711 big; printf 'odd' >\"$(printf '\\377 name')\"; echo gone >gone; rm gone;"
    "mkdir away; touch away/f; rm -r away; mkdir t; mv t u; chmod 700 u; seq 100000 >seq; echo >>seq; : >seq"
)


def test_what_was_written_is_there_again(keeper: Keeper) -> None:
    before = keeper.run(f"{WORK}; echo home >~/h; {LIST}", *NEW)
    after = keeper.run(f"cat ~/h; {LIST}", *AGAIN)
    assert after == "home\n" + before
    again = (
        "echo z >moved/deep; mv moved/deep deep; rm -r new; cp big big2; rm big; mv u moved/v; echo two >>~/h"
    )
    before = keeper.run(f"{again}; {LIST}", *AGAIN)
    assert keeper.run(f"cat ~/h; {LIST}", *AGAIN) == "home\ntwo\n" + before
    assert (keeper.project / "file").read_text() == "host\n" and (keeper.project / "sub").is_dir()


def test_layers_are_begun_with_and_left_alone(keeper: Keeper) -> None:
    listing = keeper.run(f"{WORK}; {LIST}", *NEW)
    assert keeper.run(LIST, "--from", "k") == listing
    keeper.run("rm -r moved big; echo x >big; echo more >>file", "--from", "k")
    assert keeper.run(LIST, "--from", "k") == listing
    keeper.run(
        "echo other >other; dd if=/dev/zero of=big bs=1k count=1 conv=notrunc 2>/dev/null",
        "--name",
        "l",
        "--keep",
        "--from",
        "k",
    )
    assert keeper.run(LIST, "--from", "k") == listing
    assert (
        keeper.run("cat other; head -c 10 big | od -An -tx1", "--from", "l").split()
        == ["other"] + ["00"] * 10
    )
    assert sorted(os.listdir(keeper.layers)) == ["k", "l"]
    assert keeper("discard", "k", "l").status == 0
    assert os.listdir(keeper.layers) == []


def test_programs_that_are_kept_run(keeper: Keeper) -> None:
    keeper.run("cp /bin/sh shell; cp /bin/true tool; echo 'echo script' >s; chmod +x s", *NEW)
    assert keeper.run("./shell -c 'echo ok; ./tool && ./s'", *AGAIN) == "ok\nscript\n"


def test_the_limit_of_the_disk_holds(keeper: Keeper) -> None:
    out = keeper.run(
        "dd if=/dev/zero of=a bs=1M count=30 2>/dev/null || echo full; rm a; dd if=/dev/zero of=b bs=1M count=10 2>/dev/null; df -B1M . | tail -1",
        *NEW, "--disk", "20m",
    )  # fmt: skip
    assert out.startswith("full\n") and out.split()[2] == "20", out
    used = sum(path.stat().st_blocks for path in (keeper.layers / "k" / "files").iterdir()) * 512
    assert 10 << 20 <= used < 11 << 20
    for size in ("1k", "1M"):  # rm frees its room at once, by the sentry's own writes and others'
        out = keeper.run(
            f"before=$(stat -f -c %f .); dd if=/dev/zero of=a bs={size} 2>/dev/null || echo full; rm a;"
            "test $(stat -f -c %f .) = $before",
            *AGAIN, "--disk", "20m",
        )  # fmt: skip
        assert out == "full\n"
    out = keeper.run("dd if=/dev/zero of=c bs=1M count=15 2>/dev/null || echo full", *AGAIN, "--disk", "20m")
    assert out == "full\n"


@pytest.mark.timeout(LONG_S if IS_SLOW else 300)
def test_what_is_written_is_not_in_memory(keeper: Keeper) -> None:
    """250 MiB with 100 MiB of memory; with CLOCHE_SLOW=1 7.5 GiB."""
    count = 7680 if IS_SLOW else 250
    process = keeper.popen(
        "run",
        "-d",
        *NEW,
        "--memory",
        "100m",
        "--",
        "sh",
        "-c",
        f"dd if=/dev/zero of=big bs=1M count={count}; echo done; sleep 100000",
    )
    assert process.wait(60) == 0
    wait_until(lambda: "done" in keeper("logs", "k").out, "the file is written", LONG_S if IS_SLOW else 100)
    assert f"{count}+0 records out" in keeper("logs", "k").err
    keeper("rm", "-f", "k")
    assert keeper.run("stat -c %s big", *AGAIN, "--memory", "100m") == f"{count << 20}\n"


# Blocks with their numbers, so that none can be mistaken for another; 4.3 GiB, and 5 GiB with a hole.
HUGE = """
import sys
BLOCK, COUNT = 1 << 20, 4403
def block(number):
    return b"%016d" % number * (BLOCK >> 4)
with open("huge", "r+b" if "check" in sys.argv else "w+b") as file:
    for number in range(COUNT):
        if "check" not in sys.argv:
            file.write(block(number))
        elif file.read(BLOCK) != block(number):
            sys.exit(f"block {number}")
    if "check" in sys.argv:
        file.seek((1 << 32) - 8)
        file.write(b"straddle")
        file.seek((1 << 32) - 8)
        print(file.read(9), file.seek(0, 2))
if "check" not in sys.argv:
    with open("hole", "wb") as file:
        file.seek(5 << 30)
        file.write(b"end")
with open("hole", "rb") as file:
    file.seek((5 << 30) - 2)
    print(file.read(6))
"""


@pytest.mark.skipif(not IS_SLOW, reason="it writes 14 GiB: CLOCHE_SLOW=1")
@pytest.mark.timeout(LONG_S)
def test_files_of_more_than_four_gibibytes(keeper: Keeper) -> None:
    (keeper.project / "huge.py").write_text(HUGE)
    options = ("--memory", "300m", "--disk", "20g")

    def run(words: str, *more: str) -> str:
        done = keeper("run", *more, *options, "--", "sh", "-ec", words, timeout=LONG_S)
        assert done.status == 0 and not done.err, done
        return done.out

    end = "b'\\x00\\x00end'\n"
    assert run("python3 huge.py", *NEW) == end
    whole = f"b'straddle0' {4403 << 20}\n{end}"
    # on a copy, then, because that has changed nothing of it, on the layer itself
    assert run("python3 huge.py check", "--from", "k") == whole
    assert run("python3 huge.py check; du --apparent-size -m huge hole | cut -f 1; du -m hole", *AGAIN) == (
        f"{whole}4403\n5121\n1\thole\n"
    )


COUNTER = "i=0; while :; do echo $i >>f; echo $i; i=$((i+1)); done"


def test_what_was_written_last_is_kept(keeper: Keeper) -> None:
    """Its files are made by the gofer when the sandbox is ending already."""
    for name in ("k", "l", "m"):
        sums = keeper.run(
            "for each in $(seq 20); do head -c 20000 /dev/urandom >f$each; done; sha256sum f*",
            "--name",
            name,
            "--keep",
        )
        assert keeper.run("sha256sum f*", "--from", name) == sums


def test_a_file_of_the_host_with_holes_is_changed(keeper: Keeper) -> None:
    """What is copied into the layer has the holes, and needs no room for them."""
    size, middle = 5 << 30, (3 << 30) + 12345
    with open(keeper.project / "holes", "wb") as file:
        file.write(b"begin")
        file.seek(middle)
        file.write(b"middle")
        file.truncate(size)
    script = "printf mine | dd of=holes bs=1 seek=1G conv=notrunc 2>/dev/null; stat -c %s holes"
    assert keeper.run(script, *NEW, "--disk", "16m") == f"{size}\n"
    assert sum(path.lstat().st_blocks for path in keeper.layers.rglob("*")) * 512 < 8 << 20
    script = f"""python3 -c 'f = open("holes", "rb")
for at in (0, 1 << 30, {middle}, {size} - 3): f.seek(at); print(f.read(7))'"""
    seen = keeper.run(script, "--from", "k")
    assert seen.splitlines() == [str(data) for data in (b"begin\0\0", b"mine\0\0\0", b"middle\0", bytes(3))]


@pytest.mark.parametrize(
    "words",
    [("rm", "-f"), ("stop", "-t", "0"), ("kill", "-s", "KILL"), ("kill", "-a", "-s", "KILL"), ()],
    ids=" ".join,
)
def test_an_orderly_end_loses_nothing(keeper: Keeper, words: tuple[str, ...]) -> None:
    """Data that a program had written before it was killed is kept, as in Linux's page cache."""
    limit = () if words else ("--timeout", "2")
    counter = keeper.popen("run", *NEW, *limit, "--", "sh", "-c", COUNTER)
    assert counter.stdout is not None
    lines = [counter.stdout.readline() for _ in range(20)]
    ender = keeper.popen(*words, "k") if words else None
    lines += counter.stdout.read().splitlines()
    assert counter.wait(60) == (137 if words else 124)
    assert ender is None or ender.wait(60) == 0
    last = int([line for line in lines if line.strip()][-1])
    kept = keeper.run("cat f", *AGAIN).splitlines()
    assert kept == [str(n) for n in range(len(kept))] and len(kept) > last


def test_whoever_has_ended_it_may_use_its_layer(keeper: Keeper) -> None:
    for options in (NEW, AGAIN, AGAIN):
        assert keeper("run", "-d", *options, "--", "sh", "-c", "echo x >>f; echo; sleep 1000").status == 0
        wait_until(lambda: keeper("logs", "k").out, "it has written")
        assert keeper("rm", "-f", "k").status == 0
    keeper.run("test -e f", *AGAIN)


# Processes cannot be made with that limit: the shell's builtins alone.
FILLER = """
rm -f p; mkfifo p; x=$(head -c 16000 /dev/zero | tr '\\0' x); trap go=1 USR1; echo
while [ -z "$go" ]; do :; done
i=0; while [ $i -lt 600 ]; do printf %s "$x" >f$i || exit 9; i=$((i+1)); done; echo filled
"""


def _fill(keeper: Keeper, pid: int) -> None:
    """Let the program write what the journal has no room for: that may not grow, as if its disk were full."""
    try:
        resource.prlimit(_sentry(pid), resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
    except PermissionError:
        keeper("rm", "-f", "k")
        pytest.skip("only root may limit the files of a confined process")
    assert keeper("kill", "-s", "USR1", "k").status == 0


def test_a_layer_that_cannot_be_written_is_told(keeper: Keeper) -> None:
    """It is reported in a line at the end, by every command that ends the sandbox, and in its record."""
    message = f"not all that it wrote is kept: {os.strerror(errno.EFBIG)}"
    process = subprocess.Popen(
        [*keeper.words, "run", *NEW, "--", "sh", "-c", FILLER],
        cwd=keeper.project, env=environment(XDG_DATA_HOME=str(keeper.data)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "\n"
    _fill(keeper, process.pid)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert out == "filled\n" and process.returncode == 125, (out, err)
    assert is_one_line(err) and message in err, err

    assert keeper("run", "-d", *AGAIN, "--", "sh", "-c", f"{FILLER} read x <p").status == 0
    wait_until(lambda: keeper("logs", "k").out == "\n", "it waits")
    _fill(keeper, json.loads(keeper("list", "--json").out)[0]["pid"])
    wait_until(lambda: "filled" in keeper("logs", "k").out, "it has written")
    stopped = keeper("stop", "-t", "0", "k")
    assert stopped.status == 0 and is_one_line(stopped.err) and message in stopped.err, stopped
    [state] = json.loads(keeper("list", "--json").out)
    assert message in state["error"] and state["exit_status"] == 137, state
    assert message in keeper("logs", "k").err
    # Earlier files are whole; the last ones may just have been made.
    found = keeper.run("find . -name 'f[0-9]*' -printf '%s\\n' | sort | uniq -c", "--from", "k").split()
    kept = dict(zip(found[1::2], map(int, found[::2]), strict=True))
    assert 0 < kept.pop("16000") < 600 and kept.pop("0", 0) < 10 and not kept, found


def _sentry(pid: int) -> int:
    [found] = [each for each in descendants(pid) if name_of(each) == "cloche-sentry"]
    return found


WRITER = """
import os, sys
os.makedirs("d", exist_ok=True)
number = len([name for name in os.listdir("d") if name != "new"])
fd = os.open("d", os.O_RDONLY)
while True:
    with open("d/new", "wb") as file:
        file.write(b"%d\\n" % number * (1 if number % 7 else 20000))
        file.flush()
        os.fsync(file.fileno())
    os.rename("d/new", f"d/{number}")
    os.fsync(fd)
    print(number, flush=True)
    number += 1
"""
CHECK = """
import os
names = [name for name in os.listdir("d") if name != "new"] if os.path.isdir("d") else []
assert sorted(names, key=int) == [str(n) for n in range(len(names))], names
for name in names:
    text = open("d/" + name, "rb").read()
    assert text == (name.encode() + b"\\n") * (1 if int(name) % 7 else 20000), (name, len(text), text[:20])
print(len(names))
"""


def test_whatever_is_killed_what_was_synchronised_is_kept(keeper: Keeper) -> None:
    dice = random.Random(14)
    (keeper.project / "writer.py").write_text(WRITER)
    (keeper.project / "check.py").write_text(CHECK)
    options = NEW
    known = 0
    for turn in range(4):
        process = keeper.popen("run", *options, "--", "python3", "writer.py")
        assert process.stdout is not None
        line = b""
        for _ in range(dice.randint(1, 40)):
            line = process.stdout.readline()
        victims = [process.pid] if turn % 2 else _parts(process.pid)
        os.kill(dice.choice(victims), signal.SIGKILL)
        for rest in process.stdout.read().splitlines():
            line = rest
        process.wait(60)
        known = max(known, int(line) + 1)
        wait_until(lambda: keeper("run", "--from", "k", "--", "true").status == 0, "the layer is free")
        options = AGAIN
        kept = int(keeper.run("python3 check.py", *AGAIN))
        assert kept >= known, (kept, known)
        known = kept


# Changes the same 64 files again and again, a MiB of the journal each time, and makes and removes others; says the number
# of what is on the disk.
CHURN = """
import os, sys
first = int(sys.argv[1])
for name in os.listdir():
    if name.startswith("t"):
        os.unlink(name)  # which a kill has left: each may leave one
for turn in range(first, first + int(sys.argv[2])):
    for n in range(64):
        file = os.open(f"f{n}", os.O_CREAT | os.O_WRONLY)
        os.write(file, b"%7d " % turn * 2000)  # in one call: no file is ever half written, or empty
        os.close(file)
        os.close(os.open(f"t{turn}.{n}", os.O_CREAT | os.O_WRONLY))
        os.unlink(f"t{turn}.{n}")
    os.sync()
    print(turn, flush=True)
"""
CHURNED = """
import os
texts = [open(f"f{n}").read() for n in range(64)]
turns = sorted({text.split()[0] for text in texts}, key=int)
assert len(turns) <= 2 and all(len(set(text.split())) == 1 and len(text) == 16000 for text in texts), turns
assert sum(name.startswith("t") for name in os.listdir()) <= 1
print(turns[0])
"""


def size_of(path: Path) -> int:
    """Of a file that may be renamed at any moment: 0 then."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_the_journal_stays_short(keeper: Keeper) -> None:
    """Whatever `--disk` limits, the journal must not grow with the number of changes."""
    (keeper.project / "churn.py").write_text(CHURN)
    (keeper.project / "churned.py").write_text(CHURNED)
    process = keeper.popen("run", *NEW, "--disk", "8m", "--", "python3", "churn.py", "0", "120")
    assert process.stdout is not None
    sizes = []
    for line in process.stdout:
        files = keeper.journal("k").parent
        sizes.append(sum(size_of(path) for path in files.glob("journal*")))
        last = int(line)
    assert process.wait(60) == 0 and last == 119
    assert max(sizes) < 60 << 20, sizes
    assert keeper.journal("k").stat().st_size < 60 << 20
    assert keeper.run("python3 churned.py", *AGAIN) == "119\n"


def test_a_kill_while_the_journal_is_written_anew(keeper: Keeper) -> None:
    dice = random.Random(14)
    (keeper.project / "churn.py").write_text(CHURN)
    (keeper.project / "churned.py").write_text(CHURNED)
    options, known, was_anew = NEW, 0, 0
    for _round in range(8):
        process = keeper.popen("run", *options, "--", "python3", "churn.py", str(known + 1), "1000")
        assert process.stdout is not None
        new = keeper.journal("k").parent / "journal.new"
        known = int(process.stdout.readline())
        after = dice.choice((0, 0, 1, 2, 5))
        while after >= 0:  # the rewriting, then a few turns more
            known = int(process.stdout.readline())
            if after or new.exists():
                after -= 1
        was_anew += new.exists()
        os.kill(dice.choice([process.pid, *_parts(process.pid)]), signal.SIGKILL)
        for rest in process.stdout.read().splitlines():
            known = int(rest)
        process.wait(60)
        wait_until(lambda: keeper("run", "--from", "k", "--", "true").status == 0, "the layer is free")
        options = AGAIN
        kept = int(keeper.run("python3 churned.py", *AGAIN))
        assert kept >= known, (kept, known)
        known = kept + 1
    assert was_anew


def _parts(pid: int) -> list[int]:
    """The processes of cloche itself below a monitor."""
    found = []
    stack = [pid]
    while stack:
        each = stack.pop()
        try:
            children = Path(f"/proc/{each}/task/{each}/children").read_text().split()
            command = Path(f"/proc/{each}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        stack += map(int, children)
        if each != pid and b"python" in command:
            found.append(each)
    return found


def test_a_database_survives(keeper: Keeper) -> None:
    script = """
import sqlite3
db = sqlite3.connect("db")
db.execute("pragma synchronous = extra")  # FULL does not wait for the end of the journal
db.execute("create table if not exists t (n integer, x text)")
n = db.execute("select count(*) from t").fetchone()[0]
while True:
    db.execute("insert into t values (?, ?)", (n, "x" * 500))
    db.commit()
    print(n, flush=True)
    n += 1
"""
    (keeper.project / "db.py").write_text(script)
    check = "import sqlite3; db = sqlite3.connect('db'); print(*db.execute('pragma integrity_check').fetchone()); print(db.execute('select count(*) from t').fetchone()[0])"
    options = NEW
    for count in (5, 30):
        process = keeper.popen("run", *options, "--", "python3", "db.py")
        assert process.stdout is not None
        last = -1
        for _ in range(count):
            last = int(process.stdout.readline())
        process.kill()
        process.stdout.read()
        process.wait()
        wait_until(lambda: keeper("run", "--from", "k", "--", "true").status == 0, "the layer is free")
        options = AGAIN
        answer = keeper("run", *AGAIN, "--", "python3", "-c", check)
        assert answer.status == 0 and answer.out.split()[0] == "ok", answer
        assert int(answer.out.split()[1]) >= last + 1


def test_a_journal_that_somebody_has_spoilt(keeper: Keeper) -> None:
    """It is read up to there, or refused in a line."""
    keeper.run(WORK, *NEW)
    whole = keeper.journal("k").read_bytes()
    dice = random.Random(14)
    for turn in range(4):
        spoilt = bytearray(whole)
        if turn % 2:
            spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
        else:
            del spoilt[dice.randrange(len(spoilt)) :]
        keeper.journal("k").write_bytes(spoilt)
        done = keeper("run", "--from", "k", "--", "sh", "-c", "find . >/dev/null; echo ok")
        assert done.out == "ok\n" and done.status == 0, done
    keeper.journal("k").unlink()
    os.symlink("/etc/passwd", keeper.journal("k"))
    done = keeper("run", "--from", "k", "--", "true")
    assert done.status == 125 and is_one_line(done.err), done


@pytest.mark.parametrize(
    "words",
    [
        ("--keep",),
        ("--from", "none"),
        ("--from", "../x"),
        ("--disk", "much"),
        ("--name", "k", "--keep"),
        ("--from", "k", "-v", "/usr/share:/x"),
        ("--from", "k", "--rootfs", "/"),
    ],
)
def test_mistakes_are_told_in_one_line(keeper: Keeper, words: tuple[str, ...]) -> None:
    keeper.run("true", *NEW)
    done = keeper("run", *words, "--", "true")
    assert done.status == 125 and is_one_line(done.err), done
    done = keeper("discard", "none")
    assert done.status == 125 and is_one_line(done.err), done
    assert os.listdir(keeper.layers) == ["k"]


def test_a_layer_has_one_user_at_a_time(keeper: Keeper) -> None:
    assert keeper("run", "-d", *NEW, "--", "sleep", "1000").status == 0
    for words in (("run", "--from", "k", "--", "true"), ("discard", "k")):
        done = keeper(*words)
        assert done.status == 125 and "in use" in done.err and is_one_line(done.err), done
    keeper("rm", "-f", "k")
    wait_until(lambda: keeper("run", "--from", "k", "--", "true").status == 0, "the layer is free")


def test_sqlite_and_git_survive_what_is_killed_under_them(tmp_path: Path) -> None:
    """The short form of `python -m tests.cli.crashes`."""
    crash_rounds(tmp_path / "crashes", 3, random.Random(14))
