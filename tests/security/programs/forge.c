/* A second thread writes random bytes into every field of the process's slots while requests run. */
#include "hostile.h"

static volatile int go = 1;

static void *forger(void *arg)
{
    int slots = (int)(long)arg;
    while (go) {
        uint64_t slot = REGION_BASE + SLOT_SIZE * (rnd() % slots);
        uint64_t at = slot + (rnd() % 4 ? rnd() % 0x100 : rnd() % 0x1000);
        switch (rnd() % 6) {
        case 0: *(volatile uint8_t *)at = rnd(); break;
        case 1: *(volatile uint32_t *)(at & ~3ULL) = rnd() % 8; break;
        case 2: *(volatile uint32_t *)(slot + rnd() % 64 * 4) = rnd(); break;
        case 3: *(volatile uint64_t *)(at & ~7ULL) = rnd(); break;
        case 4: *(volatile uint32_t *)slot = rnd() % 5; break;              /* state */
        case 5: *(volatile uint64_t *)(slot + 0x11000 + (rnd() % 0xf000 & ~7ULL)) = rnd(); break; /* signal stack */
        }
        for (volatile int i = rnd() % 64; i; i--)
            ;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int children = atoi(argv[1]), ended = 0;
    hold_sigchld();
    for (int i = 0; i < children; i++) {
        uint64_t mine = rnd();
        pid_t pid = fork();
        if (pid < 0) { perror("fork"); return 1; }
        if (pid == 0) {
            pthread_t t;
            char buffer[64];
            struct itimerval soon = {{0, 0}, {0, 60000}};
            seed = mine | 1;
            setpgid(0, 0);
            setitimer(ITIMER_REAL, &soon, NULL);
            pthread_create(&t, NULL, forger, (void *)(long)(i % 2 ? 2 : 8));
            for (int n = 0;; n++) {
                int fd = open("/etc/passwd", O_RDONLY);
                read(fd, buffer, sizeof buffer);
                close(fd);
                char *p = mmap(NULL, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (p != MAP_FAILED)
                    *p = 1;
                munmap(p, 8192);
                if (n % 8 == 7) {
                    pid_t grandchild = fork();
                    if (grandchild == 0)
                        _exit(0);
                    waitpid(grandchild, NULL, 0);
                }
            }
        }
        await(pid, 1000);
        kill(-pid, SIGKILL);
        ended++;
    }
    printf("ended %d\n", ended);
    return 0;
}
