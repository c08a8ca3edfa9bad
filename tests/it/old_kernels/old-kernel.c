/* old-kernel VERSION COMMAND...: runs a command as on an older kernel: system calls that came later are refused with
   ENOSYS. For tests/it/old_kernels.rs.

   Since Linux 5.1 numbers are the same on all architectures and count up: who knows the first one that is missing knows
   all. What became a flag of an older call is refused there: of seccomp(2), notifications (5.0). */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The first number that the version does not have. */
static const struct { const char *version; unsigned first; } versions[] = {
    { "4.18", 424 }, /* pidfd_send_signal, io_uring, open_tree, move_mount, fsopen, pidfd_open, clone3: 5.1 to 5.3 */
    { "5.4", 436 },  /* close_range, openat2, pidfd_getfd, faccessat2: 5.6 to 5.9 */
    { "5.10", 441 }, /* epoll_pwait2, mount_setattr and later */
};

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(errno) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (errno))

int main(int argc, char **argv)
{
    unsigned first = 0;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        if (argc > 2 && strcmp(argv[1], versions[i].version) == 0)
            first = versions[i].first;
    if (first == 0) {
        fprintf(stderr, "usage: old-kernel 4.18|5.4|5.10 COMMAND...\n");
        return 2;
    }
    unsigned has_notifications = first > 424;
    struct sock_filter filter[] = {
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 1),
        ANSWER(ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, has_notifications ? 0xffffffff : SYS_seccomp, 0, 5),
        /* SECCOMP_GET_NOTIF_SIZES is operation 3. */
        LOAD(args[0]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 3, 2, 0),
        LOAD(args[1]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SECCOMP_FILTER_FLAG_NEW_LISTENER, 0, 1),
        ANSWER(EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("old-kernel");
        return 2;
    }
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 2;
}
