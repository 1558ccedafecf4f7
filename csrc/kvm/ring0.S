/* Ring 0: entries and the way back.  The one way back is IRETQ, which has none of SYSRET's corner cases.
 *
 * The stack lies in the page of the virtual CPU's `struct cpu`, which is found by masking the stack pointer; GS stays
 * the guest's but for the moment in which a system call has no stack yet.  Interrupts are off throughout.
 */
#include "layout.h"

#define USER_SS 0x2b
#define USER_CS 0x33
#define VECTOR_CALL 256
#define TRAP_WORDS 22

    .text
    .globl ring0_call, ring0_start, ring0_vectors, ring0_iret
ring0_call: /* LSTAR */
    swapgs
    mov %rsp, %gs:CPU_SCRATCH
    mov %gs:CPU_STACK, %rsp
    push $USER_SS
    push %gs:CPU_SCRATCH
    swapgs
    push %r11
    push $USER_CS
    push %rcx
    push $0
    push $VECTOR_CALL
ring0_common:
    push %rcx
    push %rax
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    cld
    clac
    mov %rsp, %rdi
    call ring0_trap
ring0_leave:
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rax
    pop %rcx
    add $16, %rsp
ring0_iret:
    iretq

ring0_start: /* a virtual CPU begins: with the registers in its thread's frame */
    sub $(8 * TRAP_WORDS), %rsp
    mov %rsp, %rdi
    call ring0_load
    jmp ring0_leave

/* As in csrc/stub/entry.S; memory of the program can be reached in between only. */
    .globl ring0_copy, ring0_copy_begin, ring0_copy_end, ring0_copy_fault
    .globl ring0_copy_string, ring0_string_begin, ring0_string_end, ring0_string_fault
ring0_copy:
    mov %rdx, %rcx
    stac
ring0_copy_begin:
    rep movsb
ring0_copy_end:
    clac
    xor %eax, %eax
    ret
ring0_copy_fault:
    clac
    mov %rcx, %rax
    ret
ring0_copy_string:
    xor %ecx, %ecx
    stac
ring0_string_begin:
1:  cmp %rdx, %rcx
    jae 2f
    movzbl (%rsi,%rcx), %eax
    mov %al, (%rdi,%rcx)
    inc %rcx
    test %al, %al
    jnz 1b
2:
ring0_string_end:
    clac
    mov %rcx, %rax
    ret
ring0_string_fault:
    clac
    mov $-14, %rax
    ret

    .balign 16
ring0_vectors: /* 16 bytes each */
    .set vector, 0
    .rept 256
    .balign 16
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
    push $0
    .endif
    push $vector
    jmp ring0_common
    .set vector, vector + 1
    .endr

    .section .note.GNU-stack,"",@progbits
