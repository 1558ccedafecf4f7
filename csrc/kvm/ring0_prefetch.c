/* The stub's prefetch, with ring 0's copy functions. */
#define prefetch ring0_prefetch
#define stub_copy ring0_copy
#define stub_copy_string ring0_copy_string
#include "prefetch.c"
