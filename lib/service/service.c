/*
 * From exec to ready: configuration and home at once (a mistake there ends the process with its reason), then the loop runs, so that /livez answers; what blocks (the store, the
 * log, which may still be starting) is opened on a worker and tried again for OPEN_PATIENCE_MS; then the bus, the membership and the service's own start.
 *
 *   opening ──► started ──► ready ⇄ not ready
 *                  │
 *                  └─SIGTERM─► draining ──(drained and no call open, or drain_ms over)──► stopped
 */
#include "service/service.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"
#include "genloop/v1/bus.pb-c.h"
#include "registry/api_key.h"
#include "service/admin.h"
#include "service/members.h"
#include "service/notify.h"
#include "service/settings.h"
#include "wire/unpack.h"

enum {
    OPEN_PATIENCE_MS = 30000, /* everything starts at once, and a log with much to replay takes its time */
    OPEN_RETRY_MS = 50,
    REFRESH_MS = 500,         /* of our own record: as often as heartbeats go out */
    DRAIN_CHECK_MS = 20,
    ADDRESS_MAX = 600, /* a path of 107 bytes, or a host of 253 and what stands around it */
    LOAD_BYTES_MAX = 240 * 1024, /* with the rest of the record it stays below MEMBER_BYTES_MAX */
};

struct service {
    const struct service_spec *spec;
    struct service_settings *settings;
    struct config_row *rows;
    size_t n_rows;
    struct loop *loop;
    struct bus_keys keys;
    char bus_address[ADDRESS_MAX], admin_address[ADDRESS_MAX]; /* as the others are told */
    struct eventlog *log;
    struct store *store;
    struct keyring *keyring;
    struct bus_server *bus;
    struct bus_server_events bus_events;
    struct members *members;
    struct admin *admin;
    struct loop_signal *terminate, *interrupt;
    struct loop_timer *refresh, *retry, *drain;
    void *arg;
    uint64_t lag_events;
    int64_t started_time_ms, opening_ms, drain_until_ms;
    bool started, is_ready, draining, drained, leads;
    bool told; /* whoever started us knows how we are */
    atomic_int exit_code;
    struct buf load;
    Genloop__V1__ReplicaLoad *load_message;
    struct error open_error;
    int open_result;
    struct metric *ready_metric, *lag_metric;
};

/* What a supervisor says of our former lives: systemd has no word for it, so it is ours. */
static void set_restarts(void) {
    const char *text = getenv("GENLOOP_RESTARTS");
    uint64_t n;
    if (!text || span_to_u64(span_str(text), &n) < 0) return;
    metric_set(metric_gauge("genloop_restarts", "", "How often the supervisor has started this instance anew since it began itself."), (double)n);
}

/* ---- our own record ---- */

static uint64_t resident_bytes(void) {
    unsigned long long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    (void)fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void tell_member(struct service *s, bool now) {
    Genloop__V1__Member m;
    struct buf packed;
    if (!s->members) return;
    genloop__v1__member__init(&m);
    m.id = s->settings->instance;
    m.service = (char *)s->spec->name;
    m.endpoint = s->bus_address;
    m.public_key = (ProtobufCBinaryData){sizeof s->keys.public_key, s->keys.public_key};
    m.started_time_ms = s->started_time_ms;
    m.heartbeat_time_ms = clock_wall_ms();
    m.draining = s->draining;
    m.version = (char *)GENLOOP_VERSION;
    m.load = s->load_message;
    m.admin = s->admin_address;
    m.pid = (uint64_t)getpid();
    m.resident_bytes = resident_bytes();
    m.lag_events = s->lag_events;
    m.ready = service_is_ready(s);
    m.leads = s->leads && !s->draining;
    buf_init(&packed, MEMBER_BYTES_MAX);
    size_t size = genloop__v1__member__get_packed_size(&m);
    char *at = buf_reserve(&packed, size);
    if (at) {
        buf_commit(&packed, genloop__v1__member__pack(&m, (uint8_t *)at));
        if (s->bus) bus_server_load(s->bus, buf_span(&packed), now);
        members_announce(s->members, buf_span(&packed), now);
    }
    buf_fini(&packed);
}

/* What is said here says everything, so that it may be said again at the next round where it could not be said now. */
static void tell_starter(struct service *s) {
    bool ready = service_is_ready(s);
    s->told = notify("%s%sX_GENLOOP_READY=%d\nX_GENLOOP_ADMIN=%s\n", ready ? "READY=1\n" : "", s->draining ? "STOPPING=1\n" : "", ready, s->admin_address) != E_AGAIN;
}

static void on_refresh(void *arg) {
    struct service *s = arg;
    tell_member(s, false);
    if (!s->told) tell_starter(s);
}

void service_load(struct service *s, struct span replica_load, bool now) {
    Genloop__V1__ReplicaLoad *load = replica_load.len <= LOAD_BYTES_MAX ? MESSAGE_UNPACK(ReplicaLoad, replica_load, replica_load) : NULL;
    if (!load) return;
    if (s->load_message) genloop__v1__replica_load__free_unpacked(s->load_message, NULL);
    s->load_message = load;
    if (now) tell_member(s, true);
}

/* ---- starting ---- */

static void on_peer(void *arg, struct bus_peer *peer, struct span member, bool alive) {
    struct service *s = arg;
    if (s->started && s->spec->on_peer) s->spec->on_peer(s, s->arg, peer, member, alive);
}

/* Calls wait until the service stands: its own argument does not exist before. */
static void on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    struct service *s = arg;
    struct error err;
    if (s->started) {
        s->spec->bus->on_call(s->arg, reply, method, context, request, call_arg);
        return;
    }
    (void)error_set(&err, E_UNAVAILABLE, "%s is starting", s->settings->instance);
    bus_reply_end(reply, E_UNAVAILABLE, &err, SPAN(""));
}

