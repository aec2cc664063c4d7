#include "suite.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/random.h"
#include "genloop/v1/governance.pb-c.h"

enum { PATIENCE_MS = 60000 }; /* the most that anything here may take on a busy machine; nothing is timed */

__attribute__((weak)) struct suite_fixture suite_fixture; /* a program beside this suite has none */

struct eventlog *suite_open(const char *source) {
    struct eventlog_config c = {.url = suite_fixture.url, .source = source, .properties = suite_fixture.properties, .publish_timeout_ms = suite_fixture.publish_timeout_ms};
    struct eventlog *log = NULL;
    struct error err = {0};
    if (eventlog_open(&c, &log, &err) != 0) fail_msg("open: %s", err.message);
    return log;
}

/* ---- helpers ---- */

static void tag_make(char tag[ID_TEXT_MAX]) { id_make(tag); }

static void publish(struct eventlog *log, enum topic t, const char *tag, const char *key, const char *value) {
    struct error err = {0};
    struct event e = {.topic = t, .key = span_str(key), .value = span_str(value), .subject = span_str(tag)};
    if (eventlog_publish(log, &e, &err) != 0) fail_msg("publish: %s", err.message);
}

/* The positions of a topic now, so that a view sees only what comes after. */
static int ends_of(struct eventlog *log, enum topic t, struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX]) {
    int n = 0;
    assert_int_equal(eventlog_ends(log, &t, 1, ends, &n, NULL), 0);
    assert_int_equal(n, topic_info(t)->partitions);
    return n;
}

static struct eventlog_view *view_from(struct eventlog *log, enum topic t, const struct eventlog_position *from, int n) {
    struct eventlog_view *v = NULL;
    struct error err = {0};
    if (eventlog_view_open(log, &t, 1, from, n, &v, &err) != 0) fail_msg("view: %s", err.message);
    return v;
}

/* The next event of this tag; false after ms without one. */
static bool view_next(struct eventlog_view *v, const char *tag, int64_t ms, struct event *e) {
    int64_t deadline = clock_mono_ms() + ms;
    do {
        int r = eventlog_view_poll(v, 100, e, NULL);
        if (r == 0 && span_eq_str(e->subject, tag)) return true;
    } while (clock_mono_ms() < deadline);
    return false;
}

static struct eventlog_group *group_of(struct eventlog *log, const char *group, const char *member, enum topic t) {
    struct eventlog_group *g = NULL;
    struct error err = {0};
    if (eventlog_group_open(log, group, member, &t, 1, NULL, NULL, &g, &err) != 0) fail_msg("group: %s", err.message);
    return g;
}

/* The next event of this tag; events of other tests are passed over, some of them committed. */
static bool group_next(struct eventlog_group *g, const char *tag, int64_t ms, struct event *e) {
    int64_t deadline = clock_mono_ms() + ms;
    int passed = 0;
    do {
        if (eventlog_group_poll(g, 100, e, NULL) != 0) continue;
        if (span_eq_str(e->subject, tag)) return true;
        if (passed++ % 50 == 0) (void)eventlog_group_commit(g, e, NULL);
    } while (clock_mono_ms() < deadline);
    return false;
}

static void group_name(char name[64], const char *tag) { snprintf(name, 64, "g-%s", tag); }

/* ---- the tests ---- */

