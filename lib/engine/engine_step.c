/* The engine's thread: takes what came in, asks the scheduler for a step, computes it, samples, and tells what came of it. */
#include <errno.h>
#include <math.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/engine_internal.h"
#include "engine/engine_source.h"
#include "tensor/kernels.h"

enum {
    RATE_WINDOW_US = 1000000,
    SHORT_STEP_ROWS = 64, /* of more the calls are longer than what it takes to make up for a thread that was taken away: beside a busy process prompts have 0.7 of their speed, one thread has 0.6 */
    FEW_STREAMS = 4,  /* rows of a step that may begin anew: a replica that has so few is not short of time */
    GUESSING_MAX = 8, /* sequences: of more the products are no longer bound by memory, and a row costs what it costs */
};

/* --- telling --- */

static void tell(struct request *q, struct engine_event *event) {
    event->id = q->id;
    event->text = buf_span(&q->text);
    event->in_reasoning = q->in_reasoning;
    event->usage = (struct engine_usage){q->source ? q->source_len : q->prompt_len, q->len - q->prompt_len, q->cached};
    q->on_event(q->arg, event);
    buf_clear(&q->text);
}

/* Under the lock: what others may read of the scheduler. */
static void publish(struct engine *e) {
    const struct scheduler *s = &e->scheduler;
    e->running = s->running;
    e->stats.queued_tokens = s->queued_tokens;
    e->stats.kv_blocks_free = prefix_cache_available(&s->cache);
    e->stats.kv_blocks_cached = s->cache.idle;
    e->stats.cached_tokens = s->cached_tokens;
    e->stats.preempted = s->preempted;
    e->stats.steps_begun_anew = e->steps_begun_anew;
    e->stats.guessed = e->guessed;
    e->stats.guessed_right = e->guessed_right;
    e->stats.drafted = e->drafted;
    e->stats.drafted_right = e->drafted_right;
    e->stats.completion_tokens += e->unpublished;
    e->stats.prompt_tokens += e->source_tokens;
    e->source_tokens = 0;
    e->rate_tokens += e->unpublished;
    e->unpublished = 0;
}

static void forget(struct engine *e, struct request *q) {
    uint32_t slot;
    if (scheduler_remove(&e->scheduler, q->id, &slot) == 0) {
        if (slot != UINT32_MAX) e->slots[slot] = NULL;
        else {
            uint32_t i = 0;
            while (e->queued[i] != q) i++;
            e->queued[i] = e->queued[--e->queued_count];
        }
    }
    pthread_mutex_lock(&e->lock);
    uint32_t i = 0;
    while (e->live[i] != q) i++;
    e->live[i] = e->live[--e->live_count];
    publish(e);
    pthread_mutex_unlock(&e->lock);
}

/* The last event: slot, blocks and place in the queue are free before it is told. */
static void finish(struct engine *e, struct request *q, struct engine_event *event, enum engine_finish why, const struct error *error) {
    forget(e, q);
    event->finish = why;
    event->error = error;
    tell(q, event);
    request_free(q);
}

static void finish_early(struct engine *e, struct request *q, enum engine_finish why, int code, const char *message) {
    struct error error = {0};
    error_set(&error, code, "%s", message);
    finish(e, q, &(struct engine_event){0}, why, &error);
}

/* --- what came in --- */

