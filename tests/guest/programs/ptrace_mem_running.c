/* /proc/PID/mem of a running process without a tracer: text can be written all the same. */
#include "ptrace_common.h"

static volatile long *word;

__attribute__((noinline)) long value(void)
{
    __asm__ volatile("nop");
    return 1;
}

static const volatile char constant[] = "constant text";

static const volatile char many[4096] = {1};

static void *busy(void *kind)
{
    for (;;) {
        if (kind) {
            usleep(50);
            munmap(mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 8192);
        }
        if (many[100] == 'x')
            word[2 + !kind] = 1;
    }
}

/* Threads that compute, sleep and map; one that lends itself to children. */
static int start_many(void)
{
    int pid = fork();
    if (pid)
        return pid;
    alarm(30);
    pthread_t thread;
    pthread_create(&thread, NULL, busy, NULL);
    pthread_create(&thread, NULL, busy, &thread);
    for (;;) {
        if (!vfork())
            _exit(0);
        wait(NULL);
    }
}

static void write_many(void)
{
    int pid = start_many(), wrong = 0;
    char name[64];
    sprintf(name, "/proc/%d/mem", pid);
    int fd = open(name, O_RDWR);
    for (int round = 0; round < 300; round++) {
        char text = round < 299 ? round % 100 : 'x';
        wrong += pwrite(fd, &text, 1, (long)many + 100) != 1;
        if (round % 10 == 0)
            usleep(200);
    }
    printf("wrong %d\n", wrong);
    while (!word[2] || !word[3])
        usleep(100);
    kill(pid, SIGKILL);
    step("many", pid);
}

int main(void)
{
    start();
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* mov $2, %eax; ret */
    static const unsigned char code[] = {0xb8, 2, 0, 0, 0, 0xc3};
    long (*volatile call)(void) = value;
    int pid = fork();
    if (!pid) {
        alarm(20);
        while (call() == 1)
            word[0]++;
        word[1] = 1;
        for (;;)
            if (constant[0] == 'C')
                _exit(5);
    }
    while (!word[0])
        usleep(100);
    char name[64], text[32] = "";
    sprintf(name, "/proc/%d/mem", pid);
    int fd = open(name, O_RDWR);
    T(pwrite(fd, code, sizeof code, (long)value));
    while (!word[1])
        usleep(100);
    T(pread(fd, text, 13, (long)constant));
    printf("%s\n", text);
    T(pwrite(fd, "C", 1, (long)constant));
    step("end", pid);
    printf("ours %ld\n", value());
    write_many();
    return 0;
}
