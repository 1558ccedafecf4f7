/* setgroups(2) sorts, getgroups(2) checks the size. */
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    gid_t list[8] = {30, 10, 20, 10};
    if (geteuid() == 0) {
        printf("%d\n", setgroups(4, list));
        gid_t back[8];
        int n = getgroups(8, back);
        printf("%d:", n);
        for (int i = 0; i < n; i++) printf(" %u", back[i]);
        printf("\n%d", getgroups(0, NULL));
        printf(" %d", getgroups(2, back));
        printf(" %d\n", errno);
        errno = 0;
        printf("%d", setgroups(65537, list));
        printf(" %d\n", errno);
        printf("%d %d\n", setgroups(0, NULL), getgroups(0, NULL));
        setresuid(1000, 1000, 1000);
    }
    errno = 0;
    printf("%d", setgroups(1, list));
    printf(" %d\n", errno);
    errno = 0;
    printf("%d", getgroups(-1, list));
    printf(" %d\n", errno);
    return 0;
}
