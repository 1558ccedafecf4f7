"""Standard streams of every kind."""

import hashlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from tests.cli.harness import TIMEOUT_S, cloche_words, environment, run, shell

MIB = 1 << 20


def bash(
    script: str, cwd: Path | None = None, timeout: float = TIMEOUT_S
) -> subprocess.CompletedProcess[bytes]:
    """A script of the host's bash, in which $C is `cloche run --`."""
    env = environment(C=" ".join(cloche_words()))
    return subprocess.run(
        ["bash", "-c", script], env=env, cwd=cwd, capture_output=True, timeout=timeout, check=False
    )


def test_dev_null_and_closed_streams() -> None:
    assert bash("$C cat < /dev/null").stdout == b""
    done = bash("$C cat <&-")
    assert done.returncode == 1 and b"Bad file descriptor" in done.stderr, done
    assert bash("$C sh -c 'echo out; echo err >&2' >&-").stderr.endswith(b"err\n")
    assert bash("$C sh -c 'echo out; echo err >&2' 2>&-").stdout == b"out\n"
    done = bash("$C sh -c 'ls /proc/self/fd' <&- >/dev/null 2>&-")
    assert done.returncode in (0, 2), done
    assert bash("$C sh -c 'exit 5' <&- >&- 2>&-").returncode == 5


def test_stdout_closed_by_its_reader() -> None:
    done = bash("$C yes | head -1; echo ${PIPESTATUS[0]}")
    assert done.stdout == b"y\n141\n", done
    done = bash("$C sh -c 'trap \"\" PIPE; yes; echo $? >&2' | head -1")
    assert done.stdout == b"y\n" and b"Broken pipe" in done.stderr, done


def test_stdout_to_a_file(tmp_path: Path) -> None:
    bash("$C echo one > f; $C echo two >> f; $C sh -c 'echo three; echo four >&2' >> f 2>&1", tmp_path)
    assert (tmp_path / "f").read_text() == "one\ntwo\nthree\nfour\n"
    bash("$C dd if=/dev/zero bs=1M count=10 of=/dev/stdout > big", tmp_path)
    assert (tmp_path / "big").stat().st_size == 10 * MIB
    done = bash("echo abcdef > g; { $C head -c 2; cat; } < g", tmp_path)
    assert done.stdout.startswith(b"ab"), done


def test_stdin_from_a_file_is_shared(tmp_path: Path) -> None:
    """The position of a file is the host's own: what the guest read is read."""
    (tmp_path / "f").write_text("one\ntwo\n")
    done = bash("{ $C sh -c 'read x; echo $x'; cat; } < f", tmp_path)
    assert done.stdout == b"one\ntwo\n", done


def test_stdin_that_listens() -> None:
    """As systemd gives it to a service with Accept=no; without a network of the host's it is a file like others."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [*cloche_words(), "sh", "-c", "echo runs; cat"],
            env=environment(),
            stdin=listener,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.stdout == b"runs\n" and b"not connected" in done.stderr, done


@pytest.mark.parametrize("size_mib", [100])
def test_large_pipes(size_mib: int) -> None:
    block = os.urandom(MIB)
    digest = hashlib.sha256()
    process = subprocess.Popen(
        [*cloche_words(), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    assert process.stdin is not None and process.stdout is not None

    def feed(pipe: IO[bytes]) -> None:
        for _index in range(size_mib):
            pipe.write(block)
        pipe.close()

    feeder = threading.Thread(target=feed, args=(process.stdin,))
    feeder.start()
    length = 0
    while data := process.stdout.read(MIB):
        length += len(data)
        digest.update(data)
    feeder.join()
    assert process.wait(timeout=TIMEOUT_S) == 0 and length == size_mib * MIB
    assert digest.digest() == hashlib.sha256(block * size_mib).digest()


def test_large_output_through_guest_pipes() -> None:
    done = run("sh", "-c", "head -c 30000000 /dev/zero | cat | cat | wc -c")
    assert done.out == "30000000\n"


def test_slow_reader_gets_everything() -> None:
    process = subprocess.Popen([*cloche_words(), "seq", "200000"], stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    parts = []
    for _index in range(5):
        time.sleep(0.05)
        parts.append(process.stdout.read1(30000))  # type: ignore[attr-defined]
    parts.append(process.stdout.read())
    assert process.wait(timeout=TIMEOUT_S) == 0
    assert b"".join(parts) == "".join(f"{index}\n" for index in range(1, 200001)).encode()


def test_output_and_errors_keep_their_order(tmp_path: Path) -> None:
    done = bash("$C sh -c 'for i in 1 2 3 4 5; do echo $i; echo e$i >&2; done' 2>&1")
    assert done.stdout.split() == b"1 e1 2 e2 3 e3 4 e4 5 e5".split()


def test_input_line_by_line() -> None:
    process = subprocess.Popen([*cloche_words(), "sh", "-c", "while read x; do echo got $x; done; echo end"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for word in (b"one", b"two"):
        process.stdin.write(word + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"got " + word + b"\n"
    process.stdin.close()
    assert process.stdout.read() == b"end\n" and process.wait(timeout=TIMEOUT_S) == 0


def test_sandboxes_in_a_pipeline() -> None:
    done = bash("$C seq 1000 | $C sort -rn | $C head -2; echo ${PIPESTATUS[@]}")
    assert done.stdout == b"1000\n999\n0 0 0\n", done


def test_standard_streams_are_pipes_or_files(tmp_path: Path) -> None:
    done = shell(
        "[ -p /dev/stdin ] && echo pipe; [ -t 0 ] || echo none; stat -L -c %F /dev/stdout", stdin=b"x"
    )
    assert done.out == "pipe\nnone\nfifo\n", done
    done2 = bash("$C sh -c 'echo a > /dev/stdout; echo b > /dev/stderr; cat /dev/stdin' <<< c")
    assert done2.stdout.split() == [b"a", b"c"] and b"b\n" in done2.stderr, done2


def test_a_socket_as_standard_stream() -> None:
    code = """
import socket, subprocess, sys
ours, theirs = socket.socketpair()
child = subprocess.Popen(sys.argv[1:], stdin=theirs, stdout=theirs)
theirs.close()
ours.sendall(b"hello\\n")
ours.shutdown(socket.SHUT_WR)
print(ours.recv(100), child.wait(20))
"""
    words = [*cloche_words(), "sh", "-c", "read x; echo $x"]
    done = subprocess.run(
        ["python3", "-c", code, *words],
        env=environment(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stdout == b"b'hello\\n' 0\n", done
