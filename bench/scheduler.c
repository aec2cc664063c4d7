/*
 * bench_scheduler [CLIENTS ROUNDS PROMPT ANSWER [READ_US ROW_US LOGITS_US]]
 * The order of steps alone: clients that ask without a pause, through the real scheduler, where a step takes what its rows do by a model of the kernels: the time of reading all weights or
 * of multiplying whole tiles, whichever is longer. Nothing of the machine is in it, so that two orders can be told apart on a busy one. Defaults: bench/serving.py's load and SmolLM2-135M
 * in Q8_0 on two cores with AVX2. The limit beside it: every row at its own price, and all first tokens before any second one.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/scheduler.h"
#include "tensor/quant.h"

enum { STEP_US = 300, TURN_US = 2000 }; /* barriers and what is not products; a client's answer to its last token */

struct cost {
    double read_us, row_us, logits_us; /* all weights but the logits', which are a quarter of them more */
};
static const double HEAD_SHARE = 0.26;

struct asked {
    double sent_us, last_us;
    uint32_t got, round;
};

struct load {
    struct scheduler scheduler;
    struct cost cost;
    uint32_t clients, rounds, prompt, answer;
    double now_us;
    struct asked *asked; /* [clients · rounds]; its index + 1 is the request's id */
    uint32_t count, submitted, over;
    double *first_us, *gap_us;
    size_t firsts, gaps;
};

static double whole_tiles(uint32_t rows) { return (rows + QUANT_TILE_ROWS - 1) / QUANT_TILE_ROWS * (double)QUANT_TILE_ROWS; }
static double larger(double a, double b) { return a > b ? a : b; }

static double step_us(const struct cost *c, const struct scheduler_plan *p) {
    uint32_t outputs = 0;
    for (uint32_t i = 0; i < p->count; i++) outputs += p->items[i].sample;
    double us = STEP_US + larger(c->read_us, whole_tiles(p->rows) * c->row_us);
    return outputs ? us + larger(HEAD_SHARE * c->read_us, whole_tiles(outputs) * c->logits_us) : us;
}

static void ask(struct load *l, double at_us, uint32_t round) { l->asked[l->count++] = (struct asked){.sent_us = at_us, .round = round}; }

static int submit(struct load *l, uint64_t id, uint32_t prompt, uint32_t answer, struct error *err) {
    struct scheduler_request r = {.id = id, .prompt = prompt, .tokens_max = answer, .credit = SCHEDULER_CREDIT_UNLIMITED};
    return scheduler_submit(&l->scheduler, &r, err);
}

static void computed(struct load *l, const struct scheduler_item *item) {
    struct asked *a = &l->asked[item->id - 1];
    bool ends = item->sample && a->got + 1 == l->answer;
    scheduler_computed(&l->scheduler, item, item->sample && !ends);
    if (!item->sample) return;
    if (a->got++ == 0) l->first_us[l->firsts++] = l->now_us - a->sent_us;
    else l->gap_us[l->gaps++] = l->now_us - a->last_us;
    a->last_us = l->now_us;
    if (!ends) return;
    scheduler_remove(&l->scheduler, item->id, NULL);
    l->over++;
    if (a->round + 1 < l->rounds) ask(l, l->now_us + TURN_US, a->round + 1);
}

/* A single stream before all others, as a server that was just asked has had. */
static int warm(struct load *l, struct error *err) {
    uint32_t slot;
    uint64_t id = (uint64_t)l->clients * l->rounds + 1;
    int r = submit(l, id, 16, 9, err);
    for (uint32_t i = 0; r == 0 && i < 8; i++) {
        while (scheduler_admit(&l->scheduler, &slot)) {}
        struct scheduler_plan p;
        scheduler_plan(&l->scheduler, &p);
        scheduler_timed(&l->scheduler, &p, step_us(&l->cost, &p));
        scheduler_computed(&l->scheduler, &p.items[0], 1);
    }
    if (r == 0) scheduler_remove(&l->scheduler, id, NULL);
    return r;
}

