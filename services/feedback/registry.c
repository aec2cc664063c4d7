#include "registry.h"

#include <string.h>

/* What is being decided; failures of the arena are remembered and told once. */
struct decision {
    const struct registry_state *state;
    const struct registry_command *command;
    int64_t now_ms;
    struct arena *arena;
    struct registry_change *change;
    Genloop__V1__Actor *actor;
    char *reason;
    bool no_memory;
};

static char *text(struct decision *d, struct span s) {
    if (s.len == 0) return (char *)protobuf_c_empty_string;
    struct span copy = arena_span(d->arena, s);
    if (!copy.data) d->no_memory = true;
    return copy.data ? (char *)(uintptr_t)copy.data : (char *)protobuf_c_empty_string;
}

/* The next record of a version: as it is, in its new state. NULL without memory. */
static Genloop__V1__ModelVersion *next_version(struct decision *d, const Genloop__V1__ModelVersion *now, model_state to) {
    Genloop__V1__ModelVersion *v = arena_alloc(d->arena, sizeof *v);
    if (!v || d->change->n_versions >= REGISTRY_VERSIONS_MAX) {
        d->no_memory = true;
        return NULL;
    }
    genloop__v1__model_version__init(v);
    if (now) {
        *v = *now; /* strings and lineage are borrowed from the fold, which stays as it is until the change is written */
        v->base.n_unknown_fields = 0;
        v->base.unknown_fields = NULL;
    }
    v->state = to;
    v->event_time_ms = d->now_ms;
    v->actor = d->actor;
    v->reason = d->reason;
    v->revision = now ? now->revision + 1 : 1;
    v->canary_percent = 0;
    v->audit_id = (char *)protobuf_c_empty_string;
    v->signature = (ProtobufCBinaryData){0, NULL};
    d->change->versions[d->change->n_versions++] = v;
    return v;
}

static Genloop__V1__Alias *next_alias(struct decision *d, const char *alias) {
    /* One record for each alias in a change: what is set twice is set in one. */
    for (size_t i = 0; i < d->change->n_aliases; i++)
        if (strcmp(d->change->aliases[i]->alias, alias) == 0) return d->change->aliases[i];
    Genloop__V1__Alias *a = arena_alloc(d->arena, sizeof *a);
    if (!a || d->change->n_aliases >= REGISTRY_ALIASES_MAX) {
        d->no_memory = true;
        return NULL;
    }
    genloop__v1__alias__init(a);
    const Genloop__V1__Alias *now = fold_alias_record(d->state->fold, span_str(alias));
    if (now) {
        a->name = now->name;
        a->version = now->version;
        a->canary_version = now->canary_version;
        a->canary_percent = now->canary_percent;
    }
    a->alias = text(d, span_str(alias));
    a->revision = now ? now->revision + 1 : 1;
    a->event_time_ms = d->now_ms;
    a->actor = d->actor;
    a->reason = d->reason;
    d->change->aliases[d->change->n_aliases++] = a;
    return a;
}

static void point_alias(struct decision *d, const char *alias, char *name, uint32_t version) {
    Genloop__V1__Alias *a = next_alias(d, alias);
    if (!a) return;
    a->name = name;
    a->version = version;
    a->canary_version = a->canary_percent = 0;
}

/* Takes the alias away where it stands. */
static void clear_alias(struct decision *d, const char *alias) {
    if (fold_alias(d->state->fold, span_str(alias))) point_alias(d, alias, (char *)protobuf_c_empty_string, 0);
}

/* Ends the canary share of alias production, of whatever version; the version goes back to APPROVED unless it is `but`, whose own record says what becomes of it. */
static void end_canary(struct decision *d, const char *name, uint32_t but) {
    const Genloop__V1__Alias *production = fold_alias(d->state->fold, span_str(ALIAS_PRODUCTION)), *canary = fold_alias(d->state->fold, span_str(ALIAS_CANARY));
    if (production && production->canary_version && strcmp(production->name, name) == 0) {
        const Genloop__V1__ModelVersion *c = fold_version(d->state->fold, span_str(name), production->canary_version);
        if (c && c->version != but && c->state == MODEL_STATE(CANARY)) next_version(d, c, MODEL_STATE(APPROVED));
        Genloop__V1__Alias *a = next_alias(d, ALIAS_PRODUCTION);
        if (a) a->canary_version = a->canary_percent = 0;
    }
    if (canary && strcmp(canary->name, name) == 0) clear_alias(d, ALIAS_CANARY);
}

