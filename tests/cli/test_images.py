"""Images: `run --image`, `load`, `save`, `images`, `inspect`, `rmi`, `prune`."""

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from cloche.cli.import_ import pack
from tests.cli.harness import CLOCHE, IS_ROOT, TIMEOUT_S, USER, is_one_line, run_words
from tests.cli.images import Images, LayerTar, Maker, busybox_layer

CAPABILITY = bytes.fromhex(
    "0100000200040000000000000000000000000000"
)  # cap_net_bind_service=ep, of version 2


def test_an_oci_layout_runs(images: Images, layout: Maker) -> None:
    layout.image(
        [busybox_layer()], {"Cmd": ["/bin/sh", "-c", "echo hello from $PWD"], "WorkingDir": "/home/app"}
    )
    assert images.run("./layout") == "hello from /home/app\n"
    assert images.run("./layout", "--", "/bin/id", "-u") == "0\n"


def test_the_configuration_counts_as_in_docker(images: Images, layout: Maker) -> None:
    config = {
        "Entrypoint": ["/bin/echo", "entry"],
        "Cmd": ["cmd"],
        "Env": ["GREETING=hello world", "PATH=/bin"],
        "User": "app",
        "WorkingDir": "/made/for/it",
        "Volumes": {"/volume": {}},
    }
    layout.image([busybox_layer()], config)
    assert images.run("./layout") == "entry cmd\n"
    assert images.run("./layout", "--", "mine") == "entry mine\n"
    script = "echo $GREETING,$PATH,$HOME,$PWD; id; ls -d /volume; stat -c %u:%g /home/app /etc/passwd"
    out = images.run("./layout", "--entrypoint", "sh", "--", "-c", script)
    assert out == (
        "hello world,/bin,/home/app,/made/for/it\n"
        "uid=1000(app) gid=1000(app) groups=44(extra),1000(app)\n/volume\n1000:1000\n0:0\n"
    )
    assert images.run("./layout", "-u", "root:44", "--entrypoint", "id", "--", "-g") == "44\n"
    assert images.run("./layout", "-u", "7", "--entrypoint", "id", "--", "-u") == "7\n"
    refused = images("run", "--image", "./layout", "-u", "nobody-knows", "--", "x")
    assert refused.status == 125 and is_one_line(refused.err)


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_layers_are_put_together(images: Images, layout: Maker, packing: str) -> None:
    lower = LayerTar().folder("d").add("d/a", b"a1").add("d/b", b"b1").folder("e").add("e/x", b"x")
    lower.add("gone", b"1").add("d/again", type=tarfile.LNKTYPE, linkname="d/a").link("usr-link", "d")
    upper = (
        LayerTar()
        .add("d/a", b"a2")
        .add(".wh.gone")
        .add("e/.wh..wh..opq")
        .add("e/y", b"y")
        .add("usr-link/new", b"n")
    )
    layout.image([busybox_layer(), lower.bytes(), upper.bytes()], {}, packing=packing)
    script = "cat d/a d/b d/again; echo; ls -d gone; find /d /e | sort; cat d/new"
    done = images("run", "--image", "./layout", "--", "/bin/sh", "-c", script)
    assert done.out == "a2b1a1\n/d\n/d/a\n/d/again\n/d/b\n/d/new\n/e\n/e/y\nn"


def test_writes_stay_with_the_sandbox(images: Images, layout: Maker) -> None:
    layout.image([busybox_layer()], {})
    script = "echo mine >>/etc/passwd; tail -n1 /etc/passwd; rm /bin/wc; ls /bin/wc; ln /etc/group /etc/g2; stat -c %h /etc/group"
    done = images("run", "--image", "./layout", "--", "/bin/sh", "-c", script)
    assert done.out == "mine\n2\n" and "No such file" in done.err
    assert images.run("./layout", "--", "/bin/sh", "-c", "wc -l </etc/passwd") == "2\n"


def test_a_large_directory_is_listed_and_searched(images: Images, layout: Maker) -> None:
    many = LayerTar().folder("many")
    for number in range(1000):
        many.add(f"many/{number:04d}", b"%d" % number)
    layout.image([busybox_layer(), many.bytes()], {})
    script = (
        "cat /many/0777; echo; ls /many | wc -l; cat /many/* | wc -c; ls /many/1000 2>/dev/null || echo none"
    )
    assert images.run("./layout", "--", "/bin/sh", "-c", script) == "777\n1000\n2890\nnone\n"