/* Everything since the last look, in order; waits where `idle`, at most until a deadline. Returns the new requests, NULL; *stop: end. */
static struct request *take_in(struct engine *e, bool idle, uint32_t *gone, bool *stop) {
    pthread_mutex_lock(&e->lock);
    if (idle) e->stats.tokens_per_second = 0;
    while (idle && !e->inbox_first && !e->wishes && !(e->stopping && (e->live_count == 0 || e->scheduler.running + e->scheduler.queued > 0))) {
        int64_t deadline = scheduler_next_deadline(&e->scheduler);
        if (deadline == 0) {
            pthread_cond_wait(&e->step_wake, &e->lock);
            continue;
        }
        struct timespec until = {.tv_sec = deadline / 1000, .tv_nsec = deadline % 1000 * 1000000};
        if (deadline <= clock_mono_ms() || pthread_cond_timedwait(&e->step_wake, &e->lock, &until) == ETIMEDOUT) break;
    }
    struct request *in = e->inbox_first;
    e->inbox_first = NULL;
    e->inbox_last = &e->inbox_first;
    atomic_store(&e->arrived, false);
    for (struct request *q = in; q; q = q->next) {
        q->arrived = true;
        e->wishes |= q->granted > 0 || q->cancelled; /* wished while its tokens were made */
    }
    *gone = 0;
    if (e->wishes || e->stopping)
        for (uint32_t i = 0; i < e->live_count; i++) {
            struct request *q = e->live[i];
            if (!q->arrived) continue;
            if (q->cancelled || e->stopping) e->gone[(*gone)++] = q;
        }
    e->wishes = false;
    *stop = e->stopping && e->live_count == 0;
    pthread_mutex_unlock(&e->lock);
    return in;
}

static void apply_grants(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < e->live_count; i++) {
        struct request *q = e->live[i];
        if (!q->arrived || q->granted == 0) continue;
        scheduler_grant(&e->scheduler, q->id, q->granted < SCHEDULER_CREDIT_UNLIMITED ? (uint32_t)q->granted : SCHEDULER_CREDIT_UNLIMITED);
        q->granted = 0;
    }
    pthread_mutex_unlock(&e->lock);
}

/* Positions are turned differently where a sequence is long (LongRoPE), all of them: one that grows beyond the border is computed again (restart_long). */
static bool long_context(const struct engine *e, const struct request *q) {
    return e->dir.config.rope_scaling == MODEL_ROPE_LONGROPE && q->len > e->dir.config.rope_original_context;
}

/* Who may share a prefix: those of one scope, whose tokens have the same keys. 128 bits of SHA-256: nobody finds another scope with the same. */
static struct prefix_salt salt_of(const struct engine *e, const struct request *q) {
    struct prefix_salt salt;
    memcpy(&salt, q->scope, sizeof salt);
    salt.words[0] ^= long_context(e, q);
    return salt;
}

/* Tokens that are computed as read: a prompt. Of one that is scored none is: its figures are those of what would be written. Where it makes no difference all count as read, so that
 * an answer's blocks serve the next turn, too. */
static uint32_t read_of(const struct engine *e, const struct request *q) {
    if (!forward_reads_apart(e->forward)) return UINT32_MAX;
    return q->given.prompt_logprobs ? 0 : q->prompt_len;
}

static void receive(struct engine *e, struct request *in) {
    while (in) {
        struct request *q = in;
        in = q->next;
        q->next = NULL;
        struct scheduler_request r = {.id = q->id, .priority = q->given.priority, .prompt = q->prompt_len, .tokens_max = q->tokens_max,
                                      .deadline_ms = q->given.deadline_ms, .credit = q->given.credit, .tokens = q->source ? NULL : q->tokens, .source = q->source_len, .salt = salt_of(e, q),
                                      .whole = q->given.prompt_logprobs, .read = read_of(e, q)};
        if (q->failed.code == 0 && q->given.tokens_only) {
            finish(e, q, &(struct engine_event){.prompt_tokens = q->tokens}, ENGINE_STOP, NULL);
            continue;
        }
        q->long_context = long_context(e, q);
        if (q->failed.code == 0) scheduler_submit(&e->scheduler, &r, &q->failed);
        if (q->failed.code == 0) {
            e->queued[e->queued_count++] = q;
            continue;
        }
        struct error failed = q->failed;
        finish(e, q, &(struct engine_event){0}, ENGINE_ERROR, &failed);
    }
}

static struct request *find_arrived(struct engine *e, uint64_t id) {
    for (uint32_t i = 0; i < e->queued_count; i++)
        if (e->queued[i]->id == id) return e->queued[i];
    return e->slots[scheduler_find(&e->scheduler, id)];
}

