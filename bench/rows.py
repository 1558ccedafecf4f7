"""The rows of the workload table: the work of each, the programs and data that it needs, and its result.

A row is a bash script that runs inside the sandbox, in an empty directory of its own (`$PWD`), with `$DATA` naming the
data sets. It calls `begin` and `end` around the measured part, after its preparations, or prints `#seconds N` itself;
all its other output is its result, which must match `expect`.
"""

from bench.data import SYSTEM_PYTHON

PRELUDE = """
set -e
begin() { BENCH_START=$EPOCHREALTIME; }
end() {
    local now=$EPOCHREALTIME
    local us=$(( 10#${now/./} - 10#${BENCH_START/./} ))
    printf '#seconds %d.%06d\\n' $((us / 1000000)) $((us % 1000000))
}
"""


class Row:
    """One line of the table."""

    def __init__(self, name: str, script: str, expect: str, programs: str = "", data: str = "") -> None:
        self.name = name
        self.script = PRELUDE + script.strip() + "\n"
        self.expect = expect  # a regular expression for its whole output
        self.programs = programs.split()
        self.data = data.split()


def _redis(options: str, requests: int, expect: str) -> str:
    return f"""
redis-server --port 6399 --bind 127.0.0.1 --save '' --appendonly no --daemonize no >/dev/null &
server=$!
trap 'kill $server 2>/dev/null; wait 2>/dev/null || true' EXIT
for try in $(seq 200); do redis-cli -p 6399 ping >/dev/null 2>&1 && break; sleep 0.05; done
begin
redis-benchmark -p 6399 -q -n {requests} {options} >out.txt
end
tr '\\r' '\\n' <out.txt | grep -o '{expect}' | sort -u
"""


_MODULES = """
import sys, pkgutil
skip = ("antigravity", "this", "idlelib", "tkinter", "turtle", "turtledemo", "test", "__main__", "lib2to3", "ensurepip")
names = [n for n in sorted(sys.stdlib_module_names) if not n.startswith("_") and n not in skip]
names += ["encodings." + m.name for m in pkgutil.iter_modules(__import__("encodings").__path__)]
for name in names:
    if len(sys.modules) >= 300:
        break
    try:
        __import__(name)
    except (ImportError, OSError):
        pass
print(len(sys.modules) >= 300)
"""

_NODE = """
const fs = require('fs');
const rows = JSON.parse(fs.readFileSync(process.env.DATA + '/big.json', 'utf8'));
const out = rows.filter((r) => r.size > 300).map((r) => ({ ...r, tags: r.tags.length, name: r.name.toUpperCase() }));
fs.writeFileSync('out.json', JSON.stringify(out));
console.log(rows.length > 400000, out.length > 100000, fs.statSync('out.json').size > 5e7);
"""

_NUMPY = """
import numpy
a = numpy.arange(1_000_000, dtype=float).reshape(1000, 1000) / 1e6
b = a
for _ in range(6):
    b = a @ b
    b /= b.max()
print(round(float(b[999, 999]), 6))
"""

