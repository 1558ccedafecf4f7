"""The files of sandboxes that have ended: `diff`, `apply`, `cp` on kept layers; detached ones keep."""

import errno
import json
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cloche.boot.spec import SandboxSpec
from cloche.cli.layered import take_layer
from cloche.runtime import layers
from cloche.runtime.layers import KeptLayer
from cloche.runtime.records import Record, State
from tests.cli.harness import wait_until
from tests.cli.test_keep import AGAIN, NEW, Keeper, keeper

__all__ = ["keeper"]
WORK = "echo more >>file; mkdir new; echo x >new/x; ln new/x new/y; rm script; echo secret >/root/secret"


def outcome(keeper: Keeper, *words: str) -> str:
    done = keeper(*words)
    assert done.status == 0 and not done.err, done
    return done.out


def changes(keeper: Keeper, name: str) -> list[str]:
    return outcome(keeper, "diff", "--name-status", name, str(keeper.project)).splitlines()


def wait_for_end(keeper: Keeper, name: str) -> None:
    assert keeper("wait", name).status == 0


def detached(keeper: Keeper, script: str, *options: str) -> str:
    return outcome(keeper, "run", "-d", *options, "--", "sh", "-ec", script).strip()


def test_changes_of_one_that_has_ended(keeper: Keeper) -> None:
    keeper.run(WORK, *NEW)
    top = keeper.project
    assert changes(keeper, "k") == [
        f"M\t{top}/file",
        f"A\t{top}/new/x",
        f"A\t{top}/new/y",
        f"D\t{top}/script",
    ]
    assert "+more" in outcome(keeper, "diff", "k", str(top / "file"))
    assert {row["change"] for row in json.loads(outcome(keeper, "diff", "--json", "k"))} == {
        "added",
        "changed",
        "deleted",
    }
    # The commands changed nothing, and the layer is free again.
    assert changes(keeper, "k") == changes(keeper, "k")
    assert keeper.run("cat file /root/secret", "--from", "k") == "host\nmore\nsecret\n"


def test_they_are_made_on_the_host(keeper: Keeper) -> None:
    keeper.run(WORK, *NEW)
    outcome(keeper, "apply", "k", "new")
    assert (keeper.project / "new" / "x").read_text() == "x\n"
    assert (keeper.project / "file").read_text() == "host\n"
    outcome(keeper, "apply", "k")
    assert (keeper.project / "file").read_text() == "host\nmore\n"
    assert not (keeper.project / "script").exists() and changes(keeper, "k") == []
    outcome(keeper, "apply", "--undo", "k")
    assert (keeper.project / "script").exists()


def test_what_the_host_has_changed_since_is_a_conflict(keeper: Keeper) -> None:
    keeper.run("echo mine >>file; rm script sub/deep; echo n >new", *NEW)
    keeper.run("true", *AGAIN)  # the journal is written anew
    (keeper.project / "file").write_text("the host's\n")
    (keeper.project / "script").write_text("the host's, too\n")
    (keeper.project / "new").write_text("another's\n")
    rows = json.loads(outcome(keeper, "diff", "--json", "k", str(keeper.project)))
    assert {(Path(row["path"]).name, row["change"], row["conflict"]) for row in rows} == {
        ("file", "changed", "the host has changed it, too"),
        ("script", "deleted", "the host has changed it, too"),
        ("deep", "deleted", None),
        ("new", "added", "something of that name is on the host by now"),
    }
    done = keeper("apply", "k")
    assert done.status == 1 and done.err.count("\n") == 3
    assert (keeper.project / "file").read_text() == "the host's\n" and (keeper.project / "script").exists()
    assert not (keeper.project / "sub" / "deep").exists()


@pytest.mark.parametrize(
    ("script", "host"),
    [
        ("echo more >>file", "rm file; ln -s script file"),
        ("echo more >>file", "rm file"),
        ("echo more >>file", "rm file; mkdir file; echo x >file/x"),
        ("rm file; echo other >file", "rm file"),
        ("rm file; ln -s script file", "rm file; mkdir file"),
        ("echo new >sub/new; echo more >>sub/deep", "rm -r sub"),
        ("echo new >sub/new; echo more >>sub/deep", "rm -r sub; ln -s /tmp sub"),
        ("mkdir sub/a; echo more >>sub/a/b; rm sub/deep", "rm -r sub; echo x >sub"),
        ("rm sub/deep", "rm -r sub"),
    ],
)
def test_what_the_host_has_taken_away_is_shown_as_before_the_end(
    keeper: Keeper, script: str, host: str
) -> None:
    top = keeper.project
    detached(keeper, f"{script}; touch /tmp/done; sleep 1000", "--name", "d")
    wait_until(
        lambda: keeper("exec", "d", "--", "test", "-e", "/tmp/done").status == 0, "the end of the script"
    )
    subprocess.run(["sh", "-ec", host], cwd=top, check=True)
    words = ("diff", "--json", "d", str(top))
    running = json.loads(outcome(keeper, *words))
    assert keeper("stop", "-t", "0", "d").status == 0
    assert json.loads(outcome(keeper, *words)) == running
    assert keeper.run("true", "--name", "k", "--keep", "--from", "d") == ""
    assert json.loads(outcome(keeper, "diff", "--json", "k", str(top))) == running