static bool admit_or_preempt(struct engine *e, uint32_t *slot) {
    while (!scheduler_admit(&e->scheduler, slot)) {
        if (!scheduler_preempt(&e->scheduler, slot)) return false;
        e->queued[e->queued_count++] = e->slots[*slot]; /* all of it stays where it is: it goes on as if nothing had been */
        e->slots[*slot] = NULL;
    }
    return true;
}

/* Those that have just become long: what they had computed was turned otherwise, and so was what they share. */
static void restart_long(struct engine *e) {
    if (e->dir.config.rope_scaling != MODEL_ROPE_LONGROPE) return;
    for (uint32_t slot = 0; slot < e->scheduler.config.sequences_max; slot++) {
        struct request *q = e->slots[slot];
        if (!q || q->long_context == long_context(e, q)) continue;
        q->long_context = true;
        scheduler_restart(&e->scheduler, slot, salt_of(e, q));
        e->queued[e->queued_count++] = q; /* as a preempted one */
        e->slots[slot] = NULL;
    }
}

static void admit(struct engine *e) {
    uint32_t slot;
    while (admit_or_preempt(e, &slot)) {
        const struct scheduler_sequence *at = &e->scheduler.slots[slot];
        struct request *q = NULL;
        if (at->copy != PREFIX_NONE) kv_cache_copy(&e->kv, at->copy, at->blocks[at->known]);
        for (uint32_t i = 0; i < e->queued_count && !q; i++)
            if (e->queued[i]->id == at->request.id) {
                q = e->queued[i];
                e->queued[i] = e->queued[--e->queued_count];
            }
        e->slots[slot] = q;
        if (e->draft) {
            draft_model_forget(e->draft, at->blocks + at->known, at->block_count - at->known);
            q->fed.count = 0;
        }
        if (!q->given.echo || q->echoed) continue;
        q->echoed = true;
        int r = 0;
        if (q->given.prompt.data) r = buf_append_span(&q->text, q->given.prompt);
        else if (e->dir.tokenizer) r = tokenizer_decode(e->dir.tokenizer, q->tokens, q->prompt_len, true, &q->text);
        if (r != 0) finish_early(e, q, ENGINE_ERROR, E_NOMEM, "no memory to echo the prompt");
        else tell(q, &(struct engine_event){.prompt_tokens = q->given.prompt_logprobs ? q->tokens : NULL});
    }
}

/* --- a step --- */

static bool is_stop_token(const struct engine *e, const struct request *q, uint32_t token) {
    for (size_t i = 0; i < q->given.stop_token_count; i++)
        if (q->stop_tokens[i] == token) return true;
    if (q->given.ignore_eos) return false;
    for (uint32_t i = 0; i < e->dir.config.eos_count; i++)
        if (e->dir.config.eos_ids[i] == (int64_t)token) return true;
    if (q->chat_stop && token == e->im_end) return true;
    return e->dir.config.eos_count == 0 && e->dir.tokenizer && tokenizer_eos(e->dir.tokenizer) == token;
}

struct sample_phase {
    struct engine *e;
    struct output *outputs;
};

