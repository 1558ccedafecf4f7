/* The parts of the stub that cannot be C: the entry points, the copy with fault fixup, and the two clones. */
#include "layout.h"

    .text
    .globl stub_start
stub_start:
    xor %ebp, %ebp
    mov %rsp, %rdi
    and $-16, %rsp
    call stub_main
    ud2

/* Signal handler: (signo, siginfo, ucontext) on the slot's signal stack.  Returns into stub_restorer. */
    .globl stub_handler
stub_handler:
    cld
    jmp stub_signal

    .globl stub_restorer
stub_restorer:
    mov $15, %eax
    syscall
    ud2

/* The zygote stops here for ever: each return from an order leads to the same SIGILL. */
    .globl stub_park
stub_park:
    ud2
    jmp stub_park

/* long stub_copy(void *to, const void *from, size_t n): 0, or -14 after a fault in the middle. */
    .globl stub_copy, stub_copy_begin, stub_copy_end, stub_copy_fault
stub_copy:
    mov %rdx, %rcx
stub_copy_begin:
    rep movsb
stub_copy_end:
    xor %eax, %eax
    ret
stub_copy_fault:
    mov $-14, %rax
    ret

/* long stub_copy_string(void *to, const void *from, size_t n): the length with its NUL, n if there is none, or -14. */
    .globl stub_copy_string, stub_string_begin, stub_string_end
stub_copy_string:
    xor %ecx, %ecx
stub_string_begin:
1:  cmp %rdx, %rcx
    jae 2f
    movzbl (%rsi,%rcx), %eax
    mov %al, (%rdi,%rcx)
    inc %rcx
    test %al, %al
    jnz 1b
2:
stub_string_end:
    mov %rcx, %rax
    ret

/* long stub_clone(const struct op *op, void *uc): clone with the arguments in *op.
 *
 * A new thread begins on the frame that its stack argument names.  A forked child shares the signal stack with
 * its parent until it has mapped its own region, so it touches no memory before that; then it starts over on
 * the frame of its own slot.
 */
    .globl stub_clone
stub_clone:
    push %rbx
    push %r12
    push %r13
    mov %rsi, %r12
    mov 56(%rdi), %rbx
    mov 16(%rdi), %rsi
    mov %rsi, %r13
    mov 24(%rdi), %rdx
    mov 32(%rdi), %r10
    mov 40(%rdi), %r8
    mov 48(%rdi), %r9
    mov 8(%rdi), %rdi
    mov $56, %eax
    syscall
    test %rax, %rax
    jz 1f
    pop %r13
    pop %r12
    pop %rbx
    ret
1:  test %r13, %r13
    jnz 2f
    mov $REGION_BASE, %rdi
    mov $REGION_SIZE, %esi
    mov $3, %edx
    mov $0x11, %r10d
    mov %rbx, %r8
    xor %r9d, %r9d
    mov $9, %eax
    syscall
    mov $REGION_BASE, %rdi
    cmp %rdi, %rax
    jne 3f
    mov %rbx, %rdi
    mov $3, %eax
    syscall
    lea -8(%r12), %rsp
2:  cld
    lea 8(%rsp), %rdi
    jmp stub_resume
3:  ud2
    jmp 3b

/* void stub_switch(void *stack, void (*next)(void *), void *arg) */
    .globl stub_switch
stub_switch:
    mov %rdi, %rsp
    mov %rdx, %rdi
    call *%rsi
    ud2

/* long stub_thread(unsigned long flags, void *stack): a thread that runs stub_helper. */
    .globl stub_thread
stub_thread:
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    xor %r9d, %r9d
    mov $56, %eax
    syscall
    test %rax, %rax
    jz 1f
    ret
1:  call stub_helper
    ud2

    .section .note.GNU-stack,"",@progbits
