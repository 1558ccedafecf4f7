"""`cloche apply` of files and directories that have taken each other's names: all of it, or none before it is begun."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_apply import Applied, snapshot

# renameat2(2) with RENAME_EXCHANGE, for each pair of names
EXCHANGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for one, other in zip(sys.argv[1::2], sys.argv[2::2]):
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")
"""


@pytest.fixture
def changed(tmp_path: Path, project: Path) -> Iterator[Applied]:
    made = Applied(tmp_path / "root", project, tmp_path / "state")
    (project / "exchange.py").write_text(EXCHANGE)
    (project / "f").write_text("f\n")
    (project / "d" / "e").mkdir(parents=True)
    (project / "d" / "x").write_text("d/x\n")
    (project / "d" / "e" / "y").write_text("d/e/y\n")
    (project / "d" / "link").symlink_to("x")
    yield made
    made("rm", "-f", "box")


def exchanged(before: dict[str, tuple[int, bytes]], one: str, other: str) -> dict[str, tuple[int, bytes]]:
    """What there is when two names, and all below them, have been exchanged."""
    found = {}
    for name, what in before.items():
        top, slash, rest = name.partition("/")
        found[{one: other, other: one}.get(top, top) + slash + rest] = what
    return found


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_file_and_a_directory(changed: Applied, is_ended: bool) -> None:
    project = changed.project
    before = snapshot(project)
    changed.start()
    changed.sh("python3 exchange.py f d")
    if is_ended:
        assert changed("stop", "-t", "0", "box").status == 0
    dry = changed.apply("--dry-run")
    assert snapshot(project) == before
    assert sorted(changed.apply().splitlines()) == sorted(dry.splitlines())
    assert snapshot(project) == exchanged(before, "f", "d")
    assert changed.diff() == "" and changed.apply() == ""
    changed.apply("--undo")
    assert snapshot(project) == before


def test_files_that_have_got_each_other_s_contents(changed: Applied) -> None:
    """By an exchange, or by a third name: in either order of their names a content must not be overwritten before it
    is copied.
    """
    project = changed.project
    for name in ("a", "b", "c", "z"):
        (project / name).write_text(name * 3 * (ord(name) - 90) + "\n")
    for name in ("one", "two"):
        (project / name).mkdir()
        (project / name / "x").write_text(name * len(name + name[0]) * (2 if name == "two" else 1))
    before = snapshot(project)
    changed.start()
    # a -> b -> c -> a, and two directories
    changed.sh("mv a third; mv c a; mv b c; mv third b; python3 exchange.py one two; mv z d/z; mv d/x z")
    assert changed("stop", "-t", "0", "box").status == 0
    changed.apply()
    after = snapshot(project)
    assert [after[name][1] for name in "abc"] == [before[name][1] for name in "cab"]
    assert after["one/x"] == before["two/x"] and after["two/x"] == before["one/x"]
    assert after["d/z"] == before["z"] and after["z"] == before["d/x"] and "d/x" not in after
    assert not [name for name in after if ".cloche" in name]
    changed.apply("--undo")
    assert snapshot(project) == before


def test_exchanges_in_another_directory(changed: Applied, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(changed.project, copy, symlinks=True)
    before = snapshot(copy)
    changed.start()
    changed.sh("python3 exchange.py f d; echo new >f/new")
    done = changed("apply", "--to", str(copy), "box")
    assert done.status == 0 and not done.err, done
    after = snapshot(copy)
    assert after.pop("f/new")[1] == b"new\n" and after == exchanged(before, "f", "d")


@pytest.mark.parametrize("spoiled", ["f", "d/new", "d/e/new", "d/x"])
@pytest.mark.parametrize("words", [(), ("--force",)])
def test_where_a_part_is_refused_nothing_of_it_is_done(
    changed: Applied, spoiled: str, words: tuple[str, ...]
) -> None:
    """The directory cannot make room if the host has put something in it since the sandbox read it, the file not if
    the host has changed it: that is told of each of the eight.
    """
    project = changed.project
    changed.start()
    changed.sh("ls -lR; cat d/x; python3 exchange.py f d; echo more >>file")
    (project / spoiled).write_text("the host's\n")
    before = snapshot(project)
    done = changed("apply", *words, "box")
    after = snapshot(project)
    assert after["file"][1] == b"host\nmore\n"
    if words and spoiled in ("f", "d/x"):
        assert done.status == 0 and not done.err, done
        for old, new, data in (("f", "d", b"f\n"), ("d/x", "f/x", b"d/x\n")):
            assert after[new][1] == (b"the host's\n" if old == spoiled else data)
    else:
        text = "it holds other files" if spoiled.endswith("new") else "the host has changed it, too"
        assert done.status == 1 and done.err.count(f"{text}; left alone") == 8, done
        assert after == before | {"file": after["file"]}
    changed.apply("--undo")
    assert snapshot(project) == before


@pytest.mark.parametrize("spoiled", ["d/new", "d/e/new", "d/x"])
def test_what_the_host_puts_where_the_sandbox_has_not_looked_goes_along(
    changed: Applied, spoiled: str
) -> None:
    """For the sandbox it has been there all the time."""
    project = changed.project
    changed.start()
    changed.sh("python3 exchange.py f d")
    (project / spoiled).write_text("the host's\n")
    before = snapshot(project)
    changed.apply()
    assert snapshot(project) == exchanged(before, "f", "d")
    changed.apply("--undo")
    assert snapshot(project) == before


def test_what_was_not_chosen_keeps_its_place(changed: Applied) -> None:
    """Without the directory's removal there is no room for the file, so that it stays, and so on."""
    project = changed.project
    before = snapshot(project)
    changed.start()
    changed.sh("rm -r d; echo new >d; rm f; mkdir f; echo new >f/new")
    shown = [line.split("\t") for line in changed.kinds()]
    answers = ["n" if kind == "D" and path.endswith("d/x") else "y" for kind, path in shown]
    done = changed("apply", "-i", "box", stdin="".join(f"{each}\n" for each in answers).encode())
    assert done.status == 1 and "was not chosen" in done.err, (shown, done)
    after = snapshot(project)
    assert after["d/x"] == before["d/x"] and after["f/new"][1] == b"new\n"
    changed.apply("--undo")
    assert snapshot(project) == before
