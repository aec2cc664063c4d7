/* The life of a job: what counts, what is dealt, what a person may ask, when it is given up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/random.h"
#include "services/trainer/jobs.h"

#define S(NAME) JOB_STATE(NAME)

static Genloop__V1__Job job(Genloop__V1__JobState state, uint32_t attempts, bool creation) {
    Genloop__V1__Job j = GENLOOP__V1__JOB__INIT;
    j.id = (char *)(uintptr_t)"j";
    j.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN;
    j.state = state;
    j.attempts = attempts;
    j.created_time_ms = 1000;
    j.event_time_ms = creation ? 1000 : 2000;
    return j;
}

static void test_follows(void **state) {
    (void)state;
    static const struct {
        const char *name;
        Genloop__V1__JobState known;
        uint32_t known_attempts;
        Genloop__V1__JobState event;
        uint32_t attempts;
        bool creation, follows;
    } cases[] = {
        {"a creation", S(UNSPECIFIED), 0, S(QUEUED), 0, true, true},
        {"a run of no job", S(UNSPECIFIED), 0, S(RUNNING), 1, false, false},
        {"an end of no job", S(UNSPECIFIED), 0, S(SUCCEEDED), 1, false, false},
        {"a creation again", S(QUEUED), 0, S(QUEUED), 0, true, false},
        {"a creation again, running", S(RUNNING), 1, S(QUEUED), 0, true, false},
        {"a creation again, paused", S(PAUSED), 1, S(QUEUED), 0, true, false},
        {"a creation again, over", S(SUCCEEDED), 1, S(QUEUED), 0, true, false},
        {"begin", S(QUEUED), 0, S(RUNNING), 1, false, true},
        {"begin again", S(RUNNING), 1, S(RUNNING), 2, false, true},
        {"begin, delivered twice", S(RUNNING), 1, S(RUNNING), 1, false, false},
        {"an older life's begin", S(RUNNING), 3, S(RUNNING), 2, false, false},
        {"begin behind a pause", S(PAUSED), 0, S(RUNNING), 1, false, false},
        {"begin behind a cancel", S(CANCELLED), 0, S(RUNNING), 1, false, false},
        {"pause while queued", S(QUEUED), 0, S(PAUSED), 0, false, true},
        {"pause while running", S(RUNNING), 1, S(PAUSED), 1, false, true},
        {"pause twice", S(PAUSED), 1, S(PAUSED), 1, false, false},
        {"pause behind the end", S(SUCCEEDED), 1, S(PAUSED), 1, false, false},
        {"resume", S(PAUSED), 1, S(QUEUED), 1, false, true},
        {"resume twice", S(QUEUED), 1, S(QUEUED), 1, false, false},
        {"resume what runs", S(RUNNING), 2, S(QUEUED), 1, false, false},
        {"success", S(RUNNING), 1, S(SUCCEEDED), 1, false, true},
        {"success just behind a pause", S(PAUSED), 1, S(SUCCEEDED), 1, false, true},
        {"failure", S(RUNNING), 1, S(FAILED), 1, false, true},
        {"failure before it began", S(QUEUED), 0, S(FAILED), 0, false, true},
        {"cancel while queued", S(QUEUED), 0, S(CANCELLED), 0, false, true},
        {"cancel while paused", S(PAUSED), 1, S(CANCELLED), 1, false, true},
        {"cancel behind success", S(SUCCEEDED), 1, S(CANCELLED), 1, false, false},
        {"success behind a cancel", S(CANCELLED), 1, S(SUCCEEDED), 1, false, false},
        {"success twice", S(SUCCEEDED), 1, S(SUCCEEDED), 1, false, false},
        {"failure behind success", S(SUCCEEDED), 1, S(FAILED), 2, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__Job known = job(cases[i].known, cases[i].known_attempts, false), event = job(cases[i].event, cases[i].attempts, cases[i].creation);
        bool got = job_follows(cases[i].known ? &known : NULL, &event);
        if (got != cases[i].follows) fail_msg("%s: %d", cases[i].name, got);
        if (!cases[i].known) continue;
        event.created_time_ms = 999; /* of another creation of the same id */
        if (job_follows(&known, &event)) fail_msg("%s, of another creation", cases[i].name);
    }
}

