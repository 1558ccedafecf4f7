"""Real programs give the same output and exit status in cloche as on the host."""

import shutil
from pathlib import Path

import pytest

from tests.guest.harness import compare

PYTHON = "/usr/bin/python3"

POOL = """
import concurrent.futures, multiprocessing, threading, subprocess, asyncio, json, sqlite3, ctypes, hashlib, os
def square(n): return n * n
if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        print(sum(pool.map(square, range(50))))
    results = []
    threads = [threading.Thread(target=lambda n=n: results.append(n)) for n in range(10)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(sorted(results))
    print(subprocess.run(["sh", "-c", "echo out; exit 4"], capture_output=True))
    async def main():
        await asyncio.sleep(0.01)
        p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        out, _ = await p.communicate(b"hello")
        return out, p.returncode
    print(asyncio.run(main()))
    db = sqlite3.connect("x.db"); db.execute("create table t(a)"); db.executemany("insert into t values(?)", [(i,) for i in range(500)]); db.commit()
    print(db.execute("select sum(a) from t").fetchone())
    print(ctypes.CDLL(None).abs(-5), hashlib.sha256(b"x").hexdigest()[:8])
"""

GIT = """
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
git init -q r && cd r
for i in $(seq 60); do echo "file $i" > f$i; done
git add . && git commit -qm one
git checkout -qb side && echo side > side && git add side && git commit -qm side
git checkout -q main && echo main > f1 && git commit -qam main
git merge -q side -m merge && git log --oneline | wc -l && git log --format=%T -1 && git status --short | wc -l
git fsck 2>&1 | tail -1; git gc -q; git clone -q . ../c && ls ../c | wc -l
"""

C_PROGRAM = '#include <stdio.h>\\nint add(int,int);int main(){printf(\\"sum %d\\\\n\\", add(2,3));return 0;}'
MAKE = f"""
printf '{C_PROGRAM}' > main.c
echo 'int add(int a,int b){{return a+b;}}' > add.c
printf 'all: prog\\n\\t./prog\\nprog: main.o add.o\\n\\t$(CC) -o $@ $^\\n%%.o: %%.c\\n\\t$(CC) -O2 -c $<\\n' > Makefile
make -j4 2>&1 | sort; ./prog
"""

