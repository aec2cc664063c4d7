#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "registry/merkle.h"

/* The reference inputs and roots of the Certificate Transparency project. */
static const char *const LEAVES[] = {"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"};
static const char *const ROOTS[] = {
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
};

static void known_roots(void **state) {
    (void)state;
    struct merkle t;
    char hex[SHA256_HEX_MAX];
    uint8_t root[SHA256_SIZE], leaf[SHA256_SIZE], bytes[16];
    merkle_init(&t);
    for (size_t i = 0; i <= 8; i++) {
        assert_int_equal(merkle_root(&t, i, root), 0);
        hex_encode(root, sizeof root, hex);
        assert_string_equal(hex, ROOTS[i]);
        if (i == 8) break;
        assert_int_equal(hex_decode(span_str(LEAVES[i]), bytes), 0);
        merkle_leaf_hash(span_of(bytes, strlen(LEAVES[i]) / 2), leaf);
        merkle_root_with(&t, leaf, root);
        hex_encode(root, sizeof root, hex);
        assert_string_equal(hex, ROOTS[i + 1]);
        assert_int_equal(merkle_append(&t, leaf), 0);
    }
    assert_int_equal(merkle_root(&t, 9, root), E_RANGE);
    merkle_fini(&t);
}

/* The definition of section 2.1, for a tree this small by recursion. */
static void naive_root(uint8_t (*leaves)[SHA256_SIZE], size_t n, uint8_t out[SHA256_SIZE]) {
    if (n == 0) {
        sha256_of(SPAN(""), out);
        return;
    }
    if (n == 1) {
        memcpy(out, leaves[0], SHA256_SIZE);
        return;
    }
    size_t k = 1;
    while (2 * k < n) k *= 2;
    uint8_t left[SHA256_SIZE], right[SHA256_SIZE];
    naive_root(leaves, k, left);
    naive_root(leaves + k, n - k, right);
    merkle_node_hash(left, right, out);
}

enum { MANY = 70 };
static void proofs_hold_and_nothing_else_does(void **state) {
    (void)state;
    struct merkle t;
    static uint8_t leaves[MANY][SHA256_SIZE], roots[MANY + 1][SHA256_SIZE];
    uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], root[SHA256_SIZE];
    struct random random;
    size_t n;
    random_seed(&random, 20261124);
    merkle_init(&t);
    for (size_t i = 0; i < MANY; i++) {
        for (size_t k = 0; k < SHA256_SIZE; k++) leaves[i][k] = (uint8_t)random_u64(&random);
        assert_int_equal(merkle_append(&t, leaves[i]), 0);
    }
    for (size_t size = 0; size <= MANY; size++) {
        naive_root(leaves, size, roots[size]);
        assert_int_equal(merkle_root(&t, size, root), 0);
        assert_memory_equal(root, roots[size], SHA256_SIZE);
    }
    for (size_t size = 1; size <= MANY; size++)
        for (size_t i = 0; i < size; i++) {
            assert_int_equal(merkle_inclusion(&t, i, size, path, &n), 0);
            const uint8_t(*p)[SHA256_SIZE] = (const uint8_t(*)[SHA256_SIZE])path;
            assert_true(merkle_verify_inclusion(leaves[i], i, size, p, n, roots[size]));
            assert_false(merkle_verify_inclusion(leaves[(i + 1) % MANY], i, size, p, n, roots[size]));
            if (size > 1) assert_false(merkle_verify_inclusion(leaves[i], (i + 1) % size, size, p, n, roots[size]));
            assert_false(merkle_verify_inclusion(leaves[i], i, size, p, n, roots[size - 1]));
            if (n) {
                assert_false(merkle_verify_inclusion(leaves[i], i, size, p, n - 1, roots[size]));
                path[random_below(&random, n)][random_below(&random, SHA256_SIZE)] ^= 1;
                assert_false(merkle_verify_inclusion(leaves[i], i, size, p, n, roots[size]));
            }
        }
    for (size_t to = 1; to <= MANY; to++)
        for (size_t from = 1; from <= to; from++) {
            assert_int_equal(merkle_consistency(&t, from, to, path, &n), 0);
            const uint8_t(*p)[SHA256_SIZE] = (const uint8_t(*)[SHA256_SIZE])path;
            assert_true(merkle_verify_consistency(from, roots[from], to, roots[to], p, n));
            assert_false(merkle_verify_consistency(from, roots[from - 1], to, roots[to], p, n));
            assert_false(merkle_verify_consistency(from, roots[from], to, roots[to - 1], p, n));
            if (n) {
                assert_false(merkle_verify_consistency(from, roots[from], to, roots[to], p, n - 1));
                path[random_below(&random, n)][random_below(&random, SHA256_SIZE)] ^= 1;
                assert_false(merkle_verify_consistency(from, roots[from], to, roots[to], p, n));
            }
        }
    assert_int_equal(merkle_inclusion(&t, MANY, MANY, path, &n), E_RANGE);
    assert_int_equal(merkle_inclusion(&t, 0, MANY + 1, path, &n), E_RANGE);
    assert_int_equal(merkle_consistency(&t, 0, MANY, path, &n), E_RANGE);
    assert_int_equal(merkle_consistency(&t, 2, 1, path, &n), E_RANGE);
    merkle_fini(&t);
}