/* One row of logits: scored against the prompt's next token, or sampled. */
static void sample_output(void *arg, size_t i, int thread) {
    struct sample_phase *p = arg;
    struct output *o = &p->outputs[i];
    struct request *q = o->request;
    struct sampler_scratch *s = &p->e->scratch[thread];
    float *logits = p->e->logits + i * s->vocab, *maxima = p->e->maxima + i * kernels_maxima_count(s->vocab);
    o->result = 0;
    if (o->score) {
        uint32_t next = q->tokens[o->position + 1];
        if (q->prompt_tops) {
            struct engine_logprobs *l = &q->prompt_tops[o->row];
            l->top_count = q->given.top_logprobs;
            sampler_logprobs(logits, next, l->top_count, s, &l->logprob, l->top);
            o->logprob = l->logprob;
        } else {
            o->logprob = (float)((double)logits[next] - sampler_log_sum(logits, s));
        }
        o->token = sampler_argmax(logits, s->vocab);
        return;
    }
    if (!o->sample) return;
    if (q->given.top_logits > 0 && q->top_logit_count == 0) {
        sampler_top(logits, q->given.top_logits, s, q->top_logits);
        q->top_logit_count = q->given.top_logits;
    }
    if (q->tokens_max == 0) return;
    if (q->given.logprobs) memcpy(s->raw, logits, s->vocab * sizeof *logits);
    if (q->grammar && grammar_mask(q->grammar, q->ends, q->end_count, logits, s->vocab) == 0) {
        o->token = GRAMMAR_END; /* nothing goes on and nothing may end it: a vocabulary that cannot say what is asked for */
        return;
    }
    o->result = sampler_draw(&q->given.sampling, &q->counts, q->len - q->prompt_len, logits, q->grammar ? NULL : maxima, s, &o->token); /* a grammar has masked some */
    if (o->result == 0 && q->grammar) {
        o->token = grammar_hold(q->grammar, o->token);
        if (o->token == GRAMMAR_END && q->end_count > 0) o->token = q->ends[0];
    }
    if (o->result == 0 && q->given.logprobs && o->token != GRAMMAR_END) {
        q->logprobs.top_count = q->given.top_logprobs;
        sampler_logprobs(s->raw, o->token, q->given.top_logprobs, s, &q->logprobs.logprob, q->logprobs.top);
    }
}

/* The text that a new token adds, and whether that ends the answer. */
static int add_text(struct engine *e, struct request *q, uint32_t token, bool last, bool *stopped) {
    *stopped = false;
    if (!e->dir.tokenizer) return 0;
    buf_clear(&q->raw);
    int r = token == TOKEN_NONE ? 0 : detokenizer_push(&q->detokenizer, token, &q->raw);
    if (r == 0 && last) r = detokenizer_finish(&q->detokenizer, &q->raw);
    if (r == 0) r = stop_push(&q->stop, buf_span(&q->raw), &q->text, stopped);
    if (r == 0 && last && !*stopped) r = stop_finish(&q->stop, &q->text);
    return r;
}

/* more: the next row was computed from this token, and the item goes on with it. True: the request is over, and gone. */
static bool add_token(struct engine *e, const struct scheduler_item *item, struct request *q, const struct output *o, struct engine_event *event, bool more, uint32_t *produced) {
    struct error error = {0};
    bool ended = false, stopped = false, full = false;
    int r = o->result;
    if (r == 0 && o->token == GRAMMAR_END) { /* without a token */
        r = add_text(e, q, TOKEN_NONE, true, &stopped);
        ended = true;
        if (r != 0) error_set(&error, r, "no memory for an answer");
    } else if (r != 0) error_set(&error, E_INTERNAL, "the model's output is not a number");
    else {
        q->tokens[q->len++] = o->token;
        full = q->len - q->prompt_len == q->tokens_max;
        ended = is_stop_token(e, q, o->token);
        bool whole = false;
        if (q->grammar && !ended) {
            if (grammar_accept(q->grammar, o->token) != 0) r = error_set(&error, E_INTERNAL, "a token that the constraint does not allow was chosen");
            whole = grammar_must_end(q->grammar); /* nothing can follow: the answer needs no token to end it */
        }
        if (r == 0) r = add_text(e, q, ended ? TOKEN_NONE : o->token, ended || whole || full, &stopped);
        if (r == 0 && q->counts_needed) r = sampler_counts_add(&q->counts, o->token);
        if (r != 0 && error.code == 0) error_set(&error, r, "no memory for an answer");
        event->tokens = &q->tokens[q->len - 1];
        event->token_count = 1;
        event->logprobs = q->given.logprobs ? &q->logprobs : NULL;
        event->stop_token = ended;
        stopped |= whole;
        if (q->len == q->prompt_len + 1) {
            event->top_logits = q->top_logits;
            event->top_logit_count = q->top_logit_count;
        }
    }
    bool over = r != 0 || ended || stopped || full;
    *produced += !over;
    if (over || !more) scheduler_computed(&e->scheduler, item, *produced);
    if (!over) tell(q, event);
    else finish(e, q, event, r != 0 ? ENGINE_ERROR : ended || stopped ? ENGINE_STOP : ENGINE_LENGTH, r != 0 ? &error : NULL);
    return over;
}

