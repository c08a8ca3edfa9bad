/* Makes one privileged call for the tests of root emulation, and says how it went. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int say(const char *what, long result)
{
    if (result < 0) {
        printf("%s: %s\n", what, strerror(errno));
        return 1;
    }
    printf("ok\n");
    return 0;
}

static int change(const char *how, int id)
{
    /* The bare calls: the C library's would do the same in all threads. */
    if (!strcmp(how, "setuid"))
        return syscall(SYS_setuid, id);
    return syscall(SYS_setresuid, id, id, id);
}

static int owner(const char *path)
{
    struct stat s;
    return stat(path, &s) ? -1 : (int)s.st_uid;
}

/* Each thread gives a file of its own away, again and again, and looks. */
static void *give(void *number)
{
    char name[32];
    sprintf(name, "thread%ld", (long)number);
    close(open(name, O_CREAT | O_WRONLY, 0644));
    for (int i = 0; i < 200; i++)
        if (chown(name, (long)number + i, 0) || owner(name) != (long)number + i)
            return "bad";
    return 0;
}

static volatile char flipping[8] = "a";
static volatile int over;

static void *flip(void *unused)
{
    while (!over)
        flipping[0] ^= 'a' ^ 'b';
    return 0;
}

static void hear(int signal) {}

/* What is not one call: 0 if it went well. */
static long hostile(const char *what)
{
    pthread_t thread[8];
    void *bad;
    long wrong = 0;
    if (!strcmp(what, "threads")) {
        for (long i = 0; i < 8; i++)
            pthread_create(&thread[i], 0, give, (void *)(i * 1000 + 1000));
        for (int i = 0; i < 8; i++) {
            pthread_join(thread[i], &bad);
            wrong -= bad != 0;
        }
        return wrong;
    }
    if (!strcmp(what, "vfork")) {
        int status;
        if (!vfork()) {
            if (chown("file", 77, 77))
                _exit(1);
            execl("/bin/true", "true", (char *)0);
            _exit(2);
        }
        return wait(&status) < 0 || status || owner("file") != 77 ? -1 : 0;
    }
    if (!strcmp(what, "signals")) {
        struct sigaction action = { .sa_handler = hear, .sa_flags = SA_RESTART };
        struct itimerval often = { { 0, 300 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };
        sigaction(SIGALRM, &action, 0);
        setitimer(ITIMER_REAL, &often, 0);
        for (int i = 1; i < 3000 && !wrong; i++)
            wrong = chown("file", i, i);
        setitimer(ITIMER_REAL, &never, 0);
        return wrong;
    }
    if (!strcmp(what, "flip")) {
        /* Another thread changes the path while it is read: it is one or the other, or neither. */
        pthread_create(&thread[0], 0, flip, 0);
        for (int i = 0; i < 2000; i++) {
            if (chown((char *)flipping, 5, 5) && errno != ENOENT)
                wrong = -1;
            chmod((char *)flipping, 04755);
        }
        over = 1;
        pthread_join(thread[0], 0);
        return wrong;
    }
    if (!strcmp(what, "dying")) {
        for (int i = 0; i < 60; i++) {
            pid_t child = fork();
            if (!child)
                for (;;) {
                    chown("file", 5, 5);
                    owner("file");
                    getuid();
                }
            usleep(500);
            kill(child, SIGKILL);
            waitpid(child, 0, 0);
        }
        return 0;
    }
    if (!strcmp(what, "deep")) {
        /* Longer than any path may be. */
        for (int i = 0; i < 300; i++)
            if (mkdir("a-name-of-20-letters", 0755) || chdir("a-name-of-20-letters"))
                return -1;
        close(open("file", O_CREAT | O_WRONLY, 0644));
        return chown("file", 5, 6) || owner("file") != 5 || chown("../a-name-of-20-letters/file", 0, 0) ? -1 : 0;
    }
    if (!strcmp(what, "deleted")) {
        struct stat s;
        int fd = open("soon-gone", O_CREAT | O_RDWR, 0644);
        unlink("soon-gone");
        if (fchown(fd, 5, 6) || fstat(fd, &s) || s.st_uid != 5 || fchownat(fd, "", 7, 8, AT_EMPTY_PATH) || fstat(fd, &s)
            || s.st_gid != 8)
            return -1;
        mkdir("soon-gone", 0755);
        chdir("soon-gone");
        rmdir("../soon-gone");
        return chown(".", 5, 6) || owner(".") != 5;
    }
    if (!strcmp(what, "tmpfile")) {
        char path[64];
        int fd = open(".", O_TMPFILE | O_RDWR, 0644);
        if (fd < 0)
            return errno == EOPNOTSUPP ? 0 : -1;
        sprintf(path, "/proc/self/fd/%d", fd);
        return fchown(fd, 5, 6) || linkat(AT_FDCWD, path, AT_FDCWD, "was-nameless", AT_SYMLINK_FOLLOW);
    }
    if (!strcmp(what, "pipe")) {
        int fds[2];
        return pipe(fds) || fchown(fds[0], 5, 6);
    }
    if (!strcmp(what, "bad")) {
        struct stat s;
        char *nowhere = (char *)8;
        if (!chown(nowhere, 5, 5) || errno != EFAULT || !chown("", 5, 5) || errno != ENOENT)
            return -1;
        if (!fchown(99, 5, 5) || errno != EBADF || !stat("file", (struct stat *)nowhere) || errno != EFAULT)
            return -1;
        if (!syscall(SYS_fchownat, 99, "x", 5, 5, 0) || !setgroups(70000, (gid_t *)nowhere) || errno != EINVAL)
            return -1;
        return !syscall(SYS_setgroups, 3, nowhere) || errno != EFAULT ? -1 : 0;
    }
#ifdef __x86_64__
    if (!strcmp(what, "x32"))
        return syscall(0x40000000 | SYS_chown, "file", 5, 6);
    if (!strcmp(what, "int80")) {
        static char name[] = "file";
        int result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(212), "b"((int)(long)name), "c"(5), "d"(6) : "memory");
        errno = -result;
        return result < 0 ? -1 : result;
    }
#endif
    printf("unknown: %s\n", what);
    return -1;
}