static void an_append_without_memory_changes_nothing(void **state) {
    (void)state;
    uint8_t leaf[SHA256_SIZE] = {1}, before[SHA256_SIZE], after[SHA256_SIZE];
    struct merkle t;
    merkle_init(&t);
    for (int i = 0; i < 40; i++) {
        for (uint64_t fail = 1;; fail++) {
            uint64_t size = merkle_size(&t);
            assert_int_equal(merkle_root(&t, size, before), 0);
            alloc_fail_at(fail);
            int r = merkle_append(&t, leaf);
            alloc_fail_at(0);
            if (r == 0) break;
            assert_int_equal(r, E_NOMEM);
            assert_true(merkle_size(&t) == size);
            assert_int_equal(merkle_root(&t, size, after), 0);
            assert_memory_equal(before, after, SHA256_SIZE);
        }
    }
    merkle_fini(&t);
}

static void audit_records_follow_one_another(void **state) {
    (void)state;
    uint8_t seed[32] = {9}, leaf[SHA256_SIZE], root[SHA256_SIZE], signature[RECORD_SIGNATURE_SIZE];
    struct registry_key key, other;
    struct merkle t;
    struct error err;
    uint64_t epoch = 0;
    registry_key_from_seed(seed, &key);
    seed[0] = 10;
    registry_key_from_seed(seed, &other);
    merkle_init(&t);
    for (uint64_t i = 0; i < 5; i++) {
        Genloop__V1__AuditRecord r = GENLOOP__V1__AUDIT_RECORD__INIT;
        Genloop__V1__AuditRecord__DetailsEntry a = GENLOOP__V1__AUDIT_RECORD__DETAILS_ENTRY__INIT, b = a, *details[] = {&a, &b};
        a.key = (char *)(uintptr_t) "a";
        a.value = (char *)(uintptr_t) "1";
        b.key = (char *)(uintptr_t) "b";
        r.details = details;
        r.n_details = 2;
        r.id = (char *)(uintptr_t) "id";
        r.index = i;
        r.epoch = 3 + i / 2;
        r.event_time_ms = 1000 + (int64_t)i;
        assert_int_equal(audit_leaf(&r, leaf, &err), 0);
        merkle_root_with(&t, leaf, root);
        assert_int_equal(audit_head_sign(&key, i + 1, root, r.event_time_ms, signature, &err), 0);
        r.leaf_hash = (ProtobufCBinaryData){SHA256_SIZE, leaf};
        r.root_hash = (ProtobufCBinaryData){SHA256_SIZE, root};
        r.signature = (ProtobufCBinaryData){RECORD_SIGNATURE_SIZE, signature};
        assert_int_equal(audit_follow(&t, &epoch, other.public_key, &r, &err), E_DENIED);
        r.index = i + 1;
        assert_int_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), E_DATA_LOSS);
        r.index = i;
        a.value = (char *)(uintptr_t) "2"; /* the details are covered */
        assert_int_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), E_DATA_LOSS);
        a.value = (char *)(uintptr_t) "1";
        r.event_time_ms++;
        assert_int_not_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), 0);
        r.event_time_ms--;
        root[0] ^= 1;
        assert_int_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), E_DATA_LOSS);
        root[0] ^= 1;
        details[0] = &b, details[1] = &a;
        assert_int_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), E_INVALID);
        details[0] = &a, details[1] = &b;
        assert_true(merkle_size(&t) == i);
        assert_int_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), 0);
        assert_true(epoch == r.epoch);
        if (i == 4) {
            r.index = 5;
            r.epoch = 4;
            assert_int_equal(audit_follow(&t, &epoch, key.public_key, &r, &err), E_ABORTED);
        }
    }
    merkle_fini(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_roots), cmocka_unit_test(proofs_hold_and_nothing_else_does), cmocka_unit_test(an_append_without_memory_changes_nothing),
        cmocka_unit_test(audit_records_follow_one_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
