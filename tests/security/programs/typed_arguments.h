/* The arguments of calls in typed.c: for each letter of a signature a value of that kind, mostly good (`argument`).

   Uses definitions in typed.c before its include: its memory, its descriptors, its random state.  */

static uint64_t number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t below(uint64_t n) { return number() % n; }
static int one_in(uint64_t n) { return number() % n == 0; }
#define PICK(array) ((array)[below(COUNT(array))])

/* -- plain values -------------------------------------------------------------------------------------------- */

static uint64_t weird(void)
{
    static const uint64_t edges[] = {0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 255, 256, 511, 512, 1023, 1024, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, 0x7fffffff,
                                     0x80000000, 0xffffffff, 1UL << 32, 1UL << 40, 1UL << 47, (1UL << 47) - 4096, 0x7ffe00000000, STUB_BASE, REGION_BASE, 1UL << 62, 0x7fffffffffffffff,
                                     1UL << 63, -1UL, -2UL, -100UL, -4095UL, -4096UL, 0x7ffffffffffff000, 0xdead};
    switch (below(6)) {
    case 0: return number();
    case 1: return 1UL << below(64);
    case 2: return below(16);
    case 3: return -below(256);
    default: return PICK(edges);
    }
}

static long descriptor(void)
{
    switch (below(16)) {
    case 0: return -1;
    case 1: return AT_FDCWD;
    case 2: return weird();
    case 3: return below(256);
    default: return 3 + below(45);
    }
}

static long length(void) { return one_in(8) ? weird() : one_in(8) ? 0 : one_in(4) ? below(5 * PAGE) : below(64); }
static long flags(void)
{
    switch (below(6)) {
    case 0: case 1: return 0;
    case 2: return 1UL << below(32);
    case 3: return 1UL << below(32) | 1UL << below(32);
    case 4: return below(16);
    default: return one_in(3) ? weird() : number() & number() & 0xffffffff;
    }
}

static long small(void) { return one_in(12) ? weird() : below(9); }
static long a_signal(void)
{
    static const int rare[] = {SIGKILL, SIGSTOP, SIGTSTP, SIGSEGV, SIGCHLD, SIGCONT};
    return one_in(6) ? 0 : one_in(30) ? PICK(rare) : one_in(8) ? weird() : 34 + below(30);
}

/* Never pid 1, which is the fuzzer's own: a tracer may stop it, as on Linux. */
static long any_process(void)
{
    switch (below(10)) {
    case 0: return 0;
    case 1: return one_in(4) ? -1 : (long)weird();
    case 2: case 3: case 4: return children[below(4)];
    case 5: return raw(SYS_gettid, 0, 0, 0, 0, 0, 0);
    case 6: return 1 + below(64);
    default: return getpid();
    }
}

static long process(void)
{
    long pid = any_process();
    return (int)pid == 1 ? 2 : pid;
}

/* -- memory ---------------------------------------------------------------------------------------------------- */

static char *page(void) { return arena + below(PAGES - 4) * PAGE; }

/* Anywhere: mostly good, at times its end is missing, is read-only, or all of it is absent. */
static char *buffer(void)
{
    switch (below(20)) {
    case 0: return NULL;
    case 1: return arena + PAGES * PAGE;
    case 2: return (char *)weird();
    case 3: return read_only + below(PAGE);
    case 4: case 5: return arena + PAGES * PAGE - below(64);
    case 6: return arena + PAGES * PAGE - PAGE + below(64);
    case 7: return nowhere - below(64);
    case 8: return nowhere;
    default: return page() + below(32) * 8;
    }
}

/* A structure of random contents: small numbers, addresses, descriptors, times. */
static char *structure(void)
{
    uint64_t *at = (uint64_t *)(page() + below(2) * 8);
    for (int i = below(40) + 4; i > 0; i--)
        switch (below(6)) {
        case 0: at[i] = (uint64_t)buffer(); break;
        case 1: at[i] = weird(); break;
        case 2: at[i] = below(3000000); break;
        case 3: at[i] = below(64) | (uint64_t)flags() << 32; break;
        case 4: at[i] = below(64) | (uint64_t)descriptor() << 32; break;
        default: at[i] = below(4); break;
        }
    at[0] = one_in(3) ? weird() : below(64);
    return one_in(12) ? buffer() : (char *)at;
}

