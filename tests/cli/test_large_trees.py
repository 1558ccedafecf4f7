"""All that is done with files, on a tree of two thousand files; of 200,000 with CLOCHE_SLOW=1."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import CLOCHE, environment, run_words

IS_SLOW = os.environ.get("CLOCHE_SLOW") == "1"
DIRECTORIES = 200 if IS_SLOW else 20
EACH = 1000 if IS_SLOW else 100
COUNT = DIRECTORIES * EACH
SECONDS = 1800

MAKE = """
import os, sys
top, directories, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for d in range(directories):
    os.makedirs(f"{top}/d{d}")
    for n in range(each):
        with open(f"{top}/d{d}/f{n}", "w") as file:
            file.write(f"line {n}\\n")
"""
SCRIPT = (
    "find . -name 'f*' | wc -l; tar cf - . | tar tf - | grep -c /f; python3 make.py made {0} {1};"
    "find made -type f | wc -l; for d in 0 7 19; do echo more >>d$d/f1; rm d$d/f2; mv d$d/f3 d$d/g; done"
)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    project = tmp_path / "tree"
    project.mkdir()
    (project / "make.py").write_text(MAKE)
    subprocess.run(["python3", "make.py", ".", str(DIRECTORIES), str(EACH)], cwd=project, check=True)
    yield project


@pytest.mark.timeout(2 * SECONDS if IS_SLOW else 300)
def test_a_tree_of_many_files(tree: Path, tmp_path: Path) -> None:
    words = [*CLOCHE, "--root", str(tmp_path / "root")]
    places = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_STATE_HOME": str(tmp_path / "state")}

    def cloche(*args: str) -> str:
        done = run_words([*words, *args], cwd=tree, timeout=SECONDS, **places)
        assert done.status == 0 and not done.err, done
        return done.out

    script = SCRIPT.format(DIRECTORIES, EACH)
    assert cloche("run", "--name", "k", "--keep", "--", "sh", "-ec", script).split() == [str(COUNT)] * 3
    names = cloche("diff", "--name-status", "k").splitlines()
    kinds = [line[0] for line in names]
    assert (kinds.count("A"), kinds.count("D"), kinds.count("M"), kinds.count("R")) == (COUNT, 3, 3, 3)
    # as a stream, and as the layer of an image
    read = subprocess.Popen(
        [*words, "cp", f"k:{tree}/made", "-"], stdout=subprocess.PIPE, env=environment(**places)
    )
    listed = subprocess.run(["tar", "t"], stdin=read.stdout, capture_output=True, check=True).stdout
    assert read.wait() == 0 and sum(b"/f" in line for line in listed.splitlines()) == COUNT
    assert cloche("apply", "k").count("\n") >= COUNT
    assert sum(len(each) for _top, _names, each in os.walk(tree / "made")) == COUNT
    assert (tree / "d7" / "g").exists() and not (tree / "d7" / "f2").exists()
    assert cloche("diff", "--name-only", "k") == ""
    assert cloche("apply", "--undo", "k").count("undone") >= COUNT
    assert not (tree / "made").exists() and (tree / "d7" / "f2").exists()
    cloche("discard", "k")
