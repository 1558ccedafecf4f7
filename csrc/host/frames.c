/* Signal frames in slots, and the registers in them.
 *
 * A frame always lies at the same offset of a slot: the zygote's first one, `pristine`, shows where.
 */
#include "parts.h"

uint64_t frame_offset, fp_offset, fp_size;
static char pristine[FRAME_MAX]; /* [frame_offset, SLOT_SIZE) */

static char *frame_of(struct thr *t)
{
    return (char *)t->slot + frame_offset;
}

uint64_t *regs_of(struct thr *t)
{
    return (uint64_t *)(frame_of(t) + UC_OFFSET + REGS_OFFSET);
}

/* GS as the guest has set it; a value that finds the slot is the stub's. Forged values that no thread can have count
 * as 0, so that a value that is read can always be set again. */
uint64_t guest_gs(struct thr *t)
{
    uint64_t gs = READ_ONCE(t->slot->gs_base);
    return gs >> 47 || gs == REGION_BASE + t->slotno * SLOT_SIZE ? 0 : gs;
}

/* Prepare the slot of a thread that does not exist yet: the frame it will start from, NULL: from nothing. */
void fill_frame(struct thr *t, struct thr *from)
{
    char *frame = frame_of(t);
    memcpy(frame, from ? frame_of(from) : pristine, SLOT_SIZE - frame_offset);
    /* A hostile parent may have written there: the pointers that a kernel follows when it reads the frame are set
     * here. */
    uint64_t base = REGION_BASE + t->slotno * SLOT_SIZE;
    *(uint64_t *)(frame + UC_OFFSET + 16) = base + STACK_OFFSET;
    *(uint64_t *)(frame + UC_OFFSET + 24) = 0;
    *(uint64_t *)(frame + UC_OFFSET + 32) = STACK_SIZE;
    *(uint64_t *)(frame + UC_OFFSET + FPPTR_OFFSET) = base + fp_offset;
    *(uint64_t *)(frame + UC_OFFSET + SIGMASK_OFFSET) = 0;
    memcpy(frame, pristine, 8);
    if (from)
        regs_of(t)[RAX_INDEX] = 0;
    t->slot->fs_base = from ? from->slot->fs_base : 0;
    t->slot->gs_base = from ? guest_gs(from) : 0;
    t->is_patched = from && from->is_patched;
    t->slot->interrupted = t->slot->can_answer = 0;
    t->base_changed = t->has_frame = true;
    t->has_result = false;
}

/* Learn the layout from the zygote, which is stopped in its first event: as Python has found and checked it there. */
void take_pristine(struct thr *t, uint64_t frame, uint64_t fp, uint64_t size)
{
    t->has_frame = true;
    frame_offset = frame;
    fp_offset = fp;
    fp_size = size;
    memcpy(pristine, frame_of(t), SLOT_SIZE - frame_offset);
    uint64_t *regs = (uint64_t *)(pristine + UC_OFFSET + REGS_OFFSET);
    memset(regs, 0, 17 * 8);
    regs[17] = 0x202;
}

bool has_frame(struct thr *t)
{
    return t->has_frame;
}

PyObject *get_regs(struct thr *t) /* as Registers has them */
{
    uint64_t regs[REG_COUNT + 2];
    if (t->has_frame) {
        memcpy(regs, regs_of(t), REG_COUNT * sizeof *regs);
    } else {
        const volatile uint64_t *saved = t->slot->call_regs;
        const volatile int64_t *a = t->slot->args;
        uint64_t flags = saved[CR_FLAGS];
        uint64_t made[REG_COUNT] = {
            a[4], a[5], a[3], 0x202, saved[CR_R12], saved[CR_R13], saved[CR_R14], saved[CR_R15], a[0], a[1],
            saved[CR_RBP], saved[CR_RBX], a[2], saved[CR_RAX], saved[CR_RIP], saved[CR_RSP], saved[CR_RIP],
            0x202 | (flags >> 8 & 0xd5) | (flags & 1) << 11};
        memcpy(regs, made, sizeof made);
    }
    if (t->has_result)
        regs[RAX_INDEX] = t->result;
    uint64_t fs = READ_ONCE(t->slot->fs_base);
    regs[REG_COUNT] = fs >> 47 ? 0 : fs;
    regs[REG_COUNT + 1] = guest_gs(t);
    return PyBytes_FromStringAndSize((char *)regs, sizeof regs);
}

void set_regs(struct thr *t, const Py_buffer *from)
{
    uint64_t regs[REG_COUNT + 2] = {0};
    if (from->len == sizeof regs)
        memcpy(regs, from->buf, sizeof regs);
    if (from->len != sizeof regs || regs[REG_COUNT] >> 47 || regs[REG_COUNT + 1] >> 47)
        return PyErr_SetString(PyExc_ValueError, "20 registers, fs_base and gs_base must be user addresses");
    memcpy(regs_of(t), regs, REG_COUNT * sizeof *regs);
    t->has_result = false;
    if (regs[REG_COUNT] != t->slot->fs_base || regs[REG_COUNT + 1] != guest_gs(t)) {
        t->slot->fs_base = regs[REG_COUNT];
        t->slot->gs_base = regs[REG_COUNT + 1];
        t->base_changed = true;
    }
}

PyObject *get_fpstate(struct thr *t)
{
    return PyBytes_FromStringAndSize((char *)t->slot + fp_offset, fp_size);
}

void set_fpstate(struct thr *t, const Py_buffer *state) /* Python has checked that it can be loaded: else the guest
                                                           ends */
{
    if (state->len != (Py_ssize_t)fp_size)
        return (void)fail(EINVAL);
    memcpy((char *)t->slot + fp_offset, state->buf, fp_size);
}

/* ---- calls without a trap ---- */

void set_patched(struct thr *t, int is_on) /* whether it may call without a trap */
{
    if (t->is_patched != is_on) {
        t->slot->gs_base = guest_gs(t);
        t->is_patched = is_on;
        t->base_changed = true;
    }
}

void set_answers(struct thr *t, int is_valid, PyObject *const *values, Py_ssize_t count) /* AN_COUNT integers */
{
    t->slot->can_answer = 0;
    for (int i = 0; i < AN_COUNT && count == AN_COUNT; i++)
        t->slot->answers[i] = (uint32_t)PyLong_AsUnsignedLongLongMask(values[i]);
    if (is_valid && count == AN_COUNT)
        __atomic_store_n(&t->slot->can_answer, 1, __ATOMIC_RELEASE);
}
