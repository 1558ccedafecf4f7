"""`cloche run`: run a command in a new sandbox and exit as it does."""

import os
import sys
from typing import Any, Final

from cloche.abi.fs import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from cloche.boot.launch import LaunchError
from cloche.boot.spawn import KeeperProcess, drop_keeper, spawn_keeper
from cloche.boot.spec import (
    COW,
    DEFAULT_CAPS,
    DEV,
    HOST,
    PLATFORMS,
    PROC,
    RO,
    RW,
    SYSFS,
    TMPFS,
    MountSpec,
    PublishSpec,
    SandboxSpec,
)
from cloche.boot.view import RESOLV_CONF, base_environment, default_view, host_user, resolv_conf
from cloche.cli.monitor import run_attached, run_detached
from cloche.cli.options import (
    MAX_SECONDS,
    UsageError,
    env_items,
    parse_capabilities,
    parse_size,
    parse_user,
    read_env_file,
)
from cloche.cli.terminal import EXIT_INTERNAL, printable_text, standard_streams
from cloche.wire import timing

PIDS_MAX: Final = 1 << 22  # PID_MAX_LIMIT of Linux
NOFILE_MAX: Final = 1 << 20
CPUS_MIN: Final = 0.01
CPUS_MAX: Final = 4096
# Flags that a tmpfs takes: the MS_* bits that each clears, and sets.
_TMPFS_FLAGS: Final = {
    "rw": (MS_RDONLY, 0), "ro": (0, MS_RDONLY), "exec": (MS_NOEXEC, 0), "noexec": (0, MS_NOEXEC),
    "suid": (MS_NOSUID, 0), "nosuid": (0, MS_NOSUID), "dev": (MS_NODEV, 0), "nodev": (0, MS_NODEV),
}  # fmt: skip


TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cloche.cli.plain import PlainParser
    from cloche.runtime.layers import KeptLayer
    from cloche.runtime.records import Record
    from cloche.runtime.volumes import Places


