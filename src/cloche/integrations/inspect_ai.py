"""inspect-ai (0.3.285 and its like): `sandbox="cloche"` in a task, or `--sandbox cloche`.

A sample has a sandbox of its own.  The configuration is the path of a file of options of `cloche run`, one a line
(`--memory 1g`); `#` begins a comment.  Without one the host's system directories show, and the sample's files are in
an empty directory.
"""

import errno
import shlex
from pathlib import Path
from typing import Any, Final, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxConnection,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)

from cloche.sdk import AsyncSandbox, FileError, SandboxError, UnknownUser

CONFIG_FILE: Final = "cloche.conf"
_READ_SLACK: Final = 1  # one byte more than the limit shows that a file is too long
_CANNOT_EXECUTE: Final = 126


def options_of(path: str) -> list[str]:
    """The options in a file."""
    words: list[str] = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        words += shlex.split(line, comments=True)
    return words


@sandboxenv(name="cloche")
class ClocheSandboxEnvironment(SandboxEnvironment):
    """A sandbox of cloche's."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        super().__init__()
        self.sandbox: AsyncSandbox = sandbox

    @classmethod
    def config_files(cls) -> list[str]:
        return [CONFIG_FILE]

    @classmethod
    async def create(cls, options: list[str]) -> "ClocheSandboxEnvironment":
        """A new one."""
        return cls(await AsyncSandbox.create(options=options, metadata={"made-by": "inspect-ai"}))

    @classmethod
    async def sample_init(
        cls, task_name: str, config: Any, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        return {"default": await cls.create(options_of(config) if isinstance(config, str) else [])}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        for environment in environments.values():
            await environment.as_type(ClocheSandboxEnvironment).sandbox.kill()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        try:
            result = await self.sandbox.commands.run(
                cmd,
                stdin=input,
                cwd=cwd,
                env=env or {},
                user=user,
                timeout=timeout,
                max_output=limit,
            )
        except UnknownUser as error:
            raise SandboxUserUnsupportedError(str(error)) from None
        if result.timed_out:
            raise TimeoutError(f"the command took longer than {timeout} s")
        if result.error and result.exit_code == _CANNOT_EXECUTE:
            raise PermissionError(errno.EACCES, result.error, cmd[0])
        if result.truncated:
            raise OutputLimitExceededError(
                limit_str=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, truncated_output=result.stdout
            )
        return ExecResult(result.ok, result.exit_code, result.stdout, result.stderr + result.error)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        try:
            await self.sandbox.files.write(file, contents)
        except FileError as error:
            raise _as_builtin(error, file) from None

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        try:
            if (await self.sandbox.files.get_info(file, follow=True)).size > limit:
                raise OutputLimitExceededError(
                    limit_str=SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, truncated_output=None
                )
            data = await self.sandbox.files.read(file, format="bytes", max_bytes=limit + _READ_SLACK)
        except FileError as error:
            raise _as_builtin(error, file) from None
        return data.decode() if text else data

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        words = ["cloche", "exec", "-it", *(["-u", user] if user else []), self.sandbox.name, "--", "sh"]
        return SandboxConnection(type="cloche", command=shlex.join(words))


def _as_builtin(error: FileError, file: str) -> OSError:
    """The built-in exception of its errno, which is what inspect-ai catches."""
    return OSError(error.errno, str(error), file)


__all__ = ["ClocheSandboxEnvironment", "SandboxError"]
