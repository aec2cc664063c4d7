#include "openapi.h"

#include <string.h>

enum { MESSAGES_MAX = 512, NAME_MAX_BYTES = 128 };

struct writing {
    const struct openapi_source *source;
    struct json_out w;
    const ProtobufCMessageDescriptor *messages[MESSAGES_MAX]; /* that were named, each once */
    size_t n_messages;
    int r;
    struct error *err;
};

static void wrong(struct writing *g, int code, const char *why, const char *what) {
    if (g->r == 0) g->r = error_set(g->err, code, "%s%s", why, what);
}

/* ---- schemas in the short notation ---- */

static const struct openapi_schema *schema_named(struct span name) {
    for (size_t i = 0; i < OPENAPI_SCHEMAS_COUNT; i++)
        if (span_eq_str(name, OPENAPI_SCHEMAS[i].name)) return &OPENAPI_SCHEMAS[i];
    return NULL;
}

static void put_ref(struct json_out *w, const char *section, struct span name) {
    char ref[NAME_MAX_BYTES + 64];
    (void)snprintf(ref, sizeof ref, "#/components/%s/%.*s", section, (int)(name.len < NAME_MAX_BYTES ? name.len : NAME_MAX_BYTES), name.data);
    json_object(w);
    json_str(w, "$ref", ref);
    json_object_end(w);
}

static void put_words(struct json_out *w, struct span words) {
    struct span word;
    json_key(w, "enum");
    json_array(w);
    while (span_cut(&words, '|', &word)) json_put_span(w, word);
    json_array_end(w);
}

/* The type of a field, without what stands behind it. */
static void put_plain_type(struct writing *g, struct span type, bool null) {
    struct json_out *w = &g->w;
    if (span_starts(type, SPAN("@"))) {
        struct span name = span_skip(type, 1);
        if (!schema_named(name)) wrong(g, E_INVALID, "there is no schema ", type.data);
        put_ref(w, "schemas", name);
        return;
    }
    json_object(w);
    if (span_eq_str(type, "any")) {
        json_object_end(w);
        return;
    }
    bool words = span_find_char(type, '|') >= 0 || span_starts(type, SPAN("=")), binary = span_eq_str(type, "binary");
    struct span name = words || binary ? SPAN("string") : type;
    json_key(w, "type");
    if (null) json_array(w);
    json_put_span(w, name);
    if (null) json_put_str(w, "null");
    if (null) json_array_end(w);
    if (binary) json_str(w, "contentMediaType", "application/octet-stream");
    if (span_starts(type, SPAN("="))) json_span(w, "const", span_skip(type, 1));
    else if (words) put_words(w, type);
    json_object_end(w);
}

static void put_type(struct writing *g, struct span type, bool null) {
    if (!span_starts(type, SPAN("["))) {
        put_plain_type(g, type, null);
        return;
    }
    struct json_out *w = &g->w;
    json_object(w);
    json_key(w, "type");
    if (null) json_array(w);
    json_put_str(w, "array");
    if (null) json_put_str(w, "null");
    if (null) json_array_end(w);
    json_key(w, "items");
    put_plain_type(g, span_sub(type, 1, type.len - 2), false);
    json_object_end(w);
}

/* The next field: false at the end. */
static bool next_field(struct span *fields, struct span *name, struct span *type, bool *required, bool *null) {
    struct span field;
    do {
        if (!span_cut(fields, ' ', &field)) return false;
    } while (!field.len);
    *required = *null = false;
    while (field.len && (field.data[field.len - 1] == '!' || field.data[field.len - 1] == '?')) {
        *(field.data[field.len - 1] == '!' ? required : null) = true;
        field.len--;
    }
    *type = field;
    (void)span_cut(type, ':', name);
    return true;
}

static void put_fields(struct writing *g, const char *text) {
    struct json_out *w = &g->w;
    struct span fields = span_str(text), name, type;
    bool required, null, any = false;
    json_object(w);
    json_str(w, "type", "object");
    json_key(w, "properties");
    json_object(w);
    while (next_field(&fields, &name, &type, &required, &null)) {
        json_key_span(w, name);
        put_type(g, type, null);
        any |= required;
    }
    json_object_end(w);
    if (any) {
        json_key(w, "required");
        json_array(w);
        fields = span_str(text);
        while (next_field(&fields, &name, &type, &required, &null))
            if (required) json_put_span(w, name);
        json_array_end(w);
    }
    json_object_end(w);
}

