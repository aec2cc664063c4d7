/*
 * Which models are in memory: a pure core. Told what each model takes, whether it is loaded, busy, asked for and when it was used, it says what is to be loaded, what is to be unloaded and
 * what should take no further call, so that what is in memory stays within the budget.
 *
 *   - What is asked for goes first, in the order in which it was asked for; then, while there is room, everything that the registry has released: what production points to, then what was used last.
 *   - Room is made for what is asked for alone: by the idle model whose last use is longest ago, where BUDGET_FAVOUR_MS are added to the use of what production points to. A model with a
 *     running call is never unloaded. Where only busy ones are left and somebody has waited for BUDGET_PATIENCE_MS, the one used longest ago takes no further call (those wait) until its last one has
 *     ended: so two models that are both asked for all the time take turns, and nobody waits for ever.
 *   - Where nothing is in memory a model is loaded whatever it takes: a budget that is too small for it would serve nobody.
 */
#ifndef INFERENCE_BUDGET_H
#define INFERENCE_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BUDGET_PATIENCE_MS = 1000, BUDGET_FAVOUR_MS = 600 * 1000 };

enum budget_state {
    BUDGET_AWAY,    /* takes nothing, and may be loaded */
    BUDGET_BARRED,  /* takes nothing, and may not be loaded now: it failed, and is tried later */
    BUDGET_LOADING, /* takes what it is expected to */
    BUDGET_READY,
    BUDGET_GOING,   /* being freed, or about to be: still takes what it took */
};
enum budget_action { BUDGET_STAY, BUDGET_LOAD, BUDGET_UNLOAD, BUDGET_YIELD };
struct budget_model {
    enum budget_state state;
    uint64_t bytes;  /* that it takes, or is expected to */
    bool favoured;   /* production points to it */
    uint32_t calls;  /* READY: open on it */
    int64_t used_ms; /* last, 0: never */
    int64_t asked_ms; /* somebody has waited for it since then; 0: nobody */
    bool yields;     /* READY: takes no further call already */
    enum budget_action action; /* the answer */
};
void budget_plan(struct budget_model *models, size_t n, uint64_t budget, int64_t now_ms);

#endif
