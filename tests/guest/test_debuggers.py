"""strace and gdb print the same for a program in cloche and on the host."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import compare

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int global = 7;
static void *work(void *arg) { usleep(1000); return arg; }
__attribute__((noinline)) int inner(int x)
{
    int y = x * 2;
    global += y;
    return y + global;
}
__attribute__((noinline)) int outer(int x)
{
    return inner(x + 1) + 1;
}
int main(int argc, char **argv)
{
    int status, result = outer(20);
    if (argc > 1) {
        if (fork() == 0) {
            execl("/bin/true", "true", NULL);
            _exit(1);
        }
        wait(&status);
        if (vfork() == 0) {
            execl("/nonexistent", "x", NULL);
            _exit(3);
        }
        wait(&status);
        printf("%d\n", WEXITSTATUS(status));
        pthread_t t;
        pthread_create(&t, NULL, work, NULL);
        pthread_join(t, NULL);
        status = system("exit 5");
        printf("%d\n", WEXITSTATUS(status));
    }
    printf("result %d\n", result);
    return 0;
}
"""

NAMES = r"sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*/\1/p' trace | grep -v -e futex -e mprotect -e rseq | sort | uniq -c"
ENDS = (
    r"sed -n -e 's/^[0-9]* *\(+++ .*\)/\1/p' -e 's/^[0-9]* *\(--- SIG[A-Z]*\).*/\1/p' trace | sort | uniq -c"
)

STRACE = {
    "threads and processes": f"strace -f -o trace ./prog x; {NAMES}; {ENDS}",
    "filtered in the kernel": f"strace -f --seccomp-bpf -e trace=write,execve -o trace ./prog x; {NAMES}; {ENDS}",
    "another result": "strace -o trace -e inject=getppid:retval=77 sh -c 'kill -0 $$; echo $PPID'",
    "a failure": "strace -o trace -e inject=openat:error=EACCES:when=3+ cat /etc/hostname 2>&1; echo $?; "
    "grep -c INJECTED trace",
    "a signal": f"strace -f -o trace sh -c 'kill -TERM $$'; echo $?; {ENDS}",
    "attached": "sleep 30 & p=$!; strace -o trace -p $p 2>/dev/null & while ! grep -q TracerPid:.[1-9] "
    f"/proc/$p/status; do sleep 0.02; done; kill $p; wait; {ENDS}",
}

BREAKPOINT = """
set pagination off
set confirm off
break inner
run
bt
print x
print global
next
next
print y
info locals
step
stepi
set var global = 100
watch -l nothing
tbreak outer
finish
continue
"""

THREADS = """
set pagination off
set confirm off
set args x
set detach-on-fork on
break work
run
bt 1
info inferiors
continue
"""

CATCH = """
set pagination off
set confirm off
set args x
catch fork
catch exec
set follow-fork-mode child
run
continue
continue
"""

CORE = """
set pagination off
set confirm off
break inner
run
generate-core-file core
kill
core-file core
bt
print global
"""

WATCH = """
set pagination off
set confirm off
break inner
run
watch global
set var global = 8
continue
delete
hbreak outer
info breakpoints
continue
"""

GDB = {
    "a breakpoint": BREAKPOINT,
    "threads": THREADS,
    "fork and exec": CATCH,
    "a core": CORE,
    "a watchpoint": WATCH,
}
PLAIN = r"sed -E -e 's/0x[0-9a-f]+/0xX/g' -e 's/(LWP|process|Thread|threads?|Process) [0-9]+/\1 N/g' -e 's/ +/ /g' -e 's#/[^ ]*/prog#prog#g'"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debugged")
    source = folder / "prog.c"
    source.write_text(PROGRAM)
    command = ["gcc", "-g", "-O0", "-pthread", f"-fdebug-prefix-map={folder}=.", "-o", "prog", "prog.c"]
    subprocess.run(command, check=True, timeout=150, cwd=folder)
    return folder / "prog"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", list(STRACE))
def test_strace(name: str, program: Path, tmp_path: Path) -> None:
    script = f"unset PWD OLDPWD; {STRACE[name]}"
    compare(["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", script], tmp_path, files=(program,))


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
@pytest.mark.parametrize("name", list(GDB))
def test_gdb(name: str, program: Path, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_text(GDB[name])
    script = f"gdb -q -nx -batch -x commands ./prog 2>&1 | {PLAIN} | grep -v -e '^.New' -e exited -e warning -e thread_db"
    compare(["sh", "-c", script], tmp_path, files=(program, program.with_suffix(".c"), commands))
