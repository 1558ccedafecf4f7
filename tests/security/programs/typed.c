/* A fuzzer that knows types: random system calls whose arguments are of the kind that each parameter wants.

       typed SEED SECONDS PROCESSES [DIRECTORY [SLOWER]]

   Where calls take about SLOWER times as long as on a processor, all that it waits for may take that much longer.

   Workers of one to three threads own a descriptor of every kind, memory with holes, children; each makes a few hundred
   calls and ends.  All of it happens in namespaces of its own, so that whatever signals it sends and objects it leaves stay
   inside and end with it.  Prints how many calls were made, how many succeeded, and the slowest answer that a bystander got
   meanwhile, with the workers' calls at that time.  It refuses to run anywhere but in a sandbox.

   A random call may overwrite the workers' counters. So each worker has a word of its own, with a random number in
   its upper half, and pid 1 believes it, once the worker has ended, only if that is still there and it has made no
   more calls than it was to. */
#include "hostile.h"
#include <linux/filter.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>

#define COUNT(x) (sizeof(x) / sizeof *(x))
#define PAGE 4096UL
#define PAGES 64UL /* of the arena; a hole follows it */
#define WORKERS 32

#define BUDGET 500 /* calls of a worker */

struct shared {
    struct { uint32_t last[4]; uint64_t count; } worker[WORKERS]; /* count: a mark, how many succeeded, how many were made */
};

static struct shared *shared;
static char *arena, *read_only, *nowhere; /* `nowhere` is PROT_NONE */
static pid_t children[4];
static unsigned slower = 1;
static int channel[2]; /* a pipe whose buffer is full of bytes */
static __thread uint64_t state;
static __thread long context; /* of asynchronous I/O */
static __thread int address_length;

#include "typed_arguments.h"

/* A number, the kinds of its arguments, and (where a call soon ends the worker or makes it dull) how seldom it is
 * made. */
struct call { int number; const char *types; int rarity; };
#define CALL(name, ...) {SYS_##name, __VA_ARGS__}

