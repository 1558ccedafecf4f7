/* mounts and mountinfo: well-formed, with a root, and in agreement with each other and with stat. */
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int main(void) {
    FILE *f = setmntent("/proc/self/mounts", "r");
    int roots = 0, procs = 0, lines = 0;
    for (struct mntent *m; (m = getmntent(f)); lines++) {
        roots += strcmp(m->mnt_dir, "/") == 0;
        procs += strcmp(m->mnt_dir, "/proc") == 0 && strcmp(m->mnt_type, "proc") == 0;
        if (!hasmntopt(m, "rw") && !hasmntopt(m, "ro")) printf("no rw or ro: %s\n", m->mnt_dir);
    }
    endmntent(f);
    printf("mounts %d %d\n", roots > 0, procs > 0);
    f = fopen("/proc/self/mountinfo", "r");
    char line[4096], root[1024], place[1024], options[512], type[64];
    int infos = 0, matched = 0;
    struct stat st;
    while (fgets(line, sizeof line, f)) {
        int id, parent;
        unsigned big, small;
        char *dash = strstr(line, " - ");
        if (sscanf(line, "%d %d %u:%u %1023s %1023s %511s", &id, &parent, &big, &small, root, place, options) != 7 || !dash ||
            sscanf(dash, " - %63s", type) != 1)
            printf("bad line %s", line);
        infos++;
        if (strcmp(place, "/proc") == 0 && stat(place, &st) == 0) matched = major(st.st_dev) == big && minor(st.st_dev) == small;
    }
    printf("mountinfo %d proc %d\n", infos == lines, matched);
    f = fopen("/proc/mounts", "r");
    printf("%d\n", f != NULL);
    return 0;
}
