/* Prints "name hex" for structs that the kernel's headers lay out, filled with known values: test_structs.py
 * packs the same values. */
#define _GNU_SOURCE 1
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/inotify.h>
#include <linux/ipc.h>
#include <linux/mqueue.h>
#include <linux/msg.h>
#include <linux/netlink.h>
#include <linux/openat2.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <linux/seccomp.h>
#include <linux/sem.h>
#include <linux/shm.h>
#include <linux/signal.h>
#include <asm/sigcontext.h>
#include <asm/ucontext.h>
#include <linux/signalfd.h>
#include <linux/sysinfo.h>
#include <linux/times.h>
#include <linux/timex.h>
#include <linux/types.h>
#include <linux/utsname.h>
#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/termbits.h>
#include <asm/termios.h>
#include <linux/eventpoll.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/poll.h>
#include <linux/stat.h>
#include <linux/time.h>
#include <linux/uio.h>
#include <linux/un.h>

int printf(const char *, ...);
void *memset(void *, int, unsigned long);
void *memcpy(void *, const void *, unsigned long);

static void dump(const char *name, const void *data, unsigned long size)
{
    const unsigned char *p = data;
    printf("%s ", name);
    for (unsigned long i = 0; i < size; i++)
        printf("%02x", p[i]);
    printf("\n");
}

/* Structs that linux/socket.h declares for the kernel only. */
struct msghdr_ {
    void *msg_name;
    int msg_namelen;
    struct iovec *msg_iov;
    unsigned long msg_iovlen;
    void *msg_control;
    unsigned long msg_controllen;
    unsigned int msg_flags;
};

#define BEGIN(type) { type s; memset(&s, 0, sizeof s);
#define END(name) dump(name, &s, sizeof s); }

