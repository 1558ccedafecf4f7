"""`cloche diff`: what a sandbox has changed, beside the host's files of now."""

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import CLOCHE, TIMEOUT_S, Outcome, environment, is_one_line, run_words


class Changed:
    """A sandbox that has a project, where things are done to it."""

    def __init__(self, root: Path, project: Path) -> None:
        self.root = root
        self.project = project
        self.words = [*CLOCHE, "--root", str(root)]

    def __call__(self, *words: str, timeout: float = TIMEOUT_S) -> Outcome:
        return run_words([*self.words, *words], cwd=self.project, timeout=timeout)

    def start(self, *options: str) -> None:
        done = self("run", "-d", "--name", "box", *options, "--", "sleep", "1000")
        assert done.status == 0, done

    def sh(self, script: str) -> str:
        done = self("exec", "-w", str(self.project), "box", "--", "sh", "-ec", script)
        assert done.status == 0, done
        return done.out

    def diff(self, *words: str) -> str:
        done = self("diff", "box", *words)
        assert done.status == 0 and not done.err, done
        return done.out

    def json(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.diff("--json", *words))
        return found

    def kinds(self, *words: str) -> list[str]:
        return self.diff("--name-status", *words).splitlines()


@pytest.fixture
def changed(tmp_path: Path, project: Path) -> Iterator[Changed]:
    made = Changed(tmp_path / "root", project)
    yield made
    made("rm", "-f", "box")


def test_nothing_has_changed_at_first(changed: Changed) -> None:
    changed.start("-v", f"{changed.project}:/vol", "--memory", "256m")
    changed.sh(
        "ls -lR /etc /usr/bin /var /vol . >/dev/null 2>&1 || true; cat /etc/* /vol/file >/dev/null 2>&1 || true"
    )
    assert changed.diff() == "" and changed.json() == [] and changed.diff("--stat") == ""
    assert changed("diff", "--exit-code", "box").status == 0