static void headers_round_trip(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/services/test");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char tag[ID_TEXT_MAX];
    tag_make(tag);
    int n = ends_of(log, TOPIC_DOCUMENTS, ends);
    static const char bytes[] = "\0\1\xff binary \r\n";
    struct event full = {.topic = TOPIC_DOCUMENTS, .key = SPAN("doc-1"), .value = span_of(bytes, sizeof bytes), .id = SPAN("id-1"), .source = SPAN("/elsewhere"), .type = SPAN("other.Type"),
                         .subject = span_str(tag), .content_type = SPAN("application/json"), .traceparent = SPAN("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), .time_ms = 1764000000123};
    struct event bare = {.topic = TOPIC_DOCUMENTS, .key = SPAN("doc-1"), .subject = span_str(tag)};
    int64_t before = clock_wall_ms();
    assert_int_equal(eventlog_publish(log, &full, NULL), 0);
    assert_int_equal(eventlog_publish(log, &bare, NULL), 0);
    struct eventlog_view *v = view_from(log, TOPIC_DOCUMENTS, ends, n);
    struct event e;
    assert_true(view_next(v, tag, PATIENCE_MS, &e));
    assert_true(span_eq(e.key, full.key) && span_eq(e.value, full.value) && span_eq(e.id, full.id) && span_eq(e.source, full.source));
    assert_true(span_eq(e.type, full.type) && span_eq(e.content_type, full.content_type) && span_eq(e.traceparent, full.traceparent));
    assert_int_equal(e.time_ms, full.time_ms);
    int partition = e.partition;
    char first[EVENT_OFFSET_MAX];
    memcpy(first, e.offset, sizeof first);
    assert_true(view_next(v, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.source, "/services/test") && span_eq_str(e.type, "genloop.v1.Document") && span_eq_str(e.content_type, "application/protobuf"));
    assert_int_equal(e.id.len, 36);
    assert_int_equal(e.value.len, 0);
    assert_int_equal(e.traceparent.len, 0);
    assert_in_range(e.time_ms, before, before + PATIENCE_MS);
    assert_int_equal(e.partition, partition);
    assert_true(eventlog_offset_compare(first, e.offset) < 0);
    eventlog_view_close(v);
    eventlog_close(log);
}

struct producer {
    struct eventlog *log;
    const char *tag;
    int number, count;
    atomic_int acknowledged;
    atomic_bool stop;
    int pause_us;
};

/* Publishes "NUMBER i" under a key of its own. */
static void *produce(void *arg) {
    struct producer *p = arg;
    for (int i = 0; i < p->count && !atomic_load(&p->stop); i++) {
        char key[48], value[32];
        snprintf(key, sizeof key, "key-%d", p->number);
        snprintf(value, sizeof value, "%d %d", p->number, i);
        struct event e = {.topic = TOPIC_DOCUMENTS, .key = span_str(key), .value = span_str(value), .subject = span_str(p->tag)};
        struct error err = {0};
        int r = eventlog_publish(p->log, &e, &err);
        if (r != 0) {
            fprintf(stderr, "producer %d stopped at %d: %s\n", p->number, i, err.message);
            break;
        }
        atomic_store(&p->acknowledged, i + 1);
        if (p->pause_us) usleep((useconds_t)p->pause_us);
    }
    return NULL;
}

static void parse_pair(struct span value, int *number, int *i) {
    struct span head;
    int64_t a = -1, b = -1;
    if (span_cut(&value, ' ', &head)) {
        (void)span_to_i64(head, &a);
        (void)span_to_i64(value, &b);
    }
    *number = (int)a;
    *i = (int)b;
}

enum { PRODUCERS = 6, EACH = 150 };

static void order_per_key(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char tag[ID_TEXT_MAX];
    tag_make(tag);
    int n = ends_of(log, TOPIC_DOCUMENTS, ends);
    struct producer p[PRODUCERS];
    pthread_t thread[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        p[i] = (struct producer){.log = log, .tag = tag, .number = i, .count = EACH};
        assert_int_equal(pthread_create(&thread[i], NULL, produce, &p[i]), 0);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(p[i].acknowledged, EACH);
    }
    struct eventlog_view *v = view_from(log, TOPIC_DOCUMENTS, ends, n);
    int next[PRODUCERS] = {0}, partition[PRODUCERS];
    struct event e;
    for (int k = 0; k < PRODUCERS * EACH; k++) {
        int who, i;
        if (!view_next(v, tag, PATIENCE_MS, &e)) fail_msg("%d of %d events came", k, PRODUCERS * EACH);
        parse_pair(e.value, &who, &i);
        assert_in_range(who, 0, PRODUCERS - 1);
        assert_int_equal(i, next[who]++);
        if (i == 0) partition[who] = e.partition;
        assert_int_equal(e.partition, partition[who]);
    }
    assert_false(view_next(v, tag, 300, &e)); /* each once */
    eventlog_view_close(v);
    eventlog_close(log);
}

static void count_done(void *arg, int r) {
    if (r == 0) atomic_fetch_add((atomic_int *)arg, 1);
}

static void publish_async(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX];
    tag_make(tag);
    atomic_int done = 0;
    for (int i = 0; i < 500; i++) {
        struct event e = {.topic = TOPIC_JOB_PROGRESS, .key = SPAN("job"), .value = span_of(&i, sizeof i), .subject = span_str(tag)};
        assert_int_equal(eventlog_publish_async(log, &e, &done, count_done), 0);
    }
    eventlog_close(log); /* waits for all of them */
    assert_int_equal(done, 500);
    log = suite_open("/t");
    struct eventlog_view *v = view_from(log, TOPIC_JOB_PROGRESS, NULL, 0);
    struct event e;
    for (int i = 0; i < 500; i++) {
        assert_true(view_next(v, tag, PATIENCE_MS, &e));
        assert_memory_equal(e.value.data, &i, sizeof i);
    }
    eventlog_view_close(v);
    eventlog_close(log);
}

static void refused(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char tag[ID_TEXT_MAX];
    tag_make(tag);
    char *big = mem_zalloc(EVENT_VALUE_MAX + 1);
    char long_key[EVENT_KEY_MAX + 1] = {0};
    memset(big, 'x', EVENT_VALUE_MAX + 1);
    static const struct {
        const char *name;
        struct event event;
        int code;
    } cases[] = {
        {"no topic", {.topic = TOPIC_COUNT}, E_INVALID},
        {"compacted without a key", {.topic = TOPIC_MODELS, .value = {"x", 1}}, E_INVALID},
        {"time before 1970", {.topic = TOPIC_JOBS, .time_ms = -1}, E_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        if (eventlog_publish(log, &cases[i].event, &err) != cases[i].code || err.code != cases[i].code) fail_msg("%s: %s", cases[i].name, err.message);
    }
    struct error err = {0};
    struct event e = {.topic = TOPIC_DOCUMENTS, .key = SPAN("k"), .value = span_of(big, EVENT_VALUE_MAX + 1), .subject = span_str(tag)};
    assert_int_equal(eventlog_publish(log, &e, &err), E_TOO_LARGE);
    assert_int_equal(eventlog_publish_async(log, &e, NULL, NULL), E_TOO_LARGE);
    e = (struct event){.topic = TOPIC_DOCUMENTS, .key = span_of(long_key, sizeof long_key)};
    assert_int_equal(eventlog_publish(log, &e, &err), E_TOO_LARGE);

    /* The largest goes through whole, several at once too. */
    int n = ends_of(log, TOPIC_DOCUMENTS, ends);
    e = (struct event){.topic = TOPIC_DOCUMENTS, .key = SPAN("k"), .value = span_of(big, EVENT_VALUE_MAX), .subject = span_str(tag)};
    atomic_int done = 0;
    for (int i = 0; i < 8; i++) assert_int_equal(eventlog_publish_async(log, &e, &done, count_done), 0);
    assert_int_equal(eventlog_publish(log, &e, &err), 0);
    struct eventlog_view *v = view_from(log, TOPIC_DOCUMENTS, ends, n);
    for (int i = 0; i < 9; i++) {
        assert_true(view_next(v, tag, PATIENCE_MS, &e));
        assert_int_equal(e.value.len, EVENT_VALUE_MAX);
        assert_memory_equal(e.value.data, big, EVENT_VALUE_MAX);
    }
    assert_int_equal(done, 8);
    eventlog_view_close(v);
    eventlog_close(log);
    mem_free(big);
}

/* ---- groups ---- */

struct worker {
    const char *group, *tag;
    char member[16];
    struct eventlog *log;
    atomic_int *left;
    int seen, out_of_order;
    int last[64]; /* per key */
    atomic_int *committed; /* per event */
};

static void *work(void *arg) {
    struct worker *w = arg;
    struct eventlog_group *g = group_of(w->log, w->group, w->member, TOPIC_DOCUMENTS);
    int64_t deadline = clock_mono_ms() + PATIENCE_MS;
    memset(w->last, 0xff, sizeof w->last);
    while (atomic_load(w->left) > 0 && clock_mono_ms() < deadline) {
        struct event e;
        if (!group_next(g, w->tag, 500, &e)) continue;
        int key, i;
        parse_pair(e.value, &key, &i);
        usleep(2000); /* an effect, long enough for both to come to work */
        if (eventlog_group_commit(g, &e, NULL) != 0) continue;
        w->seen++;
        deadline = clock_mono_ms() + PATIENCE_MS; /* it goes on */
        if (i <= w->last[key]) w->out_of_order++;
        w->last[key] = i;
        if (atomic_fetch_add(&w->committed[key * 25 + i], 1) == 0) atomic_fetch_sub(w->left, 1);
    }
    eventlog_group_close(g);
    return NULL;
}

static void groups_share(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    enum { KEYS = 40, PER_KEY = 25, ALL = KEYS * PER_KEY };
    static atomic_int committed[ALL];
    memset(committed, 0, sizeof committed);
    atomic_int left = ALL, done = 0;
    struct worker w[2];
    pthread_t thread[2];
    for (int i = 0; i < 2; i++) {
        w[i] = (struct worker){.group = name, .tag = tag, .log = log, .left = &left, .committed = committed};
        snprintf(w[i].member, sizeof w[i].member, "m%d", i);
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < PER_KEY; i++)
        for (int k = 0; k < KEYS; k++) {
            char key[16], value[32];
            snprintf(key, sizeof key, "k%d", k);
            snprintf(value, sizeof value, "%d %d", k, i);
            struct event e = {.topic = TOPIC_DOCUMENTS, .key = span_str(key), .value = span_str(value), .subject = span_str(tag)};
            while (eventlog_publish_async(log, &e, &done, count_done) == E_FULL) usleep(1000);
            usleep(4000); /* publication goes on while the second member comes and partitions move */
        }
    for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    assert_int_equal(left, 0); /* none was skipped */
    assert_true(w[0].seen > 0 && w[1].seen > 0);
    assert_int_equal(w[0].out_of_order + w[1].out_of_order, 0);
    eventlog_close(log);
}

static void commit_after_effect(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    for (int i = 0; i < 4; i++) publish(log, TOPIC_DATASETS, tag, "one-key", (const char *[]){"0", "1", "2", "3"}[i]);
    struct event e;
    struct eventlog_group *g = group_of(log, name, "m", TOPIC_DATASETS);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "0"));
    assert_int_equal(e.deliveries, 1);
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "1"));
    eventlog_group_close(g); /* 1 was given and not committed */

    g = group_of(log, name, "m", TOPIC_DATASETS);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "1"));
    assert_int_equal(eventlog_group_rewind(g, &e, NULL), 0);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "1"));
    assert_true(e.deliveries >= 2);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "2"));
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0); /* and with it what stands before it */
    assert_true(eventlog_group_lag(g) >= 1);
    eventlog_group_close(g);

    g = group_of(log, name, "other", TOPIC_DATASETS);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "3"));
    assert_int_equal(e.deliveries, 1);
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0);
    assert_int_equal(eventlog_group_lag(g), 0);
    assert_false(group_next(g, tag, 300, &e));
    eventlog_group_close(g);
    eventlog_close(log);
}

