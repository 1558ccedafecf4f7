"""runc's ways to write options."""

import pytest

from cloche.oci.errors import OciError
from cloche.oci.mounts import parse_options
from cloche.oci.options import parse
from cloche.oci.verbs import parse_signal


def test_the_ways_to_write_an_option() -> None:
    for words in (
        ["--pid-file", "f", "-b", "d", "id"],
        ["-pid-file=f", "--bundle=d", "id"],
        ["-pid-file", "f", "--b", "d", "--", "id"],
    ):
        options, rest = parse(words, "create")
        assert (options.text("pid-file"), options.text("bundle"), rest) == ("f", "d", ["id"])


def test_words_after_the_first_are_not_looked_at() -> None:
    options, rest = parse(["-t", "--env", "A=1", "-e", "B=2", "id", "ls", "-d"], "exec")
    assert options.has("tty") and not options.has("detach")
    assert options.all("env") == ["A=1", "B=2"]
    assert rest == ["id", "ls", "-d"]


def test_flags_with_values() -> None:
    assert parse(["--force=false", "id"], "delete")[0].has("force") is False
    assert parse(["--force=true", "id"], "delete")[0].has("force") is True


@pytest.mark.parametrize("words", [["--nonsense"], ["--bundle"]])
def test_what_is_wrong_is_named(words: list[str]) -> None:
    with pytest.raises(OciError):
        parse(words, "create")


@pytest.mark.parametrize(
    "text, number", [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("usr1", 10), ("SIGRTMIN+3", 37), ("0", 0)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "65", "-1", "NONE", "SIGRTMIN+99", "Signals"])
def test_no_signals(text: str) -> None:
    with pytest.raises(OciError, match="unknown signal"):
        parse_signal(text)


def test_mount_options() -> None:
    assert parse_options(["ro", "nosuid", "rprivate", "size=3m", "rw"]) == (2, ["size=3m"])
