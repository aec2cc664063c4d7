/*
 * bench_tokenizer FILE... [--vocab N] [--out FILE]: speed of training a byte-level BPE on the files and of encoding them with it, in MB (10⁶ bytes) per second of this
 * thread's CPU time. The limit printed beside them is one pass over the same bytes (UTF-8 validation), below which no tokenizer can go.
 * --out keeps the trained tokenizer.json, for tests/conformance/test_tokenizer.py.
 * --tokenizer FILE: a published tokenizer.json in place of a trained one, with the time that loading it takes; --ids FILE keeps the ids, one a line (bench/tiktoken.py compares them with its own).
 */
#include <time.h>

#include "base/alloc.h"
#include "base/file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/train.h"

enum { DOCUMENT_BYTES = 16384, CORPUS_MAX = 1 << 30 };

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    struct error err = {0};
    struct buf corpus;
    struct tokenizer_train_options options = {.vocab_size = 4096};
    struct tokenizer_trainer *trainer = NULL;
    struct tokenizer *t = NULL;
    struct tokens ids = {0};
    const char *out_path = NULL, *given = NULL, *ids_path = NULL;
    int r = 0;
    buf_init(&corpus, CORPUS_MAX);
    for (int i = 1; !r && i < argc; i++) {
        uint64_t vocab;
        if (strcmp(argv[i], "--vocab") == 0 && i + 1 < argc) {
            r = span_to_u64(span_str(argv[++i]), &vocab);
            options.vocab_size = (uint32_t)(vocab > TOKENIZER_VOCAB_MAX ? TOKENIZER_VOCAB_MAX : vocab);
            if (r) error_set(&err, r, "--vocab wants a number");
        } else if (strcmp(argv[i], "--out") == 0 && i + 1 < argc) {
            out_path = argv[++i];
        } else if (strcmp(argv[i], "--tokenizer") == 0 && i + 1 < argc) {
            given = argv[++i];
        } else if (strcmp(argv[i], "--ids") == 0 && i + 1 < argc) {
            ids_path = argv[++i];
        } else {
            r = file_read(argv[i], &corpus, &err);
        }
    }
    if (!r && !corpus.len) r = error_set(&err, E_INVALID, "usage: bench_tokenizer FILE... [--vocab N] [--out FILE] [--tokenizer tokenizer.json] [--ids FILE]");
    if (r) goto out;
    struct span text = buf_span(&corpus);
    double mb = (double)text.len * 1e-6, at = cpu_seconds();
    if (!span_is_utf8(text)) {
        r = error_set(&err, E_INVALID, "the files are no UTF-8");
        goto out;
    }
    double scan = cpu_seconds() - at, fed = 0, trained = 0, loaded = 0;
    at = cpu_seconds();
    if (given) {
        r = tokenizer_load(given, &t, &err);
        loaded = cpu_seconds() - at;
    }
    if (r) goto out;
    at = cpu_seconds();
    if (!given) r = tokenizer_trainer_new(&trainer, &options, &err);
    for (size_t from = 0; !r && !given && from < text.len;) { /* as documents, cut at character borders */
        struct span doc = span_sub(text, from, DOCUMENT_BYTES);
        if (from + doc.len < text.len) doc.len = span_utf8_complete(doc);
        r = tokenizer_trainer_feed(trainer, doc, &err);
        from += doc.len;
    }
    fed = cpu_seconds() - at;
    if (!r && !given) r = tokenizer_trainer_finish(trainer, &t, NULL, NULL, &err);
    if (r) goto out;
    trained = cpu_seconds() - at;
    if (out_path) {
        struct buf file;
        buf_init(&file, CORPUS_MAX);
        r = tokenizer_write(t, &file);
        r = r ? error_set(&err, r, "no memory for %s", out_path) : file_write(out_path, buf_span(&file), 0644, &err);
        buf_fini(&file);
        if (r) goto out;
    }
    double encoded = 0;
    for (int k = 0; k < 3; k++) { /* the best of three: others compute beside it */
        tokens_clear(&ids);
        at = cpu_seconds();
        r = tokenizer_encode(t, text, given ? TOKENIZER_NO_SPECIALS : 0, &ids, &err); /* as tiktoken's encode_ordinary */
        double took = cpu_seconds() - at;
        if (r) goto out;
        if (k == 0 || took < encoded) encoded = took;
    }
    if (ids_path) {
        struct buf file;
        buf_init(&file, CORPUS_MAX);
        for (size_t i = 0; i < ids.len; i++) buf_printf(&file, "%u\n", ids.ids[i]);
        r = file.failed ? error_set(&err, file.failed, "no memory for %s", ids_path) : file_write(ids_path, buf_span(&file), 0644, &err);
        buf_fini(&file);
        if (r) goto out;
    }
    printf("corpus          %8.2f MB, %zu tokens of a vocabulary of %u, %.3f bytes a token\n", mb, ids.len, tokenizer_vocab_size(t), (double)text.len / (double)ids.len);
    if (given) printf("loading         %8.2f s\n", loaded);
    else printf("training        %8.1f MB/s (counting words %.2f s, merging %.2f s)\n", mb / trained, fed, trained - fed);
    printf("encoding        %8.1f MB/s, one thread\n", mb / encoded);
    printf("limit: one pass %8.1f MB/s\n", mb / scan);
out:
    if (r) fprintf(stderr, "bench_tokenizer: %s\n", err.message);
    tokens_fini(&ids);
    tokenizer_free(t);
    tokenizer_trainer_free(trainer);
    buf_fini(&corpus);
    return r ? 1 : 0;
}
