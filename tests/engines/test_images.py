"""Images go both ways between cloche and engines: an image that was committed here runs there, with the same
contents.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.images import Images, LayerTar, Maker, busybox_layer
from tests.cli.test_commit import BASE, LIST
from tests.engines.harness import Docker, need, run
from tests.engines.test_podman import Podman

# Without the last step of test_commit's, so that it ends: devices and file capabilities come with it.
WORK = (
    "echo new >>/d/changed; rm /d/gone; chmod 600 /mode; rm -r /tree; rm -r /replaced; echo file >/replaced;"
    "mv /moved /moved2; chown 7:8 /owner; mkdir -p /made/a/b; echo x >/made/a/b/x; ln /made/a/b/x /made/hard;"
    "ln -s ../x /made/link; touch /made/empty; dd if=/dev/zero of=/made/holes bs=1k seek=5000 count=1 2>/dev/null;"
    "mkdir -p /new/under; echo y >'/new/under/with space'; touch /done; sleep 1000"
)


@pytest.fixture
def committed(tmp_path: Path) -> Iterator[tuple[Images, str]]:
    """A store with the image made:1 saved as made.tar, and what it shows inside."""
    images = Images(tmp_path)
    layout = Maker(tmp_path / "layout")
    layout.image([busybox_layer(), BASE], {"Cmd": ["/bin/sh", "-c", WORK], "Env": ["PATH=/bin"]}, "base:1")
    assert images("load", "-i", "layout").status == 0
    assert images("run", "-d", "--name", "work", "--image", "base:1").status == 0
    try:
        images("exec", "work", "--", "/bin/sh", "-c", "until test -e /done; do sleep 0.1; done")
        assert images("commit", "-c", 'CMD ["/bin/echo", "hi"]', "work", "made:1").status == 0
    finally:
        images("rm", "-f", "work")
    assert images("save", "-o", "made.tar", "made:1").status == 0
    yield images, images.run("made:1", "--", "/bin/sh", "-c", LIST)


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    need("podman", "conmon", "runc", "busybox")
    (tmp_path / "podman").mkdir()
    yield Podman(tmp_path / "podman")
    run(["umount", str(tmp_path / "podman" / "root" / "overlay")])


def same(ours: str, theirs: str) -> None:
    """But for the engines' own files: mount points and what they mark containers by."""
    marks = ("/.dockerenv", "/proc ", "/sys ", "/dev ", "/run", "/ ")
    both = [
        [line for line in text.splitlines() if not line.startswith(marks)] for text in (ours, theirs)
    ]  # fmt: skip
    assert both[0] == both[1]


def test_podman_runs_what_was_committed(committed: tuple[Images, str], podman: Podman) -> None:
    images, inside = committed
    loaded = podman("runc", "load", "-i", str(images.top / "made.tar"))
    assert loaded.status == 0, loaded
    plain = ("run", "--rm", "--network=none")
    shown = podman("runc", *plain, "docker.io/library/made:1")
    assert shown.out == "hi\n", shown
    there = podman("runc", *plain, "docker.io/library/made:1", "/bin/sh", "-c", LIST)
    same(inside, there.out)
    # And back.
    assert podman("runc", "save", "-o", str(images.top / "back.tar"), "docker.io/library/made:1").status == 0
    assert images("prune", "-a").status == 0
    back = images("load", "-i", "back.tar")
    assert back.out == "made:1\n", back
    same(inside, images.run("made:1", "--", "/bin/sh", "-c", LIST))


def test_docker_runs_what_was_committed(committed: tuple[Images, str], docker: Docker) -> None:
    images, inside = committed
    loaded = docker("load", "-i", str(images.top / "made.tar"))
    assert loaded.status == 0, loaded
    plain = ("run", "--rm", "--network=none")
    shown = docker(*plain, "made:1")
    assert shown.out == "hi\n", shown
    same(inside, docker(*plain, "made:1", "/bin/sh", "-c", LIST).out)
    assert docker("save", "-o", str(images.top / "back.tar"), "made:1").status == 0
    assert images("prune", "-a").status == 0
    assert images("load", "-i", "back.tar").out == "made:1\n"
    same(inside, images.run("made:1", "--", "/bin/sh", "-c", LIST))
    assert docker("rmi", "made:1").status == 0


def test_an_image_of_docker_runs_here(docker: Docker, tmp_path: Path) -> None:
    images = Images(tmp_path)
    saved = docker("save", "-o", str(tmp_path / "bb.tar"), "bb:1")
    assert saved.status == 0, saved
    assert images.run("./bb.tar", "--", "/bin/cat", "/etc/group") == "root:x:0:\nuser:x:1000:\n"


def test_what_engines_think_of_layers(podman: Podman, tmp_path: Path) -> None:
    """The same layers, put together here and by podman."""
    lower = (
        LayerTar()
        .folder("d", 0o1777)
        .add("d/a", b"a1")
        .add("d/b", b"b1")
        .folder("e")
        .add("e/x", b"x")
        .add("gone", b"1")
    )
    lower.add("again", b"ag").link("usr-link", "d").add("was-file", b"f").folder("was-dir").add(
        "was-dir/x", b"x"
    )
    upper = (
        LayerTar()
        .folder("d", 0o1777)  # podman makes one of its own mode where a layer leaves it out
        .add("d/a", b"a2", mode=0o4711, uid=5)
        .add(".wh.gone")
        .add("e/.wh..wh..opq")
        .add("e/y", b"y")
    )
    upper.folder("was-file").add("was-file/z", b"z").add("was-dir", b"now a file").add("hard", b"hard")
    upper.add("hard2", type=b"1", linkname="hard").add("d/.wh.b").add("d/b2", b"b2")
    layout = Maker(tmp_path / "layout")
    layout.image([busybox_layer(), lower.bytes(), upper.bytes()], {"Env": ["PATH=/bin"]}, "layers:1")
    inside = Images(tmp_path).run("./layout", "--", "/bin/sh", "-c", LIST.partition("; cat")[0])
    assert "/was-dir 644" in inside and "/e/x" not in inside
    pulled = podman("runc", "pull", f"oci:{layout.path}:layers:1")
    assert pulled.status == 0, pulled
    ident = pulled.out.strip().splitlines()[-1]
    there = podman(
        "runc",
        "run",
        "--rm",
        "--network=none",
        ident,
        "/bin/sh",
        "-c",
        LIST.partition("; cat")[0],
    )
    same(inside, there.out)