static void dead_letters(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    int n = ends_of(log, TOPIC_DEAD_LETTERS, ends);
    publish(log, TOPIC_DATASETS, tag, "poison", "bad");
    publish(log, TOPIC_DATASETS, tag, "poison", "good");
    struct event e;
    struct eventlog_group *g = group_of(log, name, "m", TOPIC_DATASETS);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    char place[160];
    snprintf(place, sizeof place, "genloop.datasets.v1/%d/%s", e.partition, e.offset);
    assert_int_equal(eventlog_group_dead_letter(g, &e, "no tokens in it", NULL), 0);
    assert_true(group_next(g, tag, PATIENCE_MS, &e)); /* it goes on */
    assert_true(span_eq_str(e.value, "good"));
    eventlog_group_close(g);
    struct eventlog_view *v = view_from(log, TOPIC_DEAD_LETTERS, ends, n);
    Genloop__V1__DeadLetter *letter = NULL;
    while (!letter) {
        assert_true(view_next(v, "genloop.datasets.v1", PATIENCE_MS, &e));
        letter = genloop__v1__dead_letter__unpack(NULL, e.value.len, (const uint8_t *)e.value.data);
        assert_non_null(letter);
        if (strcmp(letter->group, name) == 0) break;
        genloop__v1__dead_letter__free_unpacked(letter, NULL);
        letter = NULL;
    }
    assert_string_equal(letter->id, place);
    assert_string_equal(letter->reason, "no tokens in it");
    assert_string_equal(letter->topic, "genloop.datasets.v1");
    assert_int_equal(letter->value.len, 3);
    assert_memory_equal(letter->value.data, "bad", 3);
    assert_true(span_eq_str(e.key, "poison"));
    assert_int_equal(letter->attempts, 1);
    assert_true(letter->n_headers >= 4);
    genloop__v1__dead_letter__free_unpacked(letter, NULL);
    eventlog_view_close(v);
    eventlog_close(log);
}

