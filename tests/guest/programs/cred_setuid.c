/* setuid(2), setreuid(2), setresuid(2): each case in a child, so that it starts anew. */
#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(call) do { errno = 0; int r_ = (call); printf("  %s = %d %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

static void show(void) {
    uid_t r, e, s;
    getresuid(&r, &e, &s);
    printf("  uids %u %u %u\n", r, e, s);
}

static void from_root(int which) {
    switch (which) {
    case 0: T(setuid(1000)); show(); T(setuid(0)); T(seteuid(0)); break;
    case 1: T(seteuid(1000)); show(); T(setuid(2000)); T(setuid(0)); show(); break;
    case 2: T(setreuid(1000, 2000)); show(); T(setreuid(2000, 1000)); show(); T(setreuid(5, -1)); break;
    case 3: T(setresuid(1, 2, 3)); show(); T(setresuid(3, 1, 2)); show(); T(setresuid(-1, 3, -1)); show();
            T(setresuid(9, -1, -1)); break;
    case 4: T(setreuid(-1, 1000)); show(); T(setreuid(1000, -1)); show(); break;
    case 5: T(setuid(-1)); T(setresuid(-1, -1, -1)); show(); break;
    case 6: T(setregid(5, 6)); T(setresgid(-1, 7, -1)); T(setgid(8));
            printf("  gids %u %u\n", getgid(), getegid()); break;
    case 7: T(setresgid(1, 2, 3)); T(setresuid(1000, 1000, 1000)); T(setgid(3)); T(setgid(2));
            printf("  gids %u %u\n", getgid(), getegid()); T(setresgid(0, 0, 0)); break;
    }
}

int main(void) {
    if (geteuid() != 0) {
        T(setuid(getuid() + 1));
        T(setuid(getuid()));
        return 0;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int which = 0; which < 8; which++) {
        printf("case %d\n", which);
        if (fork() == 0) {
            errno = 0;
            from_root(which);
            _exit(0);
        }
        wait(NULL);
    }
    return 0;
}
