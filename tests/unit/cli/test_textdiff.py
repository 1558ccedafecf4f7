"""Unified diffs: right for any texts, and bounded for those that are made to take long."""

import random
import time

from cloche.cli.names import quoted
from cloche.cli.terminal import printable_text
from cloche.cli.textdiff import NO_NEWLINE, counts, heading, hunk_lines, hunks, runs, split_lines


def patched(old: list[str], groups: list[tuple[str, list[tuple[str, str]]]]) -> str:
    """The result of patch(1) with hunks."""
    out: list[str] = []
    at = 0
    for head, lines in groups:
        start, _comma, length = head.split()[1][1:].partition(",")
        first = int(start) - (0 if length == "0" else 1)
        out += old[at:first]
        at = first
        for index, (sign, line) in enumerate(lines):
            if not sign:
                assert line == NO_NEWLINE
                continue
            is_bare = index + 1 < len(lines) and not lines[index + 1][0]
            text = line if is_bare else line + "\n"
            if sign in " -":
                assert old[at] == text
                at += 1
            if sign in " +":
                out.append(text)
    return "".join(out + old[at:])


def test_every_diff_leads_from_the_old_text_to_the_new() -> None:
    dice = random.Random(14)
    for _ in range(500):
        old = [dice.choice("abcdefg") for _ in range(dice.randint(0, 60))]
        new = list(old)
        for _ in range(dice.randint(0, 10)):
            at = dice.randint(0, len(new))
            if new and dice.random() < 0.5:
                del new[min(at, len(new) - 1)]
            else:
                new.insert(at, dice.choice("abcxyz"))
        texts = ["\n".join(lines) + ("\n" if lines and dice.random() < 0.7 else "") for lines in (old, new)]
        a, b = split_lines(texts[0]), split_lines(texts[1])
        found = runs(a, b)
        assert [run[1] for run in found[1:]] == [run[2] for run in found[:-1]]
        groups = [(heading(group), list(hunk_lines(group, a, b))) for group in hunks(found)]
        assert patched(a, groups) == texts[1]
        assert bool(groups) == (texts[0] != texts[1])
        added, removed = counts(found)
        assert len(a) + added - removed == len(b)


def test_few_edits_are_found_in_long_texts() -> None:
    old = [f"{number}\n" for number in range(100_000)]
    new = [*old[:10], "new\n", *old[11:90_000], *old[90_005:]]
    assert counts(runs(old, new)) == (1, 6)


def test_texts_made_to_take_long_do_not() -> None:
    old = [f"{number % 997}\n" for number in range(100_000)]
    new = [f"{number * 7 % 997}\n" for number in range(100_000)]
    begin = time.process_time()
    found = runs(old, new)
    assert found[0][1] == 0 and found[-1][2] == len(old)
    assert time.process_time() - begin < 300  # of a machine that others use, too; without the bound: hours


def test_names_and_texts_do_not_steer_terminals() -> None:
    assert quoted(b"/plain name") == "/plain name"
    assert quoted("/größe/文".encode()) == "/größe/文"
    assert quoted(b'/a\n\x1b]0;x\x07"\\\xff') == r'"/a\n\033]0;x\a\"\\\377"'
    assert quoted("/a\u202eb\u2066".encode()) == r'"/a\342\200\256b\342\201\246"'
    assert printable_text("a\tb") == "a\tb"
    assert printable_text("\x1b[31m\u202e\udcff") == "<1B>[31m<E2><80><AE><FF>"
