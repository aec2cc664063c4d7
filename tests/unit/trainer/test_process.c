/*
 * The trainer as a process: a home with two redis-servers, a registry's key, datasets in the store and on their topic; requests over the bus. Killed at random steps it comes to the weights of
 * a run that nobody disturbed. Needs redis-server and the executable beside the tests (bin/genloop-trainer); skipped where one is missing.
 */
#include <libgen.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop_process.h"
#include "base/random.h"
#include "bus/bus.h"
#include "eventlog/eventlog.h"
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/datasets.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "registry/fold.h"
#include "registry/record.h"
#include "services/trainer/jobs.h"
#include "store/store.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"

enum { PATIENCE_MS = 60000, VOCAB = 300, TRAINERS = 2 };
/* Long enough to be hit in the middle, and short enough where every load is watched over. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STEPS 80
#define SEQUENCES 2
#else
#define STEPS 200
#define SEQUENCES 16
#endif
#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)

static struct {
    char home[64], executable[4096];
    struct loop *loop;
    struct process *log_server, *cache_server;
    struct instance {
        char name[16];
        struct process *process;
        struct bus_peer *peer;
        int exit_status; /* −1000 while it runs */
        bool have;
        int64_t started_ms;
    } trainers[TRAINERS];
    struct eventlog *log;
    struct store *store;
    struct registry_key key;
    struct bus_keys bus_keys;
    struct bus_client *client;
    char weights[SHA256_HEX_MAX]; /* of the run that nobody disturbed */
    char output[SHA256_HEX_MAX];  /* its directory */
    uint64_t output_size, revision, seed;
    struct random random;
} t;

static const char *path(const char *relative) {
    static char out[4][4096];
    static int next;
    char *at = out[next++ % 4];
    snprintf(at, sizeof out[0], "%s/%s", t.home, relative);
    return at;
}

/* --- waiting --- */

static void stop_loop(void *arg) { loop_stop(arg); }
static void wait_until(const char *what, bool (*holds)(void *arg), void *arg) {
    int64_t until = clock_mono_ms() + PATIENCE_MS;
    struct loop_timer *timer = loop_timer_new(t.loop, t.loop, stop_loop);
    while (!holds(arg)) {
        if (clock_mono_ms() > until) fail_msg("waited too long for: %s", what);
        loop_timer_start(timer, 2, 0);
        loop_run(t.loop);
    }
    loop_timer_close(timer);
}
static bool is_true(void *arg) { return *(bool *)arg; }

/* --- the platform --- */

static void on_exit_ignored(void *arg, int status) {
    (void)arg;
    (void)status;
}
static void on_trainer_exit(void *arg, int status) { ((struct instance *)arg)->exit_status = status; }
static struct process *start_redis(const char *name) {
    char socket[128], dir[128];
    snprintf(dir, sizeof dir, "%s/%s", t.home, name);
    snprintf(socket, sizeof socket, "%s/run/%s.sock", t.home, name);
    assert_int_equal(dir_make(dir, NULL), 0);
    const char *argv[] = {"redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "yes",
                          "--appendfsync", "always", "--maxmemory-policy", "noeviction", NULL};
    struct error err;
    struct process *p = process_spawn(t.loop, argv, NULL, -1, NULL, on_exit_ignored, &err);
    if (!p) fail_msg("%s", err.message);
    return p;
}
static bool socket_there(void *arg) { return access(arg, F_OK) == 0; }

static void on_heartbeat(void *arg, struct bus_peer *peer, struct span member) {
    (void)arg;
    Genloop__V1__Member *m = genloop__v1__member__unpack(NULL, member.len, (const uint8_t *)member.data);
    assert_non_null(m);
    assert_string_equal(m->service, "trainer");
    for (int i = 0; i < TRAINERS; i++)
        if (t.trainers[i].peer == peer) t.trainers[i].have = m->ready;
    genloop__v1__member__free_unpacked(m, NULL);
}
static void on_lost(void *arg, struct bus_peer *peer) {
    (void)arg;
    (void)peer;
}
static bool is_ready(void *arg) { return ((struct instance *)arg)->have || ((struct instance *)arg)->exit_status != -1000; }

static void start_trainer(int i) {
    struct instance *in = &t.trainers[i];
    const char *argv[] = {t.executable, NULL};
    char endpoint[128];
    struct error err;
    snprintf(in->name, sizeof in->name, "trainer-%d", i + 1);
    setenv("GENLOOP_HOME", t.home, 1);
    setenv("GENLOOP_INSTANCE", in->name, 1);
    setenv("GENLOOP_TRAINER_THREADS", "1", 1);
    if (!getenv("GENLOOP_LOG_LEVEL")) setenv("GENLOOP_LOG_LEVEL", "warn", 1);
    in->exit_status = -1000;
    in->have = false;
    in->started_ms = clock_mono_ms();
    in->process = process_spawn(t.loop, argv, NULL, STDERR_FILENO, in, on_trainer_exit, &err);
    if (!in->process) fail_msg("%s", err.message);
    if (in->peer) bus_peer_disconnect(in->peer);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/run/%s.bus", t.home, in->name);
    if (!(in->peer = bus_peer_connect(t.client, endpoint, t.bus_keys.public_key, NULL, &err))) fail_msg("%s", err.message);
    wait_until("the trainer", is_ready, in);
    assert_int_equal(in->exit_status, -1000);
}

static bool has_exited(void *arg) { return ((struct instance *)arg)->exit_status != -1000; }
static int end_trainer(int i, int signum) {
    struct instance *in = &t.trainers[i];
    assert_int_equal(process_kill(in->process, signum), 0);
    wait_until("the end of the trainer", has_exited, in);
    process_close(in->process);
    in->process = NULL;
    return in->exit_status;
}

/* --- datasets --- */

static const char TEXT[] = "A trainer takes what people wrote and makes a model of it. It writes a checkpoint now and then, and goes on from there. ";

static void put(struct json_out *w, const char *key, const char *count_key, uint64_t count, struct span bytes, bool in_array) {
    struct object_ref ref;
    struct error err;
    if (store_put(t.store, bytes, &ref, &err) != 0) fail_msg("%s", err.message);
    json_key(w, key);
    if (in_array) json_array(w);
    json_object(w);
    json_str(w, "sha256", ref.sha256);
    json_num(w, "size", (int64_t)ref.size);
    if (count_key) json_num(w, count_key, (int64_t)count);
    json_object_end(w);
    if (in_array) json_array_end(w);
}