static const char *names[] = {
    "a", "b", "c", "d", "d/a", "d/../a", "./d/./c", "fifo", "socket", "loop", "link", "file", ".", "..", "../..", "/", "", "/nonexistent", "/etc/passwd", "/usr/bin/true", "/bin/sh", "/tmp",
    "/proc/self/fd/3", "/proc/self/fd/9", "/proc/self/fd", "/proc/self/ns/mnt", "/proc/self/ns/net", "/proc/self/mem", "/proc/self/maps", "/proc/self/smaps", "/proc/self/exe", "/proc/self/root",
    "/proc/self/status", "/proc/self/stat", "/proc/self/uid_map", "/proc/self/setgroups", "/proc/self/oom_score_adj", "/proc/self/comm", "/proc/self/environ", "/proc/self/pagemap", "/proc/self/clear_refs",
    "/proc/self/mountinfo", "/proc/self/fdinfo/5", "/proc/self/task", "/proc/self/timers", "/proc/self/io", "/proc/1/root", "/proc/mounts", "/proc/net/tcp", "/proc/net/unix", "/proc/stat", "/proc/meminfo",
    "/proc/sys/kernel/hostname", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/sem", "/proc/sys/kernel/shmmax", "/proc/sys/fs/pipe-max-size", "/proc/sys/vm/overcommit_memory", "/proc/sys/net/core/somaxconn",
    "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sysvipc/shm", "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/ptmx", "/dev/tty", "/dev/pts/0", "/dev/shm/x", "/dev/mqueue", "/dev/fd/4",
    "/dev/stdin", "/sys", "/sys/fs/cgroup", "/sys/kernel"};

static const char *words[] = {
    "tmpfs", "proc", "sysfs", "overlay", "mqueue", "devpts", "cgroup2", "ramfs", "ext4", "none", "size=1m", "size=99999999999999999999g", "mode=0777", "nr_inodes=-1", "uid=4294967296", "newinstance,ptmxmode=0666",
    "lowerdir=/,upperdir=d,workdir=e", "source", "mode", "hidepid=2", "user.x", "user.y", "security.capability", "system.posix_acl_access", "trusted.x", "0 0 1", "0 0 4294967295", "1 1 1\n2 2 2", "deny", "1", "-1",
    "99999999999999999999", "0x10", "", "\xff\xfe\x80", "a\nb", "%s%n%p", "/queue", "/q2", "max"};

static char *path(void)
{
    char *at = page();
    switch (below(40)) {
    case 0: return buffer();
    case 1: return strcpy(memset(at, 'a', 4095) + 4095, one_in(2) ? "b" : "") - 4095;
    case 2:
        for (int i = 0; i < 2000; i += 2)
            memcpy(at + i, "d/", 3);
        return at;
    case 3: sprintf(at, "%s/%s", PICK(names), PICK(names)); return at;
    case 4: return strcpy(at, PICK(words));
    case 5: { /* its end is in the hole */
        const char *name = PICK(names);
        return memcpy(arena + PAGES * PAGE - strlen(name) - below(2), name, strlen(name));
    }
    default: return strcpy(at, PICK(names));
    }
}

static char *word(void) { return one_in(16) ? path() : one_in(16) ? buffer() : strcpy(page(), PICK(words)); }

static char *vector(void)
{
    struct iovec *at = (struct iovec *)page();
    for (int i = one_in(20) ? 200 : 8; i >= 0; i--)
        at[i] = (struct iovec){buffer(), one_in(6) ? weird() : below(3000)};
    return (char *)at;
}

static char *duration(void)
{
    uint64_t *at = (uint64_t *)page();
    for (int i = 0; i < 4; i += 2) {
        at[i] = one_in(8) ? weird() : 0;
        at[i + 1] = one_in(8) ? weird() : below(2000000);
    }
    return one_in(6) ? NULL : one_in(16) ? buffer() : (char *)at;
}

static char *signal_set(void)
{
    uint64_t *at = (uint64_t *)page();
    at[0] = one_in(3) ? weird() : number() & number() & number();
    at[1] = (uint64_t)at;
    return one_in(12) ? buffer() : (char *)at;
}

/* -- sockets -------------------------------------------------------------------------------------------------- */

