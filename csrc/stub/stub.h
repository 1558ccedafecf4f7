/* The declarations that the stub's parts share: entry.S, stub.c, start.c. Sizes and numbers of the host's own
 * headers. */
#ifndef CLOCHE_STUB_H
#define CLOCHE_STUB_H

#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <stdbool.h>

#include <asm/sigcontext.h>
#include <asm/ucontext.h>

#include "shared.h"

#define INFO ((const volatile struct info *)INFO_BASE)

/* entry.S: code, and places in it that a signal can come at */
extern char stub_call[], stub_call_trap_jump[], stub_call_saved[], stub_call_flags[], stub_call_enter[];
extern char stub_leave[], stub_leave_end[], stub_again[], stub_again_end[], stub_stopped[];
extern char stub_handler[], stub_restorer[], stub_park[];
extern char stub_copy_begin[], stub_copy_end[], stub_string_begin[], stub_string_end[], stub_copy_fault[], stub_string_fault[];
extern char stub_swap_begin[], stub_swap_end[], stub_swap_fault[];
long stub_syscall(long nr, long a, long b, long c, long d, long e, long f);
long stub_swap(volatile void *word, volatile uint32_t *old, uint32_t new);
long stub_copy(void *to, const void *from, uint64_t length);
long stub_copy_string(void *to, const void *from, uint64_t length);
long stub_clone(const struct op *op, void *uc);
long stub_thread(unsigned long flags, void *stack);
void stub_switch(void *stack, void (*next)(void *), void *arg);

#define call6(nr, a, b, c, d, e, f) stub_syscall(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define call4(nr, a, b, c, d) call6(nr, a, b, c, d, 0, 0)
#define call3(nr, a, b, c) call4(nr, a, b, c, 0)
#define call2(nr, a, b) call4(nr, a, b, 0, 0)
#define call1(nr, a) call4(nr, a, 0, 0, 0)

/* stub.c, called by entry.S */
void stub_signal(int signo, siginfo_t *info, struct ucontext *uc);
void stub_resume(struct ucontext *uc);
long stub_called(volatile struct slot *slot);
void ring(void);
void post(volatile struct slot *slot, uint32_t kind);
uint32_t serve(volatile struct slot *slot, struct ucontext *uc, int64_t *result);

#ifdef KVM /* csrc/kvm: its version of these */
#include "instub.h"
#else
#define prepare(boot) 0L
#define loop_copy stub_copy
#define loop_swap stub_swap
#endif

/* prefetch.c */
void prefetch(volatile struct slot *slot, uint64_t nr, const int64_t *args);

/* start.c, called by entry.S */
void stub_main(const uint64_t *stack);
void stub_helper(void);

#endif
