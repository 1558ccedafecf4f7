"""argv and envp on their way to the stack of a new program (execve(2), fs/exec.c).

There may be hundreds of thousands, so they are packed a batch at a time (I8): first the strings, then, once it is
known how long they are and where the stack is, the pointers to them.  The strings end at the same address whatever
`#!` puts in place of the first, so the pointers to all others are right before the file has been opened.
"""

from itertools import accumulate
from struct import pack
from typing import Final

from cloche.abi.errno import EINVAL, LinuxError

_TAIL: Final = 8  # the last word of a stack is 0
BATCH: Final = 64  # strings


class ExecStrings:
    """argv or envp: all strings, each with its NUL, in batches."""

    def __init__(self) -> None:
        self.first: bytes = b""
        self.batches: list[bytes] = []
        self.count: int = 0
        self.length_bytes: int = 0

    def add(self, texts: list[bytes]) -> None:
        """Some more.  Raises LinuxError(EINVAL) for a string that no C program could give."""
        if not texts:
            return
        batch = b"\0".join([*texts, b""])
        if batch.count(b"\0") != len(texts):
            raise LinuxError(EINVAL)
        if not self.batches:
            self.first = texts[0]
        self.batches.append(batch)
        self.count += len(texts)
        self.length_bytes += len(batch)


def packed(texts: list[bytes]) -> ExecStrings:
    """A short list.  Raises LinuxError(EINVAL)."""
    made = ExecStrings()
    made.add(texts)
    return made


class StackContents:
    """What execve puts on a new stack, whose end is `top`; the pointers are placed by `place_some`."""

    def __init__(self, argv: ExecStrings, envp: ExecStrings, execfn: bytes, top: int) -> None:
        """`argv` has one string at least."""
        self.argv: ExecStrings = argv
        self.envp: ExecStrings = envp
        self.execfn: bytes = execfn
        self.top: int = top
        self.end: int = top - _TAIL - len(execfn) - 1  # of the strings of both
        self.head: list[bytes] = [argv.first]  # what stands in place of the first
        self.pointers: list[bytes] = []  # by batch, of argv and then of envp
        self._next: int = self.end - argv.length_bytes - envp.length_bytes

    def place_some(self) -> bool:
        """The pointers to one batch; False when there are no more."""
        at = len(self.pointers)
        mine = len(self.argv.batches)
        if at >= mine + len(self.envp.batches):
            return False
        batch = self.argv.batches[at] if at < mine else self.envp.batches[at - mine]
        lengths = [len(text) + 1 for text in batch[:-1].split(b"\0")]
        places = list(accumulate(lengths, initial=self._next))
        self._next = places.pop()
        self.pointers.append(pack(f"<{len(places)}Q", *places))
        return True

    def strings(self) -> list[bytes]:
        """All that stands from the first string of argv to the top; it ends at `top`."""
        argv = self.argv.batches
        head = b"\0".join([*self.head, b""])
        rest = argv[0][len(self.argv.first) + 1 :]
        return [head, rest, *argv[1:], *self.envp.batches, self.execfn, bytes(1 + _TAIL)]

    def vectors(self, argv_at: int) -> list[bytes]:
        """argc, and the two arrays of pointers, where the first string is at `argv_at`; after `place_some`."""
        mine = len(self.argv.batches)
        lengths = [len(text) + 1 for text in self.head]
        head = list(accumulate(lengths, initial=argv_at))[:-1]
        argc = self.argv.count - 1 + len(head)
        first = pack(f"<{1 + len(head)}Q", argc, *head)
        null = bytes(8)
        return [first, self.pointers[0][8:], *self.pointers[1:mine], null, *self.pointers[mine:], null]
