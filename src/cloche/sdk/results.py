"""The results of the SDK: plain values."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    `exit_code` is as a shell shows it: 128 and the signal's number for a command that was killed, 127 if there is no
    such command, 126 if it cannot be executed; 124 if its time was over.
    """

    exit_code: int
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""
    timed_out: bool = False
    truncated: bool = False  # there was more output than `max_output`; the rest was dropped
    error: str = ""  # why it could not start
    duration: float = 0.0  # seconds

    @property
    def stdout(self) -> str:
        """Standard output as UTF-8 text, with U+FFFD for bytes that are not valid."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error in the same way."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """Whether the command has succeeded."""
        return self.exit_code == 0

    def __repr__(self) -> str:
        more = "".join([f", {name}=True" for name in ("timed_out", "truncated") if getattr(self, name)])
        error = f", error={self.error!r}" if self.error else ""
        return (
            f"CommandResult(exit_code={self.exit_code}, stdout={_short(self.stdout)}, "
            f"stderr={_short(self.stderr)}{more}{error})"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")


@dataclass(frozen=True)
class Output:
    """A piece of a command's output; `stream` is "stdout" or "stderr"."""

    stream: str
    data: bytes

    @property
    def text(self) -> str:
        """As text; a character may be cut at the end of a piece."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True)
class ProcessInfo:
    """A process of the sandbox, as its kernel sees it; the process chose its command line."""

    pid: int
    ppid: int
    uid: int
    state: str
    cpu_seconds: float
    args: list[str]


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox, as others see it."""

    name: str
    state: str  # "running" or "paused"
    pid: int  # of its monitor, on the host
    created: float  # seconds since the epoch
    metadata: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)  # empty: it was made with the SDK
    ports: dict[int, str] = field(default_factory=dict)  # port inside: "ADDRESS:PORT" of the host
    seconds_left: float | None = None  # None: no limit, or not asked for


@dataclass(frozen=True)
class Metrics:
    """The resources that a sandbox uses."""

    memory_bytes: int
    memory_limit_bytes: int | None
    cpu_seconds: float
    processes: int
    tasks: int  # threads
    tasks_limit: int
    oom_kills: int


@dataclass(frozen=True)
class Change:
    """A file that a sandbox has changed, in its own private layer."""

    kind: str  # "added", "changed" or "deleted"
    info: "FileInfo"  # what it is, or was

    @property
    def path(self) -> str:
        """Where it is inside."""
        return self.info.path


@dataclass(frozen=True)
class SandboxEvent:
    """Something that has happened to a sandbox."""

    type: str  # "paused", "resumed", "oom" (a process was ended for want of memory) or "ended"
    time: float  # when this was heard: seconds since the epoch


@dataclass(frozen=True)
class FileEvent:
    """Something that has happened to a file in a directory that is watched."""

    type: (
        str  # "create", "write", "chmod", "remove", "rename" (its old name) or "overflow" (some are missing)
    )
    path: str
    is_dir: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class FileInfo:
    """A file inside, without following a link at the end of its path."""

    path: str
    kind: str  # "file", "directory", "symlink" or "other"
    size: int
    mode: int  # the permission bits
    uid: int
    gid: int
    modified: float  # seconds since the epoch
    target: str = ""  # of a symbolic link

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.kind == "directory"
