"""The signal frame of the processor that this build is for; the one place that names it (`arch/__init__.py`)."""

from cloche.arch.x86_64.sigframe import FP_SIZE_OFFSET as FP_SIZE_OFFSET
from cloche.arch.x86_64.sigframe import FP_XSTATE_MAGIC1 as FP_XSTATE_MAGIC1
from cloche.arch.x86_64.sigframe import FP_XSTATE_MAGIC2 as FP_XSTATE_MAGIC2
from cloche.arch.x86_64.sigframe import FP_XSTATE_MAX as FP_XSTATE_MAX
from cloche.arch.x86_64.sigframe import FRAME_SIZE as FRAME_SIZE
from cloche.arch.x86_64.sigframe import FXSAVE_SIZE as FXSAVE_SIZE
from cloche.arch.x86_64.sigframe import SIGINFO_SIZE as SIGINFO_SIZE
from cloche.arch.x86_64.sigframe import UC_FP_XSTATE as UC_FP_XSTATE
from cloche.arch.x86_64.sigframe import UC_SIGCONTEXT_SS as UC_SIGCONTEXT_SS
from cloche.arch.x86_64.sigframe import UC_STRICT_RESTORE_SS as UC_STRICT_RESTORE_SS
from cloche.arch.x86_64.sigframe import UCONTEXT_SIZE as UCONTEXT_SIZE
from cloche.arch.x86_64.sigframe import USER_CS as USER_CS
from cloche.arch.x86_64.sigframe import USER_SS as USER_SS
from cloche.arch.x86_64.sigframe import AltStack as AltStack
from cloche.arch.x86_64.sigframe import RestoredContext as RestoredContext
from cloche.arch.x86_64.sigframe import SignalFrame as SignalFrame
from cloche.arch.x86_64.sigframe import build as build
from cloche.arch.x86_64.sigframe import can_be_loaded as can_be_loaded
from cloche.arch.x86_64.sigframe import fpstate_length as fpstate_length
from cloche.arch.x86_64.sigframe import is_extended as is_extended
from cloche.arch.x86_64.sigframe import length_to_restore as length_to_restore
from cloche.arch.x86_64.sigframe import parse as parse
