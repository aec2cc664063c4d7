/* The view's part of batches.h: which state follows which, and the first answer to each line. */
#include "services/ingest/batches.h"

#include "wire/unpack.h"

#define STATE(NAME) GENLOOP__V1__BATCH_STATE__BATCH_STATE_##NAME

bool batch_ended(int state) { return state == STATE(COMPLETED) || state == STATE(FAILED) || state == STATE(EXPIRED) || state == STATE(CANCELLED); }

static bool follows(int from, int to) {
    switch (to) {
    case STATE(VALIDATING): return from == 0;
    case STATE(IN_PROGRESS):
    case STATE(FAILED): return from == STATE(VALIDATING);
    case STATE(FINALIZING):
    case STATE(EXPIRED): return from == STATE(IN_PROGRESS) || (to == STATE(EXPIRED) && from == STATE(VALIDATING));
    case STATE(COMPLETED): return from == STATE(FINALIZING);
    case STATE(CANCELLING): return from == STATE(VALIDATING) || from == STATE(IN_PROGRESS);
    case STATE(CANCELLED): return from == STATE(CANCELLING);
    default: return false;
    }
}

static int state_of(struct view_db *db, struct span id) {
    int state = 0;
    struct view_stmt *s = view_sql(db, "SELECT state FROM batches WHERE id = ?1");
    if (!s) return 0;
    view_bind_span(s, 1, id);
    if (view_step(s)) state = (int)view_int(s, 0);
    view_done(s);
    return state;
}

static bool among(const uint64_t *numbers, size_t n, uint64_t number) {
    for (size_t i = 0; i < n; i++)
        if (numbers[i] == number) return true;
    return false;
}

static int fold_answers(struct view_db *db, const Genloop__V1__Batch *b, struct error *err) {
    const Genloop__V1__BatchAnswers *a = b->answers;
    int state = state_of(db, span_str(b->id));
    if (!a->lines) return error_set(err, E_INVALID, "answers of a batch need their lines");
    if (state != STATE(IN_PROGRESS) && state != STATE(CANCELLING)) return view_failed(db, err); /* too late */
    for (size_t i = 0; i < a->n_numbers; i++) {
        struct view_stmt *s = view_sql(db, "INSERT OR IGNORE INTO batch_answers VALUES(?1, ?2, ?3, ?4, ?5)");
        if (!s) break;
        view_bind_span(s, 1, span_str(b->id));
        view_bind_int(s, 2, (int64_t)a->numbers[i]);
        view_bind_span(s, 3, span_str(a->lines->sha256));
        view_bind_int(s, 4, (int64_t)i);
        view_bind_int(s, 5, among(a->failed, a->n_failed, a->numbers[i]));
        view_step(s);
        view_done(s);
    }
    return view_failed(db, err);
}

int batch_fold(struct view_db *db, const struct event *e, struct error *err) {
    Genloop__V1__Batch *b = MESSAGE_UNPACK(Batch, batch, e->value);
    struct view_stmt *s;
    int r = 0;
    if (!b) return error_set(err, E_INVALID, "the value is no Batch");
    if (!b->id[0] || !span_eq(e->key, span_str(b->id))) r = error_set(err, E_INVALID, "a Batch needs its key as id");
    else if (b->answers) r = fold_answers(db, b, err);
    else if (follows(state_of(db, e->key), (int)b->state)) {
        if ((s = view_sql(db, "INSERT INTO batches VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET state = ?3, packed = ?5"))) {
            view_bind_span(s, 1, span_str(b->id));
            view_bind_span(s, 2, span_str(b->tenant));
            view_bind_int(s, 3, (int64_t)b->state);
            view_bind_int(s, 4, b->created_time_ms);
            view_bind_blob(s, 5, e->value);
            view_step(s);
            view_done(s);
        }
        if (batch_ended((int)b->state) && (s = view_sql(db, "DELETE FROM batch_answers WHERE batch_id = ?1"))) { /* its files have them */
            view_bind_span(s, 1, span_str(b->id));
            view_step(s);
            view_done(s);
        }
        r = view_failed(db, err);
    }
    message_free(&b->base);
    return r;
}
