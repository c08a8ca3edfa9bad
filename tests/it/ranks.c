/* An MPI program for slurm.rs: each rank talks to the others in several ways; rank 0 prints one line about it.
   "ranks ring sum get copies spaces": numbers that the test compares. */
#define _GNU_SOURCE
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LARGE = 4 << 20 };

struct place { long pid, address, node; char space[64]; };

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int next = (rank + 1) % size, before = (rank + size - 1) % size;

    /* A large message around the ring: MPI itself copies it from memory to memory where it can. */
    char *out = malloc(LARGE), *in = calloc(1, LARGE);
    memset(out, rank + 1, LARGE);
    MPI_Sendrecv(out, LARGE, MPI_CHAR, next, 0, in, LARGE, MPI_CHAR, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    int ring = in[0] == before + 1 && in[LARGE - 1] == before + 1;

    int sum = 0, value = rank + 1;
    MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);

    MPI_Win window;
    int shown = 100 + rank, got = 0;
    MPI_Win_create(&shown, sizeof shown, sizeof shown, MPI_INFO_NULL, MPI_COMM_WORLD, &window);
    MPI_Win_fence(0, window);
    MPI_Get(&got, 1, MPI_INT, next, 0, 1, MPI_INT, window);
    MPI_Win_fence(0, window);
    int get = got == 100 + next;
    MPI_Win_free(&window);

    /* A copy of our own from each other rank on this node. */
    char *node = getenv("SLURM_NODEID");
    struct place own = { getpid(), (long)out, node ? atol(node) : 0, "" };
    if (readlink("/proc/self/ns/user", own.space, sizeof own.space - 1) < 0) return 1;
    struct place *all = calloc(size, sizeof own);
    MPI_Allgather(&own, sizeof own, MPI_CHAR, all, sizeof own, MPI_CHAR, MPI_COMM_WORLD);
    int copies = 0;
    for (int i = 0; i < size; i++) {
        if (i == rank || all[i].node != own.node) continue;
        char byte = 0;
        struct iovec here = { &byte, 1 }, there = { (void *)all[i].address, 1 };
        if (process_vm_readv(all[i].pid, &here, 1, &there, 1, 0) == 1 && byte == i + 1) copies++;
        else perror("process_vm_readv");
    }
    MPI_Barrier(MPI_COMM_WORLD);

    int spaces = 0;
    for (int i = 0; i < size; i++) {
        int known = 0;
        for (int j = 0; j < i; j++) known |= !strcmp(all[i].space, all[j].space);
        spaces += !known;
    }
    int mine[3] = { ring, get, copies }, total[3];
    MPI_Reduce(mine, total, 3, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("ranks %d ring %d sum %d get %d copies %d spaces %d\n", size, total[0], sum, total[1], total[2], spaces);
    MPI_Finalize();
    return 0;
}
