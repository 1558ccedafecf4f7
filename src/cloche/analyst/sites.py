"""Finds the system calls of an image that can be patched, and chooses their windows.

May call iced_x86.  A *window* is the run of whole instructions right before a `syscall`, at least 5 bytes long, that
is only ever entered at its first byte, or by a jump straight to the `syscall`.  Jumps are found in three ways:

- the direct branches of the function around, decoded from its beginning to its end;
- every byte string in the executable segments that could be a near jump (jmp rel32, jcc rel32) from elsewhere:
  compilers split functions into a hot and a cold part that jump into each other;
- where an indirect jump may be a jump table (in the function, or in one that jumps into its middle), its targets are
  unknown, and only windows of a single instruction are taken.

A program that jumps to other computed addresses may hit int3, or the middle of a jump.
"""

import re
from bisect import bisect_left, bisect_right
from struct import Struct
from typing import Final

from iced_x86 import Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

from cloche.analyst.image import Functions, Image, Segment
from cloche.wire.textfile import MAX_SITES, WINDOW_JUMP_BYTES

__all__ = ["Analysis", "Site", "find_sites"]

SYSCALL: Final = b"\x0f\x05"
MAX_CANDIDATES: Final = 100_000  # occurrences of 0f 05
MAX_JUMPS: Final = 8_000_000  # byte strings that may be near jumps
MAX_FUNCTION_BYTES: Final = 1 << 20
MAX_DECODED_BYTES: Final = 6 << 20  # an instruction may be a byte, and takes a microsecond and 200 bytes

# Calls that need every register, or never return: they stay with the trap (docs/design.md 3.2).
FULL_REGISTER_CALLS: Final = frozenset(
    [
        15,
        56,
        57,
        58,
        59,
        60,
        231,
        322,
        435,
    ]  # rt_sigreturn clone fork vfork execve exit exit_group execveat clone3
)

_CALL: Final = b"\xe8"
_NEAR_JUMP: Final = re.compile(rb"\xe9|\x0f[\x80-\x8f]")
_I32: Final = Struct("<i")
_GRANULE_BITS: Final = 6
_NUMBER_LOOK_BACK: Final = 16  # instructions

_NEXT: Final = FlowControl.NEXT
_CONDITIONAL: Final = FlowControl.CONDITIONAL_BRANCH
_DIRECT: Final = (
    FlowControl.UNCONDITIONAL_BRANCH,
    FlowControl.CONDITIONAL_BRANCH,
    FlowControl.CALL,
    FlowControl.XBEGIN_XABORT_XEND,
)
_ENDS: Final = (FlowControl.RETURN, FlowControl.UNCONDITIONAL_BRANCH, FlowControl.EXCEPTION)
_FILLERS: Final = (Mnemonic.NOP, Mnemonic.INT3)
_NEAR_BRANCH: Final = OpKind.NEAR_BRANCH64
# As plain numbers: the stubs of iced_x86 know a single register, so that every comparison would be "always true".
_RAX: Final[tuple[int, ...]] = (Register.RAX, Register.EAX, Register.AX, Register.AL)
_RIP: Final[int] = Register.RIP
_RSP: Final[int] = Register.RSP
_IMMEDIATES: Final = (
    OpKind.IMMEDIATE32,
    OpKind.IMMEDIATE32TO64,
    OpKind.IMMEDIATE64,
    OpKind.IMMEDIATE8,
    OpKind.IMMEDIATE8TO32,
    OpKind.IMMEDIATE8TO64,
)

# Why a site is left to the trap.
NO_FUNCTION: Final = "no function around it is known"
NOT_ALIGNED: Final = "not an instruction"
TOO_LARGE: Final = "the function is too large, or data"
FULL_REGISTERS: Final = "needs full registers, or does not return"
TARGET: Final = "a branch leads into the window"
INDIRECT: Final = "a jump table may lead into the window"
BLOCK_START: Final = "the block, or function, begins too late"
RISKY: Final = "an instruction that cannot be moved"
LIMIT: Final = "too many sites"


class Site:
    """A `syscall` and the instructions of its window, in order."""

    def __init__(self, address: int, window: list[Instruction], number: int) -> None:
        self.address: int = address
        self.window: list[Instruction] = window
        self.number: int = number  # of the system call, -1 if it is not a constant
        self.start: int = window[0].ip


