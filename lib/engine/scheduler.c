#include "engine/scheduler.h"

#include "base/alloc.h"

int scheduler_init(struct scheduler *s, const struct scheduler_config *config, struct error *err) {
    struct scheduler n = {.config = *config};
    uint32_t table = kv_blocks_for(config->context) + kv_blocks_for(config->source_max);
    if (config->sequences_max == 0 || config->sequences_max > SCHEDULER_SEQUENCES_MAX || config->queue_max == 0 ||
        config->queue_max > SCHEDULER_QUEUE_MAX || config->step_rows < config->sequences_max || config->step_rows_mixed == 0 || config->context == 0)
        return error_set(err, E_RANGE, "scheduler: %u sequences, %u queued, %u rows of a step, %u tokens of context", config->sequences_max,
                         config->queue_max, config->step_rows, config->context);
    int r = prefix_cache_init(&n.cache, config->blocks, config->seed);
    if (r != 0) return error_set(err, r, "no KV cache of %u blocks", config->blocks);
    n.slots = mem_calloc(config->sequences_max, sizeof *n.slots);
    n.tables = mem_calloc((size_t)config->sequences_max * table, sizeof *n.tables);
    n.queue = mem_calloc((size_t)config->queue_max + config->sequences_max, sizeof *n.queue);
    n.by_age = mem_calloc(config->sequences_max, sizeof *n.by_age);
    n.items = mem_calloc(config->sequences_max, sizeof *n.items);
    if (!n.slots || !n.tables || !n.queue || !n.by_age || !n.items) {
        scheduler_fini(&n);
        return error_set(err, E_NOMEM, "no memory for a scheduler");
    }
    for (uint32_t i = 0; i < config->sequences_max; i++) n.slots[i].blocks = n.tables + (size_t)i * table;
    *s = n;
    return 0;
}

void scheduler_fini(struct scheduler *s) {
    prefix_cache_fini(&s->cache);
    mem_free(s->slots);
    mem_free(s->tables);
    mem_free(s->queue);
    mem_free(s->by_age);
    mem_free(s->items);
    *s = (struct scheduler){0};
}

static uint64_t tokens_of(const struct scheduler_request *r) { return (uint64_t)r->prompt + r->tokens_max; }
/* The last token's own key and value are never needed: nothing comes after it. */
static uint32_t blocks_of(const struct scheduler_request *r) {
    uint64_t cached = tokens_of(r) - (r->tokens_max > 0);
    return kv_blocks_for((uint32_t)cached) + kv_blocks_for(r->source);
}

int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct error *err) {
    if (r->prompt == 0) return error_set(err, E_RANGE, "the prompt has no tokens");
    if (tokens_of(r) > s->config.context)
        return error_set(err, E_RANGE, "%u prompt tokens and %u to generate are beyond the context of %u", r->prompt, r->tokens_max, s->config.context);
    if (r->source > s->config.source_max) return error_set(err, E_RANGE, "%u tokens of a source are more than the %u that there may be", r->source, s->config.source_max);
    if (blocks_of(r) > s->cache.blocks.total)
        return error_set(err, E_RANGE, "%llu tokens are more than the KV cache of %u tokens holds; ask for fewer",
                         (unsigned long long)tokens_of(r), s->cache.blocks.total * KV_BLOCK_TOKENS);
    if (s->queued >= s->config.queue_max) return error_set(err, E_FULL, "%u requests are waiting already", s->queued);
    s->queue[s->queued++] = (struct scheduler_waiting){.request = *r, .order = s->next_order++, .length = r->prompt};
    s->queued_tokens += tokens_of(r);
    return 0;
}

static ptrdiff_t find_queued(const struct scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->queued; i++)
        if (s->queue[i].request.id == id) return i;
    return -1;
}

uint32_t scheduler_find(const struct scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->running; i++)
        if (s->slots[s->by_age[i]].request.id == id) return s->by_age[i];
    return UINT32_MAX;
}

static void unqueue(struct scheduler *s, uint32_t index) {
    s->queued_tokens -= tokens_of(&s->queue[index].request);
    s->queued--;
    s->queue[index] = s->queue[s->queued];
}

