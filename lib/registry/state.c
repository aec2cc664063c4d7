#include "registry/state.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

const struct state_row STATE_ROWS[] = {
    {MODEL_STATE(UNSPECIFIED), MOVE_REGISTER, MODEL_STATE(CANDIDATE), "service"},
    {MODEL_STATE(CANDIDATE), MOVE_PASS, MODEL_STATE(EVALUATED), "service"},
    {MODEL_STATE(CANDIDATE), MOVE_FAIL, MODEL_STATE(REJECTED), "service"},
    {MODEL_STATE(EVALUATED), MOVE_FAIL, MODEL_STATE(REJECTED), "service"}, /* measured again */
    {MODEL_STATE(EVALUATED), MOVE_APPROVE, MODEL_STATE(APPROVED), "approver"},
    {MODEL_STATE(CANDIDATE), MOVE_REJECT, MODEL_STATE(REJECTED), "operator"},
    {MODEL_STATE(EVALUATED), MOVE_REJECT, MODEL_STATE(REJECTED), "operator"},
    {MODEL_STATE(APPROVED), MOVE_REJECT, MODEL_STATE(REJECTED), "operator"},
    {MODEL_STATE(CANARY), MOVE_REJECT, MODEL_STATE(REJECTED), "operator"},
    {MODEL_STATE(APPROVED), MOVE_CANARY, MODEL_STATE(CANARY), "operator"},
    {MODEL_STATE(CANARY), MOVE_CANARY, MODEL_STATE(CANARY), "operator"}, /* another share */
    {MODEL_STATE(CANARY), MOVE_END_CANARY, MODEL_STATE(APPROVED), "operator"},
    {MODEL_STATE(APPROVED), MOVE_PROMOTE, MODEL_STATE(PRODUCTION), "operator"},
    {MODEL_STATE(CANARY), MOVE_PROMOTE, MODEL_STATE(PRODUCTION), "operator"},
    {MODEL_STATE(PRODUCTION), MOVE_SUCCEED, MODEL_STATE(RETIRED), "service"},
    {MODEL_STATE(PRODUCTION), MOVE_ROLLBACK, MODEL_STATE(ROLLED_BACK), "operator"},
    {MODEL_STATE(RETIRED), MOVE_RESTORE, MODEL_STATE(PRODUCTION), "service"},
    {MODEL_STATE(CANDIDATE), MOVE_RETIRE, MODEL_STATE(RETIRED), "operator"},
    {MODEL_STATE(EVALUATED), MOVE_RETIRE, MODEL_STATE(RETIRED), "operator"},
    {MODEL_STATE(APPROVED), MOVE_RETIRE, MODEL_STATE(RETIRED), "operator"},
    {MODEL_STATE(PRODUCTION), MOVE_RETIRE, MODEL_STATE(RETIRED), "operator"},
};
const size_t STATE_ROWS_COUNT = sizeof(STATE_ROWS) / sizeof(STATE_ROWS[0]);

enum { STATE_COUNT = 9 };

const struct state_row *state_find(model_state from, enum registry_move move) {
    for (size_t i = 0; i < STATE_ROWS_COUNT; i++)
        if (STATE_ROWS[i].from == from && STATE_ROWS[i].move == move) return &STATE_ROWS[i];
    return NULL;
}

bool state_leads(model_state from, model_state to) {
    for (size_t i = 0; i < STATE_ROWS_COUNT; i++)
        if (STATE_ROWS[i].from == from && STATE_ROWS[i].to == to) return true;
    return false;
}

bool state_reaches(model_state from, model_state to) {
    bool seen[STATE_COUNT] = {false};
    if ((unsigned)from >= STATE_COUNT || (unsigned)to >= STATE_COUNT) return false;
    seen[from] = true;
    /* Nine states: as many rounds reach whatever can be reached. */
    bool reached = false;
    for (int round = 0; round < STATE_COUNT; round++)
        for (size_t i = 0; i < STATE_ROWS_COUNT; i++) {
            if (!seen[STATE_ROWS[i].from]) continue;
            seen[STATE_ROWS[i].to] = true;
            if (STATE_ROWS[i].to == to) reached = true;
        }
    return reached;
}

bool state_released(model_state state) { return state == MODEL_STATE(CANARY) || state == MODEL_STATE(PRODUCTION); }

int scope_rank(struct span scope) {
    static const char *const names[] = {"client", "operator", "approver", "service"};
    for (int i = 0; i < 4; i++)
        if (span_eq_str(scope, names[i])) return i + 1;
    return 0;
}

bool scope_allows(struct span scope, const struct state_row *row) {
    int have = scope_rank(scope), need = scope_rank(span_str(row->scope));
    /* A service makes its own moves and no person's; a person makes no service's. */
    if (have == 4 || need == 4) return have == need;
    return have >= need;
}

const char *state_name(model_state state) {
    static const char *const names[STATE_COUNT] = {"none", "candidate", "evaluated", "approved", "canary",
                                                   "production", "retired", "rejected", "rolled_back"};
    return (unsigned)state < STATE_COUNT ? names[state] : "unknown";
}

const char *move_name(enum registry_move move) {
    static const char *const names[MOVE_COUNT] = {"register", "pass", "fail", "approve", "reject", "canary",
                                                  "end_canary", "promote", "succeed", "rollback", "restore", "retire"};
    return (unsigned)move < MOVE_COUNT ? names[move] : "unknown";
}

static bool name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

bool model_name_valid(struct span name) {
    if (name.len == 0 || name.len >= MODEL_NAME_MAX) return false;
    bool tuned = span_starts(name, SPAN("ft:"));
    for (size_t i = 0; i < name.len; i++)
        if (!name_char(name.data[i]) && !(tuned && name.data[i] == ':')) return false;
    return name.data[0] != '-' && name.data[0] != '_' && name.data[0] != '.';
}

int model_name_parse(struct span text, struct span *name, uint32_t *version) {
    ptrdiff_t at = span_find_char(text, '@');
    struct span head = at < 0 ? text : span_sub(text, 0, (size_t)at);
    uint64_t v = 0;
    if (!model_name_valid(head)) return E_INVALID;
    if (at >= 0) {
        struct span tail = span_skip(text, (size_t)at + 1);
        /* Digits only, no leading zero: one version has one name. */
        if (tail.len == 0 || tail.len > 10 || tail.data[0] < '1' || tail.data[0] > '9') return E_INVALID;
        if (span_to_u64(tail, &v) != 0 || v > UINT32_MAX) return E_INVALID;
    }
    *name = head;
    *version = (uint32_t)v;
    return 0;
}

char *model_name_format(struct span name, uint32_t version, char out[MODEL_FULL_NAME_MAX]) {
    snprintf(out, MODEL_FULL_NAME_MAX, "%.*s@%u", (int)(name.len < MODEL_NAME_MAX ? name.len : MODEL_NAME_MAX - 1), name.len ? name.data : "", version);
    return out;
}
