"""Images in files: OCI layouts, as directories or in tar archives, and what `docker save` writes.

Links in a layout are not followed, and an archive is never unpacked: its members are read where they are.
"""

import os
import shutil
import tarfile
import tempfile
from typing import IO, Any, Final

from cloche.images.errors import ImageError
from cloche.images.image import Descriptor, FileSource, Image, Progress, bring
from cloche.images.reference import Reference, parse_reference
from cloche.images.store import (
    MAX_DOCUMENT_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Store,
    digest_of,
    hex_of,
    parse_document,
)
from cloche.images.streams import LayerStream

_REF: Final = "org.opencontainers.image.ref.name"
_FULL_NAMES: Final = ("io.containerd.image.name",)
_MAX_MEMBERS: Final = 10_000


class Layout(FileSource):
    """An OCI layout."""

    def open(self, name: str) -> IO[bytes]:
        """A file of it.  Raises ImageError, OSError."""
        raise NotImplementedError

    def open_blob(self, digest: str) -> IO[bytes]:
        return self.open(f"blobs/sha256/{hex_of(digest)}")

    def read(self, name: str) -> bytes:
        """A document.  Raises ImageError, OSError."""
        with self.open(name) as file:
            return file.read(MAX_DOCUMENT_BYTES)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the layout's files."""


class DirectoryLayout(Layout):
    """One in a directory."""

    def __init__(self, path: str) -> None:
        self.path: str = path

    def open(self, name: str) -> IO[bytes]:
        path = os.path.join(self.path, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from None
        file = open(fd, "rb")
        if not os.path.isfile(fd):
            file.close()
            raise ImageError(f"{path} is no file")
        return file

    def has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self.path, name))


class _Member:
    """A part of an archive as a file; several may be read at once."""

    def __init__(self, archive: "ArchiveLayout", offset: int, size: int) -> None:
        self.archive: ArchiveLayout = archive
        self.offset: int = offset
        self.left: int = size

    def read(self, size: int = -1) -> bytes:
        """Read as from a file."""
        count = self.left if size < 0 else min(size, self.left)
        data = os.pread(self.archive.file.fileno(), count, self.offset)
        if count and not data:
            raise ImageError("the archive is cut off")
        self.offset += len(data)
        self.left -= len(data)
        return data

    def __enter__(self) -> "_Member":
        return self

    def __exit__(self, *_error: object) -> None:
        pass


class ArchiveLayout(Layout):
    """One in a tar archive."""

    def __init__(self, source: IO[bytes]) -> None:
        """Takes `source` over. A stream that is compressed or cannot seek is copied first. Raises ImageError,
        OSError.
        """
        self.file: IO[bytes] = _plain(source)
        self.members: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        try:
            with tarfile.open(fileobj=self.file, mode="r:", errors="surrogateescape") as tar:
                for info in tar:
                    name = os.path.normpath(info.name)
                    if info.isreg() and not info.issparse():
                        self.members[name] = (info.offset_data, info.size)
                    elif info.issym():
                        links[name] = os.path.normpath(os.path.join(os.path.dirname(name), info.linkname))
                    elif info.islnk():
                        links[name] = os.path.normpath(info.linkname)
                    if len(self.members) + len(links) > _MAX_MEMBERS:
                        raise ImageError("an archive with too many files for an image")
                    tar.members.clear()  # type: ignore[attr-defined]
        except tarfile.TarError as error:
            raise ImageError(f"this is no tar archive: {error}") from None
        for name, target in links.items():  # old `docker save` has a layer that occurs twice once
            if target in self.members:
                self.members.setdefault(name, self.members[target])

    def open(self, name: str) -> IO[bytes]:
        found = self.members.get(os.path.normpath(name))
        if found is None:
            raise ImageError(f"the archive has no {name[:200]!r}")
        return _Member(self, *found)  # type: ignore[return-value]  # read and closed, nothing else

    def has(self, name: str) -> bool:
        return name in self.members

    def close(self) -> None:
        self.file.close()


def _plain(source: IO[bytes]) -> IO[bytes]:
    """The stream, seekable and decompressed."""
    is_seekable = source.seekable()
    start = source.peek(512)[:4] if hasattr(source, "peek") else b""
    if is_seekable and not start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX")):
        return source
    copy = tempfile.TemporaryFile()
    stream = LayerStream(source)
    while data := stream.read(1 << 18):
        copy.write(data)
    copy.seek(0)
    source.close()
    return copy


