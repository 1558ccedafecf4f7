"""Descriptors that engines pass on to programs: --preserve-fds and socket activation (sd_listen_fds(3))."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.harness import Done, need, program, run
from tests.engines.test_bundles import WAIT_S, Runtime, cloche, make_bundle, until  # noqa: F401  (the fixture)
from tests.engines.test_exec import own, runtime  # noqa: F401  (the fixture)

SERVER = r"""
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* server FD COUNT: serves so many connections, one after the other: each gets back what it sends, to its end. */
int main(int argc, char **argv)
{
    int fd = atoi(argv[1]), listens = 0, count = atoi(argv[2]);
    struct sockaddr_in6 name, peer;
    socklen_t size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size))
        return perror("getsockopt"), 1;
    size = sizeof name;
    getsockname(fd, (void *)&name, &size);
    printf("%d %s %s %d\n", listens, getenv("LISTEN_FDS"), getenv("LISTEN_PID"), ntohs(name.sin6_port));
    fflush(stdout);
    while (count--) {
        char text[100];
        struct pollfd waits = {fd, POLLIN};
        if (poll(&waits, 1, -1) != 1)
            return 2;
        size = sizeof peer;
        int c = accept(fd, (void *)&peer, &size);
        if (c < 0)
            return perror("accept"), 3;
        printf("from %d\n", ntohs(peer.sin6_port));
        fflush(stdout);
        for (long got; (got = read(c, text, sizeof text)) > 0;)
            if (write(c, text, got) != got)
                return 4;
        close(c);
    }
    close(fd);
    puts("closed");
    fflush(stdout);
    pause();
}
"""


def passing(runtime: Runtime, words: list[str], given: list[int], activated: int = 0) -> Done:  # noqa: F811
    """Call the runtime with descriptors from 3 on; -1: that number is closed. The first are for socket activation."""
    script = "import os, sys\n"
    if activated:
        script += f"os.environ.update(LISTEN_FDS='{activated}', LISTEN_PID=str(os.getpid()))\n"
    for number, fd in enumerate(given, 3):
        script += f"os.dup2({fd}, {number + 100})\n" if fd >= 0 else ""
    script += "os.closerange(3, 100)\n"
    for number, fd in enumerate(given, 3):
        script += f"os.dup2({number + 100}, {number})\n" if fd >= 0 else ""
    script += "os.closerange(100, 200)\nos.execv(sys.argv[1], sys.argv[1:])"
    out = runtime.folder / "passing.out"  # no pipe, which the container would hold
    with open(out, "wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", script, runtime.path, "--root", str(runtime.root), *words],
            pass_fds=[fd for fd in given if fd >= 0],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=WAIT_S,
            check=False,
        )
    return Done(done.returncode, out.read_text(), "")


def test_descriptors_are_passed_on(cloche: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    """Those that --preserve-fds names, to the first program and to commands, and no others."""
    source = tmp_path / "source"
    source.write_text("from a file\n")
    read_end, write_end = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    file = os.open(source, os.O_RDONLY)
    script = "cat <&3; echo by a pipe >&4; echo by a socket >&5; test -e /proc/self/fd/6; echo $?; sleep 1000"
    try:
        bundle = make_bundle(tmp_path / "b", root, "sh", "-c", script)
        given = [file, write_end, theirs.fileno(), read_end]
        made = passing(cloche, ["create", "--preserve-fds=3", "-b", str(bundle), own("fds")], given)
        assert made.status == 0, made
        assert cloche("start", own("fds")).status == 0
        assert os.read(read_end, 100) == b"by a pipe\n" and ours.recv(100) == b"by a socket\n"
        os.lseek(file, 0, os.SEEK_SET)
        words = [
            "exec",
            "--preserve-fds",
            "2",
            own("fds"),
            "sh",
            "-c",
            "cat <&3; echo again >&4; test -e /proc/self/fd/5; echo $?",
        ]
        done = passing(cloche, words, given)
        assert (done.status, done.out) == (0, "from a file\n1\n"), done
        assert os.read(read_end, 100) == b"again\n"
        done = passing(cloche, ["exec", own("fds"), "sh", "-c", "test -e /proc/self/fd/3; echo $?"], given)
        assert done.out == "1\n", done
        cloche("delete", "--force", own("fds"))
        ours.settimeout(WAIT_S)
        theirs.close()
        assert ours.recv(100) == b""  # nobody holds the other end any more
    finally:
        for fd in (read_end, write_end, file):
            os.close(fd)
        ours.close()
        theirs.close()


def test_descriptors_that_cannot_be_passed_on(cloche: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    bundle = make_bundle(tmp_path / "b", root, "true")
    folder = os.open(tmp_path, os.O_RDONLY)
    event = os.eventfd(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gram, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "listener"))
        listener.listen()
        for given, count, text in (
            ([folder], "1", "descriptor 3 is a directory"),
            ([event], "1", "descriptor 3 is of a kind that cannot be passed on"),
            ([gram.fileno()], "1", "descriptor 3 is a socket, but not of a stream"),
            ([event, listener.fileno()], "1", "descriptor 3 is of a kind"),
            ([listener.fileno()], "1", "descriptor 3 is a socket that listens, and not of TCP"),
            ([-1], "1", "please check that preserved-fd 3 (of 1) is present"),
            ([-1], "17", "at most 16 descriptors"),
            ([-1], "x", "invalid value"),
        ):
            done = passing(cloche, ["run", f"--preserve-fds={count}", "-b", str(bundle), own("no")], given)
            assert done.status == 1 and text in done.out, done
    os.close(folder)
    os.close(event)
    assert cloche("list", "-q").out == ""


def echo(port: int, address: str) -> int:
    """One connection to the server; its own port."""
    with socket.create_connection((address, port), timeout=WAIT_S) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(100):
            got += data
        assert got == b"hello"
        own_port: int = client.getsockname()[1]
        return own_port


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_socket_activation(runtime: Runtime, tmp_path: Path, root: Path, family: int) -> None:  # noqa: F811
    """A listener of TCP on the host, of which the program accepts, as with runc; then another that --preserve-fds
    names, in a command.
    """
    need("cc")
    (tmp_path / "server.c").write_text(SERVER)
    folder = tmp_path / "programs"
    folder.mkdir()
    built = run(["cc", "-static", "-o", str(folder / "server"), str(tmp_path / "server.c")])
    assert built.status == 0, built
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    listeners = [socket.socket(socket.AddressFamily(family)) for _number in range(2)]
    try:
        for each in listeners:
            each.bind((address, 0))
            each.listen()
    except OSError:
        pytest.skip("needs IPv6")
    ports = [each.getsockname()[1] for each in listeners]
    mount = {"destination": "/tmp", "type": "bind", "source": str(folder), "options": ["bind"]}
    bundle = make_bundle(tmp_path / "b", root, "/tmp/server", "3", "2")
    config = json.loads((bundle / "config.json").read_text())
    config["mounts"].append(mount)
    (bundle / "config.json").write_text(json.dumps(config))
    ident = own("activated")
    file = os.open(tmp_path / "server.c", os.O_RDONLY)
    try:
        words = ["create", "--preserve-fds=1", "-b", str(bundle), ident]
        made = passing(runtime, words, [listeners[0].fileno(), file], 1)
        assert made.status == 0, made
        assert runtime("start", ident).status == 0
        out = runtime.folder / "passing.out"
        peers = [echo(ports[0], address) for _number in range(2)]
        until(lambda: "closed" in out.read_text(), "it serves two")
        lines = [f"1 1 1 {ports[0]}", *[f"from {port}" for port in peers], "closed"]
        assert out.read_text().splitlines() == lines
        listeners[0].close()  # nobody has it any more
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, ports[0]), timeout=WAIT_S)
        words = ["exec", "-d", "--preserve-fds=1", ident, "/tmp/server", "3", "1"]
        done = passing(runtime, words, [listeners[1].fileno()])
        assert done.status == 0, done
        peer = echo(ports[1], address)
        until(lambda: "closed" in out.read_text(), "it serves one")
        assert out.read_text().splitlines()[1:] == [f"from {peer}", "closed"]
    finally:
        os.close(file)
        for each in listeners:
            each.close()


def test_what_is_said_of_sockets_counts_for_its_process(runtime: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    """LISTEN_FDS for another process is none of the runtime's."""
    bundle = make_bundle(tmp_path / "b", root, "sh", "-c", "env; test -e /proc/self/fd/3; echo $?")
    script = f"LISTEN_FDS=1 LISTEN_PID=1 exec '{runtime.path}' --root '{runtime.root}' run -b '{bundle}' '{own('other')}'"
    done = run([program("sh"), "-c", f"{script} 3< /dev/null"])
    assert done.status == 0 and "LISTEN" not in done.out and done.out.endswith("1\n"), done
