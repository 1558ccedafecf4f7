"""What a container sees of mounts that the host has, or makes later, below what is bound: beside runc."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import need, program, run
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
    "options, has_early, has_late",
    [
        (["rbind"], True, True),
        (["rbind", "rslave"], True, True),
        (["rbind", "rshared"], True, True),
        (["rbind", "rshared", "rprivate"], True, False),
        (["rbind", "rprivate", "ro"], True, False),
        (["bind", "private"], False, False),
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
) -> None:
    bundle = make_bundle(tmp_path / "b", root, "sleep", "100000")
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