static void put_rows(struct json_out *w, const char *key, uint64_t rows, struct span lines, bool in_array) {
    size_t room = ZSTD_compressBound(lines.len);
    char *packed = mem_alloc(room);
    assert_non_null(packed);
    size_t n = ZSTD_compress(packed, room, lines.data, lines.len, 3);
    assert_false(ZSTD_isError(n));
    put(w, key, "rows", rows, span_of(packed, n), in_array);
    mem_free(packed);
}

static void announce(const char *name, uint32_t version, Genloop__V1__DatasetKind kind, struct span manifest) {
    Genloop__V1__Dataset d = GENLOOP__V1__DATASET__INIT;
    Genloop__V1__ObjectRef ref = GENLOOP__V1__OBJECT_REF__INIT;
    struct object_ref object;
    struct buf packed;
    struct error err;
    if (store_put(t.store, manifest, &object, &err) != 0) fail_msg("%s", err.message);
    ref.sha256 = object.sha256;
    ref.size_bytes = object.size;
    d.name = (char *)(uintptr_t)name;
    d.tenant = (char *)(uintptr_t)"default";
    d.version = version;
    d.state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY;
    d.event_time_ms = clock_wall_ms();
    d.kind = kind;
    d.build_id = (char *)(uintptr_t)"build";
    d.manifest = &ref;
    buf_init(&packed, 1 << 16);
    assert_int_equal(record_pack(&d.base, &packed), 0);
    struct event e = {.topic = TOPIC_DATASETS, .key = span_str(name), .value = buf_span(&packed)};
    if (eventlog_publish(t.log, &e, &err) != 0) fail_msg("%s", err.message);
    buf_fini(&packed);
}

static void append_tokens(struct buf *out, const struct tokenizer *tokenizer, int times) {
    struct tokens ids = {0};
    struct error err;
    if (tokenizer_encode(tokenizer, span_str(TEXT), TOKENIZER_NO_SPECIALS, &ids, &err) != 0) fail_msg("%s", err.message);
    for (int k = 0; k < times; k++)
        for (size_t i = 0; i < ids.len; i++) {
            buf_append_char(out, (char)(ids.ids[i] & 255));
            buf_append_char(out, (char)(ids.ids[i] >> 8));
        }
    tokens_fini(&ids);
}

static void make_texts(void) {
    struct tokenizer_trainer *trainer;
    struct tokenizer *tokenizer;
    struct tokenizer_train_options options = {.vocab_size = VOCAB};
    struct buf manifest, text, tokens, rows;
    struct json_out w;
    struct error err;
    if (tokenizer_trainer_new(&trainer, &options, &err) != 0 || tokenizer_trainer_feed(trainer, span_str(TEXT), &err) != 0 ||
        tokenizer_trainer_feed(trainer, span_str(TEXT), &err) != 0 || tokenizer_trainer_finish(trainer, &tokenizer, NULL, NULL, &err) != 0)
        fail_msg("%s", err.message);
    tokenizer_trainer_free(trainer);
    buf_init(&manifest, 1 << 20);
    buf_init(&text, 1 << 20);
    buf_init(&tokens, 1 << 20);
    buf_init(&rows, 1 << 20);
    json_begin(&w, &manifest);
    json_object(&w);
    json_num(&w, "format", 1);
    json_key(&w, "license");
    json_array(&w);
    json_put_str(&w, "CC0-1.0");
    json_array_end(&w);
    json_str(&w, "token_type", "uint16");
    assert_int_equal(tokenizer_write(tokenizer, &text), 0);
    put(&w, "tokenizer", NULL, 0, buf_span(&text), false);
    buf_clear(&text);
    assert_int_equal(tokenizer_write_config(tokenizer, CHAT_TEMPLATE_CHATML, 0, &text), 0);
    put(&w, "tokenizer_config", NULL, 0, buf_span(&text), false);
    json_key(&w, "splits");
    json_object(&w);
    static const char *const splits[] = {"train", "held_out"};
    for (int s = 0; s < 2; s++) {
        json_key(&w, splits[s]);
        json_object(&w);
        /* in two shards, so that they have to be put together */
        json_key(&w, "tokens");
        json_array(&w);
        for (int k = 0; k < 2; k++) {
            struct object_ref ref;
            buf_clear(&tokens);
            append_tokens(&tokens, tokenizer, s ? 4 : 40 + k);
            if (store_put(t.store, buf_span(&tokens), &ref, &err) != 0) fail_msg("%s", err.message);
            json_object(&w);
            json_str(&w, "sha256", ref.sha256);
            json_num(&w, "count", (int64_t)tokens.len / 2);
            json_object_end(&w);
        }
        json_array_end(&w);
        buf_clear(&rows);
        for (int i = 0; i < 20; i++) buf_printf(&rows, "{\"id\":\"%d\",\"text\":\"A trainer takes what people wrote, time %d. It goes on from there.\"}\n", i, i);
        put_rows(&w, "samples", 20, buf_span(&rows), true);
        buf_clear(&rows);
        for (int i = 0; i < 20; i++)
            buf_printf(&rows, "{\"messages\":[{\"role\":\"user\",\"content\":\"What is it, %d?\"},{\"role\":\"assistant\",\"content\":\"It is a trainer of number %d.\"}]}\n", i, i);
        put_rows(&w, "pairs", 20, buf_span(&rows), false);
        json_object_end(&w);
    }
    json_object_end(&w);
    json_object_end(&w);
    assert_int_equal(manifest.failed, 0);
    announce("texts", 1, GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT, buf_span(&manifest));
    buf_fini(&manifest);
    buf_fini(&text);
    buf_fini(&tokens);
    buf_fini(&rows);
    tokenizer_free(tokenizer);
}

