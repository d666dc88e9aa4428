"""Says which io_uring features this kernel lacks; exit status 1 if one that jidmesh's fast path wants is missing."""

import ctypes
import os
import sys

SYS_IO_URING_SETUP = 425
# Set-up flags, and the kernel that brought each.
FLAGS = {"SUBMIT_ALL (5.18)": 1 << 7, "COOP_TASKRUN (5.19)": 1 << 8, "SINGLE_ISSUER (6.0)": 1 << 12,
         "SINGLE_ISSUER+DEFER_TASKRUN (6.1)": (1 << 12) | (1 << 13)}


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    missing = []
    for name, flags in FLAGS.items():
        params = (ctypes.c_uint32 * 30)()
        params[2] = flags
        descriptor = libc.syscall(SYS_IO_URING_SETUP, 8, ctypes.byref(params))
        if descriptor < 0:
            missing.append("%s: %s" % (name, os.strerror(ctypes.get_errno())))
        else:
            os.close(descriptor)
    for line in missing:
        print("io_uring:", line)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