def test_a_listing_holds_nobody(images: Images, layout: Maker) -> None:
    """The sentry's meter judges; in one piece this took ten times as long as it allows."""
    many = LayerTar().folder("many")
    for number in range(20_000):
        many.link(f"many/{number:05d}", "x")
    layout.image([busybox_layer(), many.bytes()], {})
    words = [*images.words, "run", "--image", "./layout", "--", "/bin/sh", "-c", "ls /many | wc -l"]
    done = run_words(words, cwd=images.top, XDG_DATA_HOME=str(images.data), CLOCHE_STRICT="40")
    assert done.status == 0 and done.out == "20000\n", done


def test_the_store_is_listed_inspected_and_emptied(images: Images, layout: Maker, tmp_path: Path) -> None:
    digest = layout.image([busybox_layer()], {"Cmd": ["/bin/echo", "hello"]}, "example.org/team/tool:1.2")
    assert images("load", "-i", "layout").out == "example.org/team/tool:1.2\n"
    assert images.run("example.org/team/tool:1.2") == "hello\n"
    assert images.run(digest[7:19]) == "hello\n"
    row = json.loads(images("images", "--json").out)[0]
    assert (row["name"], row["digest"], row["platform"]) == (
        "example.org/team/tool:1.2",
        digest,
        "linux/amd64",
    )
    assert "example.org/team/tool:1.2" in images("images").out
    assert json.loads(images("inspect", digest).out)[0]["config"]["config"]["Cmd"] == ["/bin/echo", "hello"]
    saved = images("save", "-o", "saved.tar", digest)
    assert saved.status == 0, saved
    assert images("rmi", "example.org/team/tool:1.2").status == 0
    store = images.data / "cloche" / "images"
    assert [list((store / name).iterdir()) for name in ("blobs", "layers", "content", "names")] == [
        [],
        [],
        [],
        [],
    ]
    refused = images("run", "--image", "example.org/team/tool:1.2", "--pull", "never")
    assert refused.status == 125 and is_one_line(refused.err)
    assert images("load", "-q", "-i", "saved.tar").out == digest + "\n"


def test_a_sandbox_keeps_its_image(images: Images, layout: Maker) -> None:
    layout.image([busybox_layer()], {}, "tool:1")
    assert images("load", "-i", "layout").status == 0
    started = images("run", "-d", "--name", "user", "--image", "tool:1", "--", "/bin/sleep", "1000")
    assert started.status == 0, started
    try:
        assert images("prune", "-a").status == 0
        assert images("images", "-q").out == ""
        assert images("exec", "user", "--", "/bin/cat", "/etc/group").out.startswith("root:")
    finally:
        images("rm", "-f", "user")
    assert images("prune").status == 0
    assert list((images.data / "cloche" / "images" / "content").iterdir()) == []


HOSTILE = {
    "leads out": LayerTar().add("../../evil", b"x"),
    "link to what is no file": LayerTar().add("x", type=tarfile.LNKTYPE, linkname="/etc/shadow"),
    "link that leads out": LayerTar().add("x", type=tarfile.LNKTYPE, linkname="../../etc/shadow"),
    "below a file": LayerTar().add("f", b"").add("f/g", b""),
    "in a circle": LayerTar().link("a", "b").link("b", "a").add("a/x", b""),
    "long": LayerTar().add("x" * 300, b""),
    "deep": LayerTar().add("d/" * 600 + "x", b""),
    "owner": LayerTar().add("x", uid=-1),
    "device": LayerTar().add("x", type=tarfile.CHRTYPE, devmajor=1 << 20, devminor=0),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_hostile_layer_is_refused(images: Images, layout: Maker, what: str) -> None:
    try:
        layer = HOSTILE[what].bytes()
    except (ValueError, tarfile.TarError):
        pytest.skip("this tarfile does not write such a header")
    layout.image([layer], {"Cmd": ["/x"]})
    refused = images("load", "-i", "layout")
    assert refused.status == 125 and is_one_line(refused.err), refused
    assert list((images.data / "cloche" / "images" / "names").iterdir()) == []
    assert not [each for each in (images.data / "cloche" / "images" / "content").iterdir()
                if each.name.startswith("new-")]  # fmt: skip


def test_what_an_image_says_reaches_no_terminal_as_it_is(images: Images, layout: Maker) -> None:
    evil = "\x1b]0;x\x07\u202e\n"
    for user in (evil, "0:" + evil):
        layout.manifests = []
        layout.image([busybox_layer()], {"User": user})
        refused = images("run", "--image", "./layout", "--", "/bin/id")
        assert refused.status == 125 and is_one_line(refused.err) and "<1B>]0;x<07>" in refused.err, refused
        assert "\x1b" not in refused.err and "\u202e" not in refused.err, refused
    for index in (
        {"manifests": [{**layout.manifests[0], "platform": {"os": evil, "architecture": "amd64"}}]},
        {"mediaType": evil, "schemaVersion": 2},
    ):
        made = layout.blob(json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
        (layout.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [made]}))
        refused = images("load", "-i", "layout")
        assert refused.status == 125 and is_one_line(refused.err) and "<1B>" in refused.err, refused
        assert "\x1b" not in refused.err and "\u202e" not in refused.err, refused