ROWS = [
    Row("python start", f"begin\nfor i in 1 2 3 4 5; do {SYSTEM_PYTHON} -c 'print(6 * 7)'; done\nend",
        r"(42\n){5}", SYSTEM_PYTHON),
    Row("python, 300 modules", f"cat >m.py <<'EOF'{_MODULES}EOF\n{SYSTEM_PYTHON} m.py\n"
        f"begin\n{SYSTEM_PYTHON} m.py\nend",
        r"(True\n){2}", SYSTEM_PYTHON),
    Row("find /usr", "find /usr >/dev/null\nbegin\nfind /usr | wc -l >n\nend\n(( $(cat n) > 3000 )) && echo ok",
        r"ok\n", "find"),
    Row("tar to /dev/null", "begin\ntar cf /dev/null /usr/share 2>/dev/null || true\nend\necho ok", r"ok\n", "tar"),
    Row("tar /usr/share", "begin\ntar c /usr/share 2>/dev/null | wc -c >n || true\nend\n"
        "(( $(cat n) > 10000000 )) && echo ok",
        r"ok\n", "tar"),
    Row("git clone", "begin\ngit clone -q --no-hardlinks $DATA/repo.git c\nend\ngit -C c ls-files | wc -l",
        r"5000\n", "git", "repository"),
    Row("git status", "cp -r $DATA/repo c\ncd c\ngit status >/dev/null\necho x >>d07/f0007.txt\nbegin\n"
        "git status --porcelain\nend", r" M d07/f0007.txt\n", "git", "repository"),
    Row("git log", "begin\ngit -C $DATA/repo.git log --stat | wc -l\nend", r"\d{4,}\n", "git", "repository"),
    Row("gcc -O2, 5,000 lines", "begin\ngcc -w -O2 -c $DATA/big.c -o big.o\nend\nnm big.o | grep -c ' T all'",
        r"1\n", "gcc nm", "c"),
    Row("make -j2", "cp -r $DATA/project p\ncd p\nbegin\nmake -s -j2\nend\n./program", r"-?\d+\n", "gcc make", "c"),
    Row("pip install", f"begin\n{SYSTEM_PYTHON} -m pip install -q --no-index --find-links $DATA/wheels --target site "
        "bench-alpha bench-beta bench-gamma 2>err\nend\nls site/bench_alpha/*.py | wc -l", r"121\n",
        SYSTEM_PYTHON, "wheels"),
    Row("npm install", "echo '{\"name\":\"x\",\"version\":\"1.0.0\"}' >package.json\nbegin\n"
        "npm install --offline --no-audit --no-fund --loglevel=error $DATA/bench-package-1.0.0.tgz >/dev/null\nend\n"
        "ls node_modules/bench-package/lib | wc -l", r"400\n", "npm node", "npm"),
    Row("sqlite, one transaction", "begin\nsqlite3 t.db <$DATA/bulk.sql\nend", r"50000\|\d+\n", "sqlite3", "sql"),
    Row("sqlite, 500 transactions", "begin\nsqlite3 t.db <$DATA/single.sql\nend", r"500\|124750\n", "sqlite3", "sql"),
    Row("redis SET", _redis("-t set", 40000, "SET: [0-9]"), r"SET: \d\n", "redis-server redis-benchmark"),
    Row("redis GET", _redis("-t get", 40000, "GET: [0-9]"), r"GET: \d\n", "redis-server redis-benchmark"),
    Row("redis SET and GET, -P 16", _redis("-t set,get -P 16", 200000, "[GS]ET: [0-9]"), r"(GET: \d\n)+(SET: \d\n)+",
        "redis-server redis-benchmark"),
    Row("nginx + wrk", """
mkdir -p w && cd w && cp $DATA/nginx.conf . && nginx -p $PWD -c nginx.conf 2>/dev/null
trap 'kill $(cat nginx.pid)' EXIT
for try in $(seq 200); do (: </dev/tcp/127.0.0.1/8099) 2>/dev/null && break; sleep 0.05; done
wrk -t1 -c16 -d2s http://127.0.0.1:8099/index.html >out.txt
awk '/Requests\\/sec/ { printf "#seconds %.6f\\n", 10000 / $2 }
     /requests in/ { if ($1 > 100) print "served" } /Socket errors|Non-2xx/ { print "errors" }' out.txt
""", r"served\n", "nginx wrk awk", "web"),
    Row("postgres + pgbench", """
if [ $(id -u) = 0 ]; then as="setpriv --reuid=65534 --regid=65534 --clear-groups"; fi
cp -a $DATA/pg/cluster pgdata
options='-c listen_addresses=127.0.0.1 -c dynamic_shared_memory_type=mmap -p 5499 -k /tmp'
$as $PGBIN/pg_ctl -D $PWD/pgdata -w -l /tmp/pg.log -o "$options" start >/dev/null || {
    cat /tmp/pg.log >&2
    exit 1
}
trap '$as $PGBIN/pg_ctl -D $PWD/pgdata -w -m fast stop >/dev/null; rm -f /tmp/pg.log' EXIT
pgbench -n -c 4 -j 1 -t 150 -h 127.0.0.1 -p 5499 -U bench postgres >out.txt
awk '/tps = / { printf "#seconds %.6f\\n", 1000 / $3 } /processed: 600/ { print "done" }' out.txt
""", r"done\n", "pgbench setpriv awk", "postgres"),
    Row("node, 100 MB of JSON", f"cat >t.js <<'EOF'{_NODE}EOF\nbegin\nnode t.js\nend", r"true true true\n",
        "node", "json"),
    Row("numpy matmul", f"cat >t.py <<'EOF'{_NUMPY}EOF\nexport PYTHONPATH=$DATA/numpy\n"
        f"begin\n{SYSTEM_PYTHON} t.py\nend",
        r"\d\.\d+\n", SYSTEM_PYTHON, "numpy"),
    Row("bash, 2,000 forks", "begin\nfor ((i = 0; i < 2000; i++)); do (exit 0); done\nend\necho done",
        r"done\n", "bash"),
    Row("8 processes on pipes", "begin\n$DATA/hammer pipes\nend", r"8 processes\n", "gcc", "programs"),
    Row("8 threads on a mutex", "begin\n$DATA/hammer mutex\nend", r"2000000 turns\n", "gcc", "programs"),
    *[Row(f"dd to wc, {size} KiB", f"begin\ndd if=/dev/zero bs={size}k count=1G iflag=count_bytes 2>err | wc -c\nend",
          r"1073741824\n", "dd wc") for size in (4, 10, 64)],
    Row("1 GB written", "begin\ndd if=/dev/zero of=big bs=1M count=1000 2>/dev/null\nend\nwc -c <big",
        r"1048576000\n", "dd wc"),
    Row("small files, 100 thousand", "begin\n$DATA/files 100000\nend\ncat d77/f77 | wc -c", r"100000 files\n100\n",
        "gcc", "programs"),
    Row("unix round trip, 64 B", "begin\n$DATA/net unix-ping 20000\nend",
        r"20000 served, status 0\n", "gcc", "programs"),
    Row("tcp round trip, 64 B", "begin\n$DATA/net tcp-ping 20000\nend", r"20000 served, status 0\n", "gcc", "programs"),
    Row("unix, 64 KiB writes", "begin\n$DATA/net unix-bulk 10000\nend", r"10000 served, status 0\n", "gcc", "programs"),
    Row("tcp, 64 KiB writes", "begin\n$DATA/net tcp-bulk 10000\nend", r"10000 served, status 0\n", "gcc", "programs"),
    Row("tcp accept", "begin\n$DATA/net accept 3000\nend", r"3000 served, status 0\n", "gcc", "programs"),
]  # fmt: skip
