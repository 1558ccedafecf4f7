"""`cloche commit`, and `diff` of sandboxes from images."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import is_one_line
from tests.cli.images import Images, LayerTar, Maker, busybox_layer

BASE = (
    LayerTar()
    .folder("d", 0o1777)
    .add("d/changed", b"old\n")
    .add("d/gone", b"x")
    .add("mode", b"mode\n")
    .folder("tree")
    .folder("tree/deep")
    .add("tree/deep/file", b"x")
    .folder("replaced")
    .add("replaced/inside", b"x")
    .add("moved", b"moved\n", mode=0o4755)
    .add("owner", b"o\n")
    .bytes()
)
WORK = (
    "echo new >>/d/changed; rm /d/gone; chmod 600 /mode; rm -r /tree; rm -r /replaced; echo file >/replaced;"
    "mv /moved /moved2; chown 7:8 /owner; mkdir -p /made/a/b; echo x >/made/a/b/x; ln /made/a/b/x /made/hard;"
    "ln -s ../x /made/link; touch /made/empty; dd if=/dev/zero of=/made/holes bs=1k seek=5000 count=1 2>/dev/null;"
    "mkdir -p /new/under; echo y >'/new/under/with space'; sleep 1000"
)
LIST = (
    "find / -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -path /run -prune -o -path /etc -prune "
    "-o -type d -o -exec stat -c '%n %a %u:%g %s %h %F %N' {} \\; | sort; "
    "find / -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -path /run -prune -o -path /etc -prune "
    "-o -type d -exec stat -c '%n %a %u:%g' {} \\; | sort; cat /d/* /mode /replaced /moved2 /made/a/b/x; sha256sum /made/holes"
)


@pytest.fixture
def worker(images: Images, layout: Maker) -> Iterator[Images]:
    layout.image(
        [busybox_layer(), BASE], {"Cmd": ["/bin/sh", "-c", WORK], "Env": ["PATH=/bin", "A=1"]}, "base:1"
    )
    assert images("load", "-i", "layout").status == 0
    started = images("run", "-d", "--name", "work", "--image", "base:1")
    assert started.status == 0, started
    waited = images(
        "exec", "work", "--", "/bin/sh", "-c", "until test -e '/new/under/with space'; do sleep 0.1; done"
    )
    assert waited.status == 0, waited
    yield images
    images("rm", "-f", "work")


def test_diff_is_against_the_image(worker: Images) -> None:
    shown = worker("diff", "--name-status", "work", "/d", "/mode", "/moved", "/moved2", "/made/link")
    assert shown.out.splitlines() == [
        "M\t/d/changed", "D\t/d/gone", "A\t/made/link", "M\t/mode", "R\t/moved\t/moved2"
    ], shown  # fmt: skip
    patch = worker("diff", "work", "/d/changed")
    assert "-old" not in patch.out and " old\n+new\n" in patch.out and "#" not in patch.out
    refused = worker("apply", "work", "/d/changed")
    assert refused.status == 125 and is_one_line(refused.err)
    (worker.top / "there").mkdir()
    (worker.top / "there" / "changed").write_text("old\n")
    (worker.top / "there" / "gone").write_text("x")
    done = worker("apply", "--to", "there", "work", "/d")
    assert done.status == 0, done
    assert [(each.name, each.read_text()) for each in (worker.top / "there").iterdir()] == [
        ("changed", "old\nnew\n")
    ]


def test_it_is_the_same_when_it_has_ended(worker: Images) -> None:
    running = worker("commit", "work", "made:1")
    shown = worker("diff", "--name-status", "work").out
    assert worker("stop", "-t", "0", "work").status == running.status == 0
    for image in ("base:1", "made:1"):
        assert worker("rmi", image).status == 0
    assert worker("prune", "-a").status == 0
    assert worker("diff", "--name-status", "work").out == shown and "M\t/d/changed" in shown
    ended = worker("commit", "work", "made:2")
    assert ended.out == running.out, ended
    exported = worker("export", "-o", "root.tar", "work")
    assert exported.status == 0, exported
    with tarfile.open(worker.top / "root.tar") as tar:
        assert {"./made/a/b/x", "./made/hard", "./replaced", "./bin/sh"} <= set(tar.getnames())
        assert tar.getmember("./owner").uid == 7 and tar.getmember("./made/hard").islnk()
        assert all(member.size >= 0 for member in tar.getmembers())
    assert worker("rm", "work").status == 0
    done = worker("commit", "work", "made:3")
    assert done.status == 125 and is_one_line(done.err)


def test_what_was_committed_runs_and_is_the_same(worker: Images) -> None:
    done = worker(
        "commit", "-c", 'CMD ["/bin/echo", "hi"]', "-c", "ENV B=2 C=3", "-m", "why", "work", "made:1"
    )
    assert done.status == 0 and not done.err, done
    again = worker(
        "commit", "-c", 'CMD ["/bin/echo", "hi"]', "-c", "ENV B=2 C=3", "-m", "why", "work", "made:2"
    )
    assert again.out == done.out
    assert worker.run("made:1") == "hi\n"
    inside = worker("exec", "work", "--", "/bin/sh", "-c", LIST)
    assert inside.status == 0, inside
    assert worker.run("made:1", "--", "/bin/sh", "-c", LIST).splitlines() == inside.out.splitlines()
    document = json.loads(worker("inspect", "made:1").out)[0]["config"]
    assert document["config"]["Env"] == ["PATH=/bin", "A=1", "B=2", "C=3"]
    assert [row.get("comment") for row in document["history"]] == [None, None, "why"]
    assert (
        worker("save", "-o", "one.tar", "made:1").status
        == worker("save", "-o", "two.tar", "made:1").status
        == 0
    )
    assert (worker.top / "one.tar").read_bytes() == (worker.top / "two.tar").read_bytes()
    assert worker("prune", "-a").status == 0
    assert worker("load", "-q", "-i", "one.tar").out == done.out


def test_the_same_changes_make_the_same_digest(images: Images, layout: Maker) -> None:
    layout.image([busybox_layer()], {}, "base:1")
    assert images("load", "-i", "layout").status == 0
    digests = set()
    for name in ("one", "two"):
        script = "mkdir /work; echo x >/work/x; rm /bin/wc; sleep 1000"
        assert (
            images("run", "-d", "--name", name, "--image", "base:1", "--", "/bin/sh", "-c", script).status
            == 0
        )
        try:
            images("exec", name, "--", "/bin/sh", "-c", "while test -e /bin/wc; do sleep 0.1; done")
            digests.add(images("commit", "--timestamp", "1000000000", name, f"made:{name}").out)
        finally:
            images("rm", "-f", name)
    assert len(digests) == 1 and digests.pop().startswith("sha256:")


def test_the_layer_is_as_engines_want_it(worker: Images, tmp_path: Path) -> None:
    digest = worker("commit", "work", "made:1").out.strip()
    assert worker("save", "--layout", "out", digest).status == 0
    blobs = worker.top / "out" / "blobs" / "sha256"
    manifest = json.loads((blobs / digest[7:]).read_text())
    with tarfile.open(blobs / manifest["layers"][-1]["digest"][7:]) as tar:
        members = {member.name: member for member in tar}
    assert members["d"].mode == 0o1777 and members["d"].isdir()
    assert "d/.wh.gone" in members and ".wh.tree" in members and ".wh.moved" in members
    assert not any(name.startswith("tree/") or name == ".wh.replaced" for name in members)
    assert members["made/hard"].islnk() and members["made/hard"].linkname == "made/a/b/x"
    assert members["mode"].size == 5 and members["mode"].mode == 0o600
    assert members["moved2"].mode == 0o4755
    assert not [name for name in members if name.startswith("etc")]


def test_a_sandbox_without_an_image_is_refused(images: Images) -> None:
    assert images("run", "-d", "--name", "plain", "--", "sleep", "1000").status == 0
    try:
        refused = images("commit", "plain", "made:1")
        assert refused.status == 125 and is_one_line(refused.err) and "image" in refused.err
    finally:
        images("rm", "-f", "plain")
