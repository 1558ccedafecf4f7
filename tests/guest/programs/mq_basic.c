/* POSIX message queues: opening, attributes, priorities, time limits, waiting, poll, names. */
#include "event_show.h"
#include <mqueue.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static mqd_t q;
static char name[64];

static void get(void)
{
    char text[100] = "";
    unsigned priority = 99;
    long n = mq_receive(q, text, sizeof text, &priority);
    if (n < 0)
        printf("receive: %s\n", strerrorname_np(errno));
    else
        printf("receive: %ld bytes, priority %u: %s\n", n, priority, text);
    fflush(stdout);
}

static void attributes(void)
{
    struct mq_attr a;
    SHOW(mq_getattr(q, &a));
    printf("flags %ld maxmsg %ld msgsize %ld curmsgs %ld\n", a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
}

static int usr1;
static siginfo_t seen;
static void on_usr1(int s, siginfo_t *info, void *u) { usr1++; seen = *info; }
static void on_alarm(int s) {}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = 100};
    struct mq_attr bad = {.mq_maxmsg = 0, .mq_msgsize = 100};
    sprintf(name, "/cloche-test-%d", getpid());
    SHOW(mq_open(name, O_RDWR));
    SHOW(mq_open("no-slash", O_RDWR));
    SHOW(mq_open("/", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(mq_open("/a/b", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(mq_open("/..", O_RDWR | O_CREAT, 0600, NULL));
    SHOW(mq_open(name, O_RDWR | O_CREAT, 0600, &bad));
    bad.mq_maxmsg = 100000;
    SHOW(mq_open(name, O_RDWR | O_CREAT, 0600, &bad));
    umask(022);
    q = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0666, &a);
    printf("opened %d\n", q >= 0);
    SHOW(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL));
    attributes();
    struct stat st;
    fstat(q, &st);
    printf("mode %o size %ld nlink %d\n", st.st_mode, (long)st.st_size, (int)st.st_nlink);
    char text[200];
    int n = pread(q, text, sizeof text, 0);
    printf("[%.*s]\n", n - 1, text);

    get();
    SHOW(mq_send(q, "low", 4, 1));
    SHOW(mq_send(q, "high", 5, 9));
    SHOW(mq_send(q, "low two", 8, 1));
    SHOW(mq_send(q, "zero", 5, 0));
    SHOW(mq_send(q, "full", 5, 0));
    show_poll("full", q, POLLIN | POLLOUT);
    attributes();
    n = pread(q, text, sizeof text, 0);
    printf("[%.*s]\n", n - 1, text);
    SHOW(mq_receive(q, text, 99, NULL));
    for (int i = 0; i < 5; i++)
        get();
    show_poll("empty", q, POLLIN | POLLOUT);
    SHOW(mq_send(q, text, 101, 0));
    SHOW(mq_send(q, text, 1, 32768));
    SHOW(mq_send(q, text, 0, 32767));
    get();
    mqd_t r = mq_open(name, O_RDONLY), w = mq_open(name, O_WRONLY);
    SHOW(mq_send(r, "x", 1, 0));
    SHOW(mq_receive(w, text, 200, NULL));
    SHOW(mq_send(0, "x", 1, 0));
    SHOW(mq_send(1000, "x", 1, 0));
    SHOW(write(w, "x", 1));

    struct mq_attr flags = {.mq_flags = 0};
    SHOW(mq_setattr(q, &flags, &a));
    printf("was %d\n", a.mq_flags == O_NONBLOCK);
    flags.mq_flags = 1;
    SHOW(mq_setattr(q, &flags, NULL));
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 20000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    SHOW(mq_timedreceive(q, text, 200, NULL, &t));
    SHOW(mq_timedreceive(q, text, 200, NULL, &t));
    t.tv_nsec = -1;
    SHOW(mq_timedreceive(q, text, 200, NULL, &t));
    struct sigaction al = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &al, NULL);
    ualarm(20000, 0);
    SHOW(mq_receive(q, text, 200, NULL));

    pid_t child = fork();
    if (!child) {
        get();
        _exit(0);
    }
    nap_ms(30);
    int sent = mq_send(q, "to the child", 13, 3), status;
    waitpid(child, &status, 0);
    printf("sent %d\n", sent);
    for (int i = 0; i < 4; i++)
        mq_send(q, "x", 2, 0);
    child = fork();
    if (!child)
        _exit(mq_send(q, "late", 5, 7));
    nap_ms(30);
    printf("waits %d\n", waitpid(child, &status, WNOHANG));
    get();
    waitpid(child, &status, 0);
    printf("status %d\n", status);
    attributes();
    for (int i = 0; i < 4; i++)
        get();

    struct sigaction sa = {.sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &sa, NULL);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77};
    SHOW(mq_notify(q, &ev));
    SHOW(mq_notify(q, &ev));
    child = fork();
    if (!child) {
        SHOW(mq_notify(q, &ev));
        SHOW(mq_notify(q, NULL));
        mq_send(q, "wake", 5, 0);
        _exit(0);
    }
    waitpid(child, &status, 0);
    printf("usr1 %d code %d value %d pid %d\n", usr1, seen.si_code == SI_MESGQ, seen.si_value.sival_int,
           seen.si_pid == child);
    get();
    SHOW(mq_send(q, "no more", 8, 0));
    printf("usr1 %d\n", usr1);
    SHOW(mq_notify(q, &ev));
    SHOW(mq_send(q, "not the first", 14, 0));
    printf("usr1 %d\n", usr1);
    get();
    get();
    SHOW(mq_notify(q, NULL));
    SHOW(mq_send(q, "none", 5, 0));
    printf("usr1 %d\n", usr1);
    ev.sigev_signo = 65;
    SHOW(mq_notify(q, &ev));
    ev.sigev_notify = 55;
    SHOW(mq_notify(q, &ev));
    ev.sigev_notify = SIGEV_NONE;
    SHOW(mq_notify(q, &ev));
    SHOW(mq_close(w));
    SHOW(mq_notify(q, &ev)); /* the close has removed it */

    SHOW(mq_unlink(name));
    SHOW(mq_unlink(name));
    SHOW(syscall(SYS_mq_unlink, ""));
    get();
    SHOW(mq_open(name, O_RDONLY));
    SHOW(mq_close(q));
    SHOW(mq_close(q));

    struct rlimit small = {1000, 1000};
    setrlimit(RLIMIT_MSGQUEUE, &small);
    a.mq_maxmsg = 4, a.mq_msgsize = 100;
    SHOW(mq_open(name, O_RDWR | O_CREAT, 0600, &a));
    a.mq_maxmsg = 1, a.mq_msgsize = 8;
    q = mq_open(name, O_RDWR | O_CREAT, 0600, &a);
    printf("small one %d\n", q >= 0);
    SHOW(mq_unlink(name));
    return 0;
}
