"""Mounts of bundles that the suites of others look at, beside runc."""

import json
from pathlib import Path

import pytest

from tests.engines.harness import program, run
from tests.engines.test_bundles import Runtime, make_bundle
from tests.engines.test_exec import own, runtime  # noqa: F401  (the fixture)


def bundle_with(folder: Path, root: Path, *mounts: dict[str, object], **linux: object) -> Path:
    """A bundle with a root of its own, which shows its mounts."""
    tree = folder / "tree"
    folder.mkdir()
    assert run(["cp", "-a", str(root), str(tree)]).status == 0
    made = make_bundle(folder / "b", tree, "cat", "/proc/self/mountinfo", linux=linux)
    config = json.loads((made / "config.json").read_text())
    config["mounts"] += mounts
    (made / "config.json").write_text(json.dumps(config))
    return made


def bind(source: Path, place: str) -> dict[str, object]:
    return {"destination": place, "source": str(source), "options": ["rbind", "nosuid", "noexec", "nodev"]}


def shown(text: str, place: str) -> list[str]:
    """The options of the mounts at a place."""
    return [words[5] for words in map(str.split, text.splitlines()) if words[4] == place]


def test_links_that_lead_to_nothing(runtime: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    """A mount point is made where a link of the root's leads, and never outside of the root."""
    outer, tree = tmp_path / "outer", tmp_path / "x" / "tree"
    (outer / "d").mkdir(parents=True)
    (outer / "f").write_text("f")
    links = {"l1": "../../../far/file", "l2": "/far/l3", "l4": str(tmp_path / "made")}
    rows = [bind(outer / "f", "/tmp/l1"), bind(outer / "d", "/tmp/l2/below"), bind(outer / "d", "/tmp/l4")]
    made = bundle_with(tmp_path / "x", root, *rows)
    for name, target in links.items():
        (tree / "tmp" / name).symlink_to(target)
    (tree / "far").mkdir()
    (tree / "far" / "l3").symlink_to("deep/er")
    done = runtime("run", "-b", str(made), own("links"))
    assert done.status == 0, done
    for place in ("/far/file", "/far/deep/er/below", str(tmp_path / "made")):
        assert len(shown(done.out, place)) == 1, (place, done)
    assert (tree / "far" / "file").is_file() and not (tmp_path / "made").exists()
    (tree / "tmp" / "l1").unlink()
    (tree / "tmp" / "l1").symlink_to("l1")
    done = runtime("run", "-b", str(made), own("loop"))
    assert done.status == 1 and "too many" in done.err.lower(), done


def test_read_only_mount_points(runtime: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    """`readonlyPaths` names a mount: it keeps its other flags."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    rows = [bind(tmp_path / "one", "/mnt"), bind(tmp_path / "two", "/mnt/in")]
    made = bundle_with(tmp_path / "x", root, *rows, readonlyPaths=["/mnt/in"])
    done = runtime("run", "-b", str(made), own("read-only"))
    assert done.status == 0, done
    assert shown(done.out, "/mnt/in")[-1] == "ro,nosuid,nodev,noexec,relatime", done
    assert shown(done.out, "/mnt") == ["rw,nosuid,nodev,noexec,relatime"], done


def test_what_the_file_system_is_told(runtime: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    tmpfs = {"destination": "/mnt", "type": "tmpfs", "source": "t", "options": ["sync", "dirsync", "noexec"]}
    done = runtime("run", "-b", str(bundle_with(tmp_path / "x", root, tmpfs)), own("synced"))
    assert " /mnt rw,noexec,relatime - tmpfs t rw,sync,dirsync" in done.out, done


@pytest.mark.parametrize("place", ["proc", "sys"])
def test_a_file_system_at_a_link(runtime: Runtime, tmp_path: Path, root: Path, place: str) -> None:  # noqa: F811
    """Where the image has a link for its /proc or /sys the container is refused."""
    tree = tmp_path / "tree"
    assert run([program("cp"), "-a", str(root), str(tree)]).status == 0
    (tree / place).rmdir()
    (tree / "other").mkdir()
    (tree / place).symlink_to("/other")
    done = runtime("run", "-b", str(make_bundle(tmp_path / "b", tree, "true")), own("link"))
    assert done.status == 1 and "must be mounted on ordinary directory" in done.err, done
