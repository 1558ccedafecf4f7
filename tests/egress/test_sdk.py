"""Rules, secrets and approvals from Python."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.harness import environment
from tests.egress.servers import RESOLVER
from tests.egress.world import InspectedWorld, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

SCRIPT = f"""
import asyncio, sys
from cloche.sdk import AsyncSandbox, NetRequest, NetRule, NetSecret, Sandbox

asked = []
def judge(approval):
    asked.append((approval.method, approval.url, approval.scope))
    return approval.url.endswith("/yes")
async def judge_later(approval):
    await asyncio.sleep(0)
    return judge(approval)
wanted = dict(
    network=[
        sys.argv[1],
        NetRule(
            host="good.test",
            ports=[9443],
            requests=[NetRequest(methods=["GET"], paths=["/free"]), NetRequest(paths=["/ask/**"], ask="request")],
        ),
        NetRule(host="evil.test", deny=True),
    ],
    secrets=[NetSecret(name="TOKEN", value="real-s3cr3t-value", host="good.test", header="authorization")],
    options=["--dns={RESOLVER}"],
    root=sys.argv[2],
)
commands = [
    "curl -sS -o /dev/null -w %{{http_code}} -H \\"Authorization: $TOKEN\\" https://good.test:9443" + path
    for path in ("/free", "/other", "/ask/yes", "/ask/no")
]
with Sandbox.create(on_approval=judge, **wanted) as sandbox:
    print([sandbox.commands.run(command).stdout for command in commands], asked)
    print("real" in sandbox.commands.run("env").stdout)
asked.clear()
async def main():
    async with await AsyncSandbox.create(on_approval=judge_later, **wanted) as sandbox:
        print([(await sandbox.commands.run(command)).stdout for command in commands], asked)
asyncio.run(main())
for wrong in (dict(nonsense=1), dict(network=NetRule(host="a b")), dict(secrets=[NetSecret(name="A", value="long-enough")])):
    try: Sandbox.create(root=sys.argv[2], **wrong)
    except Exception as error: print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedWorld]:
    made = InspectedWorld(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


def test_rules_secrets_and_approvals(world: InspectedWorld) -> None:
    rules = world.rules('version = 1\nauthorities = ["cert.pem"]\n')
    done = subprocess.run(
        [*world.enter(world.host), sys.executable, "-c", SCRIPT, rules, str(world.folder / "records")],
        cwd=world.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    lines = done.stdout.splitlines()
    found = (
        "['200', '403', '200', '403'] [('GET', 'https://good.test:9443/ask/yes', 'request'), "
        "('GET', 'https://good.test:9443/ask/no', 'request')]"
    )
    assert lines[:3] == [found, "False", found], done
    assert lines[3] == "TypeError create() got an unexpected keyword argument 'nonsense'"
    assert lines[4].startswith("InvalidArgument network: allow[0].host: "), lines
    assert lines[5].startswith("InvalidArgument secrets: A: say the host")
    seen = world.seen()
    assert [each[2] for each in seen] == ["/free", "/ask/yes"] * 2
    assert {each[3]["authorization"] for each in seen} == {"real-s3cr3t-value"}
