"""The exceptions of the SDK, in one hierarchy. Each text says what happened and what to do about it.

SandboxError
  InvalidArgument      what was asked for makes no sense; nothing was done (a ValueError, too)
    UnknownUser        the sandbox has no user of that name
  StartError           the sandbox could not start
  NotFound             no sandbox of that name runs
  SandboxEnded         it ran, and has ended: killed, out of time, or by a failure of cloche itself
  SandboxTimeout       no answer in time; what was asked for may have happened (a TimeoutError, too)
  CommandError         with check=True: a command failed; `.result` is what it left
  PortClosed           dial: nobody in the sandbox listens at the port (a ConnectionRefusedError, too)
  CodeError            run_code: no such interpreter, it has ended, or runs another cell
  FileError            a file operation was refused; `.errno` and `.path` (an OSError, too)
    FileNotFound       (a FileNotFoundError, too)
"""

import os

from cloche.abi.errno import ENOENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloche.sdk.results import CommandResult


class SandboxError(Exception):
    """Anything that went wrong with a sandbox.  Its text is `problem`, then `remedy`: what a program can do about
    it by functions and parameters of the SDK. Whoever is told by such a program, as a model, does not have those.
    """

    def __init__(self, problem: str = "", remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem: str = problem
        self.remedy: str = remedy


class InvalidArgument(SandboxError, ValueError):
    """An argument of a call is invalid."""


class UnknownUser(InvalidArgument):
    """The sandbox has no user of that name."""


class StartError(SandboxError):
    """The sandbox could not start."""


class NotFound(SandboxError):
    """No sandbox of that name runs."""


class SandboxEnded(SandboxError):
    """The sandbox has ended."""


class SandboxTimeout(SandboxError, TimeoutError):
    """No answer in time."""


class CommandError(SandboxError):
    """A command failed, and `check=True` was asked for."""

    def __init__(self, result: "CommandResult", command: str) -> None:
        how = "ran out of time" if result.timed_out else f"ended with status {result.exit_code}"
        last = (result.error or result.stderr.strip()).splitlines()
        super().__init__(f"{command}: {how}{': ' + last[-1] if last else ''}")
        self.result: CommandResult = result


class PortClosed(SandboxError, ConnectionRefusedError):
    """Nobody in the sandbox listens at the port."""


class CodeError(SandboxError):
    """There is no such interpreter, it has ended, or runs another cell."""


class FileError(SandboxError, OSError):
    """The sandbox's kernel has refused an operation on a file."""

    def __init__(self, errno: int, path: str, operation: str) -> None:
        super().__init__(f"{operation} {path}: {os.strerror(errno)}")
        self.errno = errno
        self.path: str = path

    def __str__(self) -> str:
        return str(self.args[0])


class FileNotFound(FileError, FileNotFoundError):
    """There is no such file."""


def file_error(errno: int, path: str, operation: str) -> FileError:
    """The error for an errno."""
    return (FileNotFound if errno == ENOENT else FileError)(errno, path, operation)
