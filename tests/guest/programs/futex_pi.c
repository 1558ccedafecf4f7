/* Priority-inheritance futexes: the word's values, the errors, hand-over, deadlock, dead owners, requeueing. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TID_MASK FUTEX_TID_MASK
static volatile uint32_t *word, *other, *cond;

static long fx(volatile uint32_t *addr, int op, uint32_t val, void *timeout, volatile uint32_t *addr2, uint32_t val3)
{
    long r = syscall(SYS_futex, addr, op, val, timeout, addr2, val3);
    return r < 0 ? -errno : r;
}

static const char *err(long r)
{
    static char room[8][32];
    static int at;
    char *out = room[at++ & 7];
    if (r < 0)
        snprintf(out, 32, "%s", strerrorname_np(-r));
    else
        snprintf(out, 32, "%ld", r);
    return out;
}

static pid_t tid(void) { return syscall(SYS_gettid); }

static void show(const char *name, volatile uint32_t *w, pid_t expected)
{
    uint32_t v = *w;
    printf("%s: owner %s%s%s\n", name, !(v & TID_MASK) ? "none" : (v & TID_MASK) == expected ? "expected" : "other",
           v & FUTEX_WAITERS ? " waiters" : "", v & FUTEX_OWNER_DIED ? " died" : "");
}

static struct timespec *in_ms(int clock, long ms)
{
    static struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return &t;
}

static void errors(void)
{
    *word = 0;
    printf("lock free %s\n", err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    show("locked", word, tid());
    printf("lock own %s\n", err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    printf("try own %s\n", err(fx(word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0)));
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    show("unlocked", word, tid());
    printf("unlock free %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    printf("try free %s\n", err(fx(word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0)));
    show("tried", word, tid());
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    *word = 4000000;
    printf("lock of a dead owner %s\n", err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    show("dead", word, 4000000);
    *word = FUTEX_OWNER_DIED;
    printf("lock after death %s\n", err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    show("taken", word, tid());
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    *word = FUTEX_WAITERS;
    printf("lock with a stale bit %s\n", err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    show("taken", word, tid());
    *word = 0;
    printf("misaligned %s\n", err(fx((void *)((char *)word + 1), FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    printf("unmapped %s\n", err(fx((void *)16, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    printf("unmapped unlock %s\n", err(fx((void *)16, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    printf("lock realtime flag %s\n", err(fx(word, FUTEX_LOCK_PI | FUTEX_CLOCK_REALTIME, 0, NULL, NULL, 0)));
    struct timespec bad = {1, 1000000000};
    printf("bad limit %s\n", err(fx(word, FUTEX_LOCK_PI, 0, &bad, NULL, 0)));
    printf("requeue onto itself %s\n", err(fx(word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, word, *word)));
    printf("requeue waking two %s\n", err(fx(word, FUTEX_CMP_REQUEUE_PI, 2, (void *)1, other, *word)));
    printf("requeue value %s\n", err(fx(word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, other, *word + 1)));
    printf("requeue nobody %s\n", err(fx(word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, other, *word)));
    printf("wait requeue onto itself %s\n", err(fx(word, FUTEX_WAIT_REQUEUE_PI, *word, NULL, word, 0)));
    printf("wait requeue value %s\n", err(fx(word, FUTEX_WAIT_REQUEUE_PI, *word + 1, NULL, other, 0)));
    printf("wait requeue limit %s\n",
           err(fx(word, FUTEX_WAIT_REQUEUE_PI, *word, in_ms(CLOCK_MONOTONIC, 10), other, 0)));
    printf("wait requeue real limit %s\n",
           err(fx(word, FUTEX_WAIT_REQUEUE_PI | FUTEX_CLOCK_REALTIME, *word, in_ms(CLOCK_REALTIME, 10), other, 0)));
}

static volatile int stage, order[8], turns;

static void wait_for_bit(volatile uint32_t *w)
{
    while (!(*w & FUTEX_WAITERS))
        usleep(1000);
}

static void *locker(void *arg)
{
    long r = fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    while (stage != 2)
        usleep(1000);
    show("waiter", word, tid());
    printf("waiter lock %s\n", err(r));
    printf("waiter unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    return NULL;
}

static void *limited(void *arg)
{
    int op = (intptr_t)arg;
    int clock = op == FUTEX_LOCK_PI ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    printf("limited %s\n", err(fx(word, op, 0, in_ms(clock, 20), NULL, 0)));
    printf("try %s\n", err(fx(word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0)));
    printf("unlock of another's %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    return NULL;
}

static void hand_over(void)
{
    pthread_t t;
    *word = 0;
    fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    pthread_create(&t, NULL, locker, NULL);
    wait_for_bit(word);
    usleep(20000);
    show("before", word, tid());
    printf("wake meets a lock %s\n", err(fx(word, FUTEX_WAKE, 1, NULL, NULL, 0)));
    printf("requeue meets a lock %s\n", err(fx(word, FUTEX_CMP_REQUEUE, 1, (void *)1, other, *word)));
    printf("requeue_pi meets a lock %s\n", err(fx(word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, other, *word)));
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    stage = 2;
    pthread_join(t, NULL);
    show("after", word, 0);
    for (int i = 0; i < 2; i++) {
        *word = tid();
        pthread_create(&t, NULL, limited, (void *)(intptr_t)(i ? FUTEX_LOCK_PI2 : FUTEX_LOCK_PI));
        pthread_join(t, NULL);
        show("after the limit", word, tid());
        printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
        show("after unlock", word, 0);
    }
}

static void *plain_waiter(void *arg)
{
    stage = 1;
    printf("plain %s\n", err(fx(word, FUTEX_WAIT, *word, NULL, NULL, 0)));
    return NULL;
}

static void mixed(void)
{
    pthread_t t;
    stage = 0;
    *word = tid();
    pthread_create(&t, NULL, plain_waiter, NULL);
    while (!stage)
        usleep(1000);
    usleep(20000);
    printf("unlock with a plain waiter %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    printf("requeue_pi with a plain waiter %s\n", err(fx(word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, other, *word)));
    fx(word, FUTEX_WAKE, 1, NULL, NULL, 0);
    pthread_join(t, NULL);
}

static void *circle(void *arg)
{
    long r;
    fx(other, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    stage = 1;
    r = fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    fx(other, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    return (void *)r;
}

static void deadlock(void)
{
    pthread_t t;
    *word = *other = stage = 0;
    fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    pthread_create(&t, NULL, circle, NULL);
    while (!stage)
        usleep(1000);
    wait_for_bit(word);
    usleep(20000);
    printf("deadlock %s\n", err(fx(other, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    show("word", word, tid());
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    void *half;
    pthread_join(t, &half);
    printf("first half %s\n", err((long)half));
    show("word", word, 0);
    show("other", other, 0);
}

static void *handler_thread(void *arg)
{
    printf("interrupted lock %s\n", err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    return NULL;
}

static void on_signal(int signo) { turns++; }

static void restart(void)
{
    pthread_t t;
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &sa, NULL);
    *word = tid();
    turns = 0;
    pthread_create(&t, NULL, handler_thread, NULL);
    wait_for_bit(word);
    usleep(20000);
    pthread_kill(t, SIGUSR1);
    while (!turns)
        usleep(1000);
    printf("handler ran %d\n", turns);
    fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    pthread_join(t, NULL);
}

static void dying(int how)
{
    /* how 0: thread exits; 1: process exits; 2: process is killed; the parent waits in LOCK_PI */
    *word = stage = 0;
    pid_t child = fork();
    if (!child) {
        fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
        while (!(*word & FUTEX_WAITERS))
            usleep(1000);
        usleep(20000);
        if (how == 0)
            syscall(SYS_exit, 0);
        if (how == 1)
            _exit(0);
        kill(getpid(), SIGKILL);
    }
    while (!*word)
        usleep(1000);
    printf("dying %d: lock %s\n", how, err(fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0)));
    show("word", word, tid());
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    show("word", word, tid());
    waitpid(child, NULL, 0);
}

