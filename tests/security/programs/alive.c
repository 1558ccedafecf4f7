/* A well-behaved program: processes, memory, a pipe, a file, a thread, exec.  Prints "alive". */
#include "hostile.h"

static void *thread(void *arg) { *(int *)arg = 7; return NULL; }

int main(int argc, char **argv)
{
    if (argc > 1) {
        puts("alive");
        return 0;
    }
    int fds[2], value = 0, status = -1;
    char buffer[16] = "";
    if (pipe(fds)) { perror("pipe"); return 1; }
    pid_t pid = fork();
    if (pid < 0) { perror("fork"); return 1; }
    if (pid == 0)
        _exit(write(fds[1], "hello", 5) == 5 ? 3 : 4);
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 3) { printf("wait %x\n", status); return 1; }
    if (read(fds[0], buffer, 16) != 5 || memcmp(buffer, "hello", 5)) { puts("read"); return 1; }
    char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { perror("mmap"); return 1; }
    memset(p, 1, 1 << 20);
    munmap(p, 1 << 20);
    int fd = open("/tmp/.alive", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, p = "x", 1) != 1 || unlink("/tmp/.alive")) { perror("file"); return 1; }
    pthread_t t;
    if (pthread_create(&t, NULL, thread, &value) || pthread_join(t, NULL) || value != 7) { puts("thread"); return 1; }
    execl("/proc/self/exe", "alive", "again", NULL);
    perror("exec");
    return 1;
}
