/* Files are judged by the fsuid, kill by the euid; CAP_DAC_OVERRIDE follows the fsuid. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
    if (geteuid() != 0) return 0;
    char dir[] = "/tmp/cred_fsuid_XXXXXX";
    extern char *mkdtemp(char *);
    mkdtemp(dir);
    chmod(dir, 0777);
    chdir(dir);
    close(open("secret", O_CREAT | O_WRONLY, 0600));
    printf("%d\n", open("secret", O_RDONLY) >= 0);
    printf("%d %d\n", setfsuid(1000), setfsuid(-1));
    printf("%d", open("secret", O_RDONLY));
    printf(" %d\n", errno);
    int fd = open("mine", O_CREAT | O_WRONLY, 0600);
    struct stat st;
    fstat(fd, &st);
    printf("owner %u\n", st.st_uid);
    printf("%d\n", access("secret", R_OK)); /* judged by the real uid */
    setfsuid(0);
    printf("%d\n", open("secret", O_RDONLY) >= 0);
    unlink("mine");
    unlink("secret");
    chdir("/");
    rmdir(dir);
    return 0;
}
