/* Reading a process that was forked just now: its memory is complete as soon as fork has returned. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char word[16] = "aaaa";

int main(void) {
    int failed = 0;
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child == 0)
            for (;;)
                pause();
        char got[16] = "", put = 'z', path[64], text[64];
        struct iovec own = {got, 4}, other = {word, 4}, from = {&put, 1}, to = {word, 1};
        if (i % 3 == 0)
            failed += process_vm_readv(child, &own, 1, &other, 1, 0) != 4 || memcmp(got, "aaaa", 4);
        if (i % 3 == 1)
            failed += process_vm_writev(child, &from, 1, &to, 1, 0) != 1;
        if (i % 3 == 2) {
            snprintf(path, sizeof path, "/proc/%d/%s", child, i & 1 ? "cmdline" : "mem");
            int fd = open(path, O_RDONLY);
            failed += (i & 1 ? read(fd, text, sizeof text) <= 0 : pread(fd, got, 4, (off_t)word) != 4);
            close(fd);
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    printf("%d failed\n", failed);
    return 0;
}
