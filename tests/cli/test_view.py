"""The files of the host that a program sees by default, and that it cannot change any of them."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.harness import IS_ROOT, run, shell


def test_top_of_the_tree(project: Path) -> None:
    names = set(run("ls", "/", cwd=project).out.split())
    hosts = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt", "etc"}
    own = {"boot", "dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "var"}
    assert names - hosts - own <= {project.parts[1]}, names
    for empty in ("/boot", "/mnt", "/media"):
        assert run("ls", "-A", empty, cwd=project).out == ""


def test_neither_homes_nor_keys(project: Path) -> None:
    keys = Path("~/.ssh").expanduser()
    made = not keys.exists()
    if made:
        keys.mkdir(mode=0o700)
    try:
        done = shell("ls -A ~; cat ~/.ssh/id_rsa; ls -d ~/.ssh; ls -A /root /home/*/* 2>&1", cwd=project)
    finally:
        if made:
            keys.rmdir()
    assert ".ssh" not in done.out, done
    # Of /home only one's own, empty; unless the project itself is in there.
    if not str(project).startswith("/home"):
        own = Path("~").expanduser().parts
        homes = shell("ls -A /home", cwd=project).out.split()
        assert set(homes) <= {own[2] if len(own) > 2 else ""}, homes
    if IS_ROOT:
        assert shell("ls -A /root", cwd=project).out == ""


def test_current_directory_that_is_a_home() -> None:
    home = Path("~").expanduser()
    done = shell("pwd; ls -A", cwd=home)
    assert done.out == f"{home}\n" and "not shown" in done.err, done


@pytest.mark.parametrize("folder", ["/", "/tmp", "/etc", "/usr/lib", "/var", "/proc", "/dev", "/run"])
def test_starting_in_a_system_directory(folder: str) -> None:
    marker = Path(f"/tmp/cloche-test-marker-{os.getpid()}")
    marker.write_text("x")
    try:
        done = shell("ls -A; pwd; ls /tmp", cwd=Path(folder))
    finally:
        marker.unlink()
    assert done.status == 0 and "cloche-test-marker" not in done.out, done


def test_sanitised_etc() -> None:
    secret = (
        "/etc/shadow /etc/shadow- /etc/gshadow /etc/sudoers /etc/sudoers.d /etc/ssh /etc/ssl/private /etc/machine-id \
              /etc/fstab /etc/crontab /etc/krb5.keytab /etc/NetworkManager /etc/wireguard /etc/docker /etc/kubernetes \
              /etc/security/opasswd /etc/npmrc /etc/pip.conf /etc/mysql"
    )
    done = shell(f"ls -d {secret}; true")
    assert done.out == "", done
    done = shell("cat /etc/passwd /etc/group /etc/hosts /etc/hostname /etc/resolv.conf")
    assert socket.gethostname() not in done.out.split() or socket.gethostname() == "localhost"
    shown = {
        line.split(":")[0]: int(line.split(":")[2]) for line in shell("cat /etc/passwd").out.splitlines()
    }
    assert all(uid < 1000 or uid in (os.geteuid(), 65534) for uid in shown.values()), shown
    assert shell("id -un; getent passwd $(id -u) | cut -d: -f6; echo $HOME").status == 0


def test_etc_shows_only_what_everybody_may_read() -> None:
    done = shell("find /etc ! -type l ! -perm -004 | head")
    assert done.out == "", done


def test_neither_var_run_nor_sockets(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    done = shell(
        "ls -A /var/run/ /run; find / -xdev -type s 2>/dev/null; find /run /var /tmp -type s",
        cwd=Path("/usr"),
    )
    assert "sock" not in done.out and "pid" not in done.out.replace("pidfd", ""), done
    done = shell("find /run ! -type d; readlink /var/run || ls -d /var/run; true", cwd=Path("/usr"))
    assert set(done.out.split()) <= {"/run", "../run"}, done


def test_proc_shows_the_sandbox_only() -> None:
    script = "ls /proc | grep -c '^[0-9]*$'; cat /proc/1/comm; cat /proc/*/cmdline | tr '\\0' ' '; cat /proc/cmdline /proc/version"
    done = shell(script)
    assert int(done.out.splitlines()[0]) < 8 and "cloche-init" in done.out and "pytest" not in done.out, done
    done = shell(
        "cat /proc/self/mountinfo /proc/self/mounts; cat /proc/kallsyms /proc/kcore /proc/keys | head -c 10; ls /sys"
    )
    assert str(os.getpid()) not in done.out.split(), done
    for source in ("/dev/vd", "/dev/sd", "/dev/nvme", "ext4", "/dev/mapper"):
        assert source not in done.out


def test_devices() -> None:
    names = set(run("ls", "/dev").out.split())
    assert names <= {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
                     "stdout", "tty", "urandom", "zero"}, names  # fmt: skip
    done = shell(
        "head -c 3 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; cat /etc/passwd > /dev/full; echo y > /dev/null"
    )
    assert done.out.split() == ["00", "00", "00", "8"] and "No space" in done.err, done


def test_deleted_and_overwritten_files_are_untouched(project: Path) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    script = """
    echo guest > file; cat file
    rm -rf sub; ls -d sub
    chmod 0 script; touch -d 2001-01-01 script; chown 1:1 script 2>/dev/null
    mkdir -p new/dir; echo x > new/dir/x; ln file hard; ln -s file soft; mv script moved
    truncate -s 1m file; dd if=/dev/zero of=file bs=1 count=1 conv=notrunc 2>/dev/null
    python3 - <<'X'