/* The token that was sampled, and as long as the guesses come out the ones behind it: each is drawn as it would have been in a step of its own. */
static void add_tokens(struct engine *e, const struct scheduler_item *item, struct request *q, struct output *o, struct engine_event *event) {
    struct sample_phase phase = {e, e->outputs};
    uint32_t produced = 0;
    for (;; o++) {
        bool bet = produced < item->draft, right = bet && o->result == 0 && o->token == q->guesses[produced];
        if (bet) {
            draft_learn(q->modelled ? &q->by_model : &q->draft, 1, right);
            e->drafted += q->modelled;
            e->drafted_right += q->modelled && right;
            e->step_right += q->modelled && right;
            e->guessed_right += right;
            e->guessed++;
        }
        e->unpublished += produced > 0;
        if (add_token(e, item, q, o, event, right, &produced) || !right) return;
        *event = (struct engine_event){0};
        o[1].sample = true;
        sample_output(&phase, (size_t)(o + 1 - e->outputs), 0);
    }
}

static void report(struct engine *e, const struct scheduler_plan *plan, size_t output_count) {
    size_t at = 0;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct scheduler_item *item = &plan->items[i];
        struct request *q = e->slots[item->slot];
        struct engine_event event = {0};
        struct output *sampled = NULL;
        for (; at < output_count && e->outputs[at].item == i; at++) {
            struct output *o = &e->outputs[at];
            if (o->score) {
                if (event.prompt_count == 0) event.prompt_first = o->position + 1;
                q->prompt_logprobs[event.prompt_count] = o->logprob;
                q->prompt_argmax[event.prompt_count++] = o->token;
                q->scored = o->position + 1;
            } else if (o->sample) sampled = o;
        }
        if (event.prompt_count > 0) {
            event.prompt_logprobs = q->prompt_logprobs;
            event.prompt_argmax = q->prompt_argmax;
            event.prompt_tops = q->prompt_tops; /* by row: what was told before is not among them */
            event.prompt_tokens = q->tokens;
        }
        if (sampled && q->tokens_max > 0) {
            add_tokens(e, item, q, sampled, &event);
            continue;
        }
        scheduler_computed(&e->scheduler, item, 0);
        if (item->sample && q->tokens_max == 0) { /* only the prompt was asked for */
            event.top_logits = q->top_logits;
            event.top_logit_count = q->top_logit_count;
            finish(e, q, &event, ENGINE_LENGTH, NULL);
        } else if (event.prompt_count > 0) tell(q, &event);
    }
}

/* A chunk of a prompt can take long, and whoever it is for may leave meanwhile. And where a few streams have a step to themselves, a prompt that arrives in its first half waits longer for its end than
 * they lose by beginning anew with it. */
static bool on_layer(void *arg) {
    struct engine *e = arg;
    if (e->may_begin_anew && e->step_layer++ < e->dir.config.layers / 2 && atomic_load_explicit(&e->arrived, memory_order_relaxed)) {
        e->steps_begun_anew++;
        return true;
    }
    return atomic_load_explicit(&e->give_up, memory_order_relaxed) || (e->step_deadline_ms != 0 && clock_mono_ms() >= e->step_deadline_ms);
}

/* False: given up. What had been written of it is written again, the same. */
static bool compute_rows(struct engine *e, const struct scheduler_plan *plan) {
    bool may_give_up = false, ever = !e->gave_up;
    e->step_deadline_ms = 0;
    pthread_mutex_lock(&e->lock);
    atomic_store(&e->give_up, false);
    for (uint32_t i = 0; i < plan->count && ever; i++) {
        struct request *q = e->slots[plan->items[i].slot];
        q->in_chunk = plan->items[i].count - plan->items[i].draft > 1;
        if (!q->in_chunk) continue;
        may_give_up = true;
        if (q->cancelled) atomic_store(&e->give_up, true);
        int64_t deadline = q->given.deadline_ms;
        if (deadline != 0 && (e->step_deadline_ms == 0 || deadline < e->step_deadline_ms)) e->step_deadline_ms = deadline;
    }
    pthread_mutex_unlock(&e->lock);
    e->step_layer = 0;
    e->may_begin_anew = ever && !may_give_up && plan->rows <= FEW_STREAMS && e->scheduler.queued == 0 && e->scheduler.running < e->scheduler.config.sequences_max;
    forward_on_layer(e->forward, e, may_give_up || e->may_begin_anew ? on_layer : NULL);
    e->gave_up = !forward_step(e->forward, &e->kv, e->items, plan->count);
    pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < plan->count; i++) e->slots[plan->items[i].slot]->in_chunk = false;
    pthread_mutex_unlock(&e->lock);
    return !e->gave_up;
}

