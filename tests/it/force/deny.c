/* deny listener|sizes COMMAND...: runs it where seccomp notifications can't be had.
 * listener: somebody listens already. sizes: the kernel doesn't know them (before Linux 5.0). */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int n, char **a)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_seccomp, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SECCOMP_GET_NOTIF_SIZES, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog allow = { 1, filter + 5 }, deny = { 6, filter };
    int listener = n > 2 && !strcmp(a[1], "listener");
    long fd = -1;
    if (n > 2 && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, listener ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0,
                     listener ? &allow : &deny);
    /* There is a listener for as long as somebody has its descriptor open. */
    if (fd < 0 || (listener && fcntl(fd, F_SETFD, 0))) {
        perror("deny");
        return 1;
    }
    execvp(a[2], a + 2);
    perror(a[2]);
    return 1;
}
