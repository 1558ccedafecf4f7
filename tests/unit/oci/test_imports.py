"""What the short verbs import: engines call them for every container, and modules are most of what they cost."""

import subprocess
import sys
from pathlib import Path

from cloche.oci.records import Record

_CODE = (
    "import sys; from cloche.oci.main import main; print(main(sys.argv[1:]), *sys.modules, file=sys.stderr)"
)
_SPARED = {
    "cloche.oci.create",
    "cloche.oci.spec",
    "cloche.oci.hooks",
    "cloche.oci.monitor",
    "cloche.oci.members",
}


def _stopped(root: Path) -> Record:
    record = Record(str(root), "ended")
    record.make()
    record.pid, record.pid_start = 1 << 30, 1  # nobody's
    record.is_made = True
    record.save()
    return record


def _run(root: Path, verb: str) -> tuple[int, set[str]]:
    words = [sys.executable, "-c", _CODE, "--root", str(root), verb, "ended"]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()[-1].split()
    return int(output[0]), set(output[1:])


def test_state_and_delete_import_nothing_of_a_start(tmp_path: Path) -> None:
    record = _stopped(tmp_path)
    for verb in ("state", "delete"):
        status, modules = _run(tmp_path, verb)
        assert (status, modules & _SPARED) == (0, set()), verb
    assert not Path(record.path).exists()


def test_start_imports_nothing_of_a_start_that_create_has_done(tmp_path: Path) -> None:
    _stopped(tmp_path)
    status, modules = _run(tmp_path, "start")
    assert (status, modules & _SPARED) == (1, set())  # refused: it has stopped


def test_delete_runs_the_hooks_that_there_are(tmp_path: Path) -> None:
    record = _stopped(tmp_path)
    mark = tmp_path / "mark"
    record.hooks = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {mark}"]}]}
    record.save()
    status, modules = _run(tmp_path, "delete")
    assert status == 0 and "cloche.oci.hooks" in modules
    assert '"stopped"' in mark.read_text()
    assert not Path(record.path).exists()
