/* execve: arguments, environment, close-on-exec, errors, scripts. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static void run(const char *path, char **argv, char **envp)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execve(path, argv, envp);
        printf("execve: %s\n", strerror(errno));
        fflush(stdout);
        _exit(99);
    }
    waitpid(child, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));
}
int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "child")) {
        for (int i = 0; i < argc; i++)
            printf("arg %s\n", argv[i]);
        for (char **e = environ; *e; e++)
            printf("env %s\n", *e);
        printf("fd5 %d fd6 %d\n", fcntl(5, F_GETFD) >= 0, fcntl(6, F_GETFD) >= 0);
        return 5;
    }
    dup2(1, 5);
    fcntl(5, F_SETFD, FD_CLOEXEC);
    dup2(1, 6);
    char *args[] = {"prog", "child", "x y", "", NULL};
    char *envp[] = {"A=1", "B=", NULL};
    run("./process_exec", args, envp);
    run("./nothere", args, envp);
    int fd = open("script", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "#!./process_exec child\n");
    close(fd);
    char *sargs[] = {"script", "more", NULL};
    run("./script", sargs, envp);
    fd = open("noexec", O_CREAT | O_WRONLY, 0644);
    dprintf(fd, "#!/bin/sh\necho no\n");
    close(fd);
    run("./noexec", args, envp);
    fd = open("garbage", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "garbage\n");
    close(fd);
    run("./garbage", args, envp);
    run(".", args, envp);
    fd = open("badinterp", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "#!/no/such/interpreter\n");
    close(fd);
    run("./badinterp", args, envp);
    char *big = malloc(200000);
    memset(big, 'x', 199999);
    big[199999] = 0;
    char *bargs[] = {"prog", big, NULL};
    run("./process_exec", bargs, envp);
    return 0;
}
