/* Constants of shared.h that assembly needs (stub.c checks that they agree). */
#define L_REGION_BASE 0x7fff10000000
#define L_REGION_SIZE 0x8000000
#define L_REGION_SHIFT 27
#define L_INFO_ACTIONS 0x7fff00100040 /* stub.ld repeats it */
#define L_CALL_STACK_TOP 0x12000
#define L_SYSNO 8
#define L_ARGS 16
#define L_CALL_REGS 0x4c8
#define L_INTERRUPTED 0x518
#define L_CAN_ANSWER 0x51c
#define L_ANSWERS 0x520
