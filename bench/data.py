"""The data sets of the workload table, made once into a work directory and kept: nothing is fetched but numpy.

Owns the directory `data` below the work directory.  Each maker is run once; a file `.made-NAME` says that it was, and
is removed with the directory to start afresh.  A maker that cannot (no compiler, no package index) raises Missing,
and the rows that need it are skipped by name.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
SYSTEM_PYTHON = "/usr/bin/python3"  # one that a sandbox sees, too
POSTGRES = ("/usr/lib/postgresql", "/usr/pgsql", "/usr/local/pgsql")


class Missing(Exception):
    """A data set cannot be made here; the text has the reason."""


def sh(command: list[str], cwd: Path, data: bytes | None = None) -> bytes:
    """Run one step; raises Missing with the end of its output."""
    try:
        done = subprocess.run(command, cwd=cwd, input=data, capture_output=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from None
    if done.returncode:
        raise Missing(f"{command[0]}: {done.stderr.decode(errors='replace')[-200:].strip()}")
    return done.stdout


def programs(at: Path) -> None:
    """The C programs."""
    for source in PROGRAMS.glob("*.c"):
        sh(["gcc", "-O2", "-pthread", "-o", str(at / source.stem), str(source)], at)


def repository(at: Path) -> None:
    """A repository of 5,000 files and 201 commits, bare, and a clone of it."""
    lines = [b"commit refs/heads/main\ncommitter Bench <bench@localhost> 1700000000 +0000\ndata 5\nfirst\n"]
    for number in range(5000):
        text = b"".join(b"line %d of file %d\n" % (line, number) for line in range(number % 40 + 5))
        lines.append(b"M 644 inline d%02d/f%04d.txt\ndata %d\n%s\n" % (number % 50, number, len(text), text))
    for number in range(200):
        text = b"change %d\n" % number
        lines.append(
            b"commit refs/heads/main\ncommitter Bench <bench@localhost> %d +0000\ndata 6\nchange\n"
            b"M 644 inline d%02d/f%04d.txt\ndata %d\n%s\n"
            % (1700000100 + number, number % 50, number, len(text), text)
        )
    sh(["git", "init", "-q", "--bare", "-b", "main", "repo.git"], at)
    sh(["git", "fast-import", "--quiet"], at / "repo.git", b"".join(lines))
    sh(["git", "clone", "-q", "--no-hardlinks", "repo.git", "repo"], at)


def c_sources(at: Path) -> None:
    """One file of 5,000 lines, and a project of 24 files with a Makefile."""

    def function(name: str) -> str:
        return (
            f"static int {name}(const int *v, int n)\n{{\n    int sum = 0;\n    for (int i = 0; i < n; i++) {{\n"
            f"        switch (v[i] & 7) {{\n        case 0: sum += v[i] * {len(name)}; break;\n"
            "        case 1: sum ^= v[i] << 3; break;\n        default: sum -= v[i] / 3;\n        }\n"
            "    }\n    return sum;\n}\n"
        )

    body = "".join(function(f"f{n}") for n in range(384))
    calls = "".join(f"    s += f{n}(v, n);\n" for n in range(384))
    (at / "big.c").write_text(
        f"{body}int all(const int *v, int n)\n{{\n    int s = 0;\n{calls}    return s;\n}}\n"
    )
    project = at / "project"
    project.mkdir(exist_ok=True)
    names = [f"m{n}" for n in range(24)]
    for name in names:
        text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        text += "".join(function(f"{name}_{k}") for k in range(6))
        text += f"int {name}(void)\n{{\n    int v[4] = {{1, 2, 3, 4}};\n    return {name}_0(v, 4);\n}}\n"
        (project / f"{name}.c").write_text(text)
    main = "#include <stdio.h>\n" + "".join(f"int {name}(void);\n" for name in names)
    main += "int main(void)\n{\n    int s = 0;\n" + "".join(f"    s += {name}();\n" for name in names)
    (project / "main.c").write_text(main + '    printf("%d\\n", s);\n    return 0;\n}\n')
    (project / "Makefile").write_text(
        f"OBJECTS = main.o {' '.join(name + '.o' for name in names)}\nCFLAGS = -O1 -w\n"
        "program: $(OBJECTS)\n\t$(CC) -o $@ $(OBJECTS)\n"
    )


def json_file(at: Path) -> None:
    """100 MB of records."""
    with open(at / "big.json", "w", encoding="ascii") as file:
        file.write("[\n")
        number = 0
        while file.tell() < 100_000_000:
            record = {
                "id": number,
                "name": f"record {number}",
                "tags": ["red", "green", "blue"][: number % 3 + 1],
                "size": number * 7 % 1000,
                "text": "lorem ipsum dolor sit amet " * (number % 5 + 1),
            }
            file.write(("," if number else "") + json.dumps(record) + "\n")
            number += 1
        file.write("]\n")


def wheels(at: Path) -> None:
    """Three wheels of 120 modules each."""
    folder = at / "wheels"
    folder.mkdir(exist_ok=True)
    for name in ("alpha", "beta", "gamma"):
        files = {
            f"bench_{name}/m{n}.py": f"VALUE = {n}\n\n\ndef f{n}(x):\n    return x + VALUE\n" * 8
            for n in range(120)
        }
        files[f"bench_{name}/__init__.py"] = ""
        info = f"bench_{name}-1.0.dist-info"
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: bench-{name}\nVersion: 1.0\n"
        files[f"{info}/WHEEL"] = (
            "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        rows = []
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text)}")
        files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
        with zipfile.ZipFile(
            folder / f"bench_{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED
        ) as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)


def npm_package(at: Path) -> None:
    """A package of 400 modules."""
    with tarfile.open(at / "bench-package-1.0.0.tgz", "w:gz") as archive:
        files = {f"package/lib/m{n}.js": f"module.exports = (x) => x + {n};\n" * 10 for n in range(400)}
        files["package/package.json"] = json.dumps(
            {"name": "bench-package", "version": "1.0.0", "main": "lib/m0.js"}
        )
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


def sql(at: Path) -> None:
    """50,000 inserts in one transaction, 500 in as many."""
    table = "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c INTEGER);\n"
    rows = "".join(f"INSERT INTO t VALUES ({n}, 'text of {n}', {n * 7919 % 10007});\n" for n in range(50_000))
    (at / "bulk.sql").write_text(f"{table}BEGIN;\n{rows}COMMIT;\nSELECT count(*), sum(c) FROM t;\n")
    rows = "".join(f"INSERT INTO t VALUES ({n}, 'text of {n}', {n});\n" for n in range(500))
    (at / "single.sql").write_text(f"{table}{rows}SELECT count(*), sum(c) FROM t;\n")


def numpy(at: Path) -> None:
    """numpy for the system's Python, from the package index."""
    if not (at / "numpy" / "numpy").exists():
        sh([SYSTEM_PYTHON, "-m", "pip", "install", "-q", "--target", "numpy", "numpy"], at)


