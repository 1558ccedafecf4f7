"""State is data (kernel/state.py): the objects that can be reached from the kernel, and the variables of modules."""

import ast
from functools import cache

from tests.style.state_walk import PACKAGES, Walk

from cloche.kernel.state import MODULE_STATE, REBUILT

KERNEL_PACKAGES = ("platform", "mm", "vfs", "kernel", "fs", "net", "syscalls")


@cache
def walked(*, is_declared: bool = True) -> Walk:
    walk = Walk(REBUILT if is_declared else {})
    walk.run()
    return walk


def test_what_the_kernel_holds_is_data_or_declared() -> None:
    assert walked().problems == {}


def test_every_exception_is_needed() -> None:
    assert set(REBUILT) - walked().used == set()


def test_every_exception_has_its_reason() -> None:
    assert all(len(reason) > 8 for reason in (*REBUILT.values(), *MODULE_STATE.values()))


def test_the_walk_gets_around() -> None:
    reached = walked().reached
    for name in (
        "kernel.task.Task",
        "kernel.timers.Timer",
        "kernel.itimers.PosixTimer",  # by TimerOwner
        "kernel.futex.FutexTable",  # by FutexWaiters
        "kernel.ptrace.stops.SignalStop",  # by Blocked
        "fs.pipe.PipeFile",  # by FileDescription
        "net.tcp.TcpSocket",
        "mm.address_space.AddressSpace",
        "vfs.objects.Mount",
    ):
        assert name in reached
    assert len(reached) > 300


def test_the_walk_finds_what_is_no_data() -> None:
    problems = walked(is_declared=False).problems
    assert problems["kernel.task.Hooks.at_exit"].startswith("Callable")
    assert problems["fs.hostfd.HostFd.fd"] == "a descriptor's number"
    assert problems["net.host_stream.HostStream.host"] == "socket.socket"
    assert "object" in problems["kernel.programs.Programs._known"]


def test_modules_keep_no_state() -> None:
    """No `global`, and no name that is bound to an empty container or to an object of ours that is not declared."""
    found: set[str] = set()
    for module in walked().modules.values():
        if module.name.split(".")[0] not in KERNEL_PACKAGES:
            continue
        assert not [node for node in ast.walk(module.tree) if isinstance(node, ast.Global)], module.name
        own = {node.name for node in module.tree.body if isinstance(node, ast.ClassDef)}
        for statement in module.tree.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                target, value = statement.target, statement.value
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                target, value = statement.targets[0], statement.value
            else:
                continue
            is_empty = (isinstance(value, ast.Dict) and not value.keys) or (
                isinstance(value, ast.List) and not value.elts
            )
            is_made = (
                isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in own
            )
            if is_empty or is_made:
                found.add(f"{module.name}.{target.id}")
    assert found == set(MODULE_STATE)
    assert set(KERNEL_PACKAGES) < set(PACKAGES)
