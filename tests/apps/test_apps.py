"""Real applications give the same results in cloche as on the host: each script in scripts/ is run in both.

A script's head says in comments what it needs (`# needs: PROGRAM ...`; without one of them its test is skipped by
name), as whom it must run (`# user: UID`, only where the tests run as root), where else programs are (`# path:`), and why it only runs with
CLOCHE_SLOW=1 (`# slow:`).
Scripts print only what does not depend on time, addresses, process numbers or order.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import Outcome, cloche_command

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.sh"))
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT_S = 200

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * TIMEOUT_S + 20)]


class App:
    """A script and what its head asks for."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self.needs: list[str] = []
        self.user = ""
        self.why_slow = ""
        self.path = SYSTEM_PATH
        for line in script.read_text().splitlines():
            key, _, value = line.removeprefix("# ").partition(": ")
            if key == "needs":
                self.needs = value.split()
            elif key == "user" and os.getuid() == 0:
                self.user = value
            elif key == "slow":
                self.why_slow = value
            elif key == "path":
                self.path = ":".join([SYSTEM_PATH, *value.split()])

    def run(self, command: list[str], folder: Path, env: dict[str, str]) -> Outcome:
        """Run in a fresh folder; status and output, with the folder's name left out."""
        folder.mkdir()
        if self.user:
            os.chown(folder, int(self.user), int(self.user))
        shutil.copy(self.script, folder / "script.sh")
        done = subprocess.run(
            [*command, "bash", "script.sh"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            env=env,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        done.stdout = done.stdout.replace(str(folder).encode(), b"DIR")
        return Outcome(done)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_app(script: Path, tmp_path: Path) -> None:
    app = App(script)
    missing = [name for name in app.needs if shutil.which(name, path=app.path) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if app.why_slow and os.environ.get("CLOCHE_SLOW") != "1":
        pytest.skip(f"only with CLOCHE_SLOW=1: {app.why_slow}")
    if app.user:
        for folder in (tmp_path, *tmp_path.parents[:3]):  # pytest's folders are closed to others
            folder.chmod(folder.stat().st_mode | 0o111)
    home = tmp_path / "native"
    as_user = ["setpriv", "--reuid", app.user, "--regid", app.user, "--clear-groups"] if app.user else []
    native = app.run(as_user, home, {"PATH": app.path, "HOME": str(home), "LANG": "C.UTF-8"})
    home = tmp_path / "cloche"
    options = ["-u", f"{app.user}:{app.user}"] if app.user else []
    for setting in (f"PATH={app.path}", f"HOME={home}", "LANG=C.UTF-8"):
        options += ["-e", setting]
    env = dict(os.environ, CLOCHE_STRICT=os.environ.get("CLOCHE_STRICT", "1"))
    cloche = app.run(cloche_command(*options), home, env)
    assert cloche == native, f"\nNATIVE {native!r}\nCLOCHE {cloche!r}"