static void make_preferences(void) {
    struct buf manifest, rows;
    struct json_out w;
    buf_init(&manifest, 1 << 20);
    buf_init(&rows, 1 << 20);
    json_begin(&w, &manifest);
    json_object(&w);
    json_num(&w, "format", 1);
    json_key(&w, "splits");
    json_object(&w);
    static const char *const splits[] = {"train", "held_out"};
    for (int s = 0; s < 2; s++) {
        json_key(&w, splits[s]);
        json_object(&w);
        buf_clear(&rows);
        for (int i = 0; i < 24; i++)
            buf_printf(&rows, "{\"prompt\":[{\"role\":\"user\",\"content\":\"What is it, %d?\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"A trainer.\"}],"
                              "\"rejected\":[{\"role\":\"assistant\",\"content\":\"It goes on and on, %d.\"}],\"request_id\":\"r%d\",\"feedback_id\":\"f%d\"}\n", i, i, i, i);
        put_rows(&w, "samples", 24, buf_span(&rows), true);
        json_object_end(&w);
    }
    json_object_end(&w);
    json_object_end(&w);
    assert_int_equal(manifest.failed, 0);
    announce("likes", 1, GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE, buf_span(&manifest));
    buf_fini(&manifest);
    buf_fini(&rows);
}

static int set_up(void **state) {
    (void)state;
    struct error err = {0};
    char self[4000];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    snprintf(t.executable, sizeof t.executable, "%s/../bin/genloop-trainer", dirname(self));
    if (access(t.executable, X_OK) != 0 || access("/usr/bin/redis-server", X_OK) != 0) {
        t.executable[0] = 0;
        return 0;
    }
    const char *seed = getenv("GENLOOP_TEST_SEED");
    t.seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)clock_wall_ms();
    random_seed(&t.random, t.seed);
    print_message("seed %llu (GENLOOP_TEST_SEED)\n", (unsigned long long)t.seed);
    char name[] = "/tmp/genloop-trainer-XXXXXX";
    assert_non_null(mkdtemp(name));
    span_copy(t.home, sizeof t.home, span_str(name));
    t.loop = loop_new(&err);
    assert_non_null(t.loop);
    assert_int_equal(dir_make(path("run"), NULL), 0);
    t.log_server = start_redis("log");
    t.cache_server = start_redis("cache");
    wait_until("redis", socket_there, (void *)(uintptr_t)path("run/log.sock"));
    wait_until("redis", socket_there, (void *)(uintptr_t)path("run/cache.sock"));
    char url[128], store[128];
    snprintf(url, sizeof url, "redis+unix:%s/run/log.sock", t.home);
    snprintf(store, sizeof store, "file:%s/store", t.home);
    struct eventlog_config config = {.url = url, .source = "/test"};
    if (registry_key_make(path("keys"), &err) != 0 || registry_key_load(path("keys"), true, &t.key, &err) != 0 || bus_keys_make(path("keys"), &err) != 0 ||
        bus_keys_load(path("keys"), &t.bus_keys, &err) != 0 || eventlog_open(&config, &t.log, &err) != 0 || store_open(store, &t.store, &err) != 0 ||
        bus_client_open(t.loop, &t.bus_keys, NULL, on_heartbeat, on_lost, &t.client, &err) != 0)
        fail_msg("%s", err.message);
    make_texts();
    make_preferences();
    start_trainer(0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    if (!t.executable[0]) return 0;
    bus_client_close(t.client);
    struct process *all[] = {t.trainers[0].process, t.trainers[1].process, t.log_server, t.cache_server};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!all[i]) continue;
        process_kill(all[i], SIGKILL);
        process_close(all[i]);
    }
    eventlog_close(t.log);
    store_close(t.store);
    loop_free(t.loop);
    if (!getenv("GENLOOP_TEST_KEEP")) dir_remove(t.home, NULL);
    return 0;
}

/* --- requests --- */

struct answer {
    struct bus_call *call;
    Genloop__V1__Job *job;        /* the last that was told, owned */
    Genloop__V1__ListJobsReply *list;
    const char *method;
    size_t jobs, steps;
    uint64_t last_step;
    char phases[256];
    int code;
    char message[512], param[64];
    bool over;
};

static void answer_fini(struct answer *a) {
    if (a->job) genloop__v1__job__free_unpacked(a->job, NULL);
    if (a->list) genloop__v1__list_jobs_reply__free_unpacked(a->list, NULL);
    a->job = NULL;
    a->list = NULL;
}

static void on_item(void *arg, struct span item) {
    struct answer *a = arg;
    const uint8_t *bytes = (const uint8_t *)item.data;
    if (strcmp(a->method, "Training/List") == 0) {
        a->list = genloop__v1__list_jobs_reply__unpack(NULL, item.len, bytes);
        assert_non_null(a->list);
    } else if (strcmp(a->method, "Training/Watch") == 0) {
        Genloop__V1__WatchJobReply *m = genloop__v1__watch_job_reply__unpack(NULL, item.len, bytes);
        assert_non_null(m);
        if (m->job) {
            answer_fini(a);
            a->job = m->job;
            m->job = NULL;
            a->jobs++;
        } else {
            assert_non_null(m->progress);
            a->steps++;
            a->last_step = m->progress->step;
            size_t at = strlen(a->phases);
            if (!strstr(a->phases, m->progress->phase)) snprintf(a->phases + at, sizeof a->phases - at, "%s ", m->progress->phase);
        }
        genloop__v1__watch_job_reply__free_unpacked(m, NULL);
    } else {
        answer_fini(a);
        a->job = genloop__v1__job__unpack(NULL, item.len, bytes);
        assert_non_null(a->job);
    }
    bus_call_credit(a->call, 1);
}
static void on_end(void *arg, int code, const struct error *err, bool begun) {
    struct answer *a = arg;
    (void)begun;
    a->code = code;
    if (err) span_copy(a->message, sizeof a->message, span_str(err->message));
    if (err) span_copy(a->param, sizeof a->param, span_str(err->param));
    a->over = true;
}
static const struct bus_call_events EVENTS = {.on_item = on_item, .on_end = on_end};

static void start_call(struct answer *a, int trainer, const char *method, const ProtobufCMessage *m, uint32_t credit) {
    struct error err;
    struct buf packed;
    buf_init(&packed, 1 << 20);
    assert_int_equal(record_pack(m, &packed), 0);
    struct bus_context context = {.actor_id = SPAN("local:test"), .actor_scope = SPAN("operator")};
    memset(a, 0, sizeof *a);
    a->method = method;
    a->call = bus_call(t.trainers[trainer].peer, method, &context, buf_span(&packed), false, credit, a, &EVENTS, &err);
    if (!a->call) fail_msg("%s", err.message);
    buf_fini(&packed);
}
static void finish(struct answer *a) { wait_until("an answer", is_true, &a->over); }
static void ask(struct answer *a, const char *method, const ProtobufCMessage *m) {
    start_call(a, 0, method, m, 8);
    finish(a);
}