int main(void)
{
    BEGIN(struct stat)
    s.st_dev = 1; s.st_ino = 2; s.st_nlink = 3; s.st_mode = 4; s.st_uid = 5; s.st_gid = 6; s.st_rdev = 7;
    s.st_size = 8; s.st_blksize = 9; s.st_blocks = 10; s.st_atime = 11; s.st_atime_nsec = 12; s.st_mtime = 13;
    s.st_mtime_nsec = 14; s.st_ctime = 15; s.st_ctime_nsec = 16;
    END("stat")
    BEGIN(struct statx)
    s.stx_mask = 1; s.stx_blksize = 2; s.stx_attributes = 3; s.stx_nlink = 4; s.stx_uid = 5; s.stx_gid = 6;
    s.stx_mode = 7; s.stx_ino = 8; s.stx_size = 9; s.stx_blocks = 10; s.stx_attributes_mask = 11;
    s.stx_atime.tv_sec = -1; s.stx_atime.tv_nsec = 12; s.stx_btime.tv_sec = 13; s.stx_btime.tv_nsec = 14;
    s.stx_ctime.tv_sec = 15; s.stx_ctime.tv_nsec = 16; s.stx_mtime.tv_sec = 17; s.stx_mtime.tv_nsec = 18;
    s.stx_rdev_major = 19; s.stx_rdev_minor = 20; s.stx_dev_major = 21; s.stx_dev_minor = 22;
    s.stx_mnt_id = 23;
    END("statx")
    BEGIN(struct statfs)
    s.f_type = 1; s.f_bsize = 2; s.f_blocks = 3; s.f_bfree = 4; s.f_bavail = 5; s.f_files = 6; s.f_ffree = 7;
    s.f_fsid.val[0] = -8; s.f_fsid.val[1] = 9; s.f_namelen = 10; s.f_frsize = 11; s.f_flags = 12;
    END("statfs")
    BEGIN(struct flock)
    s.l_type = 1; s.l_whence = 2; s.l_start = -3; s.l_len = 4; s.l_pid = 5;
    END("flock")
    BEGIN(struct open_how)
    s.flags = 1; s.mode = 2; s.resolve = 3;
    END("open_how")
    BEGIN(struct f_owner_ex)
    s.type = 1; s.pid = -2;
    END("f_owner_ex")
    BEGIN(struct iovec)
    s.iov_base = (void *)1; s.iov_len = 2;
    END("iovec")
    {
        struct { struct inotify_event e; char name[16]; } s;
        memset(&s, 0, sizeof s);
        s.e.wd = 1; s.e.mask = 0x80000002; s.e.cookie = 3; s.e.len = 16; memcpy(s.name, "file", 5);
        dump("inotify_event", &s, sizeof s);
    }
    BEGIN(struct timespec)
    s.tv_sec = 1; s.tv_nsec = 2;
    END("timespec")
    BEGIN(struct itimerspec)
    s.it_interval.tv_sec = 1; s.it_interval.tv_nsec = 2; s.it_value.tv_sec = 3; s.it_value.tv_nsec = 4;
    END("itimerspec")
    BEGIN(struct itimerval)
    s.it_interval.tv_sec = 1; s.it_interval.tv_usec = 2; s.it_value.tv_sec = 3; s.it_value.tv_usec = 4;
    END("itimerval")
    BEGIN(struct tms)
    s.tms_utime = 1; s.tms_stime = 2; s.tms_cutime = 3; s.tms_cstime = 4;
    END("tms")
    BEGIN(struct timex)
    s.modes = 1; s.offset = 2; s.freq = 3; s.maxerror = 4; s.esterror = 5; s.status = 6; s.constant = 7;
    s.precision = 8; s.tolerance = 9; s.time.tv_sec = 10; s.time.tv_usec = 11; s.tick = 12; s.ppsfreq = 13;
    s.jitter = 14; s.shift = 15; s.stabil = 16; s.jitcnt = 17; s.calcnt = 18; s.errcnt = 19; s.stbcnt = 20;
    s.tai = 21;
    END("timex")
    BEGIN(struct rusage)
    s.ru_utime.tv_sec = 1; s.ru_utime.tv_usec = 2; s.ru_stime.tv_sec = 3; s.ru_stime.tv_usec = 4;
    s.ru_maxrss = 5; s.ru_minflt = 6; s.ru_majflt = 7; s.ru_inblock = 8; s.ru_oublock = 9; s.ru_nvcsw = 10;
    s.ru_nivcsw = 11;
    END("rusage")
    BEGIN(struct sysinfo)
    s.uptime = 1; s.loads[0] = 2; s.loads[1] = 3; s.loads[2] = 4; s.totalram = 5; s.freeram = 6;
    s.sharedram = 7; s.bufferram = 8; s.totalswap = 9; s.freeswap = 10; s.procs = 11; s.mem_unit = 1;
    END("sysinfo")
    BEGIN(struct new_utsname)
    memcpy(s.sysname, "a", 1); memcpy(s.nodename, "b", 1); memcpy(s.release, "c", 1);
    memcpy(s.version, "d", 1); memcpy(s.machine, "e", 1); memcpy(s.domainname, "f", 1);
    END("utsname")
    BEGIN(struct rlimit)
    s.rlim_cur = 1; s.rlim_max = -1;
    END("rlimit")
    BEGIN(struct clone_args)
    s.flags = 1; s.pidfd = 2; s.child_tid = 3; s.parent_tid = 4; s.exit_signal = 5; s.stack = 6;
    s.stack_size = 7; s.tls = 8; s.set_tid = 9; s.set_tid_size = 10; s.cgroup = 11;
    END("clone_args")
    {
        struct __user_cap_data_struct s[2];
        memset(&s, 0, sizeof s);
        s[0].effective = 1; s[0].permitted = 2; s[0].inheritable = 3;
        s[1].effective = 4; s[1].permitted = 5; s[1].inheritable = 6;
        dump("cap_data", &s, sizeof s);
    }
    BEGIN(struct __user_cap_header_struct)
    s.version = 1; s.pid = -2;
    END("cap_header")
    BEGIN(struct robust_list_head)
    s.list.next = (void *)1; s.futex_offset = -2; s.list_op_pending = (void *)3;
    END("robust_list_head")
    BEGIN(struct sched_attr)
    s.size = 56; s.sched_policy = 2; s.sched_flags = 3; s.sched_nice = -4; s.sched_priority = 5;
    s.sched_runtime = 6; s.sched_deadline = 7; s.sched_period = 8; s.sched_util_min = 9; s.sched_util_max = 10;
    END("sched_attr")
    BEGIN(struct seccomp_data)
    s.nr = -1; s.arch = 2; s.instruction_pointer = 3; s.args[0] = 4; s.args[5] = 5;
    END("seccomp_data")
    BEGIN(struct sock_filter)
    s.code = 1; s.jt = 2; s.jf = 3; s.k = 4;
    END("sock_filter")
    BEGIN(struct sock_fprog)
    s.len = 1; s.filter = (void *)2;
    END("sock_fprog")
    BEGIN(struct pollfd)
    s.fd = -1; s.events = 2; s.revents = 3;
    END("pollfd")
    BEGIN(struct epoll_event)
    s.events = 0x80000001; s.data = 2;
    END("epoll_event")
    BEGIN(struct sigaction)
    s.sa_handler = (void *)1; s.sa_flags = 2; s.sa_restorer = (void *)3; s.sa_mask = 4;
    END("sigaction")
    BEGIN(stack_t)
    s.ss_sp = (void *)1; s.ss_flags = 0x80000002; s.ss_size = 3;
    END("stack_t")
    BEGIN(sigevent_t)
    s.sigev_value.sival_ptr = (void *)1; s.sigev_signo = 2; s.sigev_notify = 4; s.sigev_notify_thread_id = 3;
    END("sigevent")
    BEGIN(siginfo_t)
    s.si_signo = 9; s.si_code = SI_TKILL; s.si_pid = 2; s.si_uid = 3;
    END("si_kill")
    BEGIN(siginfo_t)
    s.si_signo = 9; s.si_code = SI_QUEUE; s.si_pid = 2; s.si_uid = 3; s.si_value.sival_ptr = (void *)-4;
    END("si_rt")
    BEGIN(siginfo_t)
    s.si_signo = 9; s.si_code = SI_TIMER; s.si_tid = 2; s.si_overrun = 3; s.si_value.sival_ptr = (void *)4;
    END("si_timer")
    BEGIN(siginfo_t)
    s.si_signo = 17; s.si_code = CLD_KILLED; s.si_pid = 2; s.si_uid = 3; s.si_status = 4; s.si_utime = 5;
    s.si_stime = 6;
    END("si_chld")
    BEGIN(siginfo_t)
    s.si_signo = 11; s.si_code = SEGV_ACCERR; s.si_addr = (void *)-2;
    END("si_fault")
    BEGIN(siginfo_t)
    s.si_signo = 11; s.si_code = SEGV_PKUERR; s.si_addr = (void *)2; s.si_pkey = 3;
    END("si_pkey")
    BEGIN(siginfo_t)
    s.si_signo = 29; s.si_code = POLL_IN; s.si_band = 2; s.si_fd = 3;
    END("si_poll")
    BEGIN(siginfo_t)
    s.si_signo = 31; s.si_code = SYS_SECCOMP; s.si_errno = 5; s.si_call_addr = (void *)2; s.si_syscall = 3;
    s.si_arch = 0xc000003e;
    END("si_sys")
    BEGIN(struct signalfd_siginfo)
    s.ssi_signo = 17; s.ssi_code = CLD_KILLED; s.ssi_pid = 2; s.ssi_uid = 3; s.ssi_status = 4; s.ssi_utime = 5;
    s.ssi_stime = 6;
    END("ssi_chld")
    BEGIN(struct signalfd_siginfo)
    s.ssi_signo = 9; s.ssi_code = SI_QUEUE; s.ssi_pid = 2; s.ssi_uid = 3; s.ssi_ptr = -4; s.ssi_int = -4;
    END("ssi_rt")
    BEGIN(struct signalfd_siginfo)
    s.ssi_signo = 9; s.ssi_code = SI_TIMER; s.ssi_tid = 2; s.ssi_overrun = 3; s.ssi_ptr = 4; s.ssi_int = 4;
    END("ssi_timer")
    BEGIN(struct signalfd_siginfo)
    s.ssi_signo = 11; s.ssi_code = SEGV_ACCERR; s.ssi_addr = -2;
    END("ssi_fault")
    BEGIN(struct signalfd_siginfo)
    s.ssi_signo = 29; s.ssi_code = POLL_IN; s.ssi_band = 2; s.ssi_fd = 3;
    END("ssi_poll")
    BEGIN(struct signalfd_siginfo)
    s.ssi_signo = 31; s.ssi_code = SYS_SECCOMP; s.ssi_errno = 5; s.ssi_call_addr = 2; s.ssi_syscall = 3;
    s.ssi_arch = 0xc000003e;
    END("ssi_sys")
    BEGIN(struct winsize)
    s.ws_row = 1; s.ws_col = 2; s.ws_xpixel = 3; s.ws_ypixel = 4;
    END("winsize")
    BEGIN(struct termios)
    s.c_iflag = 1; s.c_oflag = 2; s.c_cflag = 3; s.c_lflag = 4; s.c_line = 5; s.c_cc[0] = 6; s.c_cc[18] = 7;
    END("termios")
    BEGIN(struct termios2)
    s.c_iflag = 1; s.c_oflag = 2; s.c_cflag = 3; s.c_lflag = 4; s.c_line = 5; s.c_cc[0] = 6; s.c_cc[18] = 7;
    s.c_ispeed = 8; s.c_ospeed = 9;
    END("termios2")
    BEGIN(struct termio)
    s.c_iflag = 1; s.c_oflag = 2; s.c_cflag = 3; s.c_lflag = 4; s.c_line = 5; s.c_cc[0] = 6; s.c_cc[7] = 7;
    END("termio")
    BEGIN(struct msghdr_)
    s.msg_name = (void *)1; s.msg_namelen = 2; s.msg_iov = (void *)3; s.msg_iovlen = 4; s.msg_control = (void *)5;
    s.msg_controllen = 6; s.msg_flags = 7;
    END("msghdr")
    BEGIN(struct sockaddr_in)
    s.sin_family = 2; s.sin_port = 0x3412; memcpy(&s.sin_addr, "\1\2\3\4", 4);
    END("sockaddr_in")
    BEGIN(struct sockaddr_in6)
    s.sin6_family = 10; s.sin6_port = 0x3412; memcpy(&s.sin6_flowinfo, "\1\2\3\4", 4);
    memcpy(&s.sin6_addr, "abcdefghijklmnop", 16); s.sin6_scope_id = 5;
    END("sockaddr_in6")
    BEGIN(struct sockaddr_nl)
    s.nl_family = 16; s.nl_pid = 1; s.nl_groups = 2;
    END("sockaddr_nl")
    {
        struct shmid64_ds s;
        memset(&s, 0, sizeof s);
        s.shm_perm.key = 1; s.shm_perm.uid = 2; s.shm_perm.gid = 3; s.shm_perm.cuid = 4; s.shm_perm.cgid = 5;
        s.shm_perm.mode = 6; s.shm_perm.seq = 7; s.shm_segsz = 8; s.shm_atime = 9; s.shm_dtime = 10;
        s.shm_ctime = 11; s.shm_cpid = 12; s.shm_lpid = 13; s.shm_nattch = 14;
        dump("shmid_ds", &s, sizeof s);
    }
    BEGIN(struct semid64_ds)
    s.sem_otime = 1; s.sem_ctime = 2; s.sem_nsems = 3;
    END("semid_ds")
    BEGIN(struct msqid64_ds)
    s.msg_stime = 1; s.msg_rtime = 2; s.msg_ctime = 3; s.msg_cbytes = 4; s.msg_qnum = 5; s.msg_qbytes = 6;
    s.msg_lspid = 7; s.msg_lrpid = 8;
    END("msqid_ds")
    BEGIN(struct sembuf)
    s.sem_num = 1; s.sem_op = -2; s.sem_flg = 3;
    END("sembuf")
    BEGIN(struct mq_attr)
    s.mq_flags = 1; s.mq_maxmsg = 2; s.mq_msgsize = 3; s.mq_curmsgs = 4;
    END("mq_attr")
    {
        struct { char *pretcode; struct ucontext uc; siginfo_t info; } s;
        memset(&s, 0, sizeof s);
        s.pretcode = (char *)1; s.uc.uc_flags = 6; s.uc.uc_stack.ss_sp = (void *)2;
        s.uc.uc_stack.ss_flags = 0x80000000; s.uc.uc_stack.ss_size = 3;
        s.uc.uc_mcontext.r8 = 8; s.uc.uc_mcontext.r9 = 9; s.uc.uc_mcontext.r10 = 10; s.uc.uc_mcontext.r11 = 11;
        s.uc.uc_mcontext.r12 = 12; s.uc.uc_mcontext.r13 = 13; s.uc.uc_mcontext.r14 = 14;
        s.uc.uc_mcontext.r15 = 15; s.uc.uc_mcontext.rdi = 16; s.uc.uc_mcontext.rsi = 17;
        s.uc.uc_mcontext.rbp = 18; s.uc.uc_mcontext.rbx = 19; s.uc.uc_mcontext.rdx = 20;
        s.uc.uc_mcontext.rax = 21; s.uc.uc_mcontext.rcx = 22; s.uc.uc_mcontext.rsp = 0x10000;
        s.uc.uc_mcontext.rip = 24; s.uc.uc_mcontext.eflags = 0x702; s.uc.uc_mcontext.cs = 0x33;
        s.uc.uc_mcontext.ss = 0x2b; s.uc.uc_mcontext.err = 26; s.uc.uc_mcontext.trapno = 27;
        s.uc.uc_mcontext.oldmask = 28; s.uc.uc_mcontext.cr2 = 29; s.uc.uc_sigmask = 28;
        s.info.si_signo = 11; s.info.si_code = SEGV_ACCERR; s.info.si_addr = (void *)-2;
        dump("rt_sigframe", &s, sizeof s);
    }
    BEGIN(struct _fpx_sw_bytes)
    s.magic1 = FP_XSTATE_MAGIC1; s.extended_size = 2; s.xfeatures = 3; s.xstate_size = 4;
    END("fpx_sw_bytes")
    return 0;
}