uint32_t registry_version_before(const struct registry_state *state, struct span name, uint32_t version) {
    bool behind = false; /* from the newest promotion back: past the version's own */
    for (size_t i = state->n_promotions; i-- > 0;) {
        const struct registry_promotion *p = &state->promotions[i];
        if (!span_eq_str(name, p->name)) continue;
        if (p->version == version) {
            behind = true;
            continue;
        }
        const Genloop__V1__ModelVersion *v = fold_version(state->fold, name, p->version);
        if (behind && v && v->state == MODEL_STATE(RETIRED)) return p->version;
    }
    return 0;
}

static int decide_register(struct decision *d, struct span name, struct error *err) {
    const struct registry_command *c = d->command;
    if (c->directory_sha256.len != 64) return error_set(err, E_INVALID, "a version of %.*s needs its model directory", SPAN_ARG(name));
    if (c->adapter && c->base_model.len == 0) return error_set(err, E_INVALID, "a version of %.*s is an adapter, and its job says no base", SPAN_ARG(name));
    uint32_t highest = fold_highest_version(d->state->fold, name);
    if (highest == UINT32_MAX) return error_set(err, E_FULL, "%.*s has no version numbers left", SPAN_ARG(name));
    Genloop__V1__ModelVersion *v = next_version(d, NULL, MODEL_STATE(CANDIDATE));
    Genloop__V1__Lineage *lineage = arena_alloc(d->arena, sizeof *lineage);
    Genloop__V1__ObjectRef *directory = arena_alloc(d->arena, sizeof *directory);
    if (!v || !lineage || !directory) return error_set(err, E_NOMEM, "no memory for a version of %.*s", SPAN_ARG(name));
    genloop__v1__lineage__init(lineage);
    genloop__v1__object_ref__init(directory);
    lineage->job_id = text(d, c->job_id);
    lineage->base_model = text(d, c->base_model);
    lineage->dataset = text(d, c->dataset);
    lineage->recipe = text(d, c->recipe);
    directory->sha256 = text(d, c->directory_sha256);
    directory->size_bytes = c->directory_size;
    directory->media_type = text(d, SPAN("application/json"));
    v->name = text(d, name);
    v->version = highest + 1;
    v->tenant = text(d, c->tenant);
    v->created_time_ms = d->now_ms;
    v->lineage = lineage;
    v->directory = directory;
    v->parameters = c->parameters;
    v->context = c->context;
    v->adapter = c->adapter;
    v->encoder = c->encoder;
    return 0;
}

static int decide_canary(struct decision *d, const Genloop__V1__ModelVersion *now, Genloop__V1__ModelVersion *v, struct error *err) {
    uint32_t percent = d->command->canary_percent ? d->command->canary_percent : REGISTRY_CANARY_DEFAULT;
    if (percent > 100) return error_set_param(err, E_INVALID, "canary_percent", "a canary share is from 1 to 100 percent, not %u", percent);
    const Genloop__V1__Alias *a = fold_alias(d->state->fold, span_str(ALIAS_PRODUCTION));
    if (now->encoder) return error_set(err, E_STATE, "%s@%u is an encoder, and a canary takes its share of what people chat with: promote it", now->name, now->version);
    if (!a) return error_set(err, E_STATE, "nothing is in production that %s@%u could take a share of: promote it", now->name, now->version);
    if (strcmp(a->name, now->name) != 0)
        return error_set(err, E_STATE, "production is %s@%u, of another name: a canary takes its share of a version of its own name; promote %s@%u instead", a->name, a->version, now->name,
                         now->version);
    end_canary(d, now->name, now->version); /* one canary at a time: a former one goes back to APPROVED */
    Genloop__V1__Alias *production = next_alias(d, ALIAS_PRODUCTION);
    if (production) {
        production->canary_version = now->version;
        production->canary_percent = percent;
    }
    point_alias(d, ALIAS_CANARY, now->name, now->version);
    v->canary_percent = percent;
    return 0;
}

