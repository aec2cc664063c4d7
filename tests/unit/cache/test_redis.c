/* A server that is no Redis, or no longer one: whatever it answers, the caller gets a value or an error that names the address, soon, and without the memory that the answer claims to need. */
#include "tests/unit/support/check.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "cache/redis.h"

static int listener;
static char path[64];
static struct span answer;
static bool holds; /* the connection stays open behind the answer */

static void *serve(void *arg) {
    (void)arg;
    int fd = accept(listener, NULL, NULL);
    char question[1024];
    if (fd < 0) return NULL;
    (void)!read(fd, question, sizeof question);
    for (size_t at = 0; at < answer.len;) {
        ssize_t n = send(fd, answer.data + at, answer.len - at, MSG_NOSIGNAL);
        if (n <= 0) break;
        at += (size_t)n;
    }
    if (holds) (void)!read(fd, question, sizeof question); /* until the other side closes */
    close(fd);
    return NULL;
}

static int set_up(void **state) {
    (void)state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(path, sizeof path, "/tmp/genloop-cache-%d.sock", (int)getpid());
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    return listener < 0 || bind(listener, (const struct sockaddr *)&address, sizeof address) || listen(listener, 4) ? -1 : 0;
}
static int tear_down(void **state) {
    (void)state;
    close(listener);
    return unlink(path);
}

static int ask(struct span text, bool hold, struct redis_reply **reply, struct error *err) {
    char url[80];
    struct redis *r = NULL;
    pthread_t thread;
    answer = text;
    holds = hold;
    snprintf(url, sizeof url, "unix:%s", path);
    assert_int_equal(redis_new(url, 1000, &r, err), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
    int code = redis_commandl(r, reply, err, "GET", "x", NULL);
    redis_free(r);
    pthread_join(thread, NULL);
    return code;
}

static void test_replies(void **state) {
    (void)state;
    static char deep[64 * 4 + 1];
    for (int i = 0; i < 64; i++) memcpy(deep + 4 * i, "*1\r\n", 4);
    static const struct {
        const char *name, *answer;
        bool hold;
        int code;
    } cases[] = {
        {"a string", "$2\r\nhi\r\n", true, 0},
        {"nil", "$-1\r\n", true, 0},
        {"an array", "*2\r\n:1\r\n$1\r\na\r\n", true, 0},
        {"an error", "-ERR no\r\n", true, E_UNKNOWN},
        {"loading", "-LOADING wait\r\n", true, E_UNAVAILABLE},
        {"nothing", "", false, E_UNAVAILABLE},
        {"half a string", "$10\r\nhi", false, E_UNAVAILABLE},
        {"silence", "$10\r\nhi", true, E_UNAVAILABLE},
        {"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", false, E_UNAVAILABLE},
        {"an array of billions", "*2000000000\r\n", true, E_UNAVAILABLE},
        {"beyond 32 bits", "*4294967297\r\n:1\r\n", true, E_UNAVAILABLE},
        {"beyond 64 bits", "*99999999999999999999\r\n", true, E_UNAVAILABLE},
        {"less than none", "*-7\r\n", true, E_UNAVAILABLE},
        {"a string of less than none", "$-7\r\n", true, E_UNAVAILABLE},
        {"a string beyond 64 bits", "$99999999999999999999\r\n", true, E_UNAVAILABLE},
        {"a string larger than memory", "$9223372036854775807\r\n", false, E_UNAVAILABLE},
        {"an array in an array in an array …", deep, true, E_UNAVAILABLE},
        {"a number that is none", ":x\r\n", true, E_UNAVAILABLE},
        {"an array of an array of billions", "*1\r\n*1000000000\r\n", true, E_UNAVAILABLE},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct redis_reply *reply = NULL;
        struct error err = {0};
        struct rusage before, after;
        getrusage(RUSAGE_SELF, &before);
        int64_t began = clock_mono_ms();
        int r = ask(span_str(cases[i].answer), cases[i].hold, &reply, &err);
        getrusage(RUSAGE_SELF, &after);
        CHECK(r == cases[i].code, "%s: %d %s", cases[i].name, r, err.message);
        CHECK(r == 0 ? reply != NULL : !reply && err.code == r && err.message[0], "%s", cases[i].name);
        CHECK(clock_mono_ms() - began < 5000, "%s took %lld ms", cases[i].name, (long long)(clock_mono_ms() - began));
        CHECK(after.ru_maxrss - before.ru_maxrss < 64 * 1024, "%s took %ld KiB", cases[i].name, after.ru_maxrss - before.ru_maxrss);
        redis_reply_free(reply);
    }
    /* An array that is large and honest. */
    struct buf many;
    struct redis_reply *reply = NULL;
    struct error err = {0};
    buf_init(&many, 1 << 20);
    buf_append_str(&many, "*100000\r\n");
    for (int i = 0; i < 100000; i++) buf_append_str(&many, ":1\r\n");
    assert_int_equal(ask(buf_span(&many), true, &reply, &err), 0);
    assert_int_equal(redis_size(reply), 100000);
    assert_int_equal(redis_int(redis_at(reply, 99999)), 1);
    assert_null(redis_at(reply, 100000));
    redis_reply_free(reply);
    buf_fini(&many);
}

static void test_addresses(void **state) {
    (void)state;
    static const char *const bad[] = {"", "unix:", "http://x", "redis://", "redis://:80", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/-1", "redis://h/x", "redis://:%zz@h", "redis://[::1"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct redis *r = NULL;
        struct error err = {0};
        CHECK(redis_new(bad[i], 100, &r, &err) == E_INVALID && !r && err.message[0], "%s", bad[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replies), cmocka_unit_test(test_addresses)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
