#include "inet_common.h"
/* Names of loopback addresses, SO_REUSEPORT groups, self-connection, ports of connect, interface ioctls. */
#include <net/if.h>
int main(void) {
    int on = 1, port;
    int a1 = socket(AF_INET, SOCK_STREAM, 0), a2 = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(a1, SOL_SOCKET, SO_REUSEPORT, &on, 4);
    setsockopt(a2, SOL_SOCKET, SO_REUSEPORT, &on, 4);
    port = bound(a1, "127.0.0.1");
    struct sockaddr_in a = in4("127.0.0.1", port);
    SHOW(bind(a2, (void *)&a, sizeof a));
    SHOW(listen(a1, 100));
    SHOW(listen(a2, 100));
    int got = 0;
    for (int i = 0; i < 40; i++) { int c = socket(AF_INET, SOCK_STREAM, 0); got += connect(c, (void *)&a, sizeof a) == 0; }
    usleep(1000);
    fcntl(a1, F_SETFL, O_NONBLOCK); fcntl(a2, F_SETFL, O_NONBLOCK);
    int n1 = 0, n2 = 0, c;
    while ((c = accept(a1, 0, 0)) >= 0) n1++, close(c);
    while ((c = accept(a2, 0, 0)) >= 0) n2++, close(c);
    printf("connected %d accepted %d\n", got, n1 + n2);
    close(a1); close(a2);
    /* a connection with itself */
    int s = socket(AF_INET, SOCK_STREAM, 0);
    port = bound(s, "127.0.0.1");
    a = in4("127.0.0.1", port);
    SHOW(connect(s, (void *)&a, sizeof a));
    SHOW(write(s, "myself", 6));
    char b[16];
    SHOW(read(s, b, 16));
    SHOW(shutdown(s, SHUT_WR));
    SHOW(read(s, b, 16));
    close(s);
    /* wildcard and specific listeners */
    int w = socket(AF_INET, SOCK_STREAM, 0), x = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(w, SOL_SOCKET, SO_REUSEPORT, &on, 4);
    setsockopt(x, SOL_SOCKET, SO_REUSEPORT, &on, 4);
    port = bound(w, "0.0.0.0");
    a = in4("127.0.0.5", port);
    SHOW(bind(x, (void *)&a, sizeof a));
    listen(w, 5); listen(x, 5);
    c = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&a, sizeof a));
    usleep(1000);
    events("specific", x);
    events("wildcard", w);
    c = socket(AF_INET, SOCK_STREAM, 0);
    a = in4("127.0.0.6", port);
    SHOW(connect(c, (void *)&a, sizeof a));
    usleep(1000);
    events("wildcard", w);
    name4("client", c, 0, -1);
    c = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in from = in4("127.0.0.9", 0);
    SHOW(bind(c, (void *)&from, sizeof from));
    SHOW(connect(c, (void *)&a, sizeof a));
    name4("client", c, 0, -1);
    c = socket(AF_INET, SOCK_STREAM, 0);
    a = in4("224.0.0.1", 80);
    SHOW(connect(c, (void *)&a, sizeof a));
    a = in4("255.255.255.255", 80);
    SHOW(connect(c, (void *)&a, sizeof a));
    struct ifreq r = {.ifr_name = "lo"};
    SHOW(ioctl(s = socket(AF_INET, SOCK_DGRAM, 0), SIOCGIFINDEX, &r)); printf("%d\n", r.ifr_ifindex);
    SHOW(ioctl(s, SIOCGIFFLAGS, &r)); printf("%x\n", r.ifr_flags);
    SHOW(ioctl(s, SIOCGIFMTU, &r)); printf("%d\n", r.ifr_mtu);
    SHOW(ioctl(s, SIOCGIFADDR, &r)); printf("%s\n", inet_ntoa(((struct sockaddr_in *)&r.ifr_addr)->sin_addr));
    SHOW(ioctl(s, SIOCGIFNETMASK, &r)); printf("%s\n", inet_ntoa(((struct sockaddr_in *)&r.ifr_addr)->sin_addr));
    SHOW(ioctl(s, SIOCGIFHWADDR, &r)); printf("%d\n", r.ifr_hwaddr.sa_family);
    r.ifr_ifindex = 1;
    SHOW(ioctl(s, SIOCGIFNAME, &r)); printf("%s\n", r.ifr_name);
    strcpy(r.ifr_name, "nothere");
    SHOW(ioctl(s, SIOCGIFINDEX, &r));
    SHOW(if_nametoindex("lo"));
    printf("%s\n", if_indextoname(1, b));
    return 0;
}
