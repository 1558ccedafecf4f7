"""`cloche-oci VERB …`: runc's command line.  Imports as little as the verb needs: engines call it often."""

import os
import sys
from typing import Final

from cloche.oci.errors import OciError
from cloche.oci.log import Log
from cloche.oci.options import VERBS, Options, parse

_HELP: Final = """cloche-oci: an OCI runtime whose containers have a kernel of their own; called as runc is.

usage: cloche-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] [--platform NAME]
                  [--egress FILE] VERB [options] [arguments]

verbs: {verbs} net
"""
_EXEC_FAILED: Final = 255


def _dispatch(verb: str, given: Options, options: Options, words: list[str]) -> int:
    """Raises OciError."""
    from cloche.oci.records import default_root

    root = given.text("root") or default_root()
    manager = given.text("cgroup-manager", "cgroupfs")
    if manager not in ("cgroupfs", "systemd", "disabled"):
        raise OciError(f"invalid cgroup manager {manager[:64]!r}")
    if verb in ("checkpoint", "restore"):
        raise OciError(f"{verb} is not there yet")
    if verb in ("create", "run"):
        from cloche.oci.running import create_verb, run_verb

        return (create_verb if verb == "create" else run_verb)(root, given, options, words)
    if verb == "exec":
        from cloche.library import interpret

        interpret()
        from cloche.oci.execute import exec_verb

        log = Log(given.text("log"), given.text("log-format", "text"))
        return exec_verb(root, options, words, log)
    from cloche.oci.verbs import run_simple

    return run_simple(verb, root, options, words)


def main(argv: list[str]) -> int:
    """The exit status."""
    log = Log("", "text")
    verb = ""
    try:
        given, words = parse(argv, "")
        log = Log(given.text("log"), given.text("log-format", "text"))
        if given.has("version"):
            from cloche.oci.verbs import print_version

            return print_version()
        if not words or given.has("help") or "help" in given.values or words[0] in ("help", "h"):
            print(_HELP.format(verbs=" ".join(VERBS)), end="")
            return 0
        verb = words[0]
        if verb == "net":  # no engine knows it, and its options are argparse's
            from cloche.oci.net import net_verb
            from cloche.oci.records import default_root

            return net_verb(given.text("root") or default_root(), words[1:])
        if verb not in VERBS:
            raise OciError(f"No help topic for {verb!r}", 3)
        options, rest = parse(words[1:], verb)
        if "help" in options.values:
            print(f"usage: cloche-oci {verb} [{'] ['.join('--' + name for name in VERBS[verb])}] …")
            return 0
        return _dispatch(verb, given, options, rest)
    except OciError as refusal:
        log.error(str(refusal))
        return _EXEC_FAILED if verb == "exec" and refusal.status == 1 else refusal.status
    except OSError as failure:
        log.error(str(failure))
        return _EXEC_FAILED if verb == "exec" else 1
    except KeyboardInterrupt:
        return 130


def entry() -> None:
    """The program."""
    status = main(sys.argv[1:])
    try:
        if sys.stdout is not None:  # None: closed when the interpreter started
            sys.stdout.flush()
    except OSError:
        status = status or 1
    os._exit(status)  # nothing is left to be done, and the interpreter's end would cost as much as a verb


def launched(_now_ns: int) -> None:
    """The program as csrc/launcher starts it: the time of its start comes before the words."""
    sys.argv[:2] = ["cloche-oci"]
    entry()


def forking(_now_ns: int) -> None:
    """`launched` for `create` and `run`: this process forks the monitor before it has any data of the user's."""
    from cloche.boot import surroundings
    from cloche.oci import ahead

    try:
        ahead.adopt(ahead.fork_monitor(surroundings.forget))
    except OSError:
        pass  # it is forked later, or there it is said what is wrong
    surroundings.take("cloche-oci")
    entry()


if __name__ == "__main__":
    entry()
