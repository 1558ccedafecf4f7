/* The `cloche` command: finds the interpreter that cloche was built for and becomes it.
 *
 * Of an installed cloche it first starts what `cloche run` needs in any case, the keeper (boot/keeper.py), so that this
 * gets ready on another processor while the command's own interpreter starts and reads the options.  Order:
 * 1. `start_keeper`: as boot/spawn.py does it, with an empty environment, a session of its own and no descriptor but
 *    standard error and its socket;
 * 2. exec of the interpreter, which is told the keeper's pid and our end of the socket (cli/main.py, `launched`).
 *
 * The files beside this program decide: BIN/pythonX.Y, LIB/pythonX.Y/site-packages/cloche.  Where cloche is not there
 * (an editable install, a user's own directory) the interpreter finds it by itself, and starts the keeper.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PYTHON
#define PYTHON "python3" /* setup.py defines it as the version for which the extensions were compiled */
#endif

enum {
	KEEPER_FD = 3,     /* boot/spawn.py */
	ABOVE_STDIO = 10,  /* 0 to 2 may be closed, which must stay visible */
	EXIT_INTERNAL = 125,
};

/* boot/spawn.py has the same. */
static const char KEEPER_CODE[] =
	"import gc, sys, time; gc.disable(); now = time.monotonic_ns(); sys.path[:0] = sys.argv[1:2]; "
	"sys.path += sys.argv[2:]; from cloche.boot.keeper import main; main(now)";
static const char COMMAND_CODE[] =
	"import gc, sys, time; gc.disable(); now = time.monotonic_ns(); sys.path[:0] = sys.argv[1:2]; "
	"sys.path += sys.argv[2:3]; del sys.argv[1:3]; from cloche.cli.main import launched; launched(now)";
static const char FOREIGN_CODE[] =
	"import time; now = time.monotonic_ns(); from cloche.cli.main import launched; launched(now)";

static char interpreter[PATH_MAX + 64];
static char packages[PATH_MAX + 64];
static char light[PATH_MAX + 64];

/* Whether cloche is installed beside this program; sets what is found. */
static bool find_installation(void)
{
	char here[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
	if (length <= 0)
		return false;
	here[length] = '\0';
	char *slash = strrchr(here, '/');
	if (!slash)
		return false;
	*slash = '\0';
	snprintf(interpreter, sizeof interpreter, "%s/" PYTHON, here);
	if (access(interpreter, X_OK) != 0) {
		*interpreter = '\0';
		return false;
	}
	slash = strrchr(here, '/');
	if (!slash)
		return false;
	*slash = '\0';
	snprintf(packages, sizeof packages, "%s/lib/" PYTHON "/site-packages", here);
	if (snprintf(light, sizeof light, "%s/cloche/light", packages) >= (int)sizeof light)
		return false;
	return access(light, X_OK) == 0;
}

/* Whether these words are a `cloche run` that stays in the foreground.  A wrong guess costs time, nothing else. */
static bool wants_keeper(char **words)
{
	const char *template = getenv("CLOCHE_TEMPLATE");
	if (template && !strcmp(template, "1"))
		return false; /* which gives it one */
	while (*words && **words == '-') {
		if (!strcmp(*words, "--root") && words[1])
			words++;
		words++;
	}
	if (!*words || strcmp(*words, "run"))
		return false;
	if (!words[1])
		return false;
	for (words++; *words && strcmp(*words, "--"); words++) {
		const char *word = *words;
		if (word[0] != '-')
			continue;
		if (!strcmp(word, "--detach") || !strcmp(word, "--help") || !strcmp(word, "--template"))
			return false;
		if (word[1] != '-' && strspn(word + 1, "itdh") == strlen(word + 1) && strpbrk(word, "dh"))
			return false;
	}
	return true;
}

static int high(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, ABOVE_STDIO);
	close(fd);
	return copy;
}

/* In the child, which shares our memory until it executes: system calls only. */
static void become_keeper(int link, char **words, char **environment)
{
	static const int defaults[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD, SIGPIPE };
	for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
		struct sigaction action = { .sa_handler = SIG_DFL };
		sigaction(defaults[i], &action, NULL);
	}
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	int null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(link, KEEPER_FD) < 0)
		_exit(EXIT_INTERNAL);
	if (null > KEEPER_FD)
		close(null);
	execve(interpreter, words, environment);
	_exit(EXIT_INTERNAL);
}

/* The keeper's pid, and our end of its socket; -1 if it could not be started, which the command then tries itself. */
static pid_t start_keeper(bool writes_bytecode, int *link)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -1;
	int ours = high(pair[0]), theirs = high(pair[1]);
	char *words[10], *environment[2];
	int n = 0;
	words[n++] = interpreter;
	words[n++] = "-I";
	words[n++] = "-S";
	if (!writes_bytecode)
		words[n++] = "-B";
	words[n++] = "-c";
	words[n++] = (char *)KEEPER_CODE;
	words[n++] = light;
	words[n++] = packages;
	words[n] = NULL;
	n = 0;
	/* The loader's path alone, because the interpreter may need it to start at all. */
	for (char **each = environ; *each; each++)
		if (!strncmp(*each, "LD_LIBRARY_PATH=", 16)) {
			environment[n++] = *each;
			break;
		}
	environment[n] = NULL;
	pid_t pid = -1;
	if (ours >= 0 && theirs >= 0) {
		pid = vfork();
		if (pid == 0)
			become_keeper(theirs, words, environment);
	}
	close(theirs);
	if (pid < 0 || fcntl(ours, F_SETFD, 0)) { /* it stays open in the command */
		close(ours);
		return pid < 0 ? -1 : pid;
	}
	*link = ours;
	return pid;
}

int main(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	const char *no_bytecode = getenv("PYTHONDONTWRITEBYTECODE");
	bool writes_bytecode = !no_bytecode || !*no_bytecode;
	bool is_installed = find_installation();
	int link = -1;
	pid_t keeper = -1;
	if (is_installed && argc > 1 && wants_keeper(argv + 1))
		keeper = start_keeper(writes_bytecode, &link);

	char pid_text[16], link_text[16], time_text[32];
	snprintf(pid_text, sizeof pid_text, "%d", (int)keeper);
	snprintf(link_text, sizeof link_text, "%d", link);
	snprintf(time_text, sizeof time_text, "%lld", now.tv_sec * 1000000000LL + now.tv_nsec);

	char **words = calloc((size_t)argc + 16, sizeof *words);
	if (!words)
		return EXIT_INTERNAL;
	int n = 0;
	words[n++] = *interpreter ? interpreter : PYTHON;
	if (is_installed) {
		words[n++] = "-I";
		words[n++] = "-S";
		if (!writes_bytecode)
			words[n++] = "-B";
	} else {
		words[n++] = "-P"; /* nothing is imported from the current directory */
	}
	words[n++] = "-c";
	words[n++] = (char *)(is_installed ? COMMAND_CODE : FOREIGN_CODE);
	if (is_installed) {
		words[n++] = light;
		words[n++] = packages;
	}
	words[n++] = pid_text;
	words[n++] = link_text;
	words[n++] = time_text;
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];
	words[n] = NULL;
	if (*interpreter)
		execv(interpreter, words);
	words[0] = PYTHON;
	execvp(PYTHON, words);
	fprintf(stderr, "cloche: needs %s, which is neither beside it nor in PATH: %s\n", PYTHON, strerror(errno));
	if (keeper > 0) {
		close(link);
		waitpid(keeper, NULL, 0);
	}
	return EXIT_INTERNAL;
}
