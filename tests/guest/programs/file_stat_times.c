/* The result of stat(2) for times before 1970 and far away, and for memory that it cannot write. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(const char *what, int fd)
{
	struct stat a, b;
	memset(&a, 0xA5, sizeof a);
	memset(&b, 0x5A, sizeof b);
	int one = syscall(SYS_fstat, fd, &a), two = syscall(SYS_newfstatat, AT_FDCWD, "f", &b, 0);
	printf("%s: %d %d %lld.%09ld %lld.%09ld size %lld mode %o same %d\n", what, one, two, (long long)a.st_atim.tv_sec,
	       a.st_atim.tv_nsec, (long long)a.st_mtim.tv_sec, a.st_mtim.tv_nsec, (long long)a.st_size, a.st_mode,
	       !memcmp(&a, &b, sizeof a));
}

static void fail(const char *what, int fd, void *where)
{
	errno = 0;
	long got = syscall(SYS_fstat, fd, where);
	printf("%s: %ld %s\n", what, got, got ? strerror(errno) : "");
}

int main(void)
{
	int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0640);
	if (fd < 0 || ftruncate(fd, 5000000000) < 0)
		return 1;
	struct timespec sets[][2] = {
		{{0, 0}, {0, 1}}, {{-1, 999999999}, {-5, 7}}, {{1LL << 33, 5}, {(1LL << 33) - 1, 999999999}}, {{1, 0}, {-1000, 0}},
	};
	for (unsigned i = 0; i < sizeof sets / sizeof *sets; i++) {
		futimens(fd, sets[i]);
		show("times", fd);
	}
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fail("at the end of a page", fd, pages + 4096 - sizeof(struct stat));
	munmap(pages + 4096, 4096);
	fail("over the end", fd, pages + 4096 - sizeof(struct stat) + 8);
	fail("to nowhere", fd, pages + 4096);
	fail("to null", fd, NULL);
	fail("to the kernel", fd, (void *)0xffff800000000000ul);
	mprotect(pages, 4096, PROT_READ);
	fail("to what is read-only", fd, pages);
	mprotect(pages, 4096, PROT_READ | PROT_WRITE);
	strcpy(pages, "f"); /* the result goes where the name is */
	printf("over the name: %ld size %lld\n", syscall(SYS_stat, pages, pages), (long long)((struct stat *)pages)->st_size);
	return 0;
}
