/* The check value of RFC 3720, and every length and alignment against the plain form. */
#include "test.h"

#include "base/crc32c.h"
#include "base/random.h"

static void test_values(void **state) {
    (void)state;
    static const uint8_t zeros[32];
    assert_int_equal(crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c_plain("123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c(zeros, sizeof zeros), 0x8a9136aau);
    assert_int_equal(crc32c("", 0), 0);
}

static void test_forms(void **state) {
    (void)state;
    static uint8_t bytes[1000];
    struct random random;
    random_seed(&random, 3);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)random_u64(&random);
    for (size_t from = 0; from < 9; from++)
        for (size_t len = 0; len + from <= sizeof bytes; len += 1 + len / 16) {
            const uint8_t *at = bytes + from;
            assert_int_equal(crc32c(at, len), crc32c_plain(at, len));
            uint8_t sums[16];
            for (size_t i = 0; i < 4; i++) {
                uint32_t sum = crc32c_plain(at + i * (len / 4), i < 3 ? len / 4 : len - 3 * (len / 4));
                for (size_t k = 0; k < 4; k++) sums[4 * i + k] = (uint8_t)(sum >> 8 * k);
            }
            assert_int_equal(crc32c_quarters(at, len), crc32c_plain(sums, sizeof sums));
        }
    uint32_t before = crc32c_quarters(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i += 37) { /* a bit anywhere is seen */
        bytes[i] ^= 4;
        assert_int_not_equal(crc32c_quarters(bytes, sizeof bytes), before);
        bytes[i] ^= 4;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
