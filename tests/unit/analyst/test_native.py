"""A whole C library, patched, does its work natively: a static program, so that all of its calls are there."""

import subprocess
from pathlib import Path

from .programs import compiled, needs_gcc, rewritten, stub_bytes, with_stub

pytestmark = needs_gcc

PROGRAM = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static int total, whose;
static volatile sig_atomic_t hits;
static void count(int number) { hits++; }
static void *work(void *argument) {
    long me = (long)argument;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&lock);
        while (whose != me) pthread_cond_wait(&turn, &lock);
        total += me + 1;
        whose = (whose + 1) % 3;
        pthread_cond_broadcast(&turn);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}
static void *sleeper(void *argument) { for (;;) pause(); return NULL; }
int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    long before = argc > 2 ? *(long *)0x7fff00000000 : 0;
    char path[4096], buffer[8192], name[4200];
    snprintf(path, sizeof path, "%s/file", argv[1]);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < 64; i++) { memset(buffer, i, sizeof buffer); if (write(fd, buffer, 100 + i) < 0) return 1; }
    printf("at %ld\n", (long)lseek(fd, 0, SEEK_CUR));
    printf("pread %ld ", (long)pread(fd, buffer, 4096, 5000)); printf("%d\n", buffer[77]);
    printf("pwrite %ld\n", (long)pwrite(fd, "hello", 5, 5000));
    struct iovec parts[2] = {{buffer, 3}, {buffer + 100, 4}};
    printf("preadv %ld ", (long)preadv(fd, parts, 2, 5000)); printf("%.3s\n", buffer);
    struct stat status;
    fstat(fd, &status); printf("fstat %ld\n", (long)status.st_size);
    stat(path, &status); printf("stat %o\n", status.st_mode);
    printf("ftruncate %d\n", ftruncate(fd, 12345));
    char *map = mmap(NULL, 12288, PROT_READ, MAP_SHARED, fd, 0);
    printf("mmap %.5s\n", map + 5000);
    printf("mprotect %d\n", mprotect(map, 4096, PROT_NONE)); printf("munmap %d\n", munmap(map, 12288));
    snprintf(name, sizeof name, "%s2", path);
    printf("rename %d ", rename(path, name)); printf("access %d ", access(path, F_OK)); printf("unlink %d\n", unlink(name));
    printf("close %d %d\n", close(fd), close(fd));
    DIR *directory = opendir(argv[1]); int entries = 0; while (readdir(directory)) entries++; closedir(directory);
    printf("entries %d\n", entries);
    int ends[2], pair[2]; if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 1;
    struct pollfd polled = {ends[0], POLLIN, 0};
    printf("poll %d\n", poll(&polled, 1, 1));
    if (write(ends[1], "x", 1) != 1) return 1;
    printf("poll %d ", poll(&polled, 1, -1)); printf("%d\n", polled.revents);
    struct timespec wait = {0, 1000000};
    printf("ppoll %d read %ld\n", ppoll(&polled, 1, &wait, NULL), (long)read(ends[0], buffer, 9));
    printf("send %ld ", (long)send(pair[0], "abc", 3, 0)); printf("recv %ld\n", (long)recv(pair[1], buffer, 9, 0));
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    printf("sendmsg %ld ", (long)sendmsg(pair[0], &message, 0));
    printf("recvmsg %ld\n", (long)recvmsg(pair[1], &message, 0));
    int epoll = epoll_create1(0); struct epoll_event event = {EPOLLIN, {.fd = 5}};
    int counter = eventfd(3, 0); epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event);
    event.data.fd = 0; printf("epoll %d ", epoll_wait(epoll, &event, 1, 100)); printf("%d\n", event.data.fd);
    pthread_t threads[3], lazy;
    for (long i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    printf("total %d\n", total);
    pthread_create(&lazy, NULL, sleeper, NULL); pthread_cancel(lazy);
    void *result; pthread_join(lazy, &result); printf("cancelled %d\n", result == PTHREAD_CANCELED);
    signal(SIGUSR1, count); raise(SIGUSR1); kill(getpid(), SIGUSR1); printf("hits %d\n", hits);
    sigset_t set, old; sigemptyset(&set); sigaddset(&set, SIGUSR1); sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1); printf("hits %d\n", hits); sigprocmask(SIG_SETMASK, &old, NULL); printf("hits %d\n", hits);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) { nanosleep(&wait, NULL); _exit(i); }
        int how; waitpid(child, &how, 0); printf("%d ", WEXITSTATUS(how));
    }
    printf("\nsystem %d\n", system("exit 3") >> 8);
    struct rlimit limit; printf("getrlimit %d\n", getrlimit(RLIMIT_STACK, &limit));
    printf("syscall %ld %ld\n", syscall(SYS_getppid) - getppid(), syscall(SYS_close, -1));
    void *memory = malloc(10 << 20); memset(memory, 1, 10 << 20); free(memory);
    printf("sbrk %d\n", sbrk(4096) != (void *)-1);
    printf("nanosleep %d\n", nanosleep(&wait, NULL));
    if (argc > 2) fprintf(stderr, "%ld\n", *(long *)0x7fff00000000 - before);
    return 0;
}
"""


def test_a_static_program(tmp_path: Path) -> None:
    program = compiled(tmp_path, "program", PROGRAM, "-static", "-no-pie", "-pthread", "-w")
    work = tmp_path / "work"
    work.mkdir()
    plain = subprocess.run([program, work], capture_output=True, timeout=150)
    assert plain.returncode == 0
    middle, out = tmp_path / "middle", tmp_path / "patched"
    text = rewritten(program, middle)
    with_stub(middle, out, stub_bytes(tmp_path))
    run = subprocess.run([out, work, "count"], capture_output=True, timeout=150)
    assert (run.returncode, run.stdout.decode()) == (0, plain.stdout.decode())
    assert int(run.stderr) > 300
    assert len(text.header.sites) > 100
