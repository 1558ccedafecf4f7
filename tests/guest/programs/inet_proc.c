#include "inet_common.h"
/* Our own sockets in /proc/net, matched by inode. */
static unsigned long ino(int fd) { struct stat s; fstat(fd, &s); return s.st_ino; }
static void find(const char *file, int fd, int column) {
    char path[64], line[512];
    sprintf(path, "/proc/net/%s", file);
    FILE *f = fopen(path, "r");
    if (!f) { printf("%s: %s\n", file, err(-1)); return; }
    int lines = 0, found = 0;
    while (fgets(line, sizeof line, f)) {
        if (!lines++) continue;
        char *word[32], *save = 0, copy[512];
        strcpy(copy, line);
        int n = 0;
        for (char *w = strtok_r(copy, " \n", &save); w && n < 32; w = strtok_r(0, " \n", &save)) word[n++] = w;
        if (n > column && strtoul(word[column], 0, 10) == ino(fd)) {
            found++;
            if (!strcmp(file, "unix")) printf("unix type %s state %s flags %s path %s\n", word[4], word[5], word[3], n > 7 ? word[7] : "-");
            else printf("%s local %.8s state %s queues %s uid %s\n", file, word[1], word[3], word[4], word[7]);
        }
    }
    printf("%s: found %d\n", file, found);
    fclose(f);
}
int main(void) {
    int p[2], port, l = listening(&port);
    find("tcp", l, 9);
    tcp_pair(p);
    write(p[0], "unread", 6);
    usleep(1000);
    find("tcp", p[1], 9);
    shutdown(p[0], SHUT_WR);
    usleep(1000);
    find("tcp", p[1], 9);
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    find("udp", u, 9);
    bound(u, "127.0.0.1");
    find("udp", u, 9);
    int six = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 a6 = in6("::1", 0);
    bind(six, (void *)&a6, sizeof a6);
    listen(six, 1);
    find("tcp6", six, 9);
    int x = socket(AF_UNIX, SOCK_STREAM, 0), s[2];
    find("unix", x, 6);
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "cloche-test-proc");
    bind(x, (void *)&a, n);
    listen(x, 1);
    find("unix", x, 6);
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s);
    find("unix", s[0], 6);
    char link[64], t[64];
    sprintf(link, "/proc/self/fd/%d", x);
    n = readlink(link, t, 63);
    t[n] = 0;
    sprintf(link, "socket:[%lu]", ino(x));
    printf("link %d\n", !strcmp(link, t));
    SHOW(open("/proc/self/fd/3", O_RDWR));
    return 0;
}
