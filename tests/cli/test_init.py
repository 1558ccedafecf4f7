"""pid 1: the sandbox's own init, and with `--no-init` the command itself."""

from tests.cli.harness import Running, run

LOOK = """
import ctypes, os, resource
print(os.getpid(), os.getppid(), os.getpgid(1), os.getsid(1))
print([os.kill(1, number) for number in (0, 15, 9, 19)])
print(os.sched_getaffinity(1) == os.sched_getaffinity(0), os.sched_getscheduler(1), os.getpriority(0, 1))
print(resource.prlimit(1, resource.RLIMIT_NOFILE)[0] > 0)
header, sets = (ctypes.c_uint * 2)(0x20080522, 1), (ctypes.c_uint * 6)()
print(ctypes.CDLL(None).capget(header, sets))
print(open('/proc/1/comm').read().strip(), '1' in os.listdir('/proc'), os.stat('/proc/1/status').st_uid)
"""
ORPHAN = """
import os, time
reader, writer = os.pipe()
if not os.fork():
    if not os.fork():
        while os.getppid() != 1: time.sleep(0.01)
        print('orphan', flush=True); os._exit(3)
    os._exit(0)
os.close(writer)
os.wait()
os.read(reader, 1)
try: print(os.WEXITSTATUS(os.wait()[1]))
except ChildProcessError: print('no child')
"""


def test_init_is_a_process() -> None:
    done = run("/usr/bin/python3", "-c", LOOK, options=("-u", "0"))
    expected = ["2 1 1 1", "[None, None, None, None]", "True 0 0", "True", "0", "cloche-init True 0"]
    assert done.out.splitlines() == expected, done


def test_the_command_may_be_init() -> None:
    done = run("/usr/bin/python3", "-c", LOOK, options=("-u", "0", "--no-init"))
    expected = ["1 0 1 1", "[None, None, None, None]", "True 0 0", "True", "0", "python3 True 0"]
    assert done.out.splitlines() == expected, done


def test_an_unprivileged_user_cannot_signal_init() -> None:
    done = run("sh", "-c", "kill -TERM 1; kill -0 1; echo $?", options=("-u", "1234"))
    assert done.out == "1\n" and done.err.lower().count("not permitted") == 2, done


def test_orphans() -> None:
    done = run("/usr/bin/python3", "-c", ORPHAN)
    assert sorted(done.out.splitlines()) == ["no child", "orphan"], done
    done = run("/usr/bin/python3", "-c", ORPHAN, options=("--no-init",))
    assert done.out.splitlines() == ["orphan", "3"], done


def test_without_init_default_actions_do_not_touch_the_command() -> None:
    """As for any pid 1: only what it handles reaches it, even SIGTERM from outside."""
    script = "trap 'echo got' USR1; echo ready; while read x; do :; done; kill -9 $$; echo alive; exit 5"
    running = Running("bash", "-c", script, options=("--no-init",))
    try:
        assert running.wait_for_line() == "ready"
        assert running.wait_for_line() == "alive"
        assert running.finish().status == 5
    finally:
        running.end()


def test_its_faults_are_fatal() -> None:
    done = run("/usr/bin/python3", "-c", "import ctypes; ctypes.string_at(0)", options=("--no-init",))
    assert done.status == 139, done


def test_init_is_not_counted() -> None:
    done = run("sh", "-c", "sleep 0.1 & sleep 0.1 & wait; echo done", options=("--pids", "3"))
    assert done.status == 0 and done.out == "done\n", done
