"""ip(8) and ss(8) print the same in a sandbox as in a fresh network namespace of the host."""

import shutil
from pathlib import Path

import pytest

from tests.guest.harness import compare

TOOLS = ("ip", "ss", "unshare", "tc")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="no iproute2 or util-linux"
)

FRESH = ["unshare", "-rn", "sh", "-c"]  # a namespace whose lo is down

SHOW = """
echo 0 > /proc/sys/net/ipv4/ip_forward  # the host's, which engines turn on, is inherited
ip link set lo up
for words in a '-4 addr' '-6 addr show lo' '-s link' '-d link show lo' 'link show eth0' route '-6 route' \\
    'route show table all' '-6 route show table local' 'route get 127.0.0.1' 'route get 127.0.0.5' 'route get 8.8.8.8' \\
    '-6 route get ::1' rule '-6 rule' neigh '-j addr' '-o addr' maddr 'link show type bridge' '-br link' \\
    '-br addr' nexthop; do
    echo "$ ip $words"
    ip $words 2>&1
    echo "= $?"
done
ip netconf >conf
echo "= $?"
sed '/^inet6/s/ mc_forwarding off//' conf  # a kernel without CONFIG_IPV6_MROUTE does not tell of it
tc qdisc
tc filter show dev lo
bridge link
"""

CHANGE = """
x() { echo "$ $*"; "$@" 2>&1; echo "= $?"; }
x ip a
x ip link set lo up
x ip addr add 10.0.0.5/24 dev lo
x ip addr add 10.0.0.5/24 dev lo
x ip addr add 10.0.0.6/32 dev lo label lo:1
x ip -6 addr add fd00::5/64 dev lo nodad
x ip a
x ip -6 route
x ip link set lo mtu 1500
x ip link set lo txqueuelen 5
x ip link show lo
x ip addr del 10.0.0.6/32 dev lo
x ip addr del 10.0.0.6/32 dev lo
x ip addr flush dev lo scope global
x ip a
x ip link del lo
x ip link set lo down
x ip a
x ip link set lo up
x cat /proc/net/dev
x cat /proc/net/if_inet6
"""

ROUTES = """
x() { echo "$ $*"; "$@" 2>&1; echo "= $?"; }
x ip route add blackhole 10.0.1.0/24
x ip route add 10.0.0.0/8 dev lo
ip link set lo up
for words in 'add 10.0.0.0/8 dev lo' 'add 10.0.0.0/8 dev lo' 'add 10.0.0.0/8 dev lo metric 7' 'add local 10.9.0.0/16 dev lo' \\
    'add unreachable 10.1.0.0/16' 'add prohibit 10.3.0.0/16' 'add throw 10.4.0.0/16' 'add 10.5.0.0/16 via 10.9.0.1' \\
    'add 10.6.0.0/16 dev lo src 127.0.0.1' 'add 10.77.0.1 dev lo' 'add 10.78.0.1/24 dev lo' 'add 10.79.0.0/16 via 11.0.0.1' \\
    'add 10.80.0.0/16 dev lo table 100' 'add 10.81.0.0/16 dev lo proto static scope host' 'add 10.83.0.0/16 dev lo mtu 900' \\
    'add 10.84.0.0/16 dev lo src 1.2.3.4' 'show table all' 'del 10.0.0.0/8' 'del 10.0.0.0/8' 'del 10.0.0.0/8' \\
    'del unreachable 10.1.0.0/16' 'del table 100 10.80.0.0/16' 'replace 10.6.0.0/16 dev lo metric 3' \\
    'change 10.6.0.0/16 dev lo metric 3 src 127.0.0.1' 'change 10.66.0.0/16 dev lo' 'append 10.6.0.0/16 dev lo metric 3' \\
    'prepend 10.6.0.0/16 dev lo metric 3' show 'get 10.9.1.1' 'get 10.3.0.1' 'get 10.4.0.1' 'get 10.6.0.1'; do
    x ip route $words
done
for words in 'add fd00::/8 dev lo' 'add fd00::/8 dev lo' 'add unreachable fd01::/16' 'add local fd02::/16 dev lo' \\
    'add fd05::1 dev lo' 'show table all' 'get fd02::1' 'get fd01::1' 'get fd07::1' 'del fd00::/8' 'del fd00::/8'; do
    x ip -6 route $words
done
x cat /proc/net/route
python3 -c "
import errno, socket
for family, host in ((2, '10.9.1.1'), (2, '10.3.0.1'), (2, '10.0.1.1'), (2, '10.4.0.1'), (2, '10.6.0.1'), (2, '9.9.9.9'),
                     (10, 'fd02::1'), (10, 'fd01::1'), (10, 'fd05::1'), (10, 'fd09::1')):
    listener, client, sender, receiver = [socket.socket(family, kind) for kind in (1, 1, 2, 2)]
    def say(call):
        try:
            print(host, call())
        except OSError as error:
            print(host, errno.errorcode[error.errno])
    for sock in (listener, receiver):
        sock.bind(('', 7001))
        sock.setblocking(False)
    listener.listen()
    client.setblocking(False)
    say(lambda: client.connect((host, 7001)))
    say(lambda: client.getpeername()[:2])
    say(lambda: listener.accept()[1][0])
    say(lambda: sender.sendto(b'x', (host, 7001)))
    say(lambda: receiver.recvfrom(9)[1][0])
    say(lambda: sender.bind((host, 0)))
    for sock in (listener, client, sender, receiver):
        sock.close()
"
ip link set lo down
x ip route
x ip -6 route show table all
ip link set lo up
x ip route flush table main
x ip route
"""