def test_ids_that_are_none_are_no_user_s(images: Images, layout: Maker) -> None:
    """Of an image's passwd and group."""
    digits = "1" * 5000
    layer = LayerTar()
    layer.add("etc/passwd", f"big:x:4294967295:1::/:\nlong:x:5:{digits}::/:\nok:x:7:7::/:\n".encode())
    layer.add("etc/group", f"big:x:9999999999:ok\nlong:x:{digits}:ok\nfine:x:8:ok\n".encode())
    layers = [busybox_layer(), layer.bytes()]
    for user, said in (
        ("long", "5 0"),
        ("ok", "7 7 8"),
        ("big", ""),
        ("ok:big", ""),
    ):
        layout.manifests = []
        layout.image(layers, {"User": user})
        done = images("run", "--image", "./layout", "--", "/bin/sh", "-c", "id -u; id -G")
        if said:
            assert done.status == 0 and done.out.split() == said.split(), done
        else:
            assert done.status == 125 and is_one_line(done.err) and done.err.endswith(" big\n"), done


def test_a_layer_that_is_not_what_it_says_is_refused(images: Images, layout: Maker) -> None:
    digest = layout.image([LayerTar().add("x", b"x").bytes()], {"Cmd": ["/x"]})
    manifest = json.loads((layout.blobs / digest[7:]).read_text())
    blob = layout.blobs / manifest["layers"][0]["digest"][7:]
    blob.write_bytes(blob.read_bytes()[:-4] + b"abcd")
    refused = images("load", "-i", "layout")
    assert refused.status == 125 and is_one_line(refused.err) and "digest" in refused.err


def test_what_a_layer_names_reaches_nothing_of_the_host(images: Images, layout: Maker) -> None:
    layer = LayerTar().link("etc2", "/etc").add("etc2/made-by-a-layer", b"x").link("out", "../../../../tmp")
    layer.add("out/made-by-a-layer", b"x").add("/abs", b"x").add("./././dot", b"x").add("dup", b"1").add(
        "dup", b"2"
    )
    layer.add("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666).add(
        "kmem", type=tarfile.CHRTYPE, devmajor=1, devminor=2
    )
    layout.image([busybox_layer(), layer.bytes()], {})
    script = (
        "cat /etc/made-by-a-layer /tmp/made-by-a-layer /abs /dot /dup; echo z >/null; cat /null; cat /kmem"
    )
    done = images("run", "--image", "./layout", "--", "/bin/sh", "-c", script)
    assert done.out == "xxxx2" and "/kmem" in done.err
    assert not Path("/etc/made-by-a-layer").exists() and not Path("/tmp/made-by-a-layer").exists()
    for path in (images.data / "cloche" / "images" / "content").rglob("*"):
        assert path.is_dir() or path.is_file() and not path.is_symlink()


def test_an_ordinary_user_has_images_too(as_user: list[str], tmp_path: Path, project: Path) -> None:
    layout = Maker(tmp_path / "user-layout")
    layout.image([busybox_layer()], {"User": "app"})
    words = [*as_user, *CLOCHE, "run", "--image", str(layout.path), "--", "/bin/sh", "-c"]
    script = "stat -c %u:%g /home/app /etc/passwd; touch /home/app/x; id -u; touch /etc/x || echo no"
    done = run_words([*words, script], cwd=project, XDG_DATA_HOME=str(project / "data"))
    assert done.out == "1000:1000\n0:0\n1000\nno\n", done


