"""An image: its manifest and configuration, checked; the settings that a sandbox takes from it; fetching one into the
store.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Final

from cloche.images.errors import ImageError
from cloche.images.reference import Reference
from cloche.images.store import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    Store,
    digest_of,
    hex_of,
    parse_document,
)
from cloche.images.streams import LayerStream
from cloche.images.tree import ensure_tree
from cloche.images.unpack import unpack

PARALLEL: Final = 4  # layers that are fetched and unpacked at once
ARCHITECTURE: Final = "amd64"  # of the programs that sandboxes run, as images name it


class Descriptor:
    """A reference to a blob (image specification, "Content Descriptors")."""

    def __init__(self, found: object) -> None:
        """Raises ImageError."""
        if not isinstance(found, dict):
            raise ImageError("a manifest refers to nothing")
        self.digest: str = "sha256:" + hex_of(found.get("digest"))
        size = found.get("size")
        if not isinstance(size, int) or size < 0:
            raise ImageError("a manifest refers to something without a size")
        self.size: int = size
        kind = found.get("mediaType")
        self.media_type: str = kind if isinstance(kind, str) else ""
        annotations = found.get("annotations")
        self.annotations: dict[str, str] = {}
        if isinstance(annotations, dict):
            self.annotations = {key: text for key, text in annotations.items() if isinstance(text, str)}
        wanted = found.get("platform")
        self.platform: dict[str, Any] = wanted if isinstance(wanted, dict) else {}


class Source:
    """Where an image comes from."""

    def document(self, digest: str) -> bytes:
        """A manifest, index or configuration, not checked yet.  Raises ImageError, OSError."""
        raise NotImplementedError

    def fetch(self, store: Store, layer: Descriptor, progress: "Progress") -> None:
        """Bring a layer's blob into the store, checked.  Raises ImageError, OSError."""
        raise NotImplementedError


class Progress:
    """Receives reports of progress, from several threads. This class ignores them."""

    def layer(self, digest: str, size: int) -> None:
        """A layer of `size` bytes is to be fetched."""

    def fetched(self, digest: str, count: int) -> None:
        """So many bytes more of it are here."""

    def unpacked(self, digest: str, count: int) -> None:
        """So many of its bytes more are unpacked."""

    def done(self, digest: str) -> None:
        """The layer is unpacked."""


def texts(found: object, what: str) -> list[str]:
    """A list of strings, or null.  Raises ImageError."""
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) and "\0" not in each for each in found):
        raise ImageError(f"the image's {what} is no list of strings")
    return found


def text(found: object, what: str) -> str:
    """A string, or null.  Raises ImageError."""
    if found is None:
        return ""
    if not isinstance(found, str) or "\0" in found:
        raise ImageError(f"the image's {what} is no string")
    return found


def keys(found: object, what: str) -> list[str]:
    """The keys of an object, or null.  Raises ImageError."""
    if found is None:
        return []
    if not isinstance(found, dict):
        raise ImageError(f"the image's {what} is no object")
    return texts(list(found), what)


class Image:
    """An image in the store."""

    def __init__(self, store: Store, digest: str) -> None:
        """Raises ImageError."""
        self.store: Store = store
        self.digest: str = digest
        self.manifest: dict[str, Any] = store.document(digest)
        self.config_descriptor, self.layers = parse_manifest(self.manifest)
        self.document: dict[str, Any] = store.document(self.config_descriptor.digest)
        self.diff_ids: list[str] = parse_diff_ids(self.document, self.layers)
        found = self.document.get("config")
        self.config: dict[str, Any] = found if isinstance(found, dict) else {}

    @property
    def platform(self) -> str:
        """E.g. linux/amd64."""
        return "/".join(
            str(self.document[key]) for key in ("os", "architecture", "variant") if self.document.get(key)
        )

    @property
    def size(self) -> int:
        """Bytes of its blobs."""
        return sum(layer.size for layer in self.layers) + self.config_descriptor.size

    @property
    def entrypoint(self) -> list[str]:
        """Raises ImageError."""
        return texts(self.config.get("Entrypoint"), "Entrypoint")

    @property
    def cmd(self) -> list[str]:
        """Raises ImageError."""
        return texts(self.config.get("Cmd"), "Cmd")

    @property
    def env(self) -> list[str]:
        """Raises ImageError."""
        return texts(self.config.get("Env"), "Env")

    @property
    def volumes(self) -> list[str]:
        """Paths inside that the image declares as volumes. Raises ImageError."""
        return [each for each in keys(self.config.get("Volumes"), "Volumes") if each.startswith("/")]

    @property
    def tcp_ports(self) -> list[int]:
        """Raises ImageError."""
        found: list[int] = []
        for each in keys(self.config.get("ExposedPorts"), "ExposedPorts"):
            port, _slash, protocol = each.partition("/")
            if protocol in ("", "tcp") and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536:
                found.append(int(port))
        return sorted(set(found))

    def tree(self) -> str:
        """The path of its tree, made if need be.  Raises ImageError, OSError."""
        for digest, layer in zip(self.diff_ids, self.layers, strict=True):
            if not self.store.has_layer(digest):
                unpack_blob(self.store, layer, digest, Progress())
        return self.store.of("content", ensure_tree(self.store, self.diff_ids))


def parse_manifest(manifest: dict[str, Any]) -> tuple[Descriptor, list[Descriptor]]:
    """Configuration and layers.  Raises ImageError."""
    if manifest.get("schemaVersion") != 2:
        raise ImageError("a manifest of a kind that is not known (schema 1 is too old)")
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > 512:
        raise ImageError("a manifest without layers")
    config = Descriptor(manifest.get("config"))
    found = [Descriptor(layer) for layer in layers]
    if any("encrypted" in layer.media_type for layer in found):
        raise ImageError("the image's layers are encrypted")
    return config, found


