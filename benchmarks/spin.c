/* SPDX-License-Identifier: Apache-2.0
 *
 * Uses a fifth of a core and nothing else: what any program does to the latencies of others on this machine.
 *
 * usage: spin SECONDS
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { EVERY = 10000000, BUSY = 2000000 }; /* ns */

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return fprintf(stderr, "usage: spin SECONDS\n"), 2;
    uint64_t due = now(CLOCK_MONOTONIC), end = due + (uint64_t)(atof(argv[1]) * 1e9);
    while (due < end) {
        uint64_t enough = now(CLOCK_THREAD_CPUTIME_ID) + BUSY;
        while (now(CLOCK_THREAD_CPUTIME_ID) < enough)
            ;
        due += EVERY;
        struct timespec t = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    }
    return 0;
}
