/* Every system call number with random arguments, each in a child of its own. */
#include "hostile.h"

static char buffer[65536] __attribute__((aligned(4096)));

static long argument(void)
{
    switch (rnd() % 12) {
    case 0: return 0;
    case 1: return -1;
    case 2: return rnd() % 8;
    case 3: return (long)buffer + rnd() % 256 * 8;
    case 4: return (long)buffer;
    case 5: return rnd();
    case 6: return 1L << rnd() % 64;
    case 7: return (long)(STUB_BASE + (rnd() & 0x1fffffff));
    case 8: return (long)(REGION_BASE + (rnd() & 0x1fff));
    case 9: return (long)buffer & 0xfff ? 4096 : 8192;
    case 10: return rnd() & 0xffff;
    default: return (long)"/tmp/numbers";
    }
}

static int is_lethal(long nr)
{
    /* Those that may end every process of the sandbox: their effect on others is tested elsewhere. */
    return nr == SYS_kill || nr == SYS_tkill || nr == SYS_tgkill || nr == SYS_rt_sigqueueinfo || nr == SYS_rt_tgsigqueueinfo || nr == SYS_setpriority || nr == SYS_fcntl || nr == SYS_sched_setscheduler;
}

int main(int argc, char **argv)
{
    long first = atol(argv[1]), last = atol(argv[2]);
    int rounds = atoi(argv[3]);
    seed += first * 7919;
    hold_sigchld();
    mkdir("/tmp/numbers", 0777);
    chdir("/tmp/numbers");
    int children = 0;
    for (int round = 0; round < rounds; round++)
        for (long nr = first; nr < last; nr++) {
            if (is_lethal(nr))
                continue;
            uint64_t mine = rnd();
            pid_t pid = fork();
            if (pid < 0) { perror("fork"); return 1; }
            if (pid == 0) {
                struct itimerval soon = {{0, 0}, {0, 30000}};
                pid_t self = getpid();
                seed = mine | 1;
                setpgid(0, 0);
                for (int i = 0; i < 3; i++)
                    close(i);
                for (unsigned i = 0; i < sizeof buffer / 8; i++)
                    ((long *)buffer)[i] = rnd() % 3 ? argument() : (long)rnd();
                setitimer(ITIMER_REAL, &soon, NULL);
                int tries = nr == SYS_clone || nr == SYS_clone3 || nr == SYS_fork || nr == SYS_vfork || nr == SYS_pause ? 1 : 3;
                while (tries--)
                    raw(nr, argument(), argument(), argument(), argument(), argument(), argument());
                raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
                for (;;)
                    raw(SYS_exit, self, 0, 0, 0, 0, 0);
            }
            await(pid, 300);
            kill(-pid, SIGKILL);
            children++;
        }
    printf("children %d\n", children);
    return 0;
}
