"""The default view of `cloche run`: what of the host an untrusted program sees (and nothing else).

System directories are visible below a private layer, /etc only by the names listed here, the current directory at its
own path, with writes kept private. $HOME and /tmp are empty directories of the sandbox's own; /var, /run and /srv
have some of the host's directories (`gofer/skeleton.py`), all empty but for what packages made of /usr.
"""

import os
import pwd
from typing import Final

from cloche.boot.spec import COW, DEV, HOST, PROC, SYSFS, TMPFS, MountSpec, SandboxSpec

SYSTEM_DIRECTORIES: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "opt")

# Configuration that programs need to run.  No keys, no password hashes, no names of the host or its networks; of these,
# too, only what every user of the host may read.  Package managers' settings (npmrc, pip.conf) may hold tokens.
ETC_NAMES: Final = (
    "adduser.conf deluser.conf "
    "alternatives bash.bashrc bash_completion.d bindresvport.blacklist ca-certificates ca-certificates.conf "
    "chromium chromium.d crypto-policies debconf.conf debian_version default dpkg emacs environment ethertypes "
    "fonts gai.conf groff gtk-2.0 gtk-3.0 host.conf ImageMagick-6 ImageMagick-7 inputrc issue issue.net java "
    "java-11-openjdk java-17-openjdk java-21-openjdk ld.so.cache ld.so.conf ld.so.conf.d libnl-3 lsb-release "
    "locale.alias locale.conf locale.gen localtime logcheck login.defs lynx magic magic.mime mailcap "
    "mailcap.order manpath.config maven mime.types mke2fs.conf nanorc netconfig node "
    "nsswitch.conf openal openmpi opt os-release pam.conf papersize perl php profile profile.d protocols "
    "pulse python python2.7 python3 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14 "
    "pki rc.local rpc R ruby screenrc security sgml shells skel services sqlite ssl "
    "sysctl.conf sysctl.d system-release terminfo timezone tmux.conf ucf.conf update-motd.d vim vimrc vulkan "
    "X11 xattr.conf xdg xml zsh zsh_command_not_found bash_completion postgresql-common sensors3.conf "
    "valgrind gdb opensc GNUmakefile selinux"
).split()

# Environment variables of the host that programs get without an option.
ENV_ALLOWED: Final = ("TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ", "NO_COLOR", "COLUMNS", "LINES")
DEFAULT_PATH: Final = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

RESOLV_CONF: Final = b"/etc/resolv.conf"
# Where services keep files: only directories of the host are visible there. Those listed here are always there.
_SKELETONS: Final = ("var", "run", "srv")
_SERVICE_DIRECTORIES: Final = (
    ("/var/lib", 0o755),
    ("/var/cache", 0o755),
    ("/var/log", 0o755),
    ("/var/spool", 0o755),
    ("/var/tmp", 0o1777),
    ("/var/mail", 0o2775),
    ("/var/opt", 0o755),
    ("/var/local", 0o2775),
    ("/run/lock", 0o1777),
)
_DIRECTORIES: Final = (
    ("/var", 0o755),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/tmp", 0o1777),
    ("/home", 0o755),
    ("/root", 0o700),
    ("/mnt", 0o755),
    ("/media", 0o755),
    ("/boot", 0o755),
    ("/proc", 0o555),
    ("/sys", 0o555),
    ("/dev", 0o755),
)


