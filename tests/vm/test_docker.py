"""Docker with `native.cgroupdriver=systemd`, beside runc."""

import pytest

from tests.vm.conftest import Guest

SET_UP = """
mkdir -p /etc/docker
cat > /etc/docker/daemon.json <<P
{"runtimes": {"cloche": {"path": "$CLOCHE"}}, "exec-opts": ["native.cgroupdriver=systemd"], "storage-driver": "overlay2"}
P
systemctl unmask -q docker.service docker.socket containerd.service; systemctl start docker
for i in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.5; done
docker image inspect bb:1 >/dev/null 2>&1 || docker import /srv/bb.tar bb:1 >/dev/null
docker rm -f $(docker ps -aq) >/dev/null 2>&1 || :
left() { for i in $(seq 300); do systemctl list-units --all --plain --no-legend 'docker-*.scope' | grep -q . || return 0; sleep 0.2; done
    systemctl list-units --all --plain --no-legend 'docker-*.scope'; }
"""
RUNTIMES = ["runc", "cloche"]


def test_limits(guest: Guest) -> None:
    text = """
    docker info -f '{{.CgroupDriver}} {{.CgroupVersion}}'
    docker run -d --runtime=cloche --name=box -m 60m --pids-limit 20 --cpus 0.5 --cpuset-cpus 0 bb:1 sleep 1000 >/dev/null
    u=docker-$(docker inspect -f '{{.Id}}' box).scope
    systemctl show $u -p MemoryMax -p TasksMax -p CPUQuotaPerSecUSec -p Slice -p AllowedCPUs | sort
    g=/sys/fs/cgroup$(systemctl show $u -p ControlGroup --value); cat $g/memory.max $g/pids.max $g/cpu.max $g/cpuset.cpus
    docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' box
    docker update --memory 70m --memory-swap -1 box >/dev/null; cat $g/memory.max
    docker exec box sh -c 'for i in $(seq 30); do sleep 100 & done; wait' 2>&1 | grep -c "can.t fork"
    docker pause box >/dev/null; docker inspect -f '{{.State.Status}}' box; docker unpause box >/dev/null
    docker rm -f box >/dev/null; left
    """
    shown = guest.lines(SET_UP + text)
    assert shown[0] == "systemd 2"
    assert shown[1:3] == ["AllowedCPUs=0", "CPUQuotaPerSecUSec=500ms"]
    assert shown[3:6] == [f"MemoryMax={316 << 20}", "Slice=system.slice", "TasksMax=148"]
    assert shown[6:10] == [str(316 << 20), "148", "50000 100000", "0"]
    name, pids, used, _slash, limit = shown[10].split()
    assert name == "box" and int(pids) > 1 and used.endswith("MiB") and limit == "316MiB"
    assert shown[11:] == [str(326 << 20), "1", "paused"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_memory(guest: Guest, runtime: str) -> None:
    text = f"""
    run() {{ docker run --runtime={runtime} --network=none -m 60m --memory-swap 60m "$@"; }}
    run --name=box bb:1 tail -c 250m /dev/zero || echo status $?
    for i in $(seq 100); do docker inspect -f '{{{{.State.OOMKilled}}}}' box | grep true && break; sleep 0.2; done
    run --rm bb:1 sh -c 'tail -c 250m /dev/zero; echo $?' 2>/dev/null
    docker rm -f box >/dev/null; left
    """
    assert guest.lines(SET_UP + text) == ["status 137", "true", "137"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_published_port(guest: Guest, runtime: str) -> None:
    text = f"""
    docker run -d --runtime={runtime} --name=box -p 127.0.0.1:8081:80 bb:1 \\
        sh -c 'echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp' >/dev/null
    for i in $(seq 200); do busybox wget -q -T 20 -O - http://127.0.0.1:8081/ && break; sleep 0.2; done
    docker rm -f box >/dev/null; left
    """
    assert guest.lines(SET_UP + text) == ["hello"]