#define RECIPE(STEPS_TEXT) "objective: pretrain\nmodel: {architecture: llama, layers: 2, width: 48, heads: 4, context: 64, vocab: 300}\nbatch: {sequences: " TEXT_OF(SEQUENCES) ", length: 48}\n" \
                           "optimizer: {lr: 0.003}\nschedule: {name: cosine, warmup_steps: 5}\ncheckpoint: {every: 7}\nevaluate: {every: 50, on: held-out}\nsteps: " STEPS_TEXT "\n"

static void create_init(Genloop__V1__CreateJobRequest *q, const char *id, const char *recipe) {
    genloop__v1__create_job_request__init(q);
    q->id = (char *)(uintptr_t)id;
    q->model = (char *)(uintptr_t)"tiny";
    q->recipe = (char *)(uintptr_t)recipe;
    q->dataset = (char *)(uintptr_t)"texts";
    q->reason = (char *)(uintptr_t)"a test";
}
static void create(const char *id, const char *recipe) {
    struct answer a;
    Genloop__V1__CreateJobRequest q;
    create_init(&q, id, recipe);
    ask(&a, "Training/Create", &q.base);
    if (a.code) fail_msg("%s: %s (%s)", id, a.message, a.param);
    assert_string_equal(a.job->id, id);
    answer_fini(&a);
}
static void get(struct answer *a, const char *id) {
    Genloop__V1__GetJobRequest q = GENLOOP__V1__GET_JOB_REQUEST__INIT;
    q.id = (char *)(uintptr_t)id;
    ask(a, "Training/Get", &q.base);
    if (a->code) fail_msg("%s: %s", id, a->message);
}
static void change(struct answer *a, const char *id, Genloop__V1__JobWish wish, int code) {
    Genloop__V1__ChangeJobRequest q = GENLOOP__V1__CHANGE_JOB_REQUEST__INIT;
    q.id = (char *)(uintptr_t)id;
    q.wish = wish;
    ask(a, "Training/Change", &q.base);
    if (a->code != code) fail_msg("%s: wish %d: %d and not %d: %s", id, (int)wish, a->code, code, a->message);
}
/* Watches a job to its end. */
static void watch(struct answer *a, const char *id, uint32_t credit) {
    Genloop__V1__WatchJobRequest q = GENLOOP__V1__WATCH_JOB_REQUEST__INIT;
    q.id = (char *)(uintptr_t)id;
    start_call(a, 0, "Training/Watch", &q.base, credit);
    finish(a);
    if (a->code) fail_msg("%s: %s", id, a->message);
}

/* Steps that are written into the job's metrics so far. */
static uint64_t steps_so_far(const char *id) {
    char relative[256];
    struct buf b;
    uint64_t n = 0;
    snprintf(relative, sizeof relative, "work/jobs/%s/run/metrics.jsonl", id);
    buf_init(&b, 1 << 22);
    if (file_exists(path(relative)) && file_read(path(relative), &b, NULL) == 0)
        for (size_t i = 0; i < b.len; i++) n += buf_span(&b).data[i] == '\n';
    buf_fini(&b);
    return n;
}
struct step_wait {
    const char *id;
    uint64_t step;
    bool ran;
};
static bool running(const char *id) {
    char relative[256];
    snprintf(relative, sizeof relative, "work/jobs/%s", id);
    return file_exists(path(relative));
}
static bool step_reached(void *arg) { /* or the job has ended before */
    struct step_wait *w = arg;
    w->ran |= running(w->id);
    return steps_so_far(w->id) >= w->step || (w->ran && !running(w->id));
}
static void wait_for_step(const char *id, uint64_t step) {
    struct step_wait w = {id, step, false};
    wait_until("a step", step_reached, &w);
}

static void file_of(const char *manifest, const char *name, char sha256[SHA256_HEX_MAX]) {
    struct buf text;
    struct json *root = NULL;
    struct error err;
    buf_init(&text, 1 << 20);
    if (store_get(t.store, manifest, &text, &err) != 0 || json_parse(buf_span(&text), &root, &err) != 0) fail_msg("%s", err.message);
    span_copy(sha256, SHA256_HEX_MAX, json_string(json_get(json_get(json_get(root, "files"), name), "sha256")));
    json_free(root);
    buf_fini(&text);
}
static void weights_of(const Genloop__V1__Job *job, char sha256[SHA256_HEX_MAX]) {
    assert_non_null(job->output);
    file_of(job->output->sha256, "model.safetensors", sha256);
    assert_int_equal(strlen(sha256), 64);
}
static double figure(const Genloop__V1__Job *job, const char *name) {
    for (size_t i = 0; i < job->n_figures; i++)
        if (strcmp(job->figures[i]->name, name) == 0) return job->figures[i]->value;
    return -1;
}

static bool folder_gone(void *arg) { return !file_exists(arg); }

/* --- the tests --- */