def web(at: Path) -> None:
    """nginx's configuration and a page of 4 KiB."""
    (at / "www").mkdir(exist_ok=True)
    (at / "www" / "index.html").write_text("<p>text</p>\n" * 341)
    (at / "nginx.conf").write_text(
        "worker_processes 1;\ndaemon on;\npid nginx.pid;\nerror_log nginx.log;\n"
        "events { worker_connections 256; }\n"
        "http { access_log off; sendfile on; keepalive_requests 1000000;\n"
        "  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n"
        f"  server {{ listen 127.0.0.1:8099; root {at}/www; }} }}\n"
    )


def postgres_bin() -> str:
    """The directory of initdb."""
    for top in POSTGRES:
        for path in sorted(Path(top).glob("*/bin"), reverse=True):
            if (path / "initdb").exists():
                return str(path)
    found = shutil.which("initdb")
    if found is None:
        raise Missing("postgres is not installed")
    return str(Path(found).resolve().parent)


def unprivileged() -> list[str]:
    """A prefix that runs a command as a user whom postgres accepts."""
    if os.geteuid():
        return []
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def postgres(at: Path) -> None:
    """A cluster with pgbench's tables at scale 1, shut down."""
    if shutil.which("pgbench") is None:
        raise Missing("pgbench is not installed")
    bin_, user = postgres_bin(), unprivileged()
    home = at / "pg"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    if not os.geteuid():
        os.chown(home, 65534, 65534)
    sh(
        [*user, f"{bin_}/initdb", "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", "cluster"],
        home,
    )
    options = "-c listen_addresses=127.0.0.1 -p 5499 -k /tmp"
    sh([*user, f"{bin_}/pg_ctl", "-D", "cluster", "-w", "-l", "log", "-o", options, "start"], home)
    try:
        sh([*user, "pgbench", "-q", "-i", "-h", "127.0.0.1", "-p", "5499", "-U", "bench", "postgres"], home)
    finally:
        sh([*user, f"{bin_}/pg_ctl", "-D", "cluster", "-w", "-m", "fast", "stop"], home)


MAKERS: dict[str, Callable[[Path], None]] = {
    "programs": programs,
    "repository": repository,
    "c": c_sources,
    "json": json_file,
    "wheels": wheels,
    "npm": npm_package,
    "sql": sql,
    "numpy": numpy,
    "web": web,
    "postgres": postgres,
}


def make(name: str, at: Path) -> None:
    """Make one data set unless it is there.  Raises Missing."""
    at.mkdir(parents=True, exist_ok=True)
    mark = at / f".made-{name}"
    # Programs are built anew: their sources may have changed.
    if mark.exists() and name != "programs":
        return
    print(f"making {name} …", file=sys.stderr)
    MAKERS[name](at)
    mark.touch()
