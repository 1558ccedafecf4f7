#include "file_common.h"

int main(void)
{
    int p[2];
    pipe(p);
    struct f_owner_ex ex;
    T(fcntl(p[0], F_GETOWN));
    T(fcntl(p[0], F_SETOWN, getpid()));
    T(fcntl(p[0], F_GETOWN) == getpid());
    T(fcntl(p[0], F_GETOWN_EX, &ex));
    printf("%d %d\n", ex.type, ex.pid == getpid());
    T(fcntl(p[0], F_SETOWN, -getpgrp()));
    T(fcntl(p[0], F_GETOWN_EX, &ex));
    printf("%d %d\n", ex.type, ex.pid == getpgrp());
    ex.type = F_OWNER_TID;
    ex.pid = getpid();
    T(fcntl(p[0], F_SETOWN_EX, &ex));
    ex.type = 9;
    T(fcntl(p[0], F_SETOWN_EX, &ex));
    ex.type = F_OWNER_PID;
    ex.pid = 0x3fffffff;
    T(fcntl(p[0], F_SETOWN_EX, &ex));
    ex.pid = 0;
    T(fcntl(p[0], F_SETOWN_EX, &ex));
    T(fcntl(p[0], F_GETOWN));
    T(fcntl(p[0], F_SETOWN, 0x3fffffff));
    T(fcntl(p[0], F_SETOWN, INT_MIN));
    T(fcntl(p[0], F_SETOWN_EX, 8));
    T(fcntl(p[0], F_GETSIG));
    T(fcntl(p[0], F_SETSIG, SIGUSR1));
    T(fcntl(p[0], F_GETSIG) == SIGUSR1);
    T(fcntl(p[0], F_SETSIG, 65));
    T(fcntl(p[0], F_SETSIG, -1));
    T(fcntl(p[0], F_SETSIG, 0));
    return 0;
}
