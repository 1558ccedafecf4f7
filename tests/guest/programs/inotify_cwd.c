/* A removed directory is removed for inotify when no process has it as its working directory any more. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int in;

static void events(const char *when)
{
    static char buffer[4096];
    int size = read(in, buffer, sizeof buffer);
    printf("%s:", when);
    for (int at = 0; at < size;) {
        struct inotify_event *e = (void *)(buffer + at);
        printf(" %x", e->mask);
        at += sizeof *e + e->len;
    }
    printf("\n");
    fflush(stdout);
}

static void ask(int to, int from, char what)
{
    write(to, &what, 1);
    read(from, &what, 1);
}

int main(void)
{
    char base[] = "/tmp/cwdXXXXXX";
    mkdtemp(base);
    chdir(base);
    in = inotify_init1(IN_NONBLOCK);
    for (int how = 0; how < 6; how++) {
        int there[2], back[2], fd = -1;
        char c;
        mkdir("d", 0755);
        mkdir("other", 0755);
        inotify_add_watch(in, "d", IN_ALL_EVENTS);
        pipe(there);
        pipe(back);
        pid_t child = fork();
        if (!child) {
            int other = open("other", O_RDONLY);
            if (how == 4)
                fork(); /* two of them; both read commands, and one is enough to stay */
            chdir("d");
            if (how == 5)
                chroot(".");
            write(back[1], "x", 1);
            while (read(there[0], &c, 1) == 1) {
                if (c == 'c')
                    chdir("/");
                else if (c == 'f')
                    fchdir(other);
                else
                    _exit(0);
                write(back[1], "x", 1);
            }
            _exit(0);
        }
        read(back[0], &c, 1);
        if (how == 4)
            read(back[0], &c, 1);
        if (how == 3)
            fd = open("d", O_RDONLY);
        events("before");
        rmdir("d");
        events("removed");
        if (how == 0 || how == 3)
            ask(there[1], back[0], 'c');
        else if (how == 1 || how == 5)
            ask(there[1], back[0], 'f');
        else {
            write(there[1], "e", 1);
            if (how == 2)
                waitpid(child, NULL, 0);
            else
                usleep(1000);
        }
        if (how != 4)
            events("left");
        if (how == 3) {
            close(fd);
            events("closed");
        }
        write(there[1], "ee", 2);
        close(back[1]);
        while (read(back[0], &c, 1) > 0) /* to the end of all */
            ;
        close(back[0]);
        close(there[0]);
        close(there[1]);
        waitpid(child, NULL, 0);
        events("over");
        rmdir("other");
    }
    chdir("/");
    rmdir(base);
    return 0;
}
