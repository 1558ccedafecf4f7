"""User namespaces of the container's own, and id-mapped mounts: bundles beside runc's, then engines."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.harness import RUNTIME, Docker, Done, make_image, make_root, need, need_runc, program, run
from tests.engines.test_podman import RUNTIMES, Podman
from tests.engines.test_rootless import USER, Rootless, has_range
from tests.engines.test_rootless import podman as rootless  # noqa: F401  (the fixture)

FIRST = 100000
COUNT = 65536
CAPS = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SYS_ADMIN",
    "CAP_MKNOD",
]
CAPS += ["CAP_SETFCAP", "CAP_SYS_CHROOT", "CAP_SETPCAP"]


def rows(*found: tuple[int, int, int]) -> list[dict[str, int]]:
    return [{"containerID": first, "hostID": other, "size": count} for first, other, count in found]


class Machine:
    """runc and cloche-oci on one bundle, whose root belongs to the namespace's root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        self.root = make_root(folder / "root")
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, FIRST, FIRST, follow_symlinks=False)
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        self.number = 0

    def write(self, args: list[str], change: Callable[[dict[str, Any]], None] | None = None) -> None:
        config = self.bundle / "config.json"
        config.unlink(missing_ok=True)
        assert run([program("runc"), "spec", "-b", str(self.bundle)]).status == 0
        data = json.loads(config.read_text())
        data["process"]["terminal"] = False
        data["process"]["args"] = args
        data["process"]["capabilities"] = dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable"), CAPS
        )
        data["root"] = {"path": str(self.root), "readonly": False}
        linux = data["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = rows((0, FIRST, COUNT))
        linux["maskedPaths"] = linux["readonlyPaths"] = []
        if change is not None:
            change(data)
        config.write_text(json.dumps(data))

    def __call__(self, path: str, *words: str) -> Done:
        return run(self.command(path, *words))

    def command(self, path: str, *words: str) -> list[str]:
        return [path, "--root", str(self.folder / ("of-" + Path(path).name)), *words]

    def volume(self) -> Path:
        """A new directory of the host in which everybody may write."""
        made = self.folder / f"volume-{self.name()}"
        made.mkdir()
        made.chmod(0o777)
        return made

    def name(self) -> str:
        self.number += 1
        return f"u{os.getpid()}-{self.number}"

    def alike(
        self,
        script: str,
        change: Callable[[dict[str, Any]], None] | None = None,
        before: Callable[[], None] | None = None,
    ) -> tuple[int, str, str]:
        """Run a script by both; what it did, which is the same."""
        self.write(["sh", "-c", script], change)
        found = []
        for path in (program("runc"), RUNTIME):
            if before is not None:
                before()
            done = self(path, "run", "-b", str(self.bundle), self.name())
            found.append((done.status, done.out, reason(done.err)))
        assert found[1] == found[0], found
        return found[1]


def reason(text: str) -> str:
    """What an error says behind the words of its runtime, without pids."""
    lines = [
        re.sub(r"/proc/\d+/", "/proc/PID/", line) for line in text.splitlines() if "remove cgroup" not in line
    ]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    need("runc", "busybox")
    if os.geteuid():
        pytest.skip("needs root")
    folder = Path(tempfile.mkdtemp())  # others may look below it, which pytest's own do not let them
    made = Machine(folder)
    try:
        yield made
    finally:
        for path in (program("runc"), RUNTIME):
            for ident in made(path, "list", "-q").out.split():
                made(path, "delete", "--force", ident)
        shutil.rmtree(folder)


def test_a_working_directory_of_the_user_alone(machine: Machine) -> None:
    """The namespace's root may not enter it, since its group is none of the namespace's: its owner does."""
    place = machine.root / "theirs"
    place.mkdir()
    os.chown(place, FIRST + 1000, 5)
    place.chmod(0o700)

    def as_user(uid: int) -> Callable[[dict[str, Any]], None]:
        def change(data: dict[str, Any]) -> None:
            data["process"].update(cwd="/theirs", user={"uid": uid, "gid": uid})
            data["linux"]["gidMappings"] = rows((0, FIRST, 2000))  # without 65534, as which others are shown

        return change

    assert machine.alike("pwd; ls .", as_user(1000))[:2] == (0, "/theirs\n")
    machine.write(["true"], as_user(1001))
    for path in (program("runc"), RUNTIME):
        done = machine(path, "run", "-b", str(machine.bundle), machine.name())
        assert done.status != 0 and "permission denied" in done.err.lower(), (path, done)


def test_ids_are_those_of_the_namespace(machine: Machine) -> None:
    script = """
        id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
        ls -lnd / /bin /sys /proc/cpuinfo /proc/self /dev /dev/pts /dev/shm /dev/null | cut -c1-45
        touch /tmp/x; stat -c %u:%g:%a /tmp/x; chown 5:6 /tmp/x; stat -c %u:%g /tmp/x
        chown 70000 /tmp/x; chown 0:65536 /tmp/x; stat -c %u:%g /tmp/x
        mknod /tmp/c c 1 3; mknod /tmp/f p && stat -c %F /tmp/f
        mkdir -p /tmp/t && mount -t tmpfs none /tmp/t && stat -c %u:%g /tmp/t && busybox umount /tmp/t
        hostname one; hostname
        echo 1 > /proc/sys/kernel/panic; date -s 2001-01-01 > /dev/null
        echo x > /dev/null && echo written
        busybox mv /tmp/x /tmp/kept; busybox rmdir /tmp/t; rm /tmp/f
    """
    status, out, err = machine.alike(script)
    assert status == 0 and "invalid argument" in err.lower() and "5:6" in out
    found = (machine.root / "tmp" / "kept").stat()
    assert (found.st_uid, found.st_gid) == (FIRST + 5, FIRST + 6)


def test_users_and_what_belongs_to_nobody_inside(machine: Machine) -> None:
    volume = machine.volume()

    def again() -> None:
        for name, mode in (("secret", 0o600), ("open", 0o644), ("theirs", 0o600)):
            (volume / name).unlink(missing_ok=True)
            (volume / name).write_text(name + "\n")
            (volume / name).chmod(mode)
        os.chown(volume / "theirs", FIRST + 1000, FIRST + 1000)
        for name in ("made", "mine"):
            (volume / name).unlink(missing_ok=True)

    def bind(data: dict[str, Any]) -> None:
        data["mounts"].append(
            {"destination": "/mnt", "type": "bind", "source": str(volume), "options": ["rbind"]}
        )

    script = """
        ls -ln /mnt | cut -c1-40; cat /mnt/*; echo x > /mnt/secret; chmod 644 /mnt/secret; chown 0 /mnt/secret
        echo more >> /mnt/theirs; chown 7 /mnt/theirs; touch /mnt/made; ls -ln /mnt/made | cut -c1-30
    """
    machine.alike(script, bind, again)
    assert (volume / "theirs").stat().st_uid == FIRST + 7 and (volume / "secret").read_text() == "secret\n"
    assert (volume / "made").stat().st_uid == FIRST

    def as_user(data: dict[str, Any]) -> None:
        bind(data)
        data["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7]}
        data["process"]["capabilities"] = {}

    status, out, _err = machine.alike(
        "id; cat /mnt/theirs /mnt/secret; touch /mnt/mine; stat -c %u:%g /mnt/mine", as_user, again
    )
    assert "1000:1000" in out and status == 0

    def as_nobody(data: dict[str, Any]) -> None:
        as_user(data)
        data["process"]["user"] = {"uid": 65534, "gid": 65534}

    # Files of nobody inside look as if they were this user's.
    machine.alike(
        "id; cat /mnt/secret; chmod 666 /mnt/open; echo x >> /mnt/open; stat -c %u:%a /mnt/open", as_nobody
    )
    assert (volume / "open").read_text() == "open\n"


@pytest.mark.parametrize(
    "change",
    [
        "uidMappings=",
        "gidMappings=",
        "uidMappings=0:100000:0",
        "uidMappings=1:100001:100",
        "gidMappings=1:100001:100",
        "user=70000:0",
        "user=0:70000",
        "group=70000",
        "path=/proc/self/ns/user",
        "path=/nonexistent",
    ],
)
def test_the_errors_are_those_of_runc(machine: Machine, change: str) -> None:
    machine.write(["true"], lambda data: apply(data, change))
    found = []
    for path in (program("runc"), RUNTIME):
        done = machine(path, "--log-format=json", "run", "-b", str(machine.bundle), machine.name())
        assert done.status == 1, done
        texts = [json.loads(line)["msg"] for line in done.err.splitlines() if "remove cgroup" not in line]
        found.append(texts[-1].removeprefix("runc run failed: "))
    assert found[0] == found[1]


def apply(data: dict[str, Any], change: str) -> None:
    name, _equals, value = change.partition("=")
    if name.endswith("Mappings"):
        found = [tuple(map(int, row.split(":"))) for row in value.split()]
        data["linux"][name] = rows(*[(row[0], row[1], row[2]) for row in found])
    elif name == "user":
        uid, gid = value.split(":")
        data["process"]["user"] = {"uid": int(uid), "gid": int(gid)}
    elif name == "group":
        data["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [int(value)]}
    else:
        data["linux"]["namespaces"][-1]["path"] = value


@pytest.mark.parametrize(
    "found",
    [
        [(0, FIRST, 10), (5, 2 * FIRST, 10)],
        [(0, FIRST, 10), (20, FIRST + 5, 10)],
        [(number, FIRST + number, 1) for number in range(341)],
        [(0, 0xFFFFFFF0, 100)],
    ],
)
def test_maps_that_the_host_refuses(machine: Machine, found: list[tuple[int, int, int]]) -> None:
    machine.write(["true"], lambda data: data["linux"].update(uidMappings=rows(*found)))
    for path in (program("runc"), RUNTIME):
        ident = machine.name()
        done = machine(path, "run", "-b", str(machine.bundle), ident)
        assert done.status == 1
        assert "failed to update /proc/PID/uid_map: Invalid argument" in reason(done.err)
        assert machine(path, "list", "-q").out.split() == []


def start(machine: Machine, path: str) -> tuple[str, int]:
    """A container that sleeps, and its pid."""
    machine.write(["sleep", "1000"])
    ident = machine.name()
    with open(os.devnull, "wb") as null:
        words = machine.command(path, "run", "-d", "-b", str(machine.bundle), ident)
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=null, stderr=null, timeout=120)
    return ident, int(json.loads(machine(path, "state", ident).out)["pid"])


def test_the_process_that_engines_know_is_in_it(machine: Machine) -> None:
    found = []
    for path in (program("runc"), RUNTIME):
        ident, pid = start(machine, path)
        shown = [Path(f"/proc/{pid}/uid_map").read_text(), Path(f"/proc/{pid}/gid_map").read_text()]
        status = Path(f"/proc/{pid}/status").read_text()
        shown.append("".join(re.findall(r"^[UG]id:.*\n", status, re.MULTILINE)))
        asked = run(
            [
                program("nsenter"),
                "-t",
                str(pid),
                "-U",
                "-m",
                "-n",
                "-u",
                "-i",
                "-p",
                "/bin/sh",
                "-c",
                "id -u; echo x > /tmp/in",
            ]
        )
        shown += [str(asked.status), asked.out]
        inside = machine.root / "tmp" / "in"
        shown.append(f"{inside.stat().st_uid}:{inside.stat().st_gid}")
        inside.unlink()
        for user in ("0", "1000:1000", "70000"):
            done = machine(
                path,
                "exec",
                "-u",
                user,
                ident,
                "sh",
                "-c",
                "id; cat /proc/self/uid_map; stat -c %u:%g /proc/1",
            )
            shown.append(f"{done.status} {done.out}")
        found.append(shown)
        assert machine(path, "delete", "--force", ident).status == 0
    assert found[0] == found[1]


def test_sockets_belong_to_mapped_users(machine: Machine) -> None:
    """As packet filters, and /proc/net of the namespace, see them on the host."""
    found = []
    for path in (program("runc"), RUNTIME):
        ident, pid = start(machine, path)
        words = machine.command(path, "exec", "-u", "33:34", ident)
        with open(os.devnull, "wb") as null:
            server = subprocess.Popen(
                [*words, "nc", "-l", "-p", "7000"], stdin=subprocess.DEVNULL, stdout=null, stderr=null
            )
        shown: list[str] = []
        deadline = time.monotonic() + 120
        while not shown:  # until it listens
            listed = [
                Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")
            ]
            shown = [row.split()[7] for row in sum(listed, []) if row.split()[1].endswith(":1B58")]
            assert server.poll() is None and time.monotonic() < deadline
        found.append(shown)
        assert machine(path, "delete", "--force", ident).status == 0
        server.wait()
    assert found == [[str(FIRST + 33)]] * 2


def test_a_namespace_that_exists(machine: Machine) -> None:
    need("unshare")
    holder = subprocess.Popen([program("unshare"), "-U", program("sleep"), "1000"])
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            pass
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {FIRST} 1000\n")

        def join(data: dict[str, Any]) -> None:
            del data["linux"]["uidMappings"], data["linux"]["gidMappings"]
            data["linux"]["namespaces"][-1]["path"] = f"/proc/{holder.pid}/ns/user"

        status, out, _err = machine.alike(
            "id; cat /proc/self/uid_map; touch /tmp/j; chown 1000 /tmp/j; stat -c %u /tmp/j", join
        )
        assert f"{FIRST}       1000" in out and status == 0
        (machine.root / "tmp" / "j").unlink()
    finally:
        holder.kill()
        holder.wait()


def test_namespaces_inside_of_it(machine: Machine) -> None:
    script = """
        unshare -U -r sh -c 'id -u; cat /proc/self/uid_map; touch /tmp/n; stat -c %u /tmp/n; chown 1 /tmp/n'
        stat -c %u /tmp/n; rm /tmp/n
    """
    status, out, _err = machine.alike(script)
    assert status == 0 and out.splitlines()[0] == "0"


def test_file_capabilities(machine: Machine) -> None:
    """They belong to the root of the namespace, on the host, too."""
    copy = machine.root / "bin" / "more" / "busybox"
    copy.parent.mkdir()
    value = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
    shutil.copyfile(machine.root / "bin" / "busybox", copy)
    copy.chmod(0o755)
    os.chown(copy, FIRST, FIRST)
    try:
        os.setxattr(copy, "security.capability", b"\1\0\0\3" + value[4:] + FIRST.to_bytes(4, "little"))
    except OSError:
        pytest.skip("the file system has no file capabilities")

    def as_user(data: dict[str, Any]) -> None:
        data["process"]["user"] = {"uid": 1000, "gid": 1000}
        data["process"]["noNewPrivileges"] = False
        data["process"]["capabilities"] = {"bounding": ["CAP_NET_BIND_SERVICE"]}

    _status, out, _err = machine.alike("/bin/more/busybox grep CapEff /proc/self/status", as_user)
    assert out.split()[-1] == "0000000000000400"
    shutil.rmtree(copy.parent)


def test_mapped_mounts(machine: Machine) -> None:
    """runc 1.1 does not know them; ids are as mount_setattr(2) says."""
    volume = machine.volume()
    volume.chmod(0o755)
    below = volume / "below"
    below.mkdir()
    os.chown(below, 1000, 1001)
    shown = {}
    for name, options, mapping in (
        ("by the namespace", ["rbind", "idmap"], None),
        ("by a map", ["rbind"], rows((0, FIRST + 50, 10), (1000, FIRST + 7, 2))),
    ):
        mount: dict[str, Any] = {
            "destination": "/mnt",
            "type": "bind",
            "source": str(volume),
            "options": options,
        }
        if mapping is not None:
            mount["uidMappings"] = mount["gidMappings"] = mapping
        machine.write(
            [
                "sh",
                "-c",
                "stat -c %u:%g /mnt /mnt/below; touch /mnt/new && stat -c %u:%g /mnt/new; chown 7:8 /mnt/below",
            ],
            lambda data, mount=mount: data["mounts"].append(mount),
        )
        done = machine(RUNTIME, "run", "-b", str(machine.bundle), machine.name())
        if done.status and "idmap mounts" in done.err:
            pytest.skip("the file system has no id-mapped mounts")
        found = below.stat()
        made = (volume / "new").stat() if (volume / "new").exists() else None
        shown[name] = (done.out.split(), found.st_uid, found.st_gid, made and (made.st_uid, made.st_gid))
        (volume / "new").unlink(missing_ok=True)
        os.chown(below, 1000, 1001)
    assert shown["by the namespace"] == (["0:0", "1000:1001", "0:0"], 7, 8, (0, 0))
    # The volume's root appears as user 50, which root of the container is not: its files are those of nobody there.
    assert (
        shown["by a map"][0]
        == [
            "50:50",
            "7:8",
        ]
        and shown["by a map"][3] is None
    )
    assert shown["by a map"][1:3] == (1000, 1001)


def test_maps_of_mounts_that_cannot_be(machine: Machine, tmp_path: Path) -> None:
    for mount, text in (
        ({"type": "tmpfs", "source": "tmpfs", "options": ["idmap"]}, "only bind mounts can be id-mapped"),
        (
            {"type": "bind", "source": "/proc", "options": ["rbind", "idmap"]},
            "failed to set MOUNT_ATTR_IDMAP on /proc: ",
        ),
        (
            {"type": "bind", "source": str(tmp_path), "options": ["idmap=uids=0-1-1"]},
            "maps are in uidMappings",
        ),
    ):
        machine.write(
            ["true"], lambda data, mount=mount: data["mounts"].append({"destination": "/mnt", **mount})
        )
        done = machine(RUNTIME, "run", "-b", str(machine.bundle), machine.name())
        assert done.status == 1 and text in done.err, done


# -- engines ---------------------------------------------------------------------------------------------------
@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory below which everybody may look."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_docker_with_remapped_users(folder: Path) -> None:
    need("dockerd", "docker", "containerd", "runc", "busybox")
    if not has_range("/etc/subuid") or not has_range("/etc/subgid"):
        pytest.skip(f"needs ranges of ids for {USER} in /etc/subuid")
    volume = folder / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    source = folder / "copied"
    source.write_text("copied\n")
    docker = Docker(folder, remap=USER)
    try:
        assert docker("import", str(make_image(folder)), "bb:1").status == 0
        found = []
        for runtime in ("runc", "cloche"):
            base = ["run", "--rm", f"--runtime={runtime}", "--network=none", "bb:1", "sh", "-c"]
            done = [
                docker(
                    *base,
                    "id; cat /proc/self/uid_map; touch /x; chown 5 /x; stat -c %u /x /etc/hosts /dev/null",
                )
            ]
            done.append(docker(*base[:-3], "-u=1000", *base[-3:], "id -u; echo out > /dev/stdout; touch /y"))
            done.append(docker(*base[:-3], "--userns=host", *base[-3:], "cat /proc/self/uid_map"))
            words = ["-d", "--name=xx", f"--runtime={runtime}", "--network=none", f"-v={volume}:/vol", "bb:1"]
            started = docker("run", *words, "sh", "-c", "touch /vol/made /mine; sleep 1000")
            assert started.status == 0, started
            while docker("exec", "xx", "test", "-e", "/mine").status != 0:
                pass
            done.append(docker("exec", "xx", "sh", "-c", "id -u; stat -c %u:%g /vol /vol/made"))
            done.append(
                docker("exec", "-u", "33", "xx", "sh", "-c", "id -u; echo x > /mine; echo out > /dev/stdout")
            )
            done.append(docker("cp", str(source), "xx:/etc/copied"))
            done.append(docker("exec", "xx", "stat", "-c", "%u:%g", "/etc/copied"))
            changes = docker("diff", "xx")
            changes.out = "\n".join(sorted(changes.out.splitlines()))
            done.append(changes)
            done.append(docker("rm", "-f", "xx"))
            shown = [(row.status, row.out, row.err.replace("cloche", "runc")) for row in done]
            owner = (volume / "made").stat()
            found.append((shown, owner.st_uid - FIRST, owner.st_gid - FIRST))
            (volume / "made").unlink()
        for ours, theirs in zip(found[1][0], found[0][0], strict=True):
            assert ours == theirs
        assert found[0] == found[1]
        assert found[0][0][0][0] == 0 and "out" in found[0][0][1][1]
    finally:
        docker.close()


def test_podman_with_maps(folder: Path) -> None:
    need("podman", "conmon", "runc", "busybox")
    volume = folder / "volume"
    volume.mkdir()
    podman = Podman(folder)
    need_runc(podman, folder, "")
    script = "id; cat /proc/self/uid_map /proc/self/gid_map; touch /vol/made /mine; stat -c %u:%g /vol /vol/* /mine"
    try:
        found = []
        for runtime in RUNTIMES:
            shown = []
            for words in (
                ["--uidmap=0:200000:5000", "--gidmap=0:300000:5000"],
                ["--uidmap=0:200000:5000", "-u=77:78"],
                ["--uidmap=0:200000:10", "--uidmap=10:300000:10", "--cap-drop=all"],
            ):
                volume.chmod(0o777)
                base = ["run", "--rm", "--network=none", f"-v={volume}:/vol", *words, "bb:1"]
                done = podman(runtime, *base, "sh", "-c", script)
                made = (volume / "made").stat()
                shown.append((done.status, done.out, done.err, made.st_uid, made.st_gid))
                (volume / "made").unlink()
            words = ["--name=x", "--network=none", "--uidmap=0:200000:5000", "bb:1", "sleep", "1000"]
            assert podman(runtime, "run", "-d", *words).status == 0
            (folder / "copied").write_text("copied\n")
            for row in (
                podman(runtime, "exec", "x", "sh", "-c", "id -u; touch /made; stat -c %u /made"),
                podman(runtime, "exec", "-u=5", "x", "id", "-u"),
                podman(runtime, "cp", str(folder / "copied"), "x:/etc/copied"),
                podman(runtime, "exec", "x", "stat", "-c", "%u:%g", "/etc/copied"),
                podman(runtime, "cp", "x:/etc/copied", str(folder / "back")),
                podman(runtime, "stop", "-t=0", "x"),
                podman(runtime, "start", "x"),
                podman(runtime, "exec", "x", "cat", "/etc/copied"),
                podman(runtime, "rm", "-f", "-t=0", "x"),
            ):
                shown.append((row.status, row.out, row.err, 0, 0))
            assert (folder / "back").read_text() == "copied\n"
            found.append(shown)
        assert found[0] == found[1]
        assert found[0][0][3:] == (200000, 300000) and found[0][1][3] == 200077
        # An id-mapped volume, which runc 1.1 takes for an ordinary one.
        base = ["run", "--rm", "--network=none", f"-v={volume}:/vol:idmap", "--uidmap=0:200000:5000", "bb:1"]
        volume.chmod(0o755)
        done = podman(
            "cloche", *base, "sh", "-c", "stat -c %u:%g /vol; touch /vol/made; stat -c %u:%g /vol/made"
        )
        if "idmap mounts" not in done.err:  # the file system has them
            assert (done.status, done.out) == (0, "0:0\n0:0\n"), done
            assert (volume / "made").stat().st_uid == 0
    finally:
        podman("runc", "rm", "-fa", "-t", "0")
        run(["umount", str(folder / "root" / "overlay")])


def test_podman_of_an_ordinary_user(rootless: Rootless) -> None:  # noqa: F811
    volume = rootless.folder / "volume"
    found = []
    for runtime in RUNTIMES:
        shown = []
        for words in (
            ["--userns=keep-id"],
            ["--userns=keep-id:uid=200,gid=210"],
            ["--userns=nomap"],
            ["--uidmap=0:1:100", "--gidmap=0:1:100"],
            ["--userns=keep-id", "-u=0"],
        ):
            base = ["run", "--rm", "--network=none", f"-v={volume}:/vol", *words, "bb:1"]
            done = rootless(
                runtime,
                *(
                    *base,
                    "sh",
                    "-c",
                    "id; cat /proc/self/uid_map; touch /vol/n /tmp/n; stat -c %u:%g /vol /vol/n /tmp/n",
                ),
            )
            owner = 0, 0
            if (volume / "n").exists():
                owner = (volume / "n").stat().st_uid, (volume / "n").stat().st_gid
                rootless("runc", "unshare", "rm", "-f", str(volume / "n"))
            shown.append((words, done.status, done.out, done.err, owner))
        found.append(shown)
    assert found[0] == found[1]
    assert found[0][0][1] == 0, found[0][0]
