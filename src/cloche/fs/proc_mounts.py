"""/proc/PID/mounts, mountinfo and mountstats (fs/proc_namespace.c, proc_pid_mountinfo(5)).

Shows the mounts of a namespace that can be reached from a root directory, paths as seen from there.
"""

from typing import Final

from cloche.abi.fs import (
    MS_DIRSYNC,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_SHARED,
    MS_SLAVE,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)
from cloche.abi.stat import major, minor
from cloche.vfs.objects import Dentry, Mount, MountNamespace, Path

UNIQUE_ID_BASE: Final = 1 << 31  # the old mount numbers are below it (MNT_UNIQUE_ID_OFFSET)

_FLAG_NAMES: Final = (
    (MS_NOSUID, ",nosuid"),
    (MS_NODEV, ",nodev"),
    (MS_NOEXEC, ",noexec"),
    (MS_NOATIME, ",noatime"),
    (MS_NODIRATIME, ",nodiratime"),
    (MS_RELATIME, ",relatime"),
    (MS_NOSYMFOLLOW, ",nosymfollow"),
)


def unique_id(mount: Mount) -> int:
    """A number of a mount that is never used again (STATX_MNT_ID_UNIQUE); neither is `ident` here."""
    return UNIQUE_ID_BASE + mount.ident


def mangle(text: bytes) -> bytes:
    """Blanks, newlines, backslashes and # as octal escapes (mangle)."""
    for byte in b"\\ \t\n#":  # the backslash first
        char = bytes((byte,))
        if char in text:
            text = text.replace(char, b"\\%03o" % byte)
    return text


def mount_options(mount: Mount) -> str:
    """The options of the mount itself."""
    text = "ro" if mount.flags & MS_RDONLY else "rw"
    for flag, name in _FLAG_NAMES:
        if mount.flags & flag:
            text += name
    return text


def _sync_options(mount: Mount) -> str:
    """show_sb_opts."""
    text = ",sync" if mount.fs.sync_flags & MS_SYNCHRONOUS else ""
    return text + ",dirsync" if mount.fs.sync_flags & MS_DIRSYNC else text


def mount_point(root: Path, mount: Mount) -> bytes | None:
    """Where `mount` is seen from `root`; None if it cannot be reached from there."""
    if mount is root.mount:
        return b"/"  # the root's own mount, even if the root is below its top
    parts: list[bytes] = []
    at: Mount = mount
    while True:
        above, dentry = at.parent, at.mountpoint
        if above is None or dentry is None:
            return None
        step: Dentry = dentry
        while not (above is root.mount and step is root.dentry):
            if step is above.root:
                break
            parent = step.parent
            if parent is None:
                return None
            parts.append(step.name)
            step = parent
        if above is root.mount:
            if step is not root.dentry:
                return None
            break
        at = above
    parts.reverse()
    return b"/" + b"/".join(parts)


def root_in_fs(mount: Mount) -> bytes:
    """The part of its file system that a mount shows: "/" unless it is a bind mount of a subdirectory, or of
    a directory of the host of which programs may know the path.
    """
    parts: list[bytes] = []
    dentry: Dentry | None = mount.root
    while dentry is not None and dentry.parent is not None:
        parts.append(dentry.name)
        dentry = dentry.parent
    parts.reverse()
    inner = b"/".join(parts)
    outside = mount.fs.outside
    if outside:
        return outside + b"/" + inner if inner else outside
    return b"/" + inner


def propagation_fields(mount: Mount) -> str:
    """The optional fields of mountinfo."""
    text = ""
    if mount.propagation & MS_SHARED:
        text += f" shared:{mount.peer_group}"
    if mount.propagation & MS_SLAVE:
        text += f" master:{mount.master_group}"
    if mount.propagation & MS_UNBINDABLE:
        text += " unbindable"
    return text


def _fs_is_readonly(mount: Mount) -> bool:
    return mount.fs.is_readonly


def mounts_line(root: Path, mount: Mount) -> bytes:
    """A mount in /proc/PID/mounts; nothing if it cannot be reached from `root`."""
    place = mount_point(root, mount)
    if place is None:
        return b""
    options = mount_options(mount)
    if _fs_is_readonly(mount) and options.startswith("rw"):
        options = "ro" + options[2:]
    options = options[:2] + _sync_options(mount) + options[2:]
    source = mangle(mount.fs.source.encode("utf-8", "surrogateescape"))
    tail = f" {mount.fs.kind} {options}{mount.fs.options()} 0 0\n"
    return source + b" " + mangle(place) + tail.encode("utf-8", "surrogateescape")


def mounts_text(namespace: MountNamespace, root: Path) -> bytes:
    """/proc/PID/mounts."""
    return b"".join([mounts_line(root, mount) for mount in namespace.mounts])


def mountinfo_line(root: Path, mount: Mount) -> bytes:
    """A mount in /proc/PID/mountinfo; nothing if it cannot be reached from `root`."""
    place = mount_point(root, mount)
    if place is None:
        return b""
    fs = mount.fs
    parent = mount.parent.ident if mount.parent is not None else 1
    head = f"{mount.ident} {parent} {major(fs.dev)}:{minor(fs.dev)} ".encode()
    state = "ro" if _fs_is_readonly(mount) else "rw"
    source = mangle(fs.source.encode("utf-8", "surrogateescape"))
    tail = f" {state}{_sync_options(mount)}{fs.options()}\n".encode("utf-8", "surrogateescape")
    middle = f" {mount_options(mount)}{propagation_fields(mount)} - {fs.kind} ".encode()
    return head + mangle(root_in_fs(mount)) + b" " + mangle(place) + middle + source + tail


def mountinfo_text(namespace: MountNamespace, root: Path) -> bytes:
    """/proc/PID/mountinfo."""
    return b"".join([mountinfo_line(root, mount) for mount in namespace.mounts])


def mountstats_text(namespace: MountNamespace, root: Path) -> bytes:
    """/proc/PID/mountstats."""
    lines: list[bytes] = []
    for mount in namespace.mounts:
        place = mount_point(root, mount)
        if place is None:
            continue
        source = mangle(mount.fs.source.encode("utf-8", "surrogateescape"))
        tail = f" with fstype {mount.fs.kind}\n".encode()
        lines.append(b"device " + source + b" mounted on " + mangle(place) + tail)
    return b"".join(lines)