int main(int n, char **a)
{
    const char *call = a[1];
    if (!strcmp(call, "chroot")) {
        if (chroot(a[2]))
            return say("chroot", -1);
        a += 2;
        call = a[1];
    }
    if (strstr(call, "chown")) {
        const char *path = a[2];
        int uid = atoi(a[3]), gid = atoi(a[4]);
        if (!strcmp(call, "chown"))
            return say("chown", chown(path, uid, gid));
        if (!strcmp(call, "lchown"))
            return say(call, lchown(path, uid, gid));
        int fd = open(path, O_RDONLY);
        if (!strcmp(call, "fchown"))
            return say(call, fchown(fd, uid, gid));
        return say(call, fchownat(fd, "", uid, gid, AT_EMPTY_PATH));
    }
    if (!strcmp(call, "capset")) {
        struct { unsigned version; int pid; } header = { 0x20080522, 0 };
        struct { unsigned e, p, i; } data[2] = { 0 };
        return say(call, syscall(SYS_capset, &header, data));
    }
    if (!strcmp(call, "setgroups")) {
        gid_t groups[] = { 1, 2, 3 };
        return say(call, setgroups(3, groups));
    }
    if (!strcmp(call, "hostile"))
        return say(a[2], hostile(a[2]));
    if (!strcmp(call, "listxattr")) {
        char names[256] = "";
        long size = listxattr(a[2], names, sizeof names), length = listxattr(a[2], 0, 0);
        printf("%s\n", size == length ? names : "(another length)");
        return 0;
    }
    if (!strcmp(call, "removexattr"))
        return say(call, removexattr(a[2], a[3]));
    if (!strcmp(call, "xattrs-at")) {
        /* The calls of Linux 6.13 on a file; each is ENOSYS before. */
        struct { unsigned long long value; unsigned size, flags; } args = { (unsigned long)"1234", 4, 0 };
        char got[64] = "", names[64] = "";
        int fd = open(a[2], O_RDONLY);
        if (syscall(463, AT_FDCWD, a[2], 0, a[3], &args, sizeof args))
            return say("setxattrat", -1);
        args.value = (unsigned long)got;
        args.size = sizeof got;
        long size = syscall(464, fd, "", AT_EMPTY_PATH, a[3], &args, sizeof args);
        long list = syscall(465, AT_FDCWD, a[2], AT_SYMLINK_NOFOLLOW, names, sizeof names);
        printf("%ld %s %ld %s ", size, got, list, names);
        if (syscall(466, fd, "", AT_EMPTY_PATH, a[3]))
            return say("removexattrat", -1);
        printf("%ld\n", (long)syscall(464, AT_FDCWD, a[2], 0, a[3], &args, sizeof args));
        return 0;
    }
    if (!strcmp(call, "fchmodat2"))
        return say(call, syscall(452, open(a[2], O_PATH), "", strtol(a[3], 0, 8), AT_EMPTY_PATH));
    if (!strcmp(call, "peer")) {
        /* Each end of a connection sees the emulated IDs of the other. */
        struct sockaddr_un at = { AF_UNIX, "socket" };
        struct ucred is = { 0 };
        socklen_t size = sizeof is;
        int listener = socket(AF_UNIX, SOCK_STREAM, 0);
        unlink("socket");
        if (bind(listener, (void *)&at, sizeof at) || chmod("socket", 0777) || listen(listener, 1))
            return say("listen", -1);
        pid_t child = fork();
        if (!child) {
            int s = socket(AF_UNIX, SOCK_STREAM, 0);
            if (setresgid(6, 6, 6) || setresuid(5, 5, 5) || connect(s, (void *)&at, sizeof at))
                _exit(1);
            if (getsockopt(s, SOL_SOCKET, SO_PEERCRED, &is, &size) || is.pid != getppid() || is.uid || is.gid)
                _exit(2);
            pause();
        }
        int s = accept(listener, 0, 0);
        long wrong = getsockopt(s, SOL_SOCKET, SO_PEERCRED, &is, &size);
        printf("%d %d %d %d %d\n", is.pid == child, is.uid, is.gid, (int)size, child != waitpid(child, 0, WNOHANG));
        kill(child, SIGKILL);
        return wrong != 0;
    }
    if (!strcmp(call, "makes")) {
        /* What an emulated user makes is that user's; what is there stays whose it is. */
        struct stat s;
        struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
        setegid(7);
        setegid(0);
        if (setresgid(6, 6, 6) || setrlimit(RLIMIT_RTTIME, &limit) || setresuid(5, 5, 5))
            return say(call, -1);
        umask(027);
        int fd = open("made", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
        if (fd < 0 || write(fd, "x", 1) != 1 || fcntl(fd, F_GETFD) != FD_CLOEXEC || owner("made") != 5)
            return say("open", -1);
        if (open("made", O_CREAT | O_EXCL | O_RDWR, 0666) >= 0 || errno != EEXIST)
            return say("open again", -1);
        if (open("roots", O_CREAT | O_RDWR, 0666) < 0 || owner("roots") != 0)
            return say("open another's", -1);
        if (mkdir("dir/", 0777) || symlink("../made", "dir/link") || open("dir/link", O_CREAT | O_RDWR, 0666) < 0)
            return say("mkdir", -1);
        if (mkdir("dir", 0777) == 0 || errno != EEXIST || open("none/file", O_CREAT, 0600) >= 0 || errno != ENOENT)
            return say("errors", -1);
        if (creat("dir/creat", 0444) < 0 || (fd = open("dir", O_PATH)) < 0 || mkdirat(fd, "sub", 01777)
            || openat(fd, "sub/file", O_CREAT | O_WRONLY, 0600) < 0)
            return say("at", -1);
        if (chown("made", 0, 0) == 0 || errno != EPERM || lchown("made", -1, 0) == 0 || chown("made", 5, 6) || owner("made") != 5)
            return say("give away", -1);
        /* A daemon: its parent is gone. */
        int pipes[2];
        char byte;
        pipe(pipes);
        if (!fork()) {
            if (fork())
                _exit(0);
            while (getppid() != 1)
                usleep(1000);
            write(pipes[1], getuid() == 5 && getegid() == 6 ? "y" : "n", 1);
            _exit(0);
        }
        return say(call, read(pipes[0], &byte, 1) == 1 && byte == 'y' ? 0 : -1);
    }
    if (!strcmp(call, "xattr"))
        return say(call, setxattr(a[2], a[3], a[4], strlen(a[4]), 0));
    if (!strcmp(call, "acl")) {
        /* As cp(1) and sed(1) change a mode: an access list of owner, group and others. */
        long mode = strtol(a[3], 0, 8), none = -1;
        char list[28] = { 2 };
        for (int i = 0; i < 3; i++) {
            char *entry = list + 4 + 8 * i;
            entry[0] = (char[]){ 1, 4, 32 }[i];
            entry[2] = mode >> (6 - 3 * i) & 7;
            memcpy(entry + 4, &none, 4);
        }
        return say(call, setxattr(a[2], "system.posix_acl_access", list, sizeof list, 0));
    }
    if (!strcmp(call, "getxattr")) {
        char value[64] = "";
        long size = getxattr(a[2], a[3], value, sizeof value - 1);
        printf("%s\n", size < 0 ? "(none)" : value);
        return 0;
    }
    if (!strcmp(call, "mknod")) {
        mode_t kind = *a[3] == 'c' ? S_IFCHR : *a[3] == 'b' ? S_IFBLK : S_IFIFO;
        return say(call, mknod(a[2], kind | 0644, makedev(atoi(a[4]), atoi(a[5]))));
    }
    if (!strncmp(call, "set", 3)) {
        if (change(call, atoi(a[2])))
            return say(call, -1);
        return say(a[3], change(a[3], atoi(a[4])));
    }
    if (!strcmp(call, "fdlink")) {
        /* As the C library changes the mode of what may be a link. */
        char path[64];
        sprintf(path, "/proc/self/fd/%d", open(a[2], O_PATH));
        return say(call, chmod(path, strtol(a[3], 0, 8)));
    }
    if (!strcmp(call, "become")) {
        gid_t groups[] = { 1, 2, 3 }, got[16];
        uid_t r, e, s;
        gid_t gr, ge, gs;
        if (setgroups(3, groups) || setresgid(9, 9, 9) || setresuid(7, 7, 7))
            return say(call, -1);
        getresuid(&r, &e, &s);
        getresgid(&gr, &ge, &gs);
        printf("%d %d %d / %d %d %d / %d %d %d %d /", r, e, s, gr, ge, gs, getuid(), geteuid(), getgid(), getegid());
        int count = getgroups(16, got);
        for (int i = 0; i < count; i++)
            printf(" %d", got[i]);
        printf("\n");
        return 0;
    }
    printf("unknown: %s\n", call);
    return 2;
}
