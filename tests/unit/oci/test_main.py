"""The exit status where the host refuses something that nobody expected."""

import pytest

from cloche.oci import main as program


@pytest.mark.parametrize("verb, status", [("exec", 255), ("kill", 1)])
def test_an_unexpected_error_of_the_host(
    verb: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container that dies between two looks at it, for instance."""

    def refuse(*_arguments: object) -> int:
        raise FileNotFoundError(2, "No such file or directory", "/proc/12345/uid_map")

    monkeypatch.setattr(program, "_dispatch", refuse)
    assert program.main([verb, "name"]) == status
    assert "No such file or directory" in capsys.readouterr().err