static void start_service(struct service *s) {
    struct error err = {0};
    struct members_config config = {.loop = s->loop, .redis_url = s->settings->redis, .peers = s->spec->peers, .keys = &s->keys, .service = span_str(s->spec->name),
                                    .id = span_str(s->settings->instance), .arg = s, .on_peer = on_peer};
    int r = members_open(&config, &s->members, &err);
    if (r == 0 && s->spec->wants_bus_server) {
        s->bus_events = *s->spec->bus;
        s->bus_events.on_call = on_call;
        r = bus_server_open(s->loop, s->settings->bus, &s->keys, s, &s->bus_events, &s->bus, &err);
    }
    if (r == 0 && s->bus) r = settings_advertised(s->settings, bus_server_endpoint(s->bus), s->bus_address, sizeof s->bus_address, &err);
    if (r == 0) r = s->spec->start(s, &s->arg, &err);
    if (r < 0) {
        service_fail(s, &err);
        return;
    }
    s->started = true;
    tell_member(s, true);
    tell_starter(s);
    loop_timer_start(s->refresh, REFRESH_MS, REFRESH_MS);
    log_info("service.started", "%s, %lld ms after exec, admin at %s", s->settings->instance, (long long)(clock_wall_ms() - s->started_time_ms), s->admin_address);
}

/* On a worker: opens what is not open yet. */
static void open_blocking(void *arg) {
    struct service *s = arg;
    char path[4096];
    struct error *err = &s->open_error;
    int r = 0;
    if (s->spec->wants_store && !s->store) r = store_open(s->settings->store, &s->store, err);
    if (r == 0 && s->spec->wants_keyring && !s->keyring) r = keyring_open(service_path(s, "keys/subjects", path, sizeof path), &s->keyring, err);
    if (r == 0 && s->spec->wants_log && !s->log) {
        (void)snprintf(path, sizeof path, "/services/%s", s->spec->name);
        struct eventlog_config config = {.url = s->settings->log, .source = path, .properties = s->settings->log_properties[0] ? s->settings->log_properties : NULL};
        r = eventlog_open(&config, &s->log, err);
    }
    s->open_result = r;
}

static void opened(void *arg) {
    struct service *s = arg;
    if (s->draining) {
        loop_stop(s->loop);
        return;
    }
    if (s->open_result == 0) {
        start_service(s);
        return;
    }
    bool later = s->open_result == E_UNAVAILABLE || s->open_result == E_IO || s->open_result == E_NOT_FOUND || s->open_result == E_DEADLINE || s->open_result == E_AGAIN;
    if (!later || loop_now_ms(s->loop) - s->opening_ms > OPEN_PATIENCE_MS) service_fail(s, &s->open_error);
    else loop_timer_start(s->retry, OPEN_RETRY_MS, 0);
}

static void on_retry(void *arg) {
    struct service *s = arg;
    struct error err;
    if (loop_work(s->loop, open_blocking, opened, s) < 0) {
        (void)error_set(&err, E_NOMEM, "no memory to start");
        service_fail(s, &err);
    }
}

/* ---- leaving ---- */

static void on_drain_check(void *arg) {
    struct service *s = arg;
    bool over = loop_now_ms(s->loop) >= s->drain_until_ms;
    if (over) log_warn("service.drain", "%lld ms are over with %d calls open", (long long)s->settings->drain_ms, s->bus ? bus_server_open_calls(s->bus) : 0);
    if (over || (s->drained && (!s->bus || bus_server_open_calls(s->bus) == 0))) loop_stop(s->loop);
}

