"""Images on the host: one directory of the user's, content-addressed, for any number of processes at once.

    version          "1"
    lock             flock: shared by processes that read or add, exclusive for one that removes
    blobs/HEX        manifests, configurations and layers as they came, by their SHA-256
    partial/HEX      a blob that is being fetched: flocked by the process that does, continued by the next
    layers/HEX       the rows of one layer, for putting trees together (`images.tree`), by the SHA-256 of its tar stream
    content/HEX/N/M  contents of the files of that layer (`wire.imagetree.content_name`)
    content/tree-HEX the tree of an image: its layers put together
    names/NAME       the digest of the manifest that a name stands for

It is below $XDG_DATA_HOME/cloche/images; without that, below ~/.local/share, or of root below /var/lib. A file under
its final name is complete: everything is written under another name, synced, and renamed. So a process that dies
leaves only unused files, which `prune` removes. No name that an image chose ever becomes a name on the host.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import urllib.parse
from collections.abc import Iterator
from typing import IO, Any, Final

from cloche.images.errors import ImageError
from cloche.images.holes import HoleWriter
from cloche.images.reference import DIGEST, Reference
from cloche.platform import hostsys

VERSION: Final = "1"
MAX_DOCUMENT_BYTES: Final = 4 << 20  # of a manifest or configuration (as registries allow)
_DIRECTORIES: Final = ("blobs", "partial", "layers", "content", "names")

MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
OCI_MANIFEST: Final = MANIFEST_TYPES[0]
OCI_INDEX: Final = INDEX_TYPES[0]
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


def default_directory() -> str:
    """Where images are."""
    data = os.environ.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):
        if os.geteuid() == 0:
            return "/var/lib/cloche/images"
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "cloche", "images")


def digest_of(data: bytes) -> str:
    """sha256:…"""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hex_of(digest: object) -> str:
    """The digits of a digest, which become a name on the host. Raises ImageError if it is not a digest."""
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ImageError(f"{str(digest)[:100]!r} is no SHA-256 digest")
    return digest[7:]


def parse_document(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object.  Raises ImageError."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ImageError(f"{what} is no JSON") from None
    if not isinstance(found, dict):
        raise ImageError(f"{what} is no JSON object")
    return found


class Store:
    """The images of this user."""

    def __init__(self, directory: str = "") -> None:
        """Makes it if there is none.  Raises ImageError, OSError."""
        self.path: str = directory or default_directory()
        for name in _DIRECTORIES:
            os.makedirs(self.of(name), 0o700, exist_ok=True)
        try:
            with open(self.of("version"), encoding="ascii") as file:
                version = file.read(16).strip()
        except FileNotFoundError:
            version = VERSION
            self._write(self.of("version"), VERSION.encode())
        if version != VERSION:
            raise ImageError(f"{self.path} is of another version of cloche")

    def of(self, *names: str) -> str:
        """A path in it."""
        return os.path.join(self.path, *names)

    def _write(self, path: str, data: bytes) -> None:
        """A file, whole or not at all."""
        new = self.of(f"new-{secrets.token_hex(8)}")
        with open(new, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
        sync_directory(os.path.dirname(path))

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Hold the lock under which nothing is removed."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """Hold the lock under which no other process reads or adds. Raises ImageError."""
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise ImageError("images are being fetched or started; try again when that is done") from None

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        fd = os.open(self.of("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind)
            yield
        finally:
            os.close(fd)

    # -- blobs -----------------------------------------------------------------------------------------------
    def blob_path(self, digest: str) -> str:
        """Where a blob is or would be.  Raises ImageError."""
        return self.of("blobs", hex_of(digest))

    def has_blob(self, digest: str) -> bool:
        """Whether it is there.  Raises ImageError."""
        return os.path.exists(self.blob_path(digest))

    def document(self, digest: str) -> dict[str, Any]:
        """A manifest or configuration.  Raises ImageError."""
        return parse_document(self.document_bytes(digest), digest)

    def document_bytes(self, digest: str) -> bytes:
        """A manifest or configuration, unchanged as it was received. Raises ImageError."""
        try:
            with open(self.blob_path(digest), "rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
        except FileNotFoundError:
            raise ImageError(f"the store has no {digest}; pull or load the image again") from None
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ImageError(f"{digest} is too long for a document")
        return data

    def add_document(self, data: bytes) -> str:
        """Add a manifest or configuration; returns its digest. Raises OSError, ImageError."""
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ImageError("a document of an image is too long")
        digest = digest_of(data)
        if not self.has_blob(digest):
            self._write(self.blob_path(digest), data)
        return digest

    def add_blob(self, source: IO[bytes], digest: str = "", limit: int = -1) -> tuple[str, int]:
        """Add a blob from a stream; returns its digest and size. Raises ImageError if it has another digest than
        `digest`.
        """
        new = self.of(f"new-{secrets.token_hex(8)}")
        checked = hashlib.sha256()
        size = 0
        try:
            with open(new, "xb") as out:
                writer = HoleWriter(out)
                while data := source.read(1 << 18):
                    size += len(data)
                    if 0 <= limit < size:
                        raise ImageError(f"{digest} is longer than its {limit} bytes")
                    checked.update(data)
                    writer.write(data)
                writer.finish()
                os.fsync(out.fileno())
            found = "sha256:" + checked.hexdigest()
            if digest and found != digest:
                raise ImageError(f"{digest} does not have this digest, but {found}")
            os.rename(new, self.blob_path(found))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise
        sync_directory(self.of("blobs"))
        return found, size

    @contextlib.contextmanager
    def partial(self, digest: str) -> Iterator[IO[bytes] | None]:
        """Open a blob that is being fetched, locked, at its present end; None if another process has completed it
        meanwhile.

        Call `finish_partial` when it is complete; otherwise the next download continues it.
        """
        path = self.of("partial", hex_of(digest))
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if self.has_blob(digest):
                os.close(fd)
                yield None
                return
            try:
                is_ours = os.fstat(fd).st_ino == os.stat(path).st_ino
            except FileNotFoundError:
                is_ours = False
            if is_ours:
                break
            os.close(fd)  # another process has removed it; start again
        with open(fd, "r+b") as file:
            file.seek(0, os.SEEK_END)
            yield file

    def finish_partial(self, file: IO[bytes], digest: str) -> None:
        """Give a complete blob its name, or remove it if it has another digest. Raises ImageError."""
        file.flush()
        file.seek(0)
        checked = hashlib.sha256()
        while data := file.read(1 << 20):
            checked.update(data)
        found = "sha256:" + checked.hexdigest()
        path = self.of("partial", hex_of(digest))
        if found != digest:
            os.unlink(path)
            raise ImageError(f"what the registry sent as {digest} has the digest {found}")
        os.fsync(file.fileno())
        os.rename(path, self.blob_path(digest))
        sync_directory(self.of("blobs"))

    # -- names -----------------------------------------------------------------------------------------------
    def set_name(self, name: Reference, digest: str) -> None:
        """From now on it stands for this manifest.  Raises OSError, ImageError."""
        hex_of(digest)
        self._write(self.of("names", urllib.parse.quote(str(name), safe="")), digest.encode())

    def remove_name(self, name: str) -> None:
        """Raises FileNotFoundError."""
        os.unlink(self.of("names", urllib.parse.quote(name, safe="")))

    def names(self) -> dict[str, str]:
        """Every name, and the digest of the manifest that it stands for."""
        found: dict[str, str] = {}
        for quoted in sorted(os.listdir(self.of("names"))):
            with contextlib.suppress(FileNotFoundError):
                with open(self.of("names", quoted), encoding="ascii", errors="replace") as file:
                    digest = file.read(100).strip()
                if DIGEST.fullmatch(digest):
                    found[urllib.parse.unquote(quoted)] = digest
        return found

    def lookup(self, name: Reference) -> str | None:
        """The digest of the manifest that a name stands for."""
        if name.digest and self.has_blob(name.digest):
            return name.digest
        try:
            with open(
                self.of("names", urllib.parse.quote(str(name), safe="")), encoding="ascii", errors="replace"
            ) as file:
                return "sha256:" + hex_of(file.read(100).strip())
        except FileNotFoundError:
            return None

    # -- layers ----------------------------------------------------------------------------------------------
    def has_layer(self, diff_id: str) -> bool:
        """Whether a layer is unpacked."""
        return os.path.exists(self.of("layers", hex_of(diff_id)))

    def new_layer(self) -> str:
        """A directory to unpack into."""
        path = self.of("content", f"new-{secrets.token_hex(8)}")
        os.mkdir(path, 0o700)
        return path

    def finish_layer(self, directory: str, rows: str, diff_id: str) -> None:
        """A layer is unpacked: `directory` holds the contents, and its file `rows` the layer's rows. Move both to
        their names.
        """
        name = hex_of(diff_id)
        sync_tree(directory)
        try:
            os.rename(directory, self.of("content", name))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another process was faster, or died between the two steps: its contents are the same.
            os.rename(os.path.join(directory, rows), self.of("layers", name))
            shutil.rmtree(directory, ignore_errors=True)
        else:
            os.rename(self.of("content", name, rows), self.of("layers", name))
        sync_directory(self.of("content"))
        sync_directory(self.of("layers"))


def sync_directory(path: str) -> None:
    """fsync(2) a directory, so that names in it are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(path: str) -> None:
    """Sync everything below a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        hostsys.syncfs(fd)
    finally:
        os.close(fd)
