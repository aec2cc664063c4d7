/*
 * The replica as a process: a home with two redis-servers, a registry's key, a model in the store and signed events on the topics; requests over the bus.
 * Needs redis-server and the executable beside the tests (bin/genloop-inference); skipped where one is missing.
 */
#include <libgen.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/loop_process.h"
#include "bus/bus.h"
#include "engine/engine.h"
#include "eventlog/eventlog.h"
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/generation.pb-c.h"
#include "registry/fold.h"
#include "store/store.h"
#include "tests/unit/engine/support/tiny.h"

enum { PATIENCE_MS = 30000 };

static struct {
    char home[64], executable[4096];
    struct tiny model;
    struct loop *loop;
    struct process *log_server, *cache_server, *replica;
    struct eventlog *log;
    struct store *store;
    struct registry_key key;
    struct object_ref manifest;
    struct bus_keys bus_keys;
    struct bus_client *client;
    struct bus_peer *peer;
    uint64_t revision;
    int exit_status; /* of the replica; −1000 while it runs */
    char models[512], loading[512], failed[2048];
    uint32_t running, kv_free, kv_total;
    bool have;
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
/* Runs the loop until the condition holds. */
static void wait_until(const char *what, bool (*holds)(void *arg), void *arg) {
    int64_t until = clock_mono_ms() + PATIENCE_MS;
    struct loop_timer *timer = loop_timer_new(t.loop, t.loop, stop_loop);
    while (!holds(arg)) {
        if (clock_mono_ms() > until) fail_msg("waited too long for: %s", what);
        loop_timer_start(timer, 5, 0);
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
static void on_replica_exit(void *arg, int status) {
    (void)arg;
    t.exit_status = status;
}
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

static void publish_version(uint32_t version, model_state state) {
    Genloop__V1__ModelVersion v;
    Genloop__V1__ObjectRef directory;
    Genloop__V1__Actor actor;
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    char key[MODEL_FULL_NAME_MAX];
    genloop__v1__model_version__init(&v);
    genloop__v1__object_ref__init(&directory);
    genloop__v1__actor__init(&actor);
    directory.sha256 = t.manifest.sha256;
    directory.size_bytes = t.manifest.size;
    v.name = (char *)(uintptr_t)"tiny";
    v.version = version;
    v.state = state;
    v.directory = &directory;
    v.actor = &actor;
    v.epoch = 1;
    v.revision = ++t.revision;
    v.event_time_ms = clock_wall_ms();
    struct error err;
    struct buf packed;
    buf_init(&packed, 1 << 16);
    if (record_sign(&t.key, &v.base, signature, &err) != 0 || record_pack(&v.base, &packed) != 0) fail_msg("%s", err.message);
    struct event e = {.topic = TOPIC_MODELS, .key = span_str(model_name_format(SPAN("tiny"), version, key)), .value = buf_span(&packed)};
    if (eventlog_publish(t.log, &e, &err) != 0) fail_msg("%s", err.message);
    buf_fini(&packed);
}

static void join(char *out, size_t size, char **names, size_t n) {
    out[0] = 0;
    for (size_t i = 0; i < n; i++) snprintf(out + strlen(out), size - strlen(out), "%s ", names[i]);
}
static void on_heartbeat(void *arg, struct bus_peer *peer, struct span member) {
    (void)arg;
    (void)peer;
    Genloop__V1__Member *m = genloop__v1__member__unpack(NULL, member.len, (const uint8_t *)member.data);
    assert_non_null(m);
    assert_string_equal(m->service, "inference");
    if (m->load) {
        join(t.models, sizeof t.models, m->load->models, m->load->n_models);
        join(t.loading, sizeof t.loading, m->load->loading, m->load->n_loading);
        join(t.failed, sizeof t.failed, m->load->failed, m->load->n_failed);
        t.running = m->load->running + m->load->queued;
        t.kv_free = (uint32_t)m->load->kv_blocks_free;
        t.kv_total = (uint32_t)m->load->kv_blocks_total;
        t.have = true;
    }
    genloop__v1__member__free_unpacked(m, NULL);
}
static void on_lost(void *arg, struct bus_peer *peer) {
    (void)arg;
    (void)peer;
}
static bool models_are(void *want) { return t.have && strcmp(t.models, want) == 0; }
static bool idle(void *arg) {
    (void)arg;
    return t.running == 0 && t.kv_free == t.kv_total;
}

static void start_replica(void) {
    const char *argv[] = {t.executable, NULL};
    struct error err;
    setenv("GENLOOP_HOME", t.home, 1);
    setenv("GENLOOP_INSTANCE", "inference-1", 1);
    setenv("GENLOOP_INFERENCE_THREADS", "1", 1);
    setenv("GENLOOP_INFERENCE_SEQUENCES", "4", 1);
    t.exit_status = -1000;
    t.replica = process_spawn(t.loop, argv, NULL, STDERR_FILENO, NULL, on_replica_exit, &err);
    if (!t.replica) fail_msg("%s", err.message);
}

static int set_up(void **state) {
    (void)state;
    struct error err = {0};
    char self[4000];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    snprintf(t.executable, sizeof t.executable, "%s/../bin/genloop-inference", dirname(self));
    if (access(t.executable, X_OK) != 0 || access("/usr/bin/redis-server", X_OK) != 0) {
        t.executable[0] = 0;
        return 0;
    }
    char name[] = "/tmp/genloop-replica-XXXXXX";
    assert_non_null(mkdtemp(name));
    span_copy(t.home, sizeof t.home, span_str(name));
    tiny_make(&t.model, "llama", 3);
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
        store_put_dir(t.store, t.model.path, &t.manifest, &err) != 0)
        fail_msg("%s", err.message);
    start_replica();
    if (bus_client_open(t.loop, &t.bus_keys, NULL, on_heartbeat, on_lost, &t.client, &err) != 0) fail_msg("%s", err.message);
    char endpoint[128];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/run/inference-1.bus", t.home);
    t.peer = bus_peer_connect(t.client, endpoint, t.bus_keys.public_key, NULL, &err);
    if (!t.peer) fail_msg("%s", err.message);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    if (!t.executable[0]) return 0;
    bus_client_close(t.client);
    if (t.replica) process_kill(t.replica, SIGKILL);
    process_kill(t.log_server, SIGKILL);
    process_kill(t.cache_server, SIGKILL);
    if (t.replica) process_close(t.replica);
    process_close(t.log_server);
    process_close(t.cache_server);
    eventlog_close(t.log);
    store_close(t.store);
    loop_free(t.loop);
    dir_remove(t.home, NULL);
    tiny_remove(&t.model);
    return 0;
}

/* --- requests --- */

struct answer {
    struct bus_call *call;
    struct buf text;
    uint32_t tokens[4096];
    size_t token_count, items;
    char finish[16], model[64], message[256], param[64];
    uint32_t completion_tokens, logprobs, prompt_tokens;
    double prompt_logprobs[64]; /* of an echo; the first is 1: there is none */
    size_t prompt_count;
    uint32_t prompt_best[64]; /* the most likely token instead; of the first none */
    int code;
    bool over, keep_credit;
};
static void on_item(void *arg, struct span item) {
    struct answer *a = arg;
    Genloop__V1__GenerateReply *r = genloop__v1__generate_reply__unpack(NULL, item.len, (const uint8_t *)item.data);
    assert_non_null(r);
    a->items++;
    assert_int_equal(buf_append_str(&a->text, r->text), 0);
    for (size_t i = 0; i < r->n_tokens; i++) a->tokens[a->token_count++] = r->tokens[i];
    a->logprobs += (uint32_t)r->n_logprobs;
    for (size_t i = 0; i < r->n_prompt_logprobs; i++) {
        const Genloop__V1__PositionLogprobs *p = r->prompt_logprobs[i];
        assert_int_equal(a->token_count, r->n_tokens); /* before anything of the answer */
        assert_int_equal(p->n_top, p->unscored ? 0 : 2);
        assert_true(p->unscored || p->top[0]->logprob >= p->top[1]->logprob);
        a->prompt_best[a->prompt_count] = p->unscored ? 0 : p->top[0]->token;
        a->prompt_logprobs[a->prompt_count++] = p->unscored ? 1 : p->chosen->logprob;
    }
    span_copy(a->finish, sizeof a->finish, span_str(r->finish_reason));
    span_copy(a->model, sizeof a->model, span_str(r->model));
    assert_string_equal(r->replica, "inference-1");
    assert_string_equal(r->request_id, "request-1");
    if (r->usage) a->completion_tokens = r->usage->completion_tokens;
    if (r->usage) a->prompt_tokens = r->usage->prompt_tokens;
    genloop__v1__generate_reply__free_unpacked(r, NULL);
    if (!a->keep_credit && !a->finish[0]) bus_call_credit(a->call, 1);
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

static void message_init(Genloop__V1__GenerateRequest *m) {
    genloop__v1__generate_request__init(m);
    m->model = (char *)(uintptr_t)"tiny@1";
    m->prompt = (char *)(uintptr_t)"The engine";
    m->seed_set_case = GENLOOP__V1__GENERATE_REQUEST__SEED_SET_SEED;
    m->seed = 5;
    m->ignore_eos = true;
    m->max_tokens_set_case = GENLOOP__V1__GENERATE_REQUEST__MAX_TOKENS_SET_MAX_TOKENS;
    m->max_tokens = 40;
}
static void ask(struct answer *a, const char *method, const Genloop__V1__GenerateRequest *m, uint32_t credit, int64_t deadline_ms) {
    struct error err;
    uint8_t packed[4096];
    size_t n = genloop__v1__generate_request__pack(m, packed);
    struct bus_context context = {.request_id = SPAN("request-1"), .deadline_ms = deadline_ms};
    memset(a, 0, sizeof *a);
    buf_init(&a->text, 1 << 20);
    a->call = bus_call(t.peer, method, &context, span_of(packed, n), false, credit, a, &EVENTS, &err);
    if (!a->call) fail_msg("%s", err.message);
}
static void finish(struct answer *a) {
    wait_until("an answer", is_true, &a->over);
    if (a->text.failed != 0) fail();
}

static bool replica_there(void *arg) {
    (void)arg;
    return t.have || t.exit_status != -1000;
}

static void test_serves_what_is_released(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer a;
    Genloop__V1__GenerateRequest m;
    wait_until("a heartbeat", replica_there, NULL);
    assert_int_equal(t.exit_status, -1000);
    publish_version(1, MODEL_STATE(CANDIDATE));
    message_init(&m);
    int64_t until = clock_mono_ms() + PATIENCE_MS;
    do { /* until the registry has been read the answer is "not yet" */
        ask(&a, "Generation/GenerateStream", &m, 64, 0);
        finish(&a);
        buf_fini(&a.text);
        usleep(10000);
    } while ((a.code == E_UNAVAILABLE || strstr(a.message, "released") == NULL) && clock_mono_ms() < until);
    assert_int_equal(a.code, E_NOT_FOUND); /* known, and refused: nobody has released it */
    publish_version(1, MODEL_STATE(EVALUATED));
    publish_version(1, MODEL_STATE(APPROVED));
    publish_version(1, MODEL_STATE(CANARY));
    publish_version(1, MODEL_STATE(PRODUCTION));
    wait_until("the model", models_are, (void *)(uintptr_t) "tiny@1 ");
}

static void test_answers(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer stream, unary, echo;
    struct engine *e;
    struct error err;
    struct engine_options o = {.threads = 1, .kv_type = KV_F16};
    if (engine_new(&e, t.model.path, &o, &err) != 0) fail_msg("%s", err.message);
    struct engine_request r;
    engine_request_init(&r);
    r.prompt = SPAN("The engine");
    r.sampling.seed = 5;
    r.seed_set = r.ignore_eos = true;
    r.tokens_max = 40;
    r.prompt_logprobs = true;
    struct engine_result want;
    assert_int_equal(engine_generate_batch(e, &r, 1, &want, NULL), 0);

    Genloop__V1__GenerateRequest m;
    message_init(&m);
    m.logprobs = true;
    m.top_logprobs = 2;
    ask(&stream, "Generation/GenerateStream", &m, 4, 0);
    m.model = (char *)(uintptr_t)"tiny"; /* its production version */
    ask(&unary, "Generation/Generate", &m, 0, 0);
    m.echo = true;
    ask(&echo, "Generation/GenerateStream", &m, 4, 0);
    finish(&stream);
    finish(&unary);
    finish(&echo);
    assert_true(span_starts(buf_span(&echo.text), SPAN("The engine")));
    assert_true(echo.prompt_count == want.prompt_count + 1 && echo.prompt_count == echo.prompt_tokens && echo.prompt_logprobs[0] > 0);
    for (size_t i = 0; i < want.prompt_count; i++) {
        assert_true(echo.prompt_logprobs[i + 1] == (double)want.prompt_logprobs[i]);
        assert_int_equal(echo.prompt_best[i + 1], want.prompt_argmax[i]);
    }
    buf_consume(&echo.text, sizeof "The engine" - 1);
    struct answer *both[] = {&stream, &unary, &echo};
    for (int i = 0; i < 3; i++) {
        if (both[i]->code != 0) fail_msg("%s", both[i]->message);
        assert_int_equal(both[i]->token_count, 40);
        assert_memory_equal(both[i]->tokens, want.tokens, 40 * sizeof *want.tokens);
        assert_true(span_eq(buf_span(&both[i]->text), span_of(want.text, want.text_len)));
        assert_string_equal(both[i]->finish, "length");
        assert_string_equal(both[i]->model, "tiny@1");
        assert_int_equal(both[i]->completion_tokens, 40);
        assert_int_equal(both[i]->logprobs, 40);
        buf_fini(&both[i]->text);
    }
    assert_int_equal(unary.items, 1);
    assert_true(stream.items > 1);
    engine_result_fini(&want);
    engine_free(e);
}

/* A model that says U+0000: nothing behind it is lost, whole or streamed. */
static void test_nul(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer stream, unary;
    Genloop__V1__GenerateRequest m;
    Genloop__V1__GenerateRequest__LogitBiasEntry bias = GENLOOP__V1__GENERATE_REQUEST__LOGIT_BIAS_ENTRY__INIT, *list[] = {&bias};
    message_init(&m);
    bias.key = tokenizer_find(t.model.tokenizer, SPAN("\0"));
    bias.value = 100;
    m.logit_bias = list;
    m.n_logit_bias = 1;
    m.max_tokens = 3;
    ask(&stream, "Generation/GenerateStream", &m, 64, 0);
    ask(&unary, "Generation/Generate", &m, 0, 0);
    finish(&stream);
    finish(&unary);
    struct answer *both[] = {&stream, &unary};
    for (int i = 0; i < 2; i++) {
        if (both[i]->code != 0) fail_msg("%s", both[i]->message);
        assert_int_equal(both[i]->token_count, 3);
        for (int k = 0; k < 3; k++) assert_int_equal(both[i]->tokens[k], bias.key);
        assert_string_equal(buf_cstr(&both[i]->text), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
        buf_fini(&both[i]->text);
    }
}

/* --- texts as ids, and back --- */

struct raw {
    struct buf item;
    char param[64];
    int code;
    bool over;
};
static void on_raw_item(void *arg, struct span item) {
    buf_clear(&((struct raw *)arg)->item);
    assert_int_equal(buf_append_span(&((struct raw *)arg)->item, item), 0);
}
static void on_raw_end(void *arg, int code, const struct error *err, bool begun) {
    struct raw *r = arg;
    (void)begun;
    r->code = code;
    if (err) span_copy(r->param, sizeof r->param, span_str(err->param));
    r->over = true;
}
static void ask_raw(struct raw *r, const char *method, const ProtobufCMessage *m) {
    static const struct bus_call_events events = {.on_item = on_raw_item, .on_end = on_raw_end};
    static uint8_t packed[65536];
    struct bus_context context = {.request_id = SPAN("request-1")};
    struct error err;
    assert_true(protobuf_c_message_get_packed_size(m) <= sizeof packed);
    size_t n = protobuf_c_message_pack(m, packed);
    buf_clear(&r->item);
    r->over = false;
    r->param[0] = 0;
    if (!bus_call(t.peer, method, &context, span_of(packed, n), false, 1, r, &events, &err)) fail_msg("%s", err.message);
    wait_until("an answer", is_true, &r->over);
}

static void test_tokenizes(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct raw raw;
    static char longer[4096];
    memset(longer, 'x', sizeof longer - 1);
    const char *const texts[] = {"The engine", "", longer}; /* the last one is longer than the context */
    buf_init(&raw.item, 1 << 20);
    for (size_t i = 0; i < 3; i++) {
        Genloop__V1__TokenizeRequest to = GENLOOP__V1__TOKENIZE_REQUEST__INIT;
        to.model = (char *)(uintptr_t) "tiny";
        to.prompt = (char *)(uintptr_t)texts[i];
        to.no_special = to.strings = true;
        ask_raw(&raw, "Generation/Tokenize", &to.base);
        assert_int_equal(raw.code, 0);
        struct tokens want = {0};
        assert_int_equal(tokenizer_encode(t.model.tokenizer, span_str(texts[i]), 0, &want, NULL), 0);
        Genloop__V1__TokenizeReply *ids = genloop__v1__tokenize_reply__unpack(NULL, raw.item.len, (const uint8_t *)buf_span(&raw.item).data);
        assert_non_null(ids);
        assert_true(ids->n_tokens == want.len && ids->n_strings == want.len && ids->context > 0 && strcmp(ids->model, "tiny@1") == 0);
        for (size_t k = 0; k < want.len; k++) {
            assert_int_equal(ids->tokens[k], want.ids[k]);
            assert_true(span_eq(span_of(ids->strings[k].data, ids->strings[k].len), tokenizer_token_bytes(t.model.tokenizer, want.ids[k])));
        }
        Genloop__V1__DetokenizeRequest from = GENLOOP__V1__DETOKENIZE_REQUEST__INIT;
        from.model = (char *)(uintptr_t) "tiny@1";
        from.tokens = ids->tokens;
        from.n_tokens = ids->n_tokens;
        ask_raw(&raw, "Generation/Detokenize", &from.base);
        assert_int_equal(raw.code, 0);
        Genloop__V1__DetokenizeReply *text = genloop__v1__detokenize_reply__unpack(NULL, raw.item.len, (const uint8_t *)buf_span(&raw.item).data);
        assert_non_null(text);
        assert_string_equal(text->text, texts[i]);
        genloop__v1__detokenize_reply__free_unpacked(text, NULL);
        genloop__v1__tokenize_reply__free_unpacked(ids, NULL);
        tokens_fini(&want);
    }
    uint32_t beyond = UINT32_MAX;
    Genloop__V1__DetokenizeRequest from = GENLOOP__V1__DETOKENIZE_REQUEST__INIT;
    from.model = (char *)(uintptr_t) "tiny";
    from.tokens = &beyond;
    from.n_tokens = 1;
    ask_raw(&raw, "Generation/Detokenize", &from.base);
    assert_int_equal(raw.code, E_INVALID);
    assert_string_equal(raw.param, "tokens");
    from.model = (char *)(uintptr_t) "nobody";
    ask_raw(&raw, "Generation/Detokenize", &from.base);
    assert_int_equal(raw.code, E_NOT_FOUND);
    Genloop__V1__TokenizeRequest to = GENLOOP__V1__TOKENIZE_REQUEST__INIT;
    to.model = (char *)(uintptr_t) "nobody";
    ask_raw(&raw, "Generation/Tokenize", &to.base);
    assert_int_equal(raw.code, E_NOT_FOUND);
    buf_fini(&raw.item);
}

static bool has_items(void *arg) { return ((struct answer *)arg)->token_count >= 3; }

static void test_credit_cancel_deadline(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer slow, other, late;
    Genloop__V1__GenerateRequest m;
    message_init(&m);
    m.max_tokens = 100;
    ask(&slow, "Generation/GenerateStream", &m, 3, 0);
    slow.keep_credit = true;
    wait_until("three tokens", has_items, &slow);
    ask(&late, "Generation/GenerateStream", &m, 2, 200);
    late.keep_credit = true;
    ask(&other, "Generation/GenerateStream", &m, 8, 0); /* passes the one that waits */
    finish(&other);
    assert_int_equal(other.token_count, 100);
    assert_true(slow.items <= 3 && !slow.over);
    finish(&late);
    assert_int_equal(late.code, E_DEADLINE);
    slow.keep_credit = false;
    bus_call_credit(slow.call, 64);
    finish(&slow);
    assert_int_equal(slow.token_count, 100);
    assert_memory_equal(slow.tokens, other.tokens, 100 * sizeof *slow.tokens);
    buf_fini(&slow.text);
    ask(&slow, "Generation/GenerateStream", &m, 2, 0);
    slow.keep_credit = true;
    t.running = 1;
    bus_call_cancel(slow.call);
    wait_until("free blocks", idle, NULL);
    buf_fini(&slow.text);
    buf_fini(&other.text);
    buf_fini(&late.text);
}

/* Pieces of so many tokens, and the rest; the tokens are the same. A reader without credit has them wait. */
static void test_pieces(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer each, pieces;
    Genloop__V1__GenerateRequest m;
    message_init(&m);
    m.max_tokens = 100;
    ask(&each, "Generation/GenerateStream", &m, 64, 0);
    finish(&each);
    m.piece_tokens = 16;
    ask(&pieces, "Generation/GenerateStream", &m, 2, 0);
    finish(&pieces);
    assert_int_equal(pieces.token_count, 100);
    assert_memory_equal(pieces.tokens, each.tokens, 100 * sizeof *each.tokens);
    assert_true(span_eq(buf_span(&pieces.text), buf_span(&each.text)));
    assert_in_range(pieces.items, 2, 7);
    assert_string_equal(pieces.finish, "length");
    buf_fini(&each.text);
    buf_fini(&pieces.text);
}

static void test_refusals(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static const struct {
        const char *name, *method, *model, *param;
        double temperature;
        int code;
    } cases[] = {
        {"a model that nobody knows", "Generation/Generate", "nobody", "", 1, E_NOT_FOUND},
        {"a version that is not there", "Generation/Generate", "tiny@7", "", 1, E_NOT_FOUND},
        {"a parameter out of range", "Generation/GenerateStream", "tiny@1", "temperature", 9, E_INVALID},
        {"a method that is not built", "Generation/Embed", "tiny@1", "", 1, E_UNSUPPORTED},
    };
    static struct answer a;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__GenerateRequest m;
        message_init(&m);
        m.model = (char *)(uintptr_t)cases[i].model;
        m.temperature_set_case = GENLOOP__V1__GENERATE_REQUEST__TEMPERATURE_SET_TEMPERATURE;
        m.temperature = cases[i].temperature;
        ask(&a, cases[i].method, &m, 8, 0);
        finish(&a);
        if (a.code != cases[i].code || (cases[i].param[0] && strcmp(a.param, cases[i].param) != 0)) fail_msg("%s: %d, %s (%s)", cases[i].name, a.code, a.message, a.param);
        buf_fini(&a.text);
    }
    struct error err;
    struct bus_context context = {.request_id = SPAN("request-1")};
    memset(&a, 0, sizeof a);
    buf_init(&a.text, 1 << 10);
    a.call = bus_call(t.peer, "Generation/Generate", &context, SPAN("\xff\xff no protobuf"), false, 1, &a, &EVENTS, &err);
    finish(&a);
    assert_int_equal(a.code, E_INVALID);
    buf_fini(&a.text);
}

/* A new version is loaded beside the old one, and the old one leaves. */
static void test_swap(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    const model_state way[] = {MODEL_STATE(CANDIDATE), MODEL_STATE(EVALUATED), MODEL_STATE(APPROVED), MODEL_STATE(CANARY)};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) publish_version(2, way[i]);
    wait_until("both", models_are, (void *)(uintptr_t) "tiny@2 tiny@1 ");
    static struct answer a;
    Genloop__V1__GenerateRequest m;
    message_init(&m);
    m.max_tokens = 150;
    ask(&a, "Generation/GenerateStream", &m, 3, 0); /* on the old one, while it is taken back */
    a.keep_credit = true;
    wait_until("three tokens", has_items, &a);
    publish_version(2, MODEL_STATE(PRODUCTION));
    publish_version(1, MODEL_STATE(RETIRED));
    wait_until("the new one", models_are, (void *)(uintptr_t) "tiny@2 ");
    a.keep_credit = false;
    bus_call_credit(a.call, 64);
    finish(&a);
    assert_int_equal(a.code, 0);
    assert_int_equal(a.token_count, 150);
    assert_string_equal(a.model, "tiny@1");
    buf_fini(&a.text);
}

static bool failed_is_told(void *arg) { return strstr(t.failed, arg) != NULL; }

/* A version that cannot be loaded is told, and the others go on. Its files come later: it is tried again. */
static void test_failed(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct object_ref manifest = t.manifest;
    struct error err;
    char readme[128];
    snprintf(readme, sizeof readme, "%s/README.md", t.model.path);
    assert_int_equal(file_write(readme, SPAN("another"), 0644, &err), 0);
    struct store *elsewhere;
    char url[128];
    snprintf(url, sizeof url, "file:%s/elsewhere", t.home);
    if (store_open(url, &elsewhere, &err) != 0 || store_put_dir(elsewhere, t.model.path, &t.manifest, &err) != 0) fail_msg("%s", err.message);
    store_close(elsewhere);
    const model_state way[] = {MODEL_STATE(CANDIDATE), MODEL_STATE(EVALUATED), MODEL_STATE(APPROVED), MODEL_STATE(CANARY)};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) publish_version(3, way[i]);
    wait_until("the failure", failed_is_told, (void *)(uintptr_t) "tiny@3: ");
    assert_string_equal(t.models, "tiny@2 ");
    if (store_put_dir(t.store, t.model.path, &t.manifest, &err) != 0) fail_msg("%s", err.message);
    wait_until("the third", models_are, (void *)(uintptr_t) "tiny@3 tiny@2 ");
    char laid_out[256];
    snprintf(laid_out, sizeof laid_out, "%s/work/models/%s", t.home, t.manifest.sha256);
    assert_true(file_exists(laid_out));
    publish_version(3, MODEL_STATE(REJECTED));
    wait_until("the third to go", models_are, (void *)(uintptr_t) "tiny@2 ");
    for (int i = 0; i < 2000 && file_exists(laid_out); i++) usleep(1000);
    assert_false(file_exists(laid_out));
    t.manifest = manifest;
}

/* A model whose encoder reads the prompt, beside a decoder: streamed, whole and constrained; what it cannot do it says. */
static void test_encoder_decoder(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    struct object_ref manifest = t.manifest;
    struct error err;
    struct tiny model;
    struct engine *e;
    struct engine_options o = {.threads = 1, .kv_type = KV_F16};
    tiny_make(&model, "umt5", 7);
    if (store_put_dir(t.store, model.path, &t.manifest, &err) != 0 || engine_new(&e, model.path, &o, &err) != 0) fail_msg("%s", err.message);
    struct engine_request r;
    struct engine_result want;
    engine_request_init(&r);
    r.prompt = SPAN("The engine");
    r.sampling.seed = 5;
    r.seed_set = r.ignore_eos = true;
    r.tokens_max = 40;
    assert_int_equal(engine_generate_batch(e, &r, 1, &want, NULL), 0);
    const model_state way[] = {MODEL_STATE(CANDIDATE), MODEL_STATE(EVALUATED), MODEL_STATE(APPROVED), MODEL_STATE(CANARY)};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) publish_version(4, way[i]);
    wait_until("the encoder-decoder", models_are, (void *)(uintptr_t) "tiny@4 tiny@2 ");

