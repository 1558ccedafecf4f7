"""deepagents (0.7.32 and its like): a sandbox as the backend of an agent.

from cloche.integrations.deepagents import ClocheSandbox

with ClocheSandbox() as backend:
    agent = create_deep_agent(model=…, backend=backend)
"""

import errno
from types import TracebackType
from typing import Any, Final, Self

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox

from cloche.sdk import FileError, InvalidArgument, Sandbox, SandboxError

TIMEOUT_S: Final = 120
MAX_OUTPUT: Final = 1 << 20
_CODES: Final = {
    errno.ENOENT: "file_not_found",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.EISDIR: "is_directory",
    errno.ENOTDIR: "invalid_path",
    errno.ENAMETOOLONG: "invalid_path",
}


def _code(error: SandboxError) -> str:
    """The error's name in deepagents; an error that has none there keeps its text."""
    if isinstance(error, FileError) and error.errno in _CODES:
        return _CODES[error.errno]
    return "invalid_path" if isinstance(error, InvalidArgument) else error.problem


class ClocheSandbox(BaseSandbox):
    """A sandbox: one that is given, or a new one of `options` (those of `Sandbox.create`), which ends with this."""

    def __init__(self, sandbox: Sandbox | None = None, *, timeout: int = TIMEOUT_S, **options: Any) -> None:
        self.is_ours: bool = sandbox is None
        self.sandbox: Sandbox = sandbox if sandbox is not None else Sandbox.create(**options)
        self.timeout: int = timeout

    @property
    def id(self) -> str:
        return self.sandbox.name

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        limit = timeout if timeout is not None else self.timeout
        result = self.sandbox.commands.run(
            ["/bin/sh", "-c", 'exec 2>&1; eval "$1"', "sh", command],
            timeout=limit or None,
            max_output=MAX_OUTPUT,
        )
        text = result.stdout + result.error
        if result.timed_out:
            text += f"\nkilled: it took longer than {limit} s"
        return ExecuteResponse(output=text, exit_code=result.exit_code, truncated=result.truncated)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        answers: list[FileUploadResponse] = []
        for path, data in files:
            try:
                self.sandbox.files.write(path, data)
                answers.append(FileUploadResponse(path=path, error=None))
            except SandboxError as error:
                answers.append(FileUploadResponse(path=path, error=_code(error)))
        return answers

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        answers: list[FileDownloadResponse] = []
        for path in paths:
            try:
                data = self.sandbox.files.read(path, format="bytes")
                answers.append(FileDownloadResponse(path=path, content=data, error=None))
            except SandboxError as error:
                answers.append(FileDownloadResponse(path=path, content=None, error=_code(error)))
        return answers

    def close(self) -> None:
        """End the sandbox, unless it was given."""
        if self.is_ours:
            self.sandbox.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
