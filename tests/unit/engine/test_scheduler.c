/* The scheduler: a table of situations, and seeded simulations that check its promises after every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/scheduler.h"

static struct scheduler make(uint32_t sequences, uint32_t queue, uint32_t rows, uint32_t mixed, uint32_t blocks, uint32_t context) {
    struct scheduler s;
    struct scheduler_config c = {sequences, queue, rows, mixed, blocks, context, 1, 0, 0, false};
    assert_int_equal(scheduler_init(&s, &c, NULL), 0);
    return s;
}
static int submit(struct scheduler *s, uint64_t id, uint32_t prompt, uint32_t max, int32_t priority, uint32_t credit) {
    struct scheduler_request r = {.id = id, .priority = priority, .prompt = prompt, .tokens_max = max, .credit = credit};
    return scheduler_submit(s, &r, NULL);
}
static uint64_t admit(struct scheduler *s) {
    uint32_t slot;
    return scheduler_admit(s, &slot) ? s->slots[slot].request.id : 0;
}
/* Plans and reports every item as done, tokens produced. */
static struct scheduler_plan step(struct scheduler *s) {
    struct scheduler_plan p;
    scheduler_plan(s, &p);
    for (uint32_t i = 0; i < p.count; i++) {
        struct scheduler_sequence *q = &s->slots[p.items[i].slot];
        bool last = p.items[i].sample && q->length + 1 >= q->request.prompt + q->request.tokens_max;
        scheduler_computed(s, &p.items[i], p.items[i].sample && !last && q->request.tokens_max > 0);
    }
    return p;
}

static void test_chunks(void **state) {
    (void)state;
    struct scheduler s = make(4, 8, 16, 4, 100, 200);
    assert_int_equal(submit(&s, 1, 40, 10, 0, SCHEDULER_CREDIT_UNLIMITED), 0);
    assert_int_equal(admit(&s), 1);
    const uint32_t want[] = {16, 16, 8, 1, 1}; /* a lone prompt in whole steps, then decoding */
    for (size_t i = 0; i < 5; i++) assert_int_equal(step(&s).rows, want[i]);
    assert_int_equal(submit(&s, 2, 10, 5, 0, SCHEDULER_CREDIT_UNLIMITED), 0);
    assert_int_equal(admit(&s), 2);
    struct scheduler_plan p = step(&s); /* beside a stream: small chunks, and the stream's row in each */
    assert_int_equal(p.count, 2);
    assert_int_equal(p.items[0].id, 1);
    assert_int_equal(p.items[0].count, 1);
    assert_int_equal(p.items[1].count, 4);
    assert_false(p.items[1].sample);
    step(&s);
    p = step(&s);
    assert_int_equal(p.items[1].count, 2);
    assert_true(p.items[1].sample);
    scheduler_fini(&s);
}

static void test_reservation_and_order(void **state) {
    (void)state;
    struct scheduler s = make(4, 8, 64, 16, 10, 160);
    assert_int_equal(submit(&s, 1, 80, 1, 0, 9), 0);  /* 5 blocks: the last token's own key is never needed */
    assert_int_equal(submit(&s, 2, 90, 10, 0, 9), 0); /* 7 */
    assert_int_equal(submit(&s, 3, 5, 5, 0, 9), 0);   /* 1: would fit, but must not pass 2 */
    assert_int_equal(submit(&s, 4, 5, 5, 1, 9), 0);   /* 1, higher priority */
    assert_int_equal(s.queued_tokens, 81 + 100 + 10 + 10);
    assert_int_equal(admit(&s), 4);
    assert_int_equal(admit(&s), 1);
    assert_int_equal(s.cache.blocks.free_count, 4);
    assert_int_equal(admit(&s), 0);
    assert_int_equal(scheduler_remove(&s, 1, NULL), 0);
    assert_int_equal(admit(&s), 2);
    assert_int_equal(admit(&s), 3);
    assert_int_equal(s.cache.blocks.free_count, 1);
    assert_int_equal(s.queued_tokens, 0);
    assert_int_equal(scheduler_remove(&s, 99, NULL), E_NOT_FOUND);
    for (uint64_t id = 2; id <= 4; id++) assert_int_equal(scheduler_remove(&s, id, NULL), 0);
    assert_int_equal(s.cache.blocks.free_count, 10);
    scheduler_fini(&s);
}