/* A consumer in a process of its own: says each value it is given on stdout, commits those before `hang`, and hangs there; or, with an eighth word, is
 * stopped there, and says after it goes on what became of its commit. */
void suite_consumer(int argc, char **argv) {
    if (argc < 7 || strcmp(argv[1], "--consumer") != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    span_copy(suite_fixture.url, sizeof suite_fixture.url, span_str(argv[2]));
    struct eventlog *log = suite_open("/t");
    struct eventlog_group *g = group_of(log, argv[3], argv[4], TOPIC_DATASETS);
    for (;;) {
        struct event e;
        if (!group_next(g, argv[5], PATIENCE_MS, &e)) _exit(1);
        printf("%.*s\n", SPAN_ARG(e.value));
        fflush(stdout);
        if (span_eq_str(e.value, argv[6])) {
            if (argc < 8) pause();
            raise(SIGSTOP);
            printf("%s\n", error_kind(eventlog_group_commit(g, &e, NULL))->name);
            fflush(stdout);
            pause();
        }
        if (eventlog_group_commit(g, &e, NULL) != 0) _exit(2);
    }
}

static void killed_consumer(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    static const char *const values[] = {"a", "b", "c", "d"};
    for (int i = 0; i < 4; i++) publish(log, TOPIC_DATASETS, tag, "one-key", values[i]);
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(out[1], STDOUT_FILENO);
        execl("/proc/self/exe", "consumer", "--consumer", suite_fixture.url, name, "victim", tag, "c", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    char said[16] = {0};
    size_t len = 0;
    while (len < 6) {
        ssize_t got = read(out[0], said + len, sizeof said - 1 - len);
        if (got <= 0) fail_msg("the consumer ended after \"%s\"", said);
        len += (size_t)got;
    }
    assert_string_equal(said, "a\nb\nc\n");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(out[0]);
    struct event e;
    struct eventlog_group *g = group_of(log, name, "heir", TOPIC_DATASETS);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "c")); /* neither what was committed again, nor what comes after it first */
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0);
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "d"));
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0);
    assert_false(group_next(g, tag, 300, &e));
    eventlog_group_close(g);
    eventlog_close(log);
}

/* Reads from fd until there are n lines. */
static void read_lines(int fd, char *text, size_t size, int n) {
    size_t len = 0;
    for (int lines = 0; lines < n;) {
        assert_true(len + 1 < size);
        ssize_t got = read(fd, text + len, 1);
        if (got <= 0) fail_msg("the consumer ended after \"%.*s\"", (int)len, text);
        lines += text[len++] == '\n';
    }
    text[len] = '\0';
}

