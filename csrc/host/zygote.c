/* The start: the host's descriptors, and the zygote, of which all guest processes are forks. */
#include "parts.h"

#define FIRST_FREE_FD 16 /* above the stub's own: SOCK_FD, REGION_FD, INFO_FD */

struct info *info;
int epoll_fd = -1, listener = -1;

/* Use an epoll and the info page until close_all; the caller closes their descriptors. -> the page, for Python to
 * write. */
PyObject *setup(int epoll, int page_fd)
{
    if (info)
        return fail(EBUSY);
    void *page = mmap(NULL, INFO_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0);
    if (page == MAP_FAILED)
        return fail(errno);
    info = page;
    epoll_fd = epoll;
    return PyMemoryView_FromMemory(page, INFO_SIZE, PyBUF_WRITE);
}

/* Runs in the vforked child: no locks, no allocation. */
static void exec_stub(int stub, const int *given, int count)
{
    int fds[4];
    char *argv[] = {"cloche-guest", NULL}, *envp[] = {NULL};
    personality(ADDR_NO_RANDOMIZE);
    stub = fcntl(stub, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    for (int i = 0; i < count; i++)
        fds[i] = fcntl(given[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    for (int i = 0; i < count; i++)
        if (dup2(fds[i], SOCK_FD + i) < 0)
            _exit(126);
    syscall(SYS_execveat, stub, "", argv, envp, AT_EMPTY_PATH);
    _exit(127);
}

PyObject *spawn(int stub, int sock, int page_fd, int region_fd, int kvm_fd) /* -1: none -> (process, thread, pid) of the zygote */
{
    struct prc *p = new_prc(region_fd);
    if (!p)
        return fail(errno);
    struct thr *t = new_thr(p, 0);
    t->slot->state = ST_GUEST;
    t->born = true;
    int pid = vfork();
    if (pid == 0)
        exec_stub(stub, (int[]){sock, region_fd, page_fd, kvm_fd}, kvm_fd < 0 ? 3 : 4);
    if (pid < 0) {
        int error = errno;
        release_process(p);
        return fail(error);
    }
    p->pid = pid;
    hash_add(t, pid);
    run_add(t);
    return Py_BuildValue("iii", p->id, t->id, pid);
}

void attach(int fd) /* the listener */
{
    listener = fd;
}

PyObject *features(void) /* of the processor -> (FSGSBASE, which the host must offer, BMI2) */
{
    return Py_BuildValue("ii", (getauxval(AT_HWCAP2) & 2) != 0, __builtin_cpu_supports("bmi2") != 0);
}