static void test_undisturbed(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    struct buf lines;
    char sha256[SHA256_HEX_MAX];
    create("straight", RECIPE(TEXT_OF(STEPS)));
    watch(&a, "straight", 3);
    if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s: %s", job_state_name(a.job->state), a.job->failure);
    assert_true(a.steps >= 3 && a.last_step == STEPS);
    assert_non_null(strstr(a.phases, "train"));
    weights_of(a.job, t.weights);
    span_copy(t.output, sizeof t.output, span_str(a.job->output->sha256));
    t.output_size = a.job->output->size_bytes;
    static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        file_of(t.output, files[i], sha256);
        if (!sha256[0]) fail_msg("the model has no %s", files[i]);
    }
    assert_true(figure(a.job, "loss") > 0 && figure(a.job, "loss") < 3 && figure(a.job, "evaluate_loss") > 0);
    assert_true(figure(a.job, "tokens") == STEPS * SEQUENCES * 48 && figure(a.job, "parameters") > 10000);
    assert_string_equal(a.job->dataset, "texts@1");
    assert_string_equal(a.job->actor->id, "local:test");
    assert_non_null(strstr(a.job->recipe, "texts@1"));
    assert_true(a.job->step == STEPS && a.job->attempts == 1 && a.job->finished_time_ms >= a.job->started_time_ms && a.job->started_time_ms >= a.job->created_time_ms);
    /* a line a step */
    buf_init(&lines, 1 << 20);
    assert_non_null(a.job->metrics);
    assert_int_equal(store_get(t.store, a.job->metrics->sha256, &lines, NULL), 0);
    size_t n = 0;
    for (size_t i = 0; i < lines.len; i++) n += buf_span(&lines).data[i] == '\n';
    assert_int_equal(n, STEPS);
    buf_clear(&lines);
    file_of(t.output, "README.md", sha256);
    assert_int_equal(store_get(t.store, sha256, &lines, NULL), 0);
    assert_non_null(strstr(buf_cstr(&lines), "CC0-1.0"));
    assert_non_null(strstr(buf_cstr(&lines), "texts@1"));
    buf_fini(&lines);
    wait_until("the folder to go", folder_gone, (void *)(uintptr_t)path("work/jobs/straight"));
    assert_true(file_exists(path("runs/straight/metrics.jsonl")));
    answer_fini(&a);
    /* the same id again is the same job, whatever it asks for */
    Genloop__V1__CreateJobRequest q;
    create_init(&q, "straight", RECIPE("7"));
    ask(&a, "Training/Create", &q.base);
    assert_int_equal(a.code, 0);
    assert_int_equal(a.job->state, JOB_STATE(SUCCEEDED));
    assert_int_equal(a.job->steps, STEPS);
    answer_fini(&a);
}

/* Killed whenever chance says so, also while it loads, saves and writes its result. */
static void test_kills(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    char weights[SHA256_HEX_MAX];
    int kills = 0;
    create("killed", RECIPE(TEXT_OF(STEPS)));
    for (uint64_t step = 0; step < STEPS - 10;) {
        step += random_below(&t.random, STEPS / 4);
        wait_for_step("killed", step);
        if (kills && !running("killed")) break;
        usleep((useconds_t)random_below(&t.random, 20000));
        assert_int_equal(end_trainer(0, SIGKILL), -SIGKILL);
        kills++;
        start_trainer(0);
    }
    watch(&a, "killed", 16);
    if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("seed %llu: %s: %s", (unsigned long long)t.seed, job_state_name(a.job->state), a.job->failure);
    weights_of(a.job, weights);
    if (strcmp(weights, t.weights) != 0) fail_msg("seed %llu: %d kills gave other weights", (unsigned long long)t.seed, kills);
    assert_true(a.job->attempts >= 2);
    assert_true(figure(a.job, "tokens") == STEPS * SEQUENCES * 48);
    answer_fini(&a);
}

static void expect_state(const char *id, Genloop__V1__JobState state) {
    struct answer a;
    get(&a, id);
    if (a.job->state != state) fail_msg("%s is %s (%s)", id, job_state_name(a.job->state), a.job->failure);
    answer_fini(&a);
}

static void test_pause_resume_cancel(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    char weights[SHA256_HEX_MAX];
    create("paused", RECIPE(TEXT_OF(STEPS)));
    wait_for_step("paused", 20);
    change(&a, "paused", GENLOOP__V1__JOB_WISH__JOB_WISH_PAUSE, 0);
    assert_int_equal(a.job->state, JOB_STATE(PAUSED));
    answer_fini(&a);
    change(&a, "paused", GENLOOP__V1__JOB_WISH__JOB_WISH_PAUSE, 0); /* it is so already */
    answer_fini(&a);
    usleep(300000);
    uint64_t steps = steps_so_far("paused");
    assert_true(steps >= 20 && steps < STEPS);
    /* paused, it stays so over a restart, and another job passes it */
    assert_int_equal(end_trainer(0, SIGKILL), -SIGKILL);
    start_trainer(0);
    create("passing", RECIPE("5"));
    watch(&a, "passing", 8);
    assert_int_equal(a.job->state, JOB_STATE(SUCCEEDED));
    answer_fini(&a);
    assert_int_equal(steps_so_far("paused"), steps);
    expect_state("paused", JOB_STATE(PAUSED));
    change(&a, "paused", GENLOOP__V1__JOB_WISH__JOB_WISH_RUN, 0);
    answer_fini(&a);
    watch(&a, "paused", 8);
    assert_int_equal(a.job->state, JOB_STATE(SUCCEEDED));
    assert_true(a.job->attempts == 2);
    weights_of(a.job, weights);
    assert_string_equal(weights, t.weights);
    answer_fini(&a);
    change(&a, "paused", GENLOOP__V1__JOB_WISH__JOB_WISH_CANCEL, E_STATE); /* it has ended */
    assert_non_null(strstr(a.message, "succeeded"));

    create("cancelled", RECIPE("100000"));
    wait_for_step("cancelled", 10);
    change(&a, "cancelled", GENLOOP__V1__JOB_WISH__JOB_WISH_CANCEL, 0);
    assert_int_equal(a.job->state, JOB_STATE(CANCELLED));
    answer_fini(&a);
    wait_until("the folder to go", folder_gone, (void *)(uintptr_t)path("work/jobs/cancelled"));
    change(&a, "cancelled", GENLOOP__V1__JOB_WISH__JOB_WISH_CANCEL, 0); /* it is so already */
    answer_fini(&a);
    create("after", RECIPE("6"));
    watch(&a, "after", 8);
    assert_int_equal(a.job->state, JOB_STATE(SUCCEEDED));
    answer_fini(&a);
    expect_state("cancelled", JOB_STATE(CANCELLED));
}

static void test_drain(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    char weights[SHA256_HEX_MAX];
    create("drained", RECIPE(TEXT_OF(STEPS)));
    wait_for_step("drained", 30);
    assert_int_equal(end_trainer(0, SIGTERM), 0);
    uint64_t steps = steps_so_far("drained");
    assert_true(steps < STEPS);
    char checkpoint[128];
    snprintf(checkpoint, sizeof checkpoint, "work/jobs/drained/run/checkpoint-%012llu.safetensors", (unsigned long long)steps);
    assert_true(file_exists(path(checkpoint))); /* nothing is done twice */
    start_trainer(0);
    watch(&a, "drained", 8);
    assert_int_equal(a.job->state, JOB_STATE(SUCCEEDED));
    weights_of(a.job, weights);
    assert_string_equal(weights, t.weights);
    answer_fini(&a);
}