def add_arguments(parser: "argparse.ArgumentParser | PlainParser") -> None:
    """Declare the options of `cloche run`."""
    add = parser.add_argument
    add(
        "--rootfs",
        metavar="DIR",
        help="use this directory as the root instead of the host's system directories",
    )
    add(
        "--image",
        metavar="REF",
        help="use an image as the root: a name, or a path of an OCI layout or archive",
    )
    add(
        "--pull",
        default="missing",
        choices=["missing", "always", "never"],
        help="when to fetch the image from its registry",
    )
    add("--entrypoint", metavar="PROGRAM", help="with --image: run this instead of the image's entry point")
    add(
        "-P",
        "--publish-all",
        action="store_true",
        help="with --image: publish its ports on any of the host's",
    )
    add("-v", "--volume", action="append", default=[], metavar="SRC:DST[:ro|:rw|:cow][,suid][,sockets]",
        help="show a host directory or file (cow, the default, keeps writes private), or a volume")  # fmt: skip
    add("--tmpfs", action="append", default=[], metavar="DST[:OPTIONS]",
        help="an empty directory in memory, e.g. /scratch:size=64m,mode=700")  # fmt: skip
    add(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="K=V",
        help="set a variable (K alone: the host's value)",
    )
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, one K=V a line")
    add(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[HOSTIP:][HOSTPORT]:PORT",
        help="let the host (by default its loopback only) reach a TCP port of the sandbox; no HOSTPORT: any",
    )
    add(
        "--reachable",
        action="store_true",
        help="let programs of yours reach every TCP port through the sandbox's control socket (SDK: dial)",
    )
    add(
        "--allow",
        action="append",
        default=[],
        metavar="HOST[:PORTS][/udp]",
        help="let the sandbox connect to a host by its name (ports 80 and 443 by default), or to CIDR:PORTS",
    )
    add(
        "--deny",
        action="append",
        default=[],
        metavar="HOST[:PORTS]",
        help="what no --allow grants, names or CIDR",
    )
    add(
        "--net",
        action="append",
        default=[],
        metavar="FILE",
        help="rules from a file (TOML), or a preset: pypi, npm, debian, github",
    )
    add(
        "--dns",
        action="append",
        default=[],
        metavar="ADDRESS[:PORT]",
        help="ask this resolver about granted names, not the host's",
    )
    add("--net-log", metavar="FILE", help="append what was decided to FILE, a JSON line each")
    add(
        "--net-without-limits",
        action="store_true",
        help="no rules: let it connect to all that this host can connect to, private networks as well",
    )
    add("--net-report", action="store_true", help="say at the end what was connected to and refused")
    add("-w", "--workdir", metavar="DIR", help="directory to start in")
    add("-u", "--user", metavar="UID[:GID]", help="user and group inside")
    add("-i", "--interactive", action="store_true", help="pass standard input on even if it is a terminal")
    add("-t", "--tty", action="store_true", help="give the command a terminal of its own")
    add("-d", "--detach", action="store_true", help="leave it running, and print its name")
    add("--name", metavar="NAME", help="a name for cloche exec, ps, kill, logs and the like")
    add("--keep", action="store_true", help="with --name: keep what it writes on disk, for --from")
    add("--from", dest="origin", metavar="NAME", help="begin with what the kept sandbox NAME has written")
    add("--disk", metavar="SIZE", help="with --keep, --from or -d: limit of what it writes, e.g. 10g")
    add("--rm", action="store_true", help="with -d: keep no record and no output once it has ended")
    add("--log-size", default="16m", metavar="SIZE", help="with -d: how much of the latest output is kept")
    add("--hostname", default="cloche", help="host name inside")
    add(
        "--init",
        action="store_true",
        default=True,
        help="pid 1 is an init of the sandbox's own, which reaps orphans (the default)",
    )
    add("--no-init", dest="init", action="store_false", help="pid 1 is the command itself")
    add(
        "--allow-suid",
        action="store_true",
        help="let set-user-ID programs and file capabilities have their effect",
    )
    for option, text in (("--cap-add", "give root inside a capability"), ("--cap-drop", "take one away")):
        add(
            option,
            action="append",
            default=[],
            metavar="CAP",
            help=f"{text}, by name with or without CAP_; ALL",
        )
    add(
        "--privileged-inside",
        action="store_true",
        help="root inside may do all that this kernel knows: --cap-add ALL",
    )
    add("--memory", metavar="SIZE", help="limit of memory, e.g. 512m")
    add("--cpus", type=float, metavar="N", help="limit of processors, e.g. 0.5")
    add("--nofile", type=int, metavar="N", help="limit of open files of each process")
    add("--health-cmd", metavar="COMMAND", help="with a name: ask by this whether all is well (cloche list)")
    for option, text in (
        ("interval", "time between two checks"),
        ("timeout", "how long one may take"),
        ("start-period", "in which none counts that fails"),
        ("start-interval", "time between two checks in the start period"),
    ):
        add(f"--health-{option}", metavar="TIME", help=f"of health checks: {text}, e.g. 30s")
    add("--health-retries", type=int, metavar="N", help="so many checks have to fail in a row")
    add("--no-healthcheck", action="store_true", help="none, whatever the image says")
    add("--pids", type=int, metavar="N", help="limit of processes and threads")
    add("--timeout", type=float, metavar="SECONDS", help="end the command after this time; exit status 124")
    add("--read-only", action="store_true", help="no writes at all but to /tmp, /dev and volumes")
    add("--platform", default=PLATFORMS[0], choices=PLATFORMS, help="how guest code runs")
    add("--mm", default="direct", choices=["direct", "strict"], help="who checks changes of private memory")
    add(
        "--no-patch",
        dest="patch",
        action="store_false",
        help="leave programs' text as it is: slower system calls",
    )
    add(
        "--strace",
        nargs="?",
        const="-",
        metavar="FILE",
        help="log every system call, to standard error or FILE",
    )
    add(
        "--log-level",
        default="warning",
        choices=["debug", "info", "warning", "error"],
        help="what cloche itself says",
    )
    add(
        "--template",
        action="store_true",
        help="fork the sandbox from a process that stays for a while: quicker",
    )
    add("--timing", action="store_true", help="say when each step of the start was done, at the end")
    add("command", nargs="...", metavar="-- COMMAND [ARG …]", help="what to run")


def prepare_words(parser: "argparse.ArgumentParser", words: list[str]) -> list[str]:
    """A lone `--strace` takes no argument: the next word is another option or the command."""
    takes_value = {
        name
        for action in parser._actions  # argparse has no public way to list options
        if action.nargs is None and action.const is None
        for name in action.option_strings
    }
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        if words[at] == "--strace":
            return [*words[:at], "--strace=-", *prepare_words(parser, words[at + 1 :])]
        at += 2 if words[at] in takes_value else 1
    return words


