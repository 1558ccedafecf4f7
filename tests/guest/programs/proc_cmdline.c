/* cmdline and environ show the memory's present contents; setproctitle changes them. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static void show(const char *path) {
    char text[4096];
    FILE *f = fopen(path, "r");
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    printf("%s", strrchr(path, '/') + 1);
    for (size_t i = 0; i < n; i++) putchar(text[i] ? text[i] : '|');
    putchar('\n');
}

int main(int argc, char **argv) {
    if (argc == 1) {
        char *args[] = {"prog", "one", "", "two words", NULL}, *env[] = {"A=1", "LONG=a value that is rather long", NULL};
        execve("/proc/self/exe", args, env);
        return 1;
    }
    show("/proc/self/cmdline");
    show("/proc/self/environ");
    argv[1][0] = 'O';
    show("/proc/self/cmdline");
    memset(argv[0], 0, environ[0] - argv[0]);
    strcpy(argv[0], "short title");
    show("/proc/self/cmdline");
    memset(argv[0], 'x', environ[0] - argv[0] + 2);
    strcpy(environ[0] + 2, "!");
    show("/proc/self/cmdline");
    return 0;
}
