#include "budget.h"

struct plan {
    struct budget_model *models;
    size_t n;
    uint64_t budget, used, going; /* bytes in memory behind what is planned; of those, what is about to be free */
    int64_t now_ms;
};

static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }
static int64_t worth(const struct budget_model *m) { return m->used_ms + (m->favoured ? BUDGET_FAVOUR_MS : 0); }

/* The next to be loaded: asked for first, longest first; then production's, then the latest used; equals in the order of the list. NULL: none. */
static struct budget_model *next_wanted(const struct plan *p, bool asked) {
    struct budget_model *best = NULL;
    for (struct budget_model *m = p->models; m < p->models + p->n; m++) {
        if (m->state != BUDGET_AWAY || m->action != BUDGET_STAY || (m->asked_ms != 0) != asked) continue;
        if (!best || (asked ? m->asked_ms < best->asked_ms : worth(m) > worth(best))) best = m;
    }
    return best;
}

/* Who makes room: of the idle, or of the busy, the one that is worth least. */
static struct budget_model *least_worth(const struct plan *p, bool busy) {
    struct budget_model *best = NULL;
    for (struct budget_model *m = p->models; m < p->models + p->n; m++) {
        if (m->state != BUDGET_READY || m->action != BUDGET_STAY || m->yields || (m->calls > 0 || m->asked_ms != 0) != busy) continue; /* asked for: its calls are about to be handed to it */
        if (!best || worth(m) < worth(best)) best = m;
    }
    return best;
}

static bool fits(const struct plan *p, uint64_t bytes) { return p->used == 0 || add(p->used, bytes) <= p->budget; }
/* Once all that is going has gone. */
static bool will_fit(const struct plan *p, uint64_t bytes) { return p->used == p->going || add(p->used - p->going, bytes) <= p->budget; }

static void unload(struct plan *p, struct budget_model *m, enum budget_action action) {
    m->action = action;
    p->going = add(p->going, m->bytes);
}

void budget_plan(struct budget_model *models, size_t n, uint64_t budget, int64_t now_ms) {
    struct plan p = {.models = models, .n = n, .budget = budget, .now_ms = now_ms};
    struct budget_model *m;
    for (m = models; m < models + n; m++) {
        m->action = BUDGET_STAY;
        if (m->bytes == 0) m->bytes = 1; /* so that `used` tells whether anything is in memory */
        if (m->state == BUDGET_LOADING || m->state == BUDGET_READY || m->state == BUDGET_GOING) p.used = add(p.used, m->bytes);
        if (m->state == BUDGET_GOING || (m->state == BUDGET_READY && m->yields)) p.going = add(p.going, m->bytes);
        if (m->state == BUDGET_READY && m->yields && m->calls == 0) m->action = BUDGET_UNLOAD;
    }
    while ((m = next_wanted(&p, true)) != NULL) {
        if (fits(&p, m->bytes)) {
            m->action = BUDGET_LOAD;
            p.used = add(p.used, m->bytes);
            continue;
        }
        struct budget_model *other;
        while (!will_fit(&p, m->bytes) && (other = least_worth(&p, false)) != NULL) unload(&p, other, BUDGET_UNLOAD);
        if (now_ms - m->asked_ms >= BUDGET_PATIENCE_MS)
            while (!will_fit(&p, m->bytes) && (other = least_worth(&p, true)) != NULL) unload(&p, other, BUDGET_YIELD);
        return; /* what is being made free is for it: nobody else may take it before */
    }
    while ((m = next_wanted(&p, false)) != NULL && fits(&p, m->bytes)) {
        m->action = BUDGET_LOAD;
        p.used = add(p.used, m->bytes);
    }
    /* More was loaded than was expected. The last one stays. */
    while (p.used - p.going > budget && (m = least_worth(&p, false)) != NULL && p.used - p.going > m->bytes) unload(&p, m, BUDGET_UNLOAD);
}