static void decide_promote(struct decision *d, const Genloop__V1__ModelVersion *now) {
    end_canary(d, now->name, now->version);
    for (size_t i = 0; i < fold_versions(d->state->fold); i++) {
        const Genloop__V1__ModelVersion *other = fold_version_at(d->state->fold, i);
        if (other->state == MODEL_STATE(PRODUCTION) && strcmp(other->name, now->name) == 0 && other->version != now->version)
            next_version(d, other, state_find(other->state, MOVE_SUCCEED)->to);
    }
    if (!now->encoder) point_alias(d, ALIAS_PRODUCTION, now->name, now->version);
}

static int decide_rollback(struct decision *d, const Genloop__V1__ModelVersion *now, struct error *err) {
    uint32_t before = registry_version_before(d->state, span_str(now->name), now->version);
    if (!before)
        return error_set(err, E_STATE, "no version of %s was in production before %s@%u: retire it to take it out of service", now->name, now->name, now->version);
    const Genloop__V1__ModelVersion *back = fold_version(d->state->fold, span_str(now->name), before);
    next_version(d, back, state_find(back->state, MOVE_RESTORE)->to);
    end_canary(d, now->name, 0);
    const Genloop__V1__Alias *a = fold_alias(d->state->fold, span_str(ALIAS_PRODUCTION));
    if (!back->encoder && (!a || strcmp(a->name, now->name) == 0)) point_alias(d, ALIAS_PRODUCTION, now->name, before);
    return 0;
}

/* What was in service goes: its aliases too. */
static void decide_removal(struct decision *d, const Genloop__V1__ModelVersion *now) {
    if (now->state == MODEL_STATE(CANARY)) end_canary(d, now->name, now->version);
    if (now->state != MODEL_STATE(PRODUCTION)) return;
    end_canary(d, now->name, 0);
    const Genloop__V1__Alias *a = fold_alias(d->state->fold, span_str(ALIAS_PRODUCTION));
    if (a && strcmp(a->name, now->name) == 0 && a->version == now->version) clear_alias(d, ALIAS_PRODUCTION);
}

static int check_command(const struct registry_command *c, struct error *err) {
    if (c->reason.len == 0) return error_set_param(err, E_INVALID, "reason", "a transition needs a reason");
    if (c->reason.len > REGISTRY_REASON_MAX) return error_set_param(err, E_TOO_LARGE, "reason", "a reason has at most %d bytes, not %zu", REGISTRY_REASON_MAX, c->reason.len);
    if (!span_is_utf8(c->reason) || memchr(c->reason.data, 0, c->reason.len)) return error_set_param(err, E_INVALID, "reason", "a reason is UTF-8 text");
    if (c->id.len > REGISTRY_ID_MAX) return error_set_param(err, E_TOO_LARGE, "id", "an id has at most %d bytes, not %zu", REGISTRY_ID_MAX, c->id.len);
    if (c->actor_id.len == 0) return error_set(err, E_DENIED, "nobody is named as the actor of this transition");
    if (c->move == MOVE_SUCCEED || c->move == MOVE_RESTORE)
        return error_set(err, E_INVALID, "%s is what a promotion or a rollback does to another version: no command", move_name(c->move)); /* alone it would leave an alias behind */
    return 0;
}

/* No such row: what may be done instead, in the words of the command line. */
static int refuse(const Genloop__V1__ModelVersion *v, enum registry_move move, struct error *err) {
    if (v->state == MODEL_STATE(REJECTED)) return error_set(err, E_STATE, "%s@%u was rejected (%s): it can never be released", v->name, v->version, v->reason);
    if (v->state == MODEL_STATE(ROLLED_BACK)) return error_set(err, E_STATE, "%s@%u was rolled back (%s): it does not come back", v->name, v->version, v->reason);
    struct buf can;
    buf_init(&can, 256);
    for (size_t i = 0; i < STATE_ROWS_COUNT; i++)
        if (STATE_ROWS[i].from == v->state && strcmp(STATE_ROWS[i].scope, "service") != 0) buf_printf(&can, "%s%s", can.len ? ", " : "", move_name(STATE_ROWS[i].move));
    error_set(err, E_STATE, "%s@%u is in state %s, from which there is no %s; there is: %.*s", v->name, v->version, state_name(v->state), move_name(move),
              can.len ? (int)can.len : 4, can.len ? buf_span(&can).data : "none");
    buf_fini(&can);
    return E_STATE;
}