/* ---- schemas of messages ---- */

static void want_message(struct writing *g, const ProtobufCMessageDescriptor *type) {
    for (size_t i = 0; i < g->n_messages; i++)
        if (g->messages[i] == type) return;
    if (g->n_messages == MESSAGES_MAX) wrong(g, E_FULL, "too many message types", "");
    else g->messages[g->n_messages++] = type;
}

/* As lib/wire tells maps. */
static bool is_map(const ProtobufCFieldDescriptor *f) {
    const ProtobufCMessageDescriptor *d = f->descriptor;
    return f->label == PROTOBUF_C_LABEL_REPEATED && f->type == PROTOBUF_C_TYPE_MESSAGE && d->n_fields == 2 && strcmp(d->fields[0].name, "key") == 0 && strcmp(d->fields[1].name, "value") == 0 &&
           span_ends(span_str(d->short_name), SPAN("Entry"));
}

static const char *scalar_type(const ProtobufCFieldDescriptor *f) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_FLOAT: case PROTOBUF_C_TYPE_DOUBLE: return "number";
    case PROTOBUF_C_TYPE_BOOL: return "boolean";
    case PROTOBUF_C_TYPE_STRING: case PROTOBUF_C_TYPE_BYTES: case PROTOBUF_C_TYPE_ENUM: return "string";
    default: return "integer";
    }
}

/* A message's component is named Genloop.NAME, so that it meets none of the door's own. */
static void put_message_ref(struct writing *g, const ProtobufCMessageDescriptor *type) {
    char name[NAME_MAX_BYTES];
    (void)snprintf(name, sizeof name, "genloop.v1.%s", type->short_name);
    want_message(g, type);
    put_ref(&g->w, "schemas", span_str(name));
}

static void put_one(struct writing *g, const ProtobufCFieldDescriptor *f) {
    struct json_out *w = &g->w;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        put_message_ref(g, f->descriptor);
        return;
    }
    json_object(w);
    json_str(w, "type", scalar_type(f));
    if (f->type == PROTOBUF_C_TYPE_BYTES) json_str(w, "contentEncoding", "base64");
    if (f->type == PROTOBUF_C_TYPE_ENUM) {
        const ProtobufCEnumDescriptor *e = f->descriptor;
        json_key(w, "enum");
        json_array(w);
        for (unsigned i = 0; i < e->n_values; i++) json_put_str(w, e->values[i].name);
        json_array_end(w);
    }
    json_object_end(w);
}

static void put_field(struct writing *g, const ProtobufCFieldDescriptor *f) {
    struct json_out *w = &g->w;
    bool map = is_map(f);
    if (!map && f->label != PROTOBUF_C_LABEL_REPEATED) {
        put_one(g, f);
        return;
    }
    json_object(w);
    json_str(w, "type", map ? "object" : "array");
    json_key(w, map ? "additionalProperties" : "items");
    put_one(g, map ? &((const ProtobufCMessageDescriptor *)f->descriptor)->fields[1] : f);
    json_object_end(w);
}

static void put_message(struct writing *g, const ProtobufCMessageDescriptor *type, const char *without, const char *without_too) {
    struct json_out *w = &g->w;
    json_object(w);
    json_str(w, "type", "object");
    json_key(w, "properties");
    json_object(w);
    for (unsigned i = 0; i < type->n_fields; i++) {
        const char *name = type->fields[i].name;
        if ((without && strcmp(name, without) == 0) || (without_too && strcmp(name, without_too) == 0)) continue;
        json_key(w, name);
        put_field(g, &type->fields[i]);
    }
    json_object_end(w);
    json_object_end(w);
}

/* ---- schemas of doors to come ---- */

