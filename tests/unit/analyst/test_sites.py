"""Which system calls are patched, and that patched programs have the same results natively as before."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from cloche.analyst import sites
from cloche.wire.textfile import PAGE_BYTES, WINDOW_JUMP_BYTES, decode_header

from .programs import analysed, compiled, must_analyse, needs_gcc, rewritten, stub_bytes, with_stub

pytestmark = needs_gcc

# Every function returns a number that main prints.  A label `yes_…` or `no_…` stands at a syscall: whether it is
# patched.  110 is getppid, whose result is the same in every run of a test.
FUNCTIONS = r"""
    .macro function name
    .globl \name
    .type \name, @function
    .p2align 4
\name:
    .endm
    .macro done name
    .size \name, . - \name
    .endm
    .section .note.GNU-stack, "", @progbits
    .data
number: .long 110
    .section .rodata
table: .quad case0, case1, case2
    .text

    function exact
    mov $110, %eax
yes_exact: syscall
    ret
    done exact

    function marked
    endbr64
    mov $110, %eax
yes_marked: syscall
    ret
    done marked

    # endbr64 must stay where it is, and the rest is too short.
    function marked_short
    endbr64
    mov %edi, %eax
no_marked_short: syscall
    ret
    done marked_short

    # The nops before a function do not belong to it.
    function entered_short
    mov %edi, %eax
no_entered_short: syscall
    ret
    done entered_short

    function red_zone
    movq $1234, -8(%rsp)
    movq $4321, -128(%rsp)
    mov $110, %eax
yes_red_zone: syscall
    mov -8(%rsp), %rax
    add -128(%rsp), %rax
    ret
    done red_zone

    function red_zone_in_window
    mov $110, %eax
    movq $77, -16(%rsp)
yes_red_zone_in_window: syscall
    mov -16(%rsp), %rax
    ret
    done red_zone_in_window

    function rip_relative
    mov number(%rip), %eax
yes_rip_relative: syscall
    ret
    done rip_relative

    function rip_relative_lea
    mov $110, %eax
    lea number(%rip), %r8
yes_rip_relative_lea: syscall
    mov (%r8), %eax
    ret
    done rip_relative_lea

    function conditional
    mov $110, %eax
    test %edi, %edi
    jz 1f
    nop
    mov %edi, %r8d
    cmp $5, %edi
    je 1f
    xor %edx, %edx
yes_conditional: syscall
    ret
1:  mov $55, %eax
    ret
    done conditional

    function flags
    mov $110, %eax
    stc
    mov %edi, %edi
yes_flags: syscall
    sbb %rax, %rax
    ret
    done flags

    function flags_set_in_window
    mov $110, %eax
    cmp $100, %edi
yes_flags_set_in_window: syscall
    setl %al
    movzbl %al, %eax
    ret
    done flags_set_in_window

    function stack
    push %rdi
    push $110
    pop %rax
    push %rax
yes_stack: syscall
    pop %rax
    pop %rdx
    add %rdx, %rax
    ret
    done stack

    function jumped_into
    mov $110, %eax
    test %edi, %edi
    jz 2f
    dec %edi
    xor %esi, %esi
2:  xor %edx, %edx
no_jumped_into: syscall
    ret
    done jumped_into

    function jumped_to
    mov $110, %eax
    test %edi, %edi
    jz yes_jumped_to
    mov $39, %eax
    mov $110, %eax
yes_jumped_to: syscall
    ret
    done jumped_to

    function looped
    mov $3, %r9d
3:  mov $110, %eax
yes_looped: syscall
    dec %r9d
    jnz 3b
    ret
    done looped

    # Two calls in a row: the window of the second must not hold the first.
    function twice
    mov $110, %r9d
    mov $110, %eax
yes_twice: syscall
    xchg %eax, %r9d
no_twice: syscall
    mov $110, %eax
yes_thrice: syscall
    ret
    done twice

    function after_call
    sub $8, %rsp
    call exact
    xor %ecx, %ecx
    push $110
    pop %rax