static void test_refusals(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static const struct {
        const char *name, *dataset, *base, *recipe, *preset;
        int r;
        const char *param;
    } cases[] = {
        {"a dataset that is not there", "nothing", "", RECIPE(TEXT_OF(STEPS)), "", E_NOT_FOUND, "dataset"},
        {"a version that is not there", "texts@7", "", RECIPE(TEXT_OF(STEPS)), "", E_NOT_FOUND, "dataset"},
        {"preferences for pre-training", "likes", "", RECIPE(TEXT_OF(STEPS)), "", E_INVALID, "dataset"},
        {"texts for preferences", "texts", "nobody@1", "", "dpo-small", E_INVALID, "dataset"},
        {"a base that is not there", "likes", "nobody@1", "", "dpo-small", E_NOT_FOUND, "base_model"},
        {"an alias that is not there", "likes", "production", "", "dpo-small", E_NOT_FOUND, "base_model"},
        {"an unknown key", "texts", "", "objective: pretrain\nlearning: 1\n", "", E_INVALID, "learning"},
    };
    struct answer a;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__CreateJobRequest q;
        create_init(&q, "refused", cases[i].recipe);
        q.preset = (char *)(uintptr_t)cases[i].preset;
        q.dataset = (char *)(uintptr_t)cases[i].dataset;
        q.base_model = (char *)(uintptr_t)cases[i].base;
        ask(&a, "Training/Create", &q.base);
        if (a.code != cases[i].r || strcmp(a.param, cases[i].param) != 0) fail_msg("%s: %d, %s (%s)", cases[i].name, a.code, a.message, a.param);
        answer_fini(&a);
    }
    Genloop__V1__GetJobRequest g = GENLOOP__V1__GET_JOB_REQUEST__INIT;
    Genloop__V1__PageRequest page = GENLOOP__V1__PAGE_REQUEST__INIT;
    g.id = (char *)(uintptr_t)"refused"; /* nothing came of it */
    static const char *const methods[] = {"Training/Get", "Training/Watch", "Training/Cancel"};
    for (size_t i = 0; i < 3; i++) {
        ask(&a, methods[i], &g.base);
        if (a.code != E_NOT_FOUND || strcmp(a.param, "id") != 0) fail_msg("%s: %d, %s", methods[i], a.code, a.message);
    }
    page.limit = 1001;
    ask(&a, "Training/List", &page.base);
    assert_int_equal(a.code, E_INVALID);
    page.limit = 1;
    page.page_token = (char *)(uintptr_t)"so what";
    ask(&a, "Training/List", &page.base);
    assert_int_equal(a.code, E_INVALID);
    ask(&a, "Training/Distill", &page.base);
    assert_int_equal(a.code, E_UNSUPPORTED);
}

/* What a job would find, and no job of it. */
static void test_dry_run(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    Genloop__V1__CreateJobRequest q;
    create_init(&q, "dry", RECIPE(TEXT_OF(STEPS)));
    q.dry_run = true;
    ask(&a, "Training/Create", &q.base);
    if (a.code) fail_msg("%s", a.message);
    assert_int_equal(a.job->state, JOB_STATE(UNSPECIFIED));
    assert_true(figure(a.job, "parameters") > 10000 && figure(a.job, "rows") > 50 && figure(a.job, "tokens") > 1000 && figure(a.job, "bytes") > 100000);
    assert_string_equal(a.job->dataset, "texts@1");
    answer_fini(&a);
    Genloop__V1__GetJobRequest g = GENLOOP__V1__GET_JOB_REQUEST__INIT;
    g.id = (char *)(uintptr_t)"dry";
    ask(&a, "Training/Get", &g.base);
    assert_int_equal(a.code, E_NOT_FOUND);
    /* what only the data can tell */
    create_init(&q, "dry", "objective: pretrain\nmodel: {architecture: llama, layers: 1, width: 32, heads: 2, context: 64, vocab: 280}\nsteps: 3\n");
    q.dry_run = true;
    ask(&a, "Training/Create", &q.base);
    assert_int_equal(a.code, E_INVALID);
    assert_string_equal(a.param, "model.vocab");
}

static void test_list(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    char token[256] = "", all[1024] = "";
    int64_t last = INT64_MAX;
    size_t n = 0;
    do {
        Genloop__V1__PageRequest page = GENLOOP__V1__PAGE_REQUEST__INIT;
        page.limit = 2;
        page.page_token = token;
        ask(&a, "Training/List", &page.base);
        if (a.code) fail_msg("%s", a.message);
        assert_true(a.list->n_jobs >= 1 && a.list->n_jobs <= 2);
        for (size_t i = 0; i < a.list->n_jobs; i++, n++) {
            assert_true(a.list->jobs[i]->created_time_ms <= last); /* newest first */
            last = a.list->jobs[i]->created_time_ms;
            snprintf(all + strlen(all), sizeof all - strlen(all), "%s ", a.list->jobs[i]->id);
        }
        span_copy(token, sizeof token, span_str(a.list->next_page_token));
        answer_fini(&a);
    } while (token[0]);
    if (n != 7 || strcmp(all, "drained after cancelled passing paused killed straight ") != 0) fail_msg("%zu: %s", n, all);
}

/* A job that takes the process with it is given up, and the jobs behind it go on. */
static void test_poison(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    create("poison", "objective: pretrain\nmodel: {architecture: llama, layers: 2, width: 48, heads: 4, context: 64, vocab: 300}\nbatch: {sequences: 16, length: 48}\n"
                     "checkpoint: {every: 0}\nsteps: 100000\n");
    for (int i = 0; i < JOB_CRASHES_MAX; i++) {
        wait_for_step("poison", 1);
        char metrics[64];
        snprintf(metrics, sizeof metrics, "work/jobs/poison/run/metrics.jsonl");
        int signum = i % 2 ? SIGABRT : SIGILL; /* a sanitizer makes others its own */
        assert_int_equal(end_trainer(0, signum), -signum);
        (void)unlink(path(metrics)); /* so that the next attempt's first step is seen */
        start_trainer(0);
    }
    watch(&a, "poison", 8);
    assert_int_equal(a.job->state, JOB_STATE(FAILED));
    assert_int_equal(a.job->attempts, JOB_CRASHES_MAX);
    if (!strstr(a.job->failure, "crashed 3 times")) fail_msg("%s", a.job->failure);
    answer_fini(&a);
    create("behind", RECIPE("6"));
    watch(&a, "behind", 8);
    assert_int_equal(a.job->state, JOB_STATE(SUCCEEDED));
    answer_fini(&a);
}

