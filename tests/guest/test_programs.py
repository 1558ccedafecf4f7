"""Every C program in tests/guest/programs behaves in cloche as on the host."""

import socket
from pathlib import Path

import pytest

from tests.guest.harness import PROGRAMS, compare, compile_program, run_native

SOURCES = sorted(PROGRAMS.glob("*.c"))
# Those that end with another status than 0.
STATUS = {"static_hello": 3}
# Those that need more than the default capabilities.
OPTIONS = {
    "file_handle": ("--cap-add", "DAC_READ_SEARCH"),
    "ns_whole_map": ("--cap-add", "SYS_ADMIN"),
    "sched_deadline": ("--cap-add", "SYS_NICE"),
}
# Those of IP whose results are those of a machine with a default route.
OF_HOST_NETWORK = ("inet_udp",)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])
def test_program(source: Path, built: Path, tmp_path: Path) -> None:
    program = compile_program(source, built)
    status, options = STATUS.get(source.stem, 0), OPTIONS.get(source.stem, ())
    if source.stem == "sched_deadline" and b"policy 6" not in run_native([str(program)], tmp_path).stdout:
        pytest.skip("needs CAP_SYS_NICE, and all processors of the machine")
    own = source.stem.startswith("inet_") and source.stem not in OF_HOST_NETWORK
    compare(
        [f"./{program.name}"], tmp_path, files=(program,), status=status, options=options, own_network=own
    )


def does_first_claim_decide() -> bool:
    """Whether this host's kernel lets the newest socket of a UDP port decide whether it is shared (Linux 6.17 does)."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alone,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as shared,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new,
    ):
        alone.bind(("127.0.0.1", 0))
        for each, address in ((shared, "127.0.0.2"), (new, "0.0.0.0")):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                each.bind((address, alone.getsockname()[1]))
            except OSError:
                return False
    return True


def test_udp_ports_of_which_some_are_shared(built: Path, tmp_path: Path) -> None:
    if does_first_claim_decide():
        pytest.skip(
            "this kernel's UDP lets one socket of a port decide for all: tests/unit/net/test_ports.py only"
        )
    program = compile_program(PROGRAMS / "inet_bind_random.c", built)
    compare([f"./{program.name}", "mixed"], tmp_path, files=(program,), own_network=True)


def test_large_files_of_a_lower_layer(built: Path, tmp_path: Path) -> None:
    """The same program with files that are there before: they are copied up while their writers wait."""
    program = compile_program(PROGRAMS / "vfs_copy_up.c", built)
    files = [program]
    for index in range(6):
        file = tmp_path / f"big_{index}"
        file.write_bytes(bytes(index + i % 251 for i in range(9)) * (1 << 20))
        files.append(file)
    (tmp_path / "run").mkdir()
    compare([f"./{program.name}"], tmp_path / "run", files=tuple(files))