static int run(struct load *l, struct error *err) {
    int r = warm(l, err);
    for (uint32_t i = 0; i < l->clients; i++) ask(l, 500.0 * i, 0);
    while (r == 0 && l->over < l->clients * l->rounds) {
        for (; r == 0 && l->submitted < l->count && l->asked[l->submitted].sent_us <= l->now_us; l->submitted++) r = submit(l, l->submitted + 1, l->prompt, l->answer, err);
        uint32_t slot;
        while (scheduler_admit(&l->scheduler, &slot)) {}
        struct scheduler_plan p;
        scheduler_plan(&l->scheduler, &p);
        if (p.count == 0) {
            l->now_us = larger(l->now_us + 1, l->submitted < l->count ? l->asked[l->submitted].sent_us : 0);
            continue;
        }
        double us = step_us(&l->cost, &p);
        l->now_us += us;
        scheduler_timed(&l->scheduler, &p, us);
        for (uint32_t i = 0; i < p.count; i++) computed(l, &p.items[i]);
    }
    return r;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double at(double *us, size_t n, double share) {
    if (n == 0) return 0;
    qsort(us, n, sizeof *us, compare);
    size_t i = (size_t)(share * (double)n);
    return us[i < n ? i : n - 1] / 1000;
}

int main(int argc, char **argv) {
    double n[] = {16, 2, 96, 32, 7000, 2000, 500};
    for (int i = 1; i < argc && i <= (int)(sizeof n / sizeof *n); i++) {
        char *end;
        n[i - 1] = strtod(argv[i], &end);
        if (*end || !(n[i - 1] >= 1) || n[i - 1] > 100000) {
            fprintf(stderr, "bench_scheduler: %s is not a number from 1 to 100000\n", argv[i]);
            return 2;
        }
    }
    struct load l = {.clients = (uint32_t)n[0], .rounds = (uint32_t)n[1], .prompt = (uint32_t)n[2], .answer = (uint32_t)n[3], .cost = {n[4], n[5], n[6]}};
    struct error err = {0};
    size_t requests = (size_t)l.clients * l.rounds, tokens = requests * l.answer;
    if (l.clients > 256 || requests > 100000 || tokens > 10000000) {
        fprintf(stderr, "bench_scheduler: at most 256 clients, 100000 requests and 10000000 tokens\n");
        return 2;
    }
    l.asked = mem_calloc(requests, sizeof *l.asked);
    l.first_us = mem_calloc(requests, sizeof *l.first_us);
    l.gap_us = mem_calloc(tokens, sizeof *l.gap_us);
    struct scheduler_config c = {.sequences_max = 256, .queue_max = 1024, .step_rows = 256, .step_rows_mixed = 64, .tile_rows = QUANT_TILE_ROWS, .blocks = 1 << 16,
                                 .context = l.prompt + l.answer > 32 ? l.prompt + l.answer : 32, .seed = 1};
    int r = l.asked && l.first_us && l.gap_us ? scheduler_init(&l.scheduler, &c, &err) : error_set(&err, E_NOMEM, "no memory for so many tokens");
    if (r == 0) {
        r = run(&l, &err);
        scheduler_fini(&l.scheduler);
    }
    if (r == 0) {
        double rows = (double)requests * (l.prompt + l.answer - 1), least = rows * l.cost.row_us + (double)tokens * l.cost.logits_us;
        printf("load   tokens_per_s %.1f  ttft_p50_ms %.0f  ttft_p99_ms %.0f  between_p50_ms %.0f  between_p99_ms %.0f\n", (double)tokens * 1e6 / l.now_us, at(l.first_us, l.firsts, 0.5),
               at(l.first_us, l.firsts, 0.99), at(l.gap_us, l.gaps, 0.5), at(l.gap_us, l.gaps, 0.99));
        printf("limit  tokens_per_s %.1f  ttft_p99_ms %.0f\n", (double)tokens * 1e6 / least, l.clients * (l.prompt * l.cost.row_us + l.cost.logits_us) / 1000);
    } else fprintf(stderr, "bench_scheduler: %s\n", err.message);
    mem_free(l.asked);
    mem_free(l.first_us);
    mem_free(l.gap_us);
    return r == 0 ? 0 : 1;
}