def without_user_namespaces(words: list[str]) -> list[str]:
    """The same command line in a user namespace that root has made, and in which nobody can make another."""
    unshare = shutil.which("unshare")
    if not IS_ROOT or unshare is None:
        pytest.skip("only root can take them away")
    ids = ["--map-users=0,0,65536", "--map-groups=0,0,65536"]
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" "$@"'
    made = [unshare, "--user", *ids, "sh", "-c", script]
    if subprocess.run([*made, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this unshare cannot map ids so")
    return [*made, *words]


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_owners_are_the_image_s_for_an_ordinary_user(
    as_user: list[str], tmp_path: Path, project: Path, has_namespaces: bool
) -> None:
    """All that one does with images: the owners are kept in indexes, and seen inside, but are not the host's."""
    layout = Maker(tmp_path / "user-layout")
    layout.image([busybox_layer()], {"Cmd": ["/bin/sh"]}, "tool:1")
    user = as_user if has_namespaces else without_user_namespaces(as_user)
    words = [*user, *CLOCHE, "--root", str(project / "root")]

    def cloche(*args: str) -> str:
        done = run_words([*words, *args], cwd=project, XDG_DATA_HOME=str(project / "data"))
        assert done.status == 0, done
        return done.out

    (project / "to").mkdir()
    os.chown(project / "to", pwd.getpwnam(USER).pw_uid if IS_ROOT else -1, -1)
    assert cloche("load", "-i", str(layout.path)) == "tool:1\n"
    assert cloche("run", "--image", "tool:1", "--", "stat", "-c", "%u:%g", "/home/app") == "1000:1000\n"
    script = (
        "chown 5:6 /etc/group; echo new >/new; chown 77:78 /new; chmod 4755 /new; mknod /null c 1 3; "
        "rm /bin/ls; touch /ready; exec sleep 1000"
    )
    cloche("run", "-d", "--name", "n", "--image", "tool:1", "--", "/bin/sh", "-c", script)
    try:
        cloche("exec", "n", "/bin/sh", "-c", "until test -e /ready; do sleep 0.05; done")
        assert cloche("diff", "--name-status", "n").split() == [
            "D", "/bin/ls", "M", "/etc/group", "A", "/new", "A", "/null", "A", "/ready"]  # fmt: skip
        cloche("cp", "n:/new", "out")
        made = (project / "out").stat()
        assert made.st_uid != 77 and made.st_mode & 0o7777 == 0o755
        assert cloche("cp", "out", "n:/in") == "" and cloche("exec", "n", "stat", "-c", "%u", "/in") == "0\n"
        cloche("apply", "n", "--to", "to", "/new")
        assert (project / "to" / "new").stat().st_uid == made.st_uid
        digest = cloche("commit", "n", "made:1")
        cloche("save", "-o", "made.tar", "made:1")
    finally:
        cloche("rm", "-f", "n")
    cloche("rmi", "made:1")
    cloche("load", "-i", "made.tar", "--name", "again:1")
    shown = cloche(
        "run", "--image", "again:1", "--", "stat", "-c", "%u:%g %a %F", "/etc/group", "/new", "/null"
    )
    assert shown.splitlines() == ["5:6 644 regular file", "77:78 4755 regular file",
                                  "0:0 644 character special file"]  # fmt: skip
    assert cloche("inspect", "again:1").count(digest.strip()) == 1


def test_a_root_file_system_becomes_an_image(images: Images, layout: Maker, rootfs: Path) -> None:
    made = images("import", "--cmd", "/bin/cat /etc/passwd", str(rootfs), "root:1")
    assert made.status == 0 and made.out.startswith("sha256:"), made
    assert images.run("root:1").startswith("root:")
    layout.image([busybox_layer()], {}, "base:1")
    assert images("load", "-i", "layout").status == 0
    script = "echo x >/made; sleep 1000"
    assert (
        images("run", "-d", "--name", "source", "--image", "base:1", "--", "/bin/sh", "-c", script).status
        == 0
    )
    try:
        images("exec", "source", "--", "/bin/sh", "-c", "until test -s /made; do sleep 0.1; done")
        assert images("export", "-o", "root.tar", "source").status == 0
    finally:
        images("rm", "-f", "source")
    assert images("import", "root.tar", "copy:1").status == 0
    assert images.run("copy:1", "--", "/bin/cat", "/made") == "x\n"


def test_attributes_and_holes_of_a_root_file_system_are_imported(
    images: Images, rootfs: Path, tmp_path: Path
) -> None:
    """As the host shows them; access lists and labels are the host's own."""
    top = tmp_path / "root"
    shutil.copytree(rootfs, top, symlinks=True)
    with open(top / "sparse", "wb") as file:
        file.write(os.urandom(4096))
        file.seek(1 << 20)
        file.write(os.urandom(5000))
        file.truncate(3 << 20)
    (top / "dense").write_bytes(os.urandom(3 * 4096))
    with open(top / "hole", "wb") as file:
        file.truncate(100_000)
    try:
        os.setxattr(top / "dense", "user.text", b"value")
        os.setxattr(top / "dense", "user.raw", b"\0\xff\n=")
        os.setxattr(top / "home", "user.of-directory", b"1")
        if IS_ROOT:
            os.setxattr(top / "bin" / "dynamic", "security.capability", CAPABILITY)
    except OSError:
        pytest.skip("the file system has no extended attributes")
    assert images("import", str(top), "root:1").status == 0
    names = ["sparse", "dense", "hole"]
    shown = images.run("root:1", "--", "/bin/stat", "-c", "%s %b", *(f"/{name}" for name in names))
    on_host = [(top / name).stat() for name in names]
    assert shown.splitlines() == [f"{st.st_size} {st.st_blocks}" for st in on_host]
    sums = images.run("root:1", "--", "/bin/busybox", "sha256sum", *(f"/{name}" for name in names))
    assert [line.split()[0] for line in sums.splitlines()] == [
        hashlib.sha256((top / name).read_bytes()).hexdigest() for name in names
    ]
    assert (
        images("run", "-d", "--name", "x", "--image", "root:1", "--", "/bin/busybox", "sleep", "1000").status
        == 0
    )
    try:
        assert images("export", "-o", "root.tar", "x").status == 0
    finally:
        images("rm", "-f", "x")
    with tarfile.open(tmp_path / "root.tar", encoding="utf-8", errors="surrogateescape") as tar:
        members = {os.path.normpath(info.name): info.pax_headers for info in tar}
    for name in ("dense", "home", "bin/dynamic"):
        has = {
            key.removeprefix("SCHILY.xattr."): value.encode(errors="surrogateescape")
            for key, value in members[name].items()
            if key.startswith("SCHILY.xattr.")
        }
        wanted = [each for each in os.listxattr(top / name) if each.startswith(("user.", "security.cap"))]
        assert has == {each: os.getxattr(top / name, each) for each in wanted}


def test_a_sparse_file_costs_no_more_when_it_is_imported(images: Images, tmp_path: Path) -> None:
    """Neither in the temporary layer nor in the store."""
    top = tmp_path / "top"
    top.mkdir()
    with open(top / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(100 << 20)
        file.write(b"middle")
        file.truncate(200 << 20)
    with tempfile.TemporaryFile(dir=tmp_path) as layer:
        pack(str(top), layer)
        st = os.fstat(layer.fileno())
        assert st.st_size > 200 << 20 and st.st_blocks < 1000
        with tarfile.open(fileobj=layer) as tar:
            read = tar.extractfile("./sparse")
            assert read is not None and read.read() == (top / "sparse").read_bytes()
    with tarfile.open(tmp_path / "top.tar", "w") as tar:
        tar.add(top, ".")
    for source in ("top", "top.tar"):
        assert images("import", source, "sparse:1").status == 0
        assert sum(path.lstat().st_blocks for path in images.data.rglob("*")) < 4000
    for path in (images.data / "cloche" / "images" / "blobs").iterdir():
        with open(path, "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == path.name


def test_a_layer_may_begin_with_a_large_file(images: Images, tmp_path: Path) -> None:
    """More than what a layer may always have: it was taken for an attack, because little of it had been read yet."""
    top = tmp_path / "top"
    top.mkdir()
    with open(top / "large", "wb") as file:
        file.truncate(1200 << 20)
    done = images("import", "top", "large:1", timeout=4 * TIMEOUT_S)
    assert done.status == 0 and done.out.startswith("sha256:"), done


def test_the_stop_signal_is_the_image_s(images: Images, layout: Maker) -> None:
    script = "trap 'exit 7' USR1; touch /ready; while :; do sleep 0.1; done"
    layout.image([busybox_layer()], {"Cmd": ["/bin/sh", "-c", script], "StopSignal": "SIGUSR1"}, "stops:1")
    assert images("load", "-i", "layout").status == 0
    assert images("run", "-d", "--name", "stops", "--image", "stops:1").status == 0
    try:
        images("exec", "stops", "--", "/bin/sh", "-c", "until test -e /ready; do sleep 0.1; done")
        assert images("stop", "-t", "60", "stops").status == 0
        assert images("wait", "stops").status == 7
    finally:
        images("rm", "-f", "stops")
