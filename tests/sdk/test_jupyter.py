"""Kernels of Jupyter in sandboxes, by the real jupyter_client and ipykernel."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="the package jupyter_client is not installed")
pytest.importorskip("ipykernel", reason="the package ipykernel is not installed")

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from cloche import Sandbox
from tests.cli.harness import wait_until

WAIT_S = 150
ATTEMPTS = 100
SYSTEM = ("/usr", "/")


def shown(folder: str) -> list[str]:
    """A directory of the host in its own place, unless it shows anyway."""
    return [] if folder in SYSTEM else [f"{folder}:{folder}:ro"]


@pytest.fixture
def manager(tmp_path: Path, root: str) -> Iterator[Any]:
    places = [*shown(sys.prefix), *[word for word in shown(sys.base_prefix) if sys.base_prefix != sys.prefix]]
    places += [
        word
        for path in sys.path
        if path.endswith("site-packages")
        for word in shown(path)
        if not path.startswith(sys.prefix)
    ]
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python in a sandbox",
        "language": "python",
        "env": {"OF": "kernel.json"},
        "metadata": {
            "kernel_provisioner": {
                "provisioner_name": "cloche",
                "config": {
                    "sandbox": {"root": root, "mounts": places, "env": {"HOME": "/tmp"}},
                    "cwd": "/tmp",
                },
            }
        },
    }
    (tmp_path / "kernels" / "boxed").mkdir(parents=True)
    (tmp_path / "kernels" / "boxed" / "kernel.json").write_text(json.dumps(spec))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    made = KernelManager(
        kernel_name="boxed", kernel_spec_manager=specs, connection_file=str(tmp_path / "connection.json")
    )
    yield made
    if made.has_kernel:
        made.shutdown_kernel(now=True)


def cell(client: Any, code: str) -> tuple[str, Any]:
    """The output of a cell, and the reply.

    ipykernel gives up, "aborted", what it finds behind a cell that has failed, which it looks for after that one's
    reply (Kernel._abort_queues): the next cell may be among it, and is then sent again.
    """
    printed: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["header"]["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    for _attempt in range(ATTEMPTS):
        reply = client.execute_interactive(code, timeout=WAIT_S, output_hook=note, allow_stdin=False)
        if reply["content"]["status"] != "aborted":
            break
    return "".join(printed), reply["content"]


def test_a_kernel(manager: Any, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=WAIT_S)
    (info,) = Sandbox.list(root=root)
    assert info.metadata == {"made-by": "jupyter"}
    text = "import os; x = 41; print(os.environ['OF'], 'SECRET_OF_THE_SERVER' in os.environ, os.getcwd())"
    assert cell(client, text)[0] == "kernel.json False /tmp\n"
    assert cell(client, "print(x + 1); open('/tmp/kept', 'w').write('here')")[0] == "42\n"
    assert cell(client, "1 / 0")[1]["ename"] == "ZeroDivisionError"
    assert cell(client, "")[1]["status"] == "ok"

    # Interrupted, with its state kept. (Python itself may notice a signal only after a sleep: if it comes after the
    # last look for signals and before the call of the host, also without a sandbox.)
    text = "print('begun', flush=True)\nimport time\nwhile True:\n    time.sleep(0.01)"
    message = client.execute(text)
    while True:
        news = client.get_iopub_msg(timeout=WAIT_S)
        if news["parent_header"].get("msg_id") == message and news["header"]["msg_type"] == "stream":
            break
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=WAIT_S)
    assert reply["parent_header"]["msg_id"] == message and reply["content"]["ename"] == "KeyboardInterrupt"
    assert cell(client, "print(x)")[0] == "41\n"

    # Another kernel in the same sandbox, and its files
    manager.restart_kernel()
    client.wait_for_ready(timeout=WAIT_S)
    assert [each.name for each in Sandbox.list(root=root)] == [info.name]
    assert cell(client, "print('x' in globals(), open('/tmp/kept').read())")[0] == "False here\n"

    # One that ends by itself is seen to have ended, and the next start finds it a place
    client.execute("import os; os._exit(3)")
    wait_until(lambda: not manager.is_alive(), "the kernel's end is seen", WAIT_S)
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=WAIT_S)
    assert cell(client, "print(6 * 7)")[0] == "42\n"
    client.stop_channels()
    manager.shutdown_kernel()
    assert Sandbox.list(root=root) == []


def test_a_sandbox_that_ends(manager: Any, root: str) -> None:
    manager.start_kernel()
    Sandbox.connect(Sandbox.list(root=root)[0].name, root=root).kill()
    wait_until(lambda: not manager.is_alive(), "the sandbox's end is seen", WAIT_S)
    manager.restart_kernel(now=True)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=WAIT_S)
    assert cell(client, "print('another')")[0] == "another\n"
    client.stop_channels()
