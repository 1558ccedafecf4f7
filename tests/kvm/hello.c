/* The source for the compiler in the machine. */
#include <stdio.h>
int main(void)
{
    puts("compiled");
    return 0;
}
