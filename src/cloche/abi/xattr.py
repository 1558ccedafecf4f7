"""Flags and name prefixes of setxattr(2) (linux/xattr.h, linux/limits.h)."""

from typing import Final

XATTR_CREATE: Final = 0x1
XATTR_REPLACE: Final = 0x2
XATTR_NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65536
XATTR_LIST_MAX: Final = 65536

SECURITY_PREFIX: Final = b"security."
SYSTEM_PREFIX: Final = b"system."
TRUSTED_PREFIX: Final = b"trusted."
USER_PREFIX: Final = b"user."
NAME_POSIX_ACL_ACCESS: Final = b"system.posix_acl_access"
NAME_POSIX_ACL_DEFAULT: Final = b"system.posix_acl_default"
NAME_CAPS: Final = b"security.capability"
