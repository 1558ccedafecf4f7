"""LangChain (langchain-core 1.8 and its like): a sandbox as tools of an agent.

from cloche.integrations.langchain import ClocheToolkit

with ClocheToolkit(memory="1g") as toolkit:
    agent = create_agent(model=…, tools=toolkit.get_tools())
"""

from types import TracebackType
from typing import Any, Self

from langchain_core.tools import BaseTool, BaseToolkit, StructuredTool
from pydantic import PrivateAttr

from cloche.integrations.tools import TIMEOUT_S, Tools
from cloche.sdk import Sandbox


class ClocheToolkit(BaseToolkit):
    """Tools that share a sandbox: one that is given, or one of `options` (those of `Sandbox.create`).

    The latter is made by the first tool that is called, and ends with `close`, the `with` block or this object.
    """

    _box: Tools = PrivateAttr()

    def __init__(self, sandbox: Sandbox | None = None, *, timeout: float = TIMEOUT_S, **options: Any) -> None:
        super().__init__()
        self._box = Tools(sandbox, timeout, options)

    def get_tools(self) -> list[BaseTool]:
        return [StructuredTool.from_function(each) for each in self._box.functions()]

    def close(self) -> None:
        """End the sandbox, unless it was given."""
        self._box.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
