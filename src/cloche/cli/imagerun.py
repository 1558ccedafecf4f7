"""`cloche run --image`: finds the image, and applies its configuration to the sandbox as Docker does."""

import os
import re
import stat
from typing import Any, Final

from cloche.boot.spawn import leave_light_modules
from cloche.boot.spec import DEV, PROC, SYSFS, MountSpec, SandboxSpec
from cloche.boot.view import RESOLV_CONF, resolv_conf
from cloche.cli.options import UsageError, is_digits, parse_signal
from cloche.images import archives
from cloche.images.errors import ImageError
from cloche.images.image import ARCHITECTURE, Image, find, find_by_prefix, is_path
from cloche.images.reference import parse_reference
from cloche.images.store import Store
from cloche.images.tree import OpenTree

SCHEMES: Final = ("oci:", "oci-archive:", "docker-archive:")
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")  # all of it
_PASSWD_BYTES: Final = 1 << 20
_MAX_ID: Final = 0xFFFFFFFE
_OPEN: list[OpenTree] = []  # keeps the image in use until this process and its forks have ended


def open_image(store: Store, ref: str, pull: str) -> Image:
    """The image that REF names; fetched if it is not in the store and `pull` allows that. Raises UsageError,
    ImageError, OSError.
    """
    for scheme in SCHEMES:
        if ref.startswith(scheme):
            path, _colon, tag = ref[len(scheme) :].partition(":")
            return _from_file(store, path, tag)
    if is_path(ref):
        path, tag = ref, ""
        if not os.path.exists(path) and ":" in path:
            path, _colon, tag = path.rpartition(":")
        return _from_file(store, path, tag)
    if _DIGEST.fullmatch(ref):
        return Image(store, ref)  # which may have no name
    if pull != "always":
        known = find_by_prefix(store, ref)
        if known is not None:
            return known
    name = parse_reference(ref)
    image = find(store, name) if pull != "always" else None
    if image is not None:
        return image
    if pull == "never":
        raise ImageError(f"there is no image {ref} here; cloche pull {ref}, or cloche load")
    leave_light_modules()  # `run` begins without; urllib3 needs the full standard library
    from cloche.cli.pull import fetch

    return fetch(store, name, "", is_quiet=False)


def _from_file(store: Store, path: str, tag: str) -> Image:
    if not os.path.exists(path):
        raise ImageError(f"{path} does not exist")
    if os.path.isdir(path) and not archives.is_layout(path):
        raise ImageError(f"{path} is no image layout; for a directory with a root file system use --rootfs")
    leave_light_modules()  # its layers may need zstandard
    layout = archives.open_layout(path)
    try:
        found = archives.load(store, layout, tag, names_too=False)
    finally:
        layout.close()
    if len({image.digest for image, _names in found}) > 1:
        raise ImageError(f"{path} has several images; say which one: {path}:TAG")
    return found[0][0]


def make_image_spec(options: Any, command: list[str]) -> SandboxSpec:
    """A spec with everything that the image's configuration asks for. Raises UsageError."""
    try:
        store = Store()
        with store.using():
            image = open_image(store, options.image, options.pull)
            tree = OpenTree(image.tree())
            _OPEN.append(tree)
        return _spec(image, tree, options, command)
    except ImageError as error:
        raise UsageError(f"--image {options.image}: {error}") from None
    except OSError as problem:
        raise UsageError(f"--image {options.image}: {problem.strerror or problem}") from None


def _spec(image: Image, tree: OpenTree, options: Any, command: list[str]) -> SandboxSpec:
    if image.platform and image.document.get("architecture") not in (None, "", ARCHITECTURE):
        raise ImageError(f"it is for {image.platform}, which this machine does not run")
    entrypoint = image.entrypoint
    words = command
    if options.entrypoint is not None:
        entrypoint = [options.entrypoint] if options.entrypoint else []
    elif not command:
        words = image.cmd
    if not entrypoint and not words:
        raise ImageError("it does not say what to run; write -- COMMAND [ARG …]")
    spec = SandboxSpec([os.fsencode(word) for word in [*entrypoint, *words]])
    spec.root_source = tree.directory
    spec.image_tree = os.path.basename(os.fsencode(image.tree()))
    spec.image_digest = image.digest.encode()
    spec.root_only = [spec.image_tree, *tree.file.layers]
    user = options.user if options.user is not None else str(image.config.get("User") or "")
    home = _set_user(spec, tree, user)
    spec.env[b"PATH"] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    spec.env[b"HOME"] = home
    if "TERM" in os.environ and options.tty:
        spec.env[b"TERM"] = os.environb[b"TERM"]
    for item in image.env:
        key, equals, value = item.partition("=")
        if key and equals:
            spec.env[os.fsencode(key)] = os.fsencode(value)
    for path, kind in ((b"/proc", PROC), (b"/sys", SYSFS), (b"/dev", DEV)):
        spec.mounts.append(MountSpec(path, kind))
    folder = image.config.get("WorkingDir")
    if isinstance(folder, str) and folder.startswith("/"):
        spec.cwd = os.fsencode(os.path.normpath(folder))
    for volume in image.volumes:
        spec.late_directories.append((os.fsencode(os.path.normpath(volume)), 0o755, 0, 0))
    spec.stop_signal = _stop_signal(image)
    if "Healthcheck" in image.config:
        from cloche.cli.health import health_of_image

        spec.health = health_of_image(image.config)
    _add_files(spec, tree, options.hostname.encode())
    if options.publish_all:
        options.publish.extend(f"127.0.0.1::{port}" for port in image.tcp_ports)
    return spec


