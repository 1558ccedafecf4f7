/* process_vm_readv(2), process_vm_writev(2) between parent and child. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(call) do { errno = 0; long r_ = (call); printf("%s = %ld %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ready[2], go[2];
    char byte;
    pipe(ready);
    pipe(go);
    int child = fork();
    if (child == 0) {
        strcpy(page, "the child's text");
        munmap(page + 4096, 4096);
        write(ready[1], "r", 1);
        read(go[0], &byte, 1);
        _exit(strcmp(page, "the CHILD's text") == 0 ? 5 : 6);
    }
    read(ready[0], &byte, 1);
    char a[8] = {0}, b[64] = {0};
    struct iovec local[2] = {{a, 4}, {b, 60}}, remote[2] = {{page, 10}, {page + 10, 7}};
    T(process_vm_readv(child, local, 2, remote, 2, 0));
    printf("[%.4s][%s] parent's own [%s]\n", a, b, page);
    struct iovec text = {"CHILD", 5}, place = {page + 4, 5};
    T(process_vm_writev(child, &text, 1, &place, 1, 0));
    struct iovec tail = {page + 4090, 12}, into = {b, 12};
    T(process_vm_readv(child, &into, 1, &tail, 1, 0) >= 0);
    struct iovec gone = {page + 4096, 4};
    T(process_vm_readv(child, &into, 1, &gone, 1, 0));
    T(process_vm_readv(child, local, 2, remote, 2, 1));
    T(process_vm_readv(child, local, 1025, remote, 1, 0));
    T(process_vm_readv(child, local, 0, remote, 1, 0));
    T(process_vm_readv(0x3fffff0, local, 1, remote, 1, 0));
    T(process_vm_readv(getpid(), local, 1, remote, 1, 0));
    write(go[1], "x", 1);
    int status;
    wait(&status);
    printf("child %d\n", WEXITSTATUS(status));
    return 0;
}
