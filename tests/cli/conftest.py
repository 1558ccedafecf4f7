"""Fixtures of the end-to-end tests."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import IS_ROOT, USER, environment, user_words
from tests.cli.images import Images, Maker


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory of the user's with a few files."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("host\n")
    (folder / "sub" / "deep").write_text("deep\n")
    (folder / "script").write_text("#!/bin/sh\necho script $1\n")
    (folder / "script").chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with busybox and a program whose interpreter is missing."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "etc", "tmp", "home"):
        (root / name).mkdir()
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in ("sh", "cat", "ls", "id", "echo", "touch", "pwd", "rm", "env", "stat", "wc"):
        (root / "bin" / applet).symlink_to("busybox")
    shutil.copy("/bin/true", root / "bin" / "dynamic")
    script = root / "bin" / "script"
    script.write_text("#!/bin/nothere\n")
    script.chmod(0o755)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return root


@pytest.fixture
def as_user(tmp_path: Path, project: Path) -> Iterator[list[str]]:
    """The start of a command line that runs as an ordinary user, who owns `project` and can come there."""
    words = user_words()
    if words is None:
        pytest.skip("no ordinary user can be made (useradd, setpriv)")
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and str(folder) not in ("/", "/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    probe = subprocess.run(
        [*words, sys.executable, "-c", "import cloche"], check=False, env=environment(), capture_output=True
    )
    if probe.returncode:
        pytest.skip("an ordinary user cannot use this Python or read this tree")
    if IS_ROOT:
        uid = pwd.getpwnam(USER).pw_uid
        for path in [project, *project.rglob("*")]:
            os.chown(path, uid, uid)
    yield words


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """A store of images of the test's own."""
    return Images(tmp_path)


@pytest.fixture
def layout(tmp_path: Path) -> Maker:
    """An OCI layout, `./layout` for the commands of `images`."""
    return Maker(tmp_path / "layout")
