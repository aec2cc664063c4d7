#include "train/checkpoint.h"

#include <math.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "model/safetensors.h"

#define PREFIX "checkpoint-"
#define SUFFIX ".safetensors"
enum { PATH_SIZE = 4096, STEPS_MAX = 4096 };
static const char version[] = "1";

static int path_of(char out[PATH_SIZE], const char *dir, uint64_t step, struct error *err) {
    int n = snprintf(out, PATH_SIZE, "%s/" PREFIX "%012llu" SUFFIX, dir, (unsigned long long)step);
    return n > 0 && n < PATH_SIZE ? 0 : error_set(err, E_TOO_LARGE, "path too long: %s", dir);
}

static void digest_of(const struct checkpoint *c, char hex[SHA256_HEX_MAX]) {
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    sha256_init(&h);
    sha256_update(&h, c->weights, c->flat_len * sizeof(float));
    sha256_update(&h, c->m, c->flat_len * sizeof(float));
    sha256_update(&h, c->v, c->flat_len * sizeof(float));
    sha256_final(&h, digest);
    hex_encode(digest, sizeof digest, hex);
}

/* The steps that have a file, in descending order. */
struct found {
    uint64_t steps[STEPS_MAX];
    size_t count;
};
static int on_entry(void *arg, const char *name) {
    struct found *f = arg;
    struct span s = span_str(name);
    uint64_t step;
    if (!span_starts(s, SPAN(PREFIX)) || !span_ends(s, SPAN(SUFFIX)) || f->count == STEPS_MAX) return 0;
    s = span_sub(s, sizeof PREFIX - 1, s.len - (sizeof PREFIX - 1) - (sizeof SUFFIX - 1));
    if (span_to_u64(s, &step)) return 0;
    size_t at = f->count++;
    for (; at > 0 && f->steps[at - 1] < step; at--) f->steps[at] = f->steps[at - 1];
    f->steps[at] = step;
    return 0;
}

int checkpoint_write(const char *work_dir, const struct checkpoint *c, uint32_t keep, struct error *err) {
    char path[PATH_SIZE], text[64], hex[SHA256_HEX_MAX];
    struct safetensors_writer *w = NULL;
    struct found *found = NULL;
    int r = path_of(path, work_dir, c->step, err);
    if (!r) r = safetensors_writer_new(&w, path, err);
    if (!r) r = safetensors_writer_metadata(w, "genloop_checkpoint", version, err);
    if (!r) r = safetensors_writer_metadata(w, "run", c->run, err);
    snprintf(text, sizeof text, "%llu", (unsigned long long)c->step);
    if (!r) r = safetensors_writer_metadata(w, "step", text, err);
    snprintf(text, sizeof text, "%llu", (unsigned long long)c->tokens);
    if (!r) r = safetensors_writer_metadata(w, "tokens", text, err);
    snprintf(text, sizeof text, "%.17g", c->loss);
    if (!r) r = safetensors_writer_metadata(w, "loss", text, err);
    digest_of(c, hex);
    if (!r) r = safetensors_writer_metadata(w, "sha256", hex, err);
    const uint64_t shape[1] = {c->flat_len};
    const struct {
        const char *name;
        const float *data;
    } tensors[] = {{"weights", c->weights}, {"m", c->m}, {"v", c->v}};
    for (size_t i = 0; !r && i < 3; i++) r = safetensors_writer_add(w, span_str(tensors[i].name), DTYPE_F32, shape, 1, err);
    for (size_t i = 0; !r && i < 3; i++) r = safetensors_writer_write(w, tensors[i].data, c->flat_len * sizeof(float), err);
    if (!r) r = safetensors_writer_commit(w, err);
    safetensors_writer_free(w);
    if (r) return r;

    found = mem_zalloc(sizeof *found);
    if (!found) return error_set(err, E_NOMEM, "no memory");
    r = dir_list(work_dir, found, on_entry, err);
    for (size_t i = keep; !r && i < found->count; i++) {
        if (path_of(path, work_dir, found->steps[i], err)) continue;
        (void)unlink(path); /* it costs space only; the next checkpoint tries again */
    }
    mem_free(found);
    return r;
}

static int read_u64(const struct safetensors *file, const char *key, uint64_t *out) {
    struct span s;
    return safetensors_metadata(file, key, &s) ? span_to_u64(s, out) : E_INVALID;
}

static int read_one(const char *path, struct checkpoint *c, struct error *err) {
    struct safetensors *file = NULL;
    struct span s;
    char hex[SHA256_HEX_MAX];
    int r = safetensors_open(&file, path, err);
    if (r) return r;
    r = E_DATA_LOSS;
    if (!safetensors_metadata(file, "genloop_checkpoint", &s)) {
        error_set(err, r, "%s is no checkpoint", path);
        goto out;
    }
    if (!span_eq_str(s, version)) {
        r = error_set(err, E_UNSUPPORTED, "%s has format version %.*s, this program reads %s", path, SPAN_ARG(s), version);
        goto out;
    }
    if (!safetensors_metadata(file, "run", &s) || !span_eq_str(s, c->run)) {
        r = error_set(err, E_STATE, "%s belongs to another recipe, data set or base model: take another directory, or remove it to start anew", path);
        goto out;
    }
    uint64_t step, tokens;
    double loss = 0;
    if (read_u64(file, "step", &step) || read_u64(file, "tokens", &tokens)) {
        error_set(err, r, "%s lacks its step", path);
        goto out;
    }
    if (!safetensors_metadata(file, "loss", &s) || span_to_f64(s, &loss)) loss = (double)NAN;
    float *const to[] = {c->weights, c->m, c->v};
    static const char *const names[] = {"weights", "m", "v"};
    for (size_t i = 0; i < 3; i++) {
        const struct safetensors_view *v = safetensors_find(file, span_str(names[i]));
        if (!v || v->dtype != DTYPE_F32 || v->count != c->flat_len) {
            error_set(err, r, "%s: %s is missing or of another size", path, names[i]);
            goto out;
        }
        memcpy(to[i], v->data, c->flat_len * sizeof(float));
    }
    digest_of(c, hex);
    if (!safetensors_metadata(file, "sha256", &s) || !span_eq_str(s, hex)) {
        error_set(err, r, "%s does not match its digest", path);
        goto out;
    }
    c->step = step;
    c->tokens = tokens;
    c->loss = loss;
    r = 0;
out:
    safetensors_close(file);
    return r;
}

int checkpoint_read(const char *work_dir, struct checkpoint *c, uint32_t *damaged, struct error *err) {
    char path[PATH_SIZE];
    struct found *found = mem_zalloc(sizeof *found);
    if (!found) return error_set(err, E_NOMEM, "no memory");
    if (damaged) *damaged = 0;
    int r = file_exists(work_dir) ? dir_list(work_dir, found, on_entry, err) : 0;
    if (r) goto out;
    r = error_set(err, E_NOT_FOUND, "%s has no checkpoint", work_dir);
    for (size_t i = 0; i < found->count; i++) {
        if ((r = path_of(path, work_dir, found->steps[i], err))) break;
        r = read_one(path, c, err);
        if (r == 0 || r == E_STATE || r == E_UNSUPPORTED || r == E_NOMEM) break;
        if (damaged) (*damaged)++;
        r = error_set(err, E_NOT_FOUND, "%s has no checkpoint that is whole", work_dir);
    }
    if (r == 0 && err) *err = (struct error){0};
out:
    mem_free(found);
    return r;
}
