/* Loaded before the C library (LD_PRELOAD): counts the calls that change files below one folder,
   and at the k-th of them ends the process or lets the call fail. Built and used by shim.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, BEFORE, AFTER, HALF, FAIL };

static atomic_long calls;
static atomic_int armed;
static long chosen;
static int mode, failure, log_fd = -1;
static char folder[PATH_MAX];

void shim_arm(const char *below, long call, int what, int error, int fd) {
    snprintf(folder, sizeof folder, "%s", below);
    chosen = call, mode = what, failure = error, log_fd = fd;
    atomic_store(&calls, 0);
    atomic_store(&armed, 1);
}
void shim_disarm(void) { atomic_store(&armed, 0); }
long shim_calls(void) { return atomic_load(&calls); }

static void end(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* The path behind a descriptor, or of a name relative to the folder behind one. */
static void resolve(char *out, int fd, const char *name) {
    char link[64], base[PATH_MAX] = "";
    if (name && (name[0] == '/' || fd == AT_FDCWD)) { snprintf(out, PATH_MAX, "%s", name); return; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, base, sizeof base - 1);
    base[n > 0 ? n : 0] = 0;
    if (name) snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, name);
    else snprintf(out, PATH_MAX, "%s", base);
}

/* Count a call; what shall happen to it. */
static int met(const char *what, int fd, const char *name, int fd2, const char *name2) {
    char path[PATH_MAX], other[PATH_MAX] = "", line[2 * PATH_MAX + 64];
    if (!atomic_load(&armed)) return COUNT;
    int before = errno;
    resolve(path, fd, name);
    if (name2) resolve(other, fd2, name2);
    errno = before;
    size_t n = strlen(folder);
    if (strncmp(path, folder, n) && strncmp(other, folder, n)) return COUNT;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (log_fd >= 0) {
        int size = snprintf(line, sizeof line, "%s\t%s\t%s\n", what, path, other);
        syscall(SYS_write, log_fd, line, size);
    }
    if (number != chosen) return COUNT;
    if (mode == BEFORE) end();
    return mode;
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = dlsym(RTLD_NEXT, #name)
#define DO(call) do { \
    if (todo == FAIL) { errno = failure; return -1; } \
    __typeof__(call) result = (call); \
    if (todo == AFTER || todo == HALF) end(); \
    return result; } while (0)
#define PART(n) (todo == HALF ? ((n) + 1) / 2 : (n))
#define CREATES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define OPEN(name) int name(const char *p, int flags, ...) { \
    NEXT(name); va_list v; va_start(v, flags); mode_t m = va_arg(v, int); va_end(v); \
    int todo = CREATES(flags) ? met("open", AT_FDCWD, p, 0, 0) : COUNT; DO(next(p, flags, m)); }
#define OPENAT(name) int name(int d, const char *p, int flags, ...) { \
    NEXT(name); va_list v; va_start(v, flags); mode_t m = va_arg(v, int); va_end(v); \
    int todo = CREATES(flags) ? met("open", d, p, 0, 0) : COUNT; DO(next(d, p, flags, m)); }
#define PWRITE(name, offset) ssize_t name(int fd, const void *b, size_t n, offset o) { \
    NEXT(name); int todo = met("write", fd, 0, 0, 0); DO(next(fd, b, PART(n), o)); }
#define CUT(name, offset) int name(int fd, offset n) { \
    NEXT(name); int todo = met("ftruncate", fd, 0, 0, 0); DO(next(fd, n)); }
#define SYNC(name) int name(int fd) { \
    NEXT(name); int todo = met("fsync", fd, 0, 0, 0); DO(next(fd)); }
#define SEND(name, offset) ssize_t name(int out, int in, offset *o, size_t n) { \
    NEXT(name); int todo = met("write", out, 0, 0, 0); DO(next(out, in, o, PART(n))); }

OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
PWRITE(pwrite, off_t) PWRITE(pwrite64, off64_t)
CUT(ftruncate, off_t) CUT(ftruncate64, off64_t)
SYNC(fsync) SYNC(fdatasync)
ssize_t sendfile(int, int, off_t *, size_t);
ssize_t sendfile64(int, int, off64_t *, size_t);
SEND(sendfile, off_t) SEND(sendfile64, off64_t)

ssize_t write(int fd, const void *b, size_t n) {
    NEXT(write); int todo = met("write", fd, 0, 0, 0); DO(next(fd, b, PART(n)));
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    NEXT(writev); int todo = met("write", fd, 0, 0, 0); DO(next(fd, v, n));
}
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f) {
    NEXT(copy_file_range); int todo = met("write", out, 0, 0, 0); DO(next(in, a, out, b, PART(n), f));
}
int rename(const char *a, const char *b) {
    NEXT(rename); int todo = met("rename", AT_FDCWD, a, AT_FDCWD, b); DO(next(a, b));
}
int renameat(int d, const char *a, int e, const char *b) {
    NEXT(renameat); int todo = met("rename", d, a, e, b); DO(next(d, a, e, b));
}
int renameat2(int d, const char *a, int e, const char *b, unsigned f) {
    NEXT(renameat2); int todo = met(f & 2 ? "exchange" : "rename", d, a, e, b);
    DO(next(d, a, e, b, f));
}
int link(const char *a, const char *b) {
    NEXT(link); int todo = met("link", AT_FDCWD, a, AT_FDCWD, b); DO(next(a, b));
}
int linkat(int d, const char *a, int e, const char *b, int f) {
    NEXT(linkat); int todo = met("link", d, a, e, b); DO(next(d, a, e, b, f));
}
int unlink(const char *a) {
    NEXT(unlink); int todo = met("unlink", AT_FDCWD, a, 0, 0); DO(next(a));
}
int unlinkat(int d, const char *a, int f) {
    NEXT(unlinkat); int todo = met("unlink", d, a, 0, 0); DO(next(d, a, f));
}
int rmdir(const char *a) {
    NEXT(rmdir); int todo = met("rmdir", AT_FDCWD, a, 0, 0); DO(next(a));
}
int mkdir(const char *a, mode_t m) {
    NEXT(mkdir); int todo = met("mkdir", AT_FDCWD, a, 0, 0); DO(next(a, m));
}
int mkdirat(int d, const char *a, mode_t m) {
    NEXT(mkdirat); int todo = met("mkdir", d, a, 0, 0); DO(next(d, a, m));
}
