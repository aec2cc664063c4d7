/*
 * What a server that is no Redis of ours may answer: the input is what it says to one XREAD of a view. Whatever it is, the view gives events whose parts are within their limits, or an
 * error, and a second poll does no harm. A thread plays the server.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "eventlog/redis_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int listener = -1;
static char url[128];
static struct span answer;
static pthread_mutex_t answering = PTHREAD_MUTEX_INITIALIZER; /* the input outlives no call */

static void *serve(void *arg) {
    (void)arg;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        char question[4096];
        (void)pthread_mutex_lock(&answering);
        (void)!read(fd, question, sizeof question);
        for (size_t at = 0; at < answer.len;) {
            ssize_t n = send(fd, answer.data + at, answer.len - at, MSG_NOSIGNAL);
            if (n <= 0) break;
            at += (size_t)n;
        }
        close(fd);
        (void)pthread_mutex_unlock(&answering);
    }
    return NULL;
}

static void set_up(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "/tmp/fuzz_redis_reply.%d", (int)getpid());
    (void)snprintf(url, sizeof url, "unix:%s", address.sun_path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT(listener >= 0 && bind(listener, (const struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
    pthread_t thread;
    ASSERT(pthread_create(&thread, NULL, serve, NULL) == 0);
}

static void headers(struct span s) {
    struct event e = {.topic = TOPIC_MODELS};
    char id[EVENT_ID_MAX + 1];
    struct span name, value;
    while (span_cut(&s, '\n', &name) && span_cut(&s, '\n', &value)) event_take_header(&e, name, value);
    event_complete(&e, id);
    ASSERT(e.id.len && e.id.len <= EVENT_ID_MAX && e.type.len && e.type.len <= EVENT_HEADER_MAX && e.content_type.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct redis_log log;
    static const enum topic topics[] = {TOPIC_MODELS};
    if (listener < 0) {
        set_up();
        log.url = url;
        (void)snprintf(log.streams[TOPIC_MODELS][0], STREAM_NAME_MAX, "models");
    }
    answer = span_of(data, size);
    headers(answer);
    void *view = NULL;
    struct event e;
    struct error err = {0};
    ASSERT(redis_view_open(&log, topics, 1, NULL, 0, &view, &err) == 0);
    for (int i = 0; i < 64; i++) {
        int r = redis_view_poll(view, 0, &e, &err);
        if (r < 0) break;
        ASSERT(e.topic == TOPIC_MODELS && e.id.len && e.id.len <= EVENT_ID_MAX && e.type.len <= EVENT_HEADER_MAX && strlen(e.offset) < EVENT_OFFSET_MAX);
    }
    redis_view_close(view);
    (void)pthread_mutex_lock(&answering); /* whoever was spoken to has been answered */
    (void)pthread_mutex_unlock(&answering);
    return 0;
}
