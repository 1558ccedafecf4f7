/* The start: what the host gives us, and the zygote, of which all guest processes are forks. */
#include "parts.h"

#define FIRST_FREE_FD 16 /* above those that the stub finds its own under */

struct info *info;
int info_fd = -1, epoll_fd = -1, listener = -1, sigchld_fd = -1;

/* -> the info page, to be written by Python until close_all.  SIGCHLD is blocked from now on. */
PyObject *setup(void)
{
    if (epoll_fd >= 0)
        return fail(EBUSY);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    info_fd = memfd_create("cloche-info", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (epoll_fd < 0 || info_fd < 0 || ftruncate(info_fd, INFO_SIZE) < 0)
        return fail(errno);
    void *page = mmap(NULL, INFO_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, info_fd, 0);
    if (page == MAP_FAILED)
        return fail(errno);
    info = page;
    /* Our mapping stays writable; a guest's can never become so. */
    if (fcntl(info_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0 ||
        sigprocmask(SIG_BLOCK, &set, NULL) < 0 || (sigchld_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0 ||
        !watch(sigchld_fd, TAG_SIGCHLD))
        return fail(errno);
    return PyMemoryView_FromMemory(page, INFO_SIZE, PyBUF_WRITE);
}

/* Runs in the vforked child: no locks, no allocation. */
static void exec_stub(int stub, int sock, int region, int proc)
{
    int fds[4] = {sock, region, info_fd, proc}; /* SOCK_FD, REGION_FD, INFO_FD, PROC_FD */
    int score = proc >= 0 ? openat(proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;
    struct rlimit core = {1, 1}, stack = {8 << 20, 8 << 20}, files;
    char *argv[] = {"cloche-guest", NULL}, *envp[] = {NULL};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* for the zygote only: a fork clears it */
    personality(ADDR_NO_RANDOMIZE);
    setrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_STACK, &files);
    setrlimit(RLIMIT_STACK, files.rlim_max < stack.rlim_max ? &files : &stack);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < 1024 ? files.rlim_max : 1024;
    setrlimit(RLIMIT_NOFILE, &files);
    if (score >= 0 && write(score, "1000", 4) < 0) {
        /* best effort: a lower score only makes the host's choice under memory pressure worse */
    }
    stub = fcntl(stub, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    for (int i = 0; i < 4; i++)
        fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    for (int i = 0; i < 4; i++)
        if (dup2(fds[i], SOCK_FD + i) < 0 && i < 3)
            _exit(126);
    for (int cap = 0; cap < 64; cap++)
        prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_execveat, stub, "", argv, envp, AT_EMPTY_PATH);
    _exit(127);
}

PyObject *spawn(int stub, int sock, int proc) /* `proc`: of /proc, or -1 -> (process, thread, pid) of the zygote */
{
    struct prc *p = new_prc();
    if (!p)
        return fail(errno);
    struct thr *t = new_thr(p, 0);
    t->slot->state = ST_GUEST;
    t->born = true;
    int pid = vfork();
    if (pid == 0)
        exec_stub(stub, sock, p->region_fd, proc);
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
    if (!watch(listener, TAG_LISTENER))
        fail(errno);
}

bool has_fsgsbase(void)
{
    return getauxval(AT_HWCAP2) & 2;
}

bool has_bmi2(void)
{
    return __builtin_cpu_supports("bmi2");
}