yes_after_call: syscall
    add $8, %rsp
    ret
    done after_call

    function switched
    cmp $2, %edi
    ja case2
    mov %edi, %eax
    jmp *table(, %rax, 8)
case0:
    mov $110, %eax
yes_switched: syscall
    ret
case1:
    xor %edx, %edx
    mov $110, %al
case2:
    movzbl %al, %eax
    mov $110, %al
no_switched: syscall
    ret
    done switched

    # Leads into the window of `split` from elsewhere, as the cold part of a function does.
    function cold
    mov $110, %eax
    .byte 0xe9
    .long into_split - . - 4
    done cold

    function split
    mov $110, %eax
    xor %esi, %esi
into_split:
    xor %edx, %edx
no_split: syscall
    ret
    done split

    function counted
    mov $110, %eax
    mov $1, %ecx
    jrcxz 4f
    nop
4:  mov %ecx, %ecx
    loop 4b
    mov %edi, %edi
no_counted: syscall
    ret
    done counted

    function forked
    mov $57, %eax
no_forked: syscall
    test %eax, %eax
    jnz 5f
    xor %edi, %edi
    mov $231, %eax
no_exited: syscall
5:  mov $1, %eax
    ret
    done forked

    # 0f 05 in an immediate value is no system call.
    function hidden
    mov $0x050f050f, %eax
    ret
    done hidden

    # What the kernel keeps must be kept: all but rax, rcx and r11.
    function kept
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov $1, %ebx
    mov $2, %ebp
    mov $3, %edx
    mov $4, %esi
    mov $5, %edi
    mov $6, %r8d
    mov $7, %r9d
    mov $8, %r10d
    mov $9, %r12d
    mov $10, %r13d
    mov $11, %r14d
    mov $12, %r15d
    movq %rsp, %xmm0
    mov $110, %eax
yes_kept: syscall
    movq %xmm0, %rax
    cmp %rsp, %rax
    mov $-1, %rax
    jne 6f
    mov %rbx, %rax
    imul $13, %rax
    add %rbp, %rax
    imul $13, %rax
    add %rdx, %rax
    imul $13, %rax
    add %rsi, %rax
    imul $13, %rax
    add %rdi, %rax
    imul $13, %rax
    add %r8, %rax
    imul $13, %rax
    add %r9, %rax
    imul $13, %rax
    add %r10, %rax
    imul $13, %rax
    add %r12, %rax
    imul $13, %rax
    add %r13, %rax
    imul $13, %rax
    add %r14, %rax
    imul $13, %rax
    add %r15, %rax
6:  pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    done kept

    # The window straddles two pages.
    .p2align 12
    .skip 4093
    .globl straddles
    .type straddles, @function
straddles:
    mov $110, %eax
yes_straddles: syscall
    ret
    done straddles

    # The window is on one page and the syscall on the next.
    .p2align 12
    .skip 4091
    .globl ends_page
    .type ends_page, @function
ends_page:
    mov $110, %eax
yes_ends_page: syscall
    ret
    done ends_page