/* Of the tokens of the block `known`, those that are read. */
static uint32_t read_in_block(const struct scheduler_request *r, uint32_t known) {
    uint32_t first = known * KV_BLOCK_TOKENS, read = r->read > first ? r->read - first : 0;
    return read < KV_BLOCK_TOKENS ? read : KV_BLOCK_TOKENS;
}

/* Slot and blocks are free. What the sequence computed of its last block others may have yet. */
static void leave(struct scheduler *s, uint32_t at) {
    struct scheduler_sequence *q = &s->slots[at];
    uint32_t first = q->known * KV_BLOCK_TOKENS;
    if (q->request.tokens && q->known > 0 && q->done > first)
        prefix_cache_add_begun(&s->cache, q->blocks[q->known - 1], q->request.tokens + first, q->done - first, read_in_block(&q->request, q->known), q->blocks[q->known]);
    prefix_cache_release(&s->cache, q->blocks, q->block_count);
    q->state = SCHEDULER_FREE;
    q->block_count = 0;
    uint32_t i = 0;
    while (s->by_age[i] != at) i++;
    for (s->running--; i < s->running; i++) s->by_age[i] = s->by_age[i + 1];
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
    leave(s, at);
    if (slot) *slot = at;
    return 0;
}

int scheduler_grant(struct scheduler *s, uint64_t id, uint32_t tokens) {
    ptrdiff_t queued = find_queued(s, id);
    uint32_t at = queued >= 0 ? UINT32_MAX : scheduler_find(s, id);
    if (queued < 0 && at == UINT32_MAX) return E_NOT_FOUND;
    uint32_t *credit = queued >= 0 ? &s->queue[queued].request.credit : &s->slots[at].request.credit;
    *credit = *credit > SCHEDULER_CREDIT_UNLIMITED - tokens ? SCHEDULER_CREDIT_UNLIMITED : *credit + tokens;
    return 0;
}

bool scheduler_expired(const struct scheduler *s, int64_t now_ms, uint64_t *id) {
    for (uint32_t i = 0; i < s->queued; i++)
        if (s->queue[i].request.deadline_ms != 0 && s->queue[i].request.deadline_ms <= now_ms) {
            *id = s->queue[i].request.id;
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
        int64_t d = i < s->queued ? s->queue[i].request.deadline_ms : s->slots[s->by_age[i - s->queued]].request.deadline_ms;
        if (d != 0 && (next == 0 || d < next)) next = d;
    }
    return next;
}

/* The more important, of equals the one that came first. */
static uint32_t head_of(const struct scheduler *s) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < s->queued; i++) {
        int32_t is = s->queue[i].request.priority, than = s->queue[best].request.priority;
        if (is > than || (is == than && s->queue[i].order < s->queue[best].order)) best = i;
    }
    return best;
}

/* --- the prefix cache --- */

static uint32_t find_next(struct scheduler *s, const struct scheduler_request *r, const uint32_t *blocks, uint32_t known) {
    return prefix_cache_find(&s->cache, known ? blocks[known - 1] : PREFIX_NONE, r->salt, r->tokens + known * KV_BLOCK_TOKENS, read_in_block(r, known));
}

/* The last known token is always computed: its output is what is wanted. */
static bool may_share(const struct scheduler_request *r, uint32_t length, uint32_t known) {
    return r->tokens && !r->whole && (known + 1) * KV_BLOCK_TOKENS < length;
}

static void count_cached(struct scheduler *s, struct scheduler_sequence *q, uint32_t before) {
    if (q->length != q->request.prompt) return; /* it was preempted: what it had computed once is no hit */
    q->cached += q->done - before;
    s->cached_tokens += q->done - before;
}

/* What became known since, while others computed: whole blocks, in the place of one that the sequence has begun, too. */
static void share_more(struct scheduler *s, struct scheduler_sequence *q) {
    uint32_t before = q->done;
    while (may_share(&q->request, q->length, q->known)) {
        uint32_t block = find_next(s, &q->request, q->blocks, q->known);
        if (block == PREFIX_NONE) break;
        prefix_cache_release(&s->cache, &q->blocks[q->known], 1);
        q->blocks[q->known++] = block;
        q->done = q->known * KV_BLOCK_TOKENS;
    }
    count_cached(s, q, before);
}

