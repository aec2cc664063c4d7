#include "grpc_reflection.h"

#include "base/alloc.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "wire/fields.h"
#include "wire/unpack.h"

enum {
    FILES_MAX = 64,       /* ours are fifteen */
    NAME_MAX_BYTES = 512, /* of a symbol */
    NOT_FOUND = 5,        /* google.rpc.Code */
};

/* The numbers of descriptor.proto. */
enum { SET_FILE = 1, FILE_NAME = 1, FILE_PACKAGE = 2, FILE_IMPORT = 3, FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6, FILE_EXTENSION = 7 };
enum { ANY_NAME = 1, MESSAGE_FIELD = 2, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4, MESSAGE_EXTENSION = 6, MESSAGE_ONEOF = 8, ENUM_VALUE = 2, SERVICE_METHOD = 2 };
enum { METHOD_INPUT = 2, METHOD_OUTPUT = 3, METHOD_CLIENT_STREAM = 5, METHOD_SERVER_STREAM = 6 };

struct symbol {
    char *name; /* full, owned */
    size_t file;
    bool service, message;
};
struct reflection {
    struct {
        struct span bytes, name;
    } files[FILES_MAX];
    size_t n_files;
    struct symbol *symbols;
    size_t n_symbols, symbols_capacity;
    struct reflection_method *methods;
    size_t n_methods, methods_capacity;
};

/* The first field of this number that holds bytes. */
static struct span field(struct span message, uint32_t number) {
    struct wire_field f;
    while (wire_next(&message, &f) == 1)
        if (f.number == number && f.type == WIRE_BYTES) return f.bytes;
    return SPAN("");
}

/* Adds scope.name; gives the full name, or NULL. */
static const char *add(struct reflection *r, size_t file, const char *scope, struct span name, bool service, bool message) {
    char full[NAME_MAX_BYTES];
    int n = snprintf(full, sizeof full, "%s%s%.*s", scope, *scope ? "." : "", SPAN_ARG(name));
    if (name.len == 0 || n < 0 || (size_t)n >= sizeof full) return NULL;
    if (array_reserve(&r->symbols, &r->symbols_capacity, r->n_symbols + 1, sizeof *r->symbols) < 0) return NULL;
    char *copy = mem_strdup(full);
    if (!copy) return NULL;
    r->symbols[r->n_symbols++] = (struct symbol){copy, file, service, message};
    return copy;
}

/* Values of an enum are named beside it, not inside. */
static bool add_enum(struct reflection *r, size_t file, const char *scope, struct span e) {
    struct wire_field f;
    if (!add(r, file, scope, field(e, ANY_NAME), false, false)) return false;
    while (wire_next(&e, &f) == 1)
        if (f.number == ENUM_VALUE && f.type == WIRE_BYTES && !add(r, file, scope, field(f.bytes, ANY_NAME), false, false)) return false;
    return true;
}

/* A message with all in it. The stack is the nesting: not recursion, as the bytes say how deep it goes. */
static bool add_message(struct reflection *r, size_t file, const char *package, struct span message) {
    enum { DEPTH_MAX = 16 };
    struct {
        struct span rest;
        const char *name;
    } stack[DEPTH_MAX];
    int depth = 0;
    stack[0].rest = message;
    if (!(stack[0].name = add(r, file, package, field(message, ANY_NAME), false, true))) return false;
    while (depth >= 0) {
        struct wire_field f;
        const char *scope = stack[depth].name;
        if (wire_next(&stack[depth].rest, &f) != 1) {
            depth--;
            continue;
        }
        if (f.type != WIRE_BYTES) continue;
        if (f.number == MESSAGE_FIELD || f.number == MESSAGE_EXTENSION || f.number == MESSAGE_ONEOF) {
            if (!add(r, file, scope, field(f.bytes, ANY_NAME), false, false)) return false;
        } else if (f.number == MESSAGE_ENUM) {
            if (!add_enum(r, file, scope, f.bytes)) return false;
        } else if (f.number == MESSAGE_NESTED) {
            if (++depth == DEPTH_MAX) return false;
            stack[depth].rest = f.bytes;
            if (!(stack[depth].name = add(r, file, scope, field(f.bytes, ANY_NAME), false, true))) return false;
        }
    }
    return true;
}

