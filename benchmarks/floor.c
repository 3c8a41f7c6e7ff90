/* SPDX-License-Identifier: Apache-2.0
 *
 * The floor: what an answer costs when nothing is decided. An epoll server on a unix socket that answers each
 * complete request with one constant, as cheaply as C can.
 *
 * usage: floor SOCKET netstring|policy|exim REPLY   (exim: a line, the reply, and the end of the connection)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SIZE = 65536, MANY = 256, MAX_FD = 4096 };

static struct { size_t used; char buf[SIZE]; } *conns[MAX_FD];

static void die(const char *what) { perror(what); exit(1); }

/* Octets of the first complete request in buf, 0 when more are needed. */
static size_t frame(const char *buf, size_t used, int policy, int exim)
{
    if (exim) {
        const char *end = memchr(buf, '\n', used);
        return end ? (size_t)(end - buf) + 1 : 0;
    }
    if (policy) {
        const char *end = memmem(buf, used, "\n\n", 2);
        return end ? (size_t)(end - buf) + 2 : 0;
    }
    size_t n = 0, i = 0;
    while (i < used && buf[i] >= '0' && buf[i] <= '9')
        n = n * 10 + (size_t)(buf[i++] - '0');
    return i < used && used >= i + n + 2 ? i + n + 2 : 0;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return fprintf(stderr, "usage: floor SOCKET netstring|policy|exim REPLY\n"), 2;
    int policy = !strcmp(argv[2], "policy"), exim = !strcmp(argv[2], "exim");
    signal(SIGPIPE, SIG_IGN);
    static char replies[64 * 1024];
    char reply[1024];
    int size = exim ? snprintf(reply, sizeof reply, "%s\n", argv[3])
             : policy ? snprintf(reply, sizeof reply, "action=%s\n\n", argv[3])
                      : snprintf(reply, sizeof reply, "%zu:%s,", strlen(argv[3]), argv[3]);
    size_t room = sizeof replies / (size_t)size;
    for (size_t i = 0; i < room; i++)
        memcpy(replies + i * (size_t)size, reply, (size_t)size);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    unlink(argv[1]);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[MANY];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, MANY, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MAX_FD) {
                        close(fd);
                        continue;
                    }
                    if (!conns[fd])
                        conns[fd] = malloc(sizeof *conns[fd]);
                    conns[fd]->used = 0;
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            char *buf = conns[fd]->buf;
            ssize_t got = read(fd, buf + conns[fd]->used, SIZE - conns[fd]->used);
            if (got <= 0) {
                if (got == 0 || (errno != EAGAIN && errno != EINTR))
                    close(fd);
                continue;
            }
            size_t used = conns[fd]->used + (size_t)got, done = 0, count = 0, length;
            while (count < room && (length = frame(buf + done, used - done, policy, exim)))
                done += length, count++;
            memmove(buf, buf + done, used - done);
            conns[fd]->used = used - done;
            if (count && ((write(fd, replies, count * (size_t)size) < 0 && errno != EAGAIN) || exim))
                close(fd);
        }
    }
}