/* A member that is stopped for longer than a session: another has its partition, and its late commit is refused. */
static void stopped_consumer(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64], said[64];
    tag_make(tag);
    group_name(name, tag);
    static const char *const values[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) publish(log, TOPIC_DATASETS, tag, "one-key", values[i]);
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(out[1], STDOUT_FILENO);
        execl("/proc/self/exe", "consumer", "--consumer", suite_fixture.url, name, "sleeper", tag, "b", "stop", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    read_lines(out[0], said, sizeof said, 2);
    assert_string_equal(said, "a\nb\n");
    int status;
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    struct event e;
    struct eventlog_group *g = group_of(log, name, "heir", TOPIC_DATASETS);
    assert_true(group_next(g, tag, PATIENCE_MS, &e)); /* the sleeper's session runs out */
    assert_true(span_eq_str(e.value, "b"));
    kill(child, SIGCONT);
    read_lines(out[0], said, sizeof said, 1);
    assert_string_equal(said, "ABORTED\n");
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0); /* the heir's counts */
    assert_true(group_next(g, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "c"));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(out[0]);
    eventlog_group_close(g);
    eventlog_close(log);
}

/* One of the same name comes: it has the partition at once, and the former is told. */
static void same_name(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    publish(log, TOPIC_DATASETS, tag, "k", "1");
    publish(log, TOPIC_DATASETS, tag, "k", "2");
    struct event e, again;
    struct eventlog_group *former = group_of(log, name, "twin", TOPIC_DATASETS);
    assert_true(group_next(former, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "1"));
    struct eventlog_group *newer = group_of(log, name, "twin", TOPIC_DATASETS);
    assert_true(group_next(newer, tag, PATIENCE_MS, &again));
    assert_true(span_eq_str(again.value, "1"));
    assert_int_equal(eventlog_group_commit(former, &e, NULL), E_ABORTED);
    int r = E_AGAIN;
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; r != E_ABORTED && clock_mono_ms() < deadline;) r = eventlog_group_poll(former, 50, &e, NULL);
    assert_int_equal(r, E_ABORTED);
    eventlog_group_close(former); /* which takes nothing from the newer */
    assert_int_equal(eventlog_group_commit(newer, &again, NULL), 0);
    assert_true(group_next(newer, tag, PATIENCE_MS, &again));
    assert_true(span_eq_str(again.value, "2"));
    eventlog_group_close(newer);
    eventlog_close(log);
}

/* One run of what long_effect says. False where the busy member's session ran out all the same, since this machine gave it no time to say that it lives: then it has been told. */
static bool effect_is_alone(void) {
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    for (int i = 0; i < 40; i++) {
        char key[16], value[16];
        snprintf(key, sizeof key, "k%d", i % 20);
        snprintf(value, sizeof value, "%d %d", i % 20, i / 20);
        publish(log, TOPIC_DOCUMENTS, tag, key, value);
    }
    struct event e, other;
    struct eventlog_group *busy = group_of(log, name, "busy", TOPIC_DOCUMENTS);
    assert_true(group_next(busy, tag, PATIENCE_MS, &e));
    int partition = e.partition;
    struct eventlog_group *idle = group_of(log, name, "idle", TOPIC_DOCUMENTS);
    int64_t until = clock_mono_ms() + 2 * EVENTLOG_SESSION_MS; /* busy: not a poll for two sessions */
    int seen = 0;
    bool alone = true;
    while (alone && clock_mono_ms() < until)
        if (group_next(idle, tag, 100, &other)) {
            alone = other.partition != partition;
            assert_int_equal(eventlog_group_commit(idle, &other, NULL), 0);
            seen++;
        }
    assert_int_equal(eventlog_group_commit(busy, &e, NULL), alone ? 0 : E_ABORTED);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; alone && seen < 39 && clock_mono_ms() < deadline;) { /* then all of it is handled, each once */
        if (group_next(busy, tag, 50, &other)) {
            if (eventlog_group_commit(busy, &other, NULL) == 0) seen++;
        }
        if (group_next(idle, tag, 50, &other)) {
            if (eventlog_group_commit(idle, &other, NULL) == 0) seen++;
        }
    }
    if (alone) assert_int_equal(seen, 39);
    eventlog_group_close(busy);
    eventlog_group_close(idle);
    eventlog_close(log);
    return alone;
}
/* However long the effect of an event takes, no other member is given it, nor what stands behind it; and its commit counts. */
static void long_effect(void **state) {
    (void)state;
    int runs = 0;
    while (!effect_is_alone())
        if (++runs == 5) fail_msg("in %d runs the busy member lost its partition", runs);
}

struct moves {
    int assigned, revoked;
};
static void on_assigned(void *arg, enum topic t, int partition) {
    assert_int_equal(t, TOPIC_DOCUMENTS);
    assert_in_range(partition, 0, topic_info(t)->partitions - 1);
    ((struct moves *)arg)->assigned++;
}
static void on_revoked(void *arg, enum topic t, int partition) {
    (void)t;
    (void)partition;
    ((struct moves *)arg)->revoked++;
}

