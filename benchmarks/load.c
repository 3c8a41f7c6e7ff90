/* SPDX-License-Identifier: Apache-2.0
 *
 * The load: N connections to a unix socket, one request at a time on each, as MTAs do it; as Exim does it, each on a
 * new connection that is half-closed behind it and ends with the reply.
 *
 * usage: load SOCKET netstring|policy|exim FRAMES CONNECTIONS SECONDS [RATE [OFFSET]]
 *
 * FRAMES holds requests, each behind its length (32 bits, the machine's order); they are sent in order, beginning at
 * the OFFSET-th, from the start again at the end. Without RATE each connection asks again as soon as it is answered.
 * With LOAD_SPINS in the environment the generator never sleeps: waking it would be the greater part of a fast
 * server's work, and would cost a slow one more than a fast one, which keeps it busy.
 * With RATE, that many requests a second fall due evenly and latency counts from when a request fell due, so that a
 * server that stalls cannot hide it. One line of JSON is printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 131072, MANY = 256, SUB = 64, BUCKETS = 64 * SUB };

struct conn { int fd; int busy; uint64_t since; size_t used; char buf[SIZE]; };

static uint64_t buckets[BUCKETS], answers, ok, notfound, temp, other, errors, worst, first_temp;
static const char *frames, *frames_end, *next_frame;
static int policy, exim, epoll;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void die(const char *what) { perror(what); exit(1); }

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Log-linear: 64 steps in each power of two, 1.6 % apart. */
static void note(uint64_t ns)
{
    int high = ns < SUB ? 0 : 63 - __builtin_clzll(ns) - 5;
    uint64_t index = (uint64_t)high * SUB / 2 + (ns >> high);
    buckets[index < BUCKETS ? index : BUCKETS - 1]++;
    if (ns > worst)
        worst = ns;
}

static double percentile(double part)
{
    uint64_t wanted = (uint64_t)((double)answers * part), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += buckets[i];
        if (seen > wanted) {
            int high = i < SUB ? 0 : i / (SUB / 2) - 1;
            return (double)(((uint64_t)i - (uint64_t)high * SUB / 2) << high) / 1000.0;
        }
    }
    return (double)worst / 1000.0;
}

