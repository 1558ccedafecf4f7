"""The SDK: sandboxes from Python.

    from cloche import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.commands.run("uname -a").stdout)

`sdk.sync` and `sdk.aio` are two fronts of one implementation: generators of effects (`sdk.effects`) in `sdk.core`,
`sdk.commands`, `sdk.files` and `sdk.code`, over the protocol of a sandbox (`wire.requests`).
"""

from cloche.sdk.aio import (
    AsyncCodeContext,
    AsyncCommandHandle,
    AsyncSandbox,
    AsyncSandboxEvents,
    AsyncWatchHandle,
)
from cloche.sdk.code import CellError, Execution, Logs, Result
from cloche.sdk.errors import (
    CodeError,
    CommandError,
    FileError,
    FileNotFound,
    InvalidArgument,
    NotFound,
    PortClosed,
    SandboxEnded,
    SandboxError,
    SandboxTimeout,
    StartError,
    UnknownUser,
)
from cloche.sdk.network import Approval, NetRequest, NetRule, NetSecret
from cloche.sdk.options import CreateOptions, Mount
from cloche.sdk.results import (
    Change,
    CommandResult,
    FileEvent,
    FileInfo,
    Metrics,
    Output,
    ProcessInfo,
    SandboxEvent,
    SandboxInfo,
)
from cloche.sdk.sync import CodeContext, CommandHandle, Sandbox, SandboxEvents, WatchHandle

__all__ = [
    "Approval",
    "AsyncCodeContext",
    "AsyncCommandHandle",
    "AsyncSandbox",
    "AsyncSandboxEvents",
    "AsyncWatchHandle",
    "CellError",
    "Change",
    "CodeContext",
    "CodeError",
    "CommandError",
    "CommandHandle",
    "CommandResult",
    "CreateOptions",
    "Execution",
    "FileError",
    "FileEvent",
    "FileInfo",
    "FileNotFound",
    "InvalidArgument",
    "Logs",
    "Metrics",
    "Mount",
    "NetRequest",
    "NetRule",
    "NetSecret",
    "NotFound",
    "Output",
    "PortClosed",
    "ProcessInfo",
    "Result",
    "Sandbox",
    "SandboxEnded",
    "SandboxError",
    "SandboxEvent",
    "SandboxEvents",
    "SandboxInfo",
    "SandboxTimeout",
    "WatchHandle",
    "StartError",
    "UnknownUser",
]
