/* Jumps to each syscall instruction of the stub with the registers of every call that the filter lets through.
 *
 * Each in a child: it must not outlive the test, or see or touch another process's memory. */
#include "hostile.h"

static uint64_t sites[64];
static int site_count;

static void jump(uint64_t site, const long *r)
{
    register long r10 __asm__("r10") = r[4];
    register long r8 __asm__("r8") = r[5];
    register long r9 __asm__("r9") = r[6];
    __asm__ volatile("jmp *%0" : : "b"(site), "a"(r[0]), "D"(r[1]), "S"(r[2]), "d"(r[3]), "r"(r10), "r"(r8), "r"(r9) : "memory", "rcx", "r11");
}

static long pick(void)
{
    static const long values[] = {0, 1, -1, 3, 8, 0x11, 0x32, 4096, 8192, 0x8011, 0x50f00, STUB_BASE, INFO_BASE, VDSO_BASE, REGION_BASE, REGION_BASE + SLOT_SIZE, 1L << 47, 0x10000, 0x700000, 0x636c6f63686562, 0x656c6c};
    return rnd() % 5 ? values[rnd() % (sizeof values / sizeof *values)] : (long)rnd();
}

int main(int argc, char **argv)
{
    static const long calls[] = {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_clone, SYS_close, SYS_exit, SYS_exit_group, SYS_sched_yield, SYS_futex, SYS_rt_sigreturn, SYS_write, SYS_execve, SYS_socket};
    static long pages[2][7] = {{SYS_munmap, 0x10000, 0x7ffdfffe0000, 0, 0, 0, 0}, {SYS_clone, 0x8011, 0, 0, 0, 0, 0}};
    int rounds = atoi(argv[1]), children = 0;
    const unsigned char *stub = (void *)STUB_BASE;
    for (uint64_t i = 0; i + 1 < 0x3000 && site_count < 64; i++) {
        /* Beyond the text the stub's mapping ends: read it as a kernel would, without a fault. */
        int fds[2];
        if (i % 4096 == 0) {
            if (pipe(fds))
                return 1;
            ssize_t got = write(fds[1], stub + i, 1);
            close(fds[0]);
            close(fds[1]);
            if (got != 1)
                i = 1 << 20;
        }
        if (i < 0x3000 && stub[i] == 0x0f && stub[i + 1] == 0x05)
            sites[site_count++] = STUB_BASE + i;
    }
    printf("sites %d\n", site_count > 5);
    if (!site_count) { /* not readable: guess */
        for (int i = 0; i < 64; i++)
            sites[site_count++] = STUB_BASE + rnd() % 0x1000;
    }
    hold_sigchld();
    for (int round = 0; round < rounds; round++)
        for (unsigned c = 0; c < sizeof calls / sizeof *calls; c++) {
            uint64_t mine = rnd();
            pid_t pid = fork();
            if (pid < 0) { perror("fork"); return 1; }
            if (pid == 0) {
                struct itimerval soon = {{0, 0}, {0, 20000}};
                long r[7] = {calls[c], 0};
                seed = mine | 1;
                for (int i = 1; i < 7; i++)
                    r[i] = pick();
                if (rnd() % 16 == 0)
                    memcpy(r, pages[rnd() % 2], sizeof r);
                setpgid(0, 0);
                close(0);
                close(1);
                setitimer(ITIMER_REAL, &soon, NULL);
                jump(sites[rnd() % site_count], r);
                for (;;)
                    ;
            }
            await(pid, 500);
            kill(-pid, SIGKILL);
            children++;
        }
    printf("children %d\n", children);
    return 0;
}