    static struct answer stream, unary, decoder, closed, echo;
    Genloop__V1__GenerateRequest m;
    message_init(&m);
    m.model = (char *)(uintptr_t)"tiny@2";
    ask(&decoder, "Generation/GenerateStream", &m, 4, 0);
    m.model = (char *)(uintptr_t)"tiny@4";
    ask(&stream, "Generation/GenerateStream", &m, 4, 0);
    ask(&unary, "Generation/Generate", &m, 0, 0);
    char stop[2] = ""; /* a letter of the answer */
    for (size_t i = 1; i < want.text_len && !stop[0]; i++)
        if (want.text[i] > ' ' && want.text[i] < 127) stop[0] = want.text[i];
    assert_true(stop[0]);
    m.stop = (char *[]){stop};
    m.n_stop = 1;
    ask(&closed, "Generation/GenerateStream", &m, 4, 0);
    m.n_stop = 0;
    m.echo = true;
    ask(&echo, "Generation/GenerateStream", &m, 4, 0);
    struct answer *all[] = {&stream, &unary, &decoder, &closed, &echo};
    for (int i = 0; i < 5; i++) finish(all[i]);
    for (int i = 0; i < 3; i++) {
        if (all[i]->code != 0) fail_msg("%d: %s", i, all[i]->message);
        assert_int_equal(all[i]->token_count, 40);
        assert_string_equal(all[i]->finish, "length");
        if (i == 2) continue;
        assert_memory_equal(all[i]->tokens, want.tokens, 40 * sizeof *want.tokens);
        assert_true(span_eq(buf_span(&all[i]->text), span_of(want.text, want.text_len)));
        assert_string_equal(all[i]->model, "tiny@4");
        assert_int_equal(all[i]->prompt_tokens, want.usage.prompt_tokens);
    }
    assert_true(want.usage.prompt_tokens > 1);
    assert_int_equal(closed.code, 0);
    assert_string_equal(closed.finish, "stop");
    assert_true(closed.text.len < want.text_len && span_starts(span_of(want.text, want.text_len), buf_span(&closed.text)));
    assert_int_equal(echo.code, E_UNSUPPORTED);
    assert_string_equal(echo.param, "echo");
    for (int i = 0; i < 5; i++) buf_fini(&all[i]->text);
    publish_version(4, MODEL_STATE(REJECTED));
    wait_until("it to go", models_are, (void *)(uintptr_t) "tiny@2 ");
    engine_result_fini(&want);
    engine_free(e);
    tiny_remove(&model);
    t.manifest = manifest;
}

