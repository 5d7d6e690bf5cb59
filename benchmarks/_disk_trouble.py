"""Disks that fail: a small library, loaded before all others, whose calls below a folder go wrong on demand."""

import ctypes
import errno
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

OPERATIONS = (
    "write", "open to write", "open to read", "read", "fsync", "rename", "mkdir", "unlink", "rmdir", "close", "flock",
    "mmap", "ftruncate", "chmod",
)  # fmt: skip
ONCE, FROM_THEN_ON, SHORT, THEN_FULL = range(4)
_HOW = {ONCE: "once", FROM_THEN_ON: "from then on", SHORT: "half of what is asked", THEN_FULL: "half, then no space"}


class Trouble(NamedTuple):
    """What goes wrong: a call, its error, and for how long."""

    operation: str
    error: int
    how: int

    @property
    def name(self) -> str:
        """Such as "write ENOSPC from then on"."""
        return " ".join(filter(None, (self.operation, errno.errorcode.get(self.error, ""), _HOW[self.how])))

    @property
    def harmless(self) -> bool:
        """Whether every program has to live with it."""
        return self.how == SHORT or self.error == errno.EINTR


_ERRORS = {
    "write": "ENOSPC EDQUOT EIO EFBIG EROFS ESTALE", "open to write": "ENOSPC EDQUOT EIO EROFS EMFILE ENFILE EACCES",
    "open to read": "EMFILE EIO EACCES ESTALE", "read": "EIO ESTALE", "fsync": "EIO ENOSPC EDQUOT EINVAL",
    "rename": "EIO ENOSPC EACCES EXDEV EROFS EBUSY", "mkdir": "ENOSPC EROFS EMLINK EIO", "unlink": "EIO EBUSY EROFS",
    "rmdir": "EBUSY EIO", "close": "EIO EDQUOT", "flock": "ENOLCK EOPNOTSUPP", "mmap": "ENODEV ENOMEM",
    "ftruncate": "EIO", "chmod": "EPERM",
}  # fmt: skip
KINDS = [
    *(Trouble(call, getattr(errno, one), FROM_THEN_ON) for call, each in _ERRORS.items() for one in each.split()),
    *(Trouble(operation, errno.EIO, ONCE) for operation in ("write", "read", "fsync", "rename")),
    Trouble("write", errno.ENOSPC, ONCE), Trouble("write", errno.ENOSPC, THEN_FULL),
    Trouble("write", 0, SHORT), Trouble("read", 0, SHORT),
    *(Trouble(one, errno.EINTR, ONCE) for one in ("write", "read", "open to read", "open to write", "flock", "fsync")),
]  # fmt: skip

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITE, OPEN_W, OPEN_R, READ, FSYNC, RENAME, MKDIR, UNLINK, RMDIR, CLOSE, FLOCK, MMAP, FTRUNCATE, CHMOD, N };
enum { ONCE, FROM_THEN_ON, SHORT, THEN_FULL };
static char below[4096];
static int chosen = -1, number, how;
static long at, seen[N];

void trouble(int operation, int error, int kind, long k, const char *folder) {
    memset(seen, 0, sizeof seen);
    snprintf(below, sizeof below, "%s", folder);
    chosen = operation; number = error; how = kind; at = k;
}
long calls(int operation) { return seen[operation]; }

/* 0: as ever; 1: fails; 2: half of it */
static int meets(int operation, const char *path) {
    size_t length = strlen(below);
    if (!length || strncmp(path, below, length)) return 0;
    long k = seen[operation]++;
    if (operation != chosen || k < at) return 0;
    if (how == SHORT) return 2;
    if (how == THEN_FULL) { if (k == at) return 2; }
    else if (how == ONCE && k != at) return 0;
    errno = number;
    return 1;
}
static int meets_file(int operation, int file) {
    char link[64], path[4096];
    if (!below[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return meets(operation, path);
}
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)
#define HALF(n) ((n) > 1 ? (n) / 2 : (n))

#define OPEN(name) int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    if (meets(flags & (O_WRONLY | O_RDWR | O_CREAT) ? OPEN_W : OPEN_R, path) == 1) return -1; \
    return real(path, flags, mode); }
