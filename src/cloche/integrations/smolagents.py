"""smolagents (1.26 and its like): an executor of agents' Python code.

from cloche.integrations.smolagents import ClocheExecutor

agent = CodeAgent(tools=[…], model=…, executor=ClocheExecutor())
"""

from typing import Any, Final

from smolagents.default_tools import FinalAnswerTool
from smolagents.local_python_executor import CodeOutput
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import RemotePythonExecutor
from smolagents.tools import Tool
from smolagents.utils import AgentError

from cloche.sdk import Sandbox

TIMEOUT_S: Final = 300.0
# The system directories inside are the sandbox's own.
_PIP: Final = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_RETRIES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

# It raises its argument in the form that `_deserialize_final_answer` reads; values without such a form are passed as
# text.
_FINAL_ANSWER: Final = """
class FinalAnswerException(BaseException):
    pass


def NAME(answer=None):
    import base64, json

    def plain(value):
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, bytes):
            return {"__type__": "bytes", "data": base64.b64encode(value).decode()}
        for kind in (tuple, set, frozenset):
            if isinstance(value, kind):
                return {"__type__": kind.__name__, "data": [plain(each) for each in value]}
        return str(value)

    raise FinalAnswerException("safe:" + json.dumps(plain(answer)))
"""


class ClocheExecutor(RemotePythonExecutor):
    """A sandbox: one that is given, or a new one of `options` (those of `Sandbox.create`), which ends with this.

    Packages of `additional_imports` are installed with pip, which needs a network.
    """

    def __init__(
        self,
        additional_imports: list[str] | None = None,
        logger: AgentLogger | None = None,
        allow_pickle: bool = False,
        sandbox: Sandbox | None = None,
        timeout: float | None = TIMEOUT_S,
        **options: Any,
    ) -> None:
        super().__init__(additional_imports or [], logger or AgentLogger(level=LogLevel.ERROR), allow_pickle)
        self.is_ours: bool = sandbox is None
        self.sandbox: Sandbox = sandbox if sandbox is not None else Sandbox.create(**options)
        self.timeout: float | None = timeout
        self.installed_packages = self.install_packages(self.additional_imports)
        if len(self.installed_packages) < len(self.additional_imports):
            self.cleanup()
            raise AgentError(f"pip cannot install {' '.join(self.additional_imports)}", self.logger)

    def run_code_raise_errors(self, code: str) -> CodeOutput:
        """Run code; raises AgentError for what it raises."""
        execution = self.sandbox.run_code(code, timeout=self.timeout)
        error = execution.error
        if error is not None:
            if error.name == self.FINAL_ANSWER_EXCEPTION:
                answer = self._deserialize_final_answer(error.value, self.allow_pickle)
                return CodeOutput(output=answer, logs=execution.logs.stdout, is_final_answer=True)
            logs = execution.logs.stdout + execution.logs.stderr
            raise AgentError(
                f"{logs}\nExecuting code yielded an error:\n{error.traceback or error}", self.logger
            )
        return CodeOutput(output=execution.text, logs=execution.logs.stdout, is_final_answer=False)

    def send_tools(self, tools: dict[str, Tool]) -> None:
        """Make tools known. The final answer is this module's own function: the source of the usual one needs numpy
        and PIL.
        """
        others = {name: tool for name, tool in tools.items() if not isinstance(tool, FinalAnswerTool)}
        super().send_tools(others)
        for name in tools.keys() - others.keys():
            self.run_code_raise_errors(_FINAL_ANSWER.replace("NAME", name))

    def install_packages(self, additional_imports: list[str]) -> list[str]:
        if additional_imports:
            words = ["python3", "-m", "pip", "install", "--quiet", *additional_imports]
            result = self.sandbox.commands.run(words, timeout=self.timeout, env=_PIP)
            if not result.ok:
                # Not an error here: a tool that needs a missing package reports it when it is used.
                last = (result.stderr or result.error).strip().splitlines()
                self.logger.log(
                    f"pip cannot install {' '.join(additional_imports)}: {last[-1] if last else ''}"
                )
                return []
        return additional_imports

    def cleanup(self) -> None:
        """End the sandbox, unless it was given."""
        if self.is_ours:
            self.sandbox.kill()
