/* files COUNT: makes COUNT files of 100 bytes, a thousand in each directory. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IN_A_DIRECTORY = 1000, BYTES = 100 };

int main(int argc, char **argv)
{
    char text[BYTES], name[64];
    int count = argc > 1 ? atoi(argv[1]) : 100000, made = 0;
    memset(text, 'x', sizeof text);
    for (int i = 0; i < count; i++) {
        if (i % IN_A_DIRECTORY == 0) {
            snprintf(name, sizeof name, "d%d", i / IN_A_DIRECTORY);
            if (mkdir(name, 0755))
                break;
        }
        snprintf(name, sizeof name, "d%d/f%d", i / IN_A_DIRECTORY, i % IN_A_DIRECTORY);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0)
            break;
        made += write(fd, text, sizeof text) == sizeof text;
        close(fd);
    }
    printf("%d files\n", made);
    return 0;
}
