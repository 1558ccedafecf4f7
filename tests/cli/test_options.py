"""Every option of `cloche run` does what its help says."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from cloche.platform import kvm_capabilities
from tests.cli.harness import (
    CLOCHE,
    IS_ROOT,
    TIMEOUT_S,
    cloche_words,
    environment,
    is_one_line,
    run,
    run_words,
    shell,
)


# -- the platform --------------------------------------------------------------------------------------------------
def test_the_platform_kvm_where_it_cannot_be() -> None:
    problem = kvm_capabilities.problem()
    if not problem:
        pytest.skip("KVM is here")
    done = run("true", options=("--platform", "kvm"))
    assert done.status == 125 and is_one_line(done.err) and problem in done.err, done


def test_a_platform_that_is_none() -> None:
    done = run("true", options=("--platform", "ptrace"))
    assert done.status == 125 and is_one_line(done.err) and "systrap" in done.err, done


# -- the root --------------------------------------------------------------------------------------------------
def test_rootfs(rootfs: Path) -> None:
    done = shell("echo $0; ls /; touch /made; ls /made; cat /etc/passwd; pwd", "--rootfs", str(rootfs))
    assert done.status == 0, done
    lines = done.out.split()
    assert "/made" in lines and "proc" in lines and "dev" in lines and "usr" not in lines
    assert lines[-1] == "/"
    assert sorted(os.listdir(rootfs)) == ["bin", "etc", "home", "tmp"]


def test_rootfs_without_the_interpreter(rootfs: Path) -> None:
    for command in ("dynamic", "/bin/dynamic"):
        done = run(command, options=("--rootfs", str(rootfs)))
        assert done.status == 127 and is_one_line(done.err), done
        assert "ld-linux-x86-64.so.2" in done.err
    done = run("script", options=("--rootfs", str(rootfs)))
    assert done.status == 127 and is_one_line(done.err) and "/bin/nothere" in done.err, done


def test_a_program_that_leads_out(tmp_path: Path) -> None:
    """As the Python of a virtual environment may; what a guest wrote does not reach the terminal as it is."""
    (tmp_path / "python").symlink_to("python3")
    (tmp_path / "python3").symlink_to("/elsewhere/bin/python3")
    (tmp_path / "script").write_text(f"#!{tmp_path}/python\n")
    (tmp_path / "strange").write_bytes(b"#!/\x1b[31m\n")
    for name in ("script", "strange"):
        (tmp_path / name).chmod(0o755)
    for name in ("python", "script"):
        done = run(f"./{name}", cwd=tmp_path)
        assert done.status == 127 and is_one_line(done.err), done
        assert "leads to '/elsewhere/bin/python3', which the sandbox does not have" in done.err, done
    done = run("./strange", cwd=tmp_path)
    assert done.status == 127 and is_one_line(done.err) and "\x1b" not in done.err, done


def test_rootfs_that_is_none() -> None:
    done = run("true", options=("--rootfs", "/etc/passwd"))
    assert done.status == 125 and is_one_line(done.err), done


def test_rootfs_with_links_that_point_out(tmp_path: Path, rootfs: Path) -> None:
    """A link of the image is followed inside of it."""
    link = rootfs / "etc" / "outside"
    if not link.is_symlink():
        link.symlink_to("/etc/hostname")
    done = shell("cat /etc/outside; ls /etc/../../../etc", "--rootfs", str(rootfs))
    assert done.out.split() == ["outside", "passwd"], done


# -- volumes ---------------------------------------------------------------------------------------------------
def volume_cases() -> list[tuple[str, bool, bool]]:
    """(mode, whether the guest may write, whether the host sees it)."""
    return [("ro", False, False), ("rw", True, True), ("cow", True, False), ("", True, False)]


@pytest.mark.parametrize(("mode", "may_write", "is_seen"), volume_cases())
def test_volume_directory(project: Path, mode: str, may_write: bool, is_seen: bool) -> None:
    script = "cd /mnt/v; cat file; echo guest > file; echo new > new; rm sub/deep; mv script moved; cat file"
    done = shell(script, "-v", f"{project}:/mnt/v" + (f":{mode}" if mode else ""), cwd=Path("/"))
    assert done.out.split() == (["host", "guest"] if may_write else ["host", "host"]), done
    assert (project / "file").read_text() == ("guest\n" if is_seen else "host\n")
    assert (project / "new").exists() == is_seen
    assert (project / "sub" / "deep").exists() != is_seen
    assert (project / "moved").exists() == is_seen
    if not may_write:
        assert done.err.count("Read-only file system") == 4, done


@pytest.mark.parametrize(("mode", "may_write", "is_seen"), volume_cases())
def test_volume_file(project: Path, mode: str, may_write: bool, is_seen: bool) -> None:
    file = project / "file"
    done = shell("cat /some/where; echo guest > /some/where; cat /some/where; rm /some/where",
                 "-v", f"{file}:/some/where" + (f":{mode}" if mode else ""), cwd=Path("/"))  # fmt: skip
    assert done.out.split() == ["host", "guest" if may_write else "host"], done
    assert file.read_text() == ("guest\n" if is_seen else "host\n")


def test_volumes_over_files_of_the_view(project: Path) -> None:
    """/etc/hosts and the like are made for the sandbox: never by writing into a volume that is there instead."""
    hosts, etc = project / "hosts", project / "etc"
    hosts.write_text("mine\n")
    etc.mkdir()
    for mode in ("rw", "cow", "ro"):
        done = run("cat", "/etc/hosts", cwd=project, options=("-v", f"{hosts}:/etc/hosts:{mode}"))
        assert done.out == hosts.read_text() == "mine\n", done
        done = run("ls", "-A", "/etc", cwd=project, options=("-v", f"{etc}:/etc:{mode}"))
        assert done.status == 0 and done.out == "" and not list(etc.iterdir()), done


def test_rw_volume_shows_what_the_host_changes(project: Path) -> None:
    fifo_out, fifo_in = os.pipe()
    process = subprocess.Popen(
        [*cloche_words("-v", f"{project}:/v:rw"), "sh", "-c", "cat /v/file; echo ready; read x; cat /v/file /v/added"],
        stdin=fifo_out, stdout=subprocess.PIPE, env=environment(), cwd="/")  # fmt: skip
    os.close(fifo_out)
    assert process.stdout is not None
    assert [process.stdout.readline() for _line in range(2)] == [b"host\n", b"ready\n"]
    (project / "file").write_text("changed\n")
    (project / "added").write_text("added\n")
    os.write(fifo_in, b"\n")
    os.close(fifo_in)
    assert process.communicate(timeout=TIMEOUT_S)[0] == b"changed\nadded\n"


def test_rw_volume_keeps_owner_and_mode(project: Path) -> None:
    shell(
        "umask 027; mkdir /v/d; echo > /v/d/f; chmod 604 /v/d/f; ln -s f /v/d/l; ln /v/d/f /v/d/h",
        "-v",
        f"{project}:/v:rw",
    )
    made = project / "d"
    assert made.stat().st_mode & 0o777 == 0o750 and made.stat().st_uid == os.geteuid()
    assert (made / "f").stat().st_mode & 0o777 == 0o604 and (made / "f").stat().st_nlink == 2
    assert os.readlink(made / "l") == "f"


def test_volumes_stack(project: Path) -> None:
    done = shell(
        "cat /v/sub/deep; echo x > /v/sub/deep",
        "-v",
        f"{project}:/v:ro",
        "-v",
        f"{project / 'sub'}:/v/sub:rw",
    )
    assert done.status == 0 and (project / "sub" / "deep").read_text() == "x\n", done


@pytest.mark.parametrize("text", ["", "/a", "a:b", ":/b", "/nothere:/b", "/etc:/b:zz", "/etc:/"])
def test_volume_usage(text: str) -> None:
    done = run("true", options=("-v", text))
    assert done.status == 125 and is_one_line(done.err), done


def test_volume_with_sockets_shows_none_that_can_be_used(tmp_path: Path) -> None:
    """A socket of the host cannot be connected to through a volume."""
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    code = "import socket; s=socket.socket(socket.AF_UNIX); s.connect('/v/s'); print('connected')"
    done = run("/usr/bin/python3", "-c", code, options=("-v", f"{tmp_path}:/v:rw"))
    assert "connected" not in done.out and done.status == 1, done


# -- environment, directory, user -------------------------------------------------------------------------------
def test_env(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nFROM_FILE=a b=c\n\nBOTH=file\nHOSTS\n")
    options = ("-e", "A=1", "-e", "EMPTY=", "-e", "BOTH=option", "-e", "SECRET", "--env-file", str(file))
    done = run("env", options=options, SECRET="asked for", HOSTS="too", OTHER="hidden")
    lines = done.out.splitlines()
    for line in ("A=1", "EMPTY=", "BOTH=option", "SECRET=asked for", "FROM_FILE=a b=c", "HOSTS=too"):
        assert line in lines, done
    assert "hidden" not in done.out


def test_nothing_of_the_hosts_environment_gets_in() -> None:
    done = run(
        "env", SECRET="x", AWS_SECRET_ACCESS_KEY="x", LD_PRELOAD_="x", LC_ALL="C.UTF-8", TERM="dumb", LANG="C"
    )
    names = {line.partition("=")[0] for line in done.out.splitlines()}
    assert {"PATH", "HOME", "USER", "TERM", "LANG", "LC_ALL"} <= names
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ", "NO_COLOR",
               "COLUMNS", "LINES"}  # fmt: skip
    assert not {name for name in names - allowed if not name.startswith("LC_")}, done


def test_a_line_of_an_env_file_that_is_no_variable(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("  # comment\n\n  A=x y \nB\n")
    done = shell('echo "$A."', "--env-file", str(file))
    assert done.out == "x y .\n" and done.status == 0, done
    file.write_text("A=1\nexport B=2\n")
    done = shell("true", "--env-file", str(file))
    assert done.status == 125 and is_one_line(done.err) and "export B" in done.err, done


@pytest.mark.parametrize("options", [("-e", "=x"), ("--env-file", "/nothere")])
def test_env_usage(options: tuple[str, ...]) -> None:
    done = run("true", options=options)
    assert done.status == 125 and is_one_line(done.err), done


def test_workdir(tmp_path: Path) -> None:
    assert run("pwd", options=("-w", "/usr/lib")).out == "/usr/lib\n"
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    options = ("-v", f"{tmp_path}/closed:/closed", "-u", "65534:65534", "-w", "/closed/inner")
    done = run(
        "sh", "-c", "pwd; cat ../inner/x", options=options
    )  # entered before the change of the user, as in Docker
    assert done.out == "/closed/inner\n" and "Permission denied" in done.err, done
    done = run("true", options=("-w", "relative"))
    assert done.status == 125 and is_one_line(done.err)
    for missing in ("/nothere", "/etc/passwd"):
        done = run("true", options=("-w", missing))
        assert done.status == 125 and is_one_line(done.err) and missing in done.err, done


def test_current_directory(project: Path) -> None:
    done = shell("pwd; cat file; ./script arg", cwd=project)
    assert done.out == f"{project}\nhost\nscript arg\n", done


def test_user() -> None:
    assert run("id", "-u", options=("-u", "1234")).out == "1234\n"
    done = shell("id -u; id -g; id -G; touch ~/x && echo home; touch /usr/x", "-u", "1234:5678")
    assert done.out.split() == ["1234", "5678", "5678", "home"] and "Permission denied" in done.err, done
    assert run("id", "-u").out == f"{os.geteuid()}\n"
    assert shell("grep ^Cap /proc/self/status | cut -f2 | sort -u", "-u", "1234").out.split()[0] == "0" * 16


@pytest.mark.parametrize("text", ["root", "1:", ":1", "-1", "4294967295", "1:2:3"])
def test_user_usage(text: str) -> None:
    done = run("true", options=(f"--user={text}",))
    assert done.status == 125 and is_one_line(done.err), done


def test_hostname() -> None:
    assert run("uname", "-n").out == "cloche\n"
    done = shell(
        "uname -n; cat /etc/hostname /proc/sys/kernel/hostname; grep -c box.example /etc/hosts",
        "--hostname",
        "box.example",
    )
    assert done.out.split() == ["box.example"] * 3 + ["1"], done
    assert run("true", options=("--hostname", "a b")).status == 125


# -- limits -------------------------------------------------------------------------------------------------------
def test_memory() -> None:
    """Memory, files in memory, and both together end at the limit; less than it works."""
    small = "x = b'x' * (20 << 20); print('ok')"
    assert run("/usr/bin/python3", "-c", small, options=("--memory", "64m")).out == "ok\n"
    # what is looked at again and again must be there long enough to be seen
    large = "import time; x = b'x' * (300 << 20); time.sleep(60); print('ok')"
    done = run("/usr/bin/python3", "-c", large, options=("--memory", "64m"), timeout=TIMEOUT_S)
    assert done.status == 137 and "memory limit" in done.err and done.out == "", done
    done = shell("head -c 100m /dev/zero > /tmp/x; wc -c < /tmp/x", "--memory", "64m")
    assert "No space left" in done.err and int(done.out) <= 64 << 20, done
    script = "head -c 50m /dev/zero > /tmp/x; /usr/bin/python3 -c \"import time; x = b'x' * (40 << 20); time.sleep(60)\"; echo $?"
    assert shell(script, "--memory", "64m").out == "137\n"
    done = shell("free -b | awk '/Mem:/ {print $2}'", "--memory", "64m")
    assert done.out in ("67108864\n", ""), done


@pytest.mark.parametrize("text", ["x", "0", "-5", "5q", ""])
def test_memory_usage(text: str) -> None:
    if text:
        done = run("true", options=(f"--memory={text}",))
        assert done.status == 125 and is_one_line(done.err), done


def test_pids() -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 20 & done; echo all"
    done = run("bash", "-c", script, options=("--pids", "6"), timeout=TIMEOUT_S)
    assert "all" not in done.out or "fork" in done.err, done
    assert run("bash", "-c", "true & wait; echo ok", options=("--pids", "6")).out == "ok\n"
    assert run("true", options=("--pids", "0")).status == 125
    done = run("true", options=("--pids", "x"))
    assert done.status == 125 and is_one_line(done.err), done


def test_fork_bomb_ends_with_the_timeout() -> None:
    done = run(
        "bash",
        "-c",
        "f() { f | f & }; f; wait",
        options=("--pids", "50", "--timeout", "2"),
        timeout=TIMEOUT_S,
    )
    assert done.status in (0, 124, 254), done


def test_timeout() -> None:
    done = run("sleep", "30", options=("--timeout", "0.5"), timeout=TIMEOUT_S)
    assert done.status == 124 and is_one_line(done.err), done
    assert (
        run(
            "sh",
            "-c",
            "trap '' TERM INT; while :; do :; done",
            options=("--timeout", "0.5"),
            timeout=TIMEOUT_S,
        ).status
        == 124
    )
    assert run("true", options=("--timeout", "30")).status == 0
    for text in ("0", "-1", "x"):
        done = run("true", options=(f"--timeout={text}",))
        assert done.status == 125 and is_one_line(done.err), done


def test_read_only(project: Path) -> None:
    script = """
    for f in /x /usr/x /etc/x ./x ~/x /var/tmp/x /run/x /bin/x; do
        if touch $f 2>/dev/null; then echo $f; fi
    done
    rm -f file; ls file
    for f in /tmp/x /dev/shm/x /v/x; do touch $f && echo $f; done
    """
    done = shell(script, "--read-only", "-v", f"{project}:/v", cwd=project)
    assert done.out.split() == ["file", "/tmp/x", "/dev/shm/x", "/v/x"], done


@pytest.mark.parametrize("mode", ["strict", "direct"])
def test_mm(mode: str) -> None:
    code = "import mmap, threading; m = mmap.mmap(-1, 1 << 20); m[5] = 7; x = [bytes(9 << 20) for _ in range(9)]; print(m[5])"
    done = run("/usr/bin/python3", "-c", code, options=("--mm", mode, "--platform", "systrap"))
    assert done.out == "7\n" and done.status == 0, done


def test_strace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = shell("echo hello; cat /nothere; exit 3", f"--strace={log}")
    assert done.status == 3 and done.out == "hello\n" and done.err.count("\n") == 1, done
    text = log.read_text()
    for part in (
        'write(1, "hello\\n", 6) = 6',
        'openat(AT_FDCWD, "/nothere", O_RDONLY',
        "-1 ENOENT (No such file",
        "exit_group(3) = ?",
    ):
        assert part in text, text
    for options in (("--strace",), ("--strace", "-e", "A=1")):
        done = run("echo", "x", options=options)
        assert done.out == "x\n" and "exit_group(0) = ?" in done.err, done
    assert not os.path.exists("echo")
    done = run("true", options=("--strace=/nothere/x",))
    assert done.status == 125 and is_one_line(done.err), done


def test_log_level(tmp_path: Path) -> None:
    for level in ("debug", "info", "warning", "error"):
        assert run("true", options=("--log-level", level), cwd=tmp_path).status == 0
    assert "seccomp" in run("true", options=("--log-level", "debug"), cwd=tmp_path).err
    assert run("true", options=("--log-level", "warning"), cwd=tmp_path).err == ""
    done = run("true", options=("--log-level", "loud"))
    assert done.status == 125 and is_one_line(done.err), done
    # A home directory is not shown; a line reports it unless only errors are asked for.
    home = Path("~").expanduser()
    assert "not shown" in run("true", cwd=home).err
    assert run("true", options=("--log-level", "error"), cwd=home).err == ""


# -- words ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        ["--bad"],
        ["-x", "true"],
        [],
        ["--"],
        ["--mem", "5m", "--", "true"],
        ["--platform", "kvm", "--", "true"],
    ],
)
def test_usage_errors(words: list[str]) -> None:
    from tests.cli.harness import CLOCHE, run_words

    done = run_words([*CLOCHE, "run", *words])
    assert done.status == 125 and is_one_line(done.err) and done.out == "", done


def test_words_of_the_command_are_its_own() -> None:
    from tests.cli.harness import CLOCHE, run_words

    assert run_words([*CLOCHE, "run", "echo", "-e", "--strace", "--", "-u"]).out == "--strace -- -u\n"
    assert run_words([*CLOCHE, "run", "-e", "A=1", "--", "printenv", "A"]).out == "1\n"
    assert run_words([*CLOCHE, "run", "--strace=/dev/null", "echo", "--strace"]).out == "--strace\n"
    assert run_words([*CLOCHE, "run", "--help"]).status == 0
    assert run_words([*CLOCHE, "--version"]).out.startswith("cloche ")
    for words in (["nosuch"], ["--bad"]):
        done = run_words([*CLOCHE, *words])
        assert done.status == 125 and is_one_line(done.err), done


def test_arguments_that_are_not_text(tmp_path: Path) -> None:
    argument = os.fsdecode(b"\xff\xfe *'\"\n")
    done = subprocess.run([*cloche_words("-e", "V=" + argument), "sh", "-c", 'printf %s "$1$V"', "x", argument],
                          capture_output=True, env=environment(), check=False, cwd=tmp_path)  # fmt: skip
    assert done.stdout == b"\xff\xfe *'\"\n" * 2, done


def test_directory_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff \xe4"
    os.mkdir(folder)
    done = subprocess.run(
        [*cloche_words(), "pwd"], cwd=folder, capture_output=True, env=environment(), check=False
    )
    assert done.stdout == folder + b"\n", done


def test_root_and_its_capabilities() -> None:
    if not IS_ROOT:
        pytest.skip("needs root")
    done = shell(
        "id -u; mkdir /newdir && chown 5:6 /newdir && stat -c %u:%g /newdir; mknod /tmp/n c 1 3; mount -t tmpfs x /mnt; echo $?"
    )
    assert done.out.split()[:2] == ["0", "5:6"] and done.out.split()[-1] != "0", done


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--memory", "9" * 5000, "--", "true"],
        ["run", "--memory", "9999999999999t", "--", "true"],
        ["run", "--log-size", "٣m", "--", "true"],
        ["run", "-u", "9" * 5000, "--", "true"],
        ["run", "-u", "²", "--", "true"],
        ["run", "--pids", "9" * 30, "--", "true"],
        ["run", "--pids", "9" * 5000, "--", "true"],
        ["run", "--cpus", "nan", "--", "true"],
        ["run", "--timeout", "nan", "--", "true"],
        ["run", "--timeout", "inf", "--", "true"],
        ["run", "--timeout", "1e300", "--", "true"],
        ["run", "-p", "9" * 5000 + ":80", "--", "true"],
        ["stop", "-t", "nan", "nothing"],
        ["kill", "-s", "9" * 5000, "nothing"],
        ["kill", "-s", "²", "nothing"],
        ["kill", "-s", "RTMIN+" + "9" * 5000, "nothing"],
        ["exec", "-u", "9" * 5000, "nothing", "--", "true"],
    ],
)
def test_numbers_that_are_none(words: list[str], tmp_path: Path) -> None:
    """One line and no traceback for any text in the place of a number."""
    done = run_words([*CLOCHE, "--root", str(tmp_path / "root"), *words])
    assert done.status == 125 and is_one_line(done.err), done
