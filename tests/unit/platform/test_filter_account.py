"""SECURITY.md lists the calls that the guests' filter lets the stub make; here the list is compared with the filter
itself.
"""

import struct
from pathlib import Path
from typing import Final

from cloche.arch.x86_64.syscalls import syscall_name
from cloche.platform import filter, layout

SECURITY: Final = Path(__file__).parents[3] / "SECURITY.md"
BEGIN: Final = "<!-- what the stub may ask of the host: compared with the filter by tests/unit/platform -->\n"
END: Final = "<!-- end -->\n"
HIGHEST: Final = 600
M64: Final = (1 << 64) - 1
# Arguments that take every way through the filter.
SAMPLES: Final = (
    (0, 0, 0, 0, 0, 0),
    (M64, M64, M64, M64, M64, M64),
    (0x10000, 4096, 3, 0x32, M64, 0),  # private, anonymous, fixed
    (0x10000, 4096, 3, 0x32, 0xFFFFFFFF, 0),
    (0x10000, 4096, 3, 0x12, 8, 0),  # of a descriptor that was kept
    (0x10000, 4096, 4, 0, 0, 0),
    (0x10000, 4096, 8192, 3, 0x40000, 0),  # to another place
    (0x10000, 1, 0, 0, 0, 0),
    (0x10000, 2, 0, 0, 0, 0),
    (layout.BELL_ARG0, layout.BELL_ARG1, 0, 0, 0, 0),
    (0x7FFF00000000, 4096, 3, 0x32, M64, 0),
)


def verdict(code: list[int], number: int, args: tuple[int, ...], ip: int) -> int:
    data = struct.pack("<IIQ6Q", number, 0xC000003E, ip, *args)
    at = a = 0
    while True:
        op, jt, jf, k = struct.unpack("<HBBI", struct.pack("<Q", code[at]))
        at += 1
        if op == 0x20:
            a = struct.unpack_from("<I", data, k)[0]
        elif op == 0x06:
            return int(k)
        else:
            holds = {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: a & k != 0}[op]
            at += jt if holds else jf


def account(code: list[int]) -> dict[str, str]:
    """The verdict for each call from within the stub; calls that always kill are left out."""
    words = {
        (filter.RET_ALLOW,): "passes",
        (filter.RET_ALLOW, filter.RET_KILL_PROCESS): "passes (some arguments), else kills",
        (filter.RET_USER_NOTIF,): "asks",
        (filter.RET_USER_NOTIF, filter.RET_ALLOW): "passes (own memory), else asks",
        (filter.RET_USER_NOTIF, filter.RET_KILL_PROCESS): "asks (fixed arguments), else kills",
    }
    found = {}
    for number in range(HIGHEST):
        seen = {verdict(code, number, args, layout.STUB_BASE) for args in SAMPLES}
        if seen != {filter.RET_KILL_PROCESS}:
            key = sorted(seen, key=[filter.RET_USER_NOTIF, filter.RET_ALLOW, filter.RET_KILL_PROCESS].index)
            found[syscall_name(number)] = words[tuple(key)]
    return found


def table() -> str:
    direct, strict = account(filter.build(True)), account(filter.build(False))
    assert direct.keys() == strict.keys()
    rows = "".join([f"| `{name}` | {direct[name]} | {strict[name]} |\n" for name in direct])
    return "| from the stub | `--mm direct` | `--mm strict` |\n|---|---|---|\n" + rows


def test_the_account_is_true() -> None:
    text = SECURITY.read_text()
    told = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert told == table(), table()


def test_nothing_passes_outside_of_the_stub() -> None:
    for code in (filter.build(True), filter.build(False)):
        for ip in (
            0,
            layout.STUB_BASE - 1,
            layout.STUB_BASE + layout.STUB_SIZE,
            layout.STUB_BASE + (1 << 32),
        ):
            for number in range(HIGHEST):
                for args in SAMPLES:
                    assert verdict(code, number, args, ip) == filter.RET_TRAP


def test_what_passes_is_known() -> None:
    """`passes`, by which the sentry knows what it will not be asked, is the filter in other words."""
    code = filter.build(True)
    addresses = (0, 0x10000, layout.MAX_ADDRESS - 4096, layout.MAX_ADDRESS, layout.STUB_BASE)
    flags = [0, 0x22, 0x32, 0x12, 0x11, 0x8032, 0x1832, 0x1812, 0x412, 0x100032, 1 << 33 | 0x32]
    wrong = []
    for number in filter.NOTIFIED:
        for addr in addresses:
            for length in (1, 4096, (1 << 32) - 1, 1 << 32):
                for third in (*range(10), 14, 15, 16, 1 << 24, 1 << 33):
                    for flag in flags if number == filter.SYS_mmap and third < 10 else (0,):
                        for fd in (-1, 0, 7, 8, 23, 24) if flag else (0,):
                            args = (addr, length, third, flag, fd & M64, 0)
                            asked = verdict(code, number, args, layout.STUB_BASE) != filter.RET_ALLOW
                            if asked == filter.passes(number, addr, length, third, flag, fd):
                                wrong.append((number, args))
    assert wrong == []


def test_which_mremap_passes() -> None:
    """In place or to a place of the guest's own, both shorter than the gap below the stub."""
    code = filter.build(True)
    addresses = (0, 0x10000, layout.MAX_ADDRESS - 4096, layout.MAX_ADDRESS, layout.STUB_BASE, M64)
    lengths = (0, 4096, (1 << 32) - 1, 1 << 32, M64)
    passed = set()
    for old in addresses:
        for old_length in lengths:
            for new_length in lengths:
                for flags in (*range(9), 1 << 32, 1 << 32 | 3):
                    for new in addresses:
                        args = (old, old_length, new_length, flags, new, 0)
                        allowed = verdict(code, filter.SYS_mremap, args, layout.STUB_BASE) == filter.RET_ALLOW
                        assert allowed == filter.passes(filter.SYS_mremap, *args[:5]), args
                        if allowed:
                            passed.add(args)
    for old, old_length, new_length, flags, new, _ in passed:
        assert flags in (0, 3)
        assert old < layout.MAX_ADDRESS and old + max(old_length, new_length) < layout.STUB_BASE
        assert flags == 0 or (new < layout.MAX_ADDRESS and new + new_length < layout.STUB_BASE)
    assert {args[3] for args in passed} == {0, 3}
