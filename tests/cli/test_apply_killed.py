"""`cloche apply` killed between any two of its steps, and what `--undo` and a second apply then make of it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Outcome, is_one_line, run_words
from tests.cli.test_apply import Applied, snapshot
from tests.cli.test_apply_exchanges import EXCHANGE

# Kills itself before the call with this number, of those that change something after the journal was begun.
KILLED = """
import os, signal, sys
from cloche.cli.main import main
me, left, names = os.getpid(), int(sys.argv[1]), sys.argv[2].split(",")
is_begun = False
def count(name):
    real = getattr(os, name)
    def call(*words, **more):
        global left, is_begun
        if os.getpid() == me and is_begun and (name != "write" or words[1][:1] == b"{"):
            left -= name in names
            if left < 0:
                os.kill(me, signal.SIGKILL)
        is_begun = is_begun or name == "mkdir" and str(words[0]).startswith("box@")
        return real(*words, **more)
    setattr(os, name, call)
for each in ("mkdir", "rmdir", "unlink", "rename", "link", "symlink", "write"):
    count(each)
sys.exit(main(sys.argv[3:]))
"""
HOST = "mkdir,rmdir,unlink,rename"  # those that change the host's files
ALL = HOST + ",link,symlink,write"


class Killed(Applied):
    """One whose applications are killed."""

    def killed(self, at: int, calls: str, *words: str) -> Outcome:
        return run_words(
            [sys.executable, "-c", KILLED, str(at), calls, *self.words[3:], "apply", "box", *words],
            cwd=self.project,
            XDG_STATE_HOME=str(self.state),
        )


@pytest.fixture
def changed(tmp_path: Path, project: Path) -> Iterator[Killed]:
    made = Killed(tmp_path / "root", project, tmp_path / "state")
    for path in project.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (project / "f").write_text("of f\n")
    (project / "d").mkdir(mode=0o750)
    (project / "d" / "x").write_text("of x\n")
    (project / "gone").write_text("of gone\n")
    (project / "more").write_text("of more\n")
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    made.start("-v", f"{tmp_path / 'exchange.py'}:/exchange.py")
    made.sh(
        "python3 /exchange.py f d; echo again >>f/x; echo again >>more; rm gone; echo new >new; ln -s new link"
    )
    yield made
    made("rm", "-f", "box")


def test_it_is_undone(changed: Killed) -> None:
    project = changed.project
    before = snapshot(project)
    for at in range(200):
        done = changed.killed(at, ALL)
        if done.status == 0:
            break
        assert done.status == -9, done
        undone = changed("apply", "--undo", "box")
        assert undone.status == 0 or at == 0 and "nothing of box has been applied" in undone.err, (at, undone)
        assert snapshot(project) == before, at
    assert at > 20 and (project / "f" / "x").read_text() == "of x\nagain\n"
    changed.apply("--undo")
    assert snapshot(project) == before


def test_a_second_one_loses_nothing(changed: Killed, tmp_path: Path) -> None:
    """The layer of a sandbox that has ended knows files that were renamed by what the host has of them. So the second
    one is refused unless told, and what is then undone, both of them, is as it was, for the layer, too.
    """
    project, root = changed.project, tmp_path / "root"
    assert changed("stop", "-t", "0", "box").status == 0
    before, kinds = snapshot(project), sorted(changed.kinds())
    shutil.copytree(project, tmp_path / "project-before", symlinks=True)
    shutil.copytree(root, tmp_path / "root-before", symlinks=True)
    for at in range(200):
        done = changed.killed(at, HOST)
        if done.status == 0:
            break
        refused = changed("apply", "box")
        if at:  # before that there are no steps in the journal
            assert refused.status == 125 and is_one_line(refused.err) and "--undo" in refused.err, refused
            changed("apply", "--force", "box")
            assert not [name for name in snapshot(project) if ".cloche-new-" in name], at
        texts = {what[1] for top in (project, changed.state) for what in snapshot(top).values()}
        assert {what[1] for what in before.values()} <= texts, at
        for _ in range(2):
            changed("apply", "--undo", "box")
        assert snapshot(project) == before, at
        assert sorted(changed.kinds()) == kinds, at
        for path, kept in ((project, tmp_path / "project-before"), (root, tmp_path / "root-before")):
            for each in path.iterdir():
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
            shutil.copytree(kept, path, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(changed.state)
    assert at > 8 and (project / "f" / "x").read_text() == "of x\nagain\n"
    assert changed.diff("--name-only") == "" and changed.apply() == ""


@pytest.mark.parametrize(
    "script", ["mv more moved; echo again >>moved", "mv d e; echo again >>e/x; mv gone f"]
)
def test_what_a_layer_has_renamed_is_renamed_again_after_undo(
    changed: Killed, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when somebody has looked at it, or gone on with it, meanwhile."""
    changed("rm", "-f", "box")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    words = ("run", "--name", "box", "--keep")
    first = changed(*words, "--", "sh", "-ec", script)
    assert first.status == 0, first
    before, kinds = snapshot(changed.project), changed.kinds()
    changed.apply()
    changed.diff()
    changed.apply("--undo")
    assert snapshot(changed.project) == before and changed.kinds() == kinds
    changed.apply()
    after = snapshot(changed.project)
    again = changed(*words, "--from", "box", "--", "sh", "-c", "echo more >>seen")
    assert again.status == 0, again
    changed.apply("--undo")
    assert snapshot(changed.project) == before
    changed.apply()
    assert snapshot(changed.project) == after | {"seen": (0o100644, b"more\n")}