def test_what_has_become_a_link_is_shown_no_more_once_it_was_applied(keeper: Keeper) -> None:
    (keeper.project / "link").symlink_to("file")
    keeper.run(
        "rm file; ln -s script file; rm link; echo x >link; mv sub/deep deep; ln -s ../deep sub/deep", *NEW
    )
    assert len(changes(keeper, "k")) == 4
    outcome(keeper, "apply", "k")
    assert changes(keeper, "k") == changes(keeper, "k") == []
    assert keeper.run("readlink file sub/deep; cat link", *AGAIN) == "script\n../deep\nx\n"
    assert changes(keeper, "k") == [] and outcome(keeper, "apply", "k") == ""


def test_what_is_written_where_the_host_has_taken_a_directory_away(keeper: Keeper) -> None:
    """It is kept, and there when the directory is back, with what the host has in it."""
    top = keeper.project
    keeper.run("echo more >>sub/deep", *NEW)
    deep = (top / "sub" / "deep").read_text()
    (top / "sub").rename(top.parent / "sub")
    assert keeper.run("cat sub/deep; echo new >sub/new; ls sub", *AGAIN) == deep + "more\ndeep\nnew\n"
    assert keeper.run("mv sub/new sub/newer; echo again >>sub/deep; ls sub", *AGAIN) == "deep\nnewer\n"
    (top.parent / "sub" / "host").write_text("")
    (top.parent / "sub").rename(top / "sub")
    assert keeper.run("cat sub/deep sub/newer; ls sub", *AGAIN) == deep + (
        "more\nagain\nnew\ndeep\nhost\nnewer\n"
    )
    assert changes(keeper, "k") == [f"M\t{top}/sub/deep", f"A\t{top}/sub/newer"]


def test_what_the_host_takes_away_for_a_while(keeper: Keeper) -> None:
    """As `git switch` does: looking at the layer meanwhile takes nothing out of it."""
    top = keeper.project
    keeper.run(
        "yes | head -c 50000 >sub/long; echo short >sub/short; echo more >>sub/deep; echo more >>file", *NEW
    )
    before = changes(keeper, "k")
    for name in ("sub", "file"):
        (top / name).rename(top.parent / name)
    for _ in range(2):
        assert keeper("diff", "k").status == 0
    for name in ("sub", "file"):
        (top.parent / name).rename(top / name)
    assert changes(keeper, "k") == before
    assert keeper.run("wc -c <sub/long; cat sub/short sub/deep file", "--from", "k").split() == [
        *("50000", "short", *(top / "sub" / "deep").read_text().split(), "more", "host", "more")
    ]


def test_files_go_out_and_in(keeper: Keeper, tmp_path: Path) -> None:
    keeper.run(WORK, *NEW)
    outcome(keeper, "cp", f"k:{keeper.project}/new", str(tmp_path / "out"))
    assert (tmp_path / "out" / "x").read_text() == "x\n"
    (tmp_path / "in").write_text("from outside\n")
    outcome(keeper, "cp", str(tmp_path / "in"), f"k:{keeper.project}/in")
    assert keeper.run("cat in", "--from", "k") == "from outside\n"
    outcome(keeper, "cp", "k:/root/secret", str(tmp_path / "secret"))
    assert (tmp_path / "secret").read_text() == "secret\n"


def test_detached_ones_keep_until_their_record_goes(keeper: Keeper) -> None:
    detached(keeper, WORK, "--name", "d")
    wait_for_end(keeper, "d")
    assert f"A\t{keeper.project}/new/x" in changes(keeper, "d")
    assert keeper.run("cat new/x", "--from", "d") == "x\n"
    outcome(keeper, "rm", "d")
    done = keeper("diff", "d")
    assert done.status == 125 and done.err == "cloche diff: no sandbox is named d\n"
    name = detached(keeper, WORK)  # a name that was chosen for it
    wait_for_end(keeper, name)
    assert f"D\t{keeper.project}/script" in changes(keeper, name)
    outcome(keeper, "rm", name)
    detached(keeper, "echo again >file", "--name", "d")  # the name is free
    wait_for_end(keeper, "d")
    assert changes(keeper, "d") == [f"M\t{keeper.project}/file"]
    outcome(keeper, "rm", "d")
    assert not (keeper.data.parent / "root" / ".layers").exists()


