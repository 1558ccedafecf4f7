"""Code contexts: state, results, errors, interrupts, and programs that play with the driver."""

import asyncio
import shutil
import threading

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import CodeError, InvalidArgument, Result
from cloche.sdk.code import Scanner
from cloche.sdk.effects import drive_async
from tests.cli.harness import wait_until

PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="the host has no python3 that a sandbox sees")
needs_node = pytest.mark.skipif(
    shutil.which("node", path="/usr/local/bin:/usr/bin") is None, reason="node is not installed"
)


def test_state_and_values(shared: Sandbox) -> None:
    assert shared.run_code("x = 41").text is None
    execution = shared.run_code("import sys\nprint('out'); print('err', file=sys.stderr)\nx + 1")
    assert (execution.text, execution.logs.stdout, execution.logs.stderr) == ("42", "out\n", "err\n")
    assert execution.ok and execution.duration > 0
    assert shared.run_code("import os; os.system('echo from a child'); None").logs.stdout == "from a child\n"
    assert shared.run_code("await __import__('asyncio').sleep(0, 'awaited')").text == "'awaited'"
    assert shared.run_code("input()").error is not None  # there is no input
    assert shared.run_code("def f():\n    return __name__\nf()").text == "'__main__'"


def test_errors(shared: Sandbox) -> None:
    error = shared.run_code("def f():\n    1/0\nf()").error
    assert error is not None and (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "1/0" in error.traceback and "in f" in error.traceback and "driver" not in error.traceback
    error = shared.run_code("x = = 1").error
    assert error is not None and error.name == "SyntaxError"
    error = shared.run_code("raise SystemExit(3)").error
    assert error is not None and str(error) == "SystemExit: 3"


def test_rich_results(shared: Sandbox) -> None:
    seen: list[Result] = []
    execution = shared.run_code(
        "class Table:\n"
        "    def _repr_html_(self): return '<table/>'\n"
        "    def _repr_png_(self): return b'\\x89PNG'\n"
        "    def __repr__(self): return 'a table'\n"
        "print('before')\ndisplay({'a': [1]})\nTable()",
        on_result=seen.append,
    )
    data, table = execution.results
    assert data.json == {"a": [1]} and not data.is_main
    assert (table.text, table.html, table.png_bytes, table.is_main) == (
        "a table",
        "<table/>",
        b"\x89PNG",
        True,
    )
    assert table.json is None and table.svg is None and seen == execution.results
    broken = shared.run_code("class Bad:\n    def __repr__(self): raise KeyError\nBad()")
    assert broken.ok and broken.text is not None and "KeyError" in broken.text


def test_a_timeout_keeps_the_state(shared: Sandbox) -> None:
    shared.run_code("kept = 'kept'")
    for timeout in (1, 4, 16, 64):  # on a busy machine it may not even begin in time
        execution = shared.run_code(
            "import time\nprint('begun')\nwhile True: time.sleep(0.01)", timeout=timeout
        )
        assert execution.timed_out and execution.error is not None and execution.error.name == "Timeout"
        if execution.logs.stdout:
            break
    assert execution.logs.stdout == "begun\n" and shared.run_code("kept").text == "'kept'"


def test_a_cell_that_no_interrupt_ends(shared: Sandbox) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    for timeout in (0.5, 4, 16, 64):  # on a busy machine it may be interrupted before it ignores that
        execution = shared.run_code(code, timeout=timeout)
        assert execution.timed_out and execution.error is not None
        if "has ended" in execution.error.value:
            break
    assert "has ended" in execution.error.value
    assert shared.run_code("1 + 1").text == "2"


def test_interrupting(shared: Sandbox) -> None:
    with shared.create_code_context(env={"A": "b"}, cwd="/tmp") as context:
        begun = threading.Event()
        timer = threading.Thread(target=lambda: (begun.wait(60), context.interrupt()))
        timer.start()
        execution = shared.run_code(
            "import os, subprocess\nprint(os.environ['A'], os.getcwd())\nsubprocess.run(['sleep', '1000'])",
            context=context,
            on_stdout=lambda _text: begun.set(),
        )
        timer.join()
        assert execution.logs.stdout == "b /tmp\n"
        assert execution.error is not None and execution.error.name == "KeyboardInterrupt"


def test_contexts_are_apart(shared: Sandbox) -> None:
    with shared.create_code_context() as one, shared.create_code_context() as other:
        shared.run_code("x = 'one'", context=one)
        shared.run_code("x = 'other'", context=other)
        assert shared.run_code("x", context=one).text == "'one'"
        assert one.language == "python"

        def enter(_text: str) -> None:
            with pytest.raises(CodeError, match="already"):
                shared.run_code("1", context=one)

        assert shared.run_code("print('now')", context=one, on_stdout=enter).ok
    with pytest.raises(CodeError, match="has ended"):
        shared.run_code("1", context=one)
    with shared.create_code_context() as third:
        pid = third._context.command.pid
        assert pid in [process.pid for process in shared.commands.list()]
    wait_until(lambda: pid not in [process.pid for process in shared.commands.list()], "it is gone")


def test_an_interpreter_that_ends(shared: Sandbox) -> None:
    execution = shared.run_code("print('last words', flush=True)\nimport os; os._exit(3)")
    assert execution.error is not None and execution.error.name == "InterpreterEnded"
    assert "status 3" in execution.error.value and execution.logs.stdout == "last words\n"
    assert shared.run_code("1 + 1").text == "2"


def test_output_without_end(shared: Sandbox) -> None:
    execution = shared.run_code("import os\nfor _ in range(40): os.write(1, bytes(1 << 20))")
    assert execution.truncated and len(execution.logs.stdout) == 16 << 20 and execution.ok


def test_a_cell_that_lies(shared: Sandbox) -> None:
    """It finds the token, and says that it has ended, and shows nonsense: about itself alone."""
    execution = shared.run_code(
        "import os, sys\nt = open('/proc/self/cmdline').read().split('\\0')[-2]\n"
        "for kind, text in (('result', 'no json'), ('result', '[1]'), ('result', '{\"formats\": 3}'), ('odd', 'x')):\n"
        "    os.write(1, f'\\x1e{t}:{kind}:{len(text)}\\n{text}'.encode())\n"
        "os.write(1, f'\\x1e{t}:result:99999999999999\\n'.encode())\n"
        "os.write(1, b'\\x1e' * 100)\n'true'"
    )
    assert execution.text == "'true'" and len(execution.results) == 1
    odd = Result({"image/png": "5", "application/json": "[" * 100_000})
    assert odd.png_bytes is None and odd.json is None
    assert Result({"image/png": "é", "application/json": "no"}).png_bytes is None


def test_bash(shared: Sandbox) -> None:
    shared.run_code('a=5; cd /tmp; f() { echo "f $1"; }', "bash")
    execution = shared.run_code("echo $a; pwd; f é; cat; echo err >&2", "bash")
    assert (execution.logs.stdout, execution.logs.stderr, execution.ok) == ("5\n/tmp\nf é\n", "err\n", True)
    error = shared.run_code("(exit 7)", "bash").error
    assert error is not None and str(error) == "ExitStatus: 7"
    assert shared.run_code("while :; do :; done", "bash", timeout=1).timed_out
    assert shared.run_code("echo $a", "bash").logs.stdout == "5\n"


@needs_node
def test_node(shared: Sandbox) -> None:
    execution = shared.run_code("let a = 5; console.log('log'); console.error('err'); ({a})", "node")
    assert (execution.logs.stdout, execution.logs.stderr) == ("log\n", "err\n")
    assert execution.text == "{ a: 5 }" and execution.results[0].json == {"a": 5}
    assert shared.run_code("await Promise.resolve(a + 1)", "javascript").text == "6"
    error = shared.run_code("throw new TypeError('no')", "node").error
    assert error is not None and str(error) == "TypeError: no" and "cell" in error.traceback
    assert shared.run_code("while (true);", "node", timeout=1).timed_out
    assert shared.run_code("a", "node").text == "5"


def test_no_such_language(shared: Sandbox, root: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InvalidArgument, match="python, bash, node"):
        shared.run_code("1", "cobol")
    with Sandbox.create(root=root, rootfs=tmp_path_factory.mktemp("empty")) as sandbox:
        with pytest.raises(CodeError, match="no python in the sandbox"):
            sandbox.run_code("1")


def test_with_asyncio(shared: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect("shared", root=shared._core.root)
        seen: list[str] = []

        async def note(text: str) -> None:
            seen.append(text)

        async def one(number: int) -> str | None:
            async with await sandbox.create_code_context() as context:
                return (
                    await sandbox.run_code(f"print({number})\n{number}", context=context, on_stdout=note)
                ).text

        assert await asyncio.gather(*[one(number) for number in range(3)]) == ["0", "1", "2"]
        assert sorted("".join(seen)) == sorted("0\n1\n2\n")

    asyncio.run(main())


def test_marks_are_found_however_they_are_cut() -> None:
    data = b"a\x1eTOK\x1eTOKEN:result:3\nb\x1ec" + b"\x1eTOKEN:end:0\nafter\x1e"
    expected = [("text", b"a\x1eTOK"), ("result", b"b\x1ec"), ("end", b""), ("text", b"after")]
    for size in range(1, len(data)):
        scanner, found = Scanner("TOKEN"), []
        for at in range(0, len(data), size):
            for kind, payload in scanner.feed(data[at : at + size]):
                if not kind and found and found[-1][0] == "text":
                    found[-1] = ("text", found[-1][1] + payload)
                else:
                    found.append((kind or "text", payload))
        assert found == expected, size


def test_first_cells_at_once_have_one_context(root: str) -> None:
    """Whoever starts an interpreter while another does so too takes the one that was there first."""

    async def main() -> None:
        async with await AsyncSandbox.create(root=root) as box:
            starts = [box._contexts.get("python") for _task in range(3)]
            found = await asyncio.gather(*[drive_async(start) for start in starts])
            assert found[0] is found[1] is found[2]

    asyncio.run(main())