"""

NAMES = [
    name
    for name in re.findall(r"\.globl (\w+)|^    function (\w+)", FUNCTIONS, re.M)
    for name in name
    if name and name != "hidden"
]

MAIN = (
    "#include <stdio.h>\n#include <string.h>\n"
    + "".join(f"long {name}(long);\n" for name in NAMES)
    + "int main(int argc, char **argv) {\n"
    # In the files below, STUB_BASE counts the calls through the stub.
    + "  long before = argc > 1 ? *(long *)0x7fff00000000 : 0;\n"
    + "".join(
        f'  for (long i = 0; i < 7; i++) printf("{name} %ld %ld\\n", i, {name}(i));\n'
        for name in NAMES
        if "_short" not in name
    )
    + "".join(f'  printf("{name} %ld\\n", {name}(110));\n' for name in NAMES if "_short" in name)
    + '  if (argc > 1) fprintf(stderr, "%ld\\n", *(long *)0x7fff00000000 - before);\n'
    + "  return 0;\n}\n"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("sites")
    assembly = tmp_path / "functions.s"
    assembly.write_text(FUNCTIONS)
    return compiled(tmp_path, "program", MAIN, "-no-pie", str(assembly))


def labels(path: Path) -> dict[str, int]:
    out = subprocess.run(["nm", path], capture_output=True, check=True, text=True, timeout=150).stdout
    rows = [line.split() for line in out.splitlines()]
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}


def test_what_is_patched(program: Path) -> None:
    found = {site.address for site in must_analyse(program).header.sites}
    wanted = {name: address for name, address in labels(program).items() if name.startswith(("yes_", "no_"))}
    assert len(wanted) > 25
    wrong = [name for name, address in wanted.items() if (address in found) != name.startswith("yes_")]
    assert wrong == []
    assert found <= set(wanted.values())  # nothing else: not the immediate values


def test_why_not(program: Path) -> None:
    text, analysis = analysed(program)
    names = {address: name for name, address in labels(program).items() if name.startswith("no_")}
    why = {names[address]: reason for address, _number, reason in analysis.skipped if address in names}
    assert why["no_jumped_into"] == why["no_split"] == sites.TARGET
    assert why["no_switched"] == sites.TARGET or why["no_switched"] == sites.INDIRECT
    assert why["no_forked"] == why["no_exited"] == sites.FULL_REGISTERS
    assert why["no_marked_short"] == why["no_twice"] == why["no_entered_short"] == sites.BLOCK_START
    assert why["no_counted"] in (sites.RISKY, sites.TARGET)
    numbers = {site.number for site in analysis.sites}
    assert 110 in numbers


def test_the_program_does_the_same(program: Path, tmp_path: Path) -> None:
    plain = subprocess.run([program], capture_output=True, check=True, timeout=150).stdout
    assert len(plain.splitlines()) > 100
    middle, out = tmp_path / "middle", tmp_path / "patched"
    text = rewritten(program, middle)
    with_stub(middle, out, stub_bytes(tmp_path))
    run = subprocess.run([out, "count"], capture_output=True, timeout=150)
    assert (run.returncode, run.stdout) == (0, plain)
    # Every function but those without a patched call went through the stub.
    assert int(run.stderr) > 7 * (len(NAMES) - 10)
    assert len(text.header.sites) > 15


def test_pages(program: Path) -> None:
    text = must_analyse(program)
    blob = b"".join(text.parts)
    header = decode_header(blob)
    assert len(blob) == header.total_pages * PAGE_BYTES
    data = program.read_bytes()
    # Only windows differ from the file.
    allowed = set()
    for site in header.sites:
        page = next(
            index
            for index, address in enumerate(header.page_addresses)
            if address <= site.address - site.window_bytes < address + PAGE_BYTES
        )
        shift = header.page_offsets[page] - header.page_addresses[page]
        start = site.address - site.window_bytes + shift
        allowed.update(range(start, start + site.window_bytes))
        assert data[start + site.window_bytes : start + site.window_bytes + 2] == b"\x0f\x05"
    for index, offset in enumerate(header.page_offsets):
        page_bytes = blob[(header.header_pages + index) * PAGE_BYTES :][:PAGE_BYTES]
        original = data[offset : offset + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
        changed = {offset + at for at in range(PAGE_BYTES) if page_bytes[at] != original[at]}
        assert changed <= allowed
    for site in header.sites:
        where = header.tail_index * PAGE_BYTES + site.tail_offset
        assert blob[where + site.length - 6 : where + site.length - 4] == b"\xff\x25"
        assert site.window_bytes >= WINDOW_JUMP_BYTES


def test_steps_are_instructions(program: Path) -> None:
    header = must_analyse(program).header
    known = labels(program)
    site = next(site for site in header.sites if site.address == known["yes_stack"])
    # push $110 (2), pop %rax (1), push %rax (1), and push %rdi (1) before them
    assert site.steps == [(0, 0), (1, 1), (3, 3), (4, 4)]
    conditional = next(site for site in header.sites if site.address == known["yes_conditional"])
    assert conditional.window_bytes == 7 and conditional.steps == [(0, 0), (3, 3), (5, 9)]


def test_position_independent(tmp_path: Path) -> None:
    """The same in a shared library, wherever it is loaded."""
    source = FUNCTIONS.replace("jmp *table(, %rax, 8)", "lea table(%rip), %rdx; jmp *(%rdx, %rax, 8)")
    source = source.replace(".section .rodata\n", '.section .data.rel.ro, "aw"\n')
    library = compiled(tmp_path, "libplain.so", source, "-shared", "-nostdlib")
    text = must_analyse(library)
    assert not text.header.is_fixed
    main = MAIN.replace("int main(", "__attribute__((used)) int main(")
    program = compiled(tmp_path, "program", main, "-no-pie", str(library), "-Wl,-rpath," + str(tmp_path))
    plain = subprocess.run([program], capture_output=True, check=True, timeout=150).stdout
    rewritten(library, tmp_path / "new.so")
    os.replace(tmp_path / "new.so", library)
    out = tmp_path / "patched"
    with_stub(program, out, stub_bytes(tmp_path))
    run = subprocess.run([out, "count"], capture_output=True, timeout=150)
    assert (run.returncode, run.stdout) == (0, plain)
    assert int(run.stderr) > 7 * (len(NAMES) - 10)


def test_stripped_of_everything(tmp_path: Path, program: Path) -> None:
    """Without symbols there are the unwind tables; here those are missing too, and the gap between known functions
    is decoded as one."""
    out = tmp_path / "stripped"
    subprocess.run(["strip", "-o", out, program], check=True, timeout=150)
    found = {site.address for site in must_analyse(out).header.sites}
    known = labels(program)
    assert known["yes_exact"] in found
    assert not any(address in found for name, address in known.items() if name.startswith("no_"))


def test_code_that_is_relocated_is_left_alone(tmp_path: Path) -> None:
    source = FUNCTIONS.replace("jmp *table(, %rax, 8)", "movabs $table, %rdx; jmp *(%rdx, %rax, 8)")
    library = compiled(tmp_path, "library.so", source, "-shared", "-nostdlib", "-Wl,-z,notext", "-Wl,-w")
    assert analysed(library)[0] is None


def test_tail_calls_are_no_jump_tables(tmp_path: Path) -> None:
    source = (
        FUNCTIONS
        + """
    function leaves
    push %rbx
    mov %rdi, %rax
    pop %rbx
    jmp *%rax
    mov %edi, %edi
    push $110
    pop %rax
yes_leaves: syscall
    ret
    done leaves
    function stays
    jmp *%rax
    mov %edi, %edi
    push $110
    pop %rax
no_stays: syscall
    ret
    done stays
"""
    )
    source = source.replace("jmp *table(, %rax, 8)", "lea table(%rip), %rdx; jmp *(%rdx, %rax, 8)")
    source = source.replace(".section .rodata\n", '.section .data.rel.ro, "aw"\n')
    library = compiled(tmp_path, "library.so", source, "-shared", "-nostdlib")
    found = {site.address for site in must_analyse(library).header.sites}
    known = labels(library)
    assert known["yes_leaves"] in found and known["no_stays"] not in found


def test_the_host_has_few_that_are_not_patched() -> None:
    """In the C library of this machine."""
    path = next(
        (
            Path(name)
            for name in ("/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6")
            if Path(name).exists()
        ),
        None,
    )
    if path is None:
        pytest.skip("no C library where it is sought")
    _text, analysis = analysed(path)
    skipped = [row for row in analysis.skipped if row[2] not in (sites.NOT_ALIGNED, sites.FULL_REGISTERS)]
    assert len(analysis.sites) > 300
    assert len(skipped) < len(analysis.sites) // 20