def finish_image_spec(spec: SandboxSpec) -> None:
    """Called when `-w` is known: make the working directory if it is missing, as Docker does."""
    if spec.cwd != b"/":
        spec.late_directories.append((spec.cwd, 0o755, 0, 0))


def _stop_signal(image: Image) -> int:
    text = image.config.get("StopSignal")
    if not isinstance(text, str) or not text:
        return 15
    try:
        return parse_signal(text)
    except UsageError as error:
        raise ImageError(str(error)) from None


# -- files of the image that name users -------------------------------------------------------------------------------
def _rows(tree: OpenTree, path: bytes, count: int) -> list[list[bytes]]:
    data = tree.read(path, _PASSWD_BYTES) or b""
    rows = [line.split(b":") for line in data.split(b"\n")]
    return [row for row in rows if len(row) >= count and _is_id(row[2])]


def _is_id(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID


def _number(text: str, what: str) -> int:
    if int(text) > _MAX_ID:
        raise ImageError(f"{what} {text}: ids go up to {_MAX_ID}")
    return int(text)


def _set_user(spec: SandboxSpec, tree: OpenTree, text: str) -> bytes:
    """USER[:GROUP], names or numbers, by the image's passwd and group; the home.  Raises ImageError."""
    user, _colon, group = text.partition(":")
    people = _rows(tree, b"/etc/passwd", 6)
    groups = _rows(tree, b"/etc/group", 4)
    spec.uid = spec.gid = 0
    name = os.fsencode(user or "0")
    entry = next((row for row in people if row[0] == name), None)
    if entry is None and user and not is_digits(user, 10):
        raise ImageError(f"the image has no user {user}")
    if entry is None:
        spec.uid = _number(user or "0", "user")
        entry = next((row for row in people if int(row[2]) == spec.uid), None)
    if entry is not None:
        spec.uid = int(entry[2])
        spec.gid = int(entry[3]) if _is_id(entry[3]) else 0
        name = entry[0]
    spec.groups = [] if group else sorted({int(row[2]) for row in groups if name in row[3].split(b",")})
    if group:
        wanted = next((row for row in groups if row[0] == os.fsencode(group)), None)
        if wanted is None and not is_digits(group, 10):
            raise ImageError(f"the image has no group {group}")
        spec.gid = int(wanted[2]) if wanted is not None else _number(group, "group")
    # The primary group, too: otherwise a program could drop that group by setgroups (CVE-2022-36109).
    spec.groups = sorted({*spec.groups, spec.gid})
    home = entry[5] if entry is not None else b""
    return home if home.startswith(b"/") else b"/"


def _add_files(spec: SandboxSpec, tree: OpenTree, hostname: bytes) -> None:
    """Add hosts, hostname and resolv.conf, which each container has of its own."""
    etc = tree.file.resolve(b"/etc")
    if etc is not None and not stat.S_ISDIR(etc.mode):
        return
    if etc is None:
        spec.late_directories.append((b"/etc", 0o755, 0, 0))
    spec.files.append((b"/etc/hostname", hostname + b"\n", 0o644))
    spec.files.append((b"/etc/hosts", b"127.0.0.1\tlocalhost " + hostname + b"\n::1\tlocalhost\n", 0o644))
    spec.files.append((RESOLV_CONF, resolv_conf(spec), 0o644))
    for path, _content, _mode in spec.files:
        # A link to a file that a service would make: its directory must exist.
        row = tree.file.find(path)
        if row is not None and stat.S_ISLNK(row.mode):
            folder = os.path.dirname(os.path.normpath(os.path.join(b"/etc", row.target)))
            if folder != b"/":
                spec.late_directories.append((folder, 0o755, 0, 0))