class Analysis:
    """The sites that were found, and the reasons for those left out."""

    def __init__(self) -> None:
        self.sites: list[Site] = []  # ascending
        self.skipped: list[tuple[int, int, str]] = []  # address, number of the call or -1, why
        self.is_absurd: bool = False  # limits were exceeded: do not patch the file


class _Function:
    """A decoded function."""

    def __init__(self, start: int, end: int, code: list[Instruction]) -> None:
        self.start: int = start
        self.end: int = end
        self.code: list[Instruction] = code
        self.index: dict[int, int] = {}  # address -> index in code
        self.targets: set[int] = set()
        self.has_table: bool = False
        self.is_data: bool = False
        for index, instruction in enumerate(code):
            address = instruction.ip
            self.index[address] = index
            flow = instruction.flow_control
            if flow == _NEXT:
                continue
            if flow in _DIRECT:
                if instruction.op0_kind == _NEAR_BRANCH:
                    self.targets.add(instruction.near_branch_target)
            elif flow == FlowControl.INDIRECT_BRANCH:
                # jmp *x(%rip) goes through a fixed pointer: a call at the end, or a procedure linkage table.
                is_fixed = instruction.op0_kind == OpKind.MEMORY and int(instruction.memory_base) == _RIP
                if not is_fixed and not _ends_frame(code, index):
                    self.has_table = True
            elif instruction.code == Code.INVALID:
                self.is_data = True


def _ends_frame(code: list[Instruction], index: int) -> bool:
    """Whether the jump at `index` leaves the function: the frame was just taken down."""
    if index == 0:
        return False
    before = code[index - 1]
    if before.mnemonic in (Mnemonic.POP, Mnemonic.LEAVE):
        return True
    return before.mnemonic == Mnemonic.ADD and int(before.op0_register) == _RSP


def _candidates(image: Image) -> list[int] | None:
    """The addresses of all 0f 05 in executable segments; None if there are too many."""
    out: list[int] = []
    for segment in image.segments:
        if not segment.is_code:
            continue
        code = bytes(image.data[segment.offset : segment.offset + segment.filesz])
        at = code.find(SYSCALL)
        while at >= 0:
            out.append(segment.vaddr + at)
            if len(out) > MAX_CANDIDATES:
                return None
            at = code.find(SYSCALL, at + 1)
    return out


def find_sites(image: Image) -> Analysis:
    """All that can be patched in an image."""
    return _Finder(image).run()


