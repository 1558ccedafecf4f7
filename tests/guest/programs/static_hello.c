/* A static program: no interpreter, no dynamic linking. */
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    printf("hello %d %s\n", argc, argv[0]);
    fflush(stdout);
    write(1, "direct\n", 7);
    return 3;
}
