/* Hypercalls: refused.  Bare metal has no such instruction (SIGILL); below a KVM, a program gets -1 (EPERM), or the
 * hypervisor takes it for an instruction that does not exist. */
#include "attack.h"

static void call(const char *name, const char *bytes, unsigned long number)
{
    long result = attack_with(NULL, bytes, 3, number, 0, 0);
    int is_refused = got_signal == SIGILL || got_signal == SIGSEGV || (!got_signal && (result == -1 || result == -1000));
    printf("%s %lu: %s\n", name, number, is_refused ? "refused" : "taken");
}

int main(void)
{
    prepare();
    for (unsigned long number = 0; number < 16; number++) {
        call("vmmcall", "\x0f\x01\xd9", number);
        call("vmcall", "\x0f\x01\xc1", number);
    }
    call("vmfunc", "\x0f\x01\xd4", 0);
    call("vmmcall", "\x0f\x01\xd9", 0x4b564d00);
    puts("alive");
    return 0;
}