static void put_shape_field(struct json_out *w, const struct shape_field *f) {
    json_object(w);
    switch (f->kind) {
    case SHAPE_TEXT: case SHAPE_WORD: case SHAPE_SIZE: json_str(w, "type", "string"); break;
    case SHAPE_FLAG: json_str(w, "type", "boolean"); break;
    case SHAPE_INTEGER: json_str(w, "type", "integer"); break;
    case SHAPE_REAL: json_str(w, "type", "number"); break;
    case SHAPE_OBJECT: json_str(w, "type", "object"); break;
    case SHAPE_LIST: case SHAPE_DOCUMENTS: case SHAPE_TURNS: json_str(w, "type", "array"); break;
    case SHAPE_TEXTS: case SHAPE_INPUT: case SHAPE_ANY: break;
    }
    if ((f->kind == SHAPE_INTEGER || f->kind == SHAPE_REAL) && f->low < f->high) {
        json_flt(w, "minimum", f->low);
        json_flt(w, "maximum", f->high);
    }
    if (f->kind == SHAPE_WORD) {
        json_key(w, "enum");
        json_array(w);
        for (size_t i = 0; i < sizeof f->words / sizeof *f->words && f->words[i]; i++) json_put_str(w, f->words[i]);
        json_array_end(w);
    }
    json_object_end(w);
}

static void put_unbuilt(struct writing *g, const struct request_shape *u) {
    struct json_out *w = &g->w;
    bool any = u->has_model, model = false;
    json_object(w);
    json_str(w, "type", "object");
    json_key(w, "properties");
    json_object(w);
    for (size_t i = 0; i < u->n_fields; i++) {
        model |= strcmp(u->fields[i].name, "model") == 0;
        any |= u->fields[i].required;
        json_key(w, u->fields[i].name);
        put_shape_field(w, &u->fields[i]);
    }
    if (u->has_model && !model) {
        json_key(w, "model");
        put_type(g, SPAN("string"), false);
    }
    json_object_end(w);
    if (any) {
        json_key(w, "required");
        json_array(w);
        if (u->has_model && !model) json_put_str(w, "model");
        for (size_t i = 0; i < u->n_fields; i++)
            if (u->fields[i].required) json_put_str(w, u->fields[i].name);
        json_array_end(w);
    }
    json_object_end(w);
}

/* ---- operations ---- */

static const struct openapi_door *door_of(const struct route *r) {
    for (size_t i = 0; i < OPENAPI_DOORS_COUNT; i++)
        if (strcmp(OPENAPI_DOORS[i].method, r->method) == 0 && strcmp(OPENAPI_DOORS[i].pattern, r->pattern) == 0) return &OPENAPI_DOORS[i];
    return NULL;
}

