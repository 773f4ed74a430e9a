/* Asks an OpenAI-compatible server for answers over many connections at once, from one thread, and prints one JSON
   object: how many came, how fast, and what was wrong with the first that was wrong.

   serving_load --port N --body FILE [--connections N] [--requests N] [--expect FILE] [--header TEXT] [--pause-ms N]
                [--seconds N] [--path PATH]

   A body with "stream":true is answered by server-sent events: each stream must end with a finish reason and `[DONE]`,
   and its texts, joined, must be FILE's (plain ASCII that JSON leaves as it is). A connection sends its next request
   when it has its answer, `--pause-ms` later. Without `--requests` it asks until `--seconds` are over. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 16 };
enum Body { LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, UNTIL_CLOSE };

typedef struct {
    char *at;
    size_t len, room;
} Text;

typedef struct {
    uint64_t *at;
    size_t len, room;
} Times;

typedef struct {
    int fd, busy;
    size_t sent;             /* bytes of the request */
    Text head, line;         /* not yet whole: of the head; a line of events, or a plain body */
    int in_body, status, close;
    enum Body kind;
    size_t left;             /* bytes of the body, or of the chunk */
    char size[20];
    size_t size_len;
    size_t seen;             /* bytes of the expected text */
    uint64_t num_texts;
    int finished, done;
    uint64_t began, last, resume;
} Connection;

static struct {
    int port, connections, pause_ms, stream;
    uint64_t requests;
    double seconds;
    const char *path, *header;
    Text body, expect, request;
} given = {.connections = 1, .path = "/v1/chat/completions"};

static struct {
    uint64_t started, ok, failed, texts, tokens, bytes;
    char fault[400];
    Times first, gap, whole;
} seen;

static int poll_fd, num_busy;
static uint64_t now, deadline;

static void die(const char *what) {
    fprintf(stderr, "serving_load: %s: %s\n", what, errno ? strerror(errno) : "");
    exit(2);
}

static uint64_t microseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void *grown(void *at, size_t bytes) {
    at = realloc(at, bytes);
    if (!at) die("memory");
    return at;
}

static void add(Text *text, const char *from, size_t len) {
    if (text->len + len + 1 > text->room) text->at = grown(text->at, text->room = 2 * (text->len + len + 1));
    memcpy(text->at + text->len, from, len);
    text->at[text->len += len] = 0;
}

static void note(Times *times, uint64_t value) {
    if (times->len == times->room) times->at = grown(times->at, (times->room = 2 * times->room + 1024) * sizeof value);
    times->at[times->len++] = value;
}

static void read_file(Text *text, const char *path) {
    char part[4096];
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    for (size_t len; (len = fread(part, 1, sizeof part, file)) > 0;) add(text, part, len);
    fclose(file);
}

/* ---- one request after the other */

static int more_to_ask(void) {
    return given.requests ? seen.started < given.requests : now < deadline;
}

static void watch(Connection *c, int adding, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poll_fd, adding ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl");
}

static void open_connection(Connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)given.port)};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(c, 1, EPOLLIN);
}