static void test_refusals(void **state) {
    (void)state;
    struct scheduler s = make(2, 3, 64, 16, 4, 100);
    struct error err;
    struct scheduler_request r = {.id = 1, .prompt = 90, .tokens_max = 11};
    assert_int_equal(scheduler_submit(&s, &r, &err), E_RANGE); /* context */
    r.tokens_max = 10;
    assert_int_equal(scheduler_submit(&s, &r, &err), E_RANGE); /* 7 blocks of 4 */
    r.prompt = 0;
    assert_int_equal(scheduler_submit(&s, &r, &err), E_RANGE);
    for (uint64_t id = 1; id <= 3; id++) assert_int_equal(submit(&s, id, 4, 4, 0, 1), 0);
    assert_int_equal(submit(&s, 4, 4, 4, 0, 1), E_FULL);
    assert_int_equal(admit(&s), 1);
    assert_int_equal(submit(&s, 4, 4, 4, 0, 1), 0);
    scheduler_fini(&s);
    struct scheduler_config bad = {8, 8, 4, 4, 10, 100, 1, 0, 0, false}; /* a step smaller than its decodes */
    assert_int_equal(scheduler_init(&s, &bad, &err), E_RANGE);
}

static void test_credit(void **state) {
    (void)state;
    struct scheduler s = make(4, 8, 64, 16, 100, 200);
    assert_int_equal(submit(&s, 1, 10, 10, 0, 2), 0);
    assert_int_equal(submit(&s, 2, 10, 10, 0, 0), 0);
    assert_int_equal(submit(&s, 3, 10, 0, 0, 0), 0); /* produces nothing, needs no credit */
    for (int i = 0; i < 3; i++) assert_true(admit(&s) != 0);
    struct scheduler_plan p = step(&s);
    assert_int_equal(p.rows, 10 + 9 + 10); /* without credit all but the row that would give a token */
    assert_int_equal(p.items[2].id, 3);
    assert_int_equal(scheduler_remove(&s, 3, NULL), 0);
    assert_int_equal(step(&s).rows, 1);
    assert_int_equal(step(&s).rows, 0); /* both wait */
    assert_int_equal(scheduler_grant(&s, 2, 1), 0);
    p = step(&s);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.items[0].id, 2);
    assert_true(p.items[0].sample);
    assert_int_equal(scheduler_grant(&s, 1, SCHEDULER_CREDIT_UNLIMITED), 0);
    assert_int_equal(step(&s).count, 1);
    assert_int_equal(scheduler_grant(&s, 77, 1), E_NOT_FOUND);
    scheduler_fini(&s);
}

static void test_deadlines(void **state) {
    (void)state;
    struct scheduler s = make(1, 8, 64, 16, 100, 200);
    for (uint64_t id = 1; id <= 3; id++) {
        struct scheduler_request r = {.id = id, .prompt = 5, .tokens_max = 5, .credit = 9, .deadline_ms = id == 2 ? 0 : 100 * (int64_t)id};
        assert_int_equal(scheduler_submit(&s, &r, NULL), 0);
    }
    assert_int_equal(admit(&s), 1);
    uint64_t id = 0;
    assert_int_equal(scheduler_next_deadline(&s), 100);
    assert_false(scheduler_expired(&s, 99, &id));
    assert_true(scheduler_expired(&s, 100, &id));
    assert_int_equal(id, 1);
    assert_int_equal(scheduler_remove(&s, 1, NULL), 0);
    assert_int_equal(scheduler_next_deadline(&s), 300);
    assert_true(scheduler_expired(&s, 5000, &id));
    assert_int_equal(id, 3);
    assert_int_equal(scheduler_remove(&s, 3, NULL), 0);
    assert_int_equal(scheduler_next_deadline(&s), 0);
    scheduler_fini(&s);
}

/* Random loads: nobody is lost, no block is in two tables or leaks, prompts are computed once each in order, steps stay in budget, decoding streams are in
 * every step, equal priorities start in order of arrival, and all that has credit ends. */
