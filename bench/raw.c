/* What this machine's processor takes for the things that a sandbox is made of: prints "name<tab>nanoseconds" lines.
 *
 *   line A-B     a cache line goes from core A to core B and another comes back: the least that a call can take whose
 *                kernel is on another core
 *   wake A-B     a thread on A wakes one that sleeps on B by futex(2), and is woken by it: half of the round trip
 *   SIGSYS       a call that a seccomp filter answers with a signal, with the handler and its return
 *   pause        one PAUSE instruction
 *   syscall      the shortest system call
 * Each is the best of many short runs, because others use the machine too. */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CORES = 16, RUNS = 40 };

struct line {
	_Alignas(128) atomic_uint word;
};
static struct line there, back;
static int count;     /* round trips of one run */
static int other;     /* the echo's core */
static int is_asleep; /* whether waiting is by futex */

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void pin(int core)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(core, &set);
	sched_setaffinity(0, sizeof set, &set);
}

static void await(struct line *line, unsigned value)
{
	unsigned seen;
	while ((seen = atomic_load_explicit(&line->word, memory_order_acquire)) != value)
		if (is_asleep)
			syscall(SYS_futex, &line->word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
		else
			__builtin_ia32_pause();
}

static void set(struct line *line, unsigned value)
{
	atomic_store_explicit(&line->word, value, memory_order_release);
	if (is_asleep)
		syscall(SYS_futex, &line->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *echo(void *unused)
{
	pin(other);
	for (int i = 1; i <= count; i++) {
		await(&there, i);
		set(&back, i);
	}
	return unused;
}

/* The best round trip of many runs between this core and another. */
static double round_trip(int core, int far, int trips, int asleep)
{
	double best = 1e18;
	count = trips;
	other = far;
	is_asleep = asleep;
	for (int run = 0; run < RUNS; run++) {
		pthread_t thread;
		atomic_store(&there.word, 0);
		atomic_store(&back.word, 0);
		if (pthread_create(&thread, NULL, echo, NULL))
			exit(1);
		pin(core);
		set(&there, 1);
		await(&back, 1);
		double begin = now_ns();
		for (int i = 2; i <= count; i++) {
			set(&there, i);
			await(&back, i);
		}
		double each = (now_ns() - begin) / (count - 1);
		pthread_join(thread, NULL);
		if (each < best)
			best = each;
	}
	return best;
}

static void on_sigsys(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
}

static double best_of(void (*body)(void), int times)
{
	double best = 1e18;
	for (int run = 0; run < RUNS; run++) {
		double begin = now_ns();
		for (int i = 0; i < times; i++)
			body();
		double each = (now_ns() - begin) / times;
		if (each < best)
			best = each;
	}
	return best;
}

static void one_pause(void) { __builtin_ia32_pause(); }
static void one_call(void) { syscall(SYS_getppid); }
static void one_trap(void) { syscall(SYS_getpgid, 0); }
static void nothing(void) { __asm__ volatile(""); }

static int trap_getpgid(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };
	struct sigaction action = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO };
	sigaction(SIGSYS, &action, NULL);
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(void)
{
	cpu_set_t allowed;
	int cores[MAX_CORES], n = 0;
	if (sched_getaffinity(0, sizeof allowed, &allowed))
		return 1;
	for (int core = 0; core < CPU_SETSIZE && n < MAX_CORES; core++)
		if (CPU_ISSET(core, &allowed))
			cores[n++] = core;
	for (int i = 0; i < n; i++)
		for (int j = i + 1; j < n; j++)
			printf("line %d-%d\t%.1f\n", cores[i], cores[j], round_trip(cores[i], cores[j], 1000, 0));
	for (int i = 0; i < n; i++)
		for (int j = i + 1; j < n; j++)
			printf("wake %d-%d\t%.1f\n", cores[i], cores[j], round_trip(cores[i], cores[j], 100, 1) / 2);
	double loop = best_of(nothing, 200000);
	printf("pause\t%.1f\n", best_of(one_pause, 200000) - loop);
	printf("syscall\t%.1f\n", best_of(one_call, 100000) - loop);
	if (trap_getpgid() == 0)
		printf("SIGSYS\t%.1f\n", best_of(one_trap, 20000) - loop);
	return 0;
}
