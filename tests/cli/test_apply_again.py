"""`cloche apply` of what was changed again after it had been applied: its own work is no change of the host's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_apply import Applied, snapshot

FIRST = "echo one >>file; echo new >added; rm sub/deep; mv script moved; echo x >>moved; ln -s file link; mkdir d; echo d >d/x"
SECOND = "echo two >>file; echo more >>added; echo again >sub/deep; echo y >>moved; ln -sfn added link; echo e >>d/x"


@pytest.fixture
def changed(tmp_path: Path, project: Path) -> Iterator[Applied]:
    made = Applied(tmp_path / "root", project, tmp_path / "state")
    yield made
    made("rm", "-f", "box")


def contents(top: Path) -> dict[str, bytes]:
    return {name: data for name, (_mode, data) in snapshot(top).items()}


@pytest.mark.parametrize("is_ended", [False, True])
def test_what_was_changed_again_is_applied_again(changed: Applied, is_ended: bool) -> None:
    project = changed.project
    states = [snapshot(project)]
    changed.start()
    for work in (FIRST, SECOND):
        changed.sh(work)
        if is_ended and work == SECOND:
            assert changed("stop", "-t", "0", "box").status == 0
        dry = changed.apply("--dry-run")
        assert snapshot(project) == states[-1]
        assert changed.apply() == dry != ""
        assert changed("diff", "--exit-code", "box").status == 0 and changed.apply() == ""
        states.append(snapshot(project))
    found = contents(project)
    assert found["file"] == b"host\none\ntwo\n" and found["added"] == b"new\nmore\n"
    assert found["sub/deep"] == b"again\n" and found["link"] == b"added" and found["d/x"] == b"d\ne\n"
    assert found["moved"].endswith(b"x\ny\n") and "script" not in found
    for state in reversed(states[:-1]):
        changed.apply("--undo")
        assert snapshot(project) == state


def test_the_change_is_from_what_was_applied(changed: Applied) -> None:
    changed.start()
    changed.sh(FIRST)
    changed.apply()
    changed.sh("echo two >>file; echo more >>added")
    shown = changed.diff()
    assert "+two" in shown and "+more" in shown and "+one" not in shown and "+new" not in shown
    assert [line[0] for line in changed.apply("--dry-run").splitlines()] == ["M", "M"]
    changed.apply(str(changed.project / "added"))
    assert (changed.project / "added").read_text() == "new\nmore\n"
    assert (changed.project / "file").read_text() == "host\none\n"


def test_what_was_new_and_is_removed_is_removed(changed: Applied) -> None:
    """Of these the sandbox has no trace any more."""
    project = changed.project
    changed.start()
    changed.sh(FIRST + "; mkdir -p e/f; echo >e/f/g; echo >e/stays; echo >theirs; echo >other")
    changed.apply()
    before = snapshot(project)
    (project / "theirs").write_text("by the host\n")
    changed.sh("rm -r added moved link d e/f other theirs")
    only = changed.apply("--dry-run", str(project / "d"))
    assert f"D  {project}/d/x" in only.splitlines() and "added" not in only
    changed.apply()
    assert set(snapshot(project)) == {"file", "sub", "e", "e/stays", "theirs"}
    assert changed.apply() == "" and changed("diff", "--exit-code", "box").status == 0
    changed.apply("--undo")
    found = snapshot(project)
    assert found.pop("theirs") and before.pop("theirs") and found == before


def test_what_somebody_has_changed_in_between_is_a_conflict(changed: Applied) -> None:
    project = changed.project
    changed.start()
    changed.sh(FIRST)
    changed.apply()
    for name in ("file", "added", "moved"):
        with open(project / name, "a") as file:
            file.write("host's\n")
    (project / "sub" / "deep").write_text("host's\n")
    changed.sh(SECOND)
    done = changed("apply", "box")
    assert done.status == 1, done
    lines = {line.split(": ")[1].rpartition("/")[2] for line in done.err.splitlines()}
    assert {"file", "added", "moved", "deep"} <= lines, done
    found = contents(project)
    assert found["file"] == b"host\none\nhost's\n" and found["added"] == b"new\nhost's\n"
    assert found["sub/deep"] == b"host's\n" and found["link"] == b"added"


def test_what_was_undone_is_no_longer_known(changed: Applied) -> None:
    """The host is as it was before: the sandbox's change is the whole of it again."""
    project = changed.project
    before = snapshot(project)
    changed.start()
    changed.sh(FIRST)
    changed.apply()
    changed.apply("--undo")
    assert snapshot(project) == before
    changed.sh(SECOND)
    shown = changed.diff()
    assert "+one" in shown and "+two" in shown and "+new" in shown
    changed.apply()
    assert (project / "file").read_text() == "host\none\ntwo\n"
    assert (project / "sub" / "deep").read_text() == "again\n"


def test_what_another_sandbox_of_that_name_has_applied_is_not_missing(changed: Applied) -> None:
    """The host's file is hidden from the second, which has removed nothing."""
    project = changed.project
    changed.start()
    changed.sh("mkdir build; echo x >build/x")
    changed.apply()
    assert changed("rm", "-f", "box").status == 0
    changed.start("--tmpfs", str(project / "build"))
    assert changed.sh("ls build") == ""
    assert changed("diff", "--exit-code", "box").status == 0 and changed.apply() == ""
    assert (project / "build" / "x").read_text() == "x\n"


