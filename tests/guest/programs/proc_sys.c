/* /proc/sys: the values that programs read, and their form. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char text[4096];

static char *slurp(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "/proc/sys/%s", name);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    return text;
}

int main(void) {
    static const char *numbers[] = {"dev/tty/ldisc_autoload", "kernel/pid_max", "kernel/threads-max", "kernel/cap_last_cap", "kernel/ngroups_max",
        "kernel/random/entropy_avail", "kernel/randomize_va_space", "kernel/shmmni", "kernel/msgmax", "kernel/overflowuid",
        "fs/nr_open", "fs/file-max", "fs/pipe-max-size", "fs/inotify/max_user_watches", "fs/mqueue/msg_max",
        "fs/epoll/max_user_watches", "fs/protected_hardlinks", "fs/aio-max-nr", "vm/overcommit_memory", "vm/max_map_count",
        "vm/mmap_min_addr", "vm/swappiness"};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char *s = slurp(numbers[i]), *end;
        strtoul(s, &end, 10);
        printf("%s %d\n", numbers[i], isdigit(*s) && strcmp(end, "\n") == 0);
    }
    printf("ngroups %d\n", atoi(slurp("kernel/ngroups_max")) == sysconf(_SC_NGROUPS_MAX));
    printf("%s", slurp("kernel/ostype"));
    int a, b, c, d;
    printf("sem %d\n", sscanf(slurp("kernel/sem"), "%d %d %d %d", &a, &b, &c, &d));
    printf("file-nr %d\n", sscanf(slurp("fs/file-nr"), "%d %d %d", &a, &b, &c) >= 2);
    char boot[64], uuid[64];
    strcpy(boot, slurp("kernel/random/boot_id"));
    printf("boot id %zu %d\n", strlen(boot), strcmp(boot, slurp("kernel/random/boot_id")) == 0);
    strcpy(uuid, slurp("kernel/random/uuid"));
    printf("uuid %zu %c %d\n", strlen(uuid), uuid[14], strcmp(uuid, slurp("kernel/random/uuid")) != 0);
    printf("actions %d\n", strstr(slurp("kernel/seccomp/actions_avail"), "kill_process") != NULL);
    struct stat st;
    stat("/proc/sys/kernel", &st);
    printf("%o %lu\n", st.st_mode, st.st_nlink);
    stat("/proc/sys/kernel/osrelease", &st);
    printf("%o %ld\n", st.st_mode, st.st_size);
    errno = 0;
    printf("%d", open("/proc/sys/kernel/osrelease", O_WRONLY));
    printf(" %d", errno); /* for every user: a sysctl's mode cannot be overridden */
    printf(" %d", open("/proc/sys/kernel/nothing", O_RDONLY));
    printf(" %d\n", errno);
    return 0;
}