static char *address(void)
{
    static const uint32_t hosts[] = {0x7f000001, 0, 0xe0000001, 0xffffffff, 0x0a000001, 0x7fffffff};
    char *at = memset(page() + below(4), 0, 128);
    switch (below(8)) {
    case 0: case 1: {
        struct sockaddr_un *un = (void *)at;
        un->sun_family = AF_UNIX;
        if (one_in(2)) {
            un->sun_path[1] = 'a' + below(4);
            address_length = 4 + (one_in(2) ? 0 : below(20));
        } else {
            strncpy(un->sun_path, PICK(names), 100);
            address_length = one_in(6) ? 2 : 3 + strlen(un->sun_path);
        }
        return at;
    }
    case 2: case 3: {
        struct sockaddr_in *in = (void *)at;
        *in = (struct sockaddr_in){AF_INET, htons(one_in(3) ? below(65536) : 20000 + below(6)), {htonl(PICK(hosts))}};
        address_length = 16;
        return at;
    }
    case 4: {
        struct sockaddr_in6 *in = (void *)at;
        in->sin6_family = AF_INET6;
        in->sin6_port = htons(20000 + below(6));
        in->sin6_scope_id = below(3);
        in->sin6_addr.s6_addr[15] = below(2);
        if (one_in(3))
            memcpy(&in->sin6_addr, "\0\0\0\0\0\0\0\0\0\0\377\377\177\0\0\1", 16);
        if (one_in(6))
            memcpy(&in->sin6_addr, "\377\2", 2);
        address_length = 28;
        return at;
    }
    case 5: *(struct sockaddr_nl *)at = (struct sockaddr_nl){AF_NETLINK, 0, one_in(2) ? 0 : getpid(), one_in(2) ? 0 : flags()}; address_length = 12; return at;
    case 6:
        for (int i = 2; i < 64; i++)
            at[i] = number();
        /* fall through */
    default: *(uint16_t *)at = below(64); address_length = below(130); return at;
    }
}

static char *netlink_message(uint64_t *size)
{
    static const int kinds[] = {16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 28, 30, 32, 34, 36, 38, 40, 42, 46, 64, 78, 1, 2, 3};
    static const int heads[] = {4, 8, 12, 16, 20, 24, 28};
    char *at = page(), *end = at + 16 + PICK(heads);
    struct nlmsghdr *head = (void *)at;
    memset(at, 0, 64);
    *head = (struct nlmsghdr){0, one_in(5) ? below(200) : PICK(kinds), one_in(4) ? number() : 1 | (one_in(2) ? 0x300 : 0) | (one_in(2) ? 4 : 0), below(100), getpid()};
    at[16] = one_in(2) ? AF_INET : AF_INET6;
    for (int i = 17; i < 44; i++)
        at[i] = one_in(3) ? number() : 0;
    for (int i = below(6); i > 0; i--) {
        int size = one_in(3) ? below(40) : 4;
        ((uint16_t *)end)[0] = one_in(8) ? below(70) : 4 + size;
        ((uint16_t *)end)[1] = below(60) | (one_in(10) ? 0x8000 : 0);
        for (int j = 0; j < size; j++)
            end[4 + j] = one_in(2) ? number() : 0;
        end += 4 + ((size + 3) & ~3);
    }
    head->nlmsg_len = one_in(8) ? below(100) : end - at;
    *size = one_in(10) ? below(200) : end - at;
    return at;
}

/* SCM_RIGHTS, SCM_CREDENTIALS, messages of IP, and nonsense. */
static uint64_t control_messages(char *at)
{
    char *end = at;
    for (int i = below(3) + 1; i > 0; i--) {
        struct cmsghdr *head = (void *)end;
        int size = 4, *data = (int *)(end + 16);
        switch (below(5)) {
        case 0: case 1:
            size = 4 * (one_in(20) ? 252 + below(4) : 1 + below(4));
            *head = (struct cmsghdr){0, SOL_SOCKET, SCM_RIGHTS};
            for (int j = 0; j < size / 4; j++)
                data[j] = descriptor();
            break;
        case 2:
            size = 12;
            *head = (struct cmsghdr){0, SOL_SOCKET, 2};
            data[0] = process(), data[1] = below(3), data[2] = 0;
            break;
        default:
            size = below(24);
            *head = (struct cmsghdr){0, one_in(3) ? below(300) : one_in(2) ? 0 : 41, below(70)};
            for (int j = 0; j < size; j++)
                end[16 + j] = one_in(3) ? number() : 0;
        }
        head->cmsg_len = one_in(8) ? weird() : 16 + size;
        end += 16 + ((size + 7) & ~7);
    }
    return end - at;
}

