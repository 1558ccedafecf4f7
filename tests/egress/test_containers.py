"""Inspected TLS, secrets and changes of the rules for containers, with the runtime as an engine calls it."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.egress.servers import RESOLVER
from tests.egress.test_inspect import REAL, SECRETS
from tests.egress.world import RULE, InspectedWorld, missing
from tests.engines.harness import RUNTIME, Done, need, run

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
OPERATED = RULE + '[[allow.requests]]\npaths = ["/ok/**"]\n' + SECRETS


def snapshot(root: Path) -> dict[str, str]:
    """All files below a directory."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        else:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-"
    return found


class Containers:
    """Containers in the network namespace of a world's host, whose programs are the machine's."""

    def __init__(self, world: InspectedWorld, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.records = folder / "records"
        self.root = folder / "root"
        for name in ("usr", "etc/ssl/certs", "tmp", "proc", "dev", "sys"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(os.readlink(Path("/", name)))
            elif Path("/", name).is_dir():
                (self.root / name).mkdir()
        for name in ("passwd", "resolv.conf"):
            (self.root / "etc" / name).touch()
        (self.root / BUNDLE).write_text("# the image's\n")
        (folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        (folder / "bundle.crt").write_text("# mounted\n")
        (folder / "token").write_text(REAL + "\n")
        (folder / "cert.pem").write_bytes((world.folder / "cert.pem").read_bytes())
        # Mount points, which every runtime makes, are there already.
        (self.root / "dev").mkdir(exist_ok=True)

    def __call__(self, *words: str) -> Done:
        return run([*self.world.enter(self.world.host), RUNTIME, "--root", str(self.records), *words])

    def rules(self, text: str) -> str:
        path = self.folder / "operator.toml"
        path.write_text(text)
        return str(path)

    def bundle(self, name: str, annotation: str = "", *mounts: dict[str, Any]) -> Path:
        """A container that does nothing."""
        folder = self.folder / name
        folder.mkdir()
        assert run([RUNTIME, "spec", "-b", str(folder)]).status == 0
        data = json.loads((folder / "config.json").read_text())
        data["process"].update(terminal=False, args=["sleep", "1000"])
        data["root"] = {"path": str(self.root), "readonly": False}
        shared = ["/usr", *[f"/{each}" for each in ("lib", "lib64", "bin") if (self.root / each).is_dir()]]
        for path in dict.fromkeys(shared):
            if not (self.root / path.lstrip("/")).is_symlink():
                mount = {
                    "destination": path,
                    "type": "bind",
                    "source": path,
                    "options": ["bind", "ro"],
                }
                data["mounts"].append(mount)
        data["mounts"].append(self.file("resolv.conf", "etc/resolv.conf"))
        data["mounts"] += mounts
        for each in data["linux"]["namespaces"]:
            if each["type"] == "network":
                each["path"] = f"/proc/{self.world.host.pid}/ns/net"
        if annotation:
            data["annotations"] = {"dev.cloche.egress": annotation}
        (folder / "config.json").write_text(json.dumps(data))
        return folder

    def annotate(self, bundle: Path, **words: str) -> Path:
        """Say what containerd says of the containers of a pod."""
        path = bundle / "config.json"
        data = json.loads(path.read_text())
        data["annotations"] = {
            f"io.kubernetes.cri.{name.replace('_', '-')}": word for name, word in words.items()
        }
        path.write_text(json.dumps(data))
        return bundle

    def file(self, source: str, destination: str) -> dict[str, Any]:
        """A mount of a file."""
        path = str(self.folder / source)
        return {"destination": f"/{destination}", "type": "bind", "source": path, "options": ["bind", "ro"]}

    def start(self, name: str, bundle: Path, *options: str) -> None:
        self.world.seen()
        with open(self.folder / f"{name}.out", "wb") as out:
            done = subprocess.run(
                [
                    *(*self.world.enter(self.world.host), RUNTIME, "--root", str(self.records), *options),
                    *("create", "-b", str(bundle), name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=150,
                check=False,
            )
        assert done.returncode == 0, (self.folder / f"{name}.out").read_text()
        assert self("start", name).status == 0

    def inside(self, name: str, script: str) -> str:
        done = self("exec", name, "sh", "-c", script)
        return done.out.strip() or done.err.strip()

    def close(self) -> None:
        for ident in self("list", "-q").out.split():
            self("delete", "--force", ident)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedWorld]:
    need("curl")
    made = InspectedWorld(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


@pytest.fixture
def containers(world: InspectedWorld, tmp_path: Path) -> Iterator[Containers]:
    made = Containers(world, tmp_path)
    try:
        yield made
    finally:
        made.close()


GET = "curl -sS -o /dev/null -w '%{http_code}\\n' "


@pytest.mark.timeout(300)
def test_the_operator_s_rules_inspect(containers: Containers, world: InspectedWorld) -> None:
    """The authority is believed as the program sees the system's bundle, and the image stays what it was."""
    bundle = containers.bundle("one", "", containers.file("bundle.crt", BUNDLE))
    before = snapshot(containers.root)
    containers.start("one", bundle, "--egress", containers.rules(OPERATED))
    assert containers.inside("one", GET + "https://good.test:9443/ok/a") == "200"
    assert containers.inside("one", GET + "https://good.test:9443/no") == "403"
    # Without a variable, too: what covers the bundle has what was mounted there.
    plain = (
        "env -u CURL_CA_BUNDLE -u SSL_CERT_FILE " + GET + f"--cacert /{BUNDLE} https://good.test:9443/ok/b"
    )
    assert containers.inside("one", plain) == "200"
    assert containers.inside("one", f"head -1 /{BUNDLE}; cat /{BUNDLE} | grep -c BEGIN") == "# mounted\n1"
    assert containers.inside("one", f"ls /dev/cloche; echo x 2>&1 >> /{BUNDLE} || true").splitlines()[:3] == [
        "ca-bundle.pem",
        "ca.pem",
        "cacerts",
    ]
    assert "Read-only file system" in containers.inside("one", f"echo x >> /{BUNDLE}")
    assert snapshot(containers.root) == before and "cloche" not in str(before.keys() - {str(containers.root)})
    # Secrets of the operator's: the variable of every command is a placeholder.
    assert containers.inside("one", 'echo "$TOKEN"').startswith("cloche-token-")
    told = containers.inside("one", 'curl -sS -H "Authorization: Bearer $TOKEN" https://good.test:9443/ok/s')
    seen = [each for each in world.seen() if each[2] == "/ok/s"]
    assert seen[0][3]["authorization"] == f"Bearer {REAL}" and REAL not in told and "*" * len(REAL) in told
    assert containers.inside("one", "tr '\\0' '\\n' < /proc/1/environ | grep -c cloche-token-") == "1"


@pytest.mark.timeout(300)
def test_rules_change_while_it_runs(containers: Containers) -> None:
    """`cloche-oci net`; what the container asked for stays within the operator's rules."""
    bundle = containers.bundle("two", "good.test:9443")
    rules = OPERATED + '[[allow]]\nhost = "other.test"\nports = [80]\n'
    containers.start("two", bundle, "--egress", containers.rules(rules))
    shown = containers("net", "two", "show").out
    assert shown.splitlines()[0] == "allow good.test:9443" and "other.test:80" in shown and REAL not in shown
    assert containers.inside("two", GET + "https://good.test:9443/ok/a") == "200"
    assert containers.inside("two", GET + "https://good.test:9443/no") == "403"
    assert containers.inside("two", GET + "http://other.test/") == "000"
    assert containers("net", "two", "add", "--allow", "other.test:80").out == "2 rules\n"
    assert containers.inside("two", GET + "http://other.test/") == "200"
    assert containers("net", "two", "set", "--allow", "evil.test", "--allow", "other.test:80").status == 0
    assert containers.inside("two", GET + "http://evil.test/") == "000"
    assert containers.inside("two", GET + "https://good.test:9443/ok/a") == "000"
    log = containers("net", "two", "log").out
    assert '"other.test"' in log and '"evil.test"' in log and '"Blocked"' in log
    assert "does not exist" in containers("net", "none", "show").err


@pytest.mark.timeout(300)
def test_an_annotation_may_inspect(containers: Containers) -> None:
    text = 'version = 1\n[[allow]]\nhost = "good.test"\nports = [9443]\ninspect = true\n[[allow.requests]]\npaths = ["/ok/**"]\n'
    rules = 'version = 1\nauthorities = ["cert.pem"]\n[[allow]]\nhost = "good.test"\nports = [9443]\nprotocol = "tls"\n'
    containers.start("three", containers.bundle("three", text), "--egress", containers.rules(rules))
    assert containers.inside("three", GET + "https://good.test:9443/ok/a") == "200"
    assert containers.inside("three", GET + "https://good.test:9443/no") == "403"


@pytest.mark.timeout(300)
def test_requests_have_to_pass_the_rules_of_both(containers: Containers, world: InspectedWorld) -> None:
    """The annotation narrows the operator's requests, and adds none."""
    text = (
        'version = 1\n[[allow]]\nhost = "good.test"\nports = [9443]\ninspect = true\n'
        '[[allow.requests]]\nmethods = ["GET"]\npaths = ["/ok/**", "/other/**"]\n'
    )
    containers.start("both", containers.bundle("both", text), "--egress", containers.rules(OPERATED))
    world.seen()
    tries = {"/ok/a": "200", "/other/a": "403", "/no": "403", "/ok/b -d x": "403"}
    for words, code in tries.items():
        assert containers.inside("both", GET + "https://good.test:9443" + words) == code, words
    assert [each[1:3] for each in world.seen()] == [("GET", "/ok/a")]
    told = containers.inside("both", "curl -sS https://good.test:9443/other/a")
    assert "rules of this host" in told and "GET /other/a" in told


@pytest.mark.timeout(300)
def test_a_container_that_joins_believes_too(containers: Containers) -> None:
    """Its bundle is its own; the authority and the placeholder are those of its pod."""
    rules = containers.rules(OPERATED)
    pod = containers.annotate(containers.bundle("pod"), container_type="sandbox")
    containers.start("pod", pod, "--egress", rules)
    one = containers.bundle("joined", "", containers.file("bundle.crt", BUNDLE))
    containers.annotate(one, container_type="container", sandbox_id="pod")
    containers.start("joined", one, "--egress", rules)
    for name, first in (("pod", "# the image's"), ("joined", "# mounted")):
        assert containers.inside(name, GET + "https://good.test:9443/ok/a") == "200"
        assert containers.inside(name, f"head -1 /{BUNDLE}") == first
    said = {
        containers.inside(name, 'echo "$TOKEN"; tail -5 /dev/cloche/ca.pem') for name in ("pod", "joined")
    }
    assert len(said) == 1 and "cloche-token-" in said.pop()
    assert "allow good.test:9443" in containers("net", "joined", "show").out


@pytest.mark.parametrize(
    ("rules", "annotation", "says"),
    [
        (RULE + SECRETS.replace("file:token", "env:TOKEN"), "", "write file:PATH"),
        (RULE, 'version = 1\n[[allow]]\nhost = "good.test"\ninspect = true\n' + SECRETS, "for the operator to give"),
    ],
)  # fmt: skip
def test_secrets_without_a_safe_source(
    containers: Containers, rules: str, annotation: str, says: str
) -> None:
    bundle = containers.bundle("four", annotation)
    done = containers("--egress", containers.rules(rules), "create", "-b", str(bundle), "four")
    assert done.status != 0 and says in done.err and "Traceback" not in done.err, done
