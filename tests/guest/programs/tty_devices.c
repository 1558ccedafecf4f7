/* /dev/null, zero, full, random, urandom; /dev/pts. */
#include "event_show.h"
#include <dirent.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int main(void)
{
    static char b[200000], zero[200000];
    const char *names[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"};
    for (int i = 0; i < 7; i++) {
        struct stat st;
        stat(names[i], &st);
        printf("%s %o %d:%d\n", names[i], st.st_mode, major(st.st_rdev), minor(st.st_rdev));
    }
    for (int i = 0; i < 5; i++) {
        int f = open(names[i], O_RDWR);
        printf("%s\n", names[i]);
        SHOW(read(f, b, 100));
        SHOW(read(f, b, 0));
        SHOW(write(f, b, 100));
        SHOW(write(f, b, 0));
        SHOW(lseek(f, 100, SEEK_SET));
        SHOW(lseek(f, 0, SEEK_CUR));
        SHOW(pread(f, b, 50, 1000));
        SHOW(pwrite(f, b, 50, 1000));
        SHOW(read(f, (void *)8, 10));
        SHOW(isatty(f));
        show_poll("ready", f, POLLIN | POLLOUT);
        SHOW(ftruncate(f, 0));
        SHOW(fsync(f));
        close(f);
    }
    int z = open("/dev/zero", O_RDWR), n = open("/dev/null", O_RDWR);
    memset(b, 1, sizeof b);
    SHOW(read(z, b, sizeof b));
    SHOW(memcmp(b, zero, sizeof b));
    SHOW(write(n, b, sizeof b));
    SHOW(write(n, (void *)8, 10));
    char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, z, 0);
    printf("private %d\n", m != MAP_FAILED && m[5000] == 0);
    m[5000] = 7;
    char *m2 = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, z, 0);
    printf("separate %d\n", m2 != MAP_FAILED && m2[5000] == 0);
    char *s = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, z, 0);
    if (!fork()) {
        s[1] = 42;
        _exit(0);
    }
    wait(NULL);
    printf("shared %d\n", s[1]);
    SHOW(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, n, 0) == MAP_FAILED);
    int r = open("/dev/urandom", O_RDONLY), different = 0;
    read(r, b, 64);
    read(r, b + 64, 64);
    printf("random %d\n", memcmp(b, b + 64, 64) != 0);
    int bits_left;
    SHOW(ioctl(r, 0x80045200, &bits_left));
    printf("%d\n", bits_left);
    SHOW(open("/dev/null", O_RDONLY | O_TRUNC | O_CREAT, 0600) > 0);
    SHOW(open("/dev/null", O_RDONLY | O_DIRECTORY));
    DIR *d = opendir("/dev/pts");
    int ptmx = 0;
    for (struct dirent *e; (e = readdir(d));)
        ptmx |= !strcmp(e->d_name, "ptmx");
    printf("ptmx %d\n", ptmx);
    SHOW(open("/dev/pts/9999", O_RDWR));
    return 0;
}