class _Finder:
    def __init__(self, image: Image) -> None:
        self._image: Image = image
        self._functions: Functions = Functions(image)
        self._decoded: dict[tuple[int, int], _Function | None] = {}
        self._decoded_bytes: int = 0
        self._jumps: int = 0
        # pieces of gaps, with the beginnings of their parts
        self._pieces: dict[tuple[int, int], list[int]] = {}
        self._called: list[int] | None = None
        self._analysis: Analysis = Analysis()

    def run(self) -> Analysis:
        analysis = self._analysis
        candidates = _candidates(self._image)
        if candidates is None:
            analysis.is_absurd = True
            return analysis
        found: list[tuple[int, _Function]] = []
        for address in candidates:
            function = self._function_with(address)
            if function is not None:
                found.append((address, function))
            if self._decoded_bytes > MAX_DECODED_BYTES:
                analysis.is_absurd = True
                return analysis
        self._add_foreign_jumps([function for _address, function in found])
        if self._jumps > MAX_JUMPS:
            analysis.is_absurd = True
            return analysis
        last_end = 0
        for function in {function for _address, function in found}:
            function.targets.update(self._functions.labels(function.start, function.end))
            self._add_gap_jumps(function)
        for address, function in found:
            site = self._choose(address, function)
            if site is None:
                continue
            if site.start < last_end:  # functions that overlap
                self._skip(address, site.number, RISKY)
            elif len(analysis.sites) >= MAX_SITES:
                self._skip(address, site.number, LIMIT)
            else:
                analysis.sites.append(site)
                last_end = address + 2
        return analysis

    def _skip(self, address: int, number: int, why: str) -> None:
        self._analysis.skipped.append((address, number, why))

    # -- functions -------------------------------------------------------------------------------------------
    def _function_with(self, address: int) -> _Function | None:
        """The decoded function that has a `syscall` instruction at this address."""
        why = NO_FUNCTION
        for start, end in self._functions.around(address):
            function = self._decode(start, end)
            why = _unfit(function, address)
            if not why:
                return function
        if why == NO_FUNCTION:
            piece = self._piece_around(address)
            if piece is not None:
                function = self._decode(piece[0], piece[1])
                why = _unfit(function, address)
                if not why:
                    return function
        self._skip(address, -1, why)
        return None

    def _piece_around(self, address: int) -> tuple[int, int] | None:
        """The part of a gap between known functions from one function that is called to the next.

        A part may be several functions, of which all but the first are only reached through pointers or jumps.
        """
        bounds = self._functions.gap_around(address)
        if bounds is None:
            return None
        if bounds not in self._pieces:
            gap = self._decode(bounds[0], bounds[1])
            self._pieces[bounds] = [bounds[0]] if gap is None else _begins(gap, self._calls_into(bounds))
        starts = self._pieces[bounds]
        index = bisect_right(starts, address)
        return starts[index - 1], starts[index] if index < len(starts) else bounds[1]

    def _calls_into(self, bounds: tuple[int, int]) -> list[int]:
        """Possible targets of calls in a gap, sorted."""
        if self._called is None:
            called: set[int] = set()
            unpack = _I32.unpack_from
            for segment in self._image.segments:
                if not segment.is_code:
                    continue
                code = bytes(self._image.data[segment.offset : segment.offset + segment.filesz])
                after = segment.vaddr + 5
                at = code.find(_CALL)
                while 0 <= at <= len(code) - 5 and self._jumps <= MAX_JUMPS:
                    called.add(after + at + unpack(code, at + 1)[0])
                    self._jumps += 1
                    at = code.find(_CALL, at + 1)
            self._called = sorted(called)
        return self._called[bisect_right(self._called, bounds[0]) : bisect_left(self._called, bounds[1])]

    def _bounds(self, address: int) -> tuple[int, int] | None:
        """The function, or part of a gap, with this address."""
        found = next(self._functions.around(address), None)
        return found if found is not None else self._piece_around(address)

    def _decode(self, start: int, end: int) -> _Function | None:
        key = (start, end)
        if key in self._decoded:
            return self._decoded[key]
        segment = self._image.code_segment(start)
        function: _Function | None = None
        if segment is not None and 0 < end - start <= MAX_FUNCTION_BYTES:
            end = min(end, segment.vaddr + segment.filesz)
            at = segment.offset + start - segment.vaddr
            self._decoded_bytes += end - start
            decoder = Decoder(64, bytes(self._image.data[at : at + end - start]), ip=start)
            function = _Function(start, end, list(decoder))
        self._decoded[key] = function
        return function

    # -- jumps from elsewhere ----------------------------------------------------------------------------------
    def _add_foreign_jumps(self, functions: list[_Function]) -> None:
        """Add near jumps that lead from elsewhere into the middle of these functions to their targets."""
        granules: dict[int, list[_Function]] = {}
        for function in set(functions):
            for granule in range(function.start >> _GRANULE_BITS, ((function.end - 1) >> _GRANULE_BITS) + 1):
                granules.setdefault(granule, []).append(function)
        if not granules:
            return
        for segment in self._image.segments:
            if segment.is_code:
                self._scan(segment, granules)

    def _scan(self, segment: Segment, granules: dict[int, list[_Function]]) -> None:
        code = bytes(self._image.data[segment.offset : segment.offset + segment.filesz])
        base = segment.vaddr
        last = len(code) - 4
        unpack = _I32.unpack_from
        for match in _NEAR_JUMP.finditer(code):
            end = match.end()
            self._jumps += 1
            if end > last or self._jumps > MAX_JUMPS:
                break
            target = base + end + 4 + unpack(code, end)[0]
            if target >> _GRANULE_BITS not in granules:
                continue
            source = base + match.start()
            for function in granules[target >> _GRANULE_BITS]:
                if function.start < target < function.end and not function.start <= source < function.end:
                    self._add_foreign(function, source, target)

    def _add_gap_jumps(self, function: _Function) -> None:
        """Add the jumps, short ones too, between parts of the gap that this function is a part of."""
        for bounds, starts in self._pieces.items():
            if function.start in starts and bounds[0] <= function.start < bounds[1]:
                gap = self._decode(bounds[0], bounds[1])
                if gap is not None:
                    function.targets.update(
                        [target for target in gap.targets if function.start < target < function.end]
                    )

    def _add_foreign(self, function: _Function, source: int, target: int) -> None:
        if target in function.targets:
            return
        function.targets.add(target)
        if function.has_table or self._decoded_bytes > MAX_DECODED_BYTES:
            function.has_table = True
            return
        bounds = self._bounds(source)
        other = self._decode(bounds[0], bounds[1]) if bounds is not None else None
        if other is None or other.has_table or other.is_data:
            function.has_table = True

    # -- windows ---------------------------------------------------------------------------------------------
    def _choose(self, address: int, function: _Function) -> Site | None:
        code = function.code
        at = function.index[address]
        if code[at].code != Code.SYSCALL or code[at].len != 2:
            self._skip(address, -1, NOT_ALIGNED)
            return None
        number = self._number(function, at)
        if number in FULL_REGISTER_CALLS or self._has_raw_number(address):
            self._skip(address, number, FULL_REGISTERS)
            return None
        first = at
        why = ""
        while address - code[first].ip < WINDOW_JUMP_BYTES:
            if first != at and code[first].ip in function.targets:
                why = TARGET
                break
            if first == 0:
                why = BLOCK_START
                break
            first -= 1
            why = _objection(code[first])
            if why:
                break
        if not why and at - first > 1 and function.has_table:
            why = INDIRECT
        if why:
            self._skip(address, number, why)
            return None
        return Site(address, code[first:at], number)

    def _has_raw_number(self, address: int) -> bool:
        """Whether the bytes before look like the number of such a call, regardless of how they decode: C libraries
        and unwinders recognize rt_sigreturn by its bytes.
        """
        offset = self._image.offset_of(address)
        before = bytes(self._image.data[max(offset - 7, 0) : offset])
        if before[-5:-4] != b"\xb8" and before[:3] != b"\x48\xc7\xc0":
            return False
        return int.from_bytes(before[-4:], "little") in FULL_REGISTER_CALLS

    def _number(self, function: _Function, at: int) -> int:
        """The number of the system call if the same block sets eax to a constant, else -1."""
        code = function.code
        for index in range(at - 1, max(at - 1 - _NUMBER_LOOK_BACK, -1), -1):
            instruction = code[index]
            if instruction.flow_control != _NEXT:
                break
            if instruction.op_count and instruction.op0_kind == OpKind.REGISTER:
                if int(instruction.op0_register) in _RAX and instruction.mnemonic not in _READERS:
                    return _constant(instruction)
            if code[index].ip in function.targets:
                break
        return -1