static void simulate(uint64_t seed) {
    struct random r;
    random_seed(&r, seed);
    uint32_t sequences = 1 + (uint32_t)random_below(&r, 6), rows = sequences + (uint32_t)random_below(&r, 40), mixed = 1 + (uint32_t)random_below(&r, 16);
    uint32_t blocks = 8 + (uint32_t)random_below(&r, 40);
    struct scheduler s = make(sequences, 20, rows, mixed, blocks, 128);
    s.config.tile_rows = (uint32_t)random_below(&r, 8);
    enum { JOBS = 120 };
    struct job {
        uint32_t prompt, max, computed, produced;
        int32_t priority;
        bool here, over, admitted;
    } jobs[JOBS + 1] = {0};
    uint32_t submitted = 0, over = 0;
    uint64_t last_admitted[3] = {0};
    for (uint32_t turn = 0; over < JOBS; turn++) {
        if (turn > 100000) fail_msg("seed %llu: does not end", (unsigned long long)seed);
        while (submitted < JOBS && random_below(&r, 3) != 0) {
            struct job *j = &jobs[submitted + 1];
            *j = (struct job){.prompt = 1 + (uint32_t)random_below(&r, 90), .max = (uint32_t)random_below(&r, 30), .priority = (int32_t)random_below(&r, 3)};
            struct scheduler_request q = {.id = submitted + 1, .priority = j->priority, .prompt = j->prompt, .tokens_max = j->max,
                                          .credit = (uint32_t)random_below(&r, 4)};
            int result = scheduler_submit(&s, &q, NULL);
            if (result == E_FULL) break;
            j->here = result == 0;
            j->over = result != 0; /* more than the whole cache */
            over += j->over;
            submitted++;
        }
        uint32_t slot;
        while (scheduler_admit(&s, &slot)) {
            const struct scheduler_request *q = &s.slots[slot].request;
            jobs[q->id].admitted = true;
            assert_true(last_admitted[q->priority] < q->id);
            last_admitted[q->priority] = q->id;
        }
        for (uint32_t i = 0; i < 3; i++) { /* clients read, or go away */
            uint64_t id = 1 + random_below(&r, JOBS);
            if (!jobs[id].here) continue;
            if (random_below(&r, 40) == 0) {
                assert_int_equal(scheduler_remove(&s, id, NULL), 0);
                jobs[id].here = false;
                jobs[id].over = true;
                over++;
            } else assert_int_equal(scheduler_grant(&s, id, (uint32_t)random_below(&r, 5)), 0);
        }
        struct scheduler_plan p;
        scheduler_plan(&s, &p);
        scheduler_timed(&s, &p, (double)random_below(&r, 1000));
        uint32_t total = 0, decodes = 0, could = 0;
        for (uint32_t i = 0; i < s.running; i++) {
            struct scheduler_sequence *q = &s.slots[s.by_age[i]];
            could += q->done >= q->request.prompt && q->request.credit > 0;
        }
        for (uint32_t i = 0; i < p.count; i++) {
            total += p.items[i].count;
            decodes += p.items[i].start >= jobs[p.items[i].id].prompt;
        }
        assert_int_equal(total, p.rows);
        assert_int_equal(decodes, could);
        assert_true(total <= rows);
        if (decodes > 0) assert_true(total - decodes <= mixed);
        for (uint32_t i = 0; i < p.count; i++) {
            struct scheduler_item it = p.items[i];
            struct job *j = &jobs[it.id];
            assert_int_equal(it.start, j->computed);
            j->computed += it.count;
            bool ends = it.sample && (j->max == 0 || j->produced + 1 == j->max || random_below(&r, 30) == 0);
            if (it.sample && j->max > 0) j->produced++;
            scheduler_computed(&s, &it, it.sample && !ends);
            assert_true(j->computed <= s.slots[it.slot].block_count * KV_BLOCK_TOKENS);
            if (!ends) continue;
            assert_int_equal(scheduler_remove(&s, it.id, &slot), 0);
            assert_int_equal(slot, it.slot);
            j->here = false;
            j->over = true;
            over++;
        }
        uint32_t held = 0;
        bool used[64] = {false};
        for (uint32_t i = 0; i < s.running; i++) {
            struct scheduler_sequence *q = &s.slots[s.by_age[i]];
            held += q->block_count;
            for (uint32_t b = 0; b < q->block_count; b++) {
                assert_false(used[q->blocks[b]]);
                used[q->blocks[b]] = true;
            }
        }
        assert_int_equal(held + s.cache.blocks.free_count, blocks);
    }
    assert_int_equal(s.cache.blocks.free_count, blocks);
    assert_int_equal(s.queued_tokens, 0);
    scheduler_fini(&s);
}

