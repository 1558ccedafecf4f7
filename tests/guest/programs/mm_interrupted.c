/* Memory calls while signals rain: none may fail with EINTR. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int hits, stop;
static pthread_t target;

static void on_signal(int signo) { hits++; }

static void *rain(void *arg)
{
    while (!stop) {
        pthread_kill(target, SIGUSR1);
        usleep(50);
    }
    return NULL;
}

static int failed(const char *name, int is_failure)
{
    if (is_failure)
        printf("%s: %s\n", name, strerrorname_np(errno));
    return is_failure;
}

int main(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &sa, NULL);
    target = pthread_self();
    pthread_t t;
    pthread_create(&t, NULL, rain, NULL);
    int bad = 0;
    for (int i = 0; i < 3000 && bad < 10; i++) {
        char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (failed("mmap", p == MAP_FAILED)) {
            bad++;
            continue;
        }
        bad += failed("mprotect", mprotect(p, 4096, PROT_READ) < 0);
        bad += failed("munmap", munmap(p, 65536) < 0);
    }
    stop = 1;
    pthread_join(t, NULL);
    printf("failures %d, signals %d\n", bad, hits > 0);
    return 0;
}
