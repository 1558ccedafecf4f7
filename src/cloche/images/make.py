"""New images: a layer on top of another image, or of nothing. The same input gives the same digest, at any time and
on any machine: no current time is stored, and layers are not compressed, because the output of a compressor depends
on its version.
"""

import copy
import json
import os
from typing import IO, Any, Final

from cloche.images.image import ARCHITECTURE, Image
from cloche.images.store import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Store, digest_of
from cloche.images.streams import LayerStream
from cloche.images.tree import ensure_tree
from cloche.images.unpack import unpack

EPOCH: Final = "1970-01-01T00:00:00Z"


def created(seconds: int | None) -> str:
    """The creation time, chosen so that builds are reproducible: the given one, SOURCE_DATE_EPOCH, or the epoch."""
    import datetime

    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if seconds is None and text.isascii() and text.isdigit() and len(text) < 11:
        seconds = int(text)
    if seconds is None or not 0 <= seconds < 1 << 35:
        return EPOCH
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def canonical(document: dict[str, Any]) -> bytes:
    """JSON in one form only."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def make_image(
    store: Store,
    base: Image | None,
    layer: IO[bytes],
    config: dict[str, Any],
    created_by: str,
    comment: str = "",
    seconds: int | None = None,
) -> Image:
    """`layer` (a tar stream, seekable) on top of `base`; `config` replaces keys of its configuration.

    Raises ImageError, OSError.
    """
    digest, size = store.add_blob(layer)
    with open(store.blob_path(digest), "rb") as file:
        unpack(store, LayerStream(file), digest)
    document: dict[str, Any] = copy.deepcopy(base.document) if base is not None else {}
    document.setdefault("architecture", ARCHITECTURE)
    document.setdefault("os", "linux")
    document["created"] = created(seconds)
    document["config"] = {**(base.config if base is not None else {}), **config}
    for key in ("container", "container_config", "docker_version", "id", "parent"):
        document.pop(key, None)  # docker's fields about the base image
    diff_ids = [*(base.diff_ids if base is not None else []), digest]
    document["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    history = document.get("history")
    row: dict[str, str] = {"created": created(seconds), "created_by": created_by}
    if comment:
        row["comment"] = comment
    document["history"] = [*(history if isinstance(history, list) else []), row]
    config_data = canonical(document)
    layers: list[dict[str, Any]] = list(base.manifest["layers"]) if base is not None else []
    is_docker = base is not None and "docker" in str(base.manifest.get("mediaType"))
    if is_docker:
        layers = [{**each, "mediaType": _as_oci(str(each.get("mediaType")))} for each in layers]
    layers.append({"mediaType": OCI_LAYER, "digest": digest, "size": size})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config_data), "size": len(config_data)},
        "layers": layers,
    }
    ensure_tree(store, diff_ids)
    store.add_document(config_data)
    return Image(store, store.add_document(canonical(manifest)))


def _as_oci(kind: str) -> str:
    if "zstd" in kind:
        return OCI_LAYER + "+zstd"
    return OCI_LAYER + ("+gzip" if "gzip" in kind else "")
