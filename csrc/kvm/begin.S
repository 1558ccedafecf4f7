/* Where a clone begins (entry.S, stub_clone): %rdi is its frame, %r13 the stack of a thread, 0 of a forked process. */
#include "layout.h"

    .text
    .globl kvm_enter
kvm_enter: /* kvm_begin(frame, whether this is a fork), on the stack in the loop of the slot's thread */
    xor %esi, %esi
    test %r13, %r13
    setz %sil
    mov $REGION_BASE, %rax
    mov %rdi, %rcx
    sub %rax, %rcx
    shr $SLOT_SHIFT, %rcx
    inc %rcx
    shl $LOOP_SHIFT, %rcx
    mov $LOOP_STACKS_BASE, %rax
    lea (%rax,%rcx), %rsp
    call kvm_begin
    ud2

    .section .note.GNU-stack,"",@progbits