/* How many guesses of the draft model are worth their time for the sequence of a slot, in a step of so many rows otherwise. */
static uint32_t worth_drafting(struct engine *e, struct request *q, uint32_t slot, uint32_t rows, uint32_t max, double each_us) {
    if (max == 0) return 0;
    uint32_t behind = draft_model_behind(e->draft, q->tokens, q->len, max, e->scheduler.slots[slot].blocks, &q->fed);
    if (behind == 0) return 0;
    if (e->options.guessing == ENGINE_GUESS_ALWAYS) return max;
    if (q->len == q->prompt_len + 1) q->by_model.rate = e->budget.rate; /* as it went with the others */
    double first_us = draft_model_cost(e->draft, behind < DRAFT_ROWS_MAX ? behind : DRAFT_ROWS_MAX);
    return e->budget.us > first_us ? draft_worth(&q->by_model, &e->costs, rows, max, each_us) : 0;
}

/* Guesses that a sequence may have. */
static uint32_t room_for_guesses(const struct engine *e, const struct request *q, uint32_t slot, uint32_t each) {
    const struct scheduler *s = &e->scheduler;
    uint32_t max = scheduler_draft_max(s, slot), border = e->dir.config.rope_original_context; /* a guess beyond it would be the short sequence's */
    if (q->given.no_guesses || s->slots[slot].draft > 0) return 0;
    if (e->dir.config.rope_scaling == MODEL_ROPE_LONGROPE && q->len <= border && border - q->len < max) max = border - q->len;
    return max < each ? max : each;
}

/* Rows of the draft model's step: catching up must not double what the streams wait for. */
static uint32_t catch_up_rows(const struct engine *e, uint32_t rows) {
    uint32_t n = DRAFT_ROWS_MAX;
    while (n > DRAFT_ROWS_MIN && draft_model_cost(e->draft, n) > draft_cost(&e->costs, rows) / 2) n /= 2;
    return n;
}

/* Where nothing was found: all that are worth it together. */
static void guess_by_model(struct engine *e, uint32_t sequences, uint32_t rows, uint32_t each) {
    struct draft_wish wishes[DRAFT_SEQUENCES_MAX];
    uint32_t slots[DRAFT_SEQUENCES_MAX], count = 0, step = catch_up_rows(e, rows);
    const struct scheduler *s = &e->scheduler;
    double each_us = draft_model_cost(e->draft, sequences) / sequences; /* of one guess of one of them, made for all together */
    for (uint32_t i = 0; i < s->running && count < DRAFT_SEQUENCES_MAX; i++) {
        uint32_t slot = s->by_age[i];
        struct request *q = e->slots[slot];
        uint32_t max = room_for_guesses(e, q, slot, each < e->options.draft_tokens ? each : e->options.draft_tokens);
        uint32_t want = worth_drafting(e, q, slot, rows, max, each_us);
        if (want == 0) continue;
        slots[count] = slot;
        wishes[count++] = (struct draft_wish){.tokens = q->tokens, .len = q->len, .want = want, .blocks = s->slots[slot].blocks, .fed = &q->fed, .sampling = &q->given.sampling,
                                              .counts = &q->counts, .draw = q->len - q->prompt_len, .guesses = q->guesses};
        rows += want;
    }
    if (count == 0) return;
    pool_step_begin(e->pool);
    draft_budget_spend(&e->budget, draft_model_guess(e->draft, wishes, count, step));
    pool_step_end(e->pool);
    for (uint32_t i = 0; i < count; i++) {
        e->slots[slots[i]]->modelled = true;
        e->scheduler.slots[slots[i]].draft = wishes[i].got;
    }
}

