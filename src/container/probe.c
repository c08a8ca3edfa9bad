/* Makes one privileged call for the tests of root emulation, and says how it went. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
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
    if (!strcmp(call, "xattr"))
        return say(call, setxattr(a[2], a[3], a[4], strlen(a[4]), 0));
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