static void test_simulation(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) simulate(seed);
}

/* With prefixes in common, priorities that push others out, and guesses: whatever a row is computed on top of is what its own sequence would have computed,
 * each job's tokens come once each and in order, and nothing is lost. A cell of a block holds the digest of salt and tokens up to it, as keys and values do. */
static uint32_t simulate_sharing(uint64_t seed) {
    enum { JOBS = 80, LONGEST = 128, BLOCKS_MAX = 48 };
    struct random r;
    random_seed(&r, seed);
    uint32_t sequences = 1 + (uint32_t)random_below(&r, 6), rows = sequences + (uint32_t)random_below(&r, 40), mixed = 1 + (uint32_t)random_below(&r, 16);
    uint32_t blocks = 8 + (uint32_t)random_below(&r, BLOCKS_MAX - 8);
    struct scheduler s = make(sequences, JOBS, rows, mixed, blocks, LONGEST);
    s.config.tile_rows = (uint32_t)random_below(&r, 8);
    static uint64_t cells[BLOCKS_MAX][KV_BLOCK_TOKENS];
    static struct job {
        uint32_t tokens[LONGEST];
        uint64_t digest[LONGEST]; /* of the right answer too: what comes after the prompt is known beforehand here */
        uint32_t prompt, max, produced, read;
        bool here, over;
    } jobs[JOBS + 1];
    memset(jobs, 0, sizeof jobs);
    uint32_t submitted = 0, over = 0, preempted = 0, copies = 0;
    for (uint32_t turn = 0; over < JOBS; turn++) {
        if (turn > 100000) fail_msg("seed %llu: does not end", (unsigned long long)seed);
        while (submitted < JOBS && random_below(&r, 3) != 0) {
            struct job *j = &jobs[++submitted];
            uint64_t salt = random_below(&r, 2), base = random_below(&r, 3), differs = random_below(&r, LONGEST), h = salt;
            j->prompt = 1 + (uint32_t)random_below(&r, 90);
            j->max = (uint32_t)random_below(&r, 30);
            j->read = random_below(&r, 4) == 0 ? 0 : random_below(&r, 4) == 0 ? UINT32_MAX : j->prompt;
            for (uint32_t i = 0; i < LONGEST; i++) {
                j->tokens[i] = (uint32_t)(base * 1000 + i + (i >= differs ? submitted * 7919 : 0));
                j->digest[i] = h = h * 6364136223846793005u + 2 * j->tokens[i] + 1 + (i < j->read); /* what is read is not the same as what is written */
            }
            struct scheduler_request q = {.id = submitted, .priority = (int32_t)random_below(&r, 3), .prompt = j->prompt, .tokens_max = j->max, .credit = (uint32_t)random_below(&r, 4),
                                          .tokens = j->tokens, .salt = {{salt, 0}}, .whole = random_below(&r, 5) == 0, .read = j->read};
            j->here = scheduler_submit(&s, &q, NULL) == 0;
            j->over = !j->here;
            over += j->over;
        }
        for (uint32_t slot;;) {
            while (scheduler_admit(&s, &slot)) {
                const struct scheduler_sequence *q = &s.slots[slot];
                assert_int_equal(q->copy == PREFIX_NONE, q->done == q->known * KV_BLOCK_TOKENS);
                if (q->copy == PREFIX_NONE) continue;
                assert_true(q->copy != q->blocks[q->known] && s.cache.blocks.refs[q->copy] > 0);
                memcpy(cells[q->blocks[q->known]], cells[q->copy], sizeof cells[0]);
                copies++;
            }
            if (!scheduler_preempt(&s, &slot)) break;
            preempted++;
        }
        assert_int_equal(s.preempted, preempted);
        for (uint32_t i = 0; i < 3; i++) {
            uint64_t id = 1 + random_below(&r, JOBS);
            if (!jobs[id].here) continue;
            if (random_below(&r, 40) == 0) {
                assert_int_equal(scheduler_remove(&s, id, NULL), 0);
                jobs[id].here = false;
                over++;
            } else assert_int_equal(scheduler_grant(&s, id, (uint32_t)random_below(&r, 5)), 0);
        }
        for (uint32_t i = 0; i < s.running; i++) {
            struct scheduler_sequence *q = &s.slots[s.by_age[i]];
            q->draft = (uint32_t)random_below(&r, 1 + scheduler_draft_max(&s, s.by_age[i]));
        }
        struct scheduler_plan p;
        scheduler_plan(&s, &p);
        scheduler_timed(&s, &p, (double)random_below(&r, 1000));
        assert_true(p.rows <= rows);
        for (uint32_t i = 0; i < p.count; i++) { /* all of a step reads and writes together: what one writes no other may hold */
            struct scheduler_sequence *q = &s.slots[p.items[i].slot];
            for (uint32_t t = p.items[i].start; t < p.items[i].start + p.items[i].count; t++) {
                assert_true(t / KV_BLOCK_TOKENS < q->block_count);
                if (p.items[i].read) assert_true(t < jobs[p.items[i].id].read);
                else assert_true(t >= jobs[p.items[i].id].read || t >= jobs[p.items[i].id].prompt);
                assert_int_equal(s.cache.blocks.refs[q->blocks[t / KV_BLOCK_TOKENS]], 1);
                bool wrong = p.items[i].draft && t > p.items[i].start && random_below(&r, 3) == 0;
                cells[q->blocks[t / KV_BLOCK_TOKENS]][t % KV_BLOCK_TOKENS] = wrong ? 0 : jobs[p.items[i].id].digest[t];
            }
        }
        for (uint32_t i = 0; i < p.count; i++) {
            struct scheduler_item it = p.items[i];
            struct scheduler_sequence *q = &s.slots[it.slot];
            struct job *j = &jobs[it.id];
            uint32_t produced = 0;
            for (uint32_t t = 0; t < it.start + it.count - it.draft; t++)
                if (cells[q->blocks[t / KV_BLOCK_TOKENS]][t % KV_BLOCK_TOKENS] != j->digest[t]) fail_msg("seed %llu: job %llu stands on another's token %u", (unsigned long long)seed, (unsigned long long)it.id, t);
            bool ends = it.sample && j->max == 0;
            if (it.sample && j->max > 0) {
                assert_int_equal(it.start + it.count - it.draft, j->prompt + j->produced);
                for (uint32_t row = it.start + it.count - it.draft - 1;; row++) { /* a guess is true where its row was computed from the right token */
                    j->produced++;
                    produced++;
                    if (j->produced == j->max || random_below(&r, 60) == 0) ends = true;
                    uint32_t next = row + 1;
                    if (ends || next >= it.start + it.count || cells[q->blocks[next / KV_BLOCK_TOKENS]][next % KV_BLOCK_TOKENS] != j->digest[next]) break;
                }
            }
            scheduler_computed(&s, &it, produced - (ends && produced > 0));
            if (!ends) continue;
            assert_int_equal(scheduler_remove(&s, it.id, NULL), 0);
            j->here = false;
            over++;
        }
        uint32_t free = s.cache.blocks.free_count, idle = s.cache.idle, held = 0;
        for (uint32_t b = 0; b < blocks; b++) held += s.cache.blocks.refs[b] > 0;
        assert_int_equal(free + held, blocks);
        assert_true(idle <= held);
        if (s.running == 0) assert_int_equal(free + idle, blocks);
    }
    assert_int_equal(prefix_cache_available(&s.cache), blocks);
    assert_int_equal(s.queued_tokens, 0);
    scheduler_fini(&s);
    return copies;
}

