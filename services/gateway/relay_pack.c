/* The request of a relay: path, query and body put together as one JSON object, in this order of strength, and read by the descriptor. */
#include "relay.h"
#include "router.h"
#include "wire/protojson.h"

enum { REQUEST_JSON_MAX = 9 << 20 }; /* a body of 8 MiB and a few fields */

static bool is_fixed(const struct relay *relay, struct span name) {
    return (relay->path_field && span_eq_str(name, relay->path_field)) || (relay->fixed_field && span_eq_str(name, relay->fixed_field));
}

/* Numbers of the query are text: protojson reads them so. Booleans are not. */
static int put_query(struct json_out *w, const struct relay *relay, const char *name, struct span query, struct error *err) {
    char text[QUERY_VALUE_MAX];
    struct span value;
    int r = query_get(query, name, text, &value, err);
    if (r == E_NOT_FOUND) return 0;
    if (r < 0) return r;
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(relay->request, name);
    json_key(w, name);
    if (f && f->type == PROTOBUF_C_TYPE_BOOL && (span_eq_str(value, "true") || span_eq_str(value, "false"))) json_put_bool(w, span_eq_str(value, "true"));
    else json_put_span(w, value);
    return 0;
}

int relay_pack(const struct relay *relay, const char *path_value, struct span query, const struct json *body, const char *by, struct buf *out, struct error *err) {
    static const char *const none[] = {NULL};
    static const char *const page[] = {"limit", "page_token", NULL};
    const char *names[24];
    struct buf text;
    struct json_out w;
    struct json *root = NULL;
    void *iterator = NULL;
    struct span name;
    const struct json *value;
    size_t n = 0;
    int r = 0;
    for (const char *const *q = relay->query ? relay->query : none; *q && n < 20; q++) names[n++] = *q;
    for (const char *const *q = relay->page ? page : none; *q; q++) names[n++] = *q;
    names[n] = NULL;
    if ((r = query_check(query, names, err)) < 0) return r;
    buf_init(&text, REQUEST_JSON_MAX);
    json_begin(&w, &text);
    json_object(&w);
    if (relay->path_field) json_str(&w, relay->path_field, path_value);
    if (relay->fixed_field) json_num(&w, relay->fixed_field, relay->fixed_value);
    while (json_next(body, &iterator, &name, &value)) {
        if (is_fixed(relay, name)) {
            char param[ERROR_PARAM_MAX];
            r = error_set_param(err, E_INVALID, span_copy(param, sizeof param, name), "'%s' is what the path says: it does not belong into the body", param);
            goto out;
        }
        json_key_span(&w, name);
        json_put_value(&w, value);
    }
    for (const char *const *q = relay->query ? relay->query : none; *q; q++) {
        if (!json_is_null(json_get(body, *q))) continue;
        if ((r = put_query(&w, relay, *q, query, err)) < 0) goto out;
    }
    if (relay->page) {
        json_key(&w, "page");
        json_object(&w);
        for (size_t i = 0; page[i]; i++)
            if ((r = put_query(&w, relay, page[i], query, err)) < 0) goto out;
        json_object_end(&w);
    }
    if (relay->by_field && by && *by && json_string(json_get(body, relay->by_field)).len == 0 && !json_get(body, relay->by_field)) json_str(&w, relay->by_field, by);
    json_object_end(&w);
    if (text.failed) {
        r = error_set(err, text.failed == E_FULL ? E_TOO_LARGE : text.failed, "the request is too large");
        goto out;
    }
    if ((r = json_parse(buf_span(&text), &root, err)) == 0) r = protojson_pack(root, relay->request, out, err);
out:
    json_free(root);
    buf_fini(&text);
    return r;
}