/* Whatever comes in whatever order: an end stands, attempts never fall, and a second delivery of any prefix changes nothing. */
static void test_any_order(void **state) {
    (void)state;
    uint64_t seed = 0;
    for (; seed < 2000; seed++) {
        enum { EVENTS = 40 };
        struct random r;
        Genloop__V1__Job events[EVENTS], now = job(S(QUEUED), 0, true);
        random_seed(&r, seed);
        for (int i = 0; i < EVENTS; i++) events[i] = job((Genloop__V1__JobState)(1 + random_below(&r, 6)), (uint32_t)random_below(&r, 5), random_below(&r, 4) == 0);
        for (int i = 0; i < EVENTS; i++) {
            Genloop__V1__Job before = now;
            if (job_follows(&now, &events[i])) now = events[i];
            if (job_ended(before.state) && now.state != before.state) fail_msg("seed %llu: an end did not stand", (unsigned long long)seed);
            if (now.state == S(RUNNING) && now.attempts < before.attempts) fail_msg("seed %llu: attempts fell", (unsigned long long)seed);
            if (now.state == S(RUNNING) && job_follows(&now, &now)) fail_msg("seed %llu: a repeat counted", (unsigned long long)seed);
        }
        Genloop__V1__Job again = now;
        if (job_ended(now.state))
            for (int i = 0; i < EVENTS; i++)
                if (job_follows(&again, &events[i])) fail_msg("seed %llu: something counted behind the end", (unsigned long long)seed);
    }
}