static void rebalance_is_told(void **state) {
    (void)state;
    static const struct eventlog_group_events events = {on_assigned, on_revoked};
    static const enum topic topic = TOPIC_DOCUMENTS;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    struct moves a = {0}, b = {0};
    struct eventlog_group *first = NULL, *second = NULL;
    struct event e;
    assert_int_equal(eventlog_group_open(log, name, "a", &topic, 1, &events, &a, &first, NULL), 0);
    int64_t deadline = clock_mono_ms() + PATIENCE_MS;
    while (a.assigned < 4 && clock_mono_ms() < deadline)
        if (eventlog_group_poll(first, 100, &e, NULL) == 0) (void)eventlog_group_commit(first, &e, NULL);
    assert_int_equal(a.assigned, 4);
    assert_int_equal(eventlog_group_open(log, name, "b", &topic, 1, &events, &b, &second, NULL), 0);
    while (!(b.assigned - b.revoked == 2 && a.assigned - a.revoked == 2) && clock_mono_ms() < deadline) {
        if (eventlog_group_poll(first, 50, &e, NULL) == 0) (void)eventlog_group_commit(first, &e, NULL);
        if (eventlog_group_poll(second, 50, &e, NULL) == 0) (void)eventlog_group_commit(second, &e, NULL);
    }
    assert_int_equal(a.assigned - a.revoked, 2);
    assert_int_equal(b.assigned - b.revoked, 2);
    eventlog_group_close(first);
    while (b.assigned - b.revoked < 4 && clock_mono_ms() < deadline)
        if (eventlog_group_poll(second, 50, &e, NULL) == 0) (void)eventlog_group_commit(second, &e, NULL);
    assert_int_equal(b.assigned - b.revoked, 4);
    eventlog_group_close(second);
    eventlog_close(log);
}

/* ---- views ---- */

static void view_resumes(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char tag[ID_TEXT_MAX];
    tag_make(tag);
    int n = ends_of(log, TOPIC_FEEDBACK, ends);
    for (int i = 0; i < 40; i++) {
        char key[16], value[16];
        snprintf(key, sizeof key, "k%d", i % 8);
        snprintf(value, sizeof value, "%d %d", i % 8, i / 8);
        publish(log, TOPIC_FEEDBACK, tag, key, value);
    }
    int next[8] = {0};
    struct event e;
    for (int stretch = 0; stretch < 4; stretch++) { /* a view that stops and goes on from the offsets it kept sees each event once, in order */
        struct eventlog_view *v = view_from(log, TOPIC_FEEDBACK, ends, n);
        for (int i = 0; i < 10; i++) {
            int key, k;
            assert_true(view_next(v, tag, PATIENCE_MS, &e));
            parse_pair(e.value, &key, &k);
            assert_int_equal(k, next[key]++);
            memcpy(ends[e.partition].offset, e.offset, EVENT_OFFSET_MAX);
        }
        if (stretch < 3) assert_false(eventlog_view_caught_up(v));
        else {
            for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; !eventlog_view_caught_up(v) && clock_mono_ms() < deadline;) (void)eventlog_view_poll(v, 50, &e, NULL);
            assert_true(eventlog_view_caught_up(v));
        }
        eventlog_view_close(v);
    }
    struct eventlog_view *v = view_from(log, TOPIC_FEEDBACK, ends, n);
    assert_false(view_next(v, tag, 300, &e));
    publish(log, TOPIC_FEEDBACK, tag, "k0", "last");
    assert_true(view_next(v, tag, PATIENCE_MS, &e));
    assert_true(span_eq_str(e.value, "last"));
    eventlog_view_close(v);
    eventlog_close(log);
}

static void compaction(void **state) {
    (void)state;
    const char *usual = suite_fixture.properties;
    suite_fixture.properties = suite_fixture.compact_properties;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX], keys[3][64];
    tag_make(tag);
    for (int i = 0; i < 3; i++) snprintf(keys[i], sizeof keys[i], "%s-%d", tag, i);
    for (int i = 0; i < 30; i++) {
        char value[16];
        snprintf(value, sizeof value, "%d", i);
        publish(log, TOPIC_ALIASES, tag, keys[i % 3], value);
    }
    publish(log, TOPIC_ALIASES, tag, keys[2], ""); /* a tombstone */
    int64_t deadline = clock_mono_ms() + PATIENCE_MS;
    int seen;
    bool tombstone;
    do { /* a new view gets the newest of each key at any time, and in the end nothing else */
        char newest[3][16] = {{0}};
        struct event e;
        struct eventlog_view *v = view_from(log, TOPIC_ALIASES, NULL, 0);
        seen = 0;
        tombstone = false;
        while (!eventlog_view_caught_up(v)) {
            if (eventlog_view_poll(v, 100, &e, NULL) != 0 || !span_eq_str(e.subject, tag)) continue;
            seen++;
            for (int i = 0; i < 3; i++)
                if (span_eq_str(e.key, keys[i])) {
                    span_copy(newest[i], sizeof newest[i], e.value);
                    if (i == 2) tombstone = span_empty(e.value);
                }
        }
        assert_string_equal(newest[0], "27");
        assert_string_equal(newest[1], "28");
        assert_true(newest[2][0] == '\0');
        eventlog_view_close(v);
        if (seen <= 3) break;
        publish(log, TOPIC_ALIASES, "another", "tick", "tock"); /* a segment that is written to is not compacted */
        usleep(200000);
    } while (clock_mono_ms() < deadline);
    assert_true(seen == 2 || (seen == 3 && tombstone));
    eventlog_close(log);
    suite_fixture.properties = usual;
}

