"""Directories of the host for tests of what a sandbox exchanges in them."""

from pathlib import Path

SECRET = b"secret of the host"


def shared_place(folder: Path) -> Path:
    """A directory that is read, beside one, with the secret, that must not be."""
    made = folder / "shared"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "key").write_bytes(b"harmless")
    (made / "zz").write_bytes(b"harmless")
    (folder / "private").mkdir()
    (folder / "private" / "key").write_bytes(SECRET)
    return made
