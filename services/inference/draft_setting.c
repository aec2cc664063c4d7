#include "draft_setting.h"

#include "registry/state.h"

/* The next pair of the rest; empty ones between commas are nothing. */
static bool next_pair(struct span *rest, struct span *pair) {
    while (span_cut(rest, ',', pair)) {
        *pair = span_trim(*pair);
        if (pair->len > 0) return true;
    }
    return false;
}

static void split(struct span pair, struct span *model, struct span *draft) {
    *draft = pair;
    if (!span_cut(draft, '=', model)) *model = (struct span){0};
    *model = span_trim(*model);
    *draft = span_trim(*draft);
}

static bool is_model(struct span text) {
    struct span name;
    uint32_t version;
    return model_name_parse(text, &name, &version) == 0;
}

int draft_setting_check(struct span setting, struct error *err) {
    struct span pair, model, draft, other, other_model, other_draft;
    while (next_pair(&setting, &pair)) {
        split(pair, &model, &draft);
        if (!is_model(model) || !is_model(draft)) return error_set(err, E_INVALID, "\"%.*s\" is not MODEL=DRAFT, each a model's name or NAME@VERSION", SPAN_ARG(pair));
        if (span_eq(model, draft)) return error_set(err, E_INVALID, "%.*s cannot be its own draft model", SPAN_ARG(model));
        for (struct span rest = setting; next_pair(&rest, &other);) {
            split(other, &other_model, &other_draft);
            if (span_eq(other_model, model)) return error_set(err, E_INVALID, "%.*s stands twice", SPAN_ARG(model));
        }
    }
    return 0;
}

bool draft_setting_find(struct span setting, struct span model, struct span *draft) {
    struct span pair, of, its, name = model, found = {0};
    uint32_t version;
    if (model_name_parse(model, &name, &version) != 0) return false;
    while (next_pair(&setting, &pair)) {
        split(pair, &of, &its);
        if (span_eq(of, model)) {
            *draft = its;
            return true;
        }
        if (span_eq(of, name)) found = its;
    }
    if (!found.data) return false;
    *draft = found;
    return true;
}
