"""Docker's two builders, the classic one and BuildKit, with cloche beside runc: the same images."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import Docker, Done, end, make_image, need, program, run

PLUGIN = Path("/usr/libexec/docker/cli-plugins/docker-buildx")
# Both builders.
_COMMON = r"""
FROM bb:1 AS first
ARG WORD=none
ENV SAID=$WORD
RUN echo "said $SAID"; id; umask; pwd; grep Cap /proc/self/status; uname -v > /kernel
RUN mkdir /made && echo text > /made/x && chown 3:4 /made/x && chmod 4755 /made/x && ln -s x /made/link && ln /made/x /made/hard
RUN rm /bin/tty && chmod 700 /tmp && mkdir -p /gone/deep && touch /gone/deep/x
RUN rm -r /gone
WORKDIR /work
COPY file inner/
RUN wc -c < inner/file > count && test -w /etc/hosts && grep -q . /etc/resolv.conf || echo no names
USER 1000:5
RUN id > /work/who 2>/dev/null || id > /tmp/who || id
USER root
RUN wget -q -O /work/fetched http://ADDRESS:7000/file
SHELL ["/bin/sh", "-e", "-c"]
RUN echo in a shell

FROM bb:1
COPY --from=first /work /work
COPY --from=first /made /made
COPY --from=first /kernel /kernel
CMD ["cat", "/work/fetched"]
"""
# BuildKit's own.
_MOUNTS = r"""
FROM bb:1
RUN --mount=type=cache,target=/cache echo cached > /cache/x
RUN --mount=type=cache,target=/cache cat /cache/x > /from-cache
RUN --mount=type=tmpfs,target=/scratch df /scratch | grep -c tmpfs > /from-tmpfs; touch /scratch/x
RUN --mount=type=bind,source=file,target=/bound cat /bound > /from-bind; (echo x > /bound) 2>/dev/null || echo refused > /refused
RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c > /from-secret
RUN --network=none ip -o link | wc -l > /links
RUN <<END
echo here > /from-here
END
CMD ["sh", "-c", "cat /from-* /refused /links"]
"""
_LIST = (
    "find /work /made /tmp /gone /etc /bin -xdev 2>/dev/null | sort | xargs stat -c '%n %F %a %u %g %h';"
    "cat /work/count /work/fetched /made/x /work/who 2>/dev/null"
)
BUILDERS = ("0", "1")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon whose default runtime is cloche, for both builders, and the image bb:1."""
    need("dockerd", "docker", "containerd", "runc", "busybox", "ip", "iptables", "nsenter", "unshare")
    image = make_image(tmp_path_factory.mktemp("image"))
    made = Docker(tmp_path_factory.mktemp("builder"), has_networks=True, is_default=True)
    try:
        assert made("import", str(image), "bb:1").status == 0
        yield made
    finally:
        made.close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What is built from."""
    (tmp_path / "file").write_text("of the context\n")
    (tmp_path / "token").write_text("secret\n")
    return tmp_path


def build(docker: Docker, kit: str, context: Path, recipe: str, *options: str) -> Done:
    """`docker build` by one of the builders."""
    if kit == "1" and not PLUGIN.exists():
        pytest.skip("needs docker-buildx")
    (context / "Dockerfile").write_text(recipe)
    words = [program("docker"), "-H", docker.socket, "build", "--no-cache", *options, str(context)]
    return run([program("env"), f"DOCKER_BUILDKIT={kit}", "BUILDKIT_PROGRESS=plain", *words])


def kernel(docker: Docker, image: str) -> bool:
    """Whether it was cloche's that the image's programs saw when it was built."""
    return "cloche" in docker("run", "--rm", "--network=none", "--runtime=runc", image, "cat", "/kernel").out


@pytest.mark.parametrize("kit", BUILDERS)
def test_a_build(networks: Docker, builder: Docker, context: Path, kit: str) -> None:
    """Owners, modes, links, what was removed, several stages, a fetch through the bridge."""
    found = []
    for docker in (networks, builder):
        address = docker(
            "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"
        ).out.strip()
        words = ["busybox", "httpd", "-f", "-p", "7000", "-h", str(context)]
        server = subprocess.Popen([program("nsenter"), "-t", str(docker.daemon.pid), "-n", *words])
        try:
            recipe = _COMMON.replace("ADDRESS", address)
            done = build(docker, kit, context, recipe, "-t", f"made-{kit}:1", "--build-arg", "WORD=hello")
        finally:
            end(server)
        assert done.status == 0, done
        assert "said hello" in done.out + done.err
        image = f"made-{kit}:1"
        caps = sorted(set(re.findall(r"Cap\w+:\s+\w+", done.out + done.err)))
        shown = docker("run", "--rm", "--network=none", "--runtime=runc", image, "sh", "-c", _LIST)
        layers = docker("inspect", "-f", "{{len .RootFS.Layers}} {{.Config.Cmd}}", image).out
        found.append((caps, shown.out, layers))
        assert kernel(docker, image) == (docker is builder)
    assert found[0] == found[1]


@pytest.mark.parametrize("kit", BUILDERS)
def test_a_step_that_fails(networks: Docker, builder: Docker, context: Path, kit: str) -> None:
    for step, status in (("sh -c 'exit 9'", "9"), ("nosuch", "127"), ("sh -c 'kill -9 $$'; exit $?", "137")):
        for docker in (networks, builder):
            done = build(docker, kit, context, f"FROM bb:1\nRUN {step}\n", "--network=none")
            assert done.status != 0, done
            assert re.search(rf"(returned a non-zero code|exit code): {status}\b", done.err), done


def test_mounts_of_buildkit(networks: Docker, builder: Docker, context: Path) -> None:
    found = []
    for docker in (networks, builder):
        done = build(
            docker, "1", context, _MOUNTS, "-t", "mounts:1", "--secret", f"id=token,src={context}/token"
        )
        assert done.status == 0, done
        found.append(docker("run", "--rm", "--network=none", "mounts:1").out)
    assert found[0] == found[1]