static const struct call calls[] = {
    CALL(read, "fbn"), CALL(write, "fbn"), CALL(open, "piz"), CALL(close, "f", 4), CALL(stat, "pb"), CALL(fstat, "fb"), CALL(lstat, "pb"), CALL(poll, "Lur"), CALL(lseek, "fou"), CALL(mmap, "aqrifo"),
    CALL(mprotect, "aqr", 6), CALL(munmap, "aq", 20), CALL(brk, "W", 10), CALL(rt_sigaction, "gBb8", 3), CALL(rt_sigprocmask, "uGb8", 30), CALL(ioctl, "fcB"), CALL(ioctl, "fcB"), CALL(ioctl, "fcu"),
    CALL(pread64, "fbno"), CALL(pwrite64, "fbno"), CALL(readv, "fvu"), CALL(writev, "fvu"), CALL(access, "pu"), CALL(pipe, "b"), CALL(select, "OBBBt"), CALL(sched_yield, ""), CALL(mremap, "aqqra", 6),
    CALL(msync, "aqi"), CALL(mincore, "aqb"), CALL(madvise, "aqO"), CALL(shmget, "kni"), CALL(shmat, "uai", 3), CALL(shmctl, "uuB"), CALL(dup, "f"), CALL(dup2, "ff"), CALL(nanosleep, "tb"),
    CALL(getitimer, "ub"), CALL(alarm, "W", 60), CALL(setitimer, "uBb", 30), CALL(sendfile, "ffBn"), CALL(sendfile, "ff0n"), CALL(socket, "dyR"), CALL(socket, "dyR"), CALL(connect, "fsS"), CALL(connect, "fsS"),
    CALL(accept, "fbB"), CALL(sendto, "fbnisS"), CALL(recvfrom, "fbnibB"), CALL(sendmsg, "fmi"), CALL(sendmsg, "fm0"), CALL(recvmsg, "fmi"), CALL(recvmsg, "fm0"), CALL(shutdown, "fu"), CALL(bind, "fsS"),
    CALL(listen, "fW"), CALL(getsockname, "fbB"), CALL(getpeername, "fbB"), CALL(socketpair, "dyRb"), CALL(setsockopt, "flOBn"), CALL(setsockopt, "flOBn"), CALL(setsockopt, "flOFu"), CALL(getsockopt, "flObB"),
    CALL(fork, "", 20), CALL(vfork, "", 20), CALL(clone3, "KO", 10), CALL(exit, "u", 400), CALL(exit_group, "u", 400), CALL(wait4, "Pubb"), CALL(kill, "Pg"), CALL(uname, "b"), CALL(semget, "kui"),
    CALL(semop, "uEu"), CALL(semctl, "uuuB"), CALL(shmdt, "a", 3), CALL(msgget, "ki"), CALL(msgsnd, "uBni"), CALL(msgrcv, "ubnWi"), CALL(msgctl, "uuB"), CALL(fcntl, "fCB"), CALL(fcntl, "fCu"),
    CALL(fcntl, "fCW"), CALL(flock, "fu"), CALL(fsync, "f"), CALL(truncate, "po"), CALL(ftruncate, "fo"), CALL(getdents, "fbn"), CALL(getcwd, "bn"), CALL(chdir, "p", 4), CALL(fchdir, "f", 4), CALL(rename, "pp"),
    CALL(mkdir, "pi"), CALL(rmdir, "p"), CALL(link, "pp"), CALL(unlink, "p"), CALL(symlink, "pp"), CALL(readlink, "pbn"), CALL(chmod, "pi"), CALL(fchmod, "fi"), CALL(chown, "pWW"), CALL(fchown, "fWW"),
    CALL(getrlimit, "ub"), CALL(getrusage, "Wb"), CALL(sysinfo, "b"), CALL(times, "b"), CALL(ptrace, "TPBB"), CALL(ptrace, "TPBB"), CALL(syslog, "ubn"), CALL(setuid, "W", 60), CALL(setpgid, "PP"),
    CALL(setreuid, "WW", 60), CALL(setgroups, "uB", 10), CALL(getgroups, "Wb"), CALL(setresuid, "WWW", 60), CALL(capget, "BB"), CALL(capset, "BB", 10), CALL(rt_sigpending, "b8"), CALL(rt_sigtimedwait, "Gbt8"),
    CALL(rt_sigqueueinfo, "PgB"), CALL(rt_sigsuspend, "G8", 6), CALL(sigaltstack, "Bb", 6), CALL(utime, "pB"), CALL(mknod, "pzW"), CALL(personality, "W", 4), CALL(ustat, "Wb"), CALL(statfs, "pb"),
    CALL(fstatfs, "fb"), CALL(getpriority, "uP"), CALL(setpriority, "uPW"), CALL(sched_setparam, "PB"), CALL(sched_setscheduler, "PuB"), CALL(sched_rr_get_interval, "Pb"), CALL(mlock, "aq"), CALL(munlock, "aq"),
    CALL(mlockall, "u"), CALL(munlockall, ""), CALL(pivot_root, "pp", 10), CALL(prctl, "xWWWW", 2), CALL(prctl, "xBuuu", 2), CALL(arch_prctl, "WW", 200), CALL(adjtimex, "B"), CALL(setrlimit, "uB", 40), CALL(chroot, "p", 20),
    CALL(mount, "ppwiw"), CALL(mount, "ppw0w"), CALL(umount2, "pu", 3), CALL(sethostname, "wn"), CALL(readahead, "fon"), CALL(setxattr, "pwbni"), CALL(fsetxattr, "fwbni"), CALL(getxattr, "pwbn"),
    CALL(fgetxattr, "fwbn"), CALL(listxattr, "pbn"), CALL(flistxattr, "fbn"), CALL(removexattr, "pw"), CALL(fremovexattr, "fw"), CALL(tkill, "Pg"), CALL(time, "b"), CALL(futex, "aOutau"), CALL(futex, "arutau"),
    CALL(sched_setaffinity, "PnB"), CALL(sched_getaffinity, "Pnb"), CALL(io_setup, "Wb"), CALL(io_destroy, "A", 10), CALL(io_getevents, "Auubt"), CALL(io_submit, "AuI"), CALL(io_submit, "AuI"), CALL(io_cancel, "AIb"),
    CALL(epoll_create, "u"), CALL(remap_file_pages, "aq0oi", 6), CALL(getdents64, "fbn"), CALL(set_tid_address, "b"), CALL(semtimedop, "uEut"), CALL(fadvise64, "fooi"), CALL(timer_create, "uBb"), CALL(timer_settime, "uiBb"),
    CALL(timer_gettime, "ub"), CALL(timer_getoverrun, "u"), CALL(timer_delete, "u"), CALL(clock_settime, "ut"), CALL(clock_gettime, "Wb"), CALL(clock_getres, "Wb"), CALL(clock_nanosleep, "uutb"), CALL(epoll_wait, "fbur"),
    CALL(epoll_ctl, "fufB"), CALL(epoll_ctl, "fufB"), CALL(tgkill, "PPg"), CALL(utimes, "pB"), CALL(mbind, "aquBWu"), CALL(set_mempolicy, "uBW"), CALL(get_mempolicy, "bBWau"), CALL(mq_open, "wizB"), CALL(mq_open, "wizB"),
    CALL(mq_unlink, "w"), CALL(mq_timedsend, "fbnut"), CALL(mq_timedreceive, "fbnbt"), CALL(mq_notify, "fB"), CALL(mq_getsetattr, "fBb"), CALL(waitid, "uPbub"), CALL(ioprio_set, "uPW"), CALL(ioprio_get, "uP"),
    CALL(inotify_add_watch, "fpi"), CALL(inotify_rm_watch, "fu"), CALL(migrate_pages, "PuBB"), CALL(openat, "fpiz"), CALL(openat, "fpiz"), CALL(mkdirat, "fpi"), CALL(mknodat, "fpzW"), CALL(mknodat, "fpz0"),
    CALL(fchownat, "fpWWi"), CALL(futimesat, "fpB"), CALL(newfstatat, "fpbi"), CALL(unlinkat, "fpi"), CALL(renameat, "fpfp"), CALL(linkat, "fpfpi"), CALL(symlinkat, "pfp"), CALL(readlinkat, "fpbn"), CALL(fchmodat, "fpi"),
    CALL(faccessat, "fpu"), CALL(pselect6, "OBBBtG"), CALL(ppoll, "LutG8"), CALL(unshare, "N", 10), CALL(set_robust_list, "BO"), CALL(get_robust_list, "Pbb"), CALL(splice, "fBfBni"), CALL(splice, "f0f0ni"),
    CALL(tee, "ffni"), CALL(sync_file_range, "fooi"), CALL(vmsplice, "fvui"), CALL(move_pages, "PuBBBi"), CALL(utimensat, "fpBi"), CALL(epoll_pwait, "fburG8"), CALL(signalfd4, "fG8i"), CALL(timerfd_create, "ui"),
    CALL(eventfd2, "Wi"), CALL(fallocate, "fioo"), CALL(timerfd_settime, "fuBb"), CALL(timerfd_gettime, "fb"), CALL(accept4, "fbBi"), CALL(epoll_create1, "0"), CALL(dup3, "ffi"), CALL(pipe2, "bi"), CALL(inotify_init1, "i"),
    CALL(preadv, "fvuo0"), CALL(pwritev, "fvuo0"), CALL(rt_tgsigqueueinfo, "PPgB"), CALL(recvmmsg, "fMuit"), CALL(prlimit64, "PuBb", 4), CALL(name_to_handle_at, "fpBbi"), CALL(open_by_handle_at, "fBi"),
    CALL(clock_adjtime, "uB"), CALL(syncfs, "f"), CALL(sendmmsg, "fMui"), CALL(setns, "fi", 4), CALL(getcpu, "bb"), CALL(process_vm_readv, "Pvuvu0"), CALL(process_vm_writev, "Pvuvu0"), CALL(kcmp, "PPuff"),
    CALL(sched_setattr, "PBu"), CALL(sched_getattr, "PBnu"), CALL(renameat2, "fpfpu"), CALL(seccomp, "uiF", 30), CALL(getrandom, "bni"), CALL(memfd_create, "wi"), CALL(memfd_create, "wu"), CALL(execveat, "fpBBi", 300),
    CALL(membarrier, "iuu"), CALL(mlock2, "aqu"), CALL(copy_file_range, "fBfBni"), CALL(copy_file_range, "f0f0ni"), CALL(preadv2, "fvuo0i"), CALL(pwritev2, "fvuo0i"), CALL(statx, "fpiib"), CALL(io_pgetevents, "AuubtB"),
    CALL(rseq, "BnW", 10), CALL(pidfd_send_signal, "fgBi"), CALL(open_tree, "fpi"), CALL(move_mount, "fpfpi"), CALL(fsopen, "wi"), CALL(fsconfig, "fuwwf"), CALL(fsmount, "fii"), CALL(fspick, "fpi"), CALL(pidfd_open, "Pi"),
    CALL(pidfd_open, "P0"), CALL(close_range, "fWu", 60), CALL(openat2, "fpHO"), CALL(openat2, "fpHO"), CALL(pidfd_getfd, "ff0"), CALL(faccessat2, "fpui"), CALL(process_madvise, "fvuOi"), CALL(epoll_pwait2, "fbutG8"),
    CALL(mount_setattr, "fpiBO"), CALL(landlock_create_ruleset, "Bni"), CALL(landlock_add_rule, "fuBu"), CALL(landlock_restrict_self, "fi", 20), CALL(process_mrelease, "fi"),
    {SYS_futex_waitv, "Vuitu"}, {452 /* fchmodat2 */, "fpii"}, {454 /* futex_wake */, "aWui"}, {455 /* futex_wait */, "auWitu"}, {456 /* futex_requeue */, "Viuu"}, {457 /* statmount */, "Bbni"},
    {458 /* listmount */, "Bbni"}, {459 /* lsm_get_self_attr */, "iBbi"}, {460 /* lsm_set_self_attr */, "iBni"}, {462 /* mseal */, "aqi", 6},
};

