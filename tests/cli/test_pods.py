"""Several containers in one sentry: which objects they share, and that one outlives another.

One whose processes cannot be made any more, since the host's process is gone of which they are forks, ends alone.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXPECTED = """\
second created True started True
first heard b'hello\\nheard\\n'
second says [b'second', b'second'] sees the other: False
third created True started True
list [('main', 'running'), ('second', 'running'), ('third', 'running')]
processes [True, True]
delete of a running one: container second is running
second ended [('oom_kills', 0), ('status', 9)]
deleted True
deleted True
first lives: True
second created True started True
second again [('oom_kills', 0), ('status', 768)]
fourth created True started True
fourth ended [('oom_kills', 0), ('status', 9)]
end 9 \n"""


def test_two_containers() -> None:
    if shutil.which("busybox") is None:
        pytest.skip("no busybox")
    program = Path(__file__).with_name("pod.py")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == EXPECTED, done.stderr


def test_a_gofer_that_says_nothing_keeps_no_other_container() -> None:
    if shutil.which("busybox") is None:
        pytest.skip("no busybox")
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.slow_pod"], capture_output=True, text=True, timeout=100, check=False
    )
    expected = "True False\nb'others\\n'\ncreated True\nb'second\\n'\nend 9 \n"
    assert done.stdout == expected, done.stderr