def host_user(uid: int) -> tuple[bytes, bytes]:
    """Name and home directory of a user, made up where the host does not know it."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return b"user", b"/home/user"
    home = entry.pw_dir
    if (
        not home.startswith("/")
        or home in ("/", "/nonexistent")
        or home.startswith(("/usr", "/proc", "/dev", "/sys"))
    ):
        home = "/root" if uid == 0 else "/home/" + entry.pw_name
    return os.fsencode(entry.pw_name), os.fsencode(os.path.normpath(home))


def base_environment(spec: SandboxSpec, name: bytes, home: bytes) -> None:
    """Set PATH, HOME, USER …, and the variables of the host that ENV_ALLOWED names."""
    spec.env[b"PATH"] = DEFAULT_PATH
    spec.env[b"HOME"] = home
    spec.env[b"USER"] = name
    spec.env[b"LOGNAME"] = name
    spec.env[b"SHELL"] = b"/bin/bash" if os.path.exists("/bin/bash") else b"/bin/sh"
    for variable, value in os.environb.items():
        if variable.decode(errors="replace") in ENV_ALLOWED or variable.startswith(b"LC_"):
            spec.env[variable] = value


def is_below(path: str, top: str) -> bool:
    """Whether `path` is `top` or lies below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def default_view(spec: SandboxSpec, cwd: str, home: bytes, name: bytes) -> str:
    """Fill `spec` with the default mounts for a user whose current directory is `cwd`. Returns a warning, or an empty
    string.
    """
    for entry in SYSTEM_DIRECTORIES:
        path = "/" + entry
        if os.path.islink(path):
            spec.symlinks.append((path.encode(), os.fsencode(os.readlink(path))))
        elif os.path.isdir(path):
            spec.directories.append((path.encode(), 0o755, 0, 0))
            system = MountSpec(path.encode(), HOST, path, COW)
            # software that was installed by hand may keep secrets there
            system.is_public_only = entry == "opt"
            spec.mounts.append(system)
    spec.directories.append((b"/etc", 0o755, 0, 0))
    etc = MountSpec(b"/etc", HOST, "/etc", COW)
    etc.only = [entry.encode() for entry in ETC_NAMES]
    etc.is_public_only = True
    spec.mounts.append(etc)
    for path, mode in _DIRECTORIES:
        spec.directories.append((path.encode(), mode, 0, 0))
    _add_skeletons(spec, name)
    if home != b"/root" or spec.uid != 0:
        is_late = home.startswith((b"/var/", b"/run/", b"/srv/"))
        directories = spec.late_directories if is_late else spec.directories
        directories.append((home, 0o750, spec.uid, spec.gid))
    spec.mounts.append(MountSpec(b"/proc", PROC))
    spec.mounts.append(MountSpec(b"/sys", SYSFS))
    spec.mounts.append(MountSpec(b"/dev", DEV))
    tmp = MountSpec(b"/tmp", TMPFS)
    tmp.permissions = 0o1777
    spec.mounts.append(tmp)
    add_etc_files(spec, name, home)
    return _add_working_directory(spec, cwd, home)


def _add_skeletons(spec: SandboxSpec, name: bytes) -> None:
    """Add /var, /run and /srv with directories of the host, and directories that programs expect even if the host has
    none.
    """
    people = [name, *_people()]
    for top in _SKELETONS:
        path = "/" + top
        if os.path.isdir(path) and not os.path.islink(path):
            mount = MountSpec(path.encode(), HOST, path, COW)
            mount.skeleton = top
            mount.people = people
            spec.mounts.append(mount)
    for path, mode in _SERVICE_DIRECTORIES:
        if not os.path.isdir(path) or os.path.islink(path):
            spec.late_directories.append((path.encode(), mode, 0, 0))
    spec.symlinks.append((b"/var/run", b"/run"))
    spec.symlinks.append((b"/var/lock", b"/run/lock"))


def _people() -> list[bytes]:
    """The names of the accounts of persons (not of services) in the host's passwd."""
    found: list[bytes] = []
    try:
        with open("/etc/passwd", "rb") as file:
            for line in file:
                fields = line.split(b":")
                if len(fields) == 7 and fields[2].isdigit() and not _is_system_account(int(fields[2])):
                    found.append(fields[0])
    except OSError:
        pass
    return found


