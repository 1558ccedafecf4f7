"""Unchanged programs that fetch data: package managers, git, languages' own clients, a browser, an agent's stream.

Each by a rule that screens TLS, where the program is told to trust the server's certificate, and by one that
inspects, where it has only cloche's own settings. Plain HTTP is relayed.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.egress.depot import EVENTS, PLAIN, SECURE
from tests.egress.world import Outcome, World, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

HTTPS = f"https://good.test:{SECURE}"
HTTP = f"http://good.test:{PLAIN}"
INSPECTED = f'version = 1\nauthorities = ["cert.pem"]\n[[allow]]\nhost = "good.test"\nports = [{SECURE}]\ninspect = true\n'
# The settings by which each trusts a certificate.
BELIEVING = (
    "PIP_CERT",
    "npm_config_cafile",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
)


def put(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def make_wheel(files: Path) -> None:
    """A package of Python, and the index of PEP 503 that has it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("demo.py", "print('this is demo')\n")
        wheel.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        wheel.writestr(
            "demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("demo-1.0.dist-info/RECORD", "")
    name = "demo-1.0-py3-none-any.whl"
    put(files / "simple/demo" / name, made.getvalue())
    put(files / "simple/demo/index.html", f'<!DOCTYPE html><a href="{name}">{name}</a>'.encode())


def make_npm(files: Path) -> None:
    """A package of node, and what a registry says of it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in (
            ("package/package.json", '{"name": "demo", "version": "1.0.0", "main": "i.js"}'),
            ("package/i.js", "console.log('this is demo')\n"),
        ):
            row = tarfile.TarInfo(name)
            row.size = len(text)
            tar.addfile(row, io.BytesIO(text.encode()))
    data = put(files / "demo-1.0.0.tgz", made.getvalue())
    dist = {
        "tarball": f"{HTTPS}/demo-1.0.0.tgz",
        "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode(),
    }
    version = {"name": "demo", "version": "1.0.0", "main": "i.js", "dist": dist}
    said = {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    put(files / "demo", json.dumps(said).encode())


def make_deb(files: Path, folder: Path) -> None:
    """A package of Debian in a flat archive."""
    if shutil.which("dpkg-deb") is None:
        return
    control = "Package: demo\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.test>\nDescription: demo\n"
    put(folder / "deb/DEBIAN/control", control.encode())
    put(folder / "deb/opt/demo", b"this is demo\n")
    (files / "apt").mkdir()
    path = files / "apt/demo.deb"
    subprocess.run(["dpkg-deb", "-b", str(folder / "deb"), str(path)], check=True, capture_output=True)
    data = path.read_bytes()
    row = f"{control}Filename: ./demo.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    packages = put(files / "apt/Packages", row.encode())
    packed = put(files / "apt/Packages.gz", gzip.compress(packages))
    sums = [
        f" {hashlib.sha256(each).hexdigest()} {len(each)} {name}"
        for name, each in (("Packages", packages), ("Packages.gz", packed))
    ]
    put(files / "apt/Release", ("SHA256:\n" + "\n".join(sums) + "\n").encode())


def make_git(files: Path, folder: Path) -> None:
    """A repository."""
    if shutil.which("git") is None:
        return
    script = (
        "git init -q -b main w && cd w && echo this is demo > file && git add file &&"
        " git -c user.name=a -c user.email=a@b.test commit -q -m one && cd .. &&"
        f" git clone -q --bare w {files}/demo.git && git -C {files}/demo.git update-server-info"
    )
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(folder)}
    subprocess.run(["sh", "-ec", script], cwd=folder, env=environ, check=True, capture_output=True)


class DepotWorld(World):
    """With the depot."""

    def __init__(self, folder: Path, files: Path) -> None:
        super().__init__(folder)
        put(files / "page", b"<!DOCTYPE html><title>demo</title><p id=a>this is demo</p>")
        (files / "page").rename(files / "page.html")
        make_wheel(files)
        make_npm(files)
        make_deb(files, files.parent)
        make_git(files, files.parent)
        (folder / "inspected.toml").write_text(INSPECTED)
        self.depot = subprocess.Popen(
            [*self.enter(self.outside), sys.executable, "-m", "tests.egress.depot", str(folder), str(files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self.depot.stdout is not None
        assert self.depot.stdout.readline() == "ready\n"

    def shell(self, script: str, way: str, *options: str) -> Outcome:
        """Run it by the rule of a way."""
        if way == "inspected":
            return self.run(["sh", "-c", script], "--net", "inspected.toml", *options)
        told = [word for name in BELIEVING for word in ("-e", f"{name}={self.folder}/cert.pem")]
        rule = f"good.test:{PLAIN}/http" if way == "http" else f"good.test:{SECURE}/tls"
        return self.run(["sh", "-c", script], "--allow", rule, *told, *options)

    def close(self) -> None:
        self.depot.kill()
        self.depot.communicate()
        super().close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DepotWorld]:
    folder = tmp_path_factory.mktemp("depot")
    (folder / "files").mkdir()
    made = DepotWorld(tmp_path_factory.mktemp("egress"), folder / "files")
    yield made
    made.close()


def need(program: str) -> None:
    if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/bin") is None:
        pytest.skip(f"{program} is not installed")


FETCHING = {
    "pip": "pip install --no-cache-dir --disable-pip-version-check -q --target /tmp/p"
    f" --trusted-host good.test:{PLAIN} --index-url {{url}}/simple/ demo"
    " && PYTHONPATH=/tmp/p python3 -c 'import demo'",
    "npm": "mkdir -p /tmp/n && cd /tmp/n && HOME=/tmp/n npm install --no-audit --no-fund --silent --registry {url}/ demo"
    " && node -e \"require('demo')\"",
    "git": "git clone -q {url}/demo.git /tmp/g && cat /tmp/g/file",
    "curl": "curl -sS {url}/page.html | grep -o 'this is demo'",
    "node": "node -e \"fetch('{url}/page.html').then(r => r.text()).then(t => console.log(/this is demo/.exec(t)[0]))\"",
    "apt-get": "mkdir -p /tmp/a/lists/partial /tmp/a/arch/partial /tmp/a/etc && : > /tmp/a/status"
    " && echo 'deb [trusted=yes] {url}/apt ./' > /tmp/a/etc/list && cd /tmp/a && apt=\"apt-get -qq -o Dir::State=/tmp/a"
    " -o Dir::State::status=/tmp/a/status -o Dir::Cache=/tmp/a -o Dir::Etc::sourcelist=/tmp/a/etc/list"
    " -o Dir::Etc::sourceparts=/nowhere -o Dir::State::lists=/tmp/a/lists -o APT::Sandbox::User="
    ' -o Acquire::https::CaInfo=$CURL_CA_BUNDLE" && $apt update && $apt download demo >/dev/null && dpkg-deb -x demo*.deb x'
    " && cat x/opt/demo",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["tls", "inspected", "http"])
@pytest.mark.parametrize("client", list(FETCHING))
def test_fetching(world: DepotWorld, client: str, way: str) -> None:
    need(client)
    if client == "npm" and way == "http":
        pytest.skip("what the registry says leads to HTTPS")
    outcome = world.shell(FETCHING[client].replace("{url}", HTTP if way == "http" else HTTPS), way)
    assert outcome.out.strip() == "this is demo", outcome


# An agent's way to talk to a model: events that must come one by one.
STREAMING = """
import httpx, sys
with httpx.Client(verify=sys.argv[1], timeout=60) as client:
    with client.stream("GET", "{url}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                print(line, flush=True)
                client.get("{url}/ack/" + line[6:]).raise_for_status()
"""


@pytest.mark.parametrize("way", ["tls", "inspected"])
def test_a_stream_of_events(world: DepotWorld, way: str) -> None:
    pytest.importorskip("httpx")
    (world.folder / "stream.py").write_text(STREAMING.replace("{url}", HTTPS))
    packages = sysconfig.get_path("purelib")
    script = "PYTHONPATH=/opt/packages python3 stream.py $SSL_CERT_FILE"
    outcome = world.shell(script, way, "-v", f"{packages}:/opt/packages:ro")
    assert outcome.out.split() == [word for number in range(EVENTS) for word in ("data:", str(number))], (
        outcome
    )


MUSL = r"""
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo("good.test", "PORT", &hints, &found);
    if (error) { puts(gai_strerror(error)); return 1; }
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen)) { perror("connect"); return 1; }
    const char *asked = "GET /page.html HTTP/1.1\r\nHost: good.test:PORT\r\nConnection: close\r\n\r\n";
    write(fd, asked, strlen(asked));
    char buffer[4096]; int got, all = 0;
    while ((got = read(fd, buffer + all, sizeof buffer - 1 - all)) > 0) all += got;
    buffer[all] = 0;
    puts(strstr(buffer, "this is demo") ? "this is demo" : buffer);
    return getaddrinfo("evil.test", "80", &hints, &found) == EAI_NONAME ? 0 : 1;
}
"""


def test_a_program_of_musl(world: DepotWorld) -> None:
    """Whose resolver asks for both families at once, and fails on answers that others put up with."""
    need("musl-gcc")
    (world.folder / "m.c").write_text(MUSL.replace("PORT", str(PLAIN)))
    subprocess.run(["musl-gcc", "-static", "-o", "m.out", "m.c"], cwd=world.folder, check=True)
    outcome = world.shell("./m.out; echo $?", "http")
    assert outcome.out.split("\n")[:2] == ["this is demo", "0"], outcome


@pytest.mark.parametrize("way", ["tls", "inspected"])
def test_tls_of_musl(world: DepotWorld, way: str) -> None:
    """Static, without OpenSSL: BearSSL, which reads the bundle that SSL_CERT_FILE names."""
    need("musl-gcc")
    library = next(Path("/usr/lib").glob("*/libbearssl.a"), None)
    if library is None:
        pytest.skip("libbearssl-dev is not installed")
    source = (Path(__file__).parent / "musl_tls.c").read_text().replace("PORT", str(SECURE))
    (world.folder / "t.c").write_text(source)
    # (Its own headers come before those of the system's other C library.)
    words = [
        "musl-gcc",
        "-static",
        "-O1",
        "-fno-builtin",
        "-idirafter",
        "/usr/include",
        "-o",
        "t.out",
        "t.c",
        str(library),
    ]
    subprocess.run(words, cwd=world.folder, check=True)
    outcome = world.shell("./t.out", way)
    assert outcome.out.strip() == "this is demo", outcome


JAVA = """public class C { public static void main(String[] a) throws Exception {
    var client = java.net.http.HttpClient.newHttpClient();
    var asked = java.net.http.HttpRequest.newBuilder(java.net.URI.create("URL/page.html")).build();
    var text = client.send(asked, java.net.http.HttpResponse.BodyHandlers.ofString()).body();
    if (text.contains("this is demo")) System.out.println("this is demo");
} }
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["tls", "inspected", "http"])
def test_java(world: DepotWorld, way: str) -> None:
    """The client that came with Java 11, which speaks HTTP/2."""
    need("javac")
    need("keytool")
    (world.folder / "C.java").write_text(JAVA.replace("URL", HTTP if way == "http" else HTTPS))
    done = subprocess.run(["javac", "C.java"], cwd=world.folder, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"javac builds nothing here: {done.stderr[-200:]!r}")
    store = world.folder / "store"
    if way == "tls" and not store.exists():
        words = [
            "keytool",
            "-importcert",
            "-noprompt",
            "-alias",
            "a",
            "-file",
            "cert.pem",
            "-keystore",
            "store",
        ]
        subprocess.run([*words, "-storepass", "changeit"], cwd=world.folder, capture_output=True, check=True)
    told = (
        f"-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit"
        if way == "tls"
        else ""
    )
    outcome = world.shell(f"java -Xint {told} C 2>err || tail -5 err", way)
    assert outcome.out.strip() == "this is demo", outcome


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["tls", "inspected", "http"])
def test_a_browser(world: DepotWorld, way: str) -> None:
    """It has a list of authorities of its own, and is told to trust all; it offers ECH (GREASE) and HTTP/2."""
    need("chromium")
    url = HTTP if way == "http" else HTTPS
    script = (
        "HOME=/tmp timeout 600 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage"
        f" --ignore-certificate-errors --user-data-dir=/tmp/c --dump-dom {url}/page.html 2>/tmp/err || tail -20 /tmp/err"
    )
    outcome = world.shell(script, way, "--memory", "3g")
    assert '<p id="a">this is demo</p>' in outcome.out, outcome


GO = """package main
import ("fmt"; "io"; "net/http"; "strings")
func main() {
    r, e := http.Get("URL/page.html")
    if e != nil { fmt.Println(e); return }
    b, _ := io.ReadAll(r.Body)
    if strings.Contains(string(b), "this is demo") { fmt.Println("this is demo") }
}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # Go compiles its own library first
@pytest.mark.parametrize("way", ["tls", "inspected", "http"])
def test_go(world: DepotWorld, way: str) -> None:
    need("go")
    (world.folder / "c.go").write_text(GO.replace("URL", HTTP if way == "http" else HTTPS))
    environ = {**os.environ, "GO111MODULE": "off"}
    done = subprocess.run(
        ["go", "build", "-o", "c.out", "c.go"], cwd=world.folder, env=environ, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"go builds nothing here: {done.stderr[-200:]!r}")
    outcome = world.shell("./c.out", way)
    assert outcome.out.strip() == "this is demo", outcome