WATCH = """
ip -o monitor link address > log &
p=$!
python3 -c "
import time
for turn in range(9000):  # until it listens
    if any(line.split()[1] == '0' and int(line.split()[3], 16) for line in open('/proc/net/netlink').readlines()[1:]):
        break
    time.sleep(0.01)
"
ip link set lo mtu 1400
ip link set lo up
ip addr add 10.0.0.5/24 dev lo
ip addr del 10.0.0.5/24 dev lo
python3 -c "
import time
for turn in range(9000):
    if 'Deleted' in open('log').read():
        break
    time.sleep(0.01)
"
kill $p
grep -o 'mtu 1400\\|UP,LOWER_UP\\|Deleted\\|10.0.0.5/24' log | uniq
"""

SOCKETS = """
import os, socket, subprocess
listener = socket.create_server(("127.0.0.1", 7001), backlog=5)
ends = []
for port in (7002, 7003):
    ends.append(socket.create_connection(("127.0.0.1", 7001), source_address=("127.0.0.1", port)))
ends.append(listener.accept()[0])
ends[0].send(b"12345")
six = socket.create_server(("::1", 7004), family=socket.AF_INET6, backlog=3)
both = socket.create_server(("::", 7005), family=socket.AF_INET6, backlog=3, dualstack_ipv6=True)
every = socket.create_server(("0.0.0.0", 7006), backlog=9)
ends.append(socket.create_connection(("127.0.0.1", 7006), source_address=("127.0.0.1", 7010)))
ends.append(every.accept()[0])
ends[-2].shutdown(socket.SHUT_WR)
while ends[-2].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\\5":  # FIN_WAIT2: the FIN is acknowledged
    pass
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 7007))
unix = socket.socket(socket.AF_UNIX)
unix.bind("path")
unix.listen(4)
abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
abstract.bind("\\0abstract")
def show(*words):
    out = subprocess.run(["ss", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    if "-x" in words:
        out = "\\n".join(" ".join(line.split()[:5]) for line in out.splitlines())
    print("$ ss", *words, *sorted(line.rstrip() for line in out.splitlines()), sep="\\n")
show("-tan"); show("-tln"); show("-uan"); show("-4tln"); show("-6tln"); show("-H", "-x", "-l", "-n")
show("-tn", "sport", "=", ":7002"); show("-tn", "state", "close-wait"); show("-tn", "dst", "127.0.0.1:7001")
show("-K", "-tn", "sport", "=", ":7002")
try:
    ends[0].send(b"x")
except OSError as error:
    print(error)
"""


