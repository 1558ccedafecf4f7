/* Long reads and writes are whole: two users of one file position, signals meanwhile, sendfile of more than a few MiB. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1 << 20)
#define PART (6 * MIB)

static volatile int alarms;

static void on_alarm(int signo)
{
    alarms++;
}

/* Whether the words of a part follow each other. */
static int is_whole(const unsigned *word, long bytes)
{
    for (long i = 1; i < bytes / 4; i++)
        if (word[i] != word[i - 1] + 1)
            return 0;
    return 1;
}

int main(void)
{
    unsigned *data = mmap(0, 4 * PART, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < 4 * PART / 4; i++)
        data[i] = i;
    int fd = open("long", O_RDWR | O_CREAT | O_TRUNC, 0600), status = 0, good = 1;
    printf("write %zd\n", write(fd, data, 4 * PART));
    lseek(fd, 0, SEEK_SET);
    int gate[2];
    pipe(gate);
    for (int i = 0; i < 4; i++)
        if (!fork()) {
            char c;
            close(gate[1]);
            read(gate[0], &c, 1); /* all begin at once */
            _exit(write(fd, data, PART) == PART ? 0 : 1);
        }
    close(gate[1]);
    while (wait(&status) > 0)
        good &= status == 0;
    unsigned *back = mmap(0, PART, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 4; i++)
        good &= pread(fd, back, PART, (long)i * PART) == PART && is_whole(back, PART);
    printf("shared position: %s, at %ld MiB\n", good ? "whole" : "mixed", (long)lseek(fd, 0, SEEK_CUR) / MIB);
    pwrite(fd, data, 4 * PART, 0);

    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    struct iovec parts[2] = {{data, 3 * PART}, {(char *)data + 3 * PART, PART}};
    long got = preadv(fd, parts, 2, 0);
    long put = pwrite(fd, data, 4 * PART, MIB);
    setitimer(ITIMER_REAL, &never, NULL);
    printf("with signals: %ld %ld %s\n", got, put, is_whole(data, 4 * PART) ? "whole" : "mixed");

    int to = open("copy", O_RDWR | O_CREAT | O_TRUNC, 0600);
    lseek(fd, MIB, SEEK_SET);
    printf("sendfile %zd", sendfile(to, fd, NULL, 4 * PART));
    printf(", from %ld, to %ld\n", (long)lseek(fd, 0, SEEK_CUR), (long)lseek(to, 0, SEEK_CUR));
    memset(data, 0, 4 * PART);
    got = pread(to, data, 4 * PART, 0);
    printf("copy %ld %s\n", got, is_whole(data, 4 * PART) ? "whole" : "mixed");
    printf("at the end %zd, fault %zd\n", read(to, data, PART), pread(to, (char *)data + 4 * PART - 4096, PART, 0));
    return 0;
}
