/* What tests of model files share: a file that loads is loaded without memory, and with its bytes changed. */
#ifndef TESTS_UNIT_SUPPORT_MODEL_FILE_H
#define TESTS_UNIT_SUPPORT_MODEL_FILE_H

#include "tests/unit/support/check.h"

#include "base/file.h"
#include "base/random.h"
#include "model/model_dir.h"

/* Each allocation fails in turn: E_NOMEM with a word, until none is left to fail. */
static inline void load_without_memory(const char *path) {
    for (uint64_t n = 1;; n++) {
        struct model_dir m = {0};
        struct error err = {0};
        alloc_fail_at(n);
        int r = model_dir_load(&m, path, MODEL_WEIGHTS_MAP, 0, &err);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        model_dir_fini(&m);
        if (asked < n) {
            assert_int_equal(r, 0);
            return;
        }
        CHECK(r == E_NOMEM && err.code == E_NOMEM, "allocation %llu: %d %s", (unsigned long long)n, r, err.message);
    }
}

/* Up to three of the first head_bytes bytes of the file change, `changes` times: it is refused with a word, or a model whose every value can be read. Returns how many
 * load. The last one stays in its place. */
static inline size_t load_changed(const char *path, size_t head_bytes, int changes, uint64_t seed) {
    struct buf file;
    struct random random;
    size_t loaded = 0;
    buf_init(&file, 1 << 20);
    assert_int_equal(file_read(path, &file, NULL), 0);
    random_seed(&random, seed);
    for (int i = 0; i < changes; i++) {
        struct model_dir m = {0};
        struct error err = {0};
        char *bytes = span_dup(buf_span(&file));
        assert_non_null(bytes);
        for (uint64_t n = random_below(&random, 3) + 1; n; n--) bytes[random_below(&random, head_bytes)] = (char)random_u64(&random);
        assert_int_equal(file_write(path, span_of(bytes, file.len), 0644, NULL), 0);
        int r = model_dir_load(&m, path, i % 2 ? MODEL_WEIGHTS_FLAT : MODEL_WEIGHTS_MAP, 0, &err);
        if (r) assert_true(err.message[0]);
        loaded += r == 0;
        for (size_t p = 0; !r && p < m.weights.param_count; p++) {
            float *x = mem_calloc(model_param_size(&m.weights.params[p]), sizeof *x);
            assert_non_null(x);
            model_view_to_f32(&m.weights.views[p], x);
            mem_free(x);
        }
        model_dir_fini(&m);
        mem_free(bytes);
    }
    buf_fini(&file);
    return loaded;
}

#endif