static void make_known(struct scheduler *s, struct scheduler_sequence *q) {
    for (; q->request.tokens && (q->known + 1) * KV_BLOCK_TOKENS <= q->done; q->known++)
        q->blocks[q->known] = prefix_cache_add(&s->cache, q->known ? q->blocks[q->known - 1] : PREFIX_NONE, q->request.salt,
                                               q->request.tokens + q->known * KV_BLOCK_TOKENS, read_in_block(&q->request, q->known), q->blocks[q->known]);
}

/* --- admission --- */

/* The block, of the cache or of one that runs, that begins most alike with the one behind `known` shared ones, and how many of its tokens can be had. */
static uint32_t find_begun(const struct scheduler *s, const struct scheduler_request *r, const uint32_t *blocks, uint32_t known, uint32_t length, uint32_t *alike) {
    uint32_t first = known * KV_BLOCK_TOKENS, most = length > first ? length - first - 1 : 0, best = PREFIX_NONE; /* the last known token is always computed */
    *alike = 0;
    if (!r->tokens || r->whole || most == 0) return PREFIX_NONE;
    if (most > KV_BLOCK_TOKENS) most = KV_BLOCK_TOKENS;
    if (known > 0) best = prefix_cache_nearest(&s->cache, blocks[known - 1], r->tokens + first, read_in_block(r, known), most, alike);
    for (uint32_t i = 0; i < s->running; i++) {
        const struct scheduler_sequence *q = &s->slots[s->by_age[i]];
        if (q->known != known || !q->request.tokens || q->done <= first) continue;
        if (known > 0 ? q->blocks[known - 1] != blocks[known - 1] : q->request.salt.words[0] != r->salt.words[0] || q->request.salt.words[1] != r->salt.words[1]) continue;
        uint32_t there = q->done - first, same = prefix_alike(q->request.tokens + first, read_in_block(&q->request, known), r->tokens + first, read_in_block(r, known), there < most ? there : most);
        if (same <= *alike) continue;
        *alike = same;
        best = q->blocks[known];
    }
    return best;
}

bool scheduler_admit(struct scheduler *s, uint32_t *slot) {
    if (s->queued == 0 || s->running == s->config.sequences_max) return false;
    uint32_t best = head_of(s), at = 0, known = 0;
    const struct scheduler_waiting *w = &s->queue[best];
    while (s->slots[at].state != SCHEDULER_FREE) at++;
    struct scheduler_sequence *q = &s->slots[at];
    uint32_t blocks = blocks_of(&w->request);
    for (; may_share(&w->request, w->length, known); known++)
        if ((q->blocks[known] = find_next(s, &w->request, q->blocks, known)) == PREFIX_NONE) break;
    uint32_t alike, copy = find_begun(s, &w->request, q->blocks, known, w->length, &alike);
    if (copy != PREFIX_NONE) prefix_cache_hold(&s->cache, copy); /* it may be idle, and is not to become one of the sequence's own */
    bool room = prefix_cache_alloc(&s->cache, blocks - known, q->blocks + known) == 0;
    if (copy != PREFIX_NONE) prefix_cache_release(&s->cache, &copy, 1);
    if (!room && copy != PREFIX_NONE) {
        copy = PREFIX_NONE;
        alike = 0;
        room = prefix_cache_alloc(&s->cache, blocks - known, q->blocks + known) == 0;
    }
    if (!room) {
        prefix_cache_release(&s->cache, q->blocks, known);
        return false;
    }
    q->state = SCHEDULER_RUNNING;
    q->request = w->request;
    q->order = w->order;
    q->length = w->length;
    q->cached = w->cached;
    q->done = known * KV_BLOCK_TOKENS + alike;
    q->known = known;
    q->copy = copy;
    q->draft = 0;
    q->held = w->request.source > 0;
    q->admitted = ++s->admissions;
    q->block_count = blocks;
    count_cached(s, q, 0);
    s->by_age[s->running++] = at;
    unqueue(s, best);
    *slot = at;
    return true;
}