static void test_simulation_of_sharing(void **state) {
    (void)state;
    uint32_t copies = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) copies += simulate_sharing(seed);
    assert_true(copies > 400);
}

static void test_sharing(void **state) {
    (void)state;
    struct scheduler s = make(4, 8, 64, 32, 100, 200);
    uint32_t tokens[200];
    for (uint32_t i = 0; i < 200; i++) tokens[i] = i;
    struct scheduler_request q = {.id = 1, .prompt = 100, .tokens_max = 10, .credit = 9, .tokens = tokens};
    assert_int_equal(scheduler_submit(&s, &q, NULL), 0);
    q.id = 2;
    assert_int_equal(scheduler_submit(&s, &q, NULL), 0);
    assert_int_equal(admit(&s), 1);
    assert_int_equal(admit(&s), 2);
    struct scheduler_plan p = step(&s); /* both came at once: the first computes */
    assert_int_equal(p.count, 1);
    p = step(&s); /* the second takes what is there, and computes beside it */
    assert_int_equal(p.items[0].id, 1);
    assert_int_equal(p.items[0].count, 36);
    assert_int_equal(p.items[1].start, 64);
    assert_int_equal(p.items[1].count, 28);
    assert_int_equal(s.slots[p.items[1].slot].cached, 64);
    q.id = 3;
    assert_int_equal(scheduler_submit(&s, &q, NULL), 0);
    uint32_t before = s.cache.blocks.free_count;
    assert_int_equal(admit(&s), 3); /* at admission: six blocks are there, of seven, and the first rows of the seventh */
    assert_int_equal(before - s.cache.blocks.free_count, 1);
    const struct scheduler_sequence *third = &s.slots[scheduler_find(&s, 3)];
    assert_int_equal(third->copy, s.slots[scheduler_find(&s, 1)].blocks[6]);
    assert_int_equal(third->done, 99);
    q.id = 4;
    q.whole = true;
    assert_int_equal(scheduler_submit(&s, &q, NULL), 0);
    assert_int_equal(admit(&s), 4);
    assert_int_equal(s.slots[scheduler_find(&s, 4)].done, 0);
    assert_int_equal(s.cached_tokens, 64 + 99);
    scheduler_fini(&s);
}

