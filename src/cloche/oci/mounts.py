"""The mounts of a bundle, twice: for the sentry, which shows them to programs, and for the anchor, in whose mount
namespace engines look for the container's files.

The anchor's has the root and every bind mount; where the container has a file system of the sentry's own (tmpfs, proc,
devpts …) there is an empty directory that cannot be written to, so that engines put no file where the container would
not see it. Mount points are looked up with links confined to the root (openat2, RESOLVE_IN_ROOT), and are made where
they are missing, as runc does.
"""

import os
import stat
from errno import ELOOP, EPERM
from typing import Final

from cloche.abi.fcntl import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
from cloche.abi.fs import (
    MS_BIND,
    MS_DIRSYNC,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
)
from cloche.boot.idmaps import clone_mount
from cloche.boot.spec import CGROUP, DEVPTS, HOST, MQUEUE, PROC, RO, RW, SYSFS, TMPFS, MountSpec
from cloche.oci.errors import OciError
from cloche.oci.spec import Bundle, Mount, encode
from cloche.platform import hostsys

_FLAGS: Final = {
    "ro": (MS_RDONLY, True),
    "rw": (MS_RDONLY, False),
    "nosuid": (MS_NOSUID, True),
    "suid": (MS_NOSUID, False),
    "nodev": (MS_NODEV, True),
    "dev": (MS_NODEV, False),
    "noexec": (MS_NOEXEC, True),
    "exec": (MS_NOEXEC, False),
    "noatime": (MS_NOATIME, True),
    "atime": (MS_NOATIME, False),
    "nodiratime": (MS_NODIRATIME, True),
    "diratime": (MS_NODIRATIME, False),
    "relatime": (MS_RELATIME, True),
    "norelatime": (MS_RELATIME, False),
    "strictatime": (MS_STRICTATIME, True),
    "nostrictatime": (MS_STRICTATIME, False),
    "rro": (MS_RDONLY, True),
    "rrw": (MS_RDONLY, False),
    "sync": (MS_SYNCHRONOUS, True),
    "async": (MS_SYNCHRONOUS, False),
    "dirsync": (MS_DIRSYNC, True),
    "rnosuid": (MS_NOSUID, True),
    "rnodev": (MS_NODEV, True),
    "rnoexec": (MS_NOEXEC, True),
}
# Accepted without effect: defaults, and options that would need the host's kernel.
_IGNORED: Final = frozenset(
    "bind rbind defaults remount acl noacl iversion noiversion lazytime nolazytime loud silent mand "
    "nomand private rprivate shared rshared slave rslave "
    "unbindable runbindable symfollow nosymfollow rsuid rdev rexec "
    "ratime rnoatime rdiratime rnodiratime rrelatime rnorelatime rstrictatime rnostrictatime "
    "rsymfollow rnosymfollow idmap ridmap".split()
)
_MAX_LINKS: Final = 40
# Destinations of bind mounts, separated by commas.
SOCKETS_ANNOTATION: Final = "dev.cloche.host-sockets"
_KINDS: Final = {
    "proc": PROC,
    "sysfs": SYSFS,
    "tmpfs": TMPFS,
    "devpts": DEVPTS,
    "mqueue": MQUEUE,
    "cgroup": CGROUP,
    "cgroup2": CGROUP,
}


def parse_options(options: list[str]) -> tuple[int, list[str]]:
    """MS_* flags, and the data that is left."""
    flags = 0
    data: list[str] = []
    for option in options:
        known = _FLAGS.get(option)
        if known is not None:
            flags = flags | known[0] if known[1] else flags & ~known[0]
        elif option not in _IGNORED:
            data.append(option)
    return flags, data