void scheduler_release(struct scheduler *s, uint32_t slot) { s->slots[slot].held = false; }

/* Blocks that nobody else holds; what victims share among themselves is not counted, so that nobody gives way in vain. */
static uint32_t blocks_alone(const struct scheduler *s, const struct scheduler_sequence *q) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < q->block_count; i++) n += s->cache.blocks.refs[q->blocks[i]] == 1 + (i < q->known);
    return n;
}

bool scheduler_preempt(struct scheduler *s, uint32_t *slot) {
    if (s->queued == 0) return false;
    const struct scheduler_request *head = &s->queue[head_of(s)].request;
    uint32_t victim = UINT32_MAX, room = prefix_cache_available(&s->cache);
    for (uint32_t i = 0; i < s->running; i++) {
        uint32_t at = s->by_age[i];
        const struct scheduler_sequence *q = &s->slots[at], *v = victim == UINT32_MAX ? NULL : &s->slots[victim];
        if (q->request.priority >= head->priority) continue;
        room += blocks_alone(s, q);
        if (!v || q->request.priority < v->request.priority || (q->request.priority == v->request.priority && q->order > v->order)) victim = at;
    }
    if (victim == UINT32_MAX || room < blocks_of(head)) return false;
    struct scheduler_sequence *q = &s->slots[victim];
    s->queue[s->queued++] = (struct scheduler_waiting){.request = q->request, .order = q->order, .length = q->length, .cached = q->cached};
    s->queued_tokens += tokens_of(&q->request);
    s->preempted++;
    leave(s, victim);
    *slot = victim;
    return true;
}

void scheduler_restart(struct scheduler *s, uint32_t slot, struct prefix_salt salt) {
    struct scheduler_sequence *q = &s->slots[slot];
    struct scheduler_waiting *w = &s->queue[s->queued++];
    *w = (struct scheduler_waiting){.request = q->request, .order = q->order, .length = q->length, .cached = q->cached};
    w->request.salt = salt;
    s->queued_tokens += tokens_of(&q->request);
    leave(s, slot);
}

/* --- steps --- */

static bool decodes(const struct scheduler_sequence *q) { return q->done >= q->request.prompt && q->length - q->done == 1; }

uint32_t scheduler_draft_max(const struct scheduler *s, uint32_t slot) {
    const struct scheduler_sequence *q = &s->slots[slot];
    if (q->state != SCHEDULER_RUNNING || !decodes(q) || q->request.credit == 0) return 0;
    uint32_t left = q->request.prompt + q->request.tokens_max - q->length; /* tokens that may still come; ≥ 1 */
    uint32_t max = left < q->request.credit ? left : q->request.credit;
    max -= max > 0;
    return max < SCHEDULER_DRAFT_MAX ? max : SCHEDULER_DRAFT_MAX;
}

static uint32_t pace_class(uint32_t rows) {
    uint32_t class = 0;
    while (rows >>= 1) class++;
    return class < SCHEDULER_PACES ? class : SCHEDULER_PACES - 1;
}

/* What a step of so many streams' rows takes without a prompt: as timed, or else from the nearest that was. More rows cost more than fewer, and at least what rows of a prompt do. */
static double decode_us(const struct scheduler *s, uint32_t rows) {
    uint32_t class = pace_class(rows);
    double least = rows * s->prompt_row_us;
    if (s->decode_us[class] > 0) return s->decode_us[class];
    for (uint32_t c = class; c-- > 0;)
        if (s->decode_us[c] > 0) return s->decode_us[c] > least ? s->decode_us[c] : least;
    for (uint32_t c = class + 1; c < SCHEDULER_PACES; c++)
        if (s->decode_us[c] > 0) return s->decode_us[c];
    return 0;
}

static void mean_add(double *mean, double us) { *mean = *mean == 0 ? us : *mean + (us - *mean) / 8; }

