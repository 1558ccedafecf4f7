"""Boots the machine by hand: `python -m tests.kvm.boot -- COMMAND [ARGUMENT ...]`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kvm import contents, kernel
from tests.kvm.machine import Machine, MachineError, missing


def main() -> int:
    """Boot, run the command, print what it writes; its status."""
    parser = argparse.ArgumentParser(prog="python -m tests.kvm.boot", description=__doc__)
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(sys.executable),
        help="the environment that is taken along (this one)",
    )
    parser.add_argument("--put", action="append", default=[], metavar="HOST:GUEST", help="take a file along")
    parser.add_argument(
        "--tree", action="append", default=[], type=Path, help="take a folder along, at its own path"
    )
    parser.add_argument(
        "--user", action="store_true", help="run as an unprivileged user, who may open /dev/kvm"
    )
    parser.add_argument(
        "--programs", action="store_true", help="take the tests' programs along, in /opt/guest, and gcc"
    )
    parser.add_argument("--memory", type=int, default=1536, metavar="MIB")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--console", action="store_true", help="show the kernel's messages at the end")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    lacks, found = missing(), kernel.find()
    if lacks or found is None:
        print(f"boot: needs {lacks or 'a kernel: python -m tests.kvm.kernel'}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.monotonic()
        archive = contents.whole(found, options.python, folder if options.programs else None)
        for pair in options.put:
            source, _, target = pair.partition(":")
            archive.file(target or source, Path(source).resolve(), Path(source).stat().st_mode & 0o777)
        for each in options.tree:
            archive.tree(each.resolve())
        archive.write(folder / "initramfs")
        packed = time.monotonic()
        try:
            with Machine(
                found, folder / "initramfs", folder, options.python, options.memory, options.timeout + 300
            ) as machine:
                booted = time.monotonic()
                if options.user:
                    machine.run(["chmod", "666", "/dev/kvm"])
                uid = 1000 if options.user else 0
                result = machine.run(
                    options.command, uid=uid, cwd="/tmp", timeout_s=options.timeout, echo=True
                )
        except MachineError as error:
            print(f"boot: {error}", file=sys.stderr)
            return 2
        if options.console:
            sys.stderr.write((folder / "console.log").read_text(errors="replace"))
        print(
            f"boot: status {result.status}; packed in {packed - begin:.1f} s, booted in {booted - packed:.1f} s,"
            f" ran for {time.monotonic() - booted:.1f} s",
            file=sys.stderr,
        )
    return result.status


if __name__ == "__main__":
    sys.exit(main())