def _is_no_directory(path: str) -> bool:
    """Whether there is something else, a link among it."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def guest_mounts(bundle: Bundle) -> list[MountSpec]:
    """For the sentry.  Raises OciError."""
    found: list[MountSpec] = []
    for mount in bundle.mounts:
        flags, data = parse_options(mount.options)
        destination = encode(mount.destination)
        if mount.is_bind:
            try:
                status = os.stat(mount.source)
            except OSError as error:
                raise OciError(f"mount {mount.source} at {mount.destination}: {error.strerror}") from None
            made = MountSpec(destination, HOST, mount.source, RO if flags & MS_RDONLY else RW)
            made.is_file = not stat.S_ISDIR(status.st_mode)
            made.is_shared = made.keeps_suid = True
            # As with every runtime; programs look there for the container's name (…/containers/ID/hostname).
            made.shown_root = encode(os.path.realpath(mount.source))
            made.has_worker = not made.is_file  # its storage may be slow, or hang
            made.has_doors = made.mode == RW and not made.is_file
            made.uid_map, made.gid_map = mount.uid_map, mount.gid_map
            made.maps_below = mount.maps_below
            made.is_flat, made.is_private = not mount.is_recursive, mount.is_private
        else:
            kind = _KINDS.get(mount.kind)
            if kind is None:
                raise OciError(
                    f"mount {mount.destination}: a file system of type {mount.kind[:64]!r} is not supported"
                )
            if mount.kind in ("proc", "sysfs") and _is_no_directory(bundle.rootfs + mount.destination):
                raise OciError(f'filesystem "{mount.kind}" must be mounted on ordinary directory')
            made = MountSpec(destination, kind)
            if kind == TMPFS:
                made.copies_up = "tmpcopyup" in data
                data = [option for option in data if option != "tmpcopyup"]
                if not any(option.startswith("mode=") for option in data):
                    data.append(f"mode={_mode_below(bundle.rootfs, mount.destination):o}")
                made.data = encode(",".join(data))
                made.source = mount.source
            elif kind == DEVPTS:
                made.data = encode(",".join(data))
        made.flags = flags
        found.append(made)
    _show_sockets(found, bundle.annotations)
    return found


def _show_sockets(mounts: list[MountSpec], annotations: dict[str, str]) -> None:
    """Let programs connect to the host's Unix sockets in the bind mounts that the annotation names.

    Raises OciError.
    """
    for place in annotations.get(SOCKETS_ANNOTATION, "").split(","):
        wanted = os.path.normpath("/" + place.strip(" /")) if place.strip() else ""
        if not wanted:
            continue
        named = [
            each
            for each in mounts
            if each.kind == HOST
            and os.path.normpath("/" + os.fsdecode(each.destination).lstrip("/")) == wanted
        ]
        if not named:
            raise OciError(f"annotation {SOCKETS_ANNOTATION}: no bind mount is at {wanted[:256]!r}")
        for each in named:
            # The process that may connect serves nothing else.
            each.shows_sockets = each.has_worker = True


def _mode_below(rootfs: str, destination: str) -> int:
    """The mode of a tmpfs without the option: as in runc that of the directory that it covers, otherwise the kernel's
    default.
    """
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = _open_in(root, destination)
        mode = os.fstat(found).st_mode & 0o7777
        os.close(found)
    except OSError:
        return 0o1777
    finally:
        os.close(root)
    return mode


# -- the anchor's mount namespace ------------------------------------------------------------------------------
def _open_in(root: int, path: str) -> int:
    return hostsys.openat2(
        root,
        encode(path.strip("/") or "."),
        os.O_PATH | os.O_CLOEXEC,
        0,
        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    )


def open_place(root: int, path: str, *, is_file: bool) -> int:
    """A descriptor of a mount point, made if it is missing.  Raises OSError."""
    try:
        return _open_in(root, path)
    except FileNotFoundError:
        pass
    parts = _followed(root, path)
    at = _open_in(root, ".")
    for index in range(len(parts)):
        shown = "/".join(parts[: index + 1])
        try:
            below = _open_in(root, shown)
        except FileNotFoundError:
            if is_file and index == len(parts) - 1:
                os.close(
                    os.open(
                        parts[index], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=at
                    )
                )
            else:
                os.mkdir(parts[index], 0o755, dir_fd=at)
            below = _open_in(root, shown)
        os.close(at)
        at = below
    return at


def _followed(root: int, path: str) -> list[str]:
    """The parts of a path below the root, when links have been followed, also those that lead to nothing yet (as runc's
    securejoin does).  Raises OSError.
    """
    left = path.split("/")
    parts: list[str] = []
    links = 0
    while left:
        part = left.pop(0)
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            try:
                target = os.readlink("/".join([*parts, part]), dir_fd=root)
            except OSError:
                parts.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP))
            if target.startswith("/"):
                parts.clear()
            left[:0] = target.split("/")
    return parts


def _link(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def open_sources(bundle: Bundle) -> dict[int, int]:
    """Copies of bind mounts, by their numbers in the bundle, made with the caller's rights and in its mount namespace:
    of all, where the container's root may not be able to look their paths up, or of those that are id-mapped.

    Raises OciError.
    """
    found: dict[int, int] = {}
    for number, mount in enumerate(bundle.mounts):
        if not mount.is_bind or (bundle.maps is None and not mount.is_id_mapped):
            continue
        try:
            found[number] = clone_mount(
                mount.source,
                mount.uid_map,
                mount.gid_map,
                is_recursive=mount.is_recursive,
                is_private=mount.is_private,
                maps_below=mount.maps_below,
            )
        except OSError as error:
            if mount.is_id_mapped:
                raise OciError(explain_map(mount, error)) from None
            if error.errno != EPERM:
                raise OciError(f"mount {mount.source} at {mount.destination}: {error.strerror}") from None
            # without rights over its own mounts the caller finds the path as the container's root does
    return found


def explain_map(mount: Mount, error: OSError) -> str:
    """Why a mount cannot be id-mapped, in runc's words."""
    return (
        f"failed to set MOUNT_ATTR_IDMAP on {mount.source}: {(error.strerror or str(error)).lower()} "
        "(maybe the filesystem used doesn't support idmap mounts on this kernel?)"
    )


