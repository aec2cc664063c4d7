#include "engine/scheduler.h"

#include "base/alloc.h"

int scheduler_init(struct scheduler *s, const struct scheduler_config *config, struct error *err) {
    struct scheduler n = {.config = *config};
    uint32_t table = kv_blocks_for(config->context);
    if (config->sequences_max == 0 || config->sequences_max > SCHEDULER_SEQUENCES_MAX || config->queue_max == 0 ||
        config->queue_max > SCHEDULER_QUEUE_MAX || config->step_rows < config->sequences_max || config->step_rows_mixed == 0 || config->context == 0)
        return error_set(err, E_RANGE, "scheduler: %u sequences, %u queued, %u rows of a step, %u tokens of context", config->sequences_max,
                         config->queue_max, config->step_rows, config->context);
    int r = kv_blocks_init(&n.blocks, config->blocks);
    if (r != 0) return error_set(err, r, "no KV cache of %u blocks", config->blocks);
    n.slots = mem_calloc(config->sequences_max, sizeof *n.slots);
    n.tables = mem_calloc((size_t)config->sequences_max * table, sizeof *n.tables);
    n.queue = mem_calloc(config->queue_max, sizeof *n.queue);
    n.queue_order = mem_calloc(config->queue_max, sizeof *n.queue_order);
    n.by_age = mem_calloc(config->sequences_max, sizeof *n.by_age);
    n.items = mem_calloc(config->sequences_max, sizeof *n.items);
    if (!n.slots || !n.tables || !n.queue || !n.queue_order || !n.by_age || !n.items) {
        scheduler_fini(&n);
        return error_set(err, E_NOMEM, "no memory for a scheduler");
    }
    for (uint32_t i = 0; i < config->sequences_max; i++) n.slots[i].blocks = n.tables + (size_t)i * table;
    *s = n;
    return 0;
}

void scheduler_fini(struct scheduler *s) {
    kv_blocks_fini(&s->blocks);
    mem_free(s->slots);
    mem_free(s->tables);
    mem_free(s->queue);
    mem_free(s->queue_order);
    mem_free(s->by_age);
    mem_free(s->items);
    *s = (struct scheduler){0};
}

static uint64_t tokens_of(const struct scheduler_request *r) { return (uint64_t)r->prompt + r->tokens_max; }
/* The last token's own key and value are never needed: nothing comes after it. */
static uint32_t blocks_of(const struct scheduler_request *r) {
    uint64_t cached = tokens_of(r) - (r->tokens_max > 0);
    return kv_blocks_for((uint32_t)cached);
}

int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct error *err) {
    if (r->prompt == 0) return error_set(err, E_RANGE, "the prompt has no tokens");
    if (tokens_of(r) > s->config.context)
        return error_set(err, E_RANGE, "%u prompt tokens and %u to generate are beyond the context of %u", r->prompt, r->tokens_max, s->config.context);
    if (blocks_of(r) > s->blocks.total)
        return error_set(err, E_RANGE, "%llu tokens are more than the KV cache of %u tokens holds; ask for fewer",
                         (unsigned long long)tokens_of(r), s->blocks.total * KV_BLOCK_TOKENS);
    if (s->queued == s->config.queue_max) return error_set(err, E_FULL, "%u requests are waiting already", s->queued);
    s->queue[s->queued] = *r;
    s->queue_order[s->queued++] = s->next_order++;
    s->queued_tokens += tokens_of(r);
    return 0;
}

static ptrdiff_t find_queued(const struct scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->queued; i++)
        if (s->queue[i].id == id) return i;
    return -1;
}

uint32_t scheduler_find(const struct scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->running; i++)
        if (s->slots[s->by_age[i]].request.id == id) return s->by_age[i];
    return UINT32_MAX;
}

static void unqueue(struct scheduler *s, uint32_t index) {
    s->queued_tokens -= tokens_of(&s->queue[index]);
    s->queued--;
    s->queue[index] = s->queue[s->queued];
    s->queue_order[index] = s->queue_order[s->queued];
}

int scheduler_remove(struct scheduler *s, uint64_t id, uint32_t *slot) {
    ptrdiff_t queued = find_queued(s, id);
    if (queued >= 0) {
        unqueue(s, (uint32_t)queued);
        if (slot) *slot = UINT32_MAX;
        return 0;
    }
    uint32_t at = scheduler_find(s, id);
    if (at == UINT32_MAX) return E_NOT_FOUND;
    struct scheduler_sequence *q = &s->slots[at];
    kv_blocks_unref(&s->blocks, q->blocks, q->block_count);
    q->state = SCHEDULER_FREE;
    q->block_count = 0;
    uint32_t i = 0;
    while (s->by_age[i] != at) i++;
    for (s->running--; i < s->running; i++) s->by_age[i] = s->by_age[i + 1];
    if (slot) *slot = at;
    return 0;
}