static void put_operation_id(struct json_out *w, const struct route *r) {
    char id[NAME_MAX_BYTES];
    size_t n = 0;
    for (const char *c = r->method; *c && n < sizeof id - 1; c++) id[n++] = (char)(*c | 32);
    for (const char *c = r->pattern; *c && n < sizeof id - 1; c++) {
        bool good = (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
        if (good) id[n++] = *c;
        else if (id[n - 1] != '_') id[n++] = '_';
    }
    id[n] = 0;
    json_str(w, "operationId", id);
}

static void begin_parameter(struct json_out *w, struct span name, const char *in, bool required) {
    json_object(w);
    json_span(w, "name", name);
    json_str(w, "in", in);
    if (required) json_flag(w, "required", true);
    json_key(w, "schema");
}

static void put_parameters(struct writing *g, const struct route *r, const struct relay *relay, const struct openapi_door *door) {
    struct json_out *w = &g->w;
    struct span path = span_str(r->pattern), segment, name, type, fields = span_str(door && door->query ? door->query : "");
    bool required, null;
    json_key(w, "parameters");
    json_array(w);
    while (span_cut(&path, '/', &segment)) {
        if (segment.len < 3 || segment.data[0] != '{') continue;
        begin_parameter(w, span_sub(segment, 1, segment.len - 2), "path", true);
        put_type(g, SPAN("string"), false);
        json_object_end(w);
    }
    for (const char *const *q = relay && relay->query ? relay->query : NULL; q && *q; q++) {
        const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(relay->request, *q);
        begin_parameter(w, span_str(*q), "query", false);
        if (f) put_field(g, f);
        else put_type(g, SPAN("string"), false);
        json_object_end(w);
    }
    if (relay && relay->page) {
        begin_parameter(w, SPAN("limit"), "query", false);
        put_type(g, SPAN("integer"), false);
        json_object_end(w);
        begin_parameter(w, SPAN("page_token"), "query", false);
        put_type(g, SPAN("string"), false);
        json_object_end(w);
    }
    while (next_field(&fields, &name, &type, &required, &null)) {
        begin_parameter(w, name, "query", required);
        put_type(g, type, null);
        json_object_end(w);
    }
    if (r->body == BODY_JSON || r->body == BODY_JSON_OR_EMPTY || strcmp(r->pattern, "/v1/files") == 0) {
        if (strcmp(r->method, "POST") == 0) put_ref(w, "parameters", SPAN("IdempotencyKey"));
    }
    put_ref(w, "parameters", SPAN("RequestId"));
    put_ref(w, "parameters", SPAN("Timeout"));
    json_array_end(w);
}

static void put_schema_named(struct writing *g, const char *name) {
    if (!schema_named(span_str(name))) wrong(g, E_INVALID, "there is no schema ", name);
    put_ref(&g->w, "schemas", span_str(name));
}

static void begin_content(struct json_out *w, const char *media_type) {
    json_key(w, media_type);
    json_object(w);
    json_key(w, "schema");
}

static void put_request(struct writing *g, const struct route *r, const struct relay *relay, const struct request_shape *unbuilt, const struct openapi_door *door) {
    struct json_out *w = &g->w;
    if (r->body == BODY_NONE) return;
    json_key(w, "requestBody");
    json_object(w);
    json_flag(w, "required", r->body != BODY_JSON_OR_EMPTY);
    json_key(w, "content");
    json_object(w);
    begin_content(w, r->body == BODY_STREAM ? "multipart/form-data" : "application/json");
    if (relay) put_message(g, relay->request, relay->path_field, relay->fixed_field);
    else if (unbuilt) put_unbuilt(g, unbuilt);
    else if (door && door->request) put_schema_named(g, door->request);
    else put_type(g, SPAN("object"), false);
    json_object_end(w);
    if (door && door->query && r->body == BODY_STREAM) { /* what the query says, the body need not */
        begin_content(w, "application/octet-stream");
        put_type(g, SPAN("any"), false);
        json_object_end(w);
    }
    json_object_end(w);
    json_object_end(w);
}

static void put_answer(struct writing *g, const struct relay *relay, const struct request_shape *unbuilt, const struct openapi_door *door) {
    struct json_out *w = &g->w;
    bool media = door && door->answer && strchr(door->answer, '/');
    json_object(w);
    json_str(w, "description", unbuilt ? "Not built yet." : "The answer.");
    if (relay || (door && door->answer)) {
        json_key(w, "content");
        json_object(w);
        if (relay && relay->stream != RELAY_EVENTS) {
            begin_content(w, "application/json");
            put_message_ref(g, relay->reply);
            json_object_end(w);
        }
        if (relay && relay->stream != RELAY_UNARY) {
            begin_content(w, "text/event-stream");
            put_message_ref(g, relay->reply);
            json_object_end(w);
        }
        if (!relay && media) {
            begin_content(w, door->answer);
            put_type(g, SPAN("any"), false);
            json_object_end(w);
        } else if (!relay) {
            begin_content(w, "application/json");
            put_schema_named(g, door->answer);
            json_object_end(w);
        }
        if (!relay && door->events) {
            begin_content(w, "text/event-stream");
            put_type(g, SPAN("string"), false);
            json_object_end(w);
        }
        json_object_end(w);
    }
    json_object_end(w);
}

static void put_operation(struct writing *g, const struct route *r) {
    struct json_out *w = &g->w;
    const struct relay *relay = g->source->relay_of(r);
    const struct request_shape *unbuilt = g->source->unbuilt_of(r);
    const struct openapi_door *door = door_of(r);
    char method[16];
    size_t n = 0;
    for (const char *c = r->method; *c && n < sizeof method - 1; c++) method[n++] = (char)(*c | 32);
    method[n] = 0;
    json_key(w, method);
    json_object(w);
    put_operation_id(w, r);
    json_str(w, "summary", r->summary);
    if (r->scope != SCOPE_ANY) json_str(w, "x-genloop-scope", scope_name(r->scope));
    json_key(w, "security");
    json_array(w);
    if (r->scope != SCOPE_ANY) {
        json_object(w);
        json_key(w, "bearer");
        json_array(w);
        json_array_end(w);
        json_object_end(w);
        json_object(w); /* a platform on loopback without keys asks for none */
        json_object_end(w);
    }
    json_array_end(w);
    put_parameters(g, r, relay, door);
    put_request(g, r, relay, unbuilt, door);
    json_key(w, "responses");
    json_object(w);
    json_key(w, "200");
    put_answer(g, relay, unbuilt, door);
    json_key(w, "default");
    put_ref(w, "responses", SPAN("Error"));
    json_object_end(w);
    json_object_end(w);
}

/* Rows of one pattern are one path, where its first row stands. */
static void put_paths(struct writing *g) {
    const struct openapi_source *s = g->source;
    json_key(&g->w, "paths");
    json_object(&g->w);
    for (size_t i = 0; i < s->n_routes; i++) {
        bool first = true;
        for (size_t k = 0; k < i; k++) first &= strcmp(s->routes[k].pattern, s->routes[i].pattern) != 0;
        if (!first) continue;
        json_key(&g->w, s->routes[i].pattern);
        json_object(&g->w);
        for (size_t k = i; k < s->n_routes; k++)
            if (strcmp(s->routes[k].pattern, s->routes[i].pattern) == 0) put_operation(g, &s->routes[k]);
        json_object_end(&g->w);
    }
    json_object_end(&g->w);
}

static void put_header_parameter(struct json_out *w, const char *component, const char *name, const char *description) {
    json_key(w, component);
    json_object(w);
    json_str(w, "name", name);
    json_str(w, "in", "header");
    json_str(w, "description", description);
    json_key(w, "schema");
    json_object(w);
    json_str(w, "type", "string");
    json_object_end(w);
    json_object_end(w);
}

static void put_components(struct writing *g) {
    struct json_out *w = &g->w;
    char name[NAME_MAX_BYTES];
    json_key(w, "components");
    json_object(w);
    json_key(w, "securitySchemes");
    json_object(w);
    json_key(w, "bearer");
    json_object(w);
    json_str(w, "type", "http");
    json_str(w, "scheme", "bearer");
    json_object_end(w);
    json_object_end(w);
    json_key(w, "parameters");
    json_object(w);
    put_header_parameter(w, "IdempotencyKey", "Idempotency-Key", "The same key and the same request again give the first answer again.");
    put_header_parameter(w, "RequestId", "x-request-id", "The request's id, in the answer and in every log; one is made where none is given.");
    put_header_parameter(w, "Timeout", "x-genloop-timeout-ms", "The most that the request may take, in milliseconds; 504 afterwards.");
    json_object_end(w);
    json_key(w, "responses");
    json_object(w);
    json_key(w, "Error");
    json_object(w);
    json_str(w, "description", "What is wrong, in OpenAI's form.");
    json_key(w, "content");
    json_object(w);
    begin_content(w, "application/json");
    put_schema_named(g, "Error");
    json_object_end(w);
    json_object_end(w);
    json_object_end(w);
    json_object_end(w);
    json_key(w, "schemas");
    json_object(w);
    for (size_t i = 0; i < OPENAPI_SCHEMAS_COUNT; i++) {
        json_key(w, OPENAPI_SCHEMAS[i].name);
        put_fields(g, OPENAPI_SCHEMAS[i].fields);
    }
    for (size_t i = 0; i < g->n_messages; i++) { /* writing one may name more */
        (void)snprintf(name, sizeof name, "genloop.v1.%s", g->messages[i]->short_name);
        json_key(w, name);
        put_message(g, g->messages[i], NULL, NULL);
    }
    json_object_end(w);
    json_object_end(w);
}

/* A row here that no route has is a door that was taken away or renamed. */
static void check_doors(struct writing *g) {
    for (size_t i = 0; i < OPENAPI_DOORS_COUNT; i++) {
        bool found = false;
        for (size_t k = 0; k < g->source->n_routes; k++) found |= door_of(&g->source->routes[k]) == &OPENAPI_DOORS[i];
        if (!found) wrong(g, E_INVALID, "a door is described that there is not: ", OPENAPI_DOORS[i].pattern);
    }
}

int openapi_write(const struct openapi_source *source, const char *version, struct buf *out, struct error *err) {
    struct writing g = {.source = source, .err = err};
    struct json_out *w = &g.w;
    json_begin(w, out);
    json_object(w);
    json_str(w, "openapi", "3.1.0");
    json_key(w, "info");
    json_object(w);
    json_str(w, "title", "genloop");
    json_str(w, "version", version);
    json_str(w, "description", "OpenAI's API, and beside it documents, datasets, jobs, the registry and the audit log of the platform.");
    json_object_end(w);
    check_doors(&g);
    put_paths(&g);
    put_components(&g);
    json_object_end(w);
    if (g.r == 0 && out->failed) g.r = error_set(err, out->failed, "the description of the API is too large");
    return g.r;
}