static void foreign_event(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char value[96], id[ID_TEXT_MAX];
    int n = ends_of(log, TOPIC_FEEDBACK, ends);
    snprintf(value, sizeof value, "{\"id\":\"%s\",\"kind\":\"thumb\"}", id_make(id));
    suite_fixture.publish_foreign(&suite_fixture, "genloop.feedback.v1", "request-1", value);
    struct eventlog_view *v = view_from(log, TOPIC_FEEDBACK, ends, n);
    struct event e;
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS;;) {
        assert_true(clock_mono_ms() < deadline);
        if (eventlog_view_poll(v, 100, &e, NULL) == 0 && span_eq_str(e.value, value)) break;
    }
    char place[EVENT_ID_MAX];
    snprintf(place, sizeof place, "genloop.feedback.v1/%d/%s", e.partition, e.offset);
    assert_true(span_eq_str(e.id, place)); /* an id that is the same at each delivery */
    assert_true(span_eq_str(e.key, "request-1") && span_eq_str(e.type, "genloop.v1.FeedbackEvent"));
    assert_true(e.time_ms > 1600000000000);
    eventlog_view_close(v);
    eventlog_close(log);
}

/* ---- leases ---- */

static uint64_t lease_take(struct eventlog_lease *l) {
    uint64_t epoch = 0;
    struct error err = {0};
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < deadline; usleep(20000)) {
        int r = eventlog_lease_poll(l, &epoch, &err);
        if (r == 0) return epoch;
        assert_int_equal(r, E_AGAIN);
    }
    fail_msg("the lease was not to be had: %s", err.message);
    return 0;
}

static void lease_fences(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    char tag[ID_TEXT_MAX];
    tag_make(tag);
    struct eventlog_lease *a = NULL, *b = NULL, *again = NULL;
    uint64_t epoch = 0, ignored;
    assert_int_equal(eventlog_lease_open(log, tag, "a", suite_fixture.lease_ms, &a, NULL), 0);
    assert_int_equal(eventlog_lease_open(log, tag, "b", suite_fixture.lease_ms, &b, NULL), 0);
    epoch = lease_take(a);
    assert_true(epoch > 0);
    assert_int_equal(eventlog_lease_poll(b, &ignored, NULL), E_AGAIN);
    assert_int_equal(eventlog_lease_poll(a, &ignored, NULL), 0);
    assert_true(ignored == epoch); /* renewing changes nothing */

    uint64_t second = lease_take(b); /* a falls silent, and its time runs out */
    assert_true(second > epoch);
    assert_int_equal(eventlog_lease_poll(a, &ignored, NULL), E_AGAIN);

    assert_int_equal(eventlog_lease_open(log, tag, "b", suite_fixture.lease_ms, &again, NULL), 0); /* b dies and comes back under its name: at once, above its former life */
    uint64_t third = 0;
    assert_int_equal(eventlog_lease_poll(again, &third, NULL), 0);
    assert_true(third > second);
    assert_int_equal(eventlog_lease_poll(b, &ignored, NULL), E_AGAIN); /* which does not take it back */
    eventlog_lease_close(b);
    assert_int_equal(eventlog_lease_poll(again, &ignored, NULL), 0);
    assert_true(ignored == third);

    eventlog_lease_close(again); /* lets go: no waiting */
    uint64_t fourth = 0;
    assert_int_equal(eventlog_lease_poll(a, &fourth, NULL), 0);
    assert_true(fourth > third);
    eventlog_lease_close(a);
    eventlog_close(log);
}

/* ---- the server dies ---- */

struct reading {
    struct eventlog *log;
    const char *tag, *group;
    atomic_bool stop;
    int next[PRODUCERS], duplicates, gaps, out_of_order;
};

static void note(struct reading *r, const struct event *e, bool once) {
    int who, i;
    parse_pair(e->value, &who, &i);
    if (who < 0 || who >= PRODUCERS) return;
    if (i == r->next[who]) __atomic_store_n(&r->next[who], i + 1, __ATOMIC_RELAXED); /* the test's thread looks at the group's while it goes on */
    else if (i > r->next[who]) r->gaps++;
    else if (once) r->duplicates++;
}

static void *read_group(void *arg) {
    struct reading *r = arg;
    struct eventlog_group *g = group_of(r->log, r->group, "m", TOPIC_DOCUMENTS);
    while (!atomic_load(&r->stop)) {
        struct event e;
        if (!group_next(g, r->tag, 100, &e)) continue;
        note(r, &e, false);
        (void)eventlog_group_commit(g, &e, NULL);
    }
    eventlog_group_close(g);
    return NULL;
}

