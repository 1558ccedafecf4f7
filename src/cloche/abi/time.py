"""Clocks, timers and adjtimex modes (linux/time.h, linux/timex.h)."""

from typing import Final

# Clocks
ITIMER_REAL: Final = 0
ITIMER_VIRTUAL: Final = 1
ITIMER_PROF: Final = 2
CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
CLOCK_PROCESS_CPUTIME_ID: Final = 2
CLOCK_THREAD_CPUTIME_ID: Final = 3
CLOCK_MONOTONIC_RAW: Final = 4
CLOCK_REALTIME_COARSE: Final = 5
CLOCK_MONOTONIC_COARSE: Final = 6
CLOCK_BOOTTIME: Final = 7
CLOCK_REALTIME_ALARM: Final = 8
CLOCK_BOOTTIME_ALARM: Final = 9
CLOCK_SGI_CYCLE: Final = 10
CLOCK_TAI: Final = 11
MAX_CLOCKS: Final = 16
CLOCKS_MASK: Final = 1
CLOCKS_MONO: Final = 1
TIMER_ABSTIME: Final = 0x1

# adjtimex(2)
ADJ_OFFSET: Final = 0x1
ADJ_FREQUENCY: Final = 0x2
ADJ_MAXERROR: Final = 0x4
ADJ_ESTERROR: Final = 0x8
ADJ_STATUS: Final = 0x10
ADJ_TIMECONST: Final = 0x20
ADJ_TAI: Final = 0x80
ADJ_SETOFFSET: Final = 0x100
ADJ_MICRO: Final = 0x1000
ADJ_NANO: Final = 0x2000
ADJ_TICK: Final = 0x4000
ADJ_OFFSET_SINGLESHOT: Final = 0x8001
ADJ_OFFSET_SS_READ: Final = 0xA001
MOD_OFFSET: Final = 0x1
MOD_FREQUENCY: Final = 0x2
MOD_MAXERROR: Final = 0x4
MOD_ESTERROR: Final = 0x8
MOD_STATUS: Final = 0x10
MOD_TIMECONST: Final = 0x20
MOD_TAI: Final = 0x80
MOD_MICRO: Final = 0x1000
MOD_NANO: Final = 0x2000
STA_PLL: Final = 0x1
STA_PPSFREQ: Final = 0x2
STA_PPSTIME: Final = 0x4
STA_FLL: Final = 0x8
STA_INS: Final = 0x10
STA_DEL: Final = 0x20
STA_UNSYNC: Final = 0x40
STA_FREQHOLD: Final = 0x80
STA_PPSSIGNAL: Final = 0x100
STA_PPSJITTER: Final = 0x200
STA_PPSWANDER: Final = 0x400
STA_PPSERROR: Final = 0x800
STA_CLOCKERR: Final = 0x1000
STA_NANO: Final = 0x2000
STA_MODE: Final = 0x4000
STA_CLK: Final = 0x8000
STA_RONLY: Final = 65280
TIME_OK: Final = 0
TIME_INS: Final = 1
TIME_DEL: Final = 2
TIME_OOP: Final = 3
TIME_WAIT: Final = 4
TIME_ERROR: Final = 5
TIME_BAD: Final = 5

UTIME_NOW: Final = 0x3FFFFFFF  # tv_nsec of utimensat(2): the current time
UTIME_OMIT: Final = 0x3FFFFFFE  # leave as it is

NSEC_PER_SEC: Final = 1_000_000_000
NSEC_PER_USEC: Final = 1000
USEC_PER_SEC: Final = 1_000_000
USER_HZ: Final = 100  # ticks per second of times(2) and /proc
