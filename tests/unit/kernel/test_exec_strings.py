"""kernel.exec_strings: argv and envp as a new program finds them, however they were read."""

from random import Random
from struct import unpack_from

import pytest

from cloche.abi.errno import EINVAL, LinuxError
from cloche.kernel.exec_strings import BATCH, ExecStrings, StackContents, packed

TOP = 0x7FFF_0000_0000


def read_stack(contents: StackContents) -> tuple[list[bytes], list[bytes]]:
    """argv and envp by their pointers."""
    while contents.place_some():
        pass
    strings = b"".join(contents.strings())
    at = TOP - len(strings)
    vectors = b"".join(contents.vectors(at))

    def text(pointer: int) -> bytes:
        assert at <= pointer < TOP
        return strings[pointer - at :].split(b"\0", 1)[0]

    (argc,) = unpack_from("<Q", vectors)
    words = unpack_from(f"<{len(vectors) // 8}Q", vectors)
    assert words[1 + argc] == words[-1] == 0 and 0 not in words[2 + argc : -1]
    return [text(word) for word in words[1 : 1 + argc]], [text(word) for word in words[2 + argc : -1]]


def test_every_string_is_found_by_its_pointer() -> None:
    choice = Random(9)
    for _ in range(100):
        lists: list[list[bytes]] = []
        made: list[ExecStrings] = []
        for least in (1, 0):
            texts = [
                bytes(choice.choices(b"abc", k=choice.randrange(9)))
                for _ in range(choice.randrange(least, 200))
            ]
            array, at = ExecStrings(), 0
            while at < len(texts):
                step = choice.randrange(1, BATCH + 1)
                array.add(texts[at : at + step])
                at += step
            lists.append(texts)
            made.append(array)
        contents = StackContents(made[0], made[1], b"name", TOP)
        expected = lists[0]
        if choice.random() < 0.5:
            contents.head = [b"/bin/sh", b"-e", b"script"]
            expected = [*contents.head, *expected[1:]]
        assert read_stack(contents) == (expected, lists[1])
        assert b"".join(contents.strings())[contents.end - TOP :] == b"name" + bytes(9)


def test_pointers_are_placed_some_at_a_time() -> None:
    """200,000 of them kept everybody for 35 ms."""
    array = ExecStrings()
    for _ in range(100):
        array.add([b"x"] * BATCH)
    contents = StackContents(array, packed([]), b"name", TOP)
    steps = 0
    while contents.place_some():
        steps += 1
    assert steps == 100 and {len(each) for each in contents.pointers} == {8 * BATCH}


def test_a_string_ends_at_its_nul() -> None:
    with pytest.raises(LinuxError) as caught:
        packed([b"a\0b"])
    assert caught.value.errno == EINVAL
