/* FIFOs: how open waits, ENXIO, O_RDWR, POLLHUP before and after a writer. */
#include "event_show.h"
#include <pthread.h>
#include <sys/stat.h>

static void on_alarm(int s) {}

static void *opener(void *arg)
{
    nap_ms(20);
    int fd = open("fifo", (int)(long)arg);
    if (((long)arg & O_ACCMODE) == O_WRONLY)
        write(fd, "data", 4);
    return (void *)(long)fd;
}

int main(void)
{
    char b[100];
    struct stat st;
    pthread_t t;
    void *other;
    SHOW(mkfifo("fifo", 0600));
    SHOW(mkfifo("fifo", 0600));
    SHOW(stat("fifo", &st));
    printf("%o\n", st.st_mode);
    SHOW(open("fifo", O_WRONLY | O_NONBLOCK));
    int r = open("fifo", O_RDONLY | O_NONBLOCK);
    show_poll("never had a writer", r, POLLIN);
    SHOW(read(r, b, 10));
    int w = open("fifo", O_WRONLY | O_NONBLOCK);
    SHOW(read(r, b, 10));
    show_poll("writer there", r, POLLIN);
    write(w, "abc", 3);
    show_poll("data", r, POLLIN);
    close(w);
    show_poll("data, writer gone", r, POLLIN);
    SHOW(read(r, b, 10));
    show_poll("writer gone", r, POLLIN);
    SHOW(read(r, b, 10));
    w = open("fifo", O_WRONLY);
    show_poll("writer again", r, POLLIN);
    close(r);
    show_poll("writer without reader", w, POLLOUT);
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(w, "x", 1));
    close(w);
    int rw = open("fifo", O_RDWR);
    SHOW(write(rw, "self", 4));
    SHOW(read(rw, b, 10));
    show_poll("both", rw, POLLIN | POLLOUT);
    close(rw);

    pthread_create(&t, NULL, opener, (void *)(long)O_WRONLY);
    r = open("fifo", O_RDONLY);
    SHOW(read(r, b, 10));
    pthread_join(t, &other);
    close(r);
    close((int)(long)other);
    pthread_create(&t, NULL, opener, (void *)(long)O_RDONLY);
    w = open("fifo", O_WRONLY);
    pthread_join(t, &other);
    SHOW(write(w, "xyz", 3));
    SHOW(read((int)(long)other, b, 10));
    close(w);
    close((int)(long)other);

    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, NULL);
    ualarm(20000, 0);
    SHOW(open("fifo", O_RDONLY));
    SHOW(open("fifo", O_WRONLY | O_NONBLOCK)); /* the interrupted reader is no reader */
    r = open("fifo", O_RDONLY | O_NONBLOCK);
    SHOW(unlink("fifo"));
    SHOW(read(r, b, 1));
    SHOW(open("fifo", O_RDONLY | O_NONBLOCK));
    return 0;
}