/* What fails, fails with its reason. */
static void test_failure(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    create("hot", "objective: pretrain\nmodel: {architecture: llama, layers: 1, width: 32, heads: 2, context: 64, vocab: 300}\nbatch: {sequences: 4, length: 48}\n"
                  "optimizer: {lr: 1.0e+6}\nschedule: {name: constant}\nmax_grad_norm: 0\nsteps: 5000\n");
    watch(&a, "hot", 8);
    assert_int_equal(a.job->state, JOB_STATE(FAILED));
    if (!strstr(a.job->failure, "lower optimizer.lr")) fail_msg("%s", a.job->failure);
    assert_int_equal(a.job->attempts, 1);
    answer_fini(&a);
}

static void publish_model(uint32_t version, const char *manifest, uint64_t size) {
    Genloop__V1__ModelVersion v = GENLOOP__V1__MODEL_VERSION__INIT;
    Genloop__V1__ObjectRef directory = GENLOOP__V1__OBJECT_REF__INIT;
    Genloop__V1__Actor actor = GENLOOP__V1__ACTOR__INIT;
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    char key[MODEL_FULL_NAME_MAX];
    struct error err;
    struct buf packed;
    directory.sha256 = (char *)(uintptr_t)manifest;
    directory.size_bytes = size;
    v.name = (char *)(uintptr_t)"tiny";
    v.version = version;
    v.state = MODEL_STATE(CANDIDATE);
    v.directory = &directory;
    v.actor = &actor;
    v.epoch = 1;
    v.revision = ++t.revision;
    v.event_time_ms = clock_wall_ms();
    buf_init(&packed, 1 << 16);
    if (record_sign(&t.key, &v.base, signature, &err) != 0 || record_pack(&v.base, &packed) != 0) fail_msg("%s", err.message);
    struct event e = {.topic = TOPIC_MODELS, .key = span_str(model_name_format(SPAN("tiny"), version, key)), .value = buf_span(&packed)};
    if (eventlog_publish(t.log, &e, &err) != 0) fail_msg("%s", err.message);
    buf_fini(&packed);
}

/* From the registry's version: on questions and answers, then on preferences; the base's tokenizer stays. */
static void test_fine_tuning(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    Genloop__V1__CreateJobRequest q;
    char tokenizer[SHA256_HEX_MAX], of_base[SHA256_HEX_MAX], weights[SHA256_HEX_MAX], again[SHA256_HEX_MAX];
    publish_model(1, t.output, t.output_size);
    file_of(t.output, "tokenizer.json", of_base);
    create_init(&q, "asked", "objective: sft\nbatch: {sequences: 4, length: 64}\nsteps: 12\nevaluate: {every: 6, on: held-out}\n");
    q.base_model = (char *)(uintptr_t)"tiny@1";
    ask(&a, "Training/Create", &q.base);
    if (a.code) fail_msg("%s", a.message);
    answer_fini(&a);
    watch(&a, "asked", 8);
    if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s", a.job->failure);
    assert_string_equal(a.job->base_model, "tiny@1");
    file_of(a.job->output->sha256, "tokenizer.json", tokenizer);
    assert_string_equal(tokenizer, of_base);
    publish_model(2, a.job->output->sha256, a.job->output->size_bytes);
    answer_fini(&a);

    static const char *const ids[] = {"liked", "liked-killed"};
    for (int i = 0; i < 2; i++) {
        create_init(&q, ids[i], "objective: dpo\nbatch: {sequences: 6, length: 64}\noptimizer: {lr: 1.0e-3}\nsteps: 60\ncheckpoint: {every: 4}\n");
        q.dataset = (char *)(uintptr_t)"likes@1";
        q.base_model = (char *)(uintptr_t)"tiny@2";
        ask(&a, "Training/Create", &q.base);
        if (a.code) fail_msg("%s", a.message);
        answer_fini(&a);
        for (int k = 0; i && k < 3; k++) { /* the reference that DPO keeps survives it too */
            wait_for_step(ids[i], (uint64_t)k * 15 + random_below(&t.random, 12));
            assert_int_equal(end_trainer(0, SIGKILL), -SIGKILL);
            start_trainer(0);
        }
        watch(&a, ids[i], 8);
        if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s", a.job->failure);
        assert_true(figure(a.job, "accuracy") > 0.8);
        weights_of(a.job, i ? again : weights);
        if (i == 0) publish_model(3, a.job->output->sha256, a.job->output->size_bytes);
        answer_fini(&a);
    }
    if (strcmp(weights, again) != 0) fail_msg("seed %llu: kills gave other weights", (unsigned long long)t.seed);
}

