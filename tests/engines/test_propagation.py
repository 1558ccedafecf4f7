"""What a container sees of mounts that the host has, or makes later, below what is bound: beside runc."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import RUNTIME, need, program, run
from tests.engines.test_bundles import Runtime, make_bundle
from tests.engines.test_exec import own, runtime  # noqa: F401  (the fixture)


def mount(*words: str) -> None:
    done = run([program("mount"), *words])
    assert done.status == 0, done


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host with another one below it."""
    need("mount", "umount")
    made = tmp_path / "source"
    for name in ("early", "late"):
        (made / name).mkdir(parents=True)
    if run([program("mount"), "--bind", str(made), str(made)]).status:
        pytest.skip("needs rights over mounts")
    try:
        mount("--make-shared", str(made))
        mount("-t", "tmpfs", "early", str(made / "early"))
        (made / "early" / "before").touch()
        yield made
    finally:
        run([program("umount"), "-R", "-l", str(made)])


@pytest.mark.parametrize(
    "options, has_early, has_late, of_root",
    [
        (["rbind"], True, True, ""),
        (["rbind", "rslave"], True, True, ""),
        (["rbind", "rshared"], True, True, ""),
        (["rbind", "rshared", "rprivate"], True, False, ""),
        (["rbind", "rprivate", "ro"], True, False, ""),
        (["bind", "private"], False, False, ""),
        # What the host's "/" becomes, of which the bind mount is a copy; only with the "r" that is about its mount, too.
        (["rbind"], True, False, "rprivate"),
        (["rbind", "rslave"], True, False, "rprivate"),
        (["rbind"], True, True, "private"),
        (["rbind"], True, True, "rslave"),
        (["rbind"], True, True, "rshared"),
        (["rbind", "rprivate"], True, False, "rshared"),
        (["rbind"], True, True, "unbindable"),
    ],
)
def test_mounts_below(
    runtime: Runtime,  # noqa: F811
    tmp_path: Path,
    root: Path,
    source: Path,
    options: list[str],
    *,
    has_early: bool,
    has_late: bool,
    of_root: str,
) -> None:
    linux = {"rootfsPropagation": of_root} if of_root else {}
    bundle = make_bundle(tmp_path / "b", root, "sleep", "100000", linux=linux)
    config = json.loads((bundle / "config.json").read_text())
    bind = {"destination": "/tmp", "type": "none", "source": str(source), "options": options}
    config["mounts"].append(bind)
    (bundle / "config.json").write_text(json.dumps(config))
    name = own("mounts")
    runtime.make(name, bundle)
    assert runtime("start", name).status == 0
    mount("-t", "tmpfs", "late", str(source / "late"))
    (source / "late" / "after").touch()
    expected = ["/tmp/early"] + ["before"] * has_early + ["/tmp/late"] + ["after"] * has_late
    done = runtime("exec", name, "ls", "/tmp/early", "/tmp/late")
    assert done.out.replace(":", "").split() == expected, done
    # Engines look there.
    outside = Path(f"/proc/{runtime.state(name)['pid']}/root/tmp")
    assert os.listdir(outside / "early") == ["before"] * has_early
    assert os.listdir(outside / "late") == ["after"] * has_late
    assert runtime("delete", "--force", name).status == 0


@pytest.mark.parametrize("of_root", ["rprivate", "rslave"])
def test_mounts_in_the_root(
    runtime: Runtime,  # noqa: F811
    tmp_path: Path,
    root: Path,
    source: Path,
    of_root: str,
) -> None:
    """What is mounted in a mount below the container's root."""
    tree = source / "tree"
    assert run([program("cp"), "-a", str(root), str(tree)]).status == 0
    (tree / "inner").mkdir()
    mount("-t", "tmpfs", "inner", str(tree / "inner"))
    (tree / "inner" / "late").mkdir()
    bundle = make_bundle(tmp_path / "b", tree, "sleep", "100000", linux={"rootfsPropagation": of_root})
    name = own("in-root")
    runtime.make(name, bundle)
    assert runtime("start", name).status == 0
    mount("-t", "tmpfs", "late", str(tree / "inner" / "late"))
    (tree / "inner" / "late" / "after").touch()
    expected = ["after"] if of_root == "rslave" else []
    assert runtime("exec", name, "ls", "/inner/late").out.split() == expected
    assert os.listdir(f"/proc/{runtime.state(name)['pid']}/root/inner/late") == expected
    assert runtime("delete", "--force", name).status == 0


def test_what_cannot_be_bound(
    runtime: Runtime,  # noqa: F811
    tmp_path: Path,
    root: Path,
    source: Path,
) -> None:
    for of_root in ("runbindable", "public"):
        linux = {"rootfsPropagation": of_root}
        bundle = make_bundle(tmp_path / of_root, root, "true", linux=linux)
        config = json.loads((bundle / "config.json").read_text())
        config["mounts"].append({"destination": "/tmp", "source": str(source), "options": ["rbind"]})
        (bundle / "config.json").write_text(json.dumps(config))
        done = runtime("create", "-b", str(bundle), own("bound"))
        assert done.status == 1, done
        if of_root == "public":
            assert "rootfsPropagation=public is not supported" in done.err


FIELDS = """
while read -r line; do
    set -- $line
    case $5 in / | /tmp) echo "$5" "${line#*" $6"}" ;; esac
done < /proc/self/mountinfo
"""


def fields_of(text: str) -> list[str]:
    """The optional fields, with groups by their order: which are the same counts, not how they are numbered."""
    names: dict[str, str] = {}
    found = []
    for line in text.splitlines():
        words = []
        for word in line.partition(" - ")[0].split():
            name, colon, number = word.partition(":")
            words.append(f"{name}{colon}{names.setdefault(number, str(len(names))) if colon else ''}")
        found.append(" ".join(words))
    return found


@pytest.mark.parametrize(
    "of_root", ["", "rprivate", "rshared", "rslave", "private", "shared", "slave", "unbindable"]
)
def test_optional_fields(tmp_path: Path, root: Path, source: Path, of_root: str) -> None:
    """mountinfo says shared, master and unbindable as under runc, of root and volume."""
    need("runc")
    # A root on a shared mount, as containerd's and Docker's are.
    (source / "root").mkdir()
    assert run([program("cp"), "-a", f"{root}/.", str(source / "root")]).status == 0
    kinds = (["rbind"], ["rbind", "rslave"], ["rbind", "rshared"], ["rbind", "rprivate"], ["bind", "shared"])
    more = (
        ["bind", "slave"],
        ["rbind", "unbindable"],
        ["rbind", "rshared", "rslave"],
        ["rbind", "shared", "private"],
    )
    linux = {"rootfsPropagation": of_root} if of_root else {}
    for number, options in enumerate(kinds + more):
        bundle = make_bundle(tmp_path / f"b{number}", source / "root", "sh", "-c", FIELDS, linux=linux)
        config = json.loads((bundle / "config.json").read_text())
        bind = {"destination": "/tmp", "type": "none", "source": str(source), "options": options}
        config["mounts"].append(bind)
        (bundle / "config.json").write_text(json.dumps(config))
        said = []
        for name, path in (("c", RUNTIME), ("r", program("runc"))):
            records = tmp_path / f"records-{name}"
            done = run([path, "--root", str(records), "run", "-b", str(bundle), own(f"fields{number}{name}")])
            assert done.status == 0, done
            said.append(fields_of(done.out.replace("\r", "")))
        assert said[0] == said[1], (options, said)