def parse_volume(text: str) -> MountSpec:
    """SRC:DST[:MODE[,OPTION]…], NAME:DST[:MODE[,OPTION]…] or tmpfs:DST[:OPTIONS].  Raises UsageError."""
    parts = text.split(":")
    if parts[0] == "tmpfs" and len(parts) in (2, 3):
        return parse_tmpfs(":".join(parts[1:]), "-v")
    is_named = bool(parts[0]) and "/" not in parts[0] and parts[0] not in (".", "..")
    mode, options = RW if is_named else COW, [""]
    if len(parts) == 3:
        mode, *options = parts.pop().split(",")
        allowed = {RW: {"suid", "sockets"}, RO: {"sockets"}, COW: set[str]()}.get(mode)
        if allowed is None or not allowed.issuperset(options):
            parts = []
    if len(parts) != 2 or not parts[0] or not parts[1].startswith("/"):
        raise UsageError(
            f"-v {text}: write SRC:DST[:ro|:rw|:cow] with an absolute DST; suid and sockets may follow rw, sockets ro"
        )
    places = None
    if is_named:
        source, places = _named_volume(text, parts[0], is_writable=mode == RW)
    else:
        source = os.path.abspath(parts[0])
    if not os.path.exists(source):
        raise UsageError(f"-v {text}: {parts[0]} does not exist on the host")
    mount = MountSpec(_destination(f"-v {text}", parts[1]), HOST, source, mode)
    mount.is_shared = mode != COW
    mount.keeps_suid = "suid" in options
    mount.shows_sockets = "sockets" in options
    mount.is_file = not os.path.isdir(source)
    mount.has_doors = mode == RW and not mount.is_file
    mount.is_volume = mount.has_worker = True
    if places is not None:
        _use_accounts(mount, places)
    return mount


def _use_accounts(mount: MountSpec, places: "Places") -> None:
    """The accounts of a volume that is mounted."""
    mount.account_source, mount.inodes_source, mount.account_slot = places.sizes, places.inodes, places.slot


def _destination(option: str, text: str) -> bytes:
    destination = os.path.normpath(text)
    if destination == "/":
        raise UsageError(f"{option}: the root cannot be a volume; use --rootfs")
    return os.fsencode(destination)


def _named_volume(text: str, name: str, *, is_writable: bool) -> "tuple[str, Places]":
    """The directory of a named volume, which is made if it does not exist, and its accounts, if it has limits.

    Raises UsageError.
    """
    from cloche.runtime import volumes
    from cloche.runtime.records import RecordError

    try:
        if os.path.exists(name) and not volumes.exists(name):
            raise UsageError(
                f"-v {text}: {name} is here, and is no volume yet; write ./{name} for it, "
                f"or cloche volume create {name}"
            )
        return volumes.use(name), volumes.use_account(name) if is_writable else volumes.Places()
    except RecordError as refusal:
        raise UsageError(f"-v {text}: {refusal}") from None
    except OSError as problem:
        raise UsageError(f"-v {text}: {problem.strerror or problem}") from None


def parse_tmpfs(text: str, option: str = "--tmpfs") -> MountSpec:
    """DST[:OPTIONS], options as of mount(8) for a tmpfs.  Raises UsageError."""
    from cloche.abi.errno import LinuxError
    from cloche.fs.tmpfs_options import parse_options

    path, _colon, data = text.partition(":")
    if not path.startswith("/"):
        raise UsageError(f"{option} {text}: write DST[:OPTIONS] with an absolute DST, e.g. /scratch:size=64m")
    mount = MountSpec(_destination(f"{option} {text}", path), TMPFS, "tmpfs")
    flags = MS_NOSUID | MS_NODEV
    rest: list[str] = []
    for each in data.split(",") if data else []:
        if each in _TMPFS_FLAGS:
            flags = flags & ~_TMPFS_FLAGS[each][0] | _TMPFS_FLAGS[each][1]
        else:
            rest.append(each)
    mount.data = os.fsencode(",".join(["mode=1777", *rest]))
    try:
        parse_options(mount.data, 1 << 40)
    except LinuxError:
        raise UsageError(
            f"{option} {text}: a tmpfs has no such options; size= mode= uid= gid= nr_inodes="
        ) from None
    mount.flags = flags
    mount.is_volume = True
    return mount