/* What followed the last time. Returns the rows that the step has then. */
static uint32_t guess_by_lookup(struct engine *e, uint32_t rows, uint32_t each) {
    const struct scheduler *s = &e->scheduler;
    for (uint32_t i = 0; i < s->running; i++) {
        uint32_t slot = s->by_age[i];
        struct request *q = e->slots[slot];
        uint32_t max = room_for_guesses(e, q, slot, each);
        if (max == 0) continue;
        uint32_t n = draft_lookup(q->tokens, q->len, max, q->guesses);
        if (e->options.guessing == ENGINE_GUESS_LOOKUP) n = draft_worth(&q->draft, &e->costs, rows, n, 0);
        memcpy(q->tokens + q->len, q->guesses, n * sizeof *q->tokens); /* there is room: they are fewer than may still come */
        e->scheduler.slots[slot].draft = n;
        q->modelled = false;
        rows += n;
    }
    return rows;
}

/* Guesses for the sequences that decode, while no prompt waits for the rows: all of their logits fit at once. */
static void guess(struct engine *e) {
    const struct scheduler *s = &e->scheduler;
    uint32_t rows = 0;
    if (e->options.guessing == ENGINE_GUESS_OFF && !e->draft) return;
    for (uint32_t i = 0; i < s->running; i++) {
        const struct scheduler_sequence *q = &s->slots[s->by_age[i]];
        if (q->request.credit == 0) continue;
        if (q->length - q->done > 1 || q->done < q->request.prompt) return;
        rows++;
    }
    if (rows == 0 || rows > GUESSING_MAX) return;
    uint32_t each = ENGINE_LOGITS_ROWS / rows - 1, sequences = rows;
    if (e->draft && e->options.guessing == ENGINE_GUESS_ALWAYS) guess_by_model(e, sequences, rows, each);
    if (e->options.guessing != ENGINE_GUESS_OFF) rows = guess_by_lookup(e, rows, each);
    if (e->draft && e->options.guessing != ENGINE_GUESS_ALWAYS) guess_by_model(e, sequences, rows, each);
}

/* What is read first, as forward_step wants it; of those and of the others what has one adapter behind each other, so that their rows go through it together (forward_adapter.c).
 * What is computed does not depend on the order. */
static bool goes_behind(const struct engine *e, const struct scheduler_item *a, const struct scheduler_item *b) {
    if (a->read != b->read) return b->read;
    return (uintptr_t)e->slots[a->slot]->given.adapter > (uintptr_t)e->slots[b->slot]->given.adapter;
}
static void gather(struct engine *e, const struct scheduler_plan *plan) {
    for (uint32_t i = 1; i < plan->count; i++) {
        struct scheduler_item item = plan->items[i];
        uint32_t k = i;
        for (; k > 0 && goes_behind(e, &plan->items[k - 1], &item); k--) plan->items[k] = plan->items[k - 1];
        plan->items[k] = item;
    }
}