def open_layout(path: str) -> Layout:
    """The layout in a directory or file.  Raises ImageError, OSError."""
    if os.path.isdir(path):
        return DirectoryLayout(path)
    try:
        return ArchiveLayout(open(path, "rb"))
    except IsADirectoryError:
        raise ImageError(f"{path} is a directory") from None


def is_layout(path: str) -> bool:
    """Whether a directory is an OCI layout, or what `docker save` unpacks to."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("index.json", "manifest.json"))


def names_of(annotations: dict[str, str]) -> list[str]:
    """The names that the index of a layout gives an image."""
    full = [annotations[key] for key in _FULL_NAMES if key in annotations]
    ref = annotations.get(_REF, "")
    if not full and ("/" in ref or ":" in ref):
        full = [ref]
    return full


def load(
    store: Store,
    layout: Layout,
    wanted: str = "",
    platform: str = "",
    progress: Progress | None = None,
    *,
    names_too: bool = True,
) -> list[tuple[Image, list[Reference]]]:
    """Bring the images of a layout into the store, or the one that is named or tagged `wanted`, and (`names_too`) the
    names that it gives them.  Raises ImageError, OSError.
    """
    if layout.has("index.json"):
        found = _load_index(store, layout, wanted, platform, progress)
    elif layout.has("manifest.json"):
        found = _load_docker(store, layout, wanted, progress)
    else:
        raise ImageError("neither an OCI layout (index.json) nor an archive of docker save (manifest.json)")
    if not found:
        raise ImageError(f"no image named {wanted} is in it" if wanted else "no image is in it")
    if names_too:
        for image, names in found:
            for name in names:
                store.set_name(name, image.digest)
    return found


def _references(names: list[str]) -> list[Reference]:
    found: list[Reference] = []
    for name in names:
        try:
            found.append(parse_reference(name))
        except ImageError:
            continue  # not a name of the usual form
    return found


def _load_index(
    store: Store, layout: Layout, wanted: str, platform: str, progress: Progress | None
) -> list[tuple[Image, list[Reference]]]:
    index = parse_document(layout.read("index.json"), "index.json")
    manifests = index.get("manifests")
    if not isinstance(manifests, list):
        raise ImageError("index.json lists no manifests")
    tags: dict[str, list[str]] = {}
    if layout.has("manifest.json"):  # docker save writes both; only this file has all names
        for row in _docker_rows(layout):
            config = str(row.get("Config", ""))
            tags.setdefault(config.rpartition("/")[2].removesuffix(".json"), []).extend(_tags_of(row))
    found: list[tuple[Image, list[Reference]]] = []
    for each in manifests[:1000]:
        descriptor = Descriptor(each)
        names = names_of(descriptor.annotations)
        if wanted and wanted not in (descriptor.annotations.get(_REF), descriptor.digest, *names):
            continue
        image = bring(store, layout, descriptor.digest, platform, progress)
        names += tags.get(image.config_descriptor.digest[7:], [])
        known = {str(name): name for name in _references(names)}
        found.append((image, list(known.values())))
    return found


def _docker_rows(layout: Layout) -> list[dict[str, Any]]:
    import json

    try:
        rows = json.loads(layout.read("manifest.json"))
    except (ValueError, RecursionError):
        raise ImageError("manifest.json is no JSON") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ImageError("manifest.json is no list of images")
    return rows


def _tags_of(row: dict[str, Any]) -> list[str]:
    tags = row.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


class _DockerSource(FileSource):
    """One image of an old `docker save`: it has no manifest, so one is made."""

    def __init__(self, layout: Layout, row: dict[str, Any]) -> None:
        import json

        self.layout: Layout = layout
        self.paths: dict[str, str] = {}
        config = layout.read(str(row.get("Config")))
        layers = row.get("Layers")
        if not isinstance(layers, list):
            raise ImageError("manifest.json names no layers")
        descriptors: list[dict[str, object]] = []
        for path in layers:
            if not isinstance(path, str):
                raise ImageError("manifest.json names no layers")
            digest, size, kind = self._measure(path)
            self.paths[digest] = path
            descriptors.append({"mediaType": kind, "digest": digest, "size": size})
        made = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": descriptors,
        }
        manifest = json.dumps(made, separators=(",", ":")).encode()
        self.digest: str = digest_of(manifest)
        self.documents: dict[str, bytes] = {self.digest: manifest, digest_of(config): config}

    def _measure(self, path: str) -> tuple[str, int, str]:
        import hashlib

        size = 0
        hashed = hashlib.sha256()
        kind = OCI_LAYER
        with self.layout.open(path) as file:
            while data := file.read(1 << 18):
                if size == 0:
                    kind += (
                        "+gzip"
                        if data[:2] == b"\x1f\x8b"
                        else "+zstd"
                        if data[:4] == b"\x28\xb5\x2f\xfd"
                        else ""
                    )
                size += len(data)
                hashed.update(data)
        return "sha256:" + hashed.hexdigest(), size, kind

    def document(self, digest: str) -> bytes:
        found = self.documents.get(digest)
        if found is None:
            raise ImageError(f"the archive has no {digest}")
        return found

    def open_blob(self, digest: str) -> IO[bytes]:
        return self.layout.open(self.paths[digest])


def _load_docker(
    store: Store, layout: Layout, wanted: str, progress: Progress | None
) -> list[tuple[Image, list[Reference]]]:
    found: list[tuple[Image, list[Reference]]] = []
    for row in _docker_rows(layout):
        names = _tags_of(row)
        if wanted and wanted not in names and wanted not in [name.rpartition(":")[2] for name in names]:
            continue
        source = _DockerSource(layout, row)
        found.append((bring(store, source, source.digest, "", progress), _references(names)))
    return found


# -- writing ---------------------------------------------------------------------------------------------------
def save(images: list[tuple[Image, Reference | None]], out: IO[bytes]) -> None:
    """A tar archive that is an OCI layout and a `docker save` archive at once, always the same for the same images.

    Raises ImageError, OSError.
    """
    import json

    manifests: list[dict[str, object]] = []
    rows: dict[str, dict[str, Any]] = {}
    blobs: dict[str, str] = {}
    for image, name in images:
        path = image.store.blob_path(image.digest)
        descriptor: dict[str, Any] = {
            "mediaType": image.manifest.get("mediaType", OCI_MANIFEST),
            "digest": image.digest,
            "size": os.path.getsize(path),
        }
        row = rows.setdefault(
            image.digest,
            {
                "Config": _blob_name(image.config_descriptor.digest),
                "RepoTags": [],
                "Layers": [_blob_name(layer.digest) for layer in image.layers],
            },
        )
        if name is not None:
            descriptor["annotations"] = {_FULL_NAMES[0]: str(name), _REF: str(name)}
            row["RepoTags"].append(name.familiar)
        manifests.append(descriptor)
        for digest in (
            image.digest,
            image.config_descriptor.digest,
            *[layer.digest for layer in image.layers],
        ):
            blobs[digest] = image.store.blob_path(digest)
    documents = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": manifests,
        },
        "manifest.json": list(rows.values()),
    }
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("blobs", "blobs/sha256"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for digest in sorted(blobs):
            info = tarfile.TarInfo(_blob_name(digest))
            info.mode, info.size = 0o644, os.path.getsize(blobs[digest])
            with open(blobs[digest], "rb") as file:
                tar.addfile(info, file)
        for name_of_file, document in documents.items():
            import io

            data = json.dumps(document, separators=(",", ":")).encode()
            info = tarfile.TarInfo(name_of_file)
            info.mode, info.size = 0o644, len(data)
            tar.addfile(info, io.BytesIO(data))


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def copy_layout(image: Image, name: Reference | None, directory: str) -> None:
    """The image as an OCI layout in a directory, beside what is in it.  Raises ImageError, OSError."""
    import json

    blobs = os.path.join(directory, "blobs", "sha256")
    os.makedirs(blobs, exist_ok=True)
    for digest in (image.digest, image.config_descriptor.digest, *[layer.digest for layer in image.layers]):
        target = os.path.join(blobs, hex_of(digest))
        if not os.path.exists(target):
            shutil.copyfile(image.store.blob_path(digest), target + ".new")
            os.rename(target + ".new", target)
    descriptor: dict[str, Any] = {
        "mediaType": image.manifest.get("mediaType", OCI_MANIFEST),
        "digest": image.digest,
        "size": os.path.getsize(image.store.blob_path(image.digest)),
    }
    if name is not None:
        descriptor["annotations"] = {_FULL_NAMES[0]: str(name), _REF: name.tag or str(name)}
    with open(os.path.join(directory, "oci-layout"), "w", encoding="ascii") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')
    with open(os.path.join(directory, "index.json"), "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": [descriptor]}, file)
