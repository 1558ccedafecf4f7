"""Names of images, as Docker writes them (distribution/reference): [HOST[:PORT]/]PATH[:TAG][@DIGEST]."""

import re
from typing import Final

from cloche.images.errors import ImageError

DOCKER_HUB: Final = "docker.io"
_PATH: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Reference:
    """A name in full."""

    def __init__(self, host: str, path: str, tag: str, digest: str) -> None:
        self.host: str = host
        self.path: str = path
        self.tag: str = tag  # empty: by digest only
        self.digest: str = digest  # empty: the digest that the tag stands for

    @property
    def repository(self) -> str:
        """HOST/PATH."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        text = self.repository
        if self.tag:
            text += f":{self.tag}"
        if self.digest:
            text += f"@{self.digest}"
        return text

    @property
    def familiar(self) -> str:
        """The short form, without the default host, path and tag."""
        text = str(self)
        for prefix in (f"{DOCKER_HUB}/library/", f"{DOCKER_HUB}/"):
            if text.startswith(prefix):
                return text[len(prefix) :]
        return text


def parse_reference(text: str) -> Reference:
    """Raises ImageError."""
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise ImageError(f"{text!r}: a digest is sha256: and 64 hexadecimal digits")
    first, slash, path = rest.partition("/")
    host = DOCKER_HUB
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, rest = first, path
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = DOCKER_HUB
    rest, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ImageError(f"{text!r}: {tag!r} is no tag")
    if not _PATH.fullmatch(rest) or not _HOST.fullmatch(host) or len(rest) > 255:
        raise ImageError(f"{text!r} is no name of an image: write [HOST[:PORT]/]NAME[:TAG], in small letters")
    if host == DOCKER_HUB and "/" not in rest:
        rest = "library/" + rest
    if not tag and not digest:
        tag = "latest"
    return Reference(host, rest, tag, digest)
