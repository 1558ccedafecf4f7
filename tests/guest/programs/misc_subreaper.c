/* PR_SET_CHILD_SUBREAPER: orphans go to the nearest subreaper. */
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    int line[2], status;
    pipe(line);
    printf("%d\n", prctl(PR_SET_CHILD_SUBREAPER, 1));
    fflush(stdout);
    int me = getpid();
    int child = fork();
    if (child == 0) {
        int flag = -1;
        prctl(PR_GET_CHILD_SUBREAPER, &flag);
        if (fork() == 0) {
            char byte;
            read(line[0], &byte, 1);
            _exit(getppid() == me ? 7 : 8);
        }
        _exit(flag);
    }
    printf("%d", waitpid(child, &status, 0) == child);
    printf(" %d\n", WEXITSTATUS(status));
    write(line[1], "x", 1);
    int orphan = wait(&status);
    printf("%d %d\n", orphan > 0 && orphan != child, WEXITSTATUS(status));
    printf("%d\n", wait(&status));
    return 0;
}