static void test_deal_and_order(void **state) {
    (void)state;
    static const struct {
        Genloop__V1__JobState state;
        enum job_deal deal;
        enum job_order order, order_other; /* of attempt 2 at attempt 2, and at attempt 3 */
    } cases[] = {
        {S(QUEUED), JOB_DEAL_RUN, JOB_STOP, JOB_STOP},     {S(RUNNING), JOB_DEAL_RUN, JOB_GO_ON, JOB_STOP},  {S(PAUSED), JOB_DEAL_PASS, JOB_STOP, JOB_STOP},
        {S(SUCCEEDED), JOB_DEAL_CLEAR, JOB_DROP, JOB_DROP}, {S(FAILED), JOB_DEAL_CLEAR, JOB_DROP, JOB_DROP}, {S(CANCELLED), JOB_DEAL_CLEAR, JOB_DROP, JOB_DROP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__Job now = job(cases[i].state, 2, false);
        const char *name = job_state_name(cases[i].state);
        if (job_deal(cases[i].state) != cases[i].deal) fail_msg("%s: dealt", name);
        if (job_order(&now, 2) != cases[i].order) fail_msg("%s: order", name);
        now.attempts = 3;
        if (job_order(&now, 2) != cases[i].order_other) fail_msg("%s: order of another attempt", name);
    }
}

static void test_wishes(void **state) {
    (void)state;
    enum { RUN = GENLOOP__V1__JOB_WISH__JOB_WISH_RUN, PAUSE = GENLOOP__V1__JOB_WISH__JOB_WISH_PAUSE, CANCEL = GENLOOP__V1__JOB_WISH__JOB_WISH_CANCEL };
    static const struct {
        Genloop__V1__JobState state;
        int wish, r;
        Genloop__V1__JobState to;
    } cases[] = {
        {S(QUEUED), RUN, 0, S(UNSPECIFIED)},    {S(QUEUED), PAUSE, 0, S(PAUSED)},         {S(QUEUED), CANCEL, 0, S(CANCELLED)},
        {S(RUNNING), RUN, 0, S(UNSPECIFIED)},   {S(RUNNING), PAUSE, 0, S(PAUSED)},        {S(RUNNING), CANCEL, 0, S(CANCELLED)},
        {S(PAUSED), RUN, 0, S(QUEUED)},         {S(PAUSED), PAUSE, 0, S(UNSPECIFIED)},    {S(PAUSED), CANCEL, 0, S(CANCELLED)},
        {S(SUCCEEDED), RUN, E_STATE, 0},        {S(SUCCEEDED), PAUSE, E_STATE, 0},        {S(SUCCEEDED), CANCEL, E_STATE, 0},
        {S(FAILED), RUN, E_STATE, 0},           {S(FAILED), CANCEL, E_STATE, 0},          {S(CANCELLED), CANCEL, 0, S(UNSPECIFIED)},
        {S(CANCELLED), RUN, E_STATE, 0},        {S(RUNNING), 0, E_INVALID, 0},            {S(RUNNING), 9, E_INVALID, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        Genloop__V1__Job now = job(cases[i].state, 1, false);
        Genloop__V1__JobState to;
        int r = job_wish(&now, (Genloop__V1__JobWish)cases[i].wish, &to, &err);
        if (r != cases[i].r || (r == 0 && to != cases[i].to) || (r != 0 && !err.param[0])) fail_msg("%s, wish %d: %d to %d (%s)", job_state_name(cases[i].state), cases[i].wish, r, to, err.message);
        /* what a wish leads to is what a reader lets follow */
        Genloop__V1__Job next = job(to, 1, false);
        if (r == 0 && to && !job_follows(&now, &next)) fail_msg("%s, wish %d: its event does not follow", job_state_name(cases[i].state), cases[i].wish);
    }
}

static void test_checks(void **state) {
    (void)state;
    struct error err;
    static const char *const good[] = {"a", "evaluate-manuals-1", "0196A.b_c"}, *const bad[] = {"", ".a", "a/b", "a b", "ä",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(job_id_valid(span_str(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (job_id_valid(span_str(bad[i]))) fail_msg("%s", bad[i]);
    Genloop__V1__Job j = job(S(QUEUED), 0, true);
    assert_int_equal(job_check(&j, SPAN("j"), &err), 0);
    assert_int_equal(job_check(&j, SPAN("k"), &err), E_INVALID);
    j.state = S(UNSPECIFIED);
    assert_int_equal(job_check(&j, SPAN("j"), &err), E_INVALID);
    j.state = (Genloop__V1__JobState)7;
    assert_int_equal(job_check(&j, SPAN("j"), &err), E_INVALID);
    j = job(S(QUEUED), 0, true);
    j.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_UNSPECIFIED;
    assert_int_equal(job_check(&j, SPAN("j"), &err), E_INVALID);
    j = job(S(QUEUED), 0, true);
    j.created_time_ms = 0;
    assert_int_equal(job_check(&j, SPAN("j"), &err), E_INVALID);
}

static void test_poison(void **state) {
    (void)state;
    struct error err = {0};
    assert_int_equal(job_poison(0, 0, 0, &err), 0);
    assert_int_equal(job_poison(JOB_CRASHES_MAX - 1, JOB_DEATHS_MAX - 1, 7, &err), 0);
    assert_int_equal(job_poison(JOB_CRASHES_MAX, JOB_CRASHES_MAX, 7, &err), E_INTERNAL);
    assert_non_null(strstr(err.message, "step 7"));
    assert_int_equal(job_poison(0, JOB_DEATHS_MAX, 7, &err), E_INTERNAL);
}

static void test_pace(void **state) {
    (void)state;
    struct job_pace p = {0};
    assert_true(job_pace_due(&p, 1, 100000, false, 1000));
    assert_false(job_pace_due(&p, 2, 100000, false, 1100));
    assert_true(job_pace_due(&p, 3, 100000, true, 1110));   /* an evaluation is always told */
    assert_false(job_pace_due(&p, 50, 100000, false, 2000)); /* a thousand a run */
    assert_true(job_pace_due(&p, 103, 100000, false, 2000));
    assert_false(job_pace_due(&p, 300, 100000, false, 2100)); /* four a second */
    assert_true(job_pace_due(&p, 104, 100000, false, 7000));  /* slow steps */
    assert_true(job_pace_due(&p, 100000, 100000, false, 7001));
    /* a run of any length and speed: bounded */
    for (uint64_t steps = 10; steps <= 1000000; steps *= 10) {
        struct job_pace q = {0};
        uint64_t told = 0;
        for (uint64_t s = 1; s <= steps; s++) told += job_pace_due(&q, s, steps, false, (int64_t)(1000 + s * 10));
        assert_true(told <= 1002 + steps * 10 / 5000 && told >= 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_follows), cmocka_unit_test(test_any_order), cmocka_unit_test(test_deal_and_order), cmocka_unit_test(test_wishes),
                                       cmocka_unit_test(test_checks), cmocka_unit_test(test_poison), cmocka_unit_test(test_pace)};
    return cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
}
