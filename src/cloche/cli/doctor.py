"""`cloche doctor`: check the host, say what is in force, what is weaker and why, and how to mend it."""

import argparse
import os
import platform as host_platform
import sys

from cloche.arch.machine import MACHINE
from cloche.boot import confine
from cloche.boot.launch import LaunchError, launch
from cloche.boot.spec import SandboxSpec
from cloche.boot.view import base_environment, default_view, host_user
from cloche.platform.choose import findings
from cloche.runtime.cgroups import Limits, create


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche doctor`."""
    parser.add_argument(
        "--engine",
        choices=("docker", "containerd", "podman", "crio"),
        help="check that this engine knows cloche's runtime, and run a container with it where it can",
    )
    parser.add_argument("--config", metavar="FILE", help="with --engine: its configuration")
    parser.add_argument(
        "--name", default="cloche", help="with --engine: what it calls the runtime (%(default)s)"
    )


def _requirements() -> list[tuple[str, bool, str, str]]:
    """(what, holds, detail, remedy) of everything without which nothing works."""
    release = host_platform.release()
    numbers = [
        int("".join(c for c in part if c.isdigit()) or 0) for part in release.split("-")[0].split(".")[:2]
    ]
    is_new = tuple(numbers) >= (5, 14)
    machine = host_platform.machine()
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        pass
    return [
        (
            f"{MACHINE.decode()} processor",
            machine == MACHINE.decode(),
            machine,
            "cloche runs on no other so far",
        ),
        ("Linux 5.14 or newer", is_new, release, "update the host's kernel"),
        (
            "fsgsbase",
            " fsgsbase" in flags,
            "",
            "a processor of 2013 or newer, and a hypervisor that passes it on",
        ),
    ]


def _kvm() -> None:
    """Report on --platform kvm, a line for each thing that it lacks. Nothing else needs these."""
    print("For --platform kvm (the default platform, systrap, needs none of it):")
    plain: list[str] = []
    for what, is_there, detail, remedy in findings("kvm"):
        if is_there and not detail:
            plain.append(what)
        else:
            _line(what, is_there, detail, remedy)
    if plain:
        _line(", ".join(plain), True, "", "")


def _trial() -> tuple[bool, str]:
    """Run /bin/true in a sandbox."""
    spec = SandboxSpec([b"/bin/true"])
    spec.uid, spec.gid = os.geteuid(), os.getegid()
    name, home = host_user(spec.uid)
    base_environment(spec, name, home)
    default_view(spec, "/", home, name)
    spec.cwd = b"/"
    try:
        sandbox = launch(spec, [0, 1, 2])
    except LaunchError as error:
        return False, str(error)
    while sandbox.serve(20.0):
        pass
    if sandbox.status < 0 and not sandbox.failure:
        sandbox.kill()
    sandbox.reap()
    if sandbox.failure:
        return False, sandbox.failure
    return sandbox.status == 0, "" if sandbox.status == 0 else f"wait status {sandbox.status}"


def _trial_remedy(detail: str) -> str:
    """The advice for a trial that failed."""
    if "seccomp listener" in detail:
        return "run cloche outside of that sandbox or container"
    if "process_vm_readv" in detail:
        return "sysctl kernel.yama.ptrace_scope=1, or a seccomp profile that allows process_vm_readv"
    return "the cause is in parentheses; `cloche run --log-level debug -- true` says more"


def run(options: argparse.Namespace) -> int:
    """Print the report; 0 if cloche can run here."""
    if options.engine:
        from cloche.cli.engine_doctor import check

        print(f"{options.engine.capitalize()}:")
        works = check(options.engine, options.config, options.name, _line)
        print(f"{options.engine} can use cloche." if works else f"{options.engine} cannot use cloche yet.")
        return 0 if works else 1
    can_run = True
    print("Needed:")
    for what, holds, detail, remedy in _requirements():
        _line(what, holds, detail, remedy)
        can_run = can_run and holds
    print("Confinement of the sentry (each weakens or strengthens the second line of defence):")
    for measure in confine.probe().measures:
        _line(measure.name, measure.is_in_force, measure.reason, measure.remedy)
    print("Trial:")
    if can_run:
        sys.stdout.flush()
        works, detail = _trial()
        _line("cloche run /bin/true", works, detail, _trial_remedy(detail))
        can_run = works
    _kvm()
    groups = create(Limits(1 << 40, 4096.0, 1 << 20))
    if groups is None:
        print(
            "Limits: by the sentry's own accounting (control groups need root and a hierarchy that can be written)"
        )
    else:
        held = [name for name, has in (("memory", groups.has_memory), ("cpu", groups.has_cpu),
                                       ("pids", groups.has_tasks)) if has]  # fmt: skip
        print(f"Limits: by the sentry's own accounting, and by control groups for {', '.join(held)}")
        groups.destroy()
    print(
        "Memory operations: --mm=direct is the default (private anonymous memory is the guest's own business)"
    )
    print("cloche can run here." if can_run else "cloche cannot run here.")
    return 0 if can_run else 1


def _line(what: str, holds: bool, detail: str, remedy: str) -> None:
    mark = "ok  " if holds else "no  "
    text = f"  {mark} {what}"
    if detail:
        text += f" ({detail})"
    if not holds and remedy:
        text += f": {remedy}"
    print(text)