static void open_one(struct conn *c, uint32_t number)
{
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void ask(struct conn *c, uint64_t since)
{
    uint32_t size;
    if (next_frame >= frames_end)
        next_frame = frames;
    memcpy(&size, next_frame, 4);
    c->since = since;
    c->busy = 1;
    c->used = 0;
    if (write(c->fd, next_frame + 4, size) != (ssize_t)size || (exim && shutdown(c->fd, SHUT_WR)))
        errors++, c->busy = -1;
    next_frame += 4 + size;
}

/* 1 when the reply is whole; counts it. */
static int whole(struct conn *c)
{
    const char *text = c->buf;
    if (exim) {
        if (c->used >= 13 && !memcmp(text, "decision=temp", 13))
            temp++;
        else if (c->used >= 9 && !memcmp(text, "decision=", 9))
            ok++;
        else
            other++;
        return 1;
    }
    if (policy) {
        if (c->used < 2 || memcmp(c->buf + c->used - 2, "\n\n", 2))
            return 0;
        text += 7;
        if (!memcmp(text, "DUNNO", 5))
            ok++;
        else if (!memcmp(text, "DEFER_IF_PERMIT", 15))
            temp++;
        else
            other++;
        return 1;
    }
    size_t n = 0, i = 0;
    while (i < c->used && text[i] >= '0' && text[i] <= '9')
        n = n * 10 + (size_t)(text[i++] - '0');
    if (i >= c->used || c->used < i + n + 2)
        return 0;
    text += i + 1;
    if (*text == 'O')
        ok++;
    else if (*text == 'N')
        notfound++;
    else if (*text == 'T')
        temp++;
    else
        other++;
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return fprintf(stderr, "usage: load SOCKET netstring|policy|exim FRAMES CONNECTIONS SECONDS [RATE [OFFSET]]\n"), 2;
    policy = !strcmp(argv[2], "policy");
    exim = !strcmp(argv[2], "exim");
    signal(SIGPIPE, SIG_IGN);
    int count = atoi(argv[4]), file = open(argv[3], O_RDONLY);
    double seconds = atof(argv[5]), rate = argc > 6 ? atof(argv[6]) : 0;
    long offset = argc > 7 ? atol(argv[7]) : 0;
    struct stat info;
    if (file < 0 || fstat(file, &info))
        die(argv[3]);
    frames = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (frames == MAP_FAILED)
        die("mmap");
    frames_end = frames + info.st_size;
    next_frame = frames;
    while (offset-- > 0 && next_frame < frames_end) {
        uint32_t size;
        memcpy(&size, next_frame, 4);
        next_frame += 4 + size;
    }
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    struct conn *conns = calloc((size_t)count, sizeof *conns);
    epoll = epoll_create1(0);
    for (int i = 0; i < count; i++)
        open_one(&conns[i], (uint32_t)i);
    uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9), due = start, t = start;
    uint64_t step = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    int spins = getenv("LOAD_SPINS") != NULL, spare = 0, live = count, timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event tick = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &tick);
    prctl(PR_SET_TIMERSLACK, 1);
    if (!step)
        for (int i = 0; i < count; i++)
            ask(&conns[i], now());
    struct epoll_event events[MANY];
    while (t < end && live > 0) {
        int full = 0;
        while (step && due <= t && !full) {
            int tried = 0;
            while (tried < count && conns[spare].busy)
                spare = (spare + 1) % count, tried++;
            if ((full = tried == count))
                break;
            ask(&conns[spare], due);
            due += step;
        }
        if (step && !full) {
            struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        int n = epoll_wait(epoll, events, MANY, spins ? 0 : 100);
        t = now();
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == UINT32_MAX) {
                uint64_t ticks;
                (void)!read(timer, &ticks, sizeof ticks);
                continue;
            }
            struct conn *c = &conns[events[i].data.u32];
            ssize_t got = recv(c->fd, c->buf + c->used, SIZE - c->used, MSG_DONTWAIT);
            if (got <= 0) {
                if (got < 0 && (errno == EAGAIN || errno == EINTR))
                    continue;
                if (exim && got == 0 && c->busy == 1 && whole(c)) {
                    t = now();
                    note(t - c->since);
                    answers++;
                    c->busy = 0;
                    close(c->fd);
                    open_one(c, events[i].data.u32);
                    if (!step && t < end)
                        ask(c, t);
                    continue;
                }
                errors++;
                c->busy = -1;
                live--;
                epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
                continue;
            }
            c->used += (size_t)got;
            uint64_t before = temp;
            if (exim || c->busy != 1 || !whole(c))
                continue;
            t = now();
            if (temp != before && !first_temp)
                first_temp = t - start;
            note(t - c->since);
            answers++;
            c->busy = 0;
            if (!step && t < end)
                ask(c, t);
        }
    }
    double took = (double)(now() - start) / 1e9;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    uint64_t pending = 0;
    for (int i = 0; i < count; i++)
        pending += conns[i].busy == 1;
    printf("{\"answers\": %lu, \"seconds\": %.3f, \"rate\": %.0f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, "
           "\"max\": %.1f, \"ok\": %lu, \"notfound\": %lu, \"temp\": %lu, \"other\": %lu, \"errors\": %lu, "
           "\"pending\": %lu, \"first_temp\": %.3f, \"own_cpu\": %.2f}\n",
           answers, took, (double)answers / took, percentile(0.5), percentile(0.99), percentile(0.999),
           (double)worst / 1000.0, ok, notfound, temp, other, errors, pending, (double)first_temp / 1e9,
           answers ? cpu / (double)answers : 0.0);
    return 0;
}