static void test_preemption(void **state) {
    (void)state;
    struct scheduler s = make(3, 8, 64, 32, 10, 160);
    uint32_t slot;
    assert_int_equal(submit(&s, 1, 60, 5, 1, 9), 0); /* 4 blocks */
    assert_int_equal(submit(&s, 2, 60, 5, 0, 9), 0); /* 4 */
    assert_int_equal(submit(&s, 3, 20, 5, 0, 9), 0); /* 2 */
    for (int i = 0; i < 3; i++) assert_true(admit(&s) != 0);
    step(&s);
    assert_int_equal(submit(&s, 4, 10, 5, 0, 9), 0);
    assert_false(scheduler_admit(&s, &slot));
    assert_false(scheduler_preempt(&s, &slot)); /* nobody gives way to his equal */
    assert_int_equal(submit(&s, 5, 150, 5, 1, 9), 0);
    assert_false(scheduler_preempt(&s, &slot)); /* ten blocks: more than all that is below it */
    assert_int_equal(scheduler_remove(&s, 5, NULL), 0);
    assert_int_equal(submit(&s, 6, 80, 5, 1, 9), 0); /* 6: both must go, the younger first */
    assert_true(scheduler_preempt(&s, &slot));
    assert_int_equal(s.slots[slot].request.id, 3);
    assert_int_equal(admit(&s), 0);
    assert_true(scheduler_preempt(&s, &slot));
    assert_int_equal(s.slots[slot].request.id, 2);
    assert_int_equal(admit(&s), 6);
    assert_false(scheduler_preempt(&s, &slot));
    assert_int_equal(s.queued, 3);
    assert_int_equal(scheduler_remove(&s, 6, NULL), 0);
    assert_int_equal(admit(&s), 2); /* in the order in which they came */
    assert_int_equal(admit(&s), 3);
    scheduler_fini(&s);
}

