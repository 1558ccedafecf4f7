"""Random calls on sockets give the same in cloche as on the host, seed by seed."""

import shutil
from pathlib import Path

import pytest

from tests.guest.harness import IS_EMULATED, compare

SCRIPT = Path(__file__).parent / "random_sockets.py"
SEEDS = 40 if IS_EMULATED else 120
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("ip", "unshare", "python3")),
    reason="no iproute2, util-linux or python3",
)


@pytest.mark.parametrize("mode", ["unix", "tcp", "udp"])
def test_random_sockets(mode: str, tmp_path: Path) -> None:
    inside = f"ip link set lo up; exec /usr/bin/python3 {SCRIPT.name} {mode} 0 {SEEDS}"
    compare(["unshare", "-rn", "sh", "-c", inside], tmp_path, files=(SCRIPT,))