static bool add_service(struct reflection *r, size_t file, const char *package, struct span service) {
    const char *name = add(r, file, package, field(service, ANY_NAME), true, false);
    struct wire_field f, flag;
    if (!name) return false;
    while (wire_next(&service, &f) == 1) {
        if (f.number != SERVICE_METHOD || f.type != WIRE_BYTES) continue;
        if (!add(r, file, name, field(f.bytes, ANY_NAME), false, false)) return false;
        if (array_reserve(&r->methods, &r->methods_capacity, r->n_methods + 1, sizeof *r->methods) < 0) return false;
        struct reflection_method *m = &r->methods[r->n_methods++];
        *m = (struct reflection_method){.service = span_str(name), .name = field(f.bytes, ANY_NAME), .input = field(f.bytes, METHOD_INPUT), .output = field(f.bytes, METHOD_OUTPUT)};
        for (struct span rest = f.bytes; wire_next(&rest, &flag) == 1;) {
            if (flag.number == METHOD_CLIENT_STREAM && flag.type == WIRE_VARINT) m->client_stream = flag.value != 0;
            if (flag.number == METHOD_SERVER_STREAM && flag.type == WIRE_VARINT) m->server_stream = flag.value != 0;
        }
    }
    return true;
}

static bool add_file(struct reflection *r, struct span bytes) {
    char package[NAME_MAX_BYTES];
    struct wire_field f;
    struct span rest = bytes, package_name = field(bytes, FILE_PACKAGE);
    int more;
    if (r->n_files == FILES_MAX || package_name.len >= sizeof package) return false;
    size_t file = r->n_files++;
    r->files[file].bytes = bytes;
    r->files[file].name = field(bytes, FILE_NAME);
    span_copy(package, sizeof package, package_name);
    while ((more = wire_next(&rest, &f)) == 1) {
        if (f.type != WIRE_BYTES) continue;
        if (f.number == FILE_MESSAGE && !add_message(r, file, package, f.bytes)) return false;
        if (f.number == FILE_ENUM && !add_enum(r, file, package, f.bytes)) return false;
        if (f.number == FILE_SERVICE && !add_service(r, file, package, f.bytes)) return false;
        if (f.number == FILE_EXTENSION && !add(r, file, package, field(f.bytes, ANY_NAME), false, false)) return false;
    }
    return more == 0;
}

struct reflection *reflection_new(struct span set) {
    struct reflection *r = mem_zalloc(sizeof *r);
    struct wire_field f;
    int more = 0;
    bool ok = r != NULL;
    while (ok && (more = wire_next(&set, &f)) == 1)
        if (f.number == SET_FILE && f.type == WIRE_BYTES) ok = add_file(r, f.bytes);
    if (ok && more == 0) return r;
    reflection_free(r);
    return NULL;
}

void reflection_free(struct reflection *r) {
    if (!r) return;
    for (size_t i = 0; i < r->n_symbols; i++) mem_free(r->symbols[i].name);
    mem_free(r->symbols);
    mem_free(r->methods);
    mem_free(r);
}

bool reflection_method_at(const struct reflection *r, size_t i, struct reflection_method *m) {
    if (i >= r->n_methods) return false;
    *m = r->methods[i];
    return true;
}

static const struct symbol *symbol_of(const struct reflection *r, struct span name) {
    for (size_t i = 0; i < r->n_symbols; i++)
        if (span_eq_str(name, r->symbols[i].name)) return &r->symbols[i];
    return NULL;
}

bool reflection_has_service(const struct reflection *r, struct span name) {
    const struct symbol *s = symbol_of(r, name);
    return s && s->service;
}

/* ---- answers ---- */

typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

static size_t file_of(const struct reflection *r, struct span name) {
    size_t i = 0;
    while (i < r->n_files && !span_eq(r->files[i].name, name)) i++;
    return i;
}