def parse_diff_ids(document: dict[str, Any], layers: list[Descriptor]) -> list[str]:
    """The digests of the uncompressed layers. Raises ImageError."""
    rootfs = document.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or len(found) != len(layers):
        raise ImageError("this is no image to run: its configuration does not name its layers")
    return ["sha256:" + hex_of(each) for each in found]


def choose_platform(index: dict[str, Any], wanted: str) -> Descriptor:
    """The manifest in an index for a platform (empty: this machine's).  Raises ImageError."""
    manifests = index.get("manifests")
    if not isinstance(manifests, list) or not manifests:
        raise ImageError("an index without manifests")
    found = [Descriptor(each) for each in manifests[:1000]]
    parts = (wanted or f"linux/{ARCHITECTURE}").split("/")
    fits = [
        each
        for each in found
        if each.platform.get("os") == parts[0]
        and (len(parts) < 2 or each.platform.get("architecture") == parts[1])
        and (len(parts) < 3 or each.platform.get("variant") == parts[2])
    ]
    if fits:
        return fits[0]
    if len(found) == 1 and not found[0].platform:
        return found[0]
    have = sorted(
        {f"{each.platform.get('os')}/{each.platform.get('architecture')}" for each in found if each.platform}
        - {"unknown/unknown"}
    )
    raise ImageError(f"the image is not there for {'/'.join(parts)}, but for {', '.join(have) or 'nothing'}")


def check_document(data: bytes, digest: str) -> bytes:
    """Check that a document has this digest; returns it. Raises ImageError."""
    if len(data) > MAX_DOCUMENT_BYTES or digest_of(data) != digest:
        raise ImageError(f"{digest} does not have this digest")
    return data


def bring(
    store: Store, source: Source, digest: str, platform_name: str = "", progress: Progress | None = None
) -> Image:
    """The image whose manifest, or index, has this digest: fetch and unpack what is missing.

    Raises ImageError, OSError.
    """
    data = check_document(source.document(digest), digest)
    manifest = parse_document(data, "the manifest")
    for _level in range(3):
        if manifest.get("mediaType") not in INDEX_TYPES and "manifests" not in manifest:
            break
        digest = choose_platform(manifest, platform_name).digest
        data = check_document(source.document(digest), digest)
        manifest = parse_document(data, "the manifest")
    if manifest.get("mediaType", MANIFEST_TYPES[0]) not in MANIFEST_TYPES:
        raise ImageError(f"a manifest of a kind that is not known: {str(manifest.get('mediaType'))[:100]}")
    config, layers = parse_manifest(manifest)
    document = check_document(source.document(config.digest), config.digest)
    diff_ids = parse_diff_ids(parse_document(document, "the image's configuration"), layers)
    told = progress if progress is not None else Progress()
    pairs = list(dict(zip(diff_ids, layers, strict=True)).items())
    for _diff_id, layer in pairs:
        told.layer(layer.digest, layer.size)

    def one(pair: tuple[str, Descriptor]) -> None:
        diff_id, layer = pair
        if not store.has_blob(layer.digest):
            source.fetch(store, layer, told)
        unpack_blob(store, layer, diff_id, told)
        told.done(layer.digest)

    pool = ThreadPoolExecutor(PARALLEL)
    try:
        for _each in pool.map(one, pairs):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    ensure_tree(store, diff_ids)
    store.add_document(document)
    store.add_document(data)
    return Image(store, digest)


def unpack_blob(store: Store, layer: Descriptor, diff_id: str, progress: Progress) -> None:
    """Raises ImageError, OSError."""
    if store.has_layer(diff_id):
        return
    tell: Callable[[int], None] = lambda count: progress.unpacked(layer.digest, count)  # noqa: E731
    with open(store.blob_path(layer.digest), "rb") as file:
        unpack(store, LayerStream(file, tell), diff_id)


def find(store: Store, name: Reference) -> Image | None:
    """The image of that name, if the store has it.  Raises ImageError."""
    digest = store.lookup(name)
    return Image(store, digest) if digest is not None else None


def find_by_prefix(store: Store, text_given: str) -> Image | None:
    """The image whose digest (of the manifest or the configuration) begins with this text. Raises ImageError."""
    wanted = text_given.removeprefix("sha256:")
    if len(wanted) < 4 or any(each not in "0123456789abcdef" for each in wanted):
        return None
    found: dict[str, Image] = {}
    for digest in set(store.names().values()):
        image = Image(store, digest)
        if digest[7:].startswith(wanted) or image.config_descriptor.digest[7:].startswith(wanted):
            found[digest] = image
    if len(found) > 1:
        raise ImageError(f"{text_given} is the beginning of several images' digests")
    return next(iter(found.values()), None)


class FileSource(Source):
    """Blobs as files that `open_blob` opens."""

    def open_blob(self, digest: str) -> IO[bytes]:
        """Raises ImageError, OSError."""
        raise NotImplementedError

    def document(self, digest: str) -> bytes:
        with self.open_blob(digest) as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)

    def fetch(self, store: Store, layer: Descriptor, progress: Progress) -> None:
        with self.open_blob(layer.digest) as file:
            store.add_blob(file, layer.digest, layer.size)
        progress.fetched(layer.digest, layer.size)


def is_path(name: str) -> bool:
    """Whether a REF is a path of the host, not a name."""
    return (
        name.startswith(("/", "./", "../"))
        or name in (".", "..")
        or os.path.sep in name
        and os.path.exists(name)
    )
