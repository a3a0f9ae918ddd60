// The load client: opens many streams from one thread, reads them as fast as the kernel gives, and counts bytes.
//
//   reader HOST PORT COUNT SOURCES THEN < request-and-commands
//
// Standard input begins with the request to send on each connection, ended by a line with a single dot. COUNT
// connections are opened, their local addresses spread over SOURCES of 127.0.0.x, at most WINDOW of them under way
// at once; a connection is open once a blank line has ended the response's head;
// THEN, in hexadecimal, is sent on it if it is not empty. Then "open COUNT" is printed and
// each command line is answered with one line:
//
//   stats   bytes least most cpu      so far: of all connections, of the one with least and most; own CPU in ns
//   quiet   the same, once nothing has arrived for QUIET_MS and something has since the last command
//   await N the same, once N bytes have arrived on all connections together
//
// Bytes are dropped in the kernel (MSG_TRUNC) where nobody looks at them, so that the reader is not what is measured.
// It looks every NAP_US only: a client that waits in epoll on the same machine is woken by nearly every send, at the
// sender's cost, which would measure the scheduler. Clients on other machines cost a server no such thing.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW = 32, EVENTS = 4096, QUIET_MS = 40, NAP_US = 1000, HEAD = 4096 };

typedef struct {
    int fd;
    int matched;       // characters of "\r\n\r\n" seen at the end of what has arrived, while in the head
    long long bytes;   // after the head
    char open;
} Conn;

static Conn *conns;
static int epoll_fd, wanted, opened, started, failed;
static long long total;
static char request[HEAD];
static size_t request_size;
static struct sockaddr_in server;
static char then[256];
static size_t then_size;
static int sources;
static int napping;  // once all streams are open

static void die(const char *what) {
    fprintf(stderr, "reader: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void start_one(void) {
    Conn *conn = &conns[started];
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (conn->fd < 0) die("socket");
    int one = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(conn->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f000001u + (unsigned)(started % sources));
    if (bind(conn->fd, (struct sockaddr *)&from, sizeof from) < 0) die("bind");
    if (connect(conn->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) die("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = conn};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) < 0) die("epoll_ctl");
    started++;
}

static void send_request(Conn *conn) {
    if (send(conn->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) die("send");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &event);
}

static void count(Conn *conn, long long bytes) {
    conn->bytes += bytes;
    total += bytes;
}

static void read_head(Conn *conn, const char *data, ssize_t size) {
    for (ssize_t i = 0; i < size; i++) {
        conn->matched = data[i] == "\r\n\r\n"[conn->matched] ? conn->matched + 1 : data[i] == '\r';
        if (conn->matched == 4) {
            conn->open = 1;
            opened++;
            count(conn, size - i - 1);
            if (then_size && send(conn->fd, then, then_size, MSG_NOSIGNAL) < 0) die("send");
            if (started < wanted) start_one();
            return;
        }
    }
}

static void receive(Conn *conn) {
    static char data[256 << 10];
    ssize_t size = recv(conn->fd, data, sizeof data, conn->open ? MSG_TRUNC : 0);
    if (size > 0) {
        if (conn->open) count(conn, size);
        else read_head(conn, data, size);
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
        failed++;
        if (!conn->open) {
            fprintf(stderr, "reader: a connection was refused\n");
            exit(1);
        }
    }
}

// Handles what happens within the given time; returns how many connections had something.
static int turn(int milliseconds) {
    struct epoll_event events[EVENTS];
    if (napping) usleep(NAP_US);
    int found = epoll_wait(epoll_fd, events, EVENTS, milliseconds);
    for (int i = 0; i < found; i++) {
        if (events[i].data.ptr == NULL) continue;
        if (events[i].events & EPOLLOUT) send_request(events[i].data.ptr);
        else receive(events[i].data.ptr);
    }
    return found;
}

static void report(void) {
    long long least = -1, most = 0;
    for (int i = 0; i < wanted; i++) {
        if (least < 0 || conns[i].bytes < least) least = conns[i].bytes;
        if (conns[i].bytes > most) most = conns[i].bytes;
    }
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    printf("%lld %lld %lld %lld %d\n", total, least < 0 ? 0 : least, most, cpu.tv_sec * 1000000000LL + cpu.tv_nsec,
           failed);
    fflush(stdout);
}

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void until_quiet(void) {
    static long long before;
    long long last = total, since = now_ms();
    while (total == before || now_ms() - since < QUIET_MS) {
        turn(QUIET_MS / 4);
        if (total != last) last = total, since = now_ms();
    }
    before = total;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdin, NULL, _IONBF, 0);  // so that poll() knows of every command
    server.sin_family = AF_INET;
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    server.sin_port = htons((unsigned short)atoi(argv[2]));
    wanted = atoi(argv[3]);
    sources = atoi(argv[4]);
    for (const char *at = argv[5]; at[0] && at[1] && then_size < sizeof then; at += 2) {
        unsigned byte;
        sscanf(at, "%2x", &byte);
        then[then_size++] = (char)byte;
    }
    conns = calloc((size_t)wanted, sizeof *conns);

    struct rlimit files = {(rlim_t)wanted + 64, (rlim_t)wanted + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    char line[HEAD];
    while (fgets(line, sizeof line, stdin) && strcmp(line, ".\n") != 0) {
        size_t size = strcspn(line, "\n");
        memcpy(request + request_size, line, size);
        memcpy(request + request_size + size, "\r\n", 2);
        request_size += size + 2;
    }
    epoll_fd = epoll_create1(0);
    while (started < wanted && started < WINDOW) start_one();
    while (opened < wanted) turn(1000);
    napping = 1;
    printf("open %d\n", opened);
    fflush(stdout);

    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, 0) == 0) {
            turn(1000);
            continue;
        }
        if (!fgets(line, sizeof line, stdin)) return 0;
        long long goal = 0;
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, 0, NULL);  // not while a command is being carried out
        if (strncmp(line, "quiet", 5) == 0) until_quiet();
        else if (sscanf(line, "await %lld", &goal) == 1)
            while (total < goal && failed < wanted) turn(100);
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
        report();
    }
}
