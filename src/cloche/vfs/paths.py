"""Names of places: for /proc links and getcwd(2); and whether a place lies below another (fs/d_path.c)."""

from cloche.abi.errno import (
    ENOENT,
    LinuxError,
)
from cloche.vfs.objects import (
    Context,
    Path,
)


def _path_from(root: Path, path: Path) -> tuple[bytes, bool]:
    """The name of a place below `root`, and whether it is below it at all."""
    dentry = path.dentry
    mount = path.mount
    root_dentry = root.dentry
    root_mount = root.mount
    parts: list[bytes] = []
    is_reachable = False
    while True:
        if dentry is root_dentry and mount is root_mount:
            is_reachable = True
            break
        if dentry is mount.root:
            above = mount.parent
            point = mount.mountpoint
            if above is None or point is None:
                break
            mount = above
            dentry = point
            continue
        parent = dentry.parent
        if parent is None:
            break
        parts.append(dentry.name)
        dentry = parent
    if not parts:
        return b"/", is_reachable
    parts.append(b"")
    parts.reverse()
    return b"/".join(parts), is_reachable


def d_path(root: Path, path: Path) -> bytes:
    """The name of an object as /proc shows it (fs/d_path.c); not below `root`.

    From the root of its mounts.
    """
    text = _path_from(root, path)[0]
    return text + b" (deleted)" if path.dentry.is_deleted else text


def getcwd(ctx: Context) -> bytes:
    """getcwd(2), with "(unreachable)" in front if the directory lies outside of the root.

    Raises LinuxError(ENOENT) if removed.
    """
    fs = ctx.fs
    if fs.cwd.dentry.is_deleted:
        raise LinuxError(ENOENT)
    text, is_reachable = _path_from(fs.root, fs.cwd)
    return text if is_reachable else b"(unreachable)" + text


def path_below(root: Path, path: Path) -> bytes | None:
    """The name of a place as seen from `root`; None if it is not below it."""
    text, is_reachable = _path_from(root, path)
    return text if is_reachable else None