static void on_signal(void *arg, int signum) {
    struct service *s = arg;
    (void)signum;
    if (s->draining) { /* somebody is in a hurry */
        loop_stop(s->loop);
        return;
    }
    s->draining = true;
    service_ready(s, false);
    log_info("service.drain", "draining, at most %lld ms", (long long)s->settings->drain_ms);
    if (!s->started) {
        loop_stop(s->loop);
        return;
    }
    tell_member(s, true);
    tell_starter(s);
    s->drain_until_ms = loop_now_ms(s->loop) + s->settings->drain_ms;
    loop_timer_start(s->drain, 0, DRAIN_CHECK_MS);
    if (s->spec->drain) s->spec->drain(s, s->arg);
    else s->drained = true;
}

static void fail_on_loop(void *arg) { loop_stop(((struct service *)arg)->loop); }

void service_fail(struct service *s, const struct error *err) {
    log_error("service.failed", "%s", err && err->message[0] ? err->message : "unknown");
    /* A mistake in the configuration that only the start finds is one all the same: who supervises need not try again soon. */
    atomic_store(&s->exit_code, !s->started && err && (err->code == E_INVALID || err->code == E_UNSUPPORTED) ? 2 : 1);
    if (loop_post(s->loop, fail_on_loop, s) < 0) loop_stop(s->loop);
}

static int run(struct service *s, struct error *err) {
    int r;
    if (!(s->loop = loop_new(err))) return E_NOMEM;
    if ((r = admin_open(s, s->settings->admin, &s->admin, err)) < 0 || (r = settings_advertised(s->settings, admin_address(s->admin), s->admin_address, sizeof s->admin_address, err)) < 0) return r;
    tell_starter(s);
    s->terminate = loop_signal_open(s->loop, SIGTERM, s, on_signal);
    s->interrupt = loop_signal_open(s->loop, SIGINT, s, on_signal);
    s->refresh = loop_timer_new(s->loop, s, on_refresh);
    s->retry = loop_timer_new(s->loop, s, on_retry);
    s->drain = loop_timer_new(s->loop, s, on_drain_check);
    if (!s->terminate || !s->interrupt || !s->refresh || !s->retry || !s->drain) return error_set(err, E_NOMEM, "no memory to start");
    s->opening_ms = loop_now_ms(s->loop);
    on_retry(s);
    (void)loop_run(s->loop);
    return 0;
}

static void close_all(struct service *s) {
    /* The bus first, so that what is open ends and the handlers clean up while all they use still stands. */
    bus_server_close(s->bus);
    s->bus = NULL;
    if (s->members) members_part(s->members);
    if (s->started && s->spec->stop) s->spec->stop(s, s->arg);
    members_close(s->members);
    admin_close(s->admin);
    loop_timer_close(s->refresh);
    loop_timer_close(s->retry);
    loop_timer_close(s->drain);
    if (s->terminate) loop_signal_close(s->terminate);
    if (s->interrupt) loop_signal_close(s->interrupt);
    loop_free(s->loop); /* waits for what is on workers */
    eventlog_close(s->log);
    keyring_close(s->keyring);
    store_close(s->store);
    if (s->load_message) genloop__v1__replica_load__free_unpacked(s->load_message, NULL);
}

/* ---- the command line ---- */

static int usage(const struct service_spec *spec, FILE *to, int code) {
    (void)fprintf(to,
                  "usage: genloop-%s [--config FILE]\n\n"
                  "  --config FILE  the configuration (YAML); every key is also GENLOOP_SECTION_KEY in the environment\n"
                  "  --check        read the configuration, say what is in force or what is wrong, and exit\n"
                  "  --describe     the reference of the configuration, as Markdown\n"
                  "  --version, --help\n",
                  spec->name);
    return code;
}

static int print(int (*render)(struct buf *out, struct service *s), struct service *s) {
    struct buf out;
    buf_init(&out, 1 << 20);
    int r = render(&out, s);
    if (r == 0) (void)fwrite(buf_span(&out).data, 1, out.len, stdout);
    buf_fini(&out);
    return r == 0 && fflush(stdout) == 0 ? 0 : 1;
}
static int render_reference(struct buf *out, struct service *s) { return config_describe(s->rows, s->n_rows, out); }
static int render_settings(struct buf *out, struct service *s) { return config_show(s->rows, s->n_rows, s->settings, out); }

static int log_settings(struct service *s, struct error *err) {
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    bool json = strcmp(s->settings->log_format, "json") == 0;
    if (!json && strcmp(s->settings->log_format, "text") != 0) return error_set(err, E_INVALID, "log_format: \"%s\" is neither json nor text", s->settings->log_format);
    for (int i = 0; i < 4; i++)
        if (strcmp(s->settings->log_level, levels[i]) == 0) {
            log_init(s->spec->name, (enum log_level)i, json);
            return 0;
        }
    return error_set(err, E_INVALID, "log_level: \"%s\" is none of debug, info, warn, error", s->settings->log_level);
}

