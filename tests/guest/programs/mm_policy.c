/* Memory policies on one node, process_madvise, process_mrelease, mseal. */
#include "event_show.h"
#include <sys/mman.h>
#include <sys/syscall.h>

#define CALL(name, ...) SHOW(syscall(SYS_##name, __VA_ARGS__))
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static void show(void *addr, unsigned long flags)
{
    int mode = -1;
    unsigned long nodes[16] = {99};
    long r = syscall(SYS_get_mempolicy, &mode, nodes, 1024, addr, flags);
    printf("policy %lx: %ld %s mode %x nodes %lx\n", flags, r, r < 0 ? strerrorname_np(errno) : "", mode, nodes[0]);
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    unsigned long zero = 1, one = 2, none = 0, both = 3;
    char *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 1, 16384);
    show(NULL, 0);
    show(NULL, 4);
    show(p, 2);
    show(p, 3);
    show(NULL, 1);
    show(p, 0);
    show(NULL, 8);
    show((void *)16, 2);
    CALL(set_mempolicy, 2, &zero, 64);
    show(NULL, 0);
    CALL(set_mempolicy, 2, &one, 64);
    CALL(set_mempolicy, 2, &none, 64);
    CALL(set_mempolicy, 0, &zero, 64);
    CALL(set_mempolicy, 3, &both, 64);
    show(NULL, 0);
    show(NULL, 1);
    CALL(set_mempolicy, 1, &none, 64);
    show(NULL, 0);
    CALL(set_mempolicy, 4, &zero, 64);
    CALL(set_mempolicy, 99, &zero, 64);
    CALL(set_mempolicy, 2, &zero, 1000000);
    CALL(set_mempolicy, 0, NULL, 0);
    CALL(mbind, p, 8192, 2, &zero, 64, 0);
    show(p, 2);
    show(p + 8192, 2);
    CALL(mbind, p + 1, 8192, 2, &zero, 64, 0);
    CALL(mbind, p, 8192, 2, &one, 64, 0);
    CALL(mbind, p, 8192, 2, &zero, 64, 8);
    CALL(mbind, 4096, 8192, 2, &zero, 64, 0);
    CALL(mbind, p, 0, 2, &zero, 64, 0);
    CALL(migrate_pages, 0, 64, &zero, &zero);
    CALL(migrate_pages, 99999999, 64, &zero, &zero);
    void *pages[2] = {p, (void *)4096};
    int nodes[2] = {0, 0}, status[2] = {7, 7};
    CALL(move_pages, 0, 2, pages, NULL, status, 0);
    printf("%d %d\n", status[0], status[1]);
    CALL(move_pages, 0, 1, pages, nodes, status, 2);
    printf("%d\n", status[0]);
    nodes[0] = 5;
    CALL(move_pages, 0, 1, pages, nodes, status, 2);
    CALL(move_pages, 0, 1, pages, nodes, status, 64);

    int self = syscall(SYS_pidfd_open, getpid(), 0);
    struct { void *base; size_t length; } iov[2] = {{p, 4096}, {p + 4096, 8192}};
    CALL(process_madvise, self, iov, 2, MADV_COLD, 0);
    CALL(process_madvise, self, iov, 2, MADV_COLD, 1);
    CALL(process_madvise, 0, iov, 2, MADV_COLD, 0);
    iov[1].base = p + 1;
    CALL(process_madvise, self, iov, 2, MADV_COLD, 0);
    CALL(process_mrelease, self, 0);
    CALL(process_mrelease, self, 1);
    CALL(process_mrelease, 0, 0);

    CALL(mseal, p, 8192, 1);
    CALL(mseal, p + 1, 8192, 0);
    CALL(mseal, 4096, 8192, 0);
    CALL(mseal, p, 0, 0);
    CALL(mseal, p, 8192, 0);
    SHOW(munmap(p, 4096));
    SHOW(munmap(p, 16384));
    SHOW(mprotect(p + 4096, 8192, PROT_READ));
    SHOW(mprotect(p + 8192, 4096, PROT_READ));
    SHOW(mmap(p, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0);
    SHOW(mremap(p, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
    SHOW(madvise(p, 4096, MADV_DONTNEED));
    p[0] = 1;
    SHOW(munmap(p + 8192, 8192));
    pid_t child = fork();
    if (!child)
        _exit(munmap(p, 4096) == 0);
    int st;
    waitpid(child, &st, 0);
    printf("child %d\n", st);
    return 0;
}
