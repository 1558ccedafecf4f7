"""runc's command line: options in the ways Go's programs take them (`-x`, `--x`, `=value`), before the first word that
is none.
"""

from typing import Final

from cloche.oci.errors import OciError

# For each verb its options: name -> whether it takes a value, and its short name.
FLAG: Final = False
VALUE: Final = True

GLOBAL: Final = {
    "debug": FLAG,
    "log": VALUE,
    "log-format": VALUE,
    "root": VALUE,
    "criu": VALUE,
    "systemd-cgroup": FLAG,
    "cgroup-manager": VALUE,  # crun's, which Podman gives with --cgroups=disabled
    "rootless": VALUE,
    "platform": VALUE,
    "egress": VALUE,
    "help": FLAG,
    "version": FLAG,
}
_MAKING: Final = {
    "bundle": VALUE,
    "console-socket": VALUE,
    "pidfd-socket": VALUE,
    "pid-file": VALUE,
    "no-pivot": FLAG,
    "no-new-keyring": FLAG,
    "preserve-fds": VALUE,
}
VERBS: Final[dict[str, dict[str, bool]]] = {
    "create": _MAKING,
    "run": {**_MAKING, "detach": FLAG, "keep": FLAG, "no-subreaper": FLAG},
    "start": {},
    "state": {},
    "kill": {"all": FLAG},
    "delete": {"force": FLAG},
    "exec": {
        "console-socket": VALUE,
        "pidfd-socket": VALUE,
        "cwd": VALUE,
        "env": VALUE,
        "tty": FLAG,
        "user": VALUE,
        "additional-gids": VALUE,
        "process": VALUE,
        "detach": FLAG,
        "pid-file": VALUE,
        "process-label": VALUE,
        "apparmor": VALUE,
        "no-new-privs": FLAG,
        "cap": VALUE,
        "preserve-fds": VALUE,
        "cgroup": VALUE,
        "ignore-paused": FLAG,
    },
    "ps": {"format": VALUE},
    "events": {"interval": VALUE, "stats": FLAG},
    "pause": {},
    "resume": {},
    "update": {
        "resources": VALUE,
        "blkio-weight": VALUE,
        "cpu-period": VALUE,
        "cpu-quota": VALUE,
        "cpu-burst": VALUE,
        "cpu-share": VALUE,
        "cpu-rt-period": VALUE,
        "cpu-rt-runtime": VALUE,
        "cpuset-cpus": VALUE,
        "cpuset-mems": VALUE,
        "cpu-idle": VALUE,
        "memory": VALUE,
        "memory-reservation": VALUE,
        "memory-swap": VALUE,
        "pids-limit": VALUE,
        "l3-cache-schema": VALUE,
        "mem-bw-schema": VALUE,
    },
    "list": {"format": VALUE, "quiet": FLAG},
    "spec": {"bundle": VALUE, "rootless": FLAG},
    "features": {},
    "checkpoint": {},
    "restore": {},
}
_SHORT: Final[dict[str, dict[str, str]]] = {
    "": {"h": "help", "v": "version"},
    "create": {"b": "bundle"},
    "run": {"b": "bundle", "d": "detach"},
    "kill": {"a": "all"},
    "delete": {"f": "force"},
    "exec": {
        "e": "env",
        "t": "tty",
        "u": "user",
        "g": "additional-gids",
        "p": "process",
        "d": "detach",
        "c": "cap",
    },
    "ps": {"f": "format"},
    "update": {"r": "resources"},
    "list": {"f": "format", "q": "quiet"},
    "spec": {"b": "bundle"},
}


class Options:
    """The options that were given, in order."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}

    def has(self, name: str) -> bool:
        """Whether a flag is set."""
        given = self.values.get(name)
        return given is not None and given[-1] not in ("false", "0", "f")

    def text(self, name: str, default: str = "") -> str:
        """The last value."""
        return self.values.get(name, [default])[-1]

    def all(self, name: str) -> list[str]:
        """Every value."""
        return self.values.get(name, [])


def parse(words: list[str], verb: str) -> tuple[Options, list[str]]:
    """The options, and the words after them; but of most verbs options may follow those.  Raises OciError."""
    may_follow = verb not in ("", "exec", "ps")
    rest: list[str] = []
    known = VERBS[verb] if verb else GLOBAL
    short = _SHORT.get(verb, {})
    options = Options()
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return options, rest + words[index + 1 :]
        if not word.startswith("-") or word == "-":
            if not may_follow:
                break
            rest.append(word)
            index += 1
            continue
        index += 1
        name, equals, value = word.lstrip("-").partition("=")
        name = short.get(name, name)
        if name in ("help", "h"):
            options.values["help"] = [""]
            continue
        if name not in known:
            raise OciError(f"flag provided but not defined: -{name}")
        if known[name] and not equals:
            if index == len(words):
                raise OciError(f"flag needs an argument: -{name}")
            value = words[index]
            index += 1
        options.values.setdefault(name, []).append(value if known[name] or equals else "true")
    return options, rest + words[index:]
