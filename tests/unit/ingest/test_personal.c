/* Personal data: what is one and what looks like one; and that hostile text costs no more than other text. */
#include "tests/unit/support/check.h"

#include "services/ingest/personal.h"

static void test_kinds(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        /* e-mail */
        {"write to ann.b+c@mail.acme.co.uk.", "write to <EMAIL>."},
        {"mailto:ann@acme.de", "mailto:<EMAIL>"}, {"<ann@acme.de>", "<<EMAIL>>"}, {"a@b.c", "a@b.c"}, {"ann@acme", "ann@acme"}, {"@acme.de", "@acme.de"}, {"ann@@acme.de", "ann@@acme.de"},
        {"ann@example.com", "ann@example.com"}, {"x@sub.example.org", "x@sub.example.org"}, {"getty@tty1.service", "getty@tty1.service"}, {"git@github.com:a/b", "git@github.com:a/b"},
        {"ann@acme.de,bob@acme.de", "<EMAIL>,<EMAIL>"}, {"ann@1.2", "ann@1.2"}, {"user@host.c0m", "user@host.c0m"}, {"a@", "a@"}, {"@", "@"}, {"a.@b.com", "a.@b.com"},
        /* addresses */
        {"from 93.184.216.34 on", "from <IP> on"}, {"127.0.0.1 10.1.2.3 192.168.1.1 172.20.0.1 169.254.1.1", "127.0.0.1 10.1.2.3 192.168.1.1 172.20.0.1 169.254.1.1"},
        {"version 12.4.5.61", "version <IP>"}, {"1.2.3.4", "1.2.3.4"}, {"256.1.1.1", "256.1.1.1"}, {"93.184.216.34.5", "93.184.216.34.5"}, {"93.184.216.034", "93.184.216.034"}, {"v93.184.216.34", "v93.184.216.34"},
        {"192.0.2.1 198.51.100.7 203.0.113.9", "192.0.2.1 198.51.100.7 203.0.113.9"}, {"at 2a00:1450:4001:80b::200e now", "at <IP> now"}, {"2001:db8::1 ::1 fe80::1", "2001:db8::1 ::1 fe80::1"},
        {"a:b 12:34:56", "a:b 12:34:56"}, {"2a00:1450:4001:80b:0:0:0:200e", "<IP>"}, {"std::vector::begin1", "std::vector::begin1"},
        /* numbers with checksums */
        {"card 4111 1111 1111 1111.", "card <CARD>."}, {"4111-1111-1111-1112", "4111-1111-1111-1112"}, {"4111111111111111", "<CARD>"}, {"378282246310005", "<CARD>"}, {"3782 822463 10005", "<CARD>"},
        {"41111111111111110", "41111111111111110"}, {"x4111111111111111", "x4111111111111111"}, {"4111 11111111 1111", "4111 11111111 1111"}, {"0000 0000 0000 0000", "0000 0000 0000 0000"},
        {"DE89 3704 0044 0532 0130 00", "<IBAN>"}, {"DE89370400440532013000!", "<IBAN>!"}, {"DE88370400440532013000", "DE88370400440532013000"}, {"XX89370400440532013000", "XX89370400440532013000"},
        {"GB82 WEST 1234 5698 7654 32", "<IBAN>"}, {"ADE89370400440532013000", "ADE89370400440532013000"},
        /* US social security, phones */
        {"078-05-1120", "<SSN>"}, {"000-05-1120", "000-05-1120"}, {"666-05-1120", "666-05-1120"}, {"078-00-1120", "078-00-1120"}, {"078-05-11201", "078-05-11201"}, {"1078-05-1120", "1078-05-1120"},
        {"call +49 89 1234567 today", "call <PHONE> today"}, {"+1 (415) 555-2671", "<PHONE>"}, {"+12025550123", "<PHONE>"}, {"+1234567", "+1234567"}, {"a+49891234567", "a+49891234567"}, {"(415) 555-2671", "<PHONE>"},
        {"(415) 555-26712", "(415) 555-26712"}, {"415-555-2671", "<PHONE>"}, {"115-555-2671", "115-555-2671"}, {"2026-11-24", "2026-11-24"}, {"+", "+"}, {"(", "("}, {"(4", "(4"},
        {"", ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        uint64_t counts[PERSONAL_COUNT] = {0}, n = 0;
        buf_init(&out, 4096);
        personal_redact(span_str(cases[i][0]), &out, counts);
        CHECK(span_eq_str(buf_span(&out), cases[i][1]), "%s: %.*s", cases[i][0], SPAN_ARG(buf_span(&out)));
        for (int k = 0; k < PERSONAL_COUNT; k++) {
            struct span rest = buf_span(&out);
            for (ptrdiff_t at; (at = span_find(rest, span_str(personal_word((enum personal)k)))) >= 0; rest = span_skip(rest, (size_t)at + 1)) n++;
            CHECK(counts[k] == n, "%s: %llu of %s", cases[i][0], (unsigned long long)counts[k], personal_word((enum personal)k));
            n = 0;
        }
        buf_fini(&out);
    }
}

/* Text made of triggers, each as unlucky as can be: eight times as much must not cost more than eight times as long, with room for a busy machine. */
static void test_linear(void **state) {
    (void)state;
    static const char *const units[] = {"@", "a@", "@a.", "a.a@a.a", "+1 ", "+", "(", "(2", "1.", "1 ", "1-", "1", "DE1", "DE89 ", "a:", ":", "::", "a::", "4111 ", "aaaaaaaaaaaaaaaa@a-", "@a.b-", "1.1.1.1.", "f:f:f:f:f:f:f:", "0:"};
    enum { SMALL = 1 << 15, TIMES = 8 };
    for (size_t i = 0; i < COUNT(units); i++) {
        int64_t took[2] = {INT64_MAX, INT64_MAX};
        for (int large = 0; large < 2; large++) {
            struct buf in, out;
            buf_init(&in, SMALL * TIMES + 64);
            buf_init(&out, SMALL * TIMES * 8);
            while (in.len < (size_t)(large ? SMALL * TIMES : SMALL)) buf_append_str(&in, units[i]);
            for (int round = 0; round < 3; round++) { /* the best of three */
                uint64_t counts[PERSONAL_COUNT] = {0};
                buf_clear(&out);
                int64_t before = thread_cpu_us();
                personal_redact(buf_span(&in), &out, counts);
                int64_t us = thread_cpu_us() - before;
                if (us < took[large]) took[large] = us;
            }
            buf_fini(&in);
            buf_fini(&out);
        }
        CHECK(took[1] < took[0] * TIMES * 4 + 20000, "\"%s\": %lld us, and %lld us for %d times as much", units[i], (long long)took[0], (long long)took[1], TIMES);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds), cmocka_unit_test(test_linear)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
