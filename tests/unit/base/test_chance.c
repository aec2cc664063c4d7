#include "test.h"

#include <math.h>

#include "base/clock.h"
#include "base/random.h"
#include "base/sha256.h"

static void sha256_vectors(void **state) {
    (void)state;
    static const struct {
        const char *text, *digest;
    } cases[] = {
        /* FIPS 180-4's examples, and the lengths around a block's border */
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
        {"The quick brown fox jumps over the lazy dog", "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"},
    };
    char hex[SHA256_HEX_MAX];
    for (size_t i = 0; i < COUNT(cases); i++) assert_string_equal(sha256_hex(span_str(cases[i].text), hex), cases[i].digest);
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    char thousand[1000];
    memset(thousand, 'a', sizeof thousand);
    sha256_init(&h);
    for (int i = 0; i < 1000; i++) sha256_update(&h, thousand, sizeof thousand);
    sha256_final(&h, digest);
    hex_encode(digest, sizeof digest, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void sha256_pieces(void **state) {
    (void)state;
    char text[300];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * 7);
    for (size_t len = 0; len <= sizeof text; len++) {
        uint8_t whole[SHA256_SIZE], parts[SHA256_SIZE];
        sha256_of(span_of(text, len), whole);
        struct sha256 h;
        sha256_init(&h);
        for (size_t i = 0; i < len;) {
            size_t n = 1 + (i * 31 + len) % 70;
            if (n > len - i) n = len - i;
            sha256_update(&h, text + i, n);
            i += n;
        }
        sha256_final(&h, parts);
        CHECK(memcmp(whole, parts, sizeof whole) == 0, "length %zu", len);
    }
}

static void times(void **state) {
    (void)state;
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"}, {-1, "1969-12-31T23:59:59.999Z"}, {1709210096789, "2024-02-29T12:34:56.789Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999Z"}, {INT64_MIN, "0000-01-01T00:00:00.000Z"},
    };
    char text[TIME_TEXT_MAX];
    for (size_t i = 0; i < COUNT(cases); i++) assert_string_equal(time_format(cases[i].ms, text), cases[i].text);
    clock_freeze(1000, 50);
    assert_true(clock_wall_ms() == 1000 && clock_mono_ms() == 50 && clock_mono_us() == 50000);
    clock_thaw();
    int64_t before = clock_mono_us();
    assert_true(clock_mono_us() >= before && clock_wall_ms() > 1700000000000);
}