static char *message(void)
{
    struct msghdr *head = memset(page(), 0, sizeof *head);
    if (one_in(2)) {
        head->msg_name = address();
        head->msg_namelen = one_in(8) ? weird() : address_length;
    }
    if (one_in(3)) {
        struct iovec *only = (struct iovec *)(page() + 2048);
        only->iov_base = netlink_message(&only->iov_len);
        head->msg_iov = only;
        head->msg_iovlen = 1;
    } else {
        head->msg_iov = (struct iovec *)vector();
        head->msg_iovlen = one_in(8) ? weird() : below(6);
    }
    if (one_in(2)) {
        head->msg_control = page() + 1024;
        head->msg_controllen = control_messages(head->msg_control);
        if (one_in(8))
            head->msg_controllen = weird();
    }
    head->msg_flags = flags();
    return one_in(16) ? buffer() : (char *)head;
}

static char *messages(void)
{
    char *at = page();
    for (int i = 0; i < 5; i++) {
        char *one = message();
        if (one > arena && one < arena + PAGES * PAGE)
            memmove(at + 64 * i, one, 56);
    }
    return at;
}

/* -- other structures ---------------------------------------------------------------------------------------- */

static char *filter(void)
{
    static const uint16_t codes[] = {0x20, 0x28, 0x30, 0x80, 0x00, 0x01, 0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0x84, 0x94, 0xa4, 0x0c, 0x3c, 0x5c, 0xac, 0x05, 0x15, 0x25, 0x35, 0x45, 0x1d, 0x06, 0x16, 0x07,
                                     0x87, 0x02, 0x03, 0x60, 0x61, 0xb1};
    static const uint32_t verdicts[] = {0x7fff0000, 0x7ff00000, 0x50001, 0x7fc00000, 0x7ffc0000};
    struct sock_fprog *head = (void *)page();
    struct sock_filter *lines = (void *)(head + 1);
    int count = 1 + below(12);
    for (int i = 0; i < count; i++)
        lines[i] = (struct sock_filter){one_in(12) ? number() : PICK(codes), below(3), below(3), one_in(3) ? weird() : below(64)};
    if (!one_in(10))
        lines[count - 1] = (struct sock_filter){6, 0, 0, PICK(verdicts)};
    *head = (struct sock_fprog){one_in(20) ? weird() : count, lines};
    return (char *)head;
}

static char *clone_request(void)
{
    uint64_t *at = memset(page(), 0, 128);
    at[0] = one_in(2) ? 0 : 1UL << below(34) & ~0x4900UL; /* never in our memory, nor our sleep */
    at[0] &= ~(uint64_t)CLONE_VM;
    at[4] = one_in(3) ? a_signal() : SIGCHLD;
    if (one_in(4))
        at[1] = (uint64_t)buffer(), at[2] = (uint64_t)buffer(), at[3] = (uint64_t)buffer();
    if (one_in(10))
        at[8] = (uint64_t)buffer(), at[9] = below(4);
    if (one_in(10))
        at[10] = descriptor();
    return (char *)at;
}

static char *control_blocks(void)
{
    uint64_t *at = (uint64_t *)page();
    for (int i = 0; i < 4; i++) {
        uint64_t *block = at + 8 + 8 * i;
        at[i] = (uint64_t)block;
        block[0] = number();
        block[1] = one_in(8) ? (uint64_t)flags() << 32 : 0;
        block[2] = below(10) | (uint64_t)descriptor() << 32;
        block[3] = (uint64_t)(one_in(2) ? vector() : buffer());
        block[4] = length();
        block[5] = one_in(2) ? weird() : below(8192);
        block[6] = 0;
        block[7] = below(3) | (uint64_t)descriptor() << 32;
    }
    return (char *)at;
}

static char *polled(void)
{
    struct pollfd *at = (struct pollfd *)page();
    for (int i = 0; i < 20; i++)
        at[i] = (struct pollfd){descriptor(), number() & 0x3fff};
    return (char *)at;
}

static char *how_to_open(void)
{
    uint64_t *at = memset(page(), 0, 64);
    at[0] = one_in(3) ? 0 : flags() & 0x7fffff;
    at[1] = one_in(2) ? 0 : below(01000);
    at[2] = one_in(2) ? 0 : below(64);
    at[3] = one_in(3) ? descriptor() : 0;
    return (char *)at;
}

static char *semaphore_operations(void)
{
    uint16_t *at = (uint16_t *)page();
    for (int i = 0; i < 30; i += 3)
        at[i] = one_in(5) ? number() : below(4), at[i + 1] = below(5) - 2, at[i + 2] = one_in(4) ? 0x1800 : 0x800;
    return (char *)at;
}