def test_what_was_applied_to_another_directory_is_not_missing(changed: Applied) -> None:
    project = changed.project
    changed.start()
    changed.sh("mkdir out; echo x >sub/x")
    (project / "out").mkdir()
    assert changed("apply", "box", str(project / "sub"), "--to", str(project / "out")).status == 0
    assert (project / "out" / "x").read_text() == "x\n"
    assert changed.sh("ls out") == ""
    assert "out" not in changed.apply("--dry-run")


@pytest.mark.parametrize("is_listed", [False, True])
def test_what_was_applied_and_removed_does_not_come_back(changed: Applied, is_listed: bool) -> None:
    """Neither when the directory is read for the first time, nor in a later sandbox with the layer."""
    project = changed.project
    (project / "dir").mkdir()
    (project / "dir" / "theirs").write_text("host's\n")
    changed.start()
    if is_listed:
        changed.sh("ls dir")
    changed.sh("cd dir; for name in gone moved saved; do echo $name >$name; done; mkdir d; echo x >d/x")
    changed.apply()
    assert sorted(os.listdir(project / "dir")) == ["d", "gone", "moved", "saved", "theirs"]
    changed.sh("cd dir; rm -r gone d; mv moved away; echo new >save~; mv save~ saved; rm saved")
    assert changed.sh("ls dir; ls dir") == "away\ntheirs\n" * 2
    gone = ("d/x", "gone", "moved", "saved")
    kinds = [f"A\t{project}/dir/away", *(f"D\t{project}/dir/{name}" for name in gone)]
    assert sorted(changed.kinds()) == kinds
    assert changed("stop", "-t", "0", "box").status == 0
    assert changed("run", "--from", "box", "--", "ls", "dir").out == "away\ntheirs\n"
    assert sorted(changed.kinds()) == kinds
    changed.apply()
    assert sorted(os.listdir(project / "dir")) == ["away", "theirs"] and changed.apply() == ""


def test_what_the_host_has_made_itself_stays(changed: Applied) -> None:
    """The sandbox's own file of that name is gone again, and there was nothing when it was made."""
    project = changed.project
    changed.start()
    changed.sh("echo guest >sub/mine; echo guest >sub/seen")
    (project / "sub" / "seen").write_text("host's\n")
    assert "sub/seen" in changed.diff("--name-only")
    (project / "sub" / "mine").write_text("host's\n")
    changed.sh("rm sub/mine sub/seen")
    for _time in range(2):
        done = changed("apply", "box")
        assert f"{project}/sub/mine" not in done.out + done.err and "D  " not in done.out, done
        assert (project / "sub" / "mine").exists() and (project / "sub" / "seen").exists()
        changed("stop", "-t", "0", "box")


def test_a_renamed_file_that_the_host_has_changed_is_copied_as_it_is(changed: Applied) -> None:
    """With --force: to its present end."""
    project = changed.project
    now: dict[str, bytes] = {
        "longer": b"x" * 300_000,
        "shorter": b"abc",
        "sparse": b"s" + bytes(9_999),
        "none": b"",
    }
    for name in now:
        (project / name).write_bytes(b"first" if name != "sparse" else b"s" + bytes(100_000))
    changed.start()
    changed.sh("for name in longer shorter sparse none; do cat $name >/dev/null; mv $name new-$name; done")
    for name, data in now.items():
        with open(project / name, "r+b") as file:
            file.truncate(0)
            file.write(data.rstrip(b"\0"))
            file.truncate(len(data))
    assert changed("apply", "box").status == 1
    changed.apply("--force")
    assert {name: (project / f"new-{name}").read_bytes() for name in now} == now


def test_what_a_later_sandbox_removes_of_an_earlier_one_s_is_not_the_host_s(changed: Applied) -> None:
    """What the host has made since by the same names stays; the host's own that both removed do not."""
    project = changed.project
    (project / "theirs").write_text("x\n")
    (project / "old").mkdir()
    changed.start()
    changed.sh(
        "echo mine >added; mkdir d; echo x >d/x; rm theirs; echo mine >theirs; mv old new; echo mine >old"
    )
    assert changed("stop", "-t", "0", "box").status == 0
    (project / "added").write_text("host\n")
    (project / "d").mkdir()
    (project / "d" / "host").write_text("host\n")
    assert [line for line in changed.kinds() if line.startswith("D")] == []
    begin = ("run", "--keep", "--from")
    try:
        done = changed(*begin, "box", "--name", "later", "--", "sh", "-c", "rm -r added d theirs old new; ls")
        assert done.status == 0 and "added" not in done.out, done
        gone = [f"D\t{project}/{name}" for name in ("old", "theirs")]
        assert sorted(changed("diff", "--name-status", "later").out.splitlines()) == gone
        done = changed(*begin, "later", "--name", "last", "--", "sh", "-c", "ls; echo more >added")
        assert done.status == 0 and "added" not in done.out, done
        refused = changed("apply", "last", str(project / "added"))
        assert refused.status == 1 and "something of that name is on the host by now" in refused.err, refused
        assert changed("apply", "later").status == 0
    finally:
        changed("discard", "later", "last")
    assert contents(project)["added"] == contents(project)["d/host"] == b"host\n"
    assert not (project / "theirs").exists() and not (project / "old").exists()
