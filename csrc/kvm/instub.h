/* The parts of the stub that differ on the KVM platform: included by stub.h alone. */
#ifndef CLOCHE_INSTUB_H
#define CLOCHE_INSTUB_H

long carry_out(const struct op *shared, struct ucontext *uc);
long prepare(const struct boot *boot);
bool loop_signal(int signo, const struct ucontext *uc);
long loop_copy(void *to, const void *from, uint64_t length);
long loop_swap(void *word, volatile uint32_t *old, uint32_t new);

#endif
