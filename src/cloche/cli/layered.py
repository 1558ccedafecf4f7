"""Sandboxes on layers that last: `--keep`, `--from` and `--disk` of `cloche run`, and templates of the SDK.

A sandbox may begin as another one did (`bare_spec`): with the same root and mounts, by the description that is kept
beside the layer (`boot.spec.dump_bare`).
"""

import os
import sys
from typing import Any

from cloche.boot.spec import HOST, SandboxSpec, dump_bare, host_places, load
from cloche.cli.options import UsageError, parse_size
from cloche.runtime import layers
from cloche.runtime.layers import KeptLayer
from cloche.runtime.records import Record, RecordError, new_name
from cloche.wire.protocol import ProtocolError


def bare_spec(layer: KeptLayer) -> SandboxSpec:
    """What the sandbox was that wrote the layer: root and mounts, without programs, variables, network and limits that
    were meant for it alone.

    Raises RecordError if another version of cloche has kept it, or a place that it was shown is gone.
    """
    try:
        spec = load(layer.spec())
    except (ProtocolError, ValueError):
        raise RecordError(f"the layer {layer.name} was kept by another version of cloche") from None
    for place in [spec.root_source, *[mount.source for mount in spec.mounts if mount.kind == HOST]]:
        if place and not os.path.lexists(place):
            raise RecordError(f"{place}, which {layer.name} was shown, is not there any more")
    return spec


def begin_as(options: Any, layer: KeptLayer) -> SandboxSpec:
    """Set options of `cloche run`, so that a sandbox begins as the one that wrote the layer; returns what that was, for
    `make_spec`.

    Raises UsageError for options that contradict it, RecordError.
    """
    if options.image or options.rootfs:
        raise UsageError(f"the template {layer.name} has a root already: neither --image nor --rootfs")
    base = bare_spec(layer)
    options.origin = layer.name
    if base.image_tree:
        options.image, options.pull = os.fsdecode(base.image_digest), "never"
    elif base.root_source:
        options.rootfs = base.root_source
    if options.user is None:
        options.user = f"{base.uid}:{base.gid}"
    return base


def take_layer(
    options: Any, spec: SandboxSpec, record: Record | None, *, may_show_more: bool = False
) -> KeptLayer | None:
    """The layer of the sandbox on the disk, if it shall have one. With `may_show_more` it may show more of the host
    than the sandbox NAME of `--from NAME` did.

    Raises UsageError, RecordError, OSError.
    """
    is_automatic = options.detach and not options.keep and not options.rm
    if options.keep and options.name is None:
        raise UsageError("--keep: say --name NAME, too")
    # The layer of a detached sandbox is kept until its record is removed.
    if not options.keep and options.origin is None and options.disk is None and not is_automatic:
        return None
    disk_bytes = parse_size(options.disk, "--disk") if options.disk is not None else -1
    places = host_places(spec)
    name = record.state.name if record is not None else ""
    is_kept = options.keep or is_automatic
    directory = layers.automatic_directory(options.root) if is_automatic else ""
    made = name if is_kept else f"{new_name()}{layers.TEMPORARY}"
    if not is_kept:
        layers.sweep(directory)
    if options.origin is None:
        try:
            layer = layers.create(made, places, directory, is_automatic=is_automatic)
        except OSError as problem:
            if not is_automatic or options.disk is not None:
                raise
            if spec.log_level != "error":
                print(f"cloche: what it writes is in memory only: {problem.strerror}", file=sys.stderr)
            return None
    else:
        found = layers.find_of(options.origin, options.root)
        if found is None:
            raise RecordError(f"no layer named {options.origin} is kept")
        found.check(places, may_have_more=may_show_more and not (options.keep and name == options.origin))
        if options.keep and name == options.origin:
            layer = found
            layer.take()
            layer.make_current()
        else:
            layer = layers.copy(found, made, places, directory, is_automatic=is_automatic)
    layer.is_temporary = not is_kept
    spec.layer_source = layer.files()
    spec.disk_bytes = disk_bytes if disk_bytes >= 0 else layer.room()
    if is_kept:
        layer.write_spec(dump_bare(spec))
    return layer


def drop_layer(layer: KeptLayer | None) -> None:
    """Remove a layer that was made for a sandbox that did not start, or that is temporary."""
    if layer is not None and layer.is_new:
        layers.discard(layer)