/* RFC 3339, and what only looks like it; what time_format writes is read back to the same. */
static void times_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t ms; /* where it is one */
        int code;
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0, 0}, {"1969-12-31T23:59:59.999Z", -1, 0}, {"2026-11-24T04:01:21Z", 1795492881000, 0}, {"2026-11-24t04:01:21.5z", 1795492881500, 0},
        {"2026-11-24 04:01:21.1239999999999999Z", 1795492881123, 0}, {"2026-11-24T06:01:21+02:00", 1795492881000, 0}, {"2026-11-23T22:31:21-05:30", 1795492881000, 0},
        {"2016-12-31T23:59:60Z", 1483228800000, 0}, {"2024-02-29T00:00:00Z", 1709164800000, 0}, {"2000-02-29T00:00:00Z", 951782400000, 0}, {"0000-03-01T00:00:00Z", -62162035200000, 0},
        {"", 0, E_INVALID}, {"2026-11-24", 0, E_INVALID}, {"2026-11-24T04:01:21", 0, E_INVALID}, {"2026-11-24T04:01Z", 0, E_INVALID}, {"2026-11-24T04:01:21.Z", 0, E_INVALID}, {"2026-11-24T04:01:21Zx", 0, E_INVALID},
        {"2023-02-29T00:00:00Z", 0, E_INVALID}, {"1900-02-29T00:00:00Z", 0, E_INVALID}, {"2026-02-30T00:00:00Z", 0, E_INVALID}, {"2026-04-31T00:00:00Z", 0, E_INVALID}, {"2026-13-01T00:00:00Z", 0, E_INVALID},
        {"2026-00-01T00:00:00Z", 0, E_INVALID}, {"2026-01-00T00:00:00Z", 0, E_INVALID}, {"2026-01-01T24:00:00Z", 0, E_INVALID}, {"2026-01-01T00:60:00Z", 0, E_INVALID}, {"2026-01-01T00:00:61Z", 0, E_INVALID},
        {"2026-01-01T00:00:00+24:00", 0, E_INVALID}, {"2026-01-01T00:00:00+02:60", 0, E_INVALID}, {"2026-01-01T00:00:00+0200", 0, E_INVALID}, {"2026-01-01T00:00:00+02:0", 0, E_INVALID},
        {"+026-01-01T00:00:00Z", 0, E_INVALID}, {"2026-1-1T00:00:00Z", 0, E_INVALID}, {"2026/01/01T00:00:00Z", 0, E_INVALID}, {" 2026-01-01T00:00:00Z", 0, E_INVALID},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t ms = 77;
        int r = time_parse(span_str(cases[i].text), &ms);
        CHECK(r == cases[i].code && ms == (r == 0 ? cases[i].ms : 77), "%s: %d, %lld", cases[i].text, r, (long long)ms);
    }
    struct random random;
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    random_seed(&random, seed);
    for (int i = 0; i < 100000; i++) {
        char text[TIME_TEXT_MAX];
        int64_t ms = (int64_t)random_below(&random, 253402300800000 + 62167219200000) - 62167219200000, back = 0;
        CHECK(time_parse(span_str(time_format(ms, text)), &back) == 0 && back == ms, "%s: %lld, %lld", text, (long long)ms, (long long)back);
    }
}

static void ids(void **state) {
    (void)state;
    char last[ID_TEXT_MAX] = "", id[ID_TEXT_MAX];
    for (int i = 0; i < 20000; i++) {
        if (i == 10000) clock_freeze(1, 1); /* the clock steps back: the order holds */
        id_make(id);
        CHECK(strcmp(last, id) < 0, "%s then %s", last, id);
        assert_true(strlen(id) == 36 && id[14] == '7' && strchr("89ab", id[19]) && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-');
        memcpy(last, id, sizeof id);
    }
    clock_thaw();
}

static void generator(void **state) {
    (void)state;
    /* xoshiro256++ of the state 1, 2, 3, 4: the first outputs of its authors' C code */
    struct random r = {{1, 2, 3, 4}};
    static const uint64_t expected[] = {41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205u};
    for (size_t i = 0; i < COUNT(expected); i++) CHECK(random_u64(&r) == expected[i], "output %zu", i);
    struct random a, b;
    random_seed2(&a, 1, 2);
    random_seed2(&b, 2, 1);
    assert_true(random_u64(&a) != random_u64(&b));
    random_seed(&a, 5);
    int counts[7] = {0};
    for (int i = 0; i < 70000; i++) counts[random_below(&a, 7)]++;
    for (int i = 0; i < 7; i++) CHECK(counts[i] > 9500 && counts[i] < 10500, "%d: %d", i, counts[i]);
    double sum = 0, squares = 0;
    for (int i = 0; i < 100000; i++) {
        double v = random_normal(&a), u = random_f64(&a);
        assert_true(u >= 0 && u < 1 && isfinite(v));
        sum += v;
        squares += v * v;
    }
    CHECK(fabs(sum / 1e5) < 0.02 && fabs(squares / 1e5 - 1) < 0.03, "mean %g, variance %g", sum / 1e5, squares / 1e5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sha256_vectors), cmocka_unit_test(sha256_pieces), cmocka_unit_test(times), cmocka_unit_test(times_read), cmocka_unit_test(ids), cmocka_unit_test(generator)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
