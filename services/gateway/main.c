#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/loop_stream.h"
#include "base/random.h"
#include "cache/link.h"
#include "descriptors.h"
#include "genloop/v1/bus.pb-c.h"
#include "access.h"
#include "auth.h"
#include "batch_lane.h"
#include "cors.h"
#include "door.h"
#include "exchange.h"
#include "gateway.h"
#include "idempotency.h"
#include "grpc_reflection.h"
#include "interactions.h"
#include "registry.h"
#include "wire/unpack.h"

#define AT(field) offsetof(struct gateway_settings, field)
static const struct config_row ROWS[] = {
    {"gateway", "listen", CONFIG_STRING, AT(listen), "127.0.0.1:8080", 0, 0, "Address and port of the HTTP door, unix:PATH, or systemd:NAME for the socket that a socket unit passes. Beyond loopback it asks for keys always, on loopback once one has been made."},
    {"gateway", "capture", CONFIG_STRING, AT(capture), "none", 0, 0, "What is kept of prompts and answers: none; hashed (a keyed hash of the prompt); full (sealed in the store, with the key of its subject)."},
    {"gateway", "cors_origins", CONFIG_STRING, AT(cors_origins), "", 0, 0, "Web pages of other origins that may use this gateway from a browser: https://HOST[:PORT], several with commas between, or * for any; empty: none."},
    {"gateway", "timeout", CONFIG_DURATION_MS, AT(timeout_ms), "10m", 1, 86400000, "The most that a request may take where the client says nothing (x-genloop-timeout-ms)."},
    {"gateway", "upload_max", CONFIG_BYTES, AT(upload_max_bytes), "1GiB", 1, 0x1p40, "The largest document that is taken; ingest has a limit of its own."},
    {"gateway", "bodies_max", CONFIG_BYTES, AT(bodies_max_bytes), "256MiB", HTTP_BODY_COLLECT_MAX, 0x1p40, "What the bodies that are read whole (8 MiB each at most) may hold together: above it 503."},
    {"gateway", "key_requests_per_minute", CONFIG_INT, AT(key_limits.requests_per_minute), "0", 0, LIMITS_FIGURE_MAX, "Requests a minute of each key (or of the caller without one); 0: no limit."},
    {"gateway", "key_tokens_per_minute", CONFIG_INT, AT(key_limits.tokens_per_minute), "0", 0, LIMITS_FIGURE_MAX, "Tokens a minute of each key, prompts and answers together; 0: no limit."},
    {"gateway", "key_streams_max", CONFIG_INT, AT(key_limits.streams_max), "0", 0, LIMITS_FIGURE_MAX, "Streamed answers of each key at once; 0: no limit."},
    {"gateway", "tenant_requests_per_minute", CONFIG_INT, AT(tenant_limits.requests_per_minute), "0", 0, LIMITS_FIGURE_MAX, "Requests a minute of each tenant, over all its keys; 0: no limit."},
    {"gateway", "tenant_tokens_per_minute", CONFIG_INT, AT(tenant_limits.tokens_per_minute), "0", 0, LIMITS_FIGURE_MAX, "Tokens a minute of each tenant, over all its keys; 0: no limit."},
    {"gateway", "tenant_streams_max", CONFIG_INT, AT(tenant_limits.streams_max), "0", 0, LIMITS_FIGURE_MAX, "Streamed answers of each tenant at once; 0: no limit."},
    {"gateway", "cache_ttl", CONFIG_DURATION_MS, AT(cache_ttl_ms), "1h", 0, 604800000, "How long the answer to a deterministic request is kept in the response cache; 0: none is kept."},
    {"gateway", "cache_entry_max", CONFIG_BYTES, AT(cache_entry_max), "256KiB", 1024, 1 << 20, "The largest answer that is kept there; how many there are is bounded by Redis' own memory limit."},
    {"gateway", "responses_ttl", CONFIG_DURATION_MS, AT(responses_ttl_ms), "24h", 0, 30.0 * 86400000, "How long a response of /v1/responses is kept in Redis, sealed, for GET and previous_response_id, unless its \"store\" is false; Redis' memory may end it earlier. 0: none is kept."},
    {"gateway", "responses_max", CONFIG_BYTES, AT(responses_max_bytes), "1MiB", 1024, 8 << 20, "The largest response that is kept, with the conversation before it; a larger one is given, and says \"store\": false."},
    {"gateway", "prefix_share", CONFIG_INT, AT(prefix_share), "30", 0, 100, "Percent of a prompt, from its beginning, that a replica must have been sent lately to be asked before less loaded ones: its prefix cache has that computed. A session (x-genloop-session) goes before it. 0: prompts are not compared."},
    {"gateway", "prefix_slack", CONFIG_INT, AT(prefix_slack), "4", 0, 10000, "How many requests more than the least loaded replica it may have for that, at most; and never more than one for each 256 bytes of that beginning."},
    {"gateway", "access_log", CONFIG_BOOL, AT(access_log), "true", 0, 0, "One line of JSON on stderr for each request, without contents and keys."},
    {"gateway", "idempotency_ttl", CONFIG_DURATION_MS, AT(idempotency_ttl_ms), "24h", 1000, 30.0 * 86400000, "How long the answer to a request with an Idempotency-Key is kept in Redis; its memory may end it earlier."},
    {"gateway", "idempotency_max", CONFIG_BYTES, AT(idempotency_max_bytes), "1MiB", 1024, 64 << 20, "The largest answer that is kept for an Idempotency-Key; a larger one is given, and given anew where it is asked for again."},
    /* door.c */
    {"gateway", "tls_certificate", CONFIG_STRING, AT(tls_certificate), "", 0, 0, "PEM file with the certificate chain to show: then the door speaks TLS (1.2 and 1.3, HTTP/2 by ALPN) and nothing else. Read again when it changes; empty: plain."},
    {"gateway", "tls_key", CONFIG_STRING, AT(tls_key), "", 0, 0, "PEM file with its private key, without passphrase. Read again when it changes."},
    {"gateway", "tls_client_ca", CONFIG_STRING, AT(tls_client_ca), "", 0, 0, "PEM file with authorities: clients must show a certificate that one of them has signed (mutual TLS). Empty: clients need none."},
    {"gateway", "reuse_port", CONFIG_BOOL, AT(reuse_port), "false", 0, 0, "Several gateways may listen on this address at once, and the kernel spreads connections over them (SO_REUSEPORT): a restart of one that loses nothing."},
    {"gateway", "connections_max", CONFIG_INT, AT(connections_max), "8192", 16, 1000000, "Connections at once, each with a descriptor of its own (ulimit -n); beyond, they wait in the kernel's backlog."},
    {"gateway", "streams_max", CONFIG_INT, AT(streams_max), "128", 1, 10000, "Streams at once on an HTTP/2 connection; beyond, they are refused, and clients may repeat them."},
    {"gateway", "head_max", CONFIG_BYTES, AT(head_max_bytes), "64KiB", 4096, 0x1p20, "Header fields of a request, HTTP/1.1's head and HTTP/2's header list: beyond, 431."},
    {"gateway", "write_buffer", CONFIG_BYTES, AT(write_buffer_bytes), "1MiB", 65536, 0x1p30, "What a connection's streamed answers may hold that the client has not taken; beyond, generation waits."},
    {"gateway", "head_timeout", CONFIG_DURATION_MS, AT(head_timeout_ms), "10s", 100, 3600000, "From a request's first byte to the end of its head, and for a TLS handshake: 408, or closed."},
    {"gateway", "body_timeout", CONFIG_DURATION_MS, AT(body_timeout_ms), "30s", 100, 3600000, "In which a body must bring 4 KiB or its end: 504."},
    {"gateway", "idle_timeout", CONFIG_DURATION_MS, AT(idle_timeout_ms), "65s", 100, 86400000, "A connection without a request is closed after it; longer than a proxy in front waits, so that the proxy closes first."},
    {"gateway", "write_timeout", CONFIG_DURATION_MS, AT(write_timeout_ms), "60s", 100, 3600000, "In which a client must take 4 KiB or the rest of an answer that waits for it: it is cut off."},
};

