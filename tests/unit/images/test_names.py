"""Names of images, platforms, logins."""

import base64
import json
from pathlib import Path

import pytest

from cloche.images.credentials import find_credentials
from cloche.images.errors import ImageError
from cloche.images.image import choose_platform
from cloche.images.reference import parse_reference
from cloche.images.registry import is_loopback

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("me/tool:1", "docker.io/me/tool:1", "me/tool:1"),
        ("index.docker.io/library/x", "docker.io/library/x:latest", "x:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("[::1]:5000/a/b_c:v1", "[::1]:5000/a/b_c:v1", "[::1]:5000/a/b_c:v1"),
        ("ghcr.io/a/b@" + DIGEST, "ghcr.io/a/b@" + DIGEST, "ghcr.io/a/b@" + DIGEST),
    ],
)  # fmt: skip
def test_names_mean_what_they_mean_to_docker(text: str, full: str, familiar: str) -> None:
    name = parse_reference(text)
    assert (str(name), name.familiar) == (full, familiar)
    assert str(parse_reference(str(name))) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "a:",
        "a b",
        "../x",
        "a//b",
        "a@sha256:1",
        "x\n",
        "a/../b",
        "-x",
        "a:b:c",
        "a.b/",
        "h:99999999/x",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ImageError):
        parse_reference(text)


def test_the_platform_is_chosen() -> None:
    def row(os_name: str, machine: str, variant: str = "") -> dict[str, object]:
        found = {"os": os_name, "architecture": machine, "variant": variant}
        return {"digest": "sha256:" + (machine[:1] * 64).replace("p", "e"), "size": 1, "platform": found}

    index = {
        "manifests": [
            row("unknown", "unknown") | {"digest": DIGEST},
            row("linux", "arm64"),
            row("linux", "amd64"),
        ]
    }
    index["manifests"][2]["digest"] = "sha256:" + "b" * 64
    index["manifests"][1]["digest"] = "sha256:" + "c" * 64
    assert choose_platform(index, "").digest == "sha256:" + "b" * 64
    assert choose_platform(index, "linux/arm64").digest == "sha256:" + "c" * 64
    with pytest.raises(ImageError, match="linux/amd64, linux/arm64"):
        choose_platform(index, "linux/s390x")


def test_logins_come_from_dockers_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread host\n[ "$host" = helped.example ] || exit 1\necho \'{"Username":"<token>","Secret":"t"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_credentials("a.example") is None
    auth = base64.b64encode(b"me:se:cret").decode()
    config = {
        "auths": {"a.example": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth}},
        "credHelpers": {"helped.example": "test"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for host in ("a.example", "docker.io"):
        found = find_credentials(host)
        assert found is not None and (found.user, found.secret, found.is_token) == ("me", "se:cret", False)
    helped = find_credentials("helped.example")
    assert helped is not None and (helped.secret, helped.is_token) == ("t", True)
    assert find_credentials("other.example") is None
    (tmp_path / "config.json").write_text('{"credHelpers": {"x.example": "../evil"}}')
    with pytest.raises(ImageError):
        find_credentials("x.example")


def test_only_this_machine_may_be_without_tls() -> None:
    assert all(
        is_loopback(host)
        for host in ("localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000")
    )
    assert not any(
        is_loopback(host) for host in ("127.0.0.1.example.org", "example.org", "localhost.example:5000")
    )