/* -- a worker ------------------------------------------------------------------------------------------------- */

static void on_signal(int number) { }

/* A descriptor of every kind, in an order that differs from worker to worker. */
static void descriptors(void)
{
    static const char *files[] = {"a", "/proc/self/mem", "/proc/self/maps", "/proc/self/pagemap", "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/etc/passwd", "/proc/self/ns/net"};
    int two[2], fd;
    for (int i = 0; i < 30; i++)
        switch (below(24)) {
        case 0: case 1: open(PICK(files), O_RDWR | O_CREAT, 0666); break;
        case 2: open(PICK(files), O_RDONLY); break;
        case 3: pipe2(two, one_in(2) ? O_NONBLOCK : 0); break;
        case 4: socketpair(AF_UNIX, (1 + below(2)) | (one_in(2) ? SOCK_NONBLOCK : 0), 0, two); break;
        case 5: socketpair(AF_UNIX, SOCK_SEQPACKET, 0, two); break;
        case 6: socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); break;
        case 7: socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0); break;
        case 8: socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, one_in(3) ? below(20) : 0); break;
        case 9: epoll_create1(0); break;
        case 10: eventfd(below(3), EFD_NONBLOCK); break;
        case 11: timerfd_create(CLOCK_MONOTONIC, one_in(2) ? TFD_NONBLOCK : 0); break;
        case 12: inotify_init1(IN_NONBLOCK); break;
        case 13:
            fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
            ioctl(fd, 0x40045431, &(int){0});
            ioctl(fd, 0x5441, O_RDWR | O_NOCTTY);
            break;
        case 14: ftruncate(memfd_create("m", MFD_ALLOW_SEALING), below(100000)); break;
        case 15: open("d", O_RDONLY | O_DIRECTORY); break;
        case 16: open("fifo", O_RDWR | O_NONBLOCK); break;
        case 17: open(PICK(names), O_PATH); break;
        case 18: syscall(SYS_pidfd_open, getpid(), 0); break;
        case 19: mq_open("/queue", O_RDWR | O_CREAT | O_NONBLOCK, 0600, NULL); break;
        case 20: signalfd(-1, &(sigset_t){{-1}}, SFD_NONBLOCK); break;
        case 21: {
            struct sockaddr_in at = {AF_INET, htons(20000 + below(6)), {htonl(INADDR_LOOPBACK)}};
            fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            if (bind(fd, (void *)&at, sizeof at) == 0)
                listen(fd, 3);
            else
                connect(fd, (void *)&at, sizeof at);
            break;
        }
        case 22: dup(channel[below(2)]); break;
        case 23: open(PICK(names), O_RDWR | O_NONBLOCK | O_NOCTTY); break;
        }
}