int registry_decide(const struct registry_state *state, const struct registry_command *c, int64_t now_ms, struct arena *arena, struct registry_change *change,
                    struct error *err) {
    struct registry_change out = {0};
    struct decision d = {.state = state, .command = c, .now_ms = now_ms, .arena = arena, .change = &out};
    int r = check_command(c, err);
    if (r != 0) return r;
    struct span name;
    uint32_t version;
    if (model_name_parse(c->model, &name, &version) != 0)
        return error_set_param(err, E_INVALID, "model", "\"%.*s\" is no NAME@VERSION", (int)(c->model.len < 80 ? c->model.len : 80), c->model.data ? c->model.data : "");
    const Genloop__V1__ModelVersion *now = NULL;
    if (c->move == MOVE_REGISTER) {
        if (version) return error_set_param(err, E_INVALID, "model", "a new version gets its number from the registry");
    } else if (version == 0 && c->move == MOVE_ROLLBACK) {
        now = fold_production(state->fold, name);
        if (!now) return error_set_param(err, E_STATE, "model", "no version of %.*s is in production", SPAN_ARG(name));
    } else if (version == 0)
        return error_set_param(err, E_INVALID, "model", "name the version: %.*s@VERSION", SPAN_ARG(name));
    else if (!(now = fold_version(state->fold, name, version)))
        return error_set_param(err, E_NOT_FOUND, "model", "there is no model version %.*s", SPAN_ARG(c->model));

    const struct state_row *row = state_find(now ? now->state : MODEL_STATE(UNSPECIFIED), c->move);
    if (!row) return now ? refuse(now, c->move, err) : error_set(err, E_STATE, "nothing but register begins a version");
    if (!scope_allows(c->actor_scope, row))
        return error_set(err, E_DENIED, "%s needs the scope %s; this key has %.*s", move_name(c->move), row->scope, SPAN_ARG(c->actor_scope.len ? c->actor_scope : SPAN("none")));

    d.actor = arena_alloc(arena, sizeof *d.actor);
    if (!d.actor) return error_set(err, E_NOMEM, "no memory for a transition");
    genloop__v1__actor__init(d.actor);
    d.actor->id = text(&d, c->actor_id);
    d.actor->scope = text(&d, c->actor_scope);
    d.actor->claim = text(&d, c->actor_claim);
    d.reason = text(&d, c->reason);

    Genloop__V1__ModelVersion *v = NULL;
    if (c->move == MOVE_REGISTER)
        r = decide_register(&d, name, err);
    else if ((v = next_version(&d, now, row->to)) != NULL) {
        if (c->evidence.len) v->evidence = text(&d, c->evidence);
        switch (c->move) {
        case MOVE_CANARY:
            r = decide_canary(&d, now, v, err);
            break;
        case MOVE_END_CANARY:
            end_canary(&d, now->name, now->version);
            break;
        case MOVE_PROMOTE:
            decide_promote(&d, now);
            break;
        case MOVE_ROLLBACK:
            r = decide_rollback(&d, now, err);
            break;
        case MOVE_REJECT:
        case MOVE_FAIL:
        case MOVE_RETIRE:
            decide_removal(&d, now);
            break;
        default:
            break;
        }
    }
    if (r != 0) return r;
    char full[MODEL_FULL_NAME_MAX];
    if (!d.no_memory && out.n_versions) {
        model_name_format(span_str(out.versions[0]->name), out.versions[0]->version, full);
        out.object = arena_strdup(arena, full);
        out.action = arena_printf(arena, "model.%s", move_name(c->move));
    }
    if (d.no_memory || !out.object || !out.action) return error_set(err, E_NOMEM, "no memory for a transition");
    out.from_state = state_name(row->from);
    out.to_state = state_name(row->to);
    *change = out;
    return 0;
}

enum { TRIAL_BYTES_MAX = 1 << 20 }; /* the records of a change, which hold the recipes of their versions */

bool registry_may(const struct registry_state *state, const Genloop__V1__ModelVersion *v, enum registry_move move, struct span scope) {
    char full[MODEL_FULL_NAME_MAX];
    struct arena arena;
    struct registry_change change;
    struct registry_command trial = {.move = move, .reason = SPAN("trial"), .actor_id = SPAN("trial"), .actor_scope = scope};
    trial.model = span_str(model_name_format(span_str(v->name), v->version, full));
    arena_init(&arena, TRIAL_BYTES_MAX);
    int r = registry_decide(state, &trial, v->event_time_ms + 1, &arena, &change, NULL);
    arena_fini(&arena);
    return r == 0;
}