static volatile uint32_t count;

static void *waiter(void *arg)
{
    long r = fx(cond, FUTEX_WAIT_REQUEUE_PI, 0, arg ? in_ms(CLOCK_MONOTONIC, 60) : NULL, word, 0);
    if (r == 0 && (*word & TID_MASK) != tid())
        printf("woken without the lock\n");
    __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (r == 0)
        fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    return (void *)r;
}

static void requeue(int free)
{
    pthread_t t[3];
    *cond = *word = count = 0;
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, waiter, NULL);
    usleep(100000);
    printf("wake meets it %s\n", err(fx(cond, FUTEX_WAKE, 1, NULL, NULL, 0)));
    printf("requeue meets it %s\n", err(fx(cond, FUTEX_CMP_REQUEUE, 1, (void *)1, other, 0)));
    printf("to elsewhere %s\n", err(fx(cond, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, other, 0)));
    if (!free)
        fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    printf("requeued %s\n", err(fx(cond, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, word, 0)));
    usleep(50000);
    printf("woken %d\n", count);
    if (!free) {
        show("word", word, tid());
        printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
    }
    usleep(50000);
    printf("woken %d\n", count);
    printf("requeued rest %s\n", err(fx(cond, FUTEX_CMP_REQUEUE_PI, 1, (void *)10, word, 0)));
    for (int i = 0; i < 3; i++) {
        void *r;
        pthread_join(t[i], &r);
        printf("waiter %s\n", err((long)r));
    }
    show("word", word, 0);
}

static void requeued_limit(void)
{
    pthread_t t;
    *cond = *word = count = 0;
    fx(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    pthread_create(&t, NULL, waiter, (void *)1);
    usleep(20000);
    printf("requeued %s\n", err(fx(cond, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, word, 0)));
    void *r;
    pthread_join(t, &r);
    printf("waiter %s\n", err((long)r));
    show("word", word, tid());
    printf("unlock %s\n", err(fx(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0)));
}

static pthread_mutex_t mutex;
static long total;

static void *adder(void *arg)
{
    for (int i = 0; i < 300; i++) {
        pthread_mutex_lock(&mutex);
        total++;
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *quitter(void *arg)
{
    pthread_mutex_lock(&mutex);
    return NULL;
}

static void libc(void)
{
    pthread_mutexattr_t a;
    pthread_t t[4];
    pthread_mutexattr_init(&a);
    printf("protocol %d\n", pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT));
    pthread_mutex_init(&mutex, &a);
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, adder, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    printf("total %ld\n", total);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex, &a);
    pthread_create(&t[0], NULL, quitter, NULL);
    pthread_join(t[0], NULL);
    int r = pthread_mutex_lock(&mutex);
    printf("robust %s", strerrorname_np(r));
    printf(" %d", pthread_mutex_consistent(&mutex));
    printf(" %d\n", pthread_mutex_unlock(&mutex));
    printf("again %d", pthread_mutex_lock(&mutex));
    printf(" %d\n", pthread_mutex_unlock(&mutex));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    word = (void *)page;
    other = (void *)(page + 64);
    cond = (void *)(page + 128);
    alarm(40);
    errors();
    hand_over();
    mixed();
    deadlock();
    restart();
    for (int how = 0; how < 3; how++)
        dying(how);
    requeue(1);
    requeue(0);
    requeued_limit();
    libc();
    return 0;
}