def test_the_patch_is_one_that_git_applies(changed: Changed, tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    project = changed.project
    (project / "lines").write_text("".join(f"line {number}\n" for number in range(100)))
    (project / "old name").write_text("renamed\n" * 20)
    before = tmp_path / "before"
    shutil.copytree(project, before, symlinks=True)
    changed.start()
    changed.sh(
        "sed -i '5d; 50s/$/ changed/; 99a end' lines; printf 'no newline' >>file; rm sub/deep; rmdir sub;"
        "mv 'old name' new; chmod 644 script; mkdir -p a/b; echo new >a/b/c; ln -s file link; printf '\\377\\n' >odd"
    )
    patch = changed.diff(".")
    prefix = str(project)[1:]
    done = subprocess.run(
        [git, "apply", f"-p{prefix.count('/') + 2}", "-"], cwd=before, input=os.fsencode(patch.replace("\ufffd", "\udcff")),
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done, patch)
    for path in ("lines", "file", "new", "a/b/c", "odd"):
        got = changed("exec", "box", "--", "cat", str(project / path)).out
        assert (before / path).read_bytes().decode(errors="replace") == got, path
    assert os.readlink(before / "link") == "file" and not (before / "sub").exists()
    assert (
        not (before / "old name").exists() and not os.access(before / "script", os.X_OK) or os.geteuid() == 0
    )
    assert (project / "file").read_text() == "host\n"  # and none of it is on the host


def test_kinds_of_changes(changed: Changed) -> None:
    project = changed.project
    os.link(project / "file", project / "hard")
    changed.start()
    changed.sh(
        "chmod 600 file; mv sub/deep moved; mkdir empty; mkfifo fifo; : >zero; touch -d 2001-01-01 script; mkdir d; echo x >d/x"
    )
    path = str(project)
    assert changed.kinds(".") == [
        f"A\t{path}/d/x",
        f"A\t{path}/empty",
        f"A\t{path}/fifo",
        f"M\t{path}/file",
        f"M\t{path}/hard",
        f"R\t{path}/sub/deep\t{path}/moved",
        f"M\t{path}/script",
        f"A\t{path}/zero",
    ]
    rows = {row["path"].rpartition("/")[2]: row for row in changed.json(".")}
    assert rows["file"]["before"]["mode"] == "100644" and rows["file"]["now"]["mode"] == "100600"
    assert not rows["file"]["contents_changed"] and rows["zero"]["contents_changed"]
    assert rows["moved"]["old_path"] == f"{path}/sub/deep" and rows["moved"]["host_path"] == f"{path}/moved"
    patch = changed.diff("file", "fifo")
    assert (
        "old mode 100644\nnew mode 100600\n" in patch
        and "a FIFO added" in patch
        and f"{path}/zero" not in patch
    )
    assert changed.diff("--name-only", "d").splitlines() == [f"{path}/d/x"]
    assert changed("diff", "--exit-code", "box").status == 1


def test_what_was_undone_is_no_change(changed: Changed) -> None:
    changed.start()
    changed.sh(
        "mv file x; mv x file; : >new; rm new; mkdir d; rmdir d; mv sub s; mv s sub; chmod 600 script; chmod 755 script"
    )
    assert changed.diff() == ""
    changed.sh("cp -p sub/deep keep; rm -r sub; mkdir sub; echo other >sub/deep; echo more >sub/more")
    assert changed.kinds("sub") == [f"M\t{changed.project}/sub/deep", f"A\t{changed.project}/sub/more"]
    changed.sh("rm -r sub; echo file >sub")
    assert changed.kinds("sub") == [f"D\t{changed.project}/sub/deep", f"A\t{changed.project}/sub"]


def test_conflicts_with_what_the_host_has_now(changed: Changed) -> None:
    project = changed.project
    (project / "gone").write_text("x\n")
    (project / "same").write_text("x\n")
    changed.start()
    changed.sh(
        "for each in file gone same; do echo guest >>$each; done; echo guest >new; rm script; mv sub/deep moved"
    )
    (project / "file").write_text("host\nhost again\n")
    (project / "gone").unlink()
    (project / "new").write_text("host\n")
    (project / "script").write_text("other\n")
    (project / "moved").write_text("other\n")
    found = {row["path"].rpartition("/")[2]: row["conflict"] for row in changed.json(".")}
    assert found == {
        "file": "the host has changed it, too",
        "gone": "it is gone on the host",
        "moved": "something of that name is on the host by now",
        "new": "something of that name is on the host by now",
        "same": None,
        "script": "the host has changed it, too",
    }
    patch = changed.diff("file")
    assert "conflict: the host has changed it, too" in patch
    assert patch.endswith("@@ -1,2 +1,2 @@\n host\n-host again\n+guest\n")  # against the file of now


def test_volumes_and_roots(changed: Changed, tmp_path: Path, rootfs: Path) -> None:
    volume, shared = tmp_path / "volume", tmp_path / "shared"
    for each in (volume, shared):
        each.mkdir()
        (each / "f").write_text("host\n")
    (tmp_path / "single").write_text("host\n")
    options = (
        "-v",
        f"{volume}:/vol",
        "-v",
        f"{shared}:/shared:rw",
        "-v",
        f"{tmp_path / 'single'}:/one",
        "--rootfs",
        str(rootfs),
    )
    done = changed(
        "run", "-d", "--name", "box", *options, "--", "sh", "-c", "while :; do cat /dev/zero >/dev/null; done"
    )
    assert done.status == 0, done
    done = changed(
        "exec",
        "box",
        "--",
        "sh",
        "-ec",
        "for each in vol shared; do echo x >/$each/f; done; echo x >/one; echo y >/etc/new; rm bin/script",
    )
    assert done.status == 0, done
    assert changed.kinds() == ["D\t/bin/script", "A\t/etc/new", "M\t/vol/f", "M\t/one"]
    assert (shared / "f").read_text() == "x\n" and (volume / "f").read_text() == "host\n"
    row = changed.json("/one")[0]
    assert row["host_path"] == str(tmp_path / "single") and row["conflict"] is None
    assert "-host\n+x\n" in changed.diff("/one")


def test_names_and_texts_are_harmless_to_a_terminal(changed: Changed) -> None:
    changed.start()
    changed.sh(
        r"""printf '\033]0;evil\007\n' >"$(printf 'n\033]0;evil\007\nx\377')"; printf '\033[31m\n' >>file"""
    )
    out = changed.diff("--name-only", ".")
    assert out.splitlines()[1] == f'"{changed.project}/n\\033]0;evil\\a\\nx\\377"'
    assert "base64" in changed.diff("--json", ".")
    for words in (["--color=always"], []):  # to a terminal, and in colours
        main, side = pty.openpty()
        process = subprocess.Popen(
            [*changed.words, "diff", *words, "box", "."],
            stdin=side, stdout=side if not words else subprocess.PIPE, stderr=subprocess.PIPE, cwd=changed.project,
            env=environment(CLOCHE_PAGER="cat"),
        )  # fmt: skip
        os.close(side)
        if words:
            assert process.stdout is not None
            got = process.stdout.read()
        else:
            got = b""
            while b"<1B>[31m" not in got:
                got += os.read(main, 4096)
        assert process.wait(60) == 0
        os.close(main)
        assert b"\x1b]" not in got and b"<1B>[31m" in got and b"\x1b[32m+" in got, got


def test_a_pager_gets_what_is_for_a_terminal(changed: Changed, tmp_path: Path) -> None:
    changed.start()
    changed.sh("echo x >>file")
    main, side = pty.openpty()
    done = subprocess.run(
        [*changed.words, "diff", "box", "."], stdin=side, stdout=side, stderr=subprocess.PIPE, cwd=changed.project, check=False,
        env=environment(CLOCHE_PAGER=f"cat >{tmp_path / 'paged'}"), timeout=TIMEOUT_S,
    )  # fmt: skip
    os.close(side)
    os.close(main)
    assert done.returncode == 0 and not done.stderr, done
    assert "\x1b[32m+x\x1b[m" in (tmp_path / "paged").read_text()


def test_large_and_sparse_files_are_named_not_read(changed: Changed) -> None:
    (changed.project / "big").write_bytes(b"x" * (9 << 20))
    changed.start()
    changed.sh("truncate -s 8T huge; echo x >>big; chmod 600 big; truncate -s 3m zeros")
    assert changed.diff(".").count("Binary files") == 3
    stat = changed.diff("--stat", ".").splitlines()
    assert stat[0].endswith(f"| Bin {9 << 20} -> {(9 << 20) + 2} bytes") and f"0 -> {8 << 40}" in stat[1]


def test_very_many_names(changed: Changed) -> None:
    changed.start()
    changed.sh("mkdir many; cd many; seq -f 'f%.0f' 1 20000 | xargs touch")
    assert len(changed.diff("--name-only", "many").splitlines()) == 20_000
    assert len(changed.diff("many").splitlines()) == 40_000


@pytest.mark.parametrize("words", [("none",), ("--stat", "--json", "box"), ("box", "--bad")])
def test_mistakes_are_told_in_one_line(changed: Changed, words: tuple[str, ...]) -> None:
    done = changed("diff", *words)
    assert done.status == 125 and is_one_line(done.err), done


def test_a_tree_that_is_too_deep(changed: Changed, tmp_path: Path) -> None:
    """All the paths of 4,000 directories would take gigabytes: of the sentry's memory, too, which ended the sandbox."""
    changed.start()
    changed.sh("touch after; mkdir deep")
    program = "import os; os.chdir('deep')\nfor _ in range(500): os.mkdir('n' * 255); os.chdir('n' * 255)"
    made = changed("exec", "-w", str(changed.project), "box", "--", "python3", "-c", program)
    assert made.status == 0, made
    (tmp_path / "out").mkdir()
    for words in (("diff", "--name-only", "box"), ("cp", f"box:{changed.project}", str(tmp_path / "out"))):
        done = changed(*words)
        assert done.status == 1 and done.err.endswith("File name too long\n") and is_one_line(done.err)
    assert (tmp_path / "out" / changed.project.name / "after").exists()
    refused = changed("apply", "box")
    assert refused.status == 125 and is_one_line(refused.err)
    assert changed("apply", "box", "after").status == 0 and (changed.project / "after").exists()
    assert changed.sh("echo alive") == "alive\n"
    subprocess.run(["rm", "-rf", str(tmp_path / "out")], check=True)  # rmtree would call itself