def _begins(gap: _Function, called: list[int]) -> list[int]:
    """Where the parts of a gap begin: at addresses that are called and follow the end of a block."""
    starts = [gap.start]
    for address in called:
        at = gap.index.get(address, 0)
        while at > 0 and gap.code[at - 1].mnemonic in _FILLERS:
            at -= 1
        if at > 0 and gap.code[at - 1].flow_control in _ENDS:
            starts.append(address)
    return starts


def _unfit(function: _Function | None, address: int) -> str:
    """Why a function does not tell that there is a `syscall` at this address, or the empty string."""
    if function is None:
        return TOO_LARGE
    if address not in function.index:
        return NOT_ALIGNED
    return TOO_LARGE if function.is_data else ""


def _constant(instruction: Instruction) -> int:
    """The constant that an instruction sets eax to, -1 if it is none."""
    if instruction.mnemonic == Mnemonic.MOV and instruction.op1_kind in _IMMEDIATES:
        return int(instruction.immediate(1)) & 0xFFFFFFFF
    if instruction.mnemonic == Mnemonic.XOR and instruction.op1_kind == OpKind.REGISTER:
        return 0 if int(instruction.op1_register) == int(instruction.op0_register) else -1
    return -1


_READERS: Final = (Mnemonic.CMP, Mnemonic.TEST, Mnemonic.PUSH, Mnemonic.BT)


def _objection(instruction: Instruction) -> str:
    """Why an instruction cannot be part of a window, or the empty string."""
    flow = instruction.flow_control
    if flow == _CONDITIONAL:
        return "" if instruction.is_jcc_short_or_near else RISKY
    if flow != _NEXT:
        return BLOCK_START
    # A nop fills the space before a function or a label that may not be known; endbr64 must stay where it is.
    if instruction.mnemonic in (Mnemonic.NOP, Mnemonic.ENDBR64, Mnemonic.ENDBR32):
        return BLOCK_START
    if instruction.is_ip_rel_memory_operand and int(instruction.memory_base) != _RIP:
        return RISKY
    return ""