static char *waiters(void)
{
    uint64_t *at = (uint64_t *)page();
    for (int i = 0; i < 8; i++)
        at[3 * i] = below(3), at[3 * i + 1] = (uint64_t)arena + 8 * below(8), at[3 * i + 2] = one_in(4) ? flags() : 2;
    return (char *)at;
}

static long control_request(void)
{
    static const uint32_t requests[] = {
        0x5401, 0x5402, 0x5403, 0x5404, 0x5405, 0x5406, 0x5409, 0x540a, 0x540b, 0x540c, 0x540d, 0x540e, 0x540f, 0x5410, 0x5411, 0x5412, 0x5413, 0x5414, 0x5415, 0x5418, 0x541b, 0x541d, 0x5420, 0x5421, 0x5422, 0x5423,
        0x5424, 0x5428, 0x5429, 0x5431, 0x5441, 0x5450, 0x5451, 0x5452, 0x5460, 0x80045430, 0x40045431, 0x80045438, 0x80045439, 0x8905, 0x8906, 0x8907, 0x8910, 0x8912, 0x8913, 0x8914, 0x8915, 0x8916, 0x8919, 0x891b,
        0x8921, 0x8922, 0x8927, 0x8933, 0x8942, 0x8946, 0x8901, 0x8902, 0x8904, 0xb701, 0xb702, 0xb703, 0xb704, 0xb705, 0xb706, 0xb707, 0xb708, 0x8008b705, 0x801c581f, 0x80086601, 0x40086602, 0x40049409, 0x4020940d,
        0xc0189436, 0xc0502100, 0xc0182101, 0x40082102, 0x40182103, 0x1260, 0x80081272, 0x5206, 0x80045200, 0x40045201, 0x541e, 0x1, 0x2, 0xc020660b};
    return one_in(10) ? number() : PICK(requests);
}

static long trace_request(void) { return one_in(2) ? below(32) : 0x4200 + below(20); }

/* The argument for a letter of a signature. */
static long argument(char type)
{
    static const int domains[] = {1, 1, 1, 2, 2, 10, 16, 17, 40, 38}, protocols[] = {0, 0, 0, 1, 6, 17, 58, 15, 9, 255}, levels[] = {1, 1, 0, 41, 6, 17, 270, 263};
    static const int nodes[] = {010644, 020666, 060666, 0100600, 0140600, 040700};
    static const long spaces[] = {0x20000, 0x10000000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x200, 0x400, 0x80};
    switch (type) {
    case '0': return 0;
    case '8': return one_in(20) ? weird() : 8;
    case 'a': return one_in(16) ? (long)nowhere : (long)(arena + below(PAGES + 2) * PAGE + (one_in(8) ? below(PAGE) : 0));
    case 'A': return one_in(8) ? weird() : context;
    case 'b': return (long)buffer();
    case 'B': return (long)structure();
    case 'c': return control_request();
    case 'C': return one_in(3) ? 1024 + below(20) : below(42);
    case 'd': return PICK(domains);
    case 'E': return (long)semaphore_operations();
    case 'f': return descriptor();
    case 'F': return (long)filter();
    case 'g': return a_signal();
    case 'G': return (long)signal_set();
    case 'H': return (long)how_to_open();
    case 'i': return flags();
    case 'I': return (long)control_blocks();
    case 'k': return one_in(3) ? weird() : below(3);
    case 'K': return (long)clone_request();
    case 'l': return PICK(levels);
    case 'L': return (long)polled();
    case 'm': return (long)message();
    case 'M': return (long)messages();
    case 'n': return length();
    case 'N': return PICK(spaces) | (one_in(3) ? PICK(spaces) : 0);
    case 'o': return one_in(2) ? weird() : below(70000);
    case 'O': return below(80);
    case 'p': return (long)path();
    case 'P': return process();
    case 'q': return one_in(8) ? weird() : below(PAGES * PAGE / 4);
    case 'r': return below(16);
    case 'R': return PICK(protocols);
    case 's': return (long)address();
    case 'S': return one_in(12) ? weird() : address_length;
    case 't': return (long)duration();
    case 'T': return trace_request();
    case 'u': return small();
    case 'v': return (long)vector();
    case 'V': return (long)waiters();
    case 'w': return (long)word();
    case 'W': return weird();
    case 'x': return one_in(10) ? weird() : below(78);
    case 'y': return (1 + below(3)) | (one_in(3) ? 0 : 04000);
    case 'z': return PICK(nodes);
    default: return 0;
    }
}
