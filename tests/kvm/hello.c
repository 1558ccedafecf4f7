/* What the compiler in the machine is given. */
#include <stdio.h>
int main(void)
{
    puts("compiled");
    return 0;
}
