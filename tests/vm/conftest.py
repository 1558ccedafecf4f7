"""The machine is booted once for all tests of a session, and once more, for one file, with both versions of control groups."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import make_image
from tests.kvm.machine import Result
from tests.vm import root
from tests.vm.boot import HYBRID, UNIFIED, Systemd, need

COMMAND_S = 900
RUNTIME = str(Path(sys.executable).parent / "cloche-oci")


class Guest:
    """The machine, and scripts in it; `$CLOCHE` is the runtime."""

    def __init__(self, machine: Systemd) -> None:
        self.machine = machine

    def sh(self, script: str, *, is_user: bool = False) -> Result:
        """Run a script, as root or as the ordinary user."""
        own = {"HOME": f"/home/{root.USER}", "XDG_RUNTIME_DIR": f"/run/user/{root.UID}"}
        return self.machine.run(
            ["sh", "-c", script],
            uid=root.UID if is_user else 0,
            cwd=own["HOME"] if is_user else "/root",
            env={"CLOCHE": RUNTIME, **(own if is_user else {})},
            timeout_s=COMMAND_S,
        )

    def lines(self, script: str, *, is_user: bool = False) -> list[str]:
        """What a script prints, which must succeed."""
        done = self.sh("set -e\n" + script, is_user=is_user)
        assert done.status == 0, done
        return done.stdout.decode().splitlines()


def boot(folder: Path, line: str) -> Iterator[Guest]:
    lacks = need()
    if lacks:
        pytest.skip(f"needs {lacks}")
    image = make_image(folder)
    with Systemd(folder, Path(sys.executable), line, {"/srv/bb.tar": image}) as machine:
        guest = Guest(machine)
        guest.sh("systemctl is-system-running --wait")
        yield guest


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Control groups of version 2 alone."""
    yield from boot(tmp_path_factory.mktemp("vm"), UNIFIED)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Control groups of version 1, and version 2 for systemd's own."""
    yield from boot(tmp_path_factory.mktemp("vm-hybrid"), HYBRID)