/* One prompt beside streams takes no longer than they do; several may, up to the setting. */
static void test_pace(void **state) {
    (void)state;
    struct scheduler s = make(8, 8, 256, 64, 400, 800);
    assert_int_equal(submit(&s, 1, 4, 400, 0, SCHEDULER_CREDIT_UNLIMITED), 0);
    assert_int_equal(admit(&s), 1);
    struct scheduler_plan p = step(&s);
    scheduler_timed(&s, &p, 4000); /* a row of a prompt: 1 ms */
    p = step(&s);
    scheduler_timed(&s, &p, 10000); /* a stream's step: 10 ms */
    static const uint32_t chunk[] = {10, 40, 64};
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(submit(&s, 2 + i, 700, 4, 0, SCHEDULER_CREDIT_UNLIMITED), 0);
        assert_int_equal(admit(&s), 2 + i);
        assert_int_equal(step(&s).items[1].count, chunk[i]);
    }
    for (int i = 0; i < 60; i++) scheduler_timed(&s, &(struct scheduler_plan){.items = &(struct scheduler_item){.count = 1, .sample = true}, .count = 1, .rows = 1}, 10);
    assert_int_equal(step(&s).items[1].count, SCHEDULER_PACED_ROWS_MIN);
    scheduler_fini(&s);
}

/* Many streams take longer than the one that was timed; steps are whole tiles where the setting allows it. */
static void test_pace_of_many(void **state) {
    (void)state;
    static const struct { const char *name; uint32_t streams, tile, mixed, timed_us, chunk; bool apart; } cases[] = {
        {"as many rows of a prompt", 13, 0, 64, 0, 13, false},
        {"up to a tile", 13, 6, 64, 0, 17, false},
        {"down to a tile", 13, 6, 16, 0, 11, false},
        {"less than a tile", 13, 6, 5, 0, 5, false},
        {"as timed", 13, 0, 64, 20000, 20, false},
        {"up to a tile of its own", 13, 6, 64, 0, 18, true},
        {"down to a tile of its own", 13, 6, 16, 0, 12, true},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct scheduler s = make(16, 16, 256, cases[c].mixed, 1600, 800);
        s.config.tile_rows = cases[c].tile;
        s.config.read_apart = cases[c].apart;
        for (uint64_t id = 1; id <= cases[c].streams; id++) {
            assert_int_equal(submit(&s, id, 4, 400, 0, SCHEDULER_CREDIT_UNLIMITED), 0);
            assert_int_equal(admit(&s), id);
            if (id > 1) continue;
            struct scheduler_plan alone = step(&s);
            scheduler_timed(&s, &alone, 4000); /* 1 ms a row of a prompt, and 5 ms a stream */
            alone = step(&s);
            scheduler_timed(&s, &alone, 5000);
        }
        struct scheduler_plan p = step(&s);
        while (p.rows > cases[c].streams || p.count < cases[c].streams) p = step(&s);
        if (cases[c].timed_us) scheduler_timed(&s, &p, cases[c].timed_us);
        assert_int_equal(submit(&s, 99, 700, 4, 0, SCHEDULER_CREDIT_UNLIMITED), 0);
        assert_int_equal(admit(&s), 99);
        p = step(&s);
        if (p.items[cases[c].streams].count != cases[c].chunk) fail_msg("%s: a chunk of %u", cases[c].name, p.items[cases[c].streams].count);
        scheduler_fini(&s);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    struct scheduler_config c = {4, 8, 16, 4, 100, 200, 1, 0, 0, false};
    for (uint64_t n = 1;; n++) {
        struct scheduler s = {0};
        alloc_fail_at(n);
        int r = scheduler_init(&s, &c, NULL);
        alloc_fail_at(0);
        if (r == 0) {
            assert_true(n > 5);
            scheduler_fini(&s);
            return;
        }
        assert_int_equal(r, E_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks), cmocka_unit_test(test_reservation_and_order), cmocka_unit_test(test_refusals), cmocka_unit_test(test_credit),
        cmocka_unit_test(test_deadlines), cmocka_unit_test(test_simulation), cmocka_unit_test(test_simulation_of_sharing),
        cmocka_unit_test(test_sharing), cmocka_unit_test(test_preemption), cmocka_unit_test(test_pace), cmocka_unit_test(test_pace_of_many), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