void scheduler_timed(struct scheduler *s, const struct scheduler_plan *plan, double us) {
    uint32_t decode_rows = 0;
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->items[i].sample && plan->items[i].count == 1 + plan->items[i].draft) decode_rows += plan->items[i].count;
    uint32_t prompt_rows = plan->rows - decode_rows;
    if (prompt_rows == 0) mean_add(&s->decode_us[pace_class(decode_rows)], us);
    else {
        double row = (us - (decode_rows ? decode_us(s, decode_rows) : 0)) / prompt_rows;
        if (row > 0) mean_add(&s->prompt_row_us, row);
    }
}

/* Prompt rows of a step in which `decoding` rows are streams', `prompts` waiting for theirs. What does not fill a tile costs nearly what a whole one does. */
static uint32_t mixed_rows(const struct scheduler *s, uint32_t decoding, uint32_t prompts) {
    uint32_t max = s->config.step_rows_mixed, tile = s->config.tile_rows, beside = s->config.read_apart ? 0 : decoding;
    double own = decode_us(s, decoding);
    if (own == 0 || s->prompt_row_us == 0) return max;
    double paced = (double)prompts * prompts * own / s->prompt_row_us;
    if (paced < SCHEDULER_PACED_ROWS_MIN) paced = SCHEDULER_PACED_ROWS_MIN;
    uint32_t rows = paced < max ? (uint32_t)paced : max;
    if (tile > 1) rows += (tile - (beside + rows) % tile) % tile;
    if (rows > max) rows = max - (tile > 1 && max > tile ? (beside + max) % tile : 0);
    return rows;
}

void scheduler_plan(struct scheduler *s, struct scheduler_plan *plan) {
    *plan = (struct scheduler_plan){.items = s->items};
    uint32_t prompts = 0, room = s->config.step_rows - s->running; /* for guesses: every sequence has its row first */
    for (uint32_t i = 0; i < s->running; i++) {
        struct scheduler_sequence *q = &s->slots[s->by_age[i]];
        uint32_t draft = q->draft < room ? q->draft : room;
        q->draft = 0;
        if (q->held) continue;
        if (!decodes(q)) prompts++;
        else if (q->request.credit > 0) {
            s->items[plan->count++] = (struct scheduler_item){s->by_age[i], q->request.id, q->done, 1 + draft, draft, false, true};
            plan->rows += 1 + draft;
            room -= draft;
        }
    }
    uint32_t budget = s->config.step_rows - plan->rows, mixed = mixed_rows(s, plan->rows, prompts);
    if (plan->count > 0 && budget > mixed) budget = mixed;
    for (uint32_t i = 0; i < s->running && budget > 0; i++) {
        struct scheduler_sequence *q = &s->slots[s->by_age[i]];
        if (q->held || decodes(q)) continue;
        share_more(s, q);
        uint32_t left = q->length - q->done;
        /* Without credit the last row waits: its token could not be given to anyone. A prompt that is only scored produces none. */
        bool may_sample = q->request.credit > 0 || q->request.tokens_max == 0;
        uint32_t count = left - !may_sample;
        bool read = q->done < q->request.read;
        if (read && count > q->request.read - q->done) count = q->request.read - q->done;
        if (count > budget) count = budget;
        if (count == 0) continue;
        s->items[plan->count++] = (struct scheduler_item){s->by_age[i], q->request.id, q->done, count, 0, read, count == left};
        plan->rows += count;
        budget -= count;
    }
}

void scheduler_computed(struct scheduler *s, const struct scheduler_item *item, uint32_t produced) {
    struct scheduler_sequence *q = &s->slots[item->slot];
    ASSERT(q->state == SCHEDULER_RUNNING && q->request.id == item->id && q->done == item->start);
    ASSERT(produced <= 1 + item->draft);
    q->done += item->count - item->draft + (produced > 0 ? produced - 1 : 0);
    if (produced > 0) {
        ASSERT(item->sample && q->length + produced <= q->request.prompt + q->request.tokens_max);
        q->length += produced;
        ASSERT(q->done + 1 == q->length);
    }
    make_known(s, q);
    if (q->request.credit != SCHEDULER_CREDIT_UNLIMITED) {
        ASSERT(q->request.credit >= produced);
        q->request.credit -= produced;
    }
}
