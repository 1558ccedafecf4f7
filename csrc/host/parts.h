/* The functions that each part has for the others. Those for Python are declared in platform/_native.pyi (calls.h). */
#ifndef CLOCHE_PARTS_H
#define CLOCHE_PARTS_H

#include "state.h"

#include "calls.h"

/* tables.c */
PyObject *fail(int error);
void *grow(void *array, int *room, int want, size_t size);
uint64_t now_ns(void);
void hash_add(struct thr *t, int tid);
void hash_remove(struct thr *t);
struct thr *hash_find(int tid);
struct prc *prc_by_pid(int pid);
void run_add(struct thr *t);
void run_remove(struct thr *t);
struct prc *new_prc(int region_fd);
int rotate_fd(struct prc *p);
void set_cloned(struct prc *p, bool cloned);
struct prc *end_adoption(struct prc *p);
uint64_t next_serial(void);
struct thr *new_thr(struct prc *p, int slotno);
void free_thr(struct thr *t);
struct thr *child_of(const struct hop *h);

/* frames.c */
uint64_t *regs_of(struct thr *t);
uint64_t guest_gs(struct thr *t);
void fill_frame(struct thr *t, struct thr *from);

/* waking.c */
void send_reply(struct thr *t, uint32_t reply);
bool defer_reply(struct thr *t, uint32_t reply);
bool is_deferring(void);
void flush_deferred(void);
void drop_deferred(struct thr *t);
void check_delegated(void);
bool is_somebody_waking(void);

/* memory.c */
bool guest_range(uint64_t addr, uint64_t length);
struct rec *add_rec(struct thr *t, uint64_t addr, uint32_t length, uint32_t offset);
int send_writes(struct thr *t);
void clear_writes(struct thr *t);

/* windows.c */
int64_t read_window(struct thr *t, int fd, uint64_t key, int64_t offset, uint64_t addr, uint64_t length);

/* sharing.c */
int find_shared(const struct prc *p, int from, int to, uint64_t file, uint64_t part);
int oldest_free(const struct prc *p, int from, int to);
bool may_use(const struct thr *t, const struct shared *s);
void order_shared(struct thr *t, int i, uint64_t file, uint64_t part);
void fail_shared(struct thr *t, int from);
void settle(struct thr *t);
void inherit(struct prc *child, const struct prc *p);
void inherit_ahead(struct prc *child, const struct prc *zygote, bool has_queue);
void is_given(struct prc *p, int number);

/* orders.c */
struct hop *add_op(struct thr *t);
struct hop *add_call(struct thr *t, uint64_t nr, uint64_t arg0, uint64_t arg1);
void close_duplicates(struct hop *h);
void clear_queue(struct thr *t);
void drop_ops(struct thr *t, int from);
void end_batch(struct prc *p);
bool ops_pending(struct prc *p);
void send_round(struct thr *t, bool may_defer);
void end_hold(struct thr *t);
void release_held(void);

/* proof.c */
int unknown_child(int group);
bool adopts(const struct prc *p, const struct hop *clone);
bool is_unborn(struct thr *t, const struct hop *h);

/* notify.c */
void flush_bells(void);
void handle_notifications(void);

/* requests.c */
bool take(struct thr *t, struct event *e);

/* teardown.c */
struct prc *orphan_of(int group);
void end_orphanhood(struct prc *child);
void end_doubt(struct thr *t);
void release_process(struct prc *p);
void forget_process(struct prc *p, int64_t status, PyObject *const *usage, Py_ssize_t count);

/* spinning.c */
extern uint64_t spin_ticks;
void update_spin(void);
void keep_apart(uint32_t theirs);
bool spin_worth(void);
void slept(uint64_t passed);
bool spin(struct event *e, bool moment);

/* loop.c */
struct event *push_event(int64_t kind, int64_t what, int64_t status);
bool scan(struct event *e);
bool poll_now(void);
bool take_queued(struct event *e);

#endif