enum { DRAIN_CHECK_MS = 20 };

struct shell {
    struct gateway gateway;
    struct loop_timer *drain;
    int http_drained; /* doors of two */
};

/* Without keys there is one actor: who owns the home, and so could do everything anyway. */
static void name_actor(struct gateway *g) {
    struct stat st;
    struct passwd entry, *owner = NULL;
    char text[2048];
    uid_t uid = stat(g->settings->shared.home, &st) == 0 ? st.st_uid : getuid();
    if (getpwuid_r(uid, &entry, text, sizeof text, &owner) == 0 && owner) (void)snprintf(g->actor, sizeof g->actor, "local:%s", owner->pw_name);
    else (void)snprintf(g->actor, sizeof g->actor, "local:%u", (unsigned)uid);
}

static void on_caught_up(struct gateway *g) {
    struct error err = {0};
    if (!g->http && door_open(g, &err) < 0) {
        service_fail(g->service, &err);
        return;
    }
    auth_announce(g);
    service_ready(g->service, true);
}

/* A socket of the home's owner, who needs no key: how the first key is made, and how commands on the machine itself go on once there are keys. HOME/run is his alone, and so is it. */
static int open_owner_door(struct gateway *g, struct error *err) {
    char address[4200] = "unix:", *path = address + 5, relative[160];
    struct stat st;
    (void)snprintf(relative, sizeof relative, "run/%s.door", service_instance(g->service));
    service_path(g->service, relative, path, sizeof address - 5);
    mode_t mask = umask(0177);
    g->owner_door = http_server_open(service_loop(g->service), address, NULL, g, exchange_request_owner, err);
    (void)umask(mask);
    if (!g->owner_door) return error_prefix(err, "the door of the home's owner");
    if (stat(path, &st) < 0 || (st.st_mode & 077) != 0) return error_set(err, E_DENIED, "%s is open to others than the owner of the home", path);
    return 0;
}