/* The file and what it imports, itself first. Returns how many. */
static size_t closure(const struct reflection *r, size_t file, ProtobufCBinaryData out[FILES_MAX]) {
    size_t order[FILES_MAX], n = 1;
    bool seen[FILES_MAX] = {false};
    order[0] = file;
    seen[file] = true;
    for (size_t i = 0; i < n; i++) {
        struct wire_field f;
        struct span bytes = r->files[order[i]].bytes;
        out[i] = (ProtobufCBinaryData){bytes.len, (uint8_t *)(uintptr_t)bytes.data};
        while (wire_next(&bytes, &f) == 1) {
            size_t imported = f.number == FILE_IMPORT && f.type == WIRE_BYTES ? file_of(r, f.bytes) : r->n_files;
            if (imported == r->n_files || seen[imported]) continue;
            seen[imported] = true;
            order[n++] = imported;
        }
    }
    return n;
}

static int append(struct buf *out, const ProtobufCMessage *m) {
    char *at = buf_reserve(out, protobuf_c_message_get_packed_size(m));
    if (!at) return out->failed;
    buf_commit(out, protobuf_c_message_pack(m, (uint8_t *)at));
    return 0;
}

static int answer_files(const struct reflection *r, Response *m, size_t file, struct buf *out) {
    ProtobufCBinaryData files[FILES_MAX];
    Grpc__Reflection__V1__FileDescriptorResponse list = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    list.n_file_descriptor_proto = closure(r, file, files);
    list.file_descriptor_proto = files;
    m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    m->file_descriptor_response = &list;
    return append(out, &m->base);
}

static int answer_nothing(Response *m, const char *what, const char *name, struct buf *out) {
    char message[ERROR_MESSAGE_MAX];
    Grpc__Reflection__V1__ErrorResponse none = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    (void)snprintf(message, sizeof message, "there is no %s %.256s", what, name);
    none.error_code = NOT_FOUND;
    none.error_message = message;
    m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    m->error_response = &none;
    return append(out, &m->base);
}

static int answer_services(const struct reflection *r, Response *m, struct buf *out) {
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse *services = mem_calloc(r->n_symbols + 1, sizeof *services), **all = mem_calloc(r->n_symbols + 1, sizeof *all);
    int code = E_NOMEM;
    for (size_t i = 0; services && all && i < r->n_symbols; i++) {
        if (!r->symbols[i].service) continue;
        grpc__reflection__v1__service_response__init(&services[list.n_service]);
        services[list.n_service].name = r->symbols[i].name;
        all[list.n_service] = &services[list.n_service];
        list.n_service++;
    }
    list.service = all;
    m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    m->list_services_response = &list;
    if (services && all) code = append(out, &m->base);
    mem_free(services);
    mem_free(all);
    return code;
}

static int answer_extensions(const struct reflection *r, Response *m, char *type, struct buf *out) {
    Grpc__Reflection__V1__ExtensionNumberResponse none = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    const struct symbol *s = symbol_of(r, span_str(type));
    if (!s || !s->message) return answer_nothing(m, "message", type, out);
    none.base_type_name = type; /* proto3 has no extensions */
    m->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    m->all_extension_numbers_response = &none;
    return append(out, &m->base);
}

int reflection_answer(const struct reflection *r, struct span request, struct buf *out, struct error *err) {
    Grpc__Reflection__V1__ServerReflectionRequest *q =
        (Grpc__Reflection__V1__ServerReflectionRequest *)message_unpack(&grpc__reflection__v1__server_reflection_request__descriptor, request);
    Response m = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    const struct symbol *s;
    size_t file;
    int code = E_INVALID;
    if (!q) return error_set(err, E_INVALID, "the message is no ServerReflectionRequest");
    m.valid_host = q->host;
    m.original_request = q;
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        file = file_of(r, span_str(q->file_by_filename));
        code = file < r->n_files ? answer_files(r, &m, file, out) : answer_nothing(&m, "file", q->file_by_filename, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        s = symbol_of(r, span_str(q->file_containing_symbol));
        code = s ? answer_files(r, &m, s->file, out) : answer_nothing(&m, "symbol", q->file_containing_symbol, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        code = answer_nothing(&m, "extension of", q->file_containing_extension->containing_type, out);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE: code = answer_extensions(r, &m, q->all_extension_numbers_of_type, out); break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES: code = answer_services(r, &m, out); break;
    default: break;
    }
    if (code < 0) (void)error_set(err, code, code == E_INVALID ? "the ServerReflectionRequest asks for nothing" : "the answer is too large");
    message_free(&q->base);
    return code;
}