static void write_request(Connection *c) {
    while (c->sent < given.request.len) {
        ssize_t len = write(c->fd, given.request.at + c->sent, given.request.len - c->sent);
        if (len < 0) break; /* full, or closed: reading tells */
        c->sent += (size_t)len;
    }
    watch(c, 0, c->sent < given.request.len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void ask(Connection *c) {
    c->resume = 0;
    if (!more_to_ask()) return;
    if (c->fd < 0) open_connection(c);
    c->sent = c->head.len = c->line.len = c->size_len = c->seen = c->left = 0;
    c->in_body = c->finished = c->done = c->close = c->status = 0;
    c->num_texts = 0;
    c->began = c->last = microseconds();
    c->busy = 1;
    num_busy++;
    seen.started++;
    write_request(c);
}

static void end(Connection *c, const char *fault, ...) {
    c->busy = 0;
    num_busy--;
    if (fault) {
        if (!seen.failed++) {
            va_list list;
            va_start(list, fault);
            vsnprintf(seen.fault, sizeof seen.fault, fault, list);
            va_end(list);
        }
    } else {
        seen.ok++;
        note(&seen.whole, now - c->began);
    }
    if (fault || c->close) {
        close(c->fd);
        c->fd = -1;
    }
    if (given.pause_ms)
        c->resume = now + (uint64_t)given.pause_ms * 1000;
    else
        ask(c);
}

/* ---- what is in an answer */

static const char *after(const char *in, const char *what) {
    const char *found = strstr(in, what);
    return found ? found + strlen(what) : NULL;
}

/* Take a text of the answer; give whether it is what was expected here. */
static int take_text(Connection *c, const char *text) {
    size_t len = strcspn(text, "\"");
    for (size_t at = 0; !given.expect.len && text[len] && at < len; at++) /* nothing to compare: only skip escapes */
        if (text[at] == '\\' && ++at == len) len += 1 + strcspn(text + len + 1, "\"");
    if (!len) return 1;
    if (c->num_texts++)
        note(&seen.gap, now - c->last);
    else
        note(&seen.first, now - c->began);
    c->last = now;
    seen.texts++;
    if (!given.expect.len) return 1;
    if (c->seen + len > given.expect.len || memcmp(given.expect.at + c->seen, text, len)) return 0;
    c->seen += len;
    return 1;
}

static void count_tokens(const char *in) {
    const char *number = after(in, "\"completion_tokens\":");
    if (number) seen.tokens += strtoull(number, NULL, 10);
}

/* Take one event, or a plain body; give whether it is right. */
static int take(Connection *c, char *line) {
    const char *text;
    if (given.stream && !(line = (char *)after(line, "data: "))) return 1; /* an empty line, or a comment */
    if (given.stream && !strcmp(line, "[DONE]")) return c->done = 1;
    if (!strncmp(line, "{\"error\"", 8) || c->done) return 0;
    if ((text = after(line, "\"content\":\"")) && !take_text(c, text)) return 0;
    if (strstr(line, "\"finish_reason\":\"")) c->finished = 1;
    count_tokens(line);
    return 1;
}

static int take_body(Connection *c, const char *from, size_t len) {
    if (!given.stream || c->status != 200) {
        add(&c->line, from, len);
        return 1;
    }
    while (len) {
        const char *stop = memchr(from, '\n', len);
        size_t part = stop ? (size_t)(stop - from) : len;
        add(&c->line, from, part);
        if (!stop) return 1;
        if (!take(c, c->line.at)) return 0;
        c->line.len = 0;
        c->line.at[0] = 0;
        from += part + 1;
        len -= part + 1;
    }
    return 1;
}

static void check(Connection *c) {
    add(&c->line, "", 0);
    if (c->status != 200)
        end(c, "status %d: %.300s", c->status, c->line.at);
    else if (!given.stream && !take(c, c->line.at))
        end(c, "not what was expected: %.300s", c->line.at);
    else if (!c->finished)
        end(c, "no finish reason after %zu bytes of text", c->seen);
    else if (given.stream && !c->done)
        end(c, "no [DONE]");
    else if (c->seen != given.expect.len)
        end(c, "%zu bytes of text, not %zu", c->seen, given.expect.len);
    else
        end(c, NULL);
}

/* ---- HTTP */

static void read_head(Connection *c) {
    char *line = c->head.at;
    c->kind = UNTIL_CLOSE;
    c->status = atoi(strchr(line, ' ') ? strchr(line, ' ') + 1 : "0");
    while ((line = strstr(line, "\r\n"))) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) {
            c->kind = LENGTH;
            c->left = strtoull(line + 15, NULL, 10);
        } else if (!strncasecmp(line, "transfer-encoding: chunked", 26)) {
            c->kind = CHUNK_SIZE;
        } else if (!strncasecmp(line, "connection: close", 17)) {
            c->close = 1;
        }
    }
    c->in_body = 1;
}

/* Take bytes of an answer; all of it was taken, or the connection is about another request. */
static void receive(Connection *c, const char *from, size_t len) {
    size_t part;
    while (c->busy && (len || (c->in_body && c->kind == LENGTH && !c->left))) {
        if (!c->in_body) {
            size_t old = c->head.len;
            char *stop;
            add(&c->head, from, len);
            stop = strstr(c->head.at + (old > 3 ? old - 3 : 0), "\r\n\r\n");
            if (!stop) return;
            part = (size_t)(stop + 4 - c->head.at) - old;
            stop[2] = 0;
            read_head(c);
            from += part;
            len -= part;
            continue;
        }
        switch (c->kind) {
        case CHUNK_SIZE:
            if (*from == '\n') {
                c->size[c->size_len] = 0;
                c->left = strtoull(c->size, NULL, 16);
                c->size_len = 0;
                c->kind = c->left ? CHUNK : TRAILER;
            } else if (c->size_len + 1 < sizeof c->size) {
                c->size[c->size_len++] = *from;
            }
            from++, len--;
            break;
        case CHUNK_END:
        case TRAILER:
            if (*from == '\n') {
                if (c->kind == TRAILER) {
                    check(c);
                    return;
                }
                c->kind = CHUNK_SIZE;
            }
            from++, len--;
            break;
        default:
            part = c->kind == UNTIL_CLOSE || len < c->left ? len : c->left;
            if (!take_body(c, from, part)) {
                end(c, "not what was expected after %zu bytes of text: %.300s", c->seen, c->line.at);
                return;
            }
            from += part;
            len -= part;
            c->left -= c->kind == UNTIL_CLOSE ? 0 : part;
            if (!c->left && c->kind == CHUNK) c->kind = CHUNK_END;
            if (!c->left && c->kind == LENGTH) {
                check(c);
                return;
            }
        }
    }
}

