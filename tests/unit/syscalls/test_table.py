"""The table of system calls, and the lists derived from its rows."""

import re
from typing import Final

from cloche.arch.syscalls import (
    NAMES,
    SYS_arch_prctl,
    SYS_clone,
    SYS_clone3,
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_fork,
    SYS_getpid,
    SYS_mmap,
    SYS_openat,
    SYS_read,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_sigaltstack,
    SYS_vfork,
)
from cloche.kernel.args import Args
from cloche.kernel.task import Kernel, Task
from cloche.platform.fake import FakePlatform
from cloche.platform.interface import PF_ARG, PF_CSTRING, PF_FIXED
from cloche.syscalls import table
from cloche.syscalls.row import PARTIAL, REFUSED, UNKNOWN, Row
from cloche.syscalls.strace import signature_of

_TYPES: Final = re.compile(r"[duxopfasbrOPMAvS]{0,6}(=x)?")
_LENGTHS: Final = "ud"
_POINTERS: Final = "pbr"


def missing(task: Task, args: Args) -> int:
    return -1


def by_name(name: str) -> Row:
    (found,) = [row for row in table.ROWS if row.name == name]
    return found


def test_numbers_and_names_are_those_of_the_processor() -> None:
    numbers = [row.number for row in table.ROWS]
    assert numbers == sorted(set(numbers))
    assert [row.name for row in table.ROWS] == [NAMES[number] for number in numbers]
    assert [name for number, name in enumerate(NAMES) if name and number not in numbers] == []


def test_a_note_says_what_is_missing() -> None:
    assert [row.name for row in table.ROWS if (row.support in (PARTIAL, REFUSED)) != bool(row.note)] == []


def test_handlers() -> None:
    handlers = table.build_handlers(missing)
    assert len(handlers) == table.ROWS[-1].number + 1
    for row in table.ROWS:
        assert handlers[row.number] is row.handler
    numbers = {row.number for row in table.ROWS}
    assert all(handler is missing for number, handler in enumerate(handlers) if number not in numbers)


def test_every_handler_has_types() -> None:
    for row in table.ROWS:
        if row.handler.__name__ == "sys_ni":
            assert row.types == UNKNOWN, row.name
            continue
        assert row.types != UNKNOWN and _TYPES.fullmatch(row.types), row.name
        types = signature_of(row)
        for index, letter in enumerate(types):
            if letter == "b":
                assert types[index + 1] in _LENGTHS, row.name


def test_what_is_copied_along_fits_the_types() -> None:
    for row in table.ROWS:
        assert len(row.prefetch) <= 3
        for kind, arg, count_arg, _value, _cap in row.prefetch:
            letter = signature_of(row)[arg]
            if kind == PF_CSTRING:
                assert letter == "s", row.name
            else:
                assert kind in (PF_FIXED, PF_ARG)
                assert letter in _POINTERS, row.name
            if kind == PF_ARG:
                assert signature_of(row)[count_arg] in _LENGTHS, row.name


def test_calls_with_frames_never_come_from_patched_text() -> None:
    patched = set(table.patched_calls())
    for row in table.ROWS:
        assert (row.number in patched) != (row.needs_frame or row.writes_registers)
    forks = {SYS_clone, SYS_clone3, SYS_fork, SYS_vfork}
    signals = {SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_sigaltstack}
    others = {SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_arch_prctl}
    assert not patched & (forks | signals | others)
    assert {
        SYS_read,
        SYS_openat,
        SYS_mmap,
        SYS_getpid,
        400,
    } <= patched  # 400 is no call, which is answered at once


def test_the_platform_and_the_kernel_are_told() -> None:
    platform = FakePlatform()
    kernel = Kernel(platform, 1)
    table.install(kernel)
    assert platform.prefetch == {row.number: row.prefetch for row in table.ROWS if row.prefetch}
    assert platform.prefetch[SYS_openat] == [(PF_CSTRING, 1, 0, 1024, 0)]
    assert platform.patched_calls == table.patched_calls()
    assert kernel.table[SYS_read] is by_name("read").handler