def _add_working_directory(spec: SandboxSpec, cwd: str, home: bytes) -> str:
    spec.cwd = os.fsencode(cwd)
    real_home = os.path.expanduser("~")
    visible = any(
        mount.kind == HOST and mount.only is None and not mount.skeleton and is_below(cwd, mount.source)
        for mount in spec.mounts
    )
    if visible:
        return ""
    if cwd == "/" or is_below(cwd, "/proc") or is_below(cwd, "/sys") or is_below(cwd, "/dev"):
        spec.cwd = b"/"
        return ""
    if is_below(cwd, "/etc") or is_below(cwd, "/run") or is_below(cwd, "/var/run"):
        spec.cwd = b"/"
        return f"{cwd} is not shown to the sandbox; the command starts in /"
    is_home = is_below(real_home, cwd) or is_below(os.fsdecode(home), cwd)
    if is_home or cwd in ("/home", "/root", "/var", "/tmp", "/srv"):
        spec.cwd = home if cwd != "/tmp" else b"/tmp"
        return (
            f"{cwd} holds more than a project (a home, or all temporary files) and is not shown to the sandbox; "
            f"the command starts in an empty {os.fsdecode(spec.cwd)} (use -v to show a directory)"
        )
    mount = MountSpec(os.fsencode(cwd), HOST, cwd, COW)
    mount.has_worker = True
    spec.mounts.append(mount)
    return ""


def add_etc_files(spec: SandboxSpec, name: bytes, home: bytes) -> None:
    """Add passwd, group, hosts, hostname and resolv.conf, made for the sandbox: with system accounts and the user,
    and no others.
    """
    spec.files.append((b"/etc/passwd", _passwd(spec, name, home), 0o644))
    spec.files.append((b"/etc/group", _group(spec, name), 0o644))
    spec.files.append((b"/etc/hostname", spec.hostname + b"\n", 0o644))
    hosts = (
        b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t"
        + spec.hostname
        + b"\n"
    )
    spec.files.append((b"/etc/hosts", hosts, 0o644))
    spec.files.append((RESOLV_CONF, resolv_conf(spec), 0o644))
    spec.symlinks.append((b"/etc/mtab", b"../proc/self/mounts"))


def resolv_conf(spec: SandboxSpec) -> bytes:
    """resolv.conf(5): egress answers, if there is a way out."""
    if not spec.net_resolver:
        return b"# no network beyond loopback\n"
    return b"nameserver " + b".".join([b"%d" % each for each in spec.net_resolver]) + b"\n"


def _is_system_account(ident: int) -> bool:
    return ident < 1000 or ident == 65534


def _passwd(spec: SandboxSpec, name: bytes, home: bytes) -> bytes:
    lines: list[bytes] = []
    has_user = False
    try:
        with open("/etc/passwd", "rb") as file:
            for line in file:
                fields = line.rstrip(b"\n").split(b":")
                if len(fields) != 7 or not fields[2].isdigit():
                    continue
                if int(fields[2]) == spec.uid:
                    has_user = True
                    fields[5] = home
                elif not _is_system_account(int(fields[2])):
                    continue
                fields[4] = fields[4] if _is_system_account(int(fields[2])) else b""
                lines.append(b":".join(fields))
    except OSError:
        lines = [
            b"root:x:0:0:root:/root:/bin/sh",
            b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
        ]
    if not has_user and spec.uid not in (0, 65534):
        lines.append(b"%s:x:%d:%d::%s:/bin/sh" % (name, spec.uid, spec.gid, home))
    return b"\n".join(lines) + b"\n"


def _group(spec: SandboxSpec, name: bytes) -> bytes:
    lines: list[bytes] = []
    wanted = {spec.gid, *spec.groups}
    has_gid = False
    try:
        with open("/etc/group", "rb") as file:
            for line in file:
                fields = line.rstrip(b"\n").split(b":")
                if len(fields) != 4 or not fields[2].isdigit():
                    continue
                gid = int(fields[2])
                if gid in wanted or _is_system_account(gid):
                    has_gid = has_gid or gid == spec.gid
                    fields[3] = b",".join(m for m in fields[3].split(b",") if m == name)
                    lines.append(b":".join(fields))
    except OSError:
        lines = [b"root:x:0:", b"nogroup:x:65534:"]
    if not has_gid:
        lines.append(b"%s:x:%d:" % (name, spec.gid))
    return b"\n".join(lines) + b"\n"
