"""A connection of any kind ends when its rule is removed, and a reader of the log sees that at once."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.harness import CLOCHE, environment
from tests.egress.test_net import Named
from tests.egress.world import RULE, InspectedWorld, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

RULES = (
    RULE
    + '[[allow]]\nhost = "good.test"\nports = [80, 443]\n'
    + '[[allow]]\nhost = "other.test"\nports = [7000]\nprotocol = "tcp"\n'
)
# One of each: given away at once, given away after its hello, relayed, inspected, by the proxy.
CONNECTIONS = (
    "import ssl",
    "c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE",
    "k = [socket.create_connection(('other.test', 7000))]",
    "k.append(c.wrap_socket(socket.create_connection(('good.test', 443)), server_hostname='good.test'))",
    "k.append(socket.create_connection(('good.test', 80)))",
    "k.append(c.wrap_socket(socket.create_connection(('good.test', 9443)), server_hostname='good.test'))",
    "k.append(socket.create_connection(('198.18.0.3', 3128)))",
    "_ = k[4].sendall(b'CONNECT other.test:7000 HTTP/1.1\\r\\n\\r\\n')",
)
ASKED = (
    b"x",
    b"GET /a HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"GET /b HTTP/1.1\r\nHost: good.test:9443\r\n\r\n",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedWorld]:
    made = InspectedWorld(tmp_path_factory.mktemp("egress"))
    yield made
    made.close()


def test_every_kind_of_connection_is_cut(world: InspectedWorld) -> None:
    sandbox = Named(world, "--net", world.rules(RULES))
    words = [*CLOCHE, "--root", sandbox.root, "net", "egress-test", "log", "-f"]
    follower = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    for line in CONNECTIONS:
        assert sandbox.tell(f"{line}; print('done')") == "done"
    for at, data in ((0, ASKED[0]), (1, ASKED[1]), (2, ASKED[1]), (3, ASKED[2]), (4, b"")):
        assert (
            sandbox.tell(f"_ = k[{at}].sendall({data!r}); print(len(k[{at}].recv(65536)) > 0)") == "True"
        ), at
    assert sandbox.net("set", "--allow", "good.test:7001/udp") == "1 rule; 5 connections were cut\n"
    over = (
        "\ndef over(s):\n    s.settimeout(60)\n    try:\n        while s.recv(65536): pass\n    except TimeoutError: return 'open'"
        "\n    except OSError: pass\n    return 'over'\n\nprint([over(each) for each in k])"
    )
    assert sandbox.tell(over) == str(["over"] * 5)
    cuts = 0
    while cuts < 5:
        line = follower.stdout.readline()
        assert line, "the log has ended"
        cuts += json.loads(line)["activity_name"] == "cut"
    sandbox.end()
    assert follower.wait(60) == 0
    follower.stdout.close()
