"""`plain` must read each command line that it accepts as argparse does."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.cli import run
from cloche.cli.main import _VERBS, plain_options, verb_index
from cloche.cli.parser import parse

WORDS = [
    "-v", "/a:/b", "-v/a:/b", "--volume=/a:/b:ro", "-e", "A=1", "-eA=1", "-e=A=1", "--env", "--env=A=", "-i", "-t", "-it",
    "-ti", "-d", "-itd", "--rm", "--name", "x", "--name=x", "--memory", "512m", "--memory=1g", "--cpus", "0.5", "--cpus=x",
    "--pids=7", "--pids", "-1", "--timeout", "3", "--strace", "--strace=f", "--no-patch", "--init", "--no-init",
    "--log-level", "debug", "--log-level=loud", "--mm=strict", "--mm", "--platform", "systrap", "--", "-", "", "true",
    "a b", "--bad", "-h", "--help", "-w", "/", "-u", "0:0", "--cap-add", "ALL", "--cap-drop=ALL", "--read-only",
    "--read-only=yes", "--timing", "--rootfs", "--no", "-p", "80:80", "-x", "-iv", "--vol", "--=", "-é", "--allow-suid",
]  # fmt: skip


def by_argparse(words: list[str]) -> dict[str, Any]:
    options = parse(list(words), _VERBS, verb_index(words))
    assert options is not None
    return vars(options)


def check(words: list[str]) -> bool:
    """Whether `plain` has understood; then it must agree, and argparse must not complain."""
    plain = plain_options(list(words))
    if plain is None:
        return False
    assert vars(plain) == by_argparse(words)
    return True


@pytest.mark.parametrize(
    "line",
    [
        "run true",
        "run -- true",
        "run -e A=1 -e B= -v /a:/b --memory 512m -- sh -c x -e y",
        "run -it --name=x --cpus 0.5 --timeout=3 true -- -x",
        "--root /r run --strace --no-init --no-patch true --strace",
        "run",
        "run --log-level debug --mm=strict -w / -u 0:0 --read-only --timing --",
    ],
)
def test_ordinary_lines_are_understood(line: str) -> None:
    assert check(line.split())


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([[], ["--root", "/r"], ["--root", ""], ["--root=/r"], ["--version"]]),
    st.lists(st.sampled_from(WORDS), max_size=6),
)
def test_whatever_is_understood_is_read_as_argparse_does(before: list[str], words: list[str]) -> None:
    check([*before, "run", *words])


@pytest.mark.parametrize(
    "line", ["ps", "", "--version", "run --help", "run --bad true", "run --memory", "runs true"]
)
def test_the_rest_is_left_to_argparse(line: str) -> None:
    assert plain_options(line.split()) is None


def test_names_of_hosts() -> None:
    good = ["a", "a.b", "a-b", "A1", "x" * 64, "a--b", "a..b"]
    bad = ["", "-", ".", "a.", "-a", "a_b", "ä", "a b", "x" * 65, "a\n", "²"]
    assert [run.is_host_name(each) for each in good] == [True] * len(good)
    assert [run.is_host_name(each) for each in bad] == [False] * len(bad)