static void on_peer(struct service *s, void *arg, struct bus_peer *peer, struct span record, bool alive) {
    struct gateway *g = arg;
    (void)s;
    if (!alive) {
        routing_lost(g->routing, peer, loop_now_ms(service_loop(s)));
        return;
    }
    Genloop__V1__Member *m = MESSAGE_UNPACK(Member, member, record);
    if (m && strcmp(m->service, "inference") == 0) {
        struct routing_report report = {.id = span_str(m->id), .draining = m->draining};
        if (m->load) {
            report.running = m->load->running;
            report.queued = m->load->queued;
            report.models = (const char *const *)m->load->models;
            report.n_models = m->load->n_models;
            report.loading = (const char *const *)m->load->loading;
            report.n_loading = m->load->n_loading;
            report.asleep = (const char *const *)m->load->asleep;
            report.n_asleep = m->load->n_asleep;
        }
        if (routing_report(g->routing, peer, &report) < 0) log_warn("gateway.routing", "%s cannot be kept: too many replicas, or no memory", m->id);
    }
    if (m) genloop__v1__member__free_unpacked(m, NULL);
}

static void stop(struct service *s, void *arg) {
    struct shell *shell = arg;
    struct gateway *g = &shell->gateway;
    (void)s;
    if (!shell) return;
    batch_lane_close(g->batches);
    door_close(g);
    http_server_close(g->owner_door);
    registry_close(g->registry);
    interactions_close(g->interactions);
    idempotency_close(g->idempotency);
    routing_free(g->routing);
    reflection_free(g->reflection);
    access_close(g->access);
    quota_close(g->quota);
    link_close(g->cache);
    loop_timer_close(shell->drain);
    mem_free(shell);
}

static void on_drain_check(void *arg) {
    struct shell *shell = arg;
    if (shell->http_drained == 2 && shell->gateway.exchanges == 0 && interactions_waiting(shell->gateway.interactions) == 0) service_drained(shell->gateway.service);
}
static void on_http_drained(void *arg) { ((struct shell *)arg)->http_drained++; }