/* A measurement for the gates: the record in the store, the event on its topic, unjudged; killed, the same record again. */
static void test_evaluation(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    static const char *const ids[] = {"evaluate-tiny-3", "evaluate-again"};
    char records[2][SHA256_HEX_MAX] = {"", ""};
    for (int i = 0; i < 2; i++) {
        Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
        Genloop__V1__EvaluateSpec s = GENLOOP__V1__EVALUATE_SPEC__INIT;
        q.id = (char *)(uintptr_t)ids[i];
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE;
        q.model = s.candidate = (char *)(uintptr_t)"tiny@3";
        s.baseline = (char *)(uintptr_t)"tiny@2";
        s.held_out = (char *)(uintptr_t)"texts@1";
        s.preferences = (char *)(uintptr_t)"likes@1";
        s.documents_max = 10;
        s.prompts = 12;
        s.sample_tokens = 8;
        s.seed = 3;
        s.temperature = 1;
        q.evaluate = &s;
        ask(&a, "Training/Create", &q.base);
        if (a.code) fail_msg("%s", a.message);
        answer_fini(&a);
        if (i) {
            usleep((useconds_t)random_below(&t.random, 60000));
            assert_int_equal(end_trainer(0, SIGKILL), -SIGKILL);
            start_trainer(0);
        }
        watch(&a, ids[i], 8);
        if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s", a.job->failure);
        answer_fini(&a);
    }
    enum topic topics[] = {TOPIC_EVALUATIONS};
    struct eventlog_view *v;
    struct event e;
    struct error err;
    if (eventlog_view_open(t.log, topics, 1, NULL, 0, &v, &err) != 0) fail_msg("%s", err.message);
    while (eventlog_view_poll(v, 200, &e, &err) == 0) {
        Genloop__V1__Evaluation *m = genloop__v1__evaluation__unpack(NULL, e.value.len, (const uint8_t *)e.value.data);
        assert_non_null(m);
        assert_string_equal(m->candidate, "tiny@3");
        assert_string_equal(m->baseline, "tiny@2");
        assert_true(!m->judged && m->n_gates == 0 && m->record);
        for (int i = 0; i < 2; i++)
            if (strcmp(m->id, ids[i]) == 0) span_copy(records[i], sizeof records[i], span_str(m->record->sha256));
        genloop__v1__evaluation__free_unpacked(m, NULL);
    }
    eventlog_view_close(v);
    assert_true(records[0][0] && records[1][0]);
    assert_string_equal(records[0], records[1]);
    struct buf text;
    struct json *root = NULL;
    buf_init(&text, 1 << 24);
    if (store_get(t.store, records[0], &text, &err) != 0 || json_parse(buf_span(&text), &root, &err) != 0) fail_msg("%s", err.message);
    assert_int_equal(json_size(json_get(root, "documents")), 10);
    assert_int_equal(json_size(json_get(root, "pairs")), 24);
    assert_int_equal(json_size(json_get(root, "samples")), 12);
    json_free(root);
    buf_fini(&text);
}

/* Two instances of one home: one dies and the other takes its job over, from its checkpoint. Whichever is asked, both know. */
static void test_two(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    char weights[SHA256_HEX_MAX];
    assert_int_equal(end_trainer(0, SIGTERM), 0);
    start_trainer(1);
    start_trainer(0); /* later: its partitions come to it when they are dealt anew */
    for (int i = 0; i < 4; i++) {
        char id[16];
        snprintf(id, sizeof id, "shared-%d", i);
        create(id, RECIPE(TEXT_OF(STEPS)));
    }
    wait_for_step("shared-0", 1);
    assert_int_equal(end_trainer(1, SIGKILL), -SIGKILL);
    for (int i = 0; i < 4; i++) {
        char id[16];
        snprintf(id, sizeof id, "shared-%d", i);
        watch(&a, id, 8);
        if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s: %s", id, a.job->failure);
        weights_of(a.job, weights);
        assert_string_equal(weights, t.weights);
        answer_fini(&a);
    }
}

static int damage(void *arg, const char *name) {
    if (!span_starts(span_str(name), SPAN("reference."))) return 0;
    char file[4096];
    snprintf(file, sizeof file, "%s/%s", (const char *)arg, name);
    return unlink(file);
}

/* The log's server dies under a job and comes back: the steps go on, and the end is written when it can be. */
static void test_log_lost(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    char weights[SHA256_HEX_MAX];
    create("lost", RECIPE(TEXT_OF(STEPS)));
    wait_for_step("lost", STEPS / 5);
    process_kill(t.log_server, SIGKILL);
    process_close(t.log_server);
    wait_for_step("lost", STEPS / 2 + random_below(&t.random, STEPS / 2));
    (void)unlink(path("run/log.sock"));
    t.log_server = start_redis("log");
    wait_until("redis", socket_there, (void *)(uintptr_t)path("run/log.sock"));
    watch(&a, "lost", 8);
    if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s", a.job->failure);
    weights_of(a.job, weights);
    assert_string_equal(weights, t.weights);
    answer_fini(&a);
}

/* Checkpoints that cannot be gone on from are no failure: it begins anew. */
static void test_anew(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    Genloop__V1__CreateJobRequest q;
    create_init(&q, "anew", "objective: dpo\nbatch: {sequences: 6, length: 64}\noptimizer: {lr: 1.0e-3}\nsteps: 60\ncheckpoint: {every: 4}\n");
    q.dataset = (char *)(uintptr_t)"likes@1";
    q.base_model = (char *)(uintptr_t)"tiny@2";
    ask(&a, "Training/Create", &q.base);
    if (a.code) fail_msg("%s", a.message);
    answer_fini(&a);
    wait_for_step("anew", 10);
    assert_int_equal(end_trainer(0, SIGKILL), -SIGKILL);
    assert_int_equal(dir_list(path("work/jobs/anew/run"), (void *)(uintptr_t)path("work/jobs/anew/run"), damage, NULL), 0);
    start_trainer(0);
    watch(&a, "anew", 8);
    if (a.job->state != JOB_STATE(SUCCEEDED)) fail_msg("%s", a.job->failure);
    assert_true(a.job->attempts == 2);
    answer_fini(&a);
}

/* Somebody in a hurry: two signals while it trains and is watched. */
static void test_hurry(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct answer a;
    create("hurried", RECIPE(TEXT_OF(STEPS)));
    wait_for_step("hurried", 10);
    Genloop__V1__WatchJobRequest q = GENLOOP__V1__WATCH_JOB_REQUEST__INIT;
    q.id = (char *)(uintptr_t)"hurried";
    start_call(&a, 0, "Training/Watch", &q.base, 8);
    process_kill(t.trainers[0].process, SIGTERM);
    usleep(2000);
    assert_int_equal(end_trainer(0, SIGINT), 0);
    finish(&a);
    assert_int_equal(a.code, E_UNAVAILABLE);
    answer_fini(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undisturbed), cmocka_unit_test(test_kills), cmocka_unit_test(test_pause_resume_cancel), cmocka_unit_test(test_drain),
        cmocka_unit_test(test_list), cmocka_unit_test(test_refusals), cmocka_unit_test(test_dry_run), cmocka_unit_test(test_poison), cmocka_unit_test(test_failure),
        cmocka_unit_test(test_fine_tuning), cmocka_unit_test(test_evaluation), cmocka_unit_test(test_anew), cmocka_unit_test(test_log_lost), cmocka_unit_test(test_two), cmocka_unit_test(test_hurry),
    };
    return cmocka_run_group_tests_name("trainer", tests, set_up, tear_down);
}