def parse_publish(text: str) -> PublishSpec:
    """[HOSTIP:][HOSTPORT]:PORT[/tcp], an IPv6 address in brackets.  Raises UsageError."""
    import ipaddress
    import re

    body, slash, protocol = text.partition("/")
    if slash and protocol != "tcp":
        raise UsageError(f"-p {text}: only TCP ports can be published; write [HOSTIP:]HOSTPORT:PORT[/tcp]")
    match = re.fullmatch(r"(?:(\[[^]]*\]|[^:[\]]*):)?(\d{0,9}):(\d{1,9})", body, re.ASCII)
    if match is None:
        raise UsageError(f"-p {text}: write [HOSTIP:]HOSTPORT:PORT[/tcp], e.g. 8080:80 or 127.0.0.1::80")
    host_port, port = int(match[2] or "0"), int(match[3])
    if not 1 <= port <= 65535 or host_port > 65535:
        raise UsageError(f"-p {text}: ports are numbers from 1 to 65535")
    given = match[1] or "127.0.0.1"
    try:
        address = ipaddress.ip_address("127.0.0.1" if given == "localhost" else given.strip("[]"))
    except ValueError:
        raise UsageError(f"-p {text}: {given} is not a numeric address of the host") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise UsageError(f"-p {text}: an address with a zone cannot be published")
    return PublishSpec(text, str(address), host_port, port)


def announce(published: list[PublishSpec], level: str) -> None:
    """Print the published ports: those that the host chose always, the others with --log-level info."""
    for spec in published:
        if level in ("info", "debug") or (spec.is_any_port and level != "error"):
            host = f"[{spec.host_ip}]" if ":" in spec.host_ip else spec.host_ip
            print(f"cloche: {host}:{spec.host_port} leads to port {spec.port}", file=sys.stderr)


def is_host_name(text: str) -> bool:
    """Letters, digits, dots and hyphens, neither of these at an end, at most 64."""
    plain = text.replace(".", "").replace("-", "")
    return (
        plain.isascii()
        and plain.isalnum()
        and len(text) <= 64
        and not text.startswith((".", "-"))
        and not text.endswith((".", "-"))
    )


def _apply_env(spec: SandboxSpec, items: list[str]) -> None:
    for item in env_items(items):
        key, _equals, value = item.partition(b"=")
        spec.env[key] = value