int service_main(int argc, char **argv, const struct service_spec *spec) {
    struct service s = {.spec = spec, .started_time_ms = clock_wall_ms()};
    struct error err = {0};
    const char *config = NULL;
    bool check = false, describe = false;
    int code = 2, r;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) config = argv[++i];
        else if (strncmp(argv[i], "--config=", 9) == 0) config = argv[i] + 9;
        else if (strcmp(argv[i], "--check") == 0) check = true;
        else if (strcmp(argv[i], "--describe") == 0) describe = true;
        else if (strcmp(argv[i], "--version") == 0) return printf("genloop-%s %s\n", spec->name, GENLOOP_VERSION) > 0 ? 0 : 1;
        else if (strcmp(argv[i], "--help") == 0) return usage(spec, stdout, 0);
        else {
            (void)fprintf(stderr, "genloop-%s: unknown argument \"%s\"\n", spec->name, argv[i]);
            return usage(spec, stderr, 2);
        }
    }
    log_init(spec->name, LOG_INFO, true);
    s.rows = settings_rows(spec->rows, spec->n_rows, &s.n_rows);
    s.settings = mem_zalloc(spec->settings_size);
    if (!s.rows || !s.settings) goto out;
    if (describe) {
        code = print(render_reference, &s);
        goto out;
    }
    if ((r = config_load(config, s.rows, s.n_rows, SERVICE_SECTIONS, s.settings, &err)) < 0 || (r = settings_resolve(s.settings, spec->name, &err)) < 0 || (r = log_settings(&s, &err)) < 0 ||
        (spec->check && (r = spec->check(s.settings, &err)) < 0)) {
        (void)fprintf(stderr, "genloop-%s: %s\n", spec->name, err.message);
        goto out;
    }
    if (check) {
        code = print(render_settings, &s);
        goto out;
    }
    s.ready_metric = metric_gauge("genloop_ready", "", "1 while this service answers requests.");
    s.lag_metric = metric_gauge("genloop_lag_events", "", "Events in the topics that this service reads and has not folded or handled.");
    set_restarts();
    if ((r = settings_make_home(s.settings, &s.keys, &err)) < 0 || (r = run(&s, &err)) < 0) {
        log_error("service.failed", "%s", err.message);
        atomic_store(&s.exit_code, r == E_INVALID || r == E_UNSUPPORTED ? 2 : 1);
    }
    close_all(&s);
    code = atomic_load(&s.exit_code);
    log_info("service.stopped", "exit code %d", code);
out:
    if (s.settings && s.rows) config_free(s.rows, s.n_rows, s.settings);
    mem_free(s.settings);
    mem_free(s.rows);
    return code;
}

/* ---- the surface ---- */

struct loop *service_loop(struct service *s) { return s->loop; }
const void *service_settings(struct service *s) { return s->settings; }
struct eventlog *service_log(struct service *s) { return s->log; }
struct store *service_store(struct service *s) { return s->store; }
struct keyring *service_keyring(struct service *s) { return s->keyring; }
struct bus_server *service_bus(struct service *s) { return s->bus; }
struct bus_client *service_bus_client(struct service *s) { return members_bus(s->members); }
const char *service_instance(struct service *s) { return s->settings->instance; }

const char *service_path(struct service *s, const char *relative, char *out, size_t out_size) {
    int n = snprintf(out, out_size, "%s/%s", s->settings->home, relative);
    ASSERT(n >= 0 && (size_t)n < out_size);
    return out;
}

void service_ready(struct service *s, bool ready) {
    ready = ready && !s->draining;
    if (ready != s->is_ready) log_info(ready ? "service.ready" : "service.not_ready", "%lld ms after exec", (long long)(clock_wall_ms() - s->started_time_ms));
    bool changed = s->is_ready != ready;
    s->is_ready = ready;
    metric_set(s->ready_metric, ready);
    if (changed && s->started) {
        tell_member(s, true);
        tell_starter(s);
    }
}
void service_lag(struct service *s, uint64_t events) {
    s->lag_events = events;
    metric_set(s->lag_metric, (double)events);
}
void service_leads(struct service *s, bool leads) {
    if (leads == s->leads) return;
    s->leads = leads;
    if (s->started) tell_member(s, true);
}
void service_secret(struct service *s, const char *purpose, uint8_t secret[32]) { platform_secret(s->keys.secret_key, purpose, secret); }
bool service_is_ready(struct service *s) { return s->is_ready && s->started; }
bool service_draining(struct service *s) { return s->draining; }
void service_drained(struct service *s) { s->drained = true; }
struct bus_peer *service_peer(struct service *s, const char *name) { return members_least_busy(s->members, name); }
void service_members(struct service *s, void *arg, void (*on_member)(void *arg, struct bus_peer *peer, struct span member, bool alive)) { members_each(s->members, arg, on_member); }