static bool exited(void *arg) {
    (void)arg;
    return t.exit_status != -1000;
}
static void test_drains(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer a, refused;
    Genloop__V1__GenerateRequest m;
    message_init(&m);
    m.model = (char *)(uintptr_t)"tiny@2";
    m.max_tokens = 150;
    ask(&a, "Generation/GenerateStream", &m, 3, 0);
    a.keep_credit = true;
    wait_until("three tokens", has_items, &a);
    process_kill(t.replica, SIGTERM);
    do { /* until the signal has arrived */
        m.max_tokens = 1;
        ask(&refused, "Generation/Generate", &m, 1, 0);
        finish(&refused);
        buf_fini(&refused.text);
    } while (refused.code == 0);
    assert_int_equal(refused.code, E_UNAVAILABLE);
    assert_int_equal(t.exit_status, -1000);
    a.keep_credit = false;
    bus_call_credit(a.call, 64);
    finish(&a);
    assert_int_equal(a.code, 0);
    assert_int_equal(a.token_count, 150);
    buf_fini(&a.text);
    wait_until("the end", exited, NULL);
    assert_int_equal(t.exit_status, 0);
    process_close(t.replica);
    t.replica = NULL;
}

/* Somebody in a hurry: two signals, a stream open and unread. It ends at once, and everything is freed on the way (the sanitizers look). */
static void test_hurry(void **state) {
    (void)state;
    if (!t.executable[0]) skip();
    static struct answer a;
    Genloop__V1__GenerateRequest m;
    t.have = false;
    start_replica();
    wait_until("the model", models_are, (void *)(uintptr_t) "tiny@2 ");
    message_init(&m);
    m.model = (char *)(uintptr_t)"tiny@2";
    ask(&a, "Generation/GenerateStream", &m, 3, 0);
    a.keep_credit = true;
    wait_until("three tokens", has_items, &a);
    process_kill(t.replica, SIGTERM);
    usleep(50000);
    process_kill(t.replica, SIGINT);
    wait_until("the end", exited, NULL);
    assert_int_equal(t.exit_status, 0);
    finish(&a);
    assert_int_equal(a.code, E_UNAVAILABLE);
    buf_fini(&a.text);
    process_close(t.replica);
    t.replica = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves_what_is_released), cmocka_unit_test(test_answers), cmocka_unit_test(test_nul), cmocka_unit_test(test_tokenizes), cmocka_unit_test(test_credit_cancel_deadline),
        cmocka_unit_test(test_pieces), cmocka_unit_test(test_refusals), cmocka_unit_test(test_swap), cmocka_unit_test(test_failed), cmocka_unit_test(test_encoder_decoder),
        cmocka_unit_test(test_drains),
        cmocka_unit_test(test_hurry),
    };
    return cmocka_run_group_tests_name("replica", tests, set_up, tear_down);
}
