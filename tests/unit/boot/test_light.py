"""Light modules (`cloche.light`) stand in for standard ones in the keeper and its forks."""

import os
import shutil
import subprocess
import sys

import pytest

import cloche

PACKAGE = os.path.dirname(os.path.abspath(cloche.__file__))
LIGHT = os.path.join(PACKAGE, "light")
SITE = [os.path.dirname(PACKAGE), *[path for path in sys.path if path.endswith("-packages")]]
# The modules that light ones keep out of a start.
HEAVY = {
    "enum",
    "re",
    "functools",
    "contextlib",
    "selectors",
    "keyword",
    "operator",
    "random",
    "logging",
    "threading",
}


def in_light(code: str) -> str:
    """The output of `code` in an interpreter that was started as the keeper's is."""
    start = f"import sys; sys.path[:0] = [{LIGHT!r}]; sys.path += {SITE!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module", ["boot.keeper", "boot.sentry", "gofer.launch", "boot.broker", "oci.running"]
)
def test_a_part_imports_nothing_heavy(module: str) -> None:
    loaded = in_light(f"import cloche.{module}\nprint(*sys.modules)").split()
    assert f"cloche.{module}" in loaded
    assert HEAVY & set(loaded) == set()


def test_no_part_asks_a_light_module_for_what_it_lacks_while_it_is_imported() -> None:
    code = "import cloche.boot.keeper, cloche.boot.sentry, cloche.gofer.launch, cloche.boot.broker, cloche.oci.running\n"
    assert in_light(code + "print(list(sys.modules['cloche.light.standard']._found))").strip() == "[]"


PYTHONS = [
    python
    for python in (
        sys.executable,
        *(shutil.which(f"python3.{minor}", path="/usr/bin") for minor in range(11, 16)),
    )
    if python
]


@pytest.mark.parametrize("python", PYTHONS)
def test_light_modules_may_be_left_again(python: str) -> None:
    """A keeper starts an analyst for each of its gofers, and leaves them each time; in each Python of the machine."""
    code = f"""
import sys
sys.path[:0] = [{LIGHT!r}]
sys.path.append({os.path.dirname(PACKAGE)!r})
import collections, socket, typing
assert collections.__file__.startswith({LIGHT!r})
from cloche.light.standard import leave
for _ in range(3):
    leave()
    import collections.abc
    assert not collections.__file__.startswith({LIGHT!r}) and collections.abc.Mapping and collections.OrderedDict
"""
    done = subprocess.run(
        [python, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr


def test_sockets_are_those_of_the_standard_library() -> None:
    code = """
import os, socket
from array import array
assert socket.__file__.startswith(%r)
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
assert not os.get_inheritable(ours.fileno())
with ours, theirs.dup() as copy:
    assert copy.fileno() != theirs.fileno() and copy.family == socket.AF_UNIX
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [0, 1]))
    ours.sendmsg([b"message"], [rights])
    message, fds, flags, address = socket.recv_fds(copy, 16, 2)
    assert message == b"message" and len(fds) == 2
assert ours.fileno() == -1
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
client.connect(listener.getsockname())
connection, address = listener.accept()
assert address == client.getsockname() and connection.gettimeout() is None
client.send(b"x")
assert connection.recv(2) == b"x"
try:
    socket.socket(fileno=theirs.detach()).recv(1)
except ConnectionResetError:
    pass
except OSError:
    raise
print("done")
"""
    assert in_light(code % LIGHT).strip() == "done"


def test_the_rest_comes_from_the_standard_modules() -> None:
    code = """
import collections, collections.abc, signal, socket, typing
from collections import deque, namedtuple
from typing import Any, Final, NamedTuple
assert namedtuple("P", "x y")(1, 2).y == 2
assert signal.Signals(15).name == "SIGTERM" and signal.SIGTERM == 15
assert isinstance(deque([1]), collections.abc.Sequence)
assert socket.AddressFamily(socket.AF_UNIX).name == "AF_UNIX"
def annotated(a: Final[list[int]], b: Any | None) -> Any: ...
class Row(NamedTuple):
    field: int
assert Row(3).field == 3
print(sys.modules["signal"].__file__)
"""
    assert in_light(code).strip() == os.path.join(LIGHT, "signal.py")


def test_a_name_that_no_module_has_is_an_attribute_error() -> None:
    assert in_light(
        "import signal\nprint(hasattr(signal, 'no_such_name'), hasattr(signal, '__path__'))"
    ).split() == [
        "False",
        "False",
    ]


def test_others_get_the_standard_modules() -> None:
    code = """
import signal, socket, collections, typing
from cloche.light.standard import leave
leave()
import collections.abc, signal as again, traceback
print(again.__file__, *[path for path in sys.path if path.endswith("light")])
"""
    out = in_light(code).split()
    assert len(out) == 1 and not out[0].startswith(LIGHT)


def test_verbs_that_use_other_packages_have_the_standard_library() -> None:
    """The others import none while they are light; a rule for the network may be read then, too."""
    code = """
import importlib, os
from cloche.cli import main
mine = {"__main__", "cloche", "_cloche_mypyc"}
for verb in main._VERBS:
    if verb not in main._WITH_PACKAGES:
        importlib.import_module("cloche.cli." + verb)
        tops = {name.partition(".")[0] for name in sys.modules}
        found = {name for name in tops - sys.stdlib_module_names - mine if "__mypyc" not in name}
        assert found <= {"mypy_extensions", "librt"}, (verb, found)
from types import SimpleNamespace
from cloche.cli.network import policy_of
options = SimpleNamespace(net=["pypi"], deny=["b\u00fccher.example"], allow=["example.org:443"], dns=[])
print(len(policy_of(options).rules) > 2, sys.modules["socket"].__file__.startswith(%r))
"""
    assert in_light(code % LIGHT) == "True True\n"


def test_a_verb_with_packages_leaves_first() -> None:
    code = """
from cloche.cli import main
try:
    main.main(["pull", "--help"])
except SystemExit:
    import socket
    print(socket.__file__.startswith(%r), "urllib3" in sys.modules)
"""
    assert in_light(code % LIGHT).endswith("False True\n")