int scheduler_grant(struct scheduler *s, uint64_t id, uint32_t tokens) {
    ptrdiff_t queued = find_queued(s, id);
    uint32_t at = queued >= 0 ? UINT32_MAX : scheduler_find(s, id);
    if (queued < 0 && at == UINT32_MAX) return E_NOT_FOUND;
    uint32_t *credit = queued >= 0 ? &s->queue[queued].credit : &s->slots[at].request.credit;
    *credit = *credit > SCHEDULER_CREDIT_UNLIMITED - tokens ? SCHEDULER_CREDIT_UNLIMITED : *credit + tokens;
    return 0;
}

bool scheduler_expired(const struct scheduler *s, int64_t now_ms, uint64_t *id) {
    for (uint32_t i = 0; i < s->queued; i++)
        if (s->queue[i].deadline_ms != 0 && s->queue[i].deadline_ms <= now_ms) {
            *id = s->queue[i].id;
            return true;
        }
    for (uint32_t i = 0; i < s->running; i++) {
        const struct scheduler_request *r = &s->slots[s->by_age[i]].request;
        if (r->deadline_ms != 0 && r->deadline_ms <= now_ms) {
            *id = r->id;
            return true;
        }
    }
    return false;
}

int64_t scheduler_next_deadline(const struct scheduler *s) {
    int64_t next = 0;
    for (uint32_t i = 0; i < s->queued + s->running; i++) {
        int64_t d = i < s->queued ? s->queue[i].deadline_ms : s->slots[s->by_age[i - s->queued]].request.deadline_ms;
        if (d != 0 && (next == 0 || d < next)) next = d;
    }
    return next;
}

bool scheduler_admit(struct scheduler *s, uint32_t *slot) {
    if (s->queued == 0 || s->running == s->config.sequences_max) return false;
    uint32_t best = 0;
    for (uint32_t i = 1; i < s->queued; i++)
        if (s->queue[i].priority > s->queue[best].priority ||
            (s->queue[i].priority == s->queue[best].priority && s->queue_order[i] < s->queue_order[best]))
            best = i;
    uint32_t at = 0;
    while (s->slots[at].state != SCHEDULER_FREE) at++;
    struct scheduler_sequence *q = &s->slots[at];
    uint32_t blocks = blocks_of(&s->queue[best]);
    if (kv_blocks_alloc(&s->blocks, blocks, q->blocks) != 0) return false;
    q->state = SCHEDULER_RUNNING;
    q->request = s->queue[best];
    q->order = s->queue_order[best];
    q->length = q->request.prompt;
    q->done = 0;
    q->block_count = blocks;
    s->by_age[s->running++] = at;
    unqueue(s, best);
    *slot = at;
    return true;
}

void scheduler_plan(struct scheduler *s, struct scheduler_plan *plan) {
    *plan = (struct scheduler_plan){.items = s->items};
    for (uint32_t i = 0; i < s->running; i++) {
        const struct scheduler_sequence *q = &s->slots[s->by_age[i]];
        if (q->done < q->request.prompt || q->request.credit == 0) continue;
        s->items[plan->count++] = (struct scheduler_item){s->by_age[i], q->request.id, q->done, q->length - q->done, true};
        plan->rows += q->length - q->done;
    }
    uint32_t budget = s->config.step_rows - plan->rows;
    if (plan->count > 0 && budget > s->config.step_rows_mixed) budget = s->config.step_rows_mixed;
    for (uint32_t i = 0; i < s->running && budget > 0; i++) {
        const struct scheduler_sequence *q = &s->slots[s->by_age[i]];
        if (q->done >= q->request.prompt) continue;
        uint32_t left = q->length - q->done;
        /* Without credit the last row waits: its token could not be given to anyone. A prompt that is only scored produces none. */
        bool may_sample = q->request.credit > 0 || q->request.tokens_max == 0;
        uint32_t count = left - !may_sample;
        if (count > budget) count = budget;
        if (count == 0) continue;
        s->items[plan->count++] = (struct scheduler_item){s->by_age[i], q->request.id, q->done, count, count == left};
        plan->rows += count;
        budget -= count;
    }
}

void scheduler_computed(struct scheduler *s, const struct scheduler_item *item, bool produced) {
    struct scheduler_sequence *q = &s->slots[item->slot];
    ASSERT(q->state == SCHEDULER_RUNNING && q->request.id == item->id && q->done == item->start);
    q->done += item->count;
    if (!produced) return;
    ASSERT(item->sample && q->done == q->length && q->length < q->request.prompt + q->request.tokens_max);
    q->length++;
    if (q->request.credit != SCHEDULER_CREDIT_UNLIMITED) {
        ASSERT(q->request.credit > 0);
        q->request.credit--;
    }
}