def make_spec(options: Any, base: SandboxSpec | None = None) -> tuple[SandboxSpec, str]:
    """The sandbox that the options ask for, and a warning or an empty string. With `base` it shows what that one did
    (`layered.begin_as` has set the options).  Raises UsageError.
    """
    command = list(options.command)
    if command and command[0] == "--":
        command.pop(0)
    if not command and not options.image:
        raise UsageError("no command; write cloche run [options] -- COMMAND [ARG …]")
    if options.image:
        if options.rootfs:
            raise UsageError("--image and --rootfs: there is one root")
        from cloche.cli.imagerun import make_image_spec

        spec = make_image_spec(options, command)
    else:
        if options.entrypoint is not None or options.publish_all:
            raise UsageError("--entrypoint and -P need --image")
        spec = SandboxSpec([os.fsencode(word) for word in command])
        spec.uid, spec.gid = os.geteuid(), os.getegid()
        spec.groups = sorted(set(os.getgroups()))
        if options.user:
            spec.uid, spec.gid = parse_user(options.user)
            spec.groups = []
    if not is_host_name(options.hostname):
        raise UsageError(f"--hostname {options.hostname}: letters, digits, dots and hyphens, at most 64")
    spec.hostname = options.hostname.encode()
    warning = ""
    if not options.image:
        name, home = host_user(spec.uid)
        base_environment(spec, name, home)
    if options.image:
        pass
    elif options.rootfs:
        root = os.path.abspath(options.rootfs)
        if not os.path.isdir(root):
            raise UsageError(f"--rootfs {options.rootfs}: not a directory")
        spec.root_source = root
        spec.env[b"HOME"] = b"/root" if spec.uid == 0 else b"/"
        has_bash = os.path.lexists(os.path.join(root, "bin/bash"))
        spec.env[b"SHELL"] = b"/bin/bash" if has_bash else b"/bin/sh"
        for path, kind in ((b"/proc", PROC), (b"/sys", SYSFS), (b"/dev", DEV)):
            spec.mounts.append(MountSpec(path, kind))
    elif base is not None:
        spec.cwd = home
    else:
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            raise UsageError("the current directory does not exist any more; cd somewhere else") from None
        warning = default_view(spec, cwd, home, name)
    if base is not None:
        _show_again(spec, base)
    for text in options.volume:
        spec.mounts.append(parse_volume(text))
    for text in options.tmpfs:
        spec.mounts.append(parse_tmpfs(text))
    _apply_network(spec, options)
    spec.published = [parse_publish(text) for text in options.publish]
    spec.is_reachable = options.reachable
    for name_of_file in options.env_file:
        _apply_env(spec, read_env_file(name_of_file))
    _apply_env(spec, options.env)
    if options.workdir:
        if not options.workdir.startswith("/"):
            raise UsageError(f"-w {options.workdir}: write an absolute path")
        spec.cwd = os.fsencode(os.path.normpath(options.workdir))
        warning = ""
    if options.image:
        from cloche.cli.imagerun import finish_image_spec

        finish_image_spec(spec)
    _apply_health(spec, options)
    if options.memory:
        spec.memory_bytes = parse_size(options.memory, "--memory")
    if options.pids is not None:
        if not 1 <= options.pids <= PIDS_MAX:
            raise UsageError(f"--pids: from 1 to {PIDS_MAX}")
        spec.max_tasks = options.pids
    if options.timeout is not None:
        if not 0 < options.timeout <= MAX_SECONDS:
            raise UsageError(f"--timeout: more than 0 seconds, and at most {MAX_SECONDS:.0f}")
        spec.timeout_s = options.timeout
    added = [*options.cap_add, *(["ALL"] if options.privileged_inside else [])]
    spec.capabilities = parse_capabilities(added, options.cap_drop, DEFAULT_CAPS)
    spec.is_read_only = options.read_only
    spec.has_init = options.init
    spec.allows_suid = options.allow_suid
    spec.is_patching = options.patch
    spec.platform, spec.mm_mode, spec.log_level = options.platform, options.mm, options.log_level
    spec.is_timed = options.timing
    spec.has_terminal = options.tty
    spec.is_interactive = options.interactive
    if options.cpus is not None:
        if not CPUS_MIN <= options.cpus <= CPUS_MAX:
            raise UsageError(f"--cpus: from {CPUS_MIN} to {CPUS_MAX}")
        spec.cpus = options.cpus
    spec.is_attached = not options.detach
    options.log_bytes = parse_size(options.log_size, "--log-size")
    if options.nofile is not None:
        if not 3 <= options.nofile <= NOFILE_MAX:
            raise UsageError(f"--nofile: from 3 to {NOFILE_MAX}")
        spec.nofile_limit = options.nofile
    if options.strace == "-":
        spec.strace_fd = 2
    elif options.strace:
        try:
            spec.strace_fd = os.open(
                options.strace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise UsageError(f"--strace {options.strace}: {error.strerror}") from None
    if spec.has_terminal and spec.is_attached and not (os.isatty(0) and os.isatty(1)):
        raise UsageError("-t: standard input and output are not a terminal; leave -t out or run in one")
    return spec, warning


def _show_again(spec: SandboxSpec, base: SandboxSpec) -> None:
    """Show what `base` did, whose root the spec has already.  The resolver's address depends on the network.

    Raises UsageError.
    """
    from cloche.runtime import volumes

    is_view = not base.root_source
    for mount in base.mounts:
        name = volumes.name_of(mount.source) if mount.is_volume else ""
        if name:  # it is in use from now on, and has an account where it has a size
            mount.source, places = _named_volume(name, name, is_writable=mount.mode == RW)
            _use_accounts(mount, places)
    spec.mounts += [mount for mount in base.mounts if is_view or mount.is_volume]
    if is_view:
        spec.symlinks, spec.directories = base.symlinks, base.directories
        spec.late_directories = base.late_directories
        if spec.cwd not in [row[0] for row in [*spec.directories, *spec.late_directories]]:
            spec.late_directories.append((spec.cwd, 0o750, spec.uid, spec.gid))  # another user's home
        spec.files = [row for row in base.files if row[0] != RESOLV_CONF]
        spec.files.append((RESOLV_CONF, resolv_conf(spec), 0o644))
    spec.groups = base.groups if (spec.uid, spec.gid) == (base.uid, base.gid) else spec.groups


def _apply_health(spec: SandboxSpec, options: Any) -> None:
    """--health-cmd and its kin, over what the image says (which `imagerun` has set).  Raises UsageError."""
    names = ("cmd", "interval", "timeout", "start_period", "start_interval", "retries")
    if options.no_healthcheck or any(getattr(options, f"health_{name}") is not None for name in names):
        from cloche.cli.health import make_health

        if options.health_cmd and options.name is None and not options.detach:
            raise UsageError(
                "--health-cmd: say --name NAME or -d, too; what comes of it stands in the record"
            )
        spec.health = make_health(options, spec.health)


def _apply_network(spec: SandboxSpec, options: Any) -> None:
    """--allow and its kin.  Raises UsageError."""
    has_rules = options.allow or options.deny or options.net or getattr(options, "net_document", None)
    if not has_rules and not options.net_without_limits:
        if options.dns or options.net_log or options.net_report:
            raise UsageError("--dns, --net-log and --net-report need --allow or --net")
        return
    from cloche.cli.network import network

    network(spec, options)


def run(options: Any) -> int:
    """The verb.  The exit status."""
    timing.mark("command: options are read")
    streams = standard_streams(is_interactive=options.interactive, has_terminal=options.tty)
    # Started now, so that it gets ready meanwhile. A detached sandbox has another process as its monitor, which
    # starts its own.
    keeper = None if options.detach else take_keeper(options)
    drop_keeper()
    try:
        spec, warning = make_spec(options)
        timing.mark("command: view is made")
        layer = None
        record = None
        if options.name is not None or options.detach or options.keep or options.origin or options.disk:
            from cloche.cli.layered import take_layer
            from cloche.runtime.records import RecordError

            try:
                if options.name is not None or options.detach:
                    record = make_record(options, spec)
                layer = take_layer(options, spec, record)
            except (UsageError, RecordError, OSError) as problem:
                if record is not None:
                    record.discard()
                if isinstance(problem, OSError):
                    raise UsageError(f"no layer can be kept: {problem.strerror}") from None
                raise UsageError(str(problem)) from None
    except UsageError as error:
        print(f"cloche run: {printable_text(str(error))}", file=sys.stderr)
        return EXIT_INTERNAL
    if warning and spec.log_level != "error":
        print(f"cloche: {warning}", file=sys.stderr)
    if options.detach and record is not None:
        status, text = run_detached(spec, record, options.log_bytes, layer)
        if status >= 0:
            _drop(layer)
            print(f"cloche: {printable_text(text)}", file=sys.stderr)
            return status
        announce(spec.published, spec.log_level)
        print(record.state.name)
        return 0
    try:
        monitor, sandbox = run_attached(spec, streams, record, keeper, layer)
    except (LaunchError, OSError) as failure:
        _drop(layer)
        text = (failure.strerror or "") if isinstance(failure, OSError) else ""
        print(f"cloche: {printable_text(text or str(failure))}", file=sys.stderr)
        return failure.status if isinstance(failure, LaunchError) else EXIT_INTERNAL
    announce(spec.published, spec.log_level)
    try:
        status = monitor.supervise(sandbox)
    finally:
        if layer is not None and layer.is_temporary:
            _drop(layer)
    if options.timing:
        timing.mark("command: all is gone")
        print(timing.table(timing.marks()[0][1]), file=sys.stderr)
    return status


def _drop(layer: "KeptLayer | None") -> None:
    if layer is not None:
        from cloche.cli.layered import drop_layer

        drop_layer(layer)


def take_keeper(options: Any) -> KeeperProcess:
    """Get a keeper: one that the launcher has started, a fork of the template if that is wanted, or a new one."""
    if options.template or os.environ.get("CLOCHE_TEMPLATE") == "1":
        from cloche.cli.lent import borrow_keeper

        keeper = borrow_keeper()
        if keeper is not None:
            timing.mark("command: keeper is borrowed")
            return keeper
    return spawn_keeper()


def make_record(options: Any, spec: SandboxSpec) -> "Record":
    """The record of a sandbox with a name.  Raises RecordError."""
    from cloche.runtime.records import State, Store, new_name

    state = State(options.name if options.name is not None else new_name())
    state.pid = os.getpid()
    state.command = [os.fsdecode(word) for word in spec.argv]
    state.is_detached = options.detach
    state.is_temporary = options.rm or not options.detach
    return Store(options.root).create(state)
