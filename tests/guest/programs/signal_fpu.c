/* Floating point and vector state is the handler's own, and the interrupted code gets its own back. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xmmintrin.h>

static volatile unsigned int csr_in;
static volatile double result;

static void on(int signo)
{
    csr_in = _mm_getcsr() & 0xffc0;
    __asm__ volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm7, %%xmm7\n pxor %%xmm15, %%xmm15\n fninit" ::: "xmm0", "xmm7", "xmm15");
    _mm_setcsr(0x1f80);
    result = 1.5 * 3;
}

int main(void)
{
    signal(SIGUSR1, on);
    unsigned char in[48], out[48];
    for (int i = 0; i < 48; i++)
        in[i] = i * 5 + 1;
    _mm_setcsr(0x1f80 | 0x6000); /* round toward zero */
    long pid, nr = 39, sig = SIGUSR1, r;
    unsigned short cw_in = 0x0f7f, cw_out = 0;
    __asm__ volatile("syscall" : "=a"(pid) : "a"(nr) : "rcx", "r11", "memory");
    __asm__ volatile("fldcw %[cw]\n"
                     "movdqu (%[in]), %%xmm0\n movdqu 16(%[in]), %%xmm7\n movdqu 32(%[in]), %%xmm15\n"
                     "syscall\n"
                     "movdqu %%xmm0, (%[out])\n movdqu %%xmm7, 16(%[out])\n movdqu %%xmm15, 32(%[out])\n"
                     "fnstcw %[cwo]\n fninit\n"
                     : "=a"(r), [cwo] "=m"(cw_out)
                     : "a"(62L), "D"(pid), "S"(sig), [in] "r"(in), [out] "r"(out), [cw] "m"(cw_in)
                     : "rcx", "r11", "memory", "xmm0", "xmm7", "xmm15");
    unsigned int csr = _mm_getcsr() & 0xffc0;
    _mm_setcsr(0x1f80);
    printf("kill %ld same %d x87 %x\n", r, memcmp(in, out, 48) == 0, cw_out);
    printf("mxcsr in handler %x after %x\n", csr_in, csr);
    printf("result %g\n", result);
    return 0;
}
