/* The doors that are not built yet (request_shape.h): each checks its request, finds the model, and then says what is missing. */
#include <math.h>

#include "base/alloc.h"
#include "http/query.h"
#include "exchange.h"
#include "registry.h"
#include "routes.h"
#include "request_shape.h"

enum { FORM_VALUE_MAX = 64 * 1024 }; /* of a field that is not a file */

static const struct request_shape *door_of(const struct exchange *x) { return x->match.route->relay; }

static void say_unbuilt(struct exchange *x, const struct json *body) {
    const struct request_shape *u = door_of(x);
    const Genloop__V1__ModelVersion *version;
    struct error err = {0};
    int r = 0;
    struct span model = json_string(json_get(body, "model"));
    if (u->has_model) r = registry_resolve(x->gateway->registry, model, span_hash(span_str(x->request_id)), &version, NULL, &err);
    if (r == E_UNAVAILABLE && exchange_wait(x)) return;
    if (r == 0) (void)error_set(&err, E_UNSUPPORTED, "%s: not built yet; chat and completions are", u->what);
    exchange_error_code(x, &err, err.code == E_NOT_FOUND ? "model_not_found" : err.code == E_UNSUPPORTED ? "unsupported_endpoint" : NULL);
}

void unbuilt_call(struct exchange *x, const struct json *body) {
    struct error err = {0};
    if (door_of(x)->n_fields > 0 && request_shape_check(door_of(x), body, &err) < 0) exchange_error(x, &err);
    else say_unbuilt(x, body);
}

/* ---- forms ---- */

struct form {
    struct exchange *x;
    struct multipart parser;
    struct buf json, name, value;
    struct json_out w;
    uint64_t taken;
    bool file, image, ended; /* file: the part at hand is one; image: there was one; ended: the last boundary has come */
    struct error err;
};

static void form_free(struct form *f) {
    multipart_fini(&f->parser);
    buf_fini(&f->json);
    buf_fini(&f->name);
    buf_fini(&f->value);
    mem_free(f);
}

/* Numbers and flags of a form are text. */
static void put_value(struct form *f) {
    struct span v = buf_span(&f->value);
    bool text = span_eq_str(buf_span(&f->name), "prompt") || span_eq_str(buf_span(&f->name), "model") || span_eq_str(buf_span(&f->name), "user");
    int64_t whole;
    double real;
    json_key_span(&f->w, buf_span(&f->name));
    if (!text && (span_eq_str(v, "true") || span_eq_str(v, "false"))) json_put_bool(&f->w, span_eq_str(v, "true"));
    else if (!text && span_to_i64(v, &whole) == 0) json_put_int(&f->w, whole);
    else if (!text && span_to_f64(v, &real) == 0 && isfinite(real)) json_put_real(&f->w, real);
    else json_put_span(&f->w, v);
}

static int take_piece(struct form *f, struct span piece) {
    struct span data;
    while (true) {
        switch (multipart_next(&f->parser, &piece, &data)) {
        case MULTIPART_NEED: return 0;
        case MULTIPART_END: f->ended = true; return 0;
        case MULTIPART_REFUSED: return error_set(&f->err, E_INVALID, "the form is malformed: %s", multipart_reason(&f->parser));
        case MULTIPART_PART:
            buf_clear(&f->name);
            buf_clear(&f->value);
            (void)buf_append_span(&f->name, buf_span(&f->parser.name));
            f->file = span_eq_str(buf_span(&f->name), "image") || span_eq_str(buf_span(&f->name), "image[]") || span_eq_str(buf_span(&f->name), "mask");
            f->image |= f->file && !span_eq_str(buf_span(&f->name), "mask");
            break;
        case MULTIPART_DATA:
            if (!f->file && buf_append_span(&f->value, data) < 0) return error_set_param(&f->err, E_TOO_LARGE, "form", "a field of the form is larger than %d bytes", FORM_VALUE_MAX);
            break;
        case MULTIPART_PART_END:
            if (!f->file) put_value(f);
            break;
        }
    }
}

static void on_form(void *arg, struct span piece, bool last, int r) {
    struct form *f = arg;
    struct exchange *x = f->x;
    struct json *body = NULL;
    if (r == E_CANCELLED) {
        form_free(f);
        exchange_abort(x);
        return;
    }
    f->taken += piece.len;
    if (r < 0) (void)error_set(&f->err, r, "%s", r == E_DEADLINE ? "the body did not come in time" : "the body cannot be read");
    else if (f->taken > (uint64_t)x->gateway->settings->upload_max_bytes) (void)error_set(&f->err, E_TOO_LARGE, "a form has at most %lld bytes", (long long)x->gateway->settings->upload_max_bytes);
    else if (!f->ended) (void)take_piece(f, piece);
    if (f->err.code == 0 && !last) return;
    json_object_end(&f->w);
    if (f->err.code == 0 && !f->ended) (void)error_set(&f->err, E_INVALID, "the form ends before its last boundary");
    if (f->err.code == 0 && f->json.failed) (void)error_set(&f->err, E_TOO_LARGE, "the form is too large");
    if (f->err.code == 0 && json_parse(buf_span(&f->json), &body, &f->err) < 0) (void)error_prefix(&f->err, "the form's fields");
    if (f->err.code == 0) (void)request_shape_check(door_of(x), body, &f->err);
    if (f->err.code == 0 && !f->image) (void)error_set_param(&f->err, E_INVALID, "image", "'image' is required: the file to edit");
    struct error err = f->err;
    form_free(f);
    x->json = body; /* the exchange frees it */
    if (err.code < 0) exchange_error(x, &err);
    else say_unbuilt(x, body);
}

void unbuilt_form(struct exchange *x, const struct json *body) {
    struct error err = {0};
    struct form *f;
    if (body) { /* again, after exchange_wait */
        say_unbuilt(x, body);
        return;
    }
    if (!(f = mem_zalloc(sizeof *f))) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    if (multipart_init(&f->parser, http_header(x->http, "content-type")) < 0) {
        mem_free(f);
        (void)error_set_param(&err, E_INVALID, "content-type", "the body must be a form: Content-Type: multipart/form-data");
        exchange_error_status(x, 415, &err, "unsupported_media_type");
        return;
    }
    f->x = x;
    buf_init(&f->json, 1 << 20);
    buf_init(&f->name, 1024);
    buf_init(&f->value, FORM_VALUE_MAX);
    json_begin(&f->w, &f->json);
    json_object(&f->w);
    http_body_read(x->http, f, on_form);
}
