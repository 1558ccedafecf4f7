"""The layouts for debuggers of the processor that this build is for; the one place that names it
(`arch/__init__.py`).
"""

from cloche.arch.x86_64.user import DEBUG_COUNT as DEBUG_COUNT
from cloche.arch.x86_64.user import DEBUG_OFFSET as DEBUG_OFFSET
from cloche.arch.x86_64.user import EXTENDED_SET as EXTENDED_SET
from cloche.arch.x86_64.user import FP_SET as FP_SET
from cloche.arch.x86_64.user import FP_SIZE as FP_SIZE
from cloche.arch.x86_64.user import GENERAL_SET as GENERAL_SET
from cloche.arch.x86_64.user import GENERAL_SIZE as GENERAL_SIZE
from cloche.arch.x86_64.user import USER_SIZE as USER_SIZE
from cloche.arch.x86_64.user import check_general as check_general
from cloche.arch.x86_64.user import extended_set as extended_set
from cloche.arch.x86_64.user import fp_set as fp_set
from cloche.arch.x86_64.user import pack_general as pack_general
from cloche.arch.x86_64.user import unpack_general as unpack_general
from cloche.arch.x86_64.user import with_extended_set as with_extended_set
from cloche.arch.x86_64.user import with_fp_set as with_fp_set
