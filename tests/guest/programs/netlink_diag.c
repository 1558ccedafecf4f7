/* Dumps of very many sockets: made as the reader takes them, one at a time for each netlink socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MANY 3000
static ino_t ours[MANY + 8];
static int count;

static void note(int fd)
{
    struct stat st;
    if (fd < 0) {
        perror("socket");
        exit(1);
    }
    fstat(fd, &st);
    ours[count++] = st.st_ino;
}

static int is_ours(unsigned ino)
{
    for (int i = 0; i < count; i++)
        if ((unsigned)ours[i] == ino)
            return 1;
    return 0;
}

static int nl;

static int ask(unsigned states)
{
    struct {
        struct nlmsghdr h;
        struct unix_diag_req r;
    } q = {{sizeof q, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}, {AF_UNIX, 0, 0, states, 0, UDIAG_SHOW_NAME}};
    return send(nl, &q, sizeof q, 0);
}

/* Up to the end of a dump, or an error that comes as a message. */
static void take(const char *what)
{
    static char buffer[1 << 16];
    int mine = 0, errors = 0, is_done = 0, bad = 0;
    struct pollfd p = {nl, POLLIN};
    while (!is_done) {
        if (poll(&p, 1, 30000) != 1) {
            printf("nothing more\n");
            break;
        }
        int size = recv(nl, buffer, sizeof buffer, MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN)
            continue;
        if (size <= 0) {
            perror("recv");
            break;
        }
        for (struct nlmsghdr *h = (void *)buffer; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
            if (h->nlmsg_type == NLMSG_DONE)
                is_done = 1;
            else if (h->nlmsg_type == NLMSG_ERROR)
                errors = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
            else
                mine += is_ours(((struct unix_diag_msg *)NLMSG_DATA(h))->udiag_ino);
            bad += h->nlmsg_seq != 7 || (h->nlmsg_type != NLMSG_ERROR && !(h->nlmsg_flags & NLM_F_MULTI));
        }
    }
    printf("%s: %d of ours, error %d, bad %d\n", what, mine, errors, bad);
}

int main(void)
{
    struct rlimit limit;
    struct sockaddr_un name = {AF_UNIX, ""};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    nl = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
    for (int i = 0; i < MANY; i++)
        note(socket(AF_UNIX, SOCK_DGRAM, 0));
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    note(listener);
    bind(listener, (void *)&name, 2);
    listen(listener, 1);
    ask(~0u);
    take("all");
    ask(1 << 10);
    take("listening");
    ask(1 << 6);
    take("none");
    ask(~0u);
    ask(1 << 10);
    take("two at once");
    for (int i = 0; i < 3; i++) { /* given up on the way */
        int other = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), old = nl;
        nl = other;
        ask(~0u);
        nl = old;
        close(other);
    }
    ask(~0u);
    take("all again");
    return 0;
}