static void drain(struct service *s, void *arg) {
    struct shell *shell = arg;
    (void)s;
    batch_lane_stop(shell->gateway.batches);
    if (shell->gateway.http) http_server_drain(shell->gateway.http, shell, on_http_drained);
    else shell->http_drained++;
    http_server_drain(shell->gateway.owner_door, shell, on_http_drained);
    loop_timer_start(shell->drain, 0, DRAIN_CHECK_MS);
}

static struct http_budget bodies; /* outlives every exchange */

static int check(const void *settings, struct error *err) {
    const struct gateway_settings *set = settings;
    if (!capture_from_name(set->capture, &(enum capture){0}))
        return error_set(err, E_INVALID, "gateway.capture: \"%s\" must be none, hashed or full%s", set->capture, strcmp(set->capture, "redacted") == 0 ? " (redacted is not built yet)" : "");
    return cors_check(set->cors_origins, err);
}

static int start(struct service *s, void **arg, struct error *err) {
    int r;
    struct shell *shell = mem_zalloc(sizeof *shell);
    if (!shell) return error_set(err, E_NOMEM, "no memory to start");
    struct gateway *g = &shell->gateway;
    g->service = s;
    g->settings = service_settings(s);
    name_actor(g);
    shell->drain = loop_timer_new(service_loop(s), shell, on_drain_check);
    g->routing = routing_new();
    g->reflection = reflection_new(span_of(genloop_descriptors, genloop_descriptors_size));
    uint64_t secret;
    random_bytes(&secret, sizeof secret);
    bool compares = g->settings->prefix_share == 0 || (g->routing && routing_compare_prefixes(g->routing, (uint32_t)g->settings->prefix_share, (uint32_t)g->settings->prefix_slack, secret) == 0);
    if (!shell->drain || !g->routing || !compares || !g->reflection) {
        r = error_set(err, E_NOMEM, "no memory to start");
        goto fail;
    }
    (void)capture_from_name(g->settings->capture, &g->capture);
    g->beyond_loopback = !listener_is_local(g->settings->listen);
    service_secret(s, "api-keys", g->api_key_secret);
    service_secret(s, "answers", g->answer_secret);
    bodies.max = (size_t)g->settings->bodies_max_bytes;
    g->bodies = &bodies;
    if ((r = link_open(g->settings->shared.redis, service_loop(s), &g->cache, err)) < 0 || (r = quota_open(g, &g->quota, err)) < 0) goto fail;
    if (g->settings->access_log && (r = access_open(g, &g->access, err)) < 0) goto fail;
    if ((r = interactions_open(g, &g->interactions, err)) < 0) goto fail;
    if ((r = idempotency_open(g, &g->idempotency, err)) < 0) goto fail;
    /* One that shares its address takes no share of the connections before it knows the models; one that is alone lets its first clients wait. */
    if ((r = g->settings->reuse_port ? door_check(g, err) : door_open(g, err)) < 0) goto fail;
    if ((r = open_owner_door(g, err)) < 0) goto fail;
    if ((r = registry_open(g, on_caught_up, &g->registry, err)) < 0) goto fail;
    if ((r = batch_lane_open(g, &g->batches, err)) < 0) goto fail;
    log_info("gateway.listen", "on %s", g->settings->listen);
    *arg = shell;
    return 0;
fail:
    stop(s, shell);
    return r;
}

int main(int argc, char **argv) {
    static const char *const peers[] = {"inference", "ingest", "trainer", "feedback", NULL};
    static const struct service_spec spec = {
        .name = "gateway", .rows = ROWS, .n_rows = sizeof ROWS / sizeof *ROWS, .settings_size = sizeof(struct gateway_settings), .wants_log = true, .wants_store = true, .wants_keyring = true,
        .peers = peers, .check = check, .start = start, .drain = drain, .stop = stop, .on_peer = on_peer,
    };
    return service_main(argc, argv, &spec);
}
