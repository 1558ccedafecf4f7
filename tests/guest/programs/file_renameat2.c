#include "file_common.h"

#define RN(a, b, f) syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, f)

int main(void)
{
    put_file("a", "a");
    put_file("b", "b");
    mkdir("d", 0755);
    put_file("d/in", "in");
    T(RN("a", "b", RENAME_NOREPLACE));
    T(RN("a", "c", RENAME_NOREPLACE));
    T(RN("none", "b", RENAME_NOREPLACE));
    T(RN("c", "b", RENAME_EXCHANGE));
    show_file("b");
    show_file("c");
    T(RN("c", "none", RENAME_EXCHANGE));
    T(RN("c", "d", RENAME_EXCHANGE));
    T(access("c/in", F_OK));
    show_file("d");
    T(RN("c", "c/in", RENAME_EXCHANGE));
    T(RN("c", "d", RENAME_EXCHANGE | RENAME_NOREPLACE));
    T(RN("c", "d", 0x100));
    T(RN("d", "b", 0));
    show_file("b");
    T(RN("b", ".", RENAME_NOREPLACE));
    T(RN("b", "b", RENAME_NOREPLACE));
    T(RN("b", "b", RENAME_EXCHANGE));
    return 0;
}