PARAMETERS = """
ip link set lo up
cd /proc/sys/net
w() { (echo "$2" > $1) 2>/dev/null; echo "$1 $2: $? $(cat $1)"; }
w core/somaxconn 2; w core/somaxconn -1; w core/somaxconn x
w ipv4/ip_default_ttl 33; w ipv4/ip_default_ttl 0; w ipv4/ip_default_ttl 256
w ipv4/tcp_keepalive_time 100; w ipv4/tcp_keepalive_intvl 5; w ipv4/tcp_keepalive_probes 3; w ipv4/tcp_fin_timeout 7
w ipv4/tcp_syn_retries 1; w ipv4/tcp_syn_retries 0; w ipv4/tcp_congestion_control reno
w ipv4/tcp_congestion_control nothing; w ipv4/ip_nonlocal_bind 1; w ipv6/bindv6only 1; w unix/max_dgram_qlen 3
w ipv4/icmp_echo_ignore_all 1; w ipv4/icmp_echo_ignore_all 2
python3 -c "
import socket
s = socket.socket()
print([s.getsockopt(level, name) for level, name in ((0, 2), (6, 4), (6, 5), (6, 6), (6, 7), (6, 8))])
print(s.getsockopt(6, 13, 16))
s.bind(('1.2.3.4', 0))
print(s.getsockname()[0])
six = socket.socket(socket.AF_INET6)
print(six.getsockopt(41, 26))
def count(listener, make):
    made = []
    while True:
        made.append(make())
        made[-1].setblocking(False)
        try:
            made[-1].connect(listener.getsockname())
        except BlockingIOError:
            if listener.family == socket.AF_UNIX or made[-1].getsockopt(6, 11, 1) != b'\\\\1':
                return len(made)
unix = socket.socket(socket.AF_UNIX)
unix.bind(b'\\\\0listener')
unix.listen(100)
print(count(unix, lambda: socket.socket(socket.AF_UNIX)))
grams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
to.bind(b'\\\\0grams')
sent = 0
grams[0].setblocking(False)
try:
    while True:
        grams[0].sendto(b'x', b'\\\\0grams')
        sent += 1
except BlockingIOError:
    print(sent)
"
ping -c 1 -W 0.2 127.0.0.1 >/dev/null; echo $?
"""

PINGS = """
ip link set lo up
ping -c 2 -i 0.01 127.0.0.1 >/dev/null; echo $?
ping -c 2 -i 0.01 -s 100 ::1 >/dev/null; echo $?
cat /proc/net/dev
"""


def test_parameters(tmp_path: Path) -> None:
    compare([*FRESH, PARAMETERS], tmp_path)


def test_pings_are_counted(tmp_path: Path) -> None:
    compare([*FRESH, PINGS], tmp_path)


def test_ip_changes_routes(tmp_path: Path) -> None:
    compare([*FRESH, ROUTES], tmp_path)


def test_ip_shows(tmp_path: Path) -> None:
    compare([*FRESH, SHOW], tmp_path)


def test_ip_changes(tmp_path: Path) -> None:
    compare([*FRESH, CHANGE], tmp_path)


def test_ip_watches(tmp_path: Path) -> None:
    compare([*FRESH, WATCH], tmp_path)


@pytest.mark.skipif(shutil.which("python3", path="/usr/bin") is None, reason="no Python of the system's")
def test_ss_lists(tmp_path: Path) -> None:
    compare([*FRESH, 'ip link set lo up; exec python3 -c "$0"', SOCKETS], tmp_path)
