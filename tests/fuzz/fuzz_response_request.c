/* POST /v1/responses: what is taken packs, keeps to the limits, and is kept as items that are read again to the same messages; what is refused says why. A context before it is any JSON. */
#include <math.h>

#include "services/gateway/response_answer.h"
#include "services/gateway/response_request.h"

enum { KEPT_MAX = 1 << 20 };

static size_t packed_size(const struct generate_request *r) { return genloop__v1__generate_request__get_packed_size(&r->message); }

/* A message said to whoever is asked again gives the same messages, and its own input behind them. */
static void read_again(const struct generate_request *r, const struct buf *items, struct arena *arena) {
    struct json *record = NULL, *body = NULL;
    struct response_request more = {.store = false};
    struct generate_request again;
    struct error err = {0};
    struct buf text;
    buf_init(&text, KEPT_MAX + 64);
    (void)buf_printf(&text, "{\"input\":%.*s}", SPAN_ARG(buf_span(items)));
    ASSERT(json_parse(buf_span(&text), &record, &err) == 0 && json_parse(SPAN("{\"model\":\"m\",\"input\":\"x\"}"), &body, &err) == 0);
    buf_init(&more.items, 2 * KEPT_MAX);
    int code = response_request_read(&again, arena, body, record, "s", &more, &err);
    size_t instructions = r->message.n_messages > 0 && strcmp(r->message.messages[0]->role, "system") == 0;
    ASSERT(code == E_TOO_LARGE || json_size(json_get(record, "input")) >= MESSAGES_MAX - 1 || (code == 0 && again.message.n_messages + 1 >= r->message.n_messages + (instructions ? 0 : 1)));
    buf_fini(&more.items);
    buf_fini(&text);
    json_free(record);
    json_free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json *body = NULL, *before = NULL;
    struct span text = span_of(data, size), first = SPAN("");
    bool two = span_find_char(text, '\n') >= 0 && span_cut(&text, '\n', &first); /* the context on a line of its own */
    if (json_parse(text, &body, NULL) < 0 || (two && json_parse(first, &before, NULL) < 0)) {
        json_free(body);
        return 0;
    }
    struct arena arena;
    struct generate_request r;
    struct response_request more = {.store = false};
    struct error err = {0};
    arena_init(&arena, REQUEST_ARENA_MAX);
    buf_init(&more.items, KEPT_MAX);
    int code = response_request_read(&r, &arena, body, before, "s", &more, &err);
    if (code < 0) {
        ASSERT(err.code == code && err.message[0] && span_is_utf8(span_str(err.message)) && span_is_utf8(span_str(err.param)));
    } else {
        const Genloop__V1__GenerateRequest *m = &r.message;
        ASSERT(r.n == 1 && r.best_of == 1 && m->model[0] && m->n_messages >= 1 && m->n_messages <= MESSAGES_MAX && m->max_tokens <= MAX_TOKENS_MAX && isfinite(m->temperature) && packed_size(&r) > 0);
        if (!more.items.failed) read_again(&r, &more.items, &arena);
        struct response_answer a;
        struct buf out;
        struct json *written = NULL;
        response_answer_init(&a);
        buf_init(&out, 64 << 20);
        a.id = a.model = a.stem = "s";
        a.asked = body;
        response_answer_close(&a, NULL);
        response_answer_write(&out, &a, NULL);
        ASSERT(out.failed || json_parse(buf_span(&out), &written, &err) == 0);
        json_free(written);
        buf_fini(&out);
        response_answer_fini(&a);
    }
    buf_fini(&more.items);
    arena_fini(&arena);
    json_free(body);
    json_free(before);
    return 0;
}