def build_view(bundle: Bundle, sources: dict[int, int]) -> int:
    """Mount everything below the root, in a mount namespace of the caller's own; a descriptor of the root. `sources`
    are mounts that `open_sources` has copied, which are closed.

    Raises OSError, OciError.
    """
    hostsys.mount(b"none", b"/", b"", MS_REC | (MS_PRIVATE if bundle.is_private else MS_SLAVE))
    rootfs = os.fsencode(bundle.rootfs)
    hostsys.mount(rootfs, rootfs, b"", MS_BIND | MS_REC)
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    late: list[tuple[int, int]] = []  # mounts that become read-only once every mount point in them is made
    for number, mount in enumerate(bundle.mounts):
        try:
            _mount_one(root, mount, late, sources.get(number, -1), has_pids="pid" in bundle.namespaces)
        except OSError as error:
            raise OciError(
                f"error mounting {mount.source!r} to rootfs at {mount.destination!r}: {error.strerror}"
            ) from None
    try:  # as runc does it: before the root becomes read-only. The sentry makes what lies in its file systems.
        os.close(open_place(root, os.fsdecode(bundle.process.cwd), is_file=False))
    except OSError:
        pass  # `create` says so if it is not there
    for fd, flags in late:
        hostsys.mount(b"", _link(fd), b"", MS_REMOUNT | MS_BIND | flags)
        os.close(fd)
    if bundle.is_read_only:
        hostsys.mount(b"", _link(root), b"", MS_REMOUNT | MS_BIND | MS_RDONLY | _kept_flags(root))
    return root


def _mount_one(root: int, mount: Mount, late: list[tuple[int, int]], source: int, *, has_pids: bool) -> None:
    """`source`: a copy of what is to be bound, or -1.  Raises OSError."""
    flags, _data = parse_options(mount.options)
    if mount.kind == "proc" and has_pids:  # shows anchors only, whose arguments are those of the programs
        place = open_place(root, mount.destination, is_file=False)
        hostsys.mount(b"proc", _link(place), b"proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        os.close(place)
        return
    if source >= 0:
        is_file = not stat.S_ISDIR(os.fstat(source).st_mode)
        place = open_place(root, mount.destination, is_file=is_file)
        hostsys.move_mount(source, place)
        os.close(place)
        os.close(source)
        _limit(root, mount, flags, late)
        return
    if not mount.is_bind:
        place = open_place(root, mount.destination, is_file=False)
        hostsys.mount(
            b"cloche",
            _link(place),
            b"tmpfs",
            MS_NOSUID | MS_NODEV | MS_NOEXEC,
            b"size=64k,nr_inodes=256,mode=755",
        )
        os.close(place)
        late.append((_open_in(root, mount.destination), MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC))
        return
    source = os.open(mount.source, os.O_PATH | os.O_CLOEXEC)
    try:
        is_file = not stat.S_ISDIR(os.fstat(source).st_mode)
        place = open_place(root, mount.destination, is_file=is_file)
        hostsys.mount(_link(source), _link(place), b"", MS_BIND | (MS_REC if mount.is_recursive else 0))
        os.close(place)
        if mount.is_private:
            top = _open_in(root, mount.destination)
            hostsys.mount(b"", _link(top), b"", MS_PRIVATE | MS_REC)
            os.close(top)
    finally:
        os.close(source)
    _limit(root, mount, flags, late)


def _limit(root: int, mount: Mount, flags: int, late: list[tuple[int, int]]) -> None:
    """Give a bind mount its flags, in the end."""
    wanted = flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if wanted:
        top = _open_in(root, mount.destination)
        late.append((top, wanted | _kept_flags(top)))


def _kept_flags(fd: int) -> int:
    """The present flags of a mount, which a remount has to repeat."""
    found = os.fstatvfs(fd).f_flag
    kept = 0
    for flag, ours in (
        (os.ST_RDONLY, MS_RDONLY),
        (os.ST_NOSUID, MS_NOSUID),
        (os.ST_NODEV, MS_NODEV),
        (os.ST_NOEXEC, MS_NOEXEC),
        (os.ST_NOATIME, MS_NOATIME),
        (os.ST_RELATIME, MS_RELATIME),
    ):
        if found & flag:
            kept |= ours
    return kept