struct thread { int worker, index, budget; uint64_t state; };

static long make(const struct call *call)
{
    long a[6], pid;
    int count = strlen(call->types);
    for (int i = 0; i < 6; i++)
        a[i] = i < count ? argument(call->types[i]) : one_in(4) ? (long)weird() : 0;
    switch (call->number) {
    case SYS_vfork:
        if ((pid = vfork()) == 0)
            raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
        return pid;
    case SYS_fork:
    case SYS_clone3:
        pid = raw(call->number, a[0], a[1], 0, 0, 0, 0);
        if (pid == 0) { /* a child that is there to be met, for a while */
            struct itimerval soon = {{0, 0}, {0, 200000}};
            struct sigaction plain = {.sa_handler = SIG_DFL};
            sigaction(SIGALRM, &plain, NULL);
            setitimer(ITIMER_REAL, &soon, NULL);
            state += 77;
            for (int i = 0; i < 20; i++)
                make(calls + below(COUNT(calls) - 1));
            raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
        }
        if (pid > 0)
            children[below(4)] = pid;
        return pid;
    case SYS_io_setup:
        if (one_in(2)) {
            *(long *)arena = 0;
            pid = raw(SYS_io_setup, 1 + below(20), (long)arena, 0, 0, 0, 0);
            context = pid == 0 ? *(long *)arena : context;
            return pid;
        }
    }
    return raw(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void *run(void *from)
{
    struct thread *self = from;
    state = self->state | 1;
    while (self->budget-- > 0) {
        const struct call *call = &PICK(calls);
        if (call->rarity && !one_in(call->rarity))
            continue;
        shared->worker[self->worker].last[self->index] = call->number;
        long result = make(call);
        shared->worker[self->worker].last[self->index] = 0;
        __atomic_fetch_add(&shared->worker[self->worker].count, result >= 0 || result < -4095 ? 0x10001 : 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void work(int worker, uint64_t from, const char *directory)
{
    struct sigaction plain = {.sa_handler = SIG_DFL}, handled = {.sa_handler = on_signal}, ignored = {.sa_handler = SIG_IGN};
    struct itimerval often = {{0, 5000 * slower}, {0, 5000 * slower}}; /* nothing is waited for longer */
    struct thread threads[3];
    pthread_t ids[3];
    int count = one_in(3) ? 3 : one_in(2) ? 2 : 1;
    state = from | 1;
    setsid();
    dup2(open("/dev/null", O_RDWR), 0);
    dup2(0, 1);
    dup2(0, 2);
    for (int i = 1; i < 65; i++)
        if (i != SIGKILL && i != SIGSTOP && i != SIGSEGV && i != SIGBUS && i != SIGILL && i != SIGFPE)
            sigaction(i, i == SIGALRM || one_in(2) ? &handled : i == SIGCHLD ? &plain : &ignored, NULL);
    mkdir(directory, 0777);
    if (chdir(directory))
        chdir("/tmp");
    mkdir("d", 0777);
    mkfifo("fifo", 0666);
    symlink("loop", "loop");
    symlink("d", "link");
    pipe2(channel, O_NONBLOCK);
    write(channel[1], arena, 60000);
    descriptors();
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < count; i++)
        threads[i] = (struct thread){worker, i, BUDGET / count, number()};
    for (int i = 1; i < count; i++)
        pthread_create(&ids[i], NULL, run, &threads[i]);
    run(&threads[0]);
    raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

/* -- pid 1 of the fuzzed -------------------------------------------------------------------------------------- */

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000UL + now.tv_nsec / 1000;
}

static uint64_t calls_made, good, spoilt;

/* The counters of a worker that has ended. */
static void believe(uint64_t count, uint32_t mark)
{
    uint64_t made = count & 0xffff, succeeded = count >> 16 & 0xffff;
    if (count >> 32 != mark || made > BUDGET || succeeded > made) {
        spoilt++;
        return;
    }
    calls_made += made;
    good += succeeded;
}

static int direct(uint64_t from, int seconds, int processes, const char *directory)
{
    struct { pid_t pid; uint64_t since; uint32_t mark; } workers[WORKERS] = {};
    uint64_t end = now_us() + seconds * 1000000UL, slowest = 0, lost = 0;
    int started = 0;
    char text[256];
    /* Others need the files that are there: only /tmp is one's own, and everything else read-only. */
    static const char *kept[] = {"/", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"};
    struct statvfs now;
    mount("tmpfs", "/tmp", "tmpfs", 0, "size=64m");
    for (int i = 0; i < COUNT(kept); i++)
        if (statvfs(kept[i], &now) == 0)
            mount("none", kept[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | now.f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_RELATIME), NULL);
    state = from * 0x9e3779b97f4a7c15UL | 1;
    /* Until some have succeeded, which a busy machine may delay. */
    while (now_us() < end || (good == 0 && now_us() < end + 120 * 1000000UL)) {
        pid_t ended;
        while ((ended = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
            for (int i = 0; i < processes; i++)
                if (workers[i].pid == ended) {
                    workers[i].pid = 0;
                    believe(shared->worker[i].count, workers[i].mark);
                }
        for (int i = 0; i < processes; i++) {
            if (workers[i].pid == 0) {
                uint64_t mine = number();
                workers[i].mark = number();
                shared->worker[i].count = (uint64_t)workers[i].mark << 32;
                pid_t pid = fork();
                if (pid == 0)
                    work(i, mine, directory);
                workers[i].pid = pid > 0 ? pid : 0;
                workers[i].since = now_us();
                started += pid > 0;
            } else if (now_us() - workers[i].since > 1500000UL * slower) {
                kill(workers[i].pid, SIGKILL);
                workers[i].since = now_us();
                lost++;
            }
        }
        uint64_t before = now_us();
        raw(SYS_readlink, (long)"/proc/self/exe", (long)text, sizeof text, 0, 0, 0);
        uint64_t took = now_us() - before;
        if (took > slowest) {
            slowest = took;
            if (took > 100000) {
                fprintf(stderr, "slow: %lu us, meanwhile", took);
                for (int i = 0; i < processes; i++)
                    fprintf(stderr, " %u,%u,%u", shared->worker[i].last[0], shared->worker[i].last[1], shared->worker[i].last[2]);
                fprintf(stderr, "\n");
            }
        }
        usleep(3000);
    }
    printf("workers %d calls %lu good %lu killed %lu spoilt %lu slowest %lu us\n", started, calls_made, good, lost, spoilt, slowest);
    fflush(stdout);
    return good == 0;
}

/* All ids, if this user may; else its own. */
static void map(pid_t pid, const char *name, unsigned id)
{
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
    int fd = id ? open(path, O_WRONLY) : -1;
    write(fd, "deny", 4);
    close(fd);
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    fd = open(path, O_WRONLY);
    if (write(fd, text, snprintf(text, sizeof text, id ? "0 %u 1" : "0 0 4294967295", id)) < 0)
        perror(path);
    close(fd);
}

int main(int argc, char **argv)
{
    struct utsname system;
    if (uname(&system) || !strstr(system.release, "cloche")) {
        /* It sets clocks, renames directories, writes to devices: as root it would wreck any other system. */
        fprintf(stderr, "typed: only inside a sandbox of cloche\n");
        return 2;
    }
    int processes = atoi(argv[3]), status;
    const char *directory = argc > 4 ? argv[4] : "/tmp/typed";
    slower = argc > 5 ? atoi(argv[5]) : 1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    arena = mmap(NULL, (PAGES + 2) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(arena + PAGES * PAGE, 2 * PAGE);
    read_only = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    nowhere = (char *)mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + PAGE;
    mprotect(nowhere, PAGE, PROT_NONE);
    uid_t user = getuid();
    gid_t group = getgid();
    int asked[2], done[2];
    char byte;
    pipe(asked);
    pipe(done);
    pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET)) { perror("unshare"); _exit(1); }
        write(asked[1], "x", 1);
        read(done[0], &byte, 1);
        if ((pid = fork()) == 0)
            _exit(direct(strtoul(argv[1], NULL, 0), atoi(argv[2]), processes < WORKERS ? processes : WORKERS, directory));
        waitpid(pid, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
    read(asked[0], &byte, 1);
    map(pid, "uid_map", user);
    map(pid, "gid_map", group);
    write(done[1], "x", 1);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
