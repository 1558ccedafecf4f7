/* The kernel marks the words of a robust list of a process that is killed: changes by others at the same time are not
 * lost. */
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 64
struct entry {
    struct robust_list list;
    unsigned word;
};

struct shared {
    struct entry entries[WORDS];
    unsigned is_ready;
};

static struct robust_list_head head;

static void child(struct shared *s)
{
    unsigned tid = syscall(SYS_gettid);
    head.futex_offset = (char *)&s->entries[0].word - (char *)&s->entries[0];
    head.list_op_pending = NULL;
    struct robust_list *last = &head.list;
    for (int i = 0; i < WORDS; i++) {
        s->entries[i].word = tid;
        last->next = &s->entries[i].list;
        last = last->next;
    }
    last->next = &head.list;
    syscall(SYS_set_robust_list, &head, sizeof head);
    __atomic_store_n(&s->is_ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

static int rounds(struct shared *s, int offset_pages)
{
    int lost = 0, unmarked = 0, status;
    for (int round = 0; round < 40; round++) {
        memset(s, 0, sizeof *s);
        pid_t pid = fork();
        if (pid == 0)
            child(s);
        while (!__atomic_load_n(&s->is_ready, __ATOMIC_SEQ_CST))
            usleep(100);
        kill(pid, SIGKILL);
        for (int i = 0; i < WORDS; i++)
            __atomic_fetch_or(&s->entries[i].word, FUTEX_WAITERS, __ATOMIC_SEQ_CST);
        waitpid(pid, &status, 0);
        for (int i = 0; i < WORDS; i++) {
            lost += !(s->entries[i].word & FUTEX_WAITERS);
            unmarked += (s->entries[i].word & ~FUTEX_WAITERS) != FUTEX_OWNER_DIED;
        }
    }
    printf("%d lost, %d unmarked\n", lost, unmarked);
    return 0;
}

int main(void)
{
    rounds(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 0);
    int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    ftruncate(fd, 16384);
    rounds(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8192), 2);
    int memory = memfd_create("words", 0);
    ftruncate(memory, 4096);
    rounds(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0), 0);
    return 0;
}