import mmap, os
fd = os.open("file", os.O_RDWR)
m = mmap.mmap(fd, 4096)
m[0:5] = b"mmap!"
m.flush()
X
    head -c 5 file; ls
    """
    done = shell(script, cwd=project)
    assert "guest" in done.out and "mmap!" in done.out and "moved" in done.out, done
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == times
    assert sorted(os.listdir(project)) == ["file", "script", "sub"]


def test_system_directories_are_untouched() -> None:
    done = shell(
        "echo x > /usr/cloche-test && cat /usr/cloche-test; rm -f /usr/bin/env /bin/true; ls /usr/bin/env; echo x > /etc/cloche-test"
    )
    if IS_ROOT:
        assert done.out == "x\n", done
    assert (
        not os.path.exists("/usr/cloche-test")
        and os.path.exists("/usr/bin/env")
        and os.path.exists("/bin/true")
    )
    assert not os.path.exists("/etc/cloche-test")


def test_writable_places() -> None:
    done = shell("for d in ~ /tmp /var/tmp /dev/shm; do echo $d > $d/x && cat $d/x && ls -A $d; done")
    assert done.out.split().count("x") == 4 and done.err == "", done


def test_directories_of_services() -> None:
    """Names, modes and owners as on the host, nothing in them but what packages made of /usr; writable for whom the modes let."""
    done = shell(
        "find /var /run /srv -mindepth 1 -not -type d -not -type l | grep -Ev '^/var/(lib/(dpkg|ghc|ghostscript|ocaml"
        "|texmf|sgml-base|xml-core)|cache/fontconfig)/'; stat -c '%n %a %u:%g' /var/lib /var/log"
    )
    expected = [
        f"{path} {os.stat(path).st_mode & 0o7777:o} 0:{os.stat(path).st_gid}"
        for path in ("/var/lib", "/var/log")
    ]
    assert done.out.splitlines() == expected, done
    done = shell(
        "for d in /run/lock /var/tmp /var/lib /run; do mkdir $d/mine 2>/dev/null && echo $d; done; readlink /var/run"
    )
    allowed = ["/run/lock", "/var/tmp", *(["/var/lib", "/run"] if IS_ROOT else [])]
    assert done.out.split() == [*allowed, "/run"]
    assert not os.path.exists("/var/lib/mine")


@pytest.mark.skipif(not IS_ROOT or not shutil.which("nginx"), reason="needs root and nginx")
def test_programs_find_what_packages_made_of_usr() -> None:
    """dpkg's own list, natively and inside; nothing there that not everybody may read, and no sockets or pipes."""
    if not os.path.exists("/var/lib/dpkg/status"):
        pytest.skip("no packages of dpkg")
    done = shell(
        "dpkg-query -W -f '${Package} ${Status}\n' dpkg libc6; dpkg -S /usr/bin/dpkg >/dev/null; echo $?"
    )
    host = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", "dpkg", "libc6"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.out == host.stdout + "0\n", done
    found = shell(
        "find /var/lib/dpkg /var/cache/fontconfig -mindepth 1 -type f -not -perm -004; find /var -type s -o -type p -o -type b"
    )
    assert found.out == "", found


def test_a_service_finds_its_directories() -> None:
    script = r"""nginx -t -q && nginx && for i in $(seq 100); do test -s /run/nginx.pid && break; sleep 0.1; done
        python3 -c 'import socket; s = socket.create_connection(("127.0.0.1", 80)); s.send(b"GET / HTTP/1.0\r\n\r\n"); print(s.recv(8))'
        ls /var/lib/nginx; stat -c %U /var/lib/nginx/body; nginx -s stop"""
    done = run("sh", "-c", script, options=("-v", "/etc/nginx:/etc/nginx:ro"))
    assert done.out.splitlines()[:2] == ["b'HTTP/1.1'", "body"] and "www-data" in done.out, done


def test_no_network() -> None:
    code = """
import socket
import subprocess
for address in ("1.1.1.1", "169.254.169.254", "10.0.0.1"):
    try:
        socket.create_connection((address, 80), timeout=2)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
    done = run("/usr/bin/python3", "-c", code)
    assert "connected" not in done.out and done.out.count("\n") in (0, 3), done


def test_links_of_the_project_lead_nowhere_outside(project: Path) -> None:
    (project / "link").symlink_to("/etc/shadow")
    secret = project.parent / "secret"
    secret.write_text("secret")
    (project / "up").symlink_to("../secret")
    (project / "absolute").symlink_to(secret)
    done = shell("cat link up absolute ../secret; ls ..", cwd=project)
    assert "secret" not in done.out and done.out.split() == ["project"], done
