/* The `cloche` command, and `cloche-oci`: finds the interpreter that cloche was built for and executes it.
 *
 * For `cloche run` of an installed cloche that interpreter begins with no words or variables of the user's: it forks
 * the keeper (boot/keeper.py), which every sandbox needs, while its memory is still empty, and then reads the words
 * and the environment of the command from a file in memory (cli/main.py, `forking`). So one interpreter starts
 * instead of two, and the command and the parts of the sandbox share its memory. For `cloche-oci create` and `run` the
 * same holds of the monitor, which forks the keeper (oci/ahead.py).
 *
 * The files beside this program decide: BIN/pythonX.Y, LIB/pythonX.Y/site-packages/cloche.  Where cloche is not there
 * (an editable install, a user's own directory) the interpreter finds it by itself, and starts a keeper apart.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef PYTHON /* setup.py defines these two: the version for which the extensions were compiled, and whose `launched` is called */
#define PYTHON "python3"
#define MODULE "cli" /* of `cloche`; "oci" of `cloche-oci` */
#endif

enum {
	ABOVE_STDIO = 10,  /* 0 to 2 may be closed, which must stay visible */
	SHOWN_BYTES = 4096, /* of the words: the part of the command that `ps` shows */
	EXIT_INTERNAL = 125,
};

static const char FORKING_CODE[] =
	"import gc, sys, time; gc.disable(); now = time.monotonic_ns(); sys.path[:0] = sys.argv[1:2]; "
	"sys.path += sys.argv[2:3]; del sys.argv[1:3]; from cloche." MODULE ".main import forking; forking(now)";
static const char COMMAND_CODE[] =
	"import gc, sys, time; gc.disable(); now = time.monotonic_ns(); sys.path[:0] = sys.argv[1:2]; "
	"sys.path += sys.argv[2:3]; del sys.argv[1:3]; from cloche." MODULE ".main import launched; launched(now)";
static const char FOREIGN_CODE[] =
	"import time; now = time.monotonic_ns(); from cloche." MODULE ".main import launched; launched(now)";

static char interpreter[PATH_MAX + 64], packages[PATH_MAX + 64], light[PATH_MAX + 64];

/* Whether cloche is installed beside this program; sets the paths. */
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

/* Whether a general option is followed by its value.  Most of runc's are; of those without a value engines give these. */
static bool has_value(const char *option)
{
	const char *name = option + strspn(option, "-");
	if (!strcmp(MODULE, "oci"))
		return !strchr(name, '=') && strcmp(name, "debug") && strcmp(name, "systemd-cgroup");
	return !strcmp(option, "--root");
}

/* Whether these words are a `cloche run` that stays in the foreground, or make a container.  A wrong guess costs time, nothing else: `drop_keeper` of boot/spawn.py. */
static bool wants_keeper(char **words)
{
	const char *template = getenv("CLOCHE_TEMPLATE");
	while (*words && **words == '-')
		words += has_value(*words) && words[1] ? 2 : 1;
	if (!*words || !words[1])
		return false;
	if (!strcmp(MODULE, "oci"))
		return !strcmp(*words, "create") || !strcmp(*words, "run");
	if (strcmp(*words, "run") || (template && !strcmp(template, "1")))
		return false; /* the template gives it one */
	for (words++; *words && strcmp(*words, "--"); words++) {
		const char *word = *words;
		if (!strcmp(word, "--detach") || !strcmp(word, "--help") || !strcmp(word, "--template"))
			return false;
		if (word[0] == '-' && word[1] != '-' && strspn(word + 1, "itdh") == strlen(word + 1) && strpbrk(word, "dh"))
			return false;
	}
	return true;
}

static bool put(int fd, const char *text)
{
	size_t left = strlen(text) + 1;
	while (left) {
		ssize_t done = write(fd, text, left);
		if (done <= 0)
			return false;
		text += done;
		left -= (size_t)done;
	}
	return true;
}

/* A file in memory with these words and the environment, each with its zero; -1 on failure. */
static int surroundings(char **words)
{
	int low = memfd_create("cloche-command", MFD_CLOEXEC);
	if (low < 0)
		return -1;
	int fd = fcntl(low, F_DUPFD, ABOVE_STDIO); /* it stays open in the command */
	close(low);
	bool is_whole = fd >= 0;
	for (; is_whole && *words; words++)
		is_whole = put(fd, *words);
	for (char **each = environ; is_whole && *each; each++)
		is_whole = put(fd, *each);
	if (!is_whole && fd >= 0)
		close(fd);
	return is_whole ? fd : -1;
}

/* Room in the command line where the command writes its words again, which the keeper must not see. */
static const char *room(char **words)
{
	static char spaces[SHOWN_BYTES];
	size_t length = 0;
	for (; *words; words++)
		length += strlen(*words) + 1;
	if (length >= sizeof spaces)
		length = sizeof spaces;
	memset(spaces, ' ', length ? length - 1 : 0);
	return spaces;
}

int main(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	const char *no_bytecode = getenv("PYTHONDONTWRITEBYTECODE");
	bool writes_bytecode = !no_bytecode || !*no_bytecode;
	bool is_installed = find_installation();
	int given = -1;
	if (is_installed && argc > 1 && wants_keeper(argv + 1))
		given = surroundings(argv + 1);
	bool is_forking = given >= 0;

	char given_text[16], count_text[16], time_text[32];
	snprintf(given_text, sizeof given_text, "%d", given);
	snprintf(count_text, sizeof count_text, "%d", argc - 1);
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
	words[n++] = (char *)(is_forking ? FORKING_CODE : is_installed ? COMMAND_CODE : FOREIGN_CODE);
	if (is_installed) {
		words[n++] = light;
		words[n++] = packages;
	}
	words[n++] = time_text;
	if (is_forking) {
		words[n++] = given_text;
		words[n++] = count_text;
		words[n++] = (char *)room(argv + 1);
	} else {
		for (int i = 1; i < argc; i++)
			words[n++] = argv[i];
	}
	words[n] = NULL;
	/* The loader's path alone, because the interpreter may need it to start at all. */
	char *bare[2] = { NULL, NULL };
	for (char **each = environ; *each && !*bare; each++)
		if (!strncmp(*each, "LD_LIBRARY_PATH=", 16))
			*bare = *each;
	if (*interpreter)
		execve(interpreter, words, is_forking ? bare : environ);
	if (is_forking) /* another interpreter does not know these arguments */
		return fprintf(stderr, "cloche: %s: %s\n", interpreter, strerror(errno)), EXIT_INTERNAL;
	words[0] = PYTHON;
	execvp(PYTHON, words);
	fprintf(stderr, "cloche: needs %s, which is neither beside it nor in PATH: %s\n", PYTHON, strerror(errno));
	return EXIT_INTERNAL;
}
