"""Unix sockets in volumes: what a program inside binds is reached from the host and from other containers, the host's
sockets only where the container's author has asked for them.  Beside runc, where all of them are reached.
"""

import array
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.harness import RUNTIME, Docker, Done, need, run
from tests.engines.test_bundles import WAIT_S, Runtime, make_bundle, until
from tests.engines.test_exec import RUNTIMES, own, runtime  # noqa: F401  (the fixture)
from tests.engines.test_podman import Podman, podman  # noqa: F401  (the fixture)

ANNOTATION = "dev.cloche.host-sockets"
# WHAT stream|seqpacket PATH: serves clients one after the other, or is one.
PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
static int give(int to, int fd)
{
    char room[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {"x", 1};
    struct msghdr head = {0, 0, &part, 1, room, sizeof room, 0};
    struct cmsghdr *control = CMSG_FIRSTHDR(&head);
    *control = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(control), &fd, sizeof fd);
    return sendmsg(to, &head, 0) < 0 ? -errno : 0;
}
static void take(int from)
{
    char room[CMSG_SPACE(sizeof(int))], data[8];
    struct iovec part = {data, sizeof data};
    struct msghdr head = {0, 0, &part, 1, room, sizeof room, 0};
    ssize_t got = recvmsg(from, &head, 0);
    printf("%zd %s %d\n", got, CMSG_FIRSTHDR(&head) ? "descriptor" : "none", !!(head.msg_flags & MSG_CTRUNC));
}
int main(int argc, char **argv)
{
    int kind = !strcmp(argv[2], "stream") ? SOCK_STREAM : !strcmp(argv[2], "dgram") ? SOCK_DGRAM : SOCK_SEQPACKET;
    int s = socket(AF_UNIX, kind, 0);
    static char data[1 << 20];
    struct sockaddr_un name = {AF_UNIX};
    strcpy(name.sun_path, argv[3]);
    setbuf(stdout, 0);
    alarm(100);
    if (!strcmp(argv[1], "connect")) {
        if (connect(s, (void *)&name, sizeof name))
            return printf("connect: %s\n", strerror(errno)), 1;
        write(s, "hello", 5);
        shutdown(s, SHUT_WR);
        ssize_t got = read(s, data, sizeof data);
        struct ucred peer;
        socklen_t size = sizeof peer;
        getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &size);
        return printf("%.*s by %d\n", (int)got, data, peer.uid), 0;
    }
    if (!strcmp(argv[1], "send")) {
        ssize_t got = sendto(s, "hello", 5, 0, (void *)&name, sizeof name);
        return got < 0 ? printf("send: %s\n", strerror(errno)), 1 : 0;
    }
    umask(027);
    if (bind(s, (void *)&name, sizeof name))
        return printf("bind: %s\n", strerror(errno)), 1;
    if (!strcmp(argv[1], "receive")) {
        printf("bound\n");
        ssize_t got = recv(s, data, sizeof data, 0);
        return printf("%.*s\n", (int)got, data), 0;
    }
    if (strcmp(argv[1], "bind") && listen(s, 8))
        return printf("listen: %s\n", strerror(errno)), 1;
    printf("bound\n");
    if (!strcmp(argv[1], "bind"))
        return pause();
    for (;;) {
        int c = accept(s, 0, 0);
        ssize_t got = read(c, data, sizeof data);
        if (got == 4 && !memcmp(data, "give", 4))
            printf("%s\n", strerror(-give(c, 0)));
        else if (got == 4 && !memcmp(data, "take", 4)) {
            write(c, "now", 3);
            take(c);
        } else if (got == 4 && !memcmp(data, "much", 4)) {
            long sum = 0, total = 0;
            write(c, "now", 3);
            for (ssize_t more; (more = read(c, data, sizeof data)) > 0; total += more)
                for (ssize_t at = 0; at < more; at++)
                    sum += (unsigned char)data[at];
            for (long left = total; left > 0;) {
                ssize_t done = write(c, data, left < 50000 ? left : 50000);
                if (done < 0)
                    break;
                left -= done;
            }
            printf("%ld %ld\n", total, sum);
        } else if (got == 5 && !memcmp(data, "leave", 5))
            exit(3);
        else
            write(c, data, got > 0 ? got : 0);
        close(c);
    }
}
"""


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("cc")
    folder = tmp_path_factory.mktemp("sockets")
    (folder / "probe.c").write_text(PROBE)
    built = run(["cc", "-static", "-w", "-o", str(folder / "probe"), str(folder / "probe.c")])
    assert built.status == 0, built
    return folder / "probe"


@pytest.fixture
def volume(tmp_path: Path, probe: Path) -> Path:
    made = tmp_path / "v"
    made.mkdir()
    shutil.copy(probe, made / "probe")
    return made


def bundle_of(
    folder: Path, root: Path, volume: Path, *args: str, options: str = "rw", shown: str = ""
) -> Path:
    made = make_bundle(folder, root, *args, annotations={ANNOTATION: shown} if shown else {})
    config = json.loads((made / "config.json").read_text())
    bind = {"destination": "/tmp", "type": "none", "source": str(volume), "options": ["rbind", options]}
    config["mounts"].append(bind)
    (made / "config.json").write_text(json.dumps(config))
    return made


def dial(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.settimeout(20)
    made.connect(str(path))
    return made


def everything(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_server_inside(
    runtime: Runtime,  # noqa: F811
    tmp_path: Path,
    root: Path,
    volume: Path,
    kind: str,
) -> None:
    """Clients of the host's: data both ways and much of it, ends, descriptors, a name that is made anew, the end."""
    name = own("sock")
    number = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET
    runtime.make(name, bundle_of(tmp_path / "b", root, volume, "/tmp/probe", "serve", kind, "/tmp/s"))
    path = volume / "s"
    assert not path.exists()
    assert runtime("start", name).status == 0
    until(lambda: "bound" in runtime.output(name), "it listens")
    assert path.stat().st_mode == 0o140750 and path.stat().st_uid == 0
    for text in (b"one", b"two"):
        with dial(path, number) as client:
            client.sendall(text)
            assert client.recv(100) == text
            assert client.recv(100) == b""
    with dial(path, number) as client:
        client.sendall(b"much")
        assert client.recv(100) == b"now"
        data = bytes(range(256)) * 16
        for _piece in range(500):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert len(everything(client)) == 500 * len(data)
    until(lambda: f"{500 * 4096} {sum(data) * 500}" in runtime.output(name), "all of it came")

    # Descriptors do not pass, and both sides are told.
    with dial(path, number) as client:
        client.sendall(b"take")
        assert client.recv(100) == b"now"
        rights = array.array("i", [0])
        client.sendmsg([b"with"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        passes = runtime.path.endswith("runc")
        until(lambda: f"4 {'descriptor 0' if passes else 'none 1'}" in runtime.output(name), "it is told")
    with dial(path, number) as client:
        client.sendall(b"give")
        received, control, _flags, _name = client.recvmsg(100, 100)
        assert bool(control) == passes and received == (b"x" if passes else b"")
    until(lambda: ("Success" if passes else "not permitted") in runtime.output(name), "it is told")

    # Another server takes the name over; the first one has clients no more, and goes on.
    path.unlink()
    words = [
        runtime.path,
        "--root",
        str(runtime.root),
        "exec",
        "-d",
        name,
        "/tmp/probe",
        "serve",
        kind,
        "/tmp/s",
    ]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0
    until(path.exists, "it is bound again")
    until(lambda: is_answering(path, number), "it listens again")

    assert runtime("kill", name, "KILL").status == 0
    until(lambda: runtime.state(name)["status"] == "stopped", "it ends")
    with pytest.raises(ConnectionRefusedError):
        dial(path, number)
    assert path.exists()


def is_answering(path: Path, kind: int = socket.SOCK_STREAM) -> bool:
    try:
        with dial(path, kind) as client:
            client.sendall(b"there")
            return client.recv(100) == b"there"
    except ConnectionRefusedError:
        return False


def test_not_yet_listening(runtime: Runtime, tmp_path: Path, root: Path, volume: Path) -> None:  # noqa: F811
    name = own("bound")
    runtime.make(name, bundle_of(tmp_path / "b", root, volume, "/tmp/probe", "bind", "stream", "/tmp/s"))
    assert runtime("start", name).status == 0
    until(lambda: "bound" in runtime.output(name), "it is bound")
    with pytest.raises(ConnectionRefusedError):
        dial(volume / "s")
    done = runtime("exec", name, "/tmp/probe", "bind", "stream", "/tmp/s")
    assert done.out == "bind: Address already in use\n"


def test_queue(runtime: Runtime, tmp_path: Path, root: Path, volume: Path) -> None:  # noqa: F811
    """Many clients at once are all served, whatever the backlog."""
    name = own("queue")
    runtime.make(name, bundle_of(tmp_path / "b", root, volume, "/tmp/probe", "serve", "stream", "/tmp/s"))
    assert runtime("start", name).status == 0
    until(lambda: "bound" in runtime.output(name), "it listens")
    words = [
        "import socket,sys,threading",
        "def one(n):",
        " s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1])",
    ]
    words += [
        " s.sendall(b'%d'%n); assert s.recv(9)==b'%d'%n",
        "ts=[threading.Thread(target=one,args=(n,)) for n in ",
    ]
    script = "\n".join(words) + "range(60)]\n[t.start() for t in ts];[t.join(60) for t in ts]"
    done = run(["python3", "-c", script, str(volume / "s")])
    assert (done.status, done.err) == (0, ""), done


def two_runtimes(folder: Path, server: str, client: str) -> tuple[Runtime, Runtime]:
    need("runc")
    paths = {"runc": shutil.which("runc", path="/usr/bin:/usr/sbin:/sbin"), "cloche-oci": None}
    one = Runtime(paths[server] or RUNTIME, folder / "one")
    two = Runtime(paths[client] or RUNTIME, folder / "two")
    for each in (one, two):
        each.folder.mkdir()
    return one, two


@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
@pytest.mark.parametrize("server", RUNTIMES)
@pytest.mark.parametrize("client", RUNTIMES)
def test_two_containers(
    tmp_path: Path, root: Path, volume: Path, server: str, client: str, kind: str
) -> None:
    """A server in one container, a client in another that has the same volume, whose author says so."""
    one, two = two_runtimes(tmp_path, server, client)
    names = own("server"), own("client")
    try:
        one.make(names[0], bundle_of(tmp_path / "b1", root, volume, "/tmp/probe", "serve", kind, "/tmp/s"))
        assert one("start", names[0]).status == 0
        until(lambda: "bound" in one.output(names[0]), "it listens")
        two.make(names[1], bundle_of(tmp_path / "b2", root, volume, "sleep", "1000", shown="/tmp"))
        assert two("start", names[1]).status == 0
        done = two("exec", names[1], "/tmp/probe", "connect", kind, "/tmp/s")
        assert done.out == "hello by 0\n", done
    finally:
        for runtime_, name in ((one, names[0]), (two, names[1])):
            runtime_("delete", "--force", name)


PAIRS = [("cloche", "cloche"), ("runc", "cloche"), ("cloche", "runc"), ("runc", "runc")]


@pytest.mark.parametrize(("server", "client"), PAIRS)
def test_containers_of_docker(docker: Docker, probe: Path, server: str, client: str) -> None:
    made: dict[str, Callable[..., Done]] = {}
    for name in (server, client):
        made[name] = lambda *words, name=name: docker(words[0], f"--runtime={name}", *words[1:])
    check_volume(docker, made[server], made[client], probe, is_runc=client == "runc")


@pytest.mark.parametrize(("server", "client"), PAIRS)
def test_containers_of_podman(podman: Podman, probe: Path, server: str, client: str) -> None:  # noqa: F811
    made: dict[str, Callable[..., Done]] = {}
    for name in (server, client):
        made[name] = lambda *words, name=name: podman(name, *words)
    check_volume(
        lambda *words: podman(server, *words), made[server], made[client], probe, is_runc=client == "runc"
    )


def check_volume(
    engine: Callable[..., Done],
    server: Callable[..., Done],
    client: Callable[..., Done],
    probe: Path,
    *,
    is_runc: bool,
) -> None:
    """A server in one container and a client in another, which have one volume of the engine's."""
    base = ("--network=none", "-v", "shared:/s", "-v", f"{probe.parent}:/p:ro")
    dial = ("bb:1", "/p/probe", "connect", "stream", "/s/sock")
    try:
        assert engine("volume", "create", "shared").status == 0
        begun = server("run", "-d", "--name=server", *base, "bb:1", "/p/probe", "serve", "stream", "/s/sock")
        assert begun.status == 0, begun
        until(lambda: "bound" in engine("logs", "server").out, "it listens")
        done = client("run", "--rm", "--annotation", f"{ANNOTATION}=/s", *base, *dial)
        assert (done.status, done.out) == (0, "hello by 0\n"), done
        done = client("run", "--rm", *base, *dial)
        assert done.out == ("hello by 0\n" if is_runc else "connect: Connection refused\n"), done
        assert engine("rm", "-f", "server").status == 0
        done = client("run", "--rm", "--annotation", f"{ANNOTATION}=/s", *base, *dial)
        assert done.out == "connect: Connection refused\n", done
    finally:
        engine("rm", "-f", "server")
        engine("volume", "rm", "-f", "shared")


@pytest.mark.parametrize("both", RUNTIMES)
def test_datagrams_and_fifos_of_two_containers(tmp_path: Path, root: Path, volume: Path, both: str) -> None:
    """Both see the names, of runc they are one; with cloche-oci each container has what its own programs bind or open."""
    one, two = two_runtimes(tmp_path, both, both)
    names = own("first"), own("second")
    is_runc = both == "runc"
    try:
        words = ("sh", "-c", "mkfifo /tmp/f; /tmp/probe receive dgram /tmp/d; exec sleep 1000")
        one.make(names[0], bundle_of(tmp_path / "b1", root, volume, *words, shown="/tmp"))
        two.make(names[1], bundle_of(tmp_path / "b2", root, volume, "sleep", "1000", shown="/tmp"))
        assert one("start", names[0]).status == two("start", names[1]).status == 0
        until(lambda: "bound" in one.output(names[0]), "it is bound")
        kinds = two("exec", names[1], "sh", "-c", "test -S /tmp/d && test -p /tmp/f && echo both")
        assert kinds.out == "both\n", kinds
        sent = two("exec", names[1], "/tmp/probe", "send", "dgram", "/tmp/d")
        assert sent.out == ("" if is_runc else "send: Connection refused\n"), sent
        if not is_runc:
            assert one("exec", names[0], "/tmp/probe", "send", "dgram", "/tmp/d").status == 0
        until(lambda: "hello" in one.output(names[0]), "it came")
        for each, name, script in (
            (one, names[0], "cat /tmp/f > /tmp/got"),
            (two, names[1], "echo other > /tmp/f"),
        ):
            begun = [each.path, "--root", str(each.root), "exec", "-d", name, "sh", "-c", script]
            nothing = subprocess.DEVNULL
            subprocess.run(begun, stdin=nothing, stdout=nothing, timeout=WAIT_S, check=True)
        if not is_runc:  # what the second one opened waits for a reader of its own
            assert one("exec", names[0], "sh", "-c", "echo own > /tmp/f").status == 0
        expected = "other\n" if is_runc else "own\n"
        until(lambda: (volume / "got").exists() and (volume / "got").read_text() == expected, "it is read")
    finally:
        for runtime_, name in ((one, names[0]), (two, names[1])):
            runtime_("delete", "--force", name)


@pytest.mark.parametrize("shown", ["", "/tmp"])
@pytest.mark.parametrize("options", ["rw", "ro"])
def test_servers_of_the_host(
    runtime: Runtime,  # noqa: F811
    tmp_path: Path,
    root: Path,
    volume: Path,
    shown: str,
    options: str,
) -> None:
    """They are reached by the annotation alone, by root alone, and never by a link that leads out of the volume."""
    is_runc = runtime.path.endswith("runc")
    outside = tmp_path / "outside"
    servers = []
    for path in (volume / "s", outside):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        os.chmod(path, 0o777)
        servers.append(listener)
    (volume / "link").symlink_to("../outside")
    (volume / "absolute").symlink_to(outside)
    code = "import socket,os\ns=socket.socket(fileno=0)\nwhile 1:\n c=s.accept()[0];c.sendall(c.recv(99));c.close()"
    echo = subprocess.Popen(["python3", "-c", code], stdin=servers[0].fileno())
    try:
        name = own("host")
        made = bundle_of(tmp_path / "b", root, volume, "sleep", "1000", options=options, shown=shown)
        runtime.make(name, made)
        assert runtime("start", name).status == 0
        done = runtime("exec", name, "/tmp/probe", "connect", "stream", "/tmp/s")
        reached = is_runc or shown != ""
        assert done.out == ("hello by 0\n" if reached else "connect: Connection refused\n"), done
        wrong = runtime("exec", name, "/tmp/probe", "connect", "seqpacket", "/tmp/s")
        prototype = "Protocol wrong type for socket" if reached else "Connection refused"
        assert wrong.out == f"connect: {prototype}\n", wrong
        user = runtime("exec", "--user", "1000:1000", name, "/tmp/probe", "connect", "stream", "/tmp/s")
        refused = "Permission denied" if shown else "Connection refused"
        assert user.out == ("hello by 0\n" if is_runc else f"connect: {refused}\n"), user
        for link in ("link", "absolute"):
            lost = runtime("exec", name, "/tmp/probe", "connect", "stream", f"/tmp/{link}")
            assert lost.out == "connect: No such file or directory\n", lost
        os.chmod(volume / "s", 0o600)
        user = runtime("exec", "--user", "1000:1000", name, "/tmp/probe", "connect", "stream", "/tmp/s")
        assert user.out == "connect: Permission denied\n", user
    finally:
        echo.kill()
        echo.wait()
        for listener in servers:
            listener.close()


def test_one_socket(tmp_path: Path, root: Path, volume: Path, runtime: Runtime) -> None:  # noqa: F811
    """A bind mount of a socket alone, as of Docker's own."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(volume / "s"))
    listener.listen()
    made = bundle_of(tmp_path / "b", root, volume, "sleep", "1000", shown="/run/one.sock")
    config = json.loads((made / "config.json").read_text())
    tree = tmp_path / "tree"
    assert run(["cp", "-a", str(root), str(tree)]).status == 0
    (tree / "run").mkdir(exist_ok=True)
    (tree / "run" / "one.sock").touch()
    config["root"]["path"] = str(tree)
    config["mounts"].append(
        {"destination": "/run/one.sock", "source": str(volume / "s"), "options": ["bind", "ro"]}
    )
    (made / "config.json").write_text(json.dumps(config))
    name = own("single")
    runtime.make(name, made)
    assert runtime("start", name).status == 0
    code = "import socket\ns=socket.socket(fileno=0)\nc=s.accept()[0];c.sendall(c.recv(99));c.close()"
    echo = subprocess.Popen(["python3", "-c", code], stdin=listener.fileno())
    try:
        done = runtime("exec", name, "/tmp/probe", "connect", "stream", "/run/one.sock")
        assert done.out == "hello by 0\n", done
    finally:
        echo.kill()
        echo.wait()
        listener.close()


def test_annotation_of_nothing(tmp_path: Path, root: Path, volume: Path) -> None:
    need()
    made = bundle_of(tmp_path / "b", root, volume, "true", shown="/tmp,/nowhere")
    done = Runtime(RUNTIME, tmp_path)("create", "-b", str(made), own("nothing"))
    assert done.status != 0 and "no bind mount is at '/nowhere'" in done.err, done