static void compute(struct engine *e, const struct scheduler_plan *plan) {
    size_t outputs = 0;
    uint32_t sampled = 0, prompt = 0;
    e->step_guesses = e->step_right = 0;
    gather(e, plan);
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct scheduler_item *item = &plan->items[i];
        struct request *q = e->slots[item->slot];
        struct forward_item *f = &e->items[i];
        bool sample = item->sample && (q->tokens_max > 0 || q->given.top_logits > 0);
        uint32_t end = item->start + item->count, from = sample ? end - 1 - item->draft : end;
        if (q->given.prompt_logprobs) { /* from where none was told yet: a preempted one computes its prompt again */
            uint32_t unscored = q->scored > item->start ? q->scored : item->start;
            if (unscored + 1 < q->prompt_len && unscored < from) from = unscored;
        }
        *f = (struct forward_item){.tokens = q->tokens + item->start, .start = item->start, .count = item->count, .read = item->read, .outputs = end - from, .long_context = long_context(e, q), .adapter = q->given.adapter,
                                   .blocks = e->scheduler.slots[item->slot].blocks};
        source_item(e, item->slot, f);
        for (uint32_t p = from; p < end; p++)
            e->outputs[outputs++] = (struct output){.request = q, .item = i, .position = p, .row = p - from, .score = q->given.prompt_logprobs && p + 1 < q->prompt_len,
                                                    .sample = sample && p + 1 == end - item->draft};
        sampled += sample && q->tokens_max > 0;
        if (q->modelled) e->step_guesses += item->draft;
        if (item->start < q->prompt_len) prompt += item->count;
        q->cached = e->scheduler.slots[item->slot].cached;
    }
    int64_t began_us = clock_mono_us();
    if (plan->rows <= SHORT_STEP_ROWS) pool_step_begin(e->pool);
    bool computed = compute_rows(e, plan);
    for (size_t from = 0; computed && from < outputs; from += ENGINE_LOGITS_ROWS) {
        size_t n = outputs - from < ENGINE_LOGITS_ROWS ? outputs - from : ENGINE_LOGITS_ROWS;
        forward_logits(e->forward, from, n, e->logits, e->maxima);
        struct sample_phase phase = {e, e->outputs + from};
        if (n == 1) sample_output(&phase, 0, 0);
        else pool_run(e->pool, n, &phase, sample_output);
    }
    if (plan->rows <= SHORT_STEP_ROWS) pool_step_end(e->pool);
    if (!computed) return;
    pthread_mutex_lock(&e->lock);
    e->stats.steps++;
    e->stats.prompt_tokens += prompt;
    e->stats.completion_tokens += sampled;
    publish(e);
    int64_t now = clock_mono_us();
    e->rate_tokens += sampled;
    if (now - e->rate_from_us >= RATE_WINDOW_US) {
        e->stats.tokens_per_second = (double)e->rate_tokens * 1e6 / (double)(now - e->rate_from_us);
        e->rate_from_us = now;
        e->rate_tokens = 0;
    }
    pthread_mutex_unlock(&e->lock);
    scheduler_timed(&e->scheduler, plan, (double)(now - began_us));
    if (prompt == 0) draft_costs_add(&e->costs, plan->rows, (double)(now - began_us));
    report(e, plan, outputs);
    draft_budget_step(&e->budget, (double)(now - began_us));
    draft_budget_settle(&e->budget, &e->costs, plan->rows - e->step_guesses, e->step_guesses, e->step_right);
}

void *engine_step_main(void *arg) {
    struct engine *e = arg;
    bool idle = true;
    for (;;) {
        uint32_t gone;
        bool stop;
        struct request *in = take_in(e, idle, &gone, &stop);
        if (stop) break;
        if (idle) {
            e->rate_from_us = clock_mono_us();
            e->rate_tokens = 0;
        }
        /* Cancelled ones leave before anything is computed for them; those among the new ones are not queued at all. */
        for (struct request **at = &in; *at;) {
            struct request *q = *at;
            bool leaves = false;
            for (uint32_t i = 0; i < gone && !leaves; i++) leaves = e->gone[i] == q;
            if (leaves) *at = q->next;
            else at = &q->next;
        }
        for (uint32_t i = 0; i < gone; i++) finish_early(e, e->gone[i], ENGINE_CANCELLED, E_CANCELLED, "the request was cancelled");
        receive(e, in);
        apply_grants(e);
        uint64_t id;
        while (scheduler_expired(&e->scheduler, clock_mono_ms(), &id))
            finish_early(e, find_arrived(e, id), ENGINE_DEADLINE, E_DEADLINE, "the deadline has passed");
        restart_long(e);
        admit(e);
        struct scheduler_plan plan;
        bool reads = source_work(e);
        guess(e);
        scheduler_plan(&e->scheduler, &plan);
        idle = plan.count == 0 && !reads;
        if (plan.count > 0) compute(e, &plan);
    }
    return NULL;
}
