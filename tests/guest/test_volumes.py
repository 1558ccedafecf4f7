"""Volumes with :rw, whose files are the host's own: the attributes that programs see, and the changes that they may
make.
"""

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import PROGRAMS, TIMEOUT_S, cloche_command, compile_program, run_cloche, run_native

ON_VOLUMES = (
    "file_deleted file_setgid file_text file_tmpfile file_xattr file_chmod file_link file_mknod file_fifo file_rename file_utimes pipe_fifo unix_names"
).split()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.mark.parametrize("name", ON_VOLUMES)
def test_program(name: str, built: Path, tmp_path: Path) -> None:
    program = compile_program(PROGRAMS / f"{name}.c", built)
    folders = tmp_path / "native", tmp_path / "cloche"
    for folder in folders:
        folder.mkdir()
        shutil.copy(program, folder)
    native = run_native([f"./{name}"], folders[0])
    cloche = run_cloche([f"./{name}"], folders[1], options=("-v", f"{folders[1]}:{folders[1]}:rw,suid"))
    assert cloche == native, f"\nNATIVE {native!r}\nCLOCHE {cloche!r}"


def on_volume(folder: Path, script: str, *options: str) -> str:
    done = run_cloche(["sh", "-c", script], folder, options=("-v", f"{folder}:/v:rw", "-w", "/v", *options))
    return (done.stdout + done.stderr).decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_the_owner_of_an_open_file_is_the_host_s(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 77, 88)
    script = """exec 3<>file; stat -Lc %u:%g /dev/fd/3 file; echo more >&3; stat -Lc %u:%g /dev/fd/3
        chown 5:6 file; stat -Lc %u:%g /dev/fd/3 file"""
    assert on_volume(tmp_path, script) == "77:88\n77:88\n77:88\n5:6\n5:6\n"
    tmp_path.chmod(0o755)
    (tmp_path / "roots").write_text("x")
    (tmp_path / "roots").chmod(0o666)
    script = """exec 3<>roots; for c in 'chmod 777' 'touch -d 2001-01-01' 'chown 65534'; do
        $c roots 2>/dev/null || echo no; done"""
    assert on_volume(tmp_path, script, "-u", "65534") == "no\nno\nno\n"
    status = (tmp_path / "roots").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o666)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the owner changes modes")
def test_no_set_id_file_of_the_host_is_made(tmp_path: Path) -> None:
    script = (
        "cp /bin/true t; chmod 6755 t; install -m 4755 /bin/true u; mkdir d; chmod 2755 d; stat -c %a t u d"
    )
    assert on_volume(tmp_path, script) == "755\n755\n2755\n"
    assert on_volume(tmp_path, "mknod null c 1 3 2>/dev/null || echo no") == "no\n"
    folder = tmp_path / "suid"
    folder.mkdir()
    done = run_cloche(
        ["install", "-m", "4755", "/bin/true", "/v/t"], folder, options=("-v", f"{folder}:/v:rw,suid")
    )
    assert done.status == 0 and stat.S_IMODE((folder / "t").stat().st_mode) == 0o4755


def test_sockets_and_fifos_of_the_host_stay_closed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "host"))
        server.listen()
        os.mkfifo(tmp_path / "fifo")
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        script = """python3 -c 'import socket
try: socket.socket(socket.AF_UNIX).connect("host")
except OSError as error: print(error.strerror)'; echo x 1<>fifo >&1; ls -1"""
        assert on_volume(tmp_path, script) == "Connection refused\nfifo\nhost\n"
        assert os.read(reader, 9) == b""
        os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_the_owner_of_standard_input_is_the_host_s(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("x")
    given.chmod(0o666)
    os.chown(given, 77, 88)
    script = "stat -Lc '%u:%g %a' /dev/stdin; for c in 'chmod 777' 'chown 1' 'touch'; do $c /dev/stdin || echo no; done"
    with given.open("r+b") as file:
        done = subprocess.run(
            [*cloche_command(), "sh", "-c", script],
            stdin=file,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.stdout == b"77:88 666\nno\nno\nno\n", done
    status = given.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (77, 0o666)
