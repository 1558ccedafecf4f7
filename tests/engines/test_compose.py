"""Docker's compose with cloche beside compose with runc: two services on a network, of which one waits for the other's
health, with a volume that both see.
"""

import re
from pathlib import Path

import pytest

from tests.engines.harness import Docker, Done, need, program, run

RUNTIMES = ("runc", "cloche")
_SERVER = "sleep 1; echo hello from $$(hostname) > /data/index.html; exec httpd -f -p 80 -h /data"
_CLIENT = (
    "wget -q -O - http://db/; wget -q -O - http://database.internal/; cat /data/index.html; touch /data/x 2>/dev/null; echo $$?;"
    "env | grep WORD; id -u; nslookup nosuch >/dev/null 2>&1; echo $$?; exit 7"
)
_FILE = """
services:
  db:
    image: bb:1
    runtime: {runtime}
    hostname: server
    command: ["sh", "-c", "{server}"]
    stop_grace_period: 1s
    volumes: ["shared:/data"]
    networks: {{back: {{aliases: [database.internal]}}}}
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://localhost/index.html"]
      interval: 1s
      timeout: 60s
      retries: 100
  web:
    image: bb:1
    runtime: {runtime}
    command: ["sh", "-c", "{client}"]
    user: "1000"
    environment: [WORD=said]
    volumes: ["shared:/data:ro"]
    networks: [back]
    depends_on:
      db: {{condition: service_healthy}}
networks:
  back: {{}}
volumes:
  shared: {{}}
"""


def _lines(text: str) -> list[str]:
    """Without what clears a terminal's line, which compose writes in any case."""
    return text.replace("\x1b[2K", "").splitlines()


class Project:
    """A compose file whose services one runtime runs."""

    def __init__(self, docker: Docker, runtime: str, folder: Path) -> None:
        self.docker = docker
        file = folder / f"{runtime}.yaml"
        file.write_text(_FILE.format(runtime=runtime, server=_SERVER, client=_CLIENT))
        self.words = [program("docker-compose"), "-f", str(file), "-p", f"project-{runtime}", "--ansi=never"]

    def __call__(self, *words: str) -> Done:
        return run([program("env"), f"DOCKER_HOST={self.docker.socket}", *self.words, *words])


@pytest.fixture
def compose(networks: Docker) -> Docker:
    """A daemon whose containers compose makes."""
    need("docker-compose")
    return networks


def test_a_project(compose: Docker, tmp_path: Path) -> None:
    """The client is started once the server is healthy, finds it by its names, and its status is compose's."""
    found: list[list[object]] = []
    for runtime in RUNTIMES:
        project = Project(compose, runtime, tmp_path)
        try:
            steps: list[object] = []
            done = project("up", "--quiet-pull", "--exit-code-from", "web")
            steps.append(done.status)
            said = project("logs", "--no-color", "--no-log-prefix", "web")
            steps.append(_lines(said.out))
            assert project("up", "-d", "--wait", "db").status == 0
            steps.append(project("ps", "--format", "{{.Service}} {{.Health}}").out)
            steps.append(
                project("exec", "-T", "db", "sh", "-c", "cat /data/index.html; hostname; exit 5").out
            )
            steps.append(project("run", "--rm", "-T", "web", "cat", "/etc/hostname").status)
            steps.append(project("restart", "-t", "0", "db").status)
            steps.append(project("exec", "-T", "db", "echo", "again").out)
            steps.append(len(re.findall("db", project("top", "db").out)) > 0)
            steps.append(project("down", "-v", "-t", "0").status)
            steps.append(
                compose("ps", "-aq", "--filter", f"label=com.docker.compose.project=project-{runtime}").out
            )
            found.append(steps)
        finally:
            project("down", "-v", "-t", "0")
    assert found[0] == found[1]
    lines = found[1][1]
    assert isinstance(lines, list)
    assert lines[:3] == ["hello from server"] * 3, found
    assert found[1][0] == 7
