"""The `cloche` command: one file per verb beside this one, imported only when it is asked for.

An error of the command line is reported in one line; the exit status is then 125, as for every failure of cloche
itself.
"""

import os
import sys
from typing import Any, Final, NoReturn

from cloche.boot.spawn import leave_light_modules
from cloche.cli.plain import PlainParser
from cloche.wire import timing

EXIT_INTERNAL: Final = 125

_VERBS: Final = {
    "run": "run a command in a new sandbox",
    "exec": "run a further command in a sandbox that runs",
    "apply": "make changes of a sandbox on the host",
    "commit": "make an image of what a sandbox has changed",
    "cp": "copy files into a sandbox, or out of it",
    "diff": "show what a sandbox has changed",
    "discard": "forget what kept sandboxes have written",
    "images": "list the images that are here",
    "pull": "fetch an image from its registry",
    "load": "read images out of an archive, or an OCI layout",
    "import": "make an image of a root file system",
    "save": "write images into an archive for docker load and podman load",
    "inspect": "show what an image, or the record of a sandbox, says",
    "push": "bring an image to its registry",
    "volume": "list, make and remove named volumes",
    "rmi": "remove images",
    "prune": "remove what no image needs any more",
    "export": "write the root file system of a sandbox as a tar stream",
    "ps": "show the processes in a sandbox",
    "kill": "send a signal to a sandbox",
    "list": "list the sandboxes that have a name",
    "net": "show and change what a sandbox may connect to",
    "logs": "show what a detached sandbox has written",
    "wait": "wait for the end of a sandbox",
    "stop": "end sandboxes, politely at first",
    "rm": "forget sandboxes that have ended",
    "mcp": "serve a sandbox to agents as tools (Model Context Protocol)",
    "install": "tell an engine (Docker, containerd, Podman, CRI-O) of cloche's OCI runtime, or undo that",
    "serve": "serve sandboxes to the packages of E2B (HTTP)",
    "doctor": "check this host and say what is in force",
    "syscalls": "list the system calls and how far they are implemented",
}


# These use packages that are installed beside cloche, which need the whole standard library (`cloche.light`).
_WITH_PACKAGES: Final = (
    "commit", "doctor", "import", "install", "load", "mcp", "net", "pull", "push", "save", "serve",
)  # fmt: skip
_GLOBAL_WITH_VALUE: Final = ("--root",)


def verb_index(words: list[str]) -> int:
    """The index of the verb: the first word after the general options."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _GLOBAL_WITH_VALUE else 1
    return at


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run the verb; the exit status."""
    words = sys.argv[1:] if argv is None else argv
    options = plain_options(words)
    if options is None:
        from cloche.cli.parser import parse

        at = verb_index(words)
        if words[at : at + 1] and words[at] in _WITH_PACKAGES:
            leave_light_modules()
        options = parse(words, _VERBS, at)
    if options is None:
        return EXIT_INTERNAL
    try:
        status: int = options.function(options)
        if sys.stdout is not None:  # None: closed when the interpreter started
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    return status


def plain_options(words: list[str]) -> Any:
    """The options of an ordinary `cloche run`; None: leave the command line to argparse."""
    at = verb_index(words)
    if words[at : at + 1] != ["run"] or at > 0 and (at != 2 or words[0] != "--root" or not words[1]):
        return None
    from cloche.cli import run

    parser = PlainParser()
    run.add_arguments(parser)
    options = parser.parse(words[at + 1 :])
    if options is not None:
        options.root, options.verb, options.function = words[1] if at else "", "run", run.run
    return options


def entry() -> NoReturn:
    """Run the command and exit without finalizing the interpreter, which would take as long as half the start."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: closed when the interpreter started
            stream.flush()
    os._exit(status)


def launched(now_ns: int) -> NoReturn:
    """Run the command as csrc/launcher starts it: the launcher's own arguments come before those of the user."""
    timing.mark("command: launched", int(sys.argv[1]))
    timing.mark("command: interpreter is up", now_ns)
    sys.argv[:2] = ["cloche"]
    entry()


def forking(now_ns: int) -> NoReturn:
    """`launched` for a verb that starts a sandbox: this process forks the keeper before it has any data of the user."""
    from cloche.boot import surroundings
    from cloche.boot.keeper import fork_first_keeper
    from cloche.boot.spawn import adopt_keeper

    timing.mark("command: launched", int(sys.argv[1]))
    timing.mark("command: interpreter is up", now_ns)
    timing.mark("command: keeper's modules are imported")
    adopt_keeper(fork_first_keeper())
    timing.mark("command: keeper is forked")
    surroundings.take("cloche")
    entry()


if __name__ == "__main__":
    entry()
