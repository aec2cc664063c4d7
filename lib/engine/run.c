#include "engine/run.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { OUT_MAX = 256 << 20, MAX_TOKENS_DEFAULT = 256 };

void engine_run_options_init(struct engine_run_options *o) {
    *o = (struct engine_run_options){.max_tokens = MAX_TOKENS_DEFAULT, .temperature = -1, .activations = PACKED_INT16};
}

int engine_parse_tokens(struct span text, uint32_t **tokens, size_t *count, struct error *err) {
    uint32_t *ids = NULL;
    size_t n = 0, capacity = 0;
    struct span rest = text, one;
    while (span_cut(&rest, ',', &one)) {
        uint64_t id;
        one = span_trim(one);
        int r = span_to_u64(one, &id);
        if (r != 0 || id > UINT32_MAX) {
            mem_free(ids);
            return error_set_param(err, E_INVALID, "tokens", "\"%.*s\" is no token id", one.len < 40 ? (int)one.len : 40, one.data);
        }
        if (array_reserve(&ids, &capacity, n + 1, sizeof *ids) != 0) {
            mem_free(ids);
            return error_set(err, E_NOMEM, "no memory for %zu ids", n);
        }
        ids[n++] = (uint32_t)id;
    }
    if (n == 0) return error_set_param(err, E_INVALID, "tokens", "no token ids were given");
    *tokens = ids;
    *count = n;
    return 0;
}

static void write_generate(struct json_out *w, const struct engine_result *r, const struct engine_stats *drafts) {
    json_object(w);
    json_key(w, "tokens");
    json_array(w);
    for (size_t i = 0; i < r->token_count; i++) json_put_uint(w, r->tokens[i]);
    json_array_end(w);
    json_key(w, "text");
    if (r->text) json_put_span(w, span_of(r->text, r->text_len));
    else json_put_null(w);
    if (r->top_logit_count > 0) {
        json_key(w, "top_logits");
        json_array(w);
        for (size_t i = 0; i < r->top_logit_count; i++) {
            json_object(w);
            json_num(w, "id", r->top_logits[i].token);
            json_flt(w, "logit", (double)r->top_logits[i].logit);
            json_object_end(w);
        }
        json_array_end(w);
    }
    json_str(w, "finish_reason", engine_finish_name(r->finish));
    json_key(w, "usage");
    json_object(w);
    json_num(w, "prompt_tokens", r->usage.prompt_tokens);
    json_num(w, "completion_tokens", r->usage.completion_tokens);
    json_object_end(w);
    if (drafts) {
        json_num(w, "drafted", (int64_t)drafts->drafted);
        json_num(w, "drafted_right", (int64_t)drafts->drafted_right);
    }
    json_object_end(w);
}

static void write_logprobs(struct json_out *w, const struct engine_result *r) {
    json_object(w);
    json_key(w, "logprobs");
    json_array(w);
    for (size_t i = 0; i < r->prompt_count; i++) json_put_real(w, (double)r->prompt_logprobs[i]);
    json_array_end(w);
    json_key(w, "argmax");
    json_array(w);
    for (size_t i = 0; i < r->prompt_count; i++) json_put_uint(w, r->prompt_argmax[i]);
    json_array_end(w);
    json_object_end(w);
}

int engine_run(const struct engine_run_options *o, FILE *out, struct error *err) {
    static const struct span NO_BREAKERS[1]; /* a list of none, which is not NULL: the usual ones */
    static const char *const later[] = {"forward", "sample", "mel"};
    const char *task = o->task ? o->task : "generate";
    bool logprobs = strcmp(task, "logprobs") == 0;
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (strcmp(task, later[i]) == 0) return error_set_param(err, E_UNSUPPORTED, "task", "task %s is not built yet", task);
    if (strcmp(task, "embed") == 0 || strcmp(task, "score") == 0) return engine_run_encoder(o, strcmp(task, "score") == 0, out, err);
    if (!logprobs && strcmp(task, "generate") != 0)
        return error_set_param(err, E_INVALID, "task", "task \"%s\" is none of generate, embed, score, logprobs, forward, sample, mel", task);

    struct engine *e = NULL;
    struct engine_result result = {0};
    struct tokens target = {0};
    struct buf text;
    buf_init(&text, OUT_MAX);
    struct engine_options options = {.threads = o->threads, .sequences_max = 1, .weights = o->weights, .activations = o->activations, .kv_type = o->kv_type, .adapter = o->adapter, .packed = o->packed, .draft = o->draft, .draft_tokens = o->draft_tokens};
    struct engine_stats stats;
    int r = engine_new(&e, o->model, &options, err);
    if (r == 0 && o->target.data && !engine_tokenizer(e)) r = error_set_param(err, E_UNSUPPORTED, "target", "the model has no tokenizer: a target needs one");
    if (r == 0 && o->target.data) r = tokenizer_encode(engine_tokenizer(e), o->target, TOKENIZER_ADD_SPECIAL, &target, err);
    if (r != 0) goto out;

    struct engine_request request;
    struct chat_message user = {SPAN("user"), o->prompt};
    engine_request_init(&request);
    request.tokens = o->tokens;
    request.token_count = o->token_count;
    request.prompt = o->prompt;
    request.target = target.ids;
    request.target_count = target.len;
    if (o->chat && !o->tokens) {
        request.messages = &user;
        request.message_count = 1;
    }
    request.tokens_max = logprobs ? 0 : o->max_tokens;
    request.prompt_logprobs = logprobs;
    request.top_logits = logprobs ? 0 : o->top_logits;
    request.ignore_eos = o->ignore_eos;
    const struct model_generation *g = engine_generation(e);
    if (o->temperature >= 0) request.sampling.temperature = o->temperature;
    else if (!g->do_sample) request.sampling.temperature = 0;
    else {
        request.sampling.temperature = g->temperature;
        request.sampling.top_p = g->top_p;
        request.sampling.top_k = g->top_k > 0 && g->top_k <= UINT32_MAX ? (uint32_t)g->top_k : 0;
        request.sampling.min_p = g->min_p;
        request.sampling.repetition_penalty = g->repetition_penalty;
    }
    if (o->dry_multiplier != 0) {
        request.sampling.dry_multiplier = o->dry_multiplier;
        request.sampling.dry_allowed_length = o->dry_allowed_length;
        request.sampling.dry_answer_only = true;
        request.dry_breakers = NO_BREAKERS;
    }
    request.sampling.seed = o->seed;
    request.seed_set = o->seed_set;
    r = engine_generate_batch(e, &request, 1, &result, err);
    if (r == 0 && result.error.code != 0) {
        r = result.error.code;
        if (err) *err = result.error;
    }
    if (r != 0) goto out;

    struct json_out w;
    engine_get_stats(e, &stats);
    json_begin(&w, &text);
    if (logprobs) write_logprobs(&w, &result);
    else if (o->json || !result.text) write_generate(&w, &result, o->draft ? &stats : NULL);
    else buf_append(&text, result.text, result.text_len);
    buf_append_char(&text, '\n');
    if (text.failed != 0) r = error_set(err, text.failed, "no memory for the answer");
    else if (fwrite(buf_span(&text).data, 1, text.len, out) != text.len || fflush(out) != 0) r = error_set(err, E_IO, "cannot write the answer");
out:
    engine_result_fini(&result);
    tokens_fini(&target);
    engine_free(e);
    buf_fini(&text);
    return r;
}
