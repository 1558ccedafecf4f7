"""What of the host's files a sandbox gets, as the gofer's attach points.  May call nothing but the gofer's `nodes`."""

from cloche.boot.spec import HOST, RW, SandboxSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.gofer.nodes import AttachPoint


def attach_points(spec: SandboxSpec) -> "list[AttachPoint]":
    """The gofer's attach points; the root's first."""
    from cloche.gofer.nodes import AttachPoint
    from cloche.wire.volume import ACCOUNT_NAME

    points: list[AttachPoint] = []
    if spec.root_source:
        only = spec.root_only or None
        root = AttachPoint(spec.root_source, is_writable=spec.root_mode == RW, only=only)
        root.keeps_suid = spec.root_mode == RW  # the image is the sandbox's alone
        root.is_private = spec.root_is_private
        points.append(root)
    for mount in spec.mounts:
        if mount.kind == HOST:
            point = AttachPoint(mount.source, is_writable=mount.mode == RW, only=mount.only)
            point.is_public_only = mount.is_public_only
            point.keeps_suid = mount.keeps_suid
            point.has_worker = mount.has_worker
            point.has_doors, point.shows_sockets = mount.has_doors, mount.shows_sockets
            point.uid_map, point.gid_map, point.maps_below = mount.uid_map, mount.gid_map, mount.maps_below
            point.is_flat, point.is_private = mount.is_flat, mount.is_private
            if mount.inodes_source:
                point.count_files(mount.inodes_source, mount.account_slot)
            if mount.skeleton:
                point.show_directories(mount.skeleton, mount.people)
            points.append(point)
    if spec.layer_source:
        layer = AttachPoint(spec.layer_source, is_writable=True)
        layer.has_worker = True
        points.append(layer)
    for mount in spec.mounts:
        if mount.account_source:
            points.append(AttachPoint(mount.account_source, is_writable=True, only=[ACCOUNT_NAME]))
    return points
