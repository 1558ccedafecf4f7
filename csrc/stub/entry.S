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

/* long stub_syscall(nr, a, b, c, d, e, f) */
    .globl stub_syscall
stub_syscall:
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov %r8, %r10
    mov %r9, %r8
    mov 8(%rsp), %r9
    syscall
    ret

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

/* long stub_copy(void *to, const void *from, size_t n): 0, or how many bytes were left at a fault. */
    .globl stub_copy, stub_copy_begin, stub_copy_end, stub_copy_fault, stub_string_fault
stub_copy:
    mov %rdx, %rcx
stub_copy_begin:
    rep movsb
stub_copy_end:
    xor %eax, %eax
    ret
stub_copy_fault:
    mov %rcx, %rax
    ret
stub_string_fault:
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

/* long stub_swap(uint32_t *word, uint32_t *old, uint32_t new): compare and exchange, *old becomes the old value; 1: a
 * fault. */
    .globl stub_swap, stub_swap_begin, stub_swap_end, stub_swap_fault
stub_swap:
    mov (%rsi), %eax
stub_swap_begin:
    lock cmpxchg %edx, (%rdi)
stub_swap_end:
    mov %eax, (%rsi)
    xor %eax, %eax
    ret
stub_swap_fault:
    mov $1, %eax
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
#ifdef KVM
    jmp kvm_enter /* csrc/kvm/begin.S */
#else
    jmp stub_resume
#endif
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

/* ---- calls from patched sites ----
 *
 * A trampoline (analyst) jumps to stub_call with the address behind its syscall instruction in %r11. The rest of the
 * state is as at that instruction, and is so again after the return, except %rax, %rcx and %r11: flags and red zone
 * too. %gs:0 is the thread's slot, unless the guest has set GS: then, and for calls that need a signal frame, the
 * original syscall instruction is executed, which traps.
 *
 * An interrupt can come at any instruction. stub_interrupted (stub.c) sets the registers to their values before the
 * call, or behind it; the labels below are its cases.
 */
#define CALL_REG(n) (SLOT_CALL_REGS + 8 * (n))
    .macro load_arguments
    mov %gs:SLOT_ARGS, %rdi
    mov %gs:SLOT_ARGS+8, %rsi
    mov %gs:SLOT_ARGS+16, %rdx
    mov %gs:SLOT_ARGS+24, %r10
    mov %gs:SLOT_ARGS+32, %r8
    mov %gs:SLOT_ARGS+40, %r9
    .endm
    .macro load_flags /* spoils %rax */
    mov %gs:CALL_REG(CR_FLAGS), %rax
    add $0x7f, %al
    sahf
    .endm
    .section .text.call, "ax"
    .globl stub_call, stub_call_trap_jump, stub_call_saved, stub_call_flags, stub_call_enter
    .globl stub_leave, stub_leave_end, stub_again, stub_again_end, stub_stopped
stub_call:
    rdgsbase %rcx
    rorx $REGION_SHIFT, %rcx, %rcx
    mov %ecx, %ecx
    lea -(REGION_BASE >> REGION_SHIFT)(%rcx), %rcx
    jrcxz 1f
stub_call_trap:
    lea -2(%r11), %r11
stub_call_trap_jump:
    jmp *%r11
1:  mov %rax, %gs:CALL_REG(CR_RAX)
    mov %rsp, %gs:CALL_REG(CR_RSP)
    mov %r11, %gs:CALL_REG(CR_RIP)
    mov %rax, %rcx
stub_call_saved:
    lahf
    seto %al
    mov %rax, %gs:CALL_REG(CR_FLAGS)
stub_call_flags:
    cmp $MAX_CALLS, %rcx
    jae 2f
    lea info_actions(%rip), %rax
    movzbl (%rax,%rcx), %eax
    sub $ACT_ANSWER, %eax
    jae 3f
    inc %eax
    jz 4f
2:  load_flags
    mov %gs:CALL_REG(CR_RAX), %rax
    jmp stub_call_trap
3:  cmpl $0, %gs:SLOT_CAN_ANSWER
    je 4f
    mov %gs:SLOT_ANSWERS(,%rax,4), %ecx
    load_flags
    mov %ecx, %eax
    jmp *%gs:CALL_REG(CR_RIP)
4:  mov %gs:CALL_REG(CR_RAX), %rax
    rdgsbase %rcx
    lea CALL_STACK_TOP(%rcx), %rsp
    mov %rbx, CALL_REG(CR_RBX)(%rcx)
    mov %rbp, CALL_REG(CR_RBP)(%rcx)
    mov %r12, CALL_REG(CR_R12)(%rcx)
    mov %r13, CALL_REG(CR_R13)(%rcx)
    mov %r14, CALL_REG(CR_R14)(%rcx)
    mov %r15, CALL_REG(CR_R15)(%rcx)
    mov %rax, SLOT_SYSNO(%rcx)
    mov %rdi, SLOT_ARGS(%rcx)
    mov %rsi, SLOT_ARGS+8(%rcx)
    mov %rdx, SLOT_ARGS+16(%rcx)
    mov %r10, SLOT_ARGS+24(%rcx)
    mov %r8, SLOT_ARGS+32(%rcx)
    mov %r9, SLOT_ARGS+40(%rcx)
    mov %rcx, %rdi
    cld
    call stub_called
stub_call_enter:
    cmp $1, %eax
    je stub_again
    ja 5f
stub_leave:
    cmpl $0, %gs:SLOT_INTERRUPTED
    jne 5f
    load_arguments
    load_flags
    mov %gs:CALL_REG(CR_RAX), %rax
    mov %gs:CALL_REG(CR_RSP), %rsp
    jmp *%gs:CALL_REG(CR_RIP)
5:  int3
stub_stopped:
    ud2
stub_leave_end:
stub_again:
    load_arguments
    mov %gs:CALL_REG(CR_RIP), %r11
    load_flags
    mov %gs:CALL_REG(CR_RAX), %rax
    mov %gs:CALL_REG(CR_RSP), %rsp
    lea -2(%r11), %r11
    jmp *%r11
stub_again_end:
    ud2

    .section .note.GNU-stack,"",@progbits