def test_one_that_runs_is_removed_with_all_that_it_wrote(keeper: Keeper) -> None:
    name = detached(keeper, "dd if=/dev/zero of=big bs=1M count=50 2>/dev/null; echo ready; sleep 600")
    wait_until(lambda: keeper("logs", name).out == "ready\n", "a word of the program")
    outcome(keeper, "rm", "-f", name)
    assert not (keeper.data.parent / "root" / ".layers").exists()
    assert outcome(keeper, "list", "-q") == ""


def test_what_shall_not_be_kept_is_not(keeper: Keeper) -> None:
    name = detached(keeper, "echo x >x; sleep 600", "--rm")
    outcome(keeper, "stop", "-t", "0", name)
    done = keeper("diff", name)
    assert done.status == 125 and done.err == f"cloche diff: no sandbox is named {name}\n"
    assert not (keeper.data.parent / "root" / ".layers").exists() and not keeper.layers.exists()


def test_it_may_have_half_of_what_is_free_unless_one_says_otherwise(keeper: Keeper) -> None:
    free = os.statvfs(keeper.data.parent)
    most = free.f_bavail * free.f_frsize
    for options in (NEW, AGAIN):
        said = [int(word) for word in keeper.run("stat -f -c '%b %a %S' .", *options).split()]
        assert most // 4 < said[1] * said[2] <= said[0] * said[2] < most
    name = detached(keeper, "stat -f -c '%b %S' .")
    wait_for_end(keeper, name)
    blocks, size = [int(word) for word in keeper("logs", name).out.split()]
    assert most // 4 < blocks * size < most
    assert keeper("rm", name).status == 0


def test_one_that_can_keep_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a home that can be written to, say: it writes to memory, as others do."""
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nowhere")
    options = SimpleNamespace(detach=True, keep=False, rm=False, disk=None, origin=None, name="d", root="")
    record = cast(Record, SimpleNamespace(state=State("d")))
    spec = SandboxSpec([b"true"])
    assert take_layer(options, spec, record) is None and spec.layer_source == ""
    assert capsys.readouterr().err.startswith("cloche: what it writes is in memory only: ")
    options.disk = "1m"
    with pytest.raises(OSError):
        take_layer(options, spec, record)


def test_a_layer_that_could_not_be_made_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: KeptLayer, places: list[object], *, is_automatic: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(KeptLayer, "write_head", full)
    with pytest.raises(OSError):
        layers.create("d", [], str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_it_was_shown_is_gone(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    keeper.run("true", *NEW, "-v", f"{tmp_path}/volume:/v:ro")
    (tmp_path / "volume").rmdir()
    done = keeper("diff", "k")
    assert done.status == 125
    assert done.err == f"cloche diff: {tmp_path}/volume, which k was shown, is not there any more\n"


def test_one_whose_monitor_was_killed(keeper: Keeper) -> None:
    name = detached(keeper, "echo x >new; sync; echo ready; sleep 600")
    wait_until(lambda: keeper("logs", name).out == "ready\n", "a word of the program")
    (pid,) = [row["pid"] for row in json.loads(outcome(keeper, "list", "--json"))]
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: keeper("diff", "--name-only", name, str(keeper.project)).out == f"{keeper.project}/new\n",
        "its files",
    )
    outcome(keeper, "rm", name)


def test_what_is_said_of_layers_that_cannot_be_looked_at(keeper: Keeper) -> None:
    keeper.run(WORK, *NEW)
    (keeper.layers / "k" / "sandbox").write_bytes(b"\xff of another version")
    done = keeper("diff", "k")
    assert (
        done.status == 125 and done.err == "cloche diff: the layer k was kept by another version of cloche\n"
    )
    (keeper.layers / "k" / "sandbox").unlink()
    assert "was kept by another version" in keeper("cp", "k:/etc/hosts", "-").err
    with keeper.popen(
        "run", "--name", "k", "--keep", "--from", "k", "--", "sh", "-c", "echo; sleep 600"
    ) as running:
        assert running.stdout is not None and running.stdout.readline() == b"\n"
        done = keeper("run", "--from", "k", "--", "true")
        assert done.status == 125 and "is in use" in done.err
        running.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("word", ["--env=TOKEN=geheim", "-pPORT"])
def test_nothing_for_programs_is_kept(keeper: Keeper, word: str) -> None:
    keeper.run(
        "true",
        *NEW,
        word.replace("PORT", "127.0.0.1::80") if word[1] == "p" else word,
        "--log-level",
        "error",
    )
    assert b"geheim" not in (keeper.layers / "k" / "sandbox").read_bytes()
    assert changes(keeper, "k") == []
