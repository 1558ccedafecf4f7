"""Crashes: in each round a part of a sandbox is killed while sqlite and git write into a kept layer, at a random moment.

    python -m tests.cli.crashes [--rounds N] [--seed N] [--directory DIR]

The next round begins on the layer: what sqlite and git had announced must be there, the database's integrity check and
`git fsck` must find nothing, and the work goes on. `test_keep.py` has a short form.
"""

import argparse
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.harness import CLOCHE, TIMEOUT_S, environment

# Both halves end each step with what makes it durable (`synchronous = extra`, sync(2)), and then announce it.
WORK = """
import os, sqlite3, subprocess, sys
git = ["git", "-C", "repo", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "core.fsync=all", "-c", "gc.auto=0"]
def run(*words):
    return subprocess.run([*git, *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
db = sqlite3.connect("db")
db.execute("pragma synchronous = extra")
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
db.execute("create table if not exists t (n integer primary key, x text)")
rows = db.execute("select count(*), max(n) from t").fetchone()
assert rows[0] == 0 or rows[1] == rows[0] - 1, rows
assert db.execute("select count(*) from t where x != printf('%.*c', 300 + n % 7000, 'x')").fetchone()[0] == 0
number = rows[0]
commits = 0
if os.path.exists("repo/ready"):
    for name in ("index.lock", "HEAD.lock", "refs/heads/master.lock"):
        if os.path.exists("repo/.git/" + name):
            os.unlink("repo/.git/" + name)
    said = run("fsck", "--full", "--strict")
    assert not [line for line in said.splitlines() if not line.startswith(("dangling", "notice", "Checking"))], said
    commits = int(run("rev-list", "--count", "HEAD"))
    assert run("show", "HEAD:file") == "%d\\n" % commits * (commits % 50 + 1)
    run("reset", "-q", "--hard")
else:
    subprocess.run(["rm", "-rf", "repo"], check=True)
    subprocess.run(["git", "init", "-q", "-b", "master", "repo"], check=True)
    open("repo/file", "w").write("1\\n1\\n")
    run("add", "file")
    run("commit", "-q", "-m", "1")
    open("repo/ready", "w").close()
    os.sync()
    commits = 1
print("found", number, commits, flush=True)
while True:
    for _ in range(5):
        db.execute("insert into t values (?, ?)", (number, "x" * (300 + number % 7000)))
        db.commit()
        number += 1
        print("sqlite", number, flush=True)
    commits += 1
    open("repo/file", "w").write("%d\\n" % commits * (commits % 50 + 1))
    run("commit", "-q", "-a", "-m", str(commits))
    os.sync()
    print("git", commits, flush=True)
"""


class Damage(Exception):
    """Something was lost; the text says what."""


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def parts(pid: int) -> list[int]:
    """The processes of cloche itself of which `pid` is the monitor."""
    found, todo = [pid], [pid]
    while todo:
        for child in _children(todo.pop()):
            todo.append(child)
            try:
                if Path(f"/proc/{child}/comm").read_text().startswith("cloche-"):
                    found.append(child)
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has ended meanwhile
    return found


def crash_rounds(directory: Path, rounds: int, dice: random.Random, *, is_talkative: bool = False) -> None:
    """Raises Damage."""
    (directory / "project").mkdir(parents=True)
    (directory / "project" / "work.py").write_text(WORK)
    words = [*CLOCHE, "--root", str(directory / "root"), "run", "--name", "k", "--keep"]
    announced = {"sqlite": 0, "git": 0}
    for number in range(rounds + 1):  # the last one only looks
        again = ["--from", "k"] if number else []
        process = subprocess.Popen(
            [*words, *again, "--", "python3", "work.py"],
            cwd=directory / "project",
            env=environment(XDG_DATA_HOME=str(directory / "data")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline().decode().split()
        if not line or line[0] != "found":
            process.wait(TIMEOUT_S)
            raise Damage(f"round {number}: {process.stderr.read().decode()[-2000:]}")
        found = {"sqlite": int(line[1]), "git": int(line[2])}
        for kind, least in announced.items():
            if found[kind] < least:
                raise Damage(f"round {number}: {kind} had announced {least}, and has {found[kind]}")
        announced = found
        end = time.monotonic() + (dice.uniform(0, 1.5) if number < rounds else 0)
        while select.select([process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
            kind, count = process.stdout.readline().split()
            announced[kind.decode()] = int(count)
            if time.monotonic() >= end:
                break
        victims = parts(process.pid)
        victim = dice.choice(victims)
        comm = Path(f"/proc/{victim}/comm").read_text().strip()
        os.kill(victim, signal.SIGKILL)
        for rest in process.stdout.read().splitlines():
            words_of = rest.split()
            if len(words_of) == 2:
                announced[words_of[0].decode()] = int(words_of[1])
        process.wait(TIMEOUT_S)
        for each in victims:  # the next may use the layer once all of them have gone
            while Path(f"/proc/{each}").exists() and each != process.pid:
                time.sleep(0.01)
        if is_talkative:
            print(number, comm, announced, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--directory", type=Path, help="a new directory to work in")
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        crash_rounds(options.directory or Path(scratch) / "crashes", options.rounds, dice, is_talkative=True)
    print("nothing was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
