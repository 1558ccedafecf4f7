/* A program that asks for more threads than it can have gets an error, and goes on. */
#include "event_show.h"
#include <pthread.h>

enum { WANTED = 1200 };
static pthread_t threads[WANTED];
static pthread_barrier_t barrier;
static int go[2];

static void *wait_for_end(void *unused)
{
    char byte;
    while (read(go[0], &byte, 1) < 0 && errno == EINTR)
        ;
    return (void *)7;
}

int main(void)
{
    pipe(go);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    int count = 0, error = 0;
    while (count < WANTED && !(error = pthread_create(&threads[count], &attributes, wait_for_end, NULL)))
        count++;
    printf("many %d, expected error %d\n", count > 900, error == 0 || error == EAGAIN);
    close(go[1]);
    int good = 0;
    for (int i = 0; i < count; i++) {
        void *value;
        good += pthread_join(threads[i], &value) == 0 && value == (void *)7;
    }
    printf("all ended %d\n", good == count);
    pthread_t last;
    void *value = NULL;
    SHOW(pthread_create(&last, NULL, wait_for_end, NULL));
    SHOW(pthread_join(last, &value));
    return value != (void *)7;
}
