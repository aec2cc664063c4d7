/*
 * The gateway: HTTP in, the bus out. What it is made of, each a file:
 *   door.c               the HTTP door: addresses, TLS, limits
 *   routes.c             the table of what there is; router.c matches it (pure)
 *   auth.c, quota.c, access.c   who asks, what he may and how much of it, and a line about it
 *   cached.c             answers that were given before
 *   exchange.c           one request from its head to its answer: id, trace, deadline, actor, body, errors; trace.c, cors.c, coding.c are its pure parts
 *   generate_request.c, chat.c, completions.c   OpenAI's JSON as a GenerateRequest (pure)
 *   response_request.c, response_answer.c   the same of /v1/responses (pure); responses.c: what is kept of them
 *   answer.c, sse.c      answers in OpenAI's JSON, whole and in chunks (pure)
 *   generate.c           a generation: replicas, streams, credit, cancel, retry
 *   tokenize.c           texts as ids and back; tokenize_request.c is its pure part
 *   routing.c            which replica (pure)
 *   registry.c           what governance has released, from the topics
 *   interactions.c       what is captured of a conversation, by the tenant's policy
 *   grpc.h               the same over gRPC, and what only gRPC has
 *   operations.c         replicas, their number and their end; supervisor.c asks who can do that
 *   upload.c             bytes to ingest as they come, raw or of a form; documents.c, files.c: the doors
 *   batches.c            /v1/batches; batch_lane.c answers their lines
 *   ask.c                one question to a service; fine_tuning.c; idempotency.c: the same request again
 *   openapi.c            the description of the API (pure); openapi_doors.c: what the table of routes does not say
 *   uplink.c             a client's stream to a service, with credit
 *   request_shape.c      what requests of encoders' doors and of those to come look like, as tables (pure)
 *   unbuilt.c            doors whose part of the engine is to come
 *   models.c, relay.c, feedback.c, status.c   the other doors
 *   console.c            the page at /, out of this executable; console_choose.c says in which form (pure)
 * Everything is on the loop's thread but the registry's reader and work on workers. The gateway holds nobody's state: what it knows it was told, and can lose.
 */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include "http/server.h"
#include "service/service.h"
#include "cache/limits.h"
#include "registry/api_key.h"
#include "routing.h"

struct gateway_settings {
    struct service_settings shared;
    char *listen, *capture, *cors_origins;
    int64_t timeout_ms, upload_max_bytes, bodies_max_bytes, idempotency_ttl_ms, idempotency_max_bytes;
    struct limit_figures key_limits, tenant_limits;
    int64_t cache_ttl_ms, cache_entry_max, responses_ttl_ms, responses_max_bytes, prefix_share, prefix_slack;
    bool access_log;
    /* door.c */
    char *tls_certificate, *tls_key, *tls_client_ca;
    bool reuse_port;
    int64_t connections_max, streams_max, head_max_bytes, write_buffer_bytes, head_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms;
};

enum capture { CAPTURE_NONE, CAPTURE_HASHED, CAPTURE_FULL };

struct registry;
struct quota;
struct access_log;
struct link;
struct generation;
struct interactions;
struct reflection;
struct gateway {
    struct service *service;
    const struct gateway_settings *settings;
    struct http_server *http;
    struct http_tls *tls; /* NULL: plain */
    struct registry *registry;
    struct routing *routing;
    struct reflection *reflection;
    struct interactions *interactions;
    struct idempotency *idempotency;
    enum capture capture;
    char actor[80]; /* the owner of the home, local:USER: through his own door, and on loopback without keys */
    bool beyond_loopback;
    uint8_t api_key_secret[API_KEY_SECRET_SIZE], answer_secret[32];
    struct link *cache;     /* the cache's Redis: limits and the response cache */
    struct quota *quota;
    struct access_log *access; /* NULL: none is wanted */
    struct http_budget *bodies; /* of bodies that are read whole */
    struct http_server *owner_door;
    size_t exchanges; /* open */
    size_t generating; /* of them those whose clients wait for a model's answer; lines of batches do not count */
    struct batch_lane *batches;
};

#endif