CASES = {
    "true": ["/bin/true"],
    "false": ["/bin/false"],
    "echo": ["/bin/echo", "hello", "world"],
    "cat_stdin": ["/bin/cat"],
    "bash_pipeline": ["bash", "-c", "for i in $(seq 200); do echo $((i%7)); done | sort | uniq -c | sort -rn | head -3"],
    "bash_heredoc": ["bash", "-c", "cat <<X | tr a-z A-Z\nhello\nX\necho ${PIPESTATUS[@]}"],
    "bash_signals": ["bash", "-c", "trap 'echo got' TERM; kill -TERM $$; sleep 0.01; echo end; kill -KILL $$"],
    "bash_jobs": ["bash", "-c", "sleep 0.05 & wait $!; echo $?; (exit 3) & wait $!; echo $?"],
    "bash_substitution": ["bash", "-c", "diff <(printf 'a\\nb\\n') <(printf 'a\\nc\\n'); echo $?"],
    "exit_status": ["sh", "-c", "exit 42"],
    "segfault": ["sh", "-c", "ulimit -c 0; kill -SEGV $$"],
    "ignores_term": ["bash", "-c", "(trap '' TERM; kill -TERM $BASHPID; echo alive); echo $?"],
    "daemon": ["sh", "-c", "(setsid sh -c 'sleep 0.05; echo done > out' &) ; while [ ! -s out ]; do sleep 0.02; done; cat out"],
    "find": ["sh", "-c", "find /usr/bin /usr/lib/python3* -xdev -type f | sort | wc -l"],
    "tar": ["sh", "-c", "tar c --sort=name /usr/share/doc/bash 2>/dev/null | sha256sum"],
    "ls": ["sh", "-c", "ls -ln /usr/bin | awk '{print $1,$3,$4,$5,$9}' | sha256sum"],
    "python": [PYTHON, "-c", "import sys, os; print(sys.version, os.getuid(), os.getcwd() != '/')"],
    "python_modules": [PYTHON, "-c", "import json, ssl, sqlite3, asyncio, ctypes, multiprocessing; print('ok')"],
    "python_pool": [PYTHON, "pool.py"],
    "perl": ["perl", "-e", "print join(',', map { $_*2 } 1..5), \"\\n\"; open(F, '>x'); print F 'y'; close F; print -s 'x', \"\\n\"; system('true'); print $?"],
    "awk_sed": ["sh", "-c", "seq 100 | awk '{s+=$1} END {print s}' | sed s/5/x/g"],
    "git": ["bash", "-c", GIT],
    "gcc": ["sh", "-c", "echo 'int main(void){return 9;}' > x.c && gcc -O2 x.c -o x && ./x; echo $?"],
    "make": ["bash", "-c", MAKE],
    "valgrind": ["sh", "-c", "echo 'int main(void){return puts(\"run\");}' > x.c && gcc -w x.c -o x && valgrind -q --error-exitcode=3 ./x; echo $?"],
    "sqlite": ["sqlite3", "t.db", "pragma journal_mode=wal; create table t(a); with recursive c(x) as (select 1 union all select x+1 from c where x<2000) insert into t select x from c; select sum(a) from t;"],
    "node": ["node", "-e", "const fs=require('fs'); fs.writeFileSync('x','y'); console.log(fs.readdirSync('.').length>0, [1,2].map(x=>x*2)); setTimeout(()=>console.log('later'),5)"],
    "node_child": ["node", "-e", "const cp=require('child_process'); console.log(cp.execSync('echo hi').toString()); const w=require('worker_threads'); if (w.isMainThread) { new w.Worker(\"require('worker_threads').parentPort.postMessage(7)\", {eval:true}).on('message', m=>console.log(m)) }"],
    "busybox": ["busybox", "sh", "-c", "echo a b c | busybox wc -w; busybox ls / >/dev/null && echo ok"],
    "xargs": ["sh", "-c", "seq 20 | xargs -n1 -P4 echo | sort -n | tail -1"],
    "dd": ["sh", "-c", "dd if=/dev/zero of=big bs=64k count=100 2>/dev/null; stat -c %s big; sha256sum < big"],
    "gzip": ["sh", "-c", "seq 10000 | gzip -n | sha256sum; seq 10000 | gzip | gunzip | md5sum"],
    "symlinks": ["sh", "-c", "ln -s a b; ln -s b a; cat a; echo $?; mkdir -p d/e; ln -s d/e l; cd l; pwd -P | rev | cut -d/ -f1-2 | rev"],
    "proc_self": ["sh", "-c", "readlink /proc/self/exe | xargs basename; tr '\\0' ' ' < /proc/self/cmdline | head -c 20; ls /proc/self/fd | wc -l"],
    "tempfile": ["sh", "-c", "f=$(mktemp); echo x > $f; cat $f; rm $f; ls $f 2>/dev/null; echo $?"],
    "timeout": ["timeout", "0.1", "sleep", "5"],
    "yes_head": ["bash", "-c", "yes | head -n 10000 | wc -l; echo ${PIPESTATUS[0]}"],
}  # fmt: skip
# Those that end with another status than 0, and those that print nothing.
STATUS = {"false": 1, "bash_signals": 137, "exit_status": 42, "segfault": 139, "timeout": 124}
SILENT = {"true", "false", "exit_status", "segfault", "timeout"}


@pytest.mark.parametrize("name", list(CASES))
def test_workload(name: str, tmp_path: Path) -> None:
    argv = CASES[name]
    tool = {"python_pool": PYTHON}.get(name, argv[0])
    needed = {"git": "git", "gcc": "gcc", "make": "make", "valgrind": "valgrind"}.get(name, tool)
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    source = tmp_path / "pool.py"
    source.write_text(POOL)
    compare(
        argv,
        tmp_path,
        stdin=b"some\ninput\n",
        files=(source,),
        status=STATUS.get(name, 0),
        silent=name in SILENT,
    )