static void closed(Connection *c) {
    c->close = 1;
    if (c->busy && c->in_body && c->kind == UNTIL_CLOSE)
        check(c);
    else if (c->busy)
        end(c, "the connection was closed after %zu bytes of text", c->seen);
    else if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
}

static void read_answer(Connection *c) {
    static char part[READ_BYTES];
    ssize_t len = read(c->fd, part, sizeof part);
    if (len > 0) {
        seen.bytes += (uint64_t)len;
        receive(c, part, (size_t)len);
    } else if (len == 0 || errno != EAGAIN) {
        closed(c);
    }
}

/* ---- all of them */

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void show(const char *name, Times *times) {
    static const double shares[] = {0.5, 0.99, 1};
    static const char *const names[] = {"p50", "p99", "max"};
    qsort(times->at, times->len, sizeof *times->at, ascending);
    printf(", \"%s_us\": {\"count\": %zu", name, times->len);
    for (int i = 0; i < 3 && times->len; i++)
        printf(", \"%s\": %lu", names[i], (unsigned long)times->at[(size_t)(shares[i] * (double)(times->len - 1))]);
    printf("}");
}

static void show_text(const char *text) {
    for (; *text; text++)
        if ((unsigned char)*text >= ' ' && (unsigned char)*text < 127)
            printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
}

static void read_flags(int argc, char **argv) {
    char head[512];
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) given.port = atoi(value);
        else if (!strcmp(name, "--connections")) given.connections = atoi(value);
        else if (!strcmp(name, "--requests")) given.requests = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--seconds")) given.seconds = atof(value);
        else if (!strcmp(name, "--pause-ms")) given.pause_ms = atoi(value);
        else if (!strcmp(name, "--path")) given.path = value;
        else if (!strcmp(name, "--header")) given.header = value;
        else if (!strcmp(name, "--body")) read_file(&given.body, value);
        else if (!strcmp(name, "--expect")) read_file(&given.expect, value);
        else die(name);
    }
    if (!given.port || !given.body.len || argc % 2 == 0) die("--port and --body are needed, and a value for each flag");
    if (!given.requests && !given.seconds) die("either --requests or --seconds is needed");
    given.stream = strstr(given.body.at, "\"stream\":true") || strstr(given.body.at, "\"stream\": true");
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: localhost:%d\r\nContent-Type: application/json\r\n%s%sContent-Length: %zu\r\n\r\n",
             given.path, given.port, given.header ? given.header : "", given.header ? "\r\n" : "", given.body.len);
    add(&given.request, head, strlen(head));
    add(&given.request, given.body.at, given.body.len);
}

int main(int argc, char **argv) {
    struct epoll_event events[256];
    struct rusage usage;
    Connection *all;
    uint64_t began;
    read_flags(argc, argv);
    poll_fd = epoll_create1(0);
    all = calloc((size_t)given.connections, sizeof *all);
    if (poll_fd < 0 || !all) die("epoll or memory");
    for (int i = 0; i < given.connections; i++) open_connection(&all[i]);
    began = now = microseconds();
    deadline = now + (uint64_t)(1e6 * given.seconds);
    for (int i = 0; i < given.connections; i++) ask(&all[i]);
    for (;;) {
        int waits = 0;
        for (int i = 0; given.pause_ms && i < given.connections; i++) {
            if (all[i].resume && all[i].resume <= now) ask(&all[i]);
            waits |= all[i].resume && more_to_ask();
        }
        if (!num_busy && !waits) break;
        int count = epoll_wait(poll_fd, events, 256, given.pause_ms ? 1 : 10000);
        if (!count && !given.pause_ms) {
            if (!seen.failed++) snprintf(seen.fault, sizeof seen.fault, "nothing came for 10 seconds");
            break;
        }
        for (int i = 0; i < count; i++) {
            Connection *c = events[i].data.ptr;
            now = microseconds();
            if (events[i].events & EPOLLOUT) write_request(c);
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_answer(c);
        }
        now = microseconds();
    }
    getrusage(RUSAGE_SELF, &usage);
    double seconds = (double)(now - began) / 1e6;
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"ok\": %lu, \"failed\": %lu, \"texts\": %lu, \"tokens\": %lu, \"bytes\": %lu, \"seconds\": %.6f, "
           "\"cpu_seconds\": %.6f, \"fault\": \"",
           (unsigned long)seen.ok, (unsigned long)seen.failed, (unsigned long)seen.texts, (unsigned long)seen.tokens,
           (unsigned long)seen.bytes, seconds, cpu);
    show_text(seen.fault);
    printf("\"");
    show("first", &seen.first);
    show("gap", &seen.gap);
    show("whole", &seen.whole);
    printf("}\n");
    return seen.failed ? 1 : 0;
}
