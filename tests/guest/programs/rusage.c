/* getrusage(2), wait4's rusage and their like in /proc: sizes are marks of high water, faults and switches are counted. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1 << 20)
#define BASE 100 /* MiB: much more than a small process has */

static struct rusage usage(int who)
{
    struct rusage r;
    memset(&r, 0, sizeof r);
    if (getrusage(who, &r))
        perror("getrusage");
    return r;
}

/* Use some memory and give it back. */
static void use(int mib)
{
    mib += BASE;
    char *p = mmap(NULL, (size_t)mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, (size_t)mib * MIB, MADV_NOHUGEPAGE);
    memset(p, 1, (size_t)mib * MIB);
    munmap(p, (size_t)mib * MIB);
}

/* Whether a number of KiB is the size of a small process with `mib` more. */
static const char *about(long kib, long mib)
{
    mib += BASE;
    long least = mib * 1024, most = (mib + 12) * 1024;
    return kib >= least && kib < most ? "as expected" : "wrong";
}

static long field(const char *label)
{
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, label, strlen(label)))
            value = atol(line + strlen(label));
    fclose(file);
    return value;
}

static long stat_field(int index)
{
    char text[1024] = "";
    int fd = open("/proc/self/stat", O_RDONLY);
    read(fd, text, sizeof text - 1);
    close(fd);
    char *at = strrchr(text, ')') + 1;
    for (int i = 3; i <= index; i++)
        at = strchr(at, ' ') + 1;
    return atol(at);
}

static void *thread(void *arg)
{
    struct rusage before = usage(RUSAGE_THREAD);
    use(4);
    for (int i = 0; i < 5; i++)
        usleep(1000);
    struct rusage after = usage(RUSAGE_THREAD);
    printf("thread: faults %d waits %d\n", after.ru_minflt - before.ru_minflt >= 1024,
           after.ru_nvcsw - before.ru_nvcsw >= 5 && after.ru_nvcsw - before.ru_nvcsw < 50);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        struct rusage r = usage(RUSAGE_SELF);
        printf("after execve %s\n", about(r.ru_maxrss, atoi(argv[1])));
        return 0;
    }
    /* In a child, whose marks begin with itself: those of this process have the size of what executed it, if that was a vfork. */
    int body = fork(), ended = 0;
    if (body)
        return waitpid(body, &ended, 0) == body ? WEXITSTATUS(ended) : 1;
    struct rusage a = usage(RUSAGE_SELF), b, c;
    printf("small at first %d\n", a.ru_maxrss > 0);
    use(40);
    b = usage(RUSAGE_SELF);
    printf("40 MiB %s, faults %d\n", about(b.ru_maxrss, 40), b.ru_minflt - a.ru_minflt >= 10240);
    printf("VmHWM %s, VmRSS %d\n", about(field("VmHWM:"), 40), field("VmRSS:") < 12 * 1024);
    printf("stat %d\n", stat_field(10) >= b.ru_minflt);
    for (int i = 0; i < 20; i++)
        usleep(1000);
    c = usage(RUSAGE_SELF);
    printf("waits %d %d\n", c.ru_nvcsw - b.ru_nvcsw >= 20, c.ru_nvcsw - b.ru_nvcsw < 60);
    printf("status %d %d\n", field("voluntary_ctxt_switches:") >= 20, field("nonvoluntary_ctxt_switches:") >= 0);
    b = usage(RUSAGE_CHILDREN);
    printf("no children %ld %ld %ld %ld\n", b.ru_maxrss, b.ru_minflt, b.ru_majflt, b.ru_nvcsw);

    int pid = fork();
    if (!pid) {
        use(60);
        usleep(1000);
        _exit(0);
    }
    int status;
    wait4(pid, &status, 0, &a);
    b = usage(RUSAGE_CHILDREN);
    printf("child %s, faults %d, waits %d\n", about(a.ru_maxrss, 60), a.ru_minflt >= 15360, a.ru_nvcsw >= 1);
    /* Linux adds the child's switches to those of all children before it tells them, and the last may come in between. */
    printf("children %s, the same %d\n", about(b.ru_maxrss, 60),
           b.ru_maxrss == a.ru_maxrss && b.ru_minflt == a.ru_minflt && a.ru_nvcsw - b.ru_nvcsw <= 1 &&
               a.ru_nvcsw >= b.ru_nvcsw);
    printf("stat %d\n", stat_field(11) == b.ru_minflt);

    /* A grandchild's size is the child's, a smaller child changes nothing. */
    pid = fork();
    if (!pid) {
        if (!fork()) {
            use(80);
            _exit(0);
        }
        wait(NULL);
        _exit(0);
    }
    wait4(pid, &status, 0, &a);
    printf("with grandchild %s\n", about(a.ru_maxrss, 80));
    pid = fork();
    if (!pid)
        _exit(0);
    wait4(pid, &status, 0, &a);
    b = usage(RUSAGE_CHILDREN);
    printf("small child %d, children still %s\n", a.ru_maxrss < 12 * 1024, about(b.ru_maxrss, 80));

    /* The size before execve counts, also when it was the parent's. */
    fflush(stdout);
    pid = fork();
    if (!pid) {
        use(30);
        execl("/proc/self/exe", "rusage", "30", NULL);
    }
    wait4(pid, &status, 0, &a);
    printf("status %d, %s\n", status, about(a.ru_maxrss, 30));
    fflush(stdout);
    pid = vfork();
    if (!pid)
        execl("/proc/self/exe", "rusage", "40", NULL);
    wait4(pid, &status, 0, &a);
    printf("status %d, %s\n", status, about(a.ru_maxrss, 40));

    pthread_t one;
    pthread_create(&one, NULL, thread, NULL);
    pthread_join(one, NULL);
    c = usage(RUSAGE_SELF);
    printf("still %s\n", about(c.ru_maxrss, 40));
    printf("bad %d\n", getrusage(7, &c));
    return 0;
}