OPEN(open) OPEN(open64)
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    if (meets(flags & (O_WRONLY | O_RDWR | O_CREAT) ? OPEN_W : OPEN_R, path) == 1) return -1; \
    return real(folder, path, flags, mode); }
OPENAT(openat) OPENAT(openat64)

ssize_t write(int file, const void *from, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t);
    int met = meets_file(WRITE, file);
    return met == 1 ? -1 : real(file, from, met ? HALF(n) : n);
}
ssize_t pwrite64(int file, const void *from, size_t n, off_t start) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    int met = meets_file(WRITE, file);
    return met == 1 ? -1 : real(file, from, met ? HALF(n) : n, start);
}
ssize_t read(int file, void *to, size_t n) {
    REAL(ssize_t, read, int, void *, size_t);
    int met = meets_file(READ, file);
    return met == 1 ? -1 : real(file, to, met ? HALF(n) : n);
}
int fsync(int file) { REAL(int, fsync, int); return meets_file(FSYNC, file) ? -1 : real(file); }
int flock(int file, int what) { REAL(int, flock, int, int); return meets_file(FLOCK, file) ? -1 : real(file, what); }
int ftruncate64(int file, off_t n) {
    REAL(int, ftruncate64, int, off_t);
    return meets_file(FTRUNCATE, file) ? -1 : real(file, n);
}
int close(int file) {  /* which closes it all the same */
    REAL(int, close, int);
    int written = below[0] && (fcntl(file, F_GETFL) & (O_WRONLY | O_RDWR));
    int met = written && meets_file(CLOSE, file), result = real(file);
    if (!met) return result;
    errno = number;
    return -1;
}
#define MAP(name) void *name(void *where, size_t n, int protection, int flags, int file, off_t start) { \
    REAL(void *, name, void *, size_t, int, int, int, off_t); \
    if (file >= 0 && meets_file(MMAP, file)) return MAP_FAILED; \
    return real(where, n, protection, flags, file, start); }
MAP(mmap) MAP(mmap64)
int rename(const char *old, const char *new) {
    REAL(int, rename, const char *, const char *);
    return meets(RENAME, new) ? -1 : real(old, new);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return meets(MKDIR, path) ? -1 : real(path, mode);
}
int unlink(const char *path) { REAL(int, unlink, const char *); return meets(UNLINK, path) ? -1 : real(path); }
int rmdir(const char *path) { REAL(int, rmdir, const char *); return meets(RMDIR, path) ? -1 : real(path); }
int chmod(const char *path, mode_t mode) {
    REAL(int, chmod, const char *, mode_t);
    return meets(CHMOD, path) ? -1 : real(path, mode);
}
"""


def compiled(folder: Path) -> Path | None:
    """The library, to be named in LD_PRELOAD; None without a C compiler."""
    if shutil.which("cc") is None:
        return None
    source, library = folder / "trouble.c", folder / "trouble.so"
    source.write_text(_SOURCE)
    command = ["cc", "-shared", "-fPIC", "-O1", "-D_FORTIFY_SOURCE=0", str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.calls.restype = ctypes.c_long
    library.trouble.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    return library


def is_loaded() -> bool:
    """Whether this process was started with the library."""
    return hasattr(ctypes.CDLL(None), "trouble")


def arm(kind: Trouble | None, k: int, folder: Path) -> None:
    """Let calls below a folder go wrong, from the k-th on; without a kind, only count them."""
    operation = -1 if kind is None else OPERATIONS.index(kind.operation)
    error, how = (0, 0) if kind is None else (kind.error, kind.how)
    _library().trouble(operation, error, how, k, str(folder).encode())


def disarm() -> dict[str, int]:
    """Let everything be as ever; how many calls there were of each kind."""
    library = _library()
    found = {name: library.calls(number) for number, name in enumerate(OPERATIONS)}
    library.trouble(-1, 0, 0, 0, b"")
    return found
