"""Random calls on files give the same in cloche as on the host, seed by seed (CLOCHE_SLOW=1: many more seeds)."""

import os
from pathlib import Path

import pytest

from tests.guest.harness import IS_EMULATED, compare

SCRIPT = Path(__file__).parent / "random_files.py"
SEEDS = 200 if os.environ.get("CLOCHE_SLOW") == "1" else 2 if IS_EMULATED else 6
SHARED_MEMORY = "/dev/shm"  # a tmpfs on the host and in a sandbox


def is_tmpfs_of_today() -> bool:
    """Whether the host's has user attributes, as of Linux 6.6."""
    probe = Path(SHARED_MEMORY) / f"cloche-test-{os.getpid()}"
    try:
        probe.touch()
        os.setxattr(probe, "user.x", b"")
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


@pytest.mark.skipif(os.geteuid() != 0, reason="only root natively has what root inside has")
@pytest.mark.skipif(not is_tmpfs_of_today(), reason="no tmpfs with user attributes at /dev/shm")
def test_random_files(tmp_path: Path) -> None:
    argv = ["/usr/bin/python3", SCRIPT.name, SHARED_MEMORY, "0", str(SEEDS)]
    compare(argv, tmp_path, files=(SCRIPT,), options=("--cap-add", "ALL"))
