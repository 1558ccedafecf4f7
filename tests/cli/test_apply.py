"""`cloche apply`: changes on the host, whole or not at all, nowhere else, and undone again."""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import TIMEOUT_S, Outcome, environment, is_one_line, run_words
from tests.cli.test_diff import Changed


class Applied(Changed):
    """With a directory of journals of its own."""

    def __init__(self, root: Path, project: Path, state: Path) -> None:
        super().__init__(root, project)
        self.state = state

    def __call__(self, *words: str, timeout: float = TIMEOUT_S, stdin: bytes = b"") -> Outcome:
        return run_words(
            [*self.words, *words],
            cwd=self.project,
            timeout=timeout,
            stdin=stdin,
            XDG_STATE_HOME=str(self.state),
        )

    def apply(self, *words: str, stdin: bytes = b"") -> str:
        done = self("apply", "box", *words, stdin=stdin)
        assert done.status == 0 and not done.err, done
        return done.out


@pytest.fixture
def changed(tmp_path: Path, project: Path) -> Iterator[Applied]:
    made = Applied(tmp_path / "root", project, tmp_path / "state")
    yield made
    made("rm", "-f", "box")


def snapshot(top: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a directory, by name: mode and contents."""
    found = {}
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        data = b""
        if stat.S_ISREG(st.st_mode):
            data = path.read_bytes()
        elif stat.S_ISLNK(st.st_mode):
            data = os.fsencode(os.readlink(path))
        found[str(path.relative_to(top))] = (st.st_mode, data)
    return found


WORK = (
    "echo more >>file; rm -r sub; mkdir -p new/deep; echo x >new/deep/x; chmod 700 new; mv script moved; ln -s file link;"
    "mkfifo fifo; printf 'odd' >\"$(printf '\\377 name')\"; truncate -s 1m holes"
)


def test_large_files_that_were_applied_are_shown_no_more(changed: Applied) -> None:
    """Above 8 MiB contents are compared piece by piece: holes, 4 GiB and more."""
    changed.start()
    changed.sh(
        "dd if=/dev/urandom of=large bs=1M count=20 2>/dev/null; truncate -s 30m large;"
        "truncate -s 5g huge; echo end >>huge"
    )
    assert changed.apply().splitlines() == [f"A  {changed.project}/huge", f"A  {changed.project}/large"]
    huge = (changed.project / "huge").stat()
    assert huge.st_size == (5 << 30) + 4 and huge.st_blocks < 1000
    assert changed("diff", "--exit-code", "box").status == 0 and changed.apply() == ""
    for offset in (25 << 20, 3 << 20):  # in the hole, and in the data
        with open(changed.project / "large", "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))
        assert "conflict" in changed("diff", "--name-status", "box").out + changed("diff", "box").out
        with open(changed.project / "large", "r+b") as file:
            file.seek(offset)
            file.write(byte)
    assert changed("diff", "--exit-code", "box").status == 0


def test_what_was_renamed_and_applied_stays_where_it_is(changed: Applied) -> None:
    """Of renamed files the layer has no contents: it had them from the old names, which are gone now."""
    project = changed.project
    (project / "tree" / "x").mkdir(parents=True)
    for name in ("one", "two", "x/deep", "x/er"):
        (project / "tree" / name).write_text(name)
    changed.start()
    changed.sh("mv tree trunk; mv trunk/x trunk/y; mv file moved; echo more >>trunk/one; chmod 600 moved")
    changed.apply()
    applied = snapshot(project)
    assert not (project / "tree").exists() and (project / "trunk" / "y" / "deep").read_text() == "x/deep"
    assert changed("diff", "--name-only", "box").out == "" and changed.apply() == ""
    assert changed("stop", "-t", "0", "box").status == 0
    # from now on out of the layer; the contents that it has itself are shown once more
    assert changed.apply().splitlines() in ([], [f"M  {project}/trunk/one"])
    assert snapshot(project) == applied
    again = changed("run", "--from", "box", "--", "sh", "-c", "cat moved trunk/* trunk/y/*; rm trunk/two")
    assert again.out == (project / "moved").read_text() + "onemore\ntwox/deepx/er", again
    assert changed.apply("--undo").count("undone") and (project / "tree" / "two").exists()


def test_all_is_applied_and_all_is_undone(changed: Applied) -> None:
    project = changed.project
    before = snapshot(project)
    os.utime(project / "script", ns=(5, 5))
    changed.start()
    changed.sh(WORK)
    dry = changed.apply("--dry-run")
    assert snapshot(project) == before
    out = changed.apply()
    assert sorted(out.splitlines()) == sorted(dry.splitlines())
    after = snapshot(project)
    inside = changed.sh("find . -mindepth 1 -printf '%P %m\\n' | sort")
    assert "\n".join(sorted(inside.splitlines())) == "\n".join(
        sorted(f"{name} {stat.S_IMODE(mode):o}" for name, (mode, _data) in after.items())
    ).encode(errors="surrogateescape").decode(errors="replace")
    assert after["file"][1] == b"host\nmore\n" and after["moved"][1] == before["script"][1]
    assert changed.diff() == "" and changed.json() == []  # the host has all changes now
    done = changed("apply", "--undo", "box")
    assert done.status == 0 and not done.err, done
    assert snapshot(project) == before
    assert (project / "script").stat().st_mtime_ns == 5
    done = changed("apply", "--undo", "box")
    assert done.status == 125 and is_one_line(done.err), done


def test_files_and_directories_that_take_each_other_s_place(changed: Applied, tmp_path: Path) -> None:
    project = changed.project
    for name in ("to-file", "to-link", "moved"):
        (project / name / "deep").mkdir(parents=True)
        (project / name / "deep" / "x").write_text(f"{name}\n")
    for name in ("to-directory", "later"):
        (project / name).write_text(f"{name}\n")
    (project / "link").symlink_to("to-link")
    before = snapshot(project)
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    changed.start()
    changed.sh(
        "rm -r to-file to-link; echo file >to-file; ln -s file to-link; rm to-directory link later;"
        "mkdir to-directory link later; echo new >to-directory/x; echo new >link/x"
    )
    (project / "later").write_text("by the host\n")
    done = changed("apply", "box")
    assert done.status == 1, done
    assert len(done.err.splitlines()) == 2 and done.err.count("/later: the host has changed it, too") == 2, (
        done
    )
    assert (project / "later").read_text() == "by the host\n"
    after = snapshot(project)
    assert after["to-file"][1] == b"file\n" and after["to-link"][1] == b"file"
    assert after["to-directory/x"][1] == after["link/x"][1] == b"new\n"
    assert {row["path"] for row in changed.json()} == {f"{project}/later"}
    done = changed("apply", "--undo", "box")
    assert done.status == 0, done
    (project / "later").write_text("later\n")
    assert snapshot(project) == before
    done = changed("apply", "--to", str(copy), "box")
    assert done.status == 0, done
    (project / "later").unlink()
    assert (copy / "later").is_dir() and snapshot(copy).items() >= {
        k: after[k] for k in after if k != "later"
    }.items()


def test_what_the_host_has_in_place_of_a_deleted_file_stays(changed: Applied) -> None:
    project = changed.project
    (project / "gone").write_text("x")
    changed.start()
    changed.sh("rm gone")
    assert changed("stop", "box").status == 0
    (project / "gone").unlink()
    (project / "gone").mkdir()
    done = changed("apply", "box")
    assert done.status == 1 and is_one_line(done.err) and "the host has changed it, too" in done.err, done
    assert (project / "gone").is_dir()


def test_chosen_paths_and_another_directory(changed: Applied, tmp_path: Path) -> None:
    project = changed.project
    (project / "other").write_text("host\n")
    changed.start()
    changed.sh("echo more >>file; echo more >>other; mkdir d; echo x >d/x")
    changed.apply("file", "d/x")
    assert (project / "file").read_text() == "host\nmore\n" and (project / "d" / "x").exists()
    assert (project / "other").read_text() == "host\n"
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("other", "file"):
        (copy / name).write_text("host\n")
    (copy / "file").write_text("not the same\n")
    done = changed("apply", "--to", str(copy), "box")
    assert done.status == 1 and "not what the sandbox began with" in done.err and is_one_line(done.err), done
    assert (copy / "other").read_text() == "host\nmore\n" and (copy / "file").read_text() == "not the same\n"
    assert (copy / "d" / "x").read_text() == "x\n" and (project / "other").read_text() == "host\n"


def test_conflicts_are_refused_unless_told(changed: Applied) -> None:
    project = changed.project
    (project / "fine").write_text("host\n")
    changed.start()
    changed.sh("for each in file fine new; do echo guest >>$each; done; rm script; rm -r sub")
    for name in ("file", "new", "script", "sub/another"):
        (project / name).write_text("host has it\n")
    done = changed("apply", "box")
    assert done.status == 1 and done.err.count("left alone") == 4, done
    assert [(project / name).read_text() for name in ("file", "new", "script")] == ["host has it\n"] * 3
    assert (project / "fine").read_text() == "host\nguest\n" and (project / "sub" / "another").exists()
    changed("apply", "--undo", "box")
    assert (project / "fine").read_text() == "host\n" and (project / "sub" / "deep").read_text() == "deep\n"
    done = changed("apply", "--force", "box")
    assert (project / "file").read_text() == "host\nguest\n" and not (project / "script").exists()
    assert changed("apply", "--undo", "box").status == 0
    assert [(project / name).read_text() for name in ("file", "new", "script")] == ["host has it\n"] * 3


def test_what_came_after_is_not_undone(changed: Applied) -> None:
    project = changed.project
    changed.start()
    changed.sh("echo more >>file; echo x >new")
    changed.apply()
    (project / "file").write_text("mine\n")
    done = changed("apply", "--undo", "box")
    assert done.status == 1 and "changed since" in done.err and is_one_line(done.err), done
    assert (project / "file").read_text() == "mine\n" and not (project / "new").exists()
    assert changed("apply", "--undo", "--force", "box").status == 0
    assert (project / "file").read_text() == "host\n"


def test_a_hostile_layer_against_a_target_full_of_links(changed: Applied, tmp_path: Path) -> None:
    project = changed.project
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "passwd").write_text("safe\n")
    (project / "plain").mkdir()
    (project / "plain" / "passwd").write_text("host\n")
    changed.start()
    changed.sh(
        "mkdir d e loop; echo evil >d/passwd; echo evil >e/passwd; echo evil >f; echo evil >loop/x; echo evil >plain/passwd;"
        f"ln -s {victim} out; printf evil >\"$(printf '\\033]0;x\\007')\""
    )
    # The host has links now where the sandbox had directories and files.
    (project / "d").symlink_to(victim)
    (project / "e").symlink_to("../victim")
    (project / "f").symlink_to(victim / "passwd")
    (project / "loop").symlink_to("loop")
    shutil.rmtree(project / "plain")
    (project / "plain").symlink_to(victim)
    for force in ([], ["--force"]):
        done = changed("apply", *force, "box")
        assert done.status == 1 and "\x1b" not in done.err + done.out and "Traceback" not in done.err, done
        assert (victim / "passwd").read_text() == "safe\n" and os.listdir(victim) == ["passwd"], done
    # The link itself was replaced
    assert not (project / "f").is_symlink() and (project / "f").read_text() == "evil\n"
    changed("apply", "--undo", "--force", "box")
    assert (victim / "passwd").read_text() == "safe\n" and os.listdir(victim) == ["passwd"]
    assert not list(project.rglob(".cloche-new-*"))


def test_no_set_ids_no_devices_no_owners_unless_asked_for(changed: Applied) -> None:
    if os.geteuid():
        pytest.skip("only root makes devices")
    project = changed.project
    os.chown(project / "file", 4242, 4243)
    changed.start("--cap-add", "MKNOD")
    changed.sh("cp /bin/true suid; chown 1:2 suid; chmod 6755 suid; mknod dev c 1 3; echo x >>file")
    done = changed("apply", "box")
    assert done.status == 1 and "a device" in done.err and is_one_line(done.err), done
    st = (project / "suid").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o755, 0, 0)
    st = (project / "file").stat()
    assert (st.st_uid, st.st_gid) == (4242, 4243)  # its owner stays
    assert not (project / "dev").exists()
    changed("apply", "--undo", "box")
    assert not (project / "suid").exists()
    changed.apply("--owners", "--set-ids", "--devices", "suid", "dev")
    st = (project / "suid").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o6755, 1, 2)
    assert stat.S_ISCHR((project / "dev").stat().st_mode)


def attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


def test_extended_attributes_stay_the_host_s_unless_asked_for(changed: Applied) -> None:
    project = changed.project
    try:
        os.setxattr(project / "file", "user.kept", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    changed.start()
    program = (
        "import os; open('file', 'a').write('more'); os.setxattr('file', 'user.inside', b'2');"
        "os.removexattr('file', 'user.kept'); os.setxattr('script', 'user.only', b'3');"
        "open('new', 'w'); os.setxattr('new', 'user.new', b'4')"
    )
    changed.sh(f'python3 -c "{program}"')
    before = snapshot(project)
    assert "# " + str(project / "script") + ": extended attributes changed\n" in changed("diff", "box").out
    changed.apply()
    assert attributes(project / "file") == {"user.kept": b"1"}
    assert attributes(project / "script") == attributes(project / "new") == {}
    changed.apply("--undo")
    said = changed.apply("--attributes")
    assert attributes(project / "file") == {"user.inside": b"2"}
    assert attributes(project / "script") == {"user.only": b"3"}
    assert attributes(project / "new") == {"user.new": b"4"}
    assert "script" in said
    changed.apply("--undo")
    assert snapshot(project) == before
    assert attributes(project / "file") == {"user.kept": b"1"} and attributes(project / "script") == {}


def test_what_git_would_run_is_left_out(changed: Applied) -> None:
    project = changed.project
    (project / ".git" / "hooks").mkdir(parents=True)
    (project / ".git" / "config").write_text("[core]\n")
    changed.start()
    changed.sh("echo evil >.git/hooks/pre-commit; echo evil >>.git/config; echo fine >.git/index")
    done = changed("apply", "box")
    assert done.status == 1 and done.err.count("--hooks applies it") == 2, done
    assert sorted(os.listdir(project / ".git")) == ["config", "hooks", "index"]
    assert (project / ".git" / "config").read_text() == "[core]\n" and not os.listdir(
        project / ".git" / "hooks"
    )
    changed.apply("--hooks")
    assert os.listdir(project / ".git" / "hooks") == ["pre-commit"]


def test_asking_for_each_part(changed: Applied) -> None:
    project = changed.project
    lines = [f"line {number}\n" for number in range(60)]
    (project / "text").write_text("".join(lines))
    changed.start()
    changed.sh(
        "sed -i '5s/$/ one/; 30s/$/ two/; 55s/$/ three/' text; echo a >a; echo b >b; mkdir c; echo c >c/c"
    )
    out = changed.apply("-i", stdin=b"n\ny\nn\nx\ny\nn\ny\n")
    assert "[y,n,q,?]" in out and "(2/3)" in out and "y: yes" in out
    got = (project / "text").read_text().splitlines()
    assert [got[4], got[29], got[54]] == ["line 4 one", "line 29", "line 54 three"], got
    assert not (project / "a").exists() and (project / "b").exists() and not (project / "c").exists()
    changed("apply", "--undo", "box")
    assert (project / "text").read_text() == "".join(lines)
    changed.apply("-i", stdin=b"y\nq\n")
    assert (project / "a").exists() and not (project / "b").exists()
    changed.apply("-i", "text", stdin=b"a\n")
    assert (project / "text").read_text().count(" two") == 1


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ("", "a c c/d c/d/e"),
        ("a/x a b/y c/d/e", "a a/x b b/y"),
        ("a", "c c/d c/d/e"),  # the new file, not the directory
        ("b/y c/d/e", "a b b/y"),
    ],
)
def test_a_directory_goes_with_what_is_in_it(changed: Applied, refused: str, left: str) -> None:
    """What is not chosen stays with its directory, also where another thing has the same name."""
    project = changed.project
    for name in ("a/x", "b/y"):
        (project / name).parent.mkdir()
        (project / name).write_text(name)
    changed.start()
    changed.sh("rm -r a b; echo file >a; mkdir -p c/d; echo e >c/d/e")
    shown = [line.split("\t")[-1].removeprefix(f"{project}/") for line in changed.kinds()]
    assert shown == ["a/x", "a", "b/y", "c/d/e"]
    changed.apply("-i", stdin="".join("n\n" if name in refused.split() else "y\n" for name in shown).encode())
    assert [name for name in snapshot(project) if name[0] in "abc"] == left.split()
    assert (project / "a").is_dir() == ("a/x" in refused)


def test_large_and_sparse_files(changed: Applied) -> None:
    changed.start()
    changed.sh(
        "truncate -s 5g huge; printf end | dd of=huge bs=1 seek=4999999999 conv=notrunc 2>/dev/null; dd if=/dev/urandom of=big bs=1M count=12 2>/dev/null"
    )
    changed.apply()
    st = (changed.project / "huge").stat()
    assert st.st_size == 5 << 30 and st.st_blocks < 2000
    want = changed.sh("sha256sum big").split()[0]
    assert subprocess.check_output(["sha256sum", changed.project / "big"]).split()[0].decode() == want


def test_killed_in_the_middle_it_is_undone(changed: Applied) -> None:
    project = changed.project
    (project / "many").mkdir()
    for number in range(300):
        (project / "many" / f"f{number}").write_text("host\n")
    before = snapshot(project)
    changed.start()
    changed.sh(
        "cd many; for each in *; do echo guest >$each; done; for each in 1 2 3 4 5; do echo x >../new$each; done"
    )
    process = subprocess.Popen(
        [*changed.words, "apply", "box"],
        cwd=project,
        env=environment(XDG_STATE_HOME=str(changed.state), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    for _ in range(40):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.read()
    process.wait()
    for path in (project / "many").iterdir():
        assert path.read_text() in ("host\n", "guest\n") or path.name.startswith(".cloche-new-")
    done = changed("apply", "--undo", "box")
    assert done.status == 0, done
    left = {name for name in snapshot(project) if ".cloche-new-" in name}
    assert len(left) <= 1
    assert {name: what for name, what in snapshot(project).items() if name not in left} == before


def test_the_sandbox_may_be_gone_when_it_is_undone(changed: Applied) -> None:
    changed.start()
    changed.sh("echo more >>file")
    changed.apply()
    changed("rm", "-f", "box")
    assert changed("apply", "--undo", "box").status == 0
    assert (changed.project / "file").read_text() == "host\n"


@pytest.mark.parametrize(
    "words",
    [("none",), ("box", "--to", "/nothing"), ("box", "--undo", "x"), ("box", "--to", "/tmp", "a", "b")],
)
def test_mistakes_are_told_in_one_line(changed: Applied, words: tuple[str, ...]) -> None:
    changed.start()
    done = changed("apply", *words)
    assert done.status == 125 and is_one_line(done.err), done
    assert changed("apply", "box").status == 0  # nothing has changed