static void server_dies(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX];
    char tag[ID_TEXT_MAX], name[64];
    tag_make(tag);
    group_name(name, tag);
    int n = ends_of(log, TOPIC_DOCUMENTS, ends);
    struct producer p[PRODUCERS];
    pthread_t thread[PRODUCERS], group_thread;
    for (int i = 0; i < PRODUCERS; i++) {
        p[i] = (struct producer){.log = log, .tag = tag, .number = i, .count = 1000000, .pause_us = 300};
        assert_int_equal(pthread_create(&thread[i], NULL, produce, &p[i]), 0);
    }
    struct reading grouped = {.log = log, .tag = tag, .group = name};
    assert_int_equal(pthread_create(&group_thread, NULL, read_group, &grouped), 0);
    struct reading viewed = {.tag = tag};
    struct eventlog_view *v = view_from(log, TOPIC_DOCUMENTS, ends, n);
    struct event e;
    struct random chance;
    random_seed(&chance, 4711);
    for (int k = 0; k < suite_fixture.kills; k++) {
        for (int64_t until = clock_mono_ms() + 100 + (int64_t)random_below(&chance, 300); clock_mono_ms() < until;)
            if (view_next(v, tag, 20, &e)) note(&viewed, &e, true);
        suite_fixture.kill_server(&suite_fixture);
        if (k % 2) usleep((useconds_t)(suite_fixture.away_ms * 1000));
        suite_fixture.start_server(&suite_fixture);
    }
    int before[PRODUCERS]; /* it goes on after the last one */
    for (int i = 0; i < PRODUCERS; i++) before[i] = atomic_load(&p[i].acknowledged);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < deadline; usleep(10000)) {
        int on = 0;
        for (int i = 0; i < PRODUCERS; i++) on += atomic_load(&p[i].acknowledged) > before[i];
        if (on == PRODUCERS) break;
    }
    for (int i = 0; i < PRODUCERS; i++) atomic_store(&p[i].stop, true);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(thread[i], NULL);
    int all = 0;
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < deadline;) {
        if (view_next(v, tag, 300, &e)) note(&viewed, &e, true);
        else if (eventlog_view_caught_up(v)) break;
    }
    for (int i = 0; i < PRODUCERS; i++) {
        int acknowledged = atomic_load(&p[i].acknowledged);
        if (acknowledged <= before[i]) fail_msg("producer %d did not go on after the last restart", i);
        if (viewed.next[i] != acknowledged) fail_msg("producer %d: %d acknowledged, %d in the log", i, acknowledged, viewed.next[i]);
        all += acknowledged;
    }
    assert_int_equal(viewed.gaps, 0);
    assert_int_equal(viewed.duplicates, 0);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < deadline; usleep(20000)) {
        int seen = 0;
        for (int i = 0; i < PRODUCERS; i++) seen += __atomic_load_n(&grouped.next[i], __ATOMIC_RELAXED);
        if (seen >= all) break;
    }
    atomic_store(&grouped.stop, true);
    pthread_join(group_thread, NULL);
    for (int i = 0; i < PRODUCERS; i++) assert_int_equal(grouped.next[i], viewed.next[i]);
    assert_int_equal(grouped.gaps, 0);
    print_message("%d events over %d kills of the server\n", all, suite_fixture.kills);
    eventlog_view_close(v);
    eventlog_close(log);
}

static void health(void **state) {
    (void)state;
    struct eventlog *log = suite_open("/t");
    assert_true(strlen(eventlog_identity(log)) > 8);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; !eventlog_healthy(log) && clock_mono_ms() < deadline;) usleep(20000);
    assert_true(eventlog_healthy(log));
    suite_fixture.kill_server(&suite_fixture);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; eventlog_healthy(log) && clock_mono_ms() < deadline;) usleep(20000);
    assert_false(eventlog_healthy(log));
    struct eventlog_config c = {.url = suite_fixture.url, .source = "/t", .properties = suite_fixture.properties, .publish_timeout_ms = 300};
    struct eventlog *impatient = NULL;
    assert_int_equal(eventlog_open(&c, &impatient, NULL), E_UNAVAILABLE);
    suite_fixture.start_server(&suite_fixture);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; !eventlog_healthy(log) && clock_mono_ms() < deadline;) usleep(20000);
    assert_true(eventlog_healthy(log));
    assert_int_equal(eventlog_open(&c, &impatient, NULL), 0);
    suite_fixture.kill_server(&suite_fixture);
    struct error err = {0};
    struct event e = {.topic = TOPIC_JOBS, .key = SPAN("k"), .value = SPAN("v")};
    int r = eventlog_publish(impatient, &e, &err);
    assert_true(r == E_DEADLINE || r == E_UNAVAILABLE); /* it ends, and says that it is not known */
    suite_fixture.start_server(&suite_fixture);
    eventlog_close(impatient);
    eventlog_close(log);
}

const struct CMUnitTest suite_tests[] = {
    cmocka_unit_test(headers_round_trip), cmocka_unit_test(order_per_key), cmocka_unit_test(publish_async), cmocka_unit_test(refused),
    cmocka_unit_test(commit_after_effect), cmocka_unit_test(groups_share), cmocka_unit_test(rebalance_is_told), cmocka_unit_test(dead_letters),
    cmocka_unit_test(killed_consumer), cmocka_unit_test(stopped_consumer), cmocka_unit_test(same_name), cmocka_unit_test(long_effect), cmocka_unit_test(view_resumes), cmocka_unit_test(compaction), cmocka_unit_test(foreign_event),
    cmocka_unit_test(lease_fences), cmocka_unit_test(health), cmocka_unit_test(server_dies),
};
const size_t suite_count = sizeof suite_tests / sizeof suite_tests[0];
