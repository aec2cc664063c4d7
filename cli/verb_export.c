/*
 * export: a model of the platform as files here. Its directory comes through the gateway, each file held to the digest that the registry's record names, beside the place where it is to lie; there it is
 * put into another format where one is asked for, and only then it gets its name: whole, or not at all. A directory or a GGUF file of this machine goes the same way without a platform.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "base/sha256.h"
#include "engine/encoder_settings.h"
#include "genloop/v1/services.pb-c.h"
#include "model/gguf_export.h"
#include "model/quantize.h"
#include "remote.h"
#include "wire/protojson.h"

enum { PATH_SIZE = 4096, MANIFEST_MAX = 64 << 20 };
enum format { AS_IT_IS, SAFETENSORS, GGUF };

struct export {
    struct remote x;
    char target[PATH_SIZE], pulled[PATH_SIZE], made[PATH_SIZE], parent[PATH_SIZE]; /* made: what gets the name */
    char version[256];
    struct progress bar;
    uint64_t done;
};

/* ---- from the platform ---- */

/* The next piece of a file of the version ("": the list of its files); *reply is owned. */
static int ask_piece(struct export *e, const char *model, const char *path, uint64_t offset, Genloop__V1__ReadModelFileReply **reply) {
    char number[32];
    remote_path(&e->x, "/v1/admin/models/");
    remote_add(&e->x, "", model);
    (void)buf_append_str(&e->x.path, "/files");
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)offset);
    remote_query(&e->x, "offset", number);
    if (path[0]) remote_query(&e->x, "path", path);
    int r = remote_get(&e->x);
    if (r == 0) r = protojson_read(e->x.answer, &genloop__v1__read_model_file_reply__descriptor, (ProtobufCMessage **)(void *)reply, &e->x.err);
    return r;
}

static int not_it(struct export *e, const char *path) { return error_set(&e->x.err, E_DATA_LOSS, "%s of %s is not what the registry names: its digest differs", path[0] ? path : "the list of files", e->version); }

struct sink {
    int fd; /* -1: into text */
    struct buf *text;
};
static int put(struct export *e, const struct sink *s, const uint8_t *data, size_t n) {
    if (s->fd < 0) return buf_append(s->text, data, n) ? error_set(&e->x.err, E_TOO_LARGE, "the list of files has more than %d MiB", MANIFEST_MAX >> 20) : 0;
    for (size_t at = 0; at < n;) {
        ssize_t w = write(s->fd, data + at, n - at);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return error_errno(&e->x.err, errno, "%s", e->pulled);
        at += (size_t)w;
    }
    return 0;
}

/* A whole file, by its digest. sha256: "" takes what the answer says, and keeps it there. */
static int pull(struct export *e, const char *path, char sha256[SHA256_HEX_MAX], const struct sink *sink) {
    uint64_t offset = 0, size = UINT64_MAX;
    struct sha256 hash;
    uint8_t raw[SHA256_SIZE];
    char hex[SHA256_HEX_MAX];
    int r = 0;
    sha256_init(&hash);
    while (r == 0 && offset < size) {
        Genloop__V1__ReadModelFileReply *m = NULL;
        r = ask_piece(e, e->version, path, offset, &m);
        if (r != 0) break;
        if (!m->content || (size != UINT64_MAX && m->content->size_bytes != size) || (m->data.len == 0 && offset < m->content->size_bytes) || m->data.len > m->content->size_bytes - offset)
            r = error_set(&e->x.err, E_UNKNOWN, "the platform answers with what is no piece of %s", path);
        if (r == 0) {
            size = m->content->size_bytes;
            if (!sha256[0]) span_copy(sha256, SHA256_HEX_MAX, span_str(m->content->sha256));
            sha256_update(&hash, m->data.data, m->data.len);
            offset += m->data.len;
            e->done += m->data.len;
            r = put(e, sink, m->data.data, m->data.len);
            progress_set(&e->bar, e->done, path[0] ? path : NULL);
        }
        protojson_free(&m->base);
    }
    sha256_final(&hash, raw);
    hex_encode(raw, sizeof raw, hex);
    return r ? r : strcmp(hex, sha256) != 0 ? not_it(e, path) : 0;
}

/* A path that a manifest may have: no way out of the folder. */
static bool inside(struct span path) {
    struct span rest = path, part;
    if (!path.len || path.len > 512 || path.data[path.len - 1] == '/' || memchr(path.data, 0, path.len)) return false;
    while (span_cut(&rest, '/', &part))
        if (!part.len || part.data[0] == '.') return false;
    return true;
}

static int pull_file(struct export *e, struct span name, const struct json *ref) {
    char path[2 * PATH_SIZE], sha256[SHA256_HEX_MAX], file[600];
    struct span digest = json_string(json_get(ref, "sha256"));
    if (!inside(name) || digest.len != SHA256_HEX_MAX - 1) return error_set(&e->x.err, E_DATA_LOSS, "%s has a file that no model has: %.*s", e->version, SPAN_ARG(span_sub(name, 0, 100)));
    span_copy(sha256, sizeof sha256, digest);
    span_copy(file, sizeof file, name);
    (void)snprintf(path, sizeof path, "%s/%s", e->pulled, file);
    char *slash = strrchr(path, '/');
    *slash = 0;
    int r = dir_make(path, &e->x.err);
    *slash = '/';
    struct sink sink = {.fd = r ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
    if (r == 0 && sink.fd < 0) return error_errno(&e->x.err, errno, "%s", path);
    if (r == 0) r = pull(e, file, sha256, &sink);
    if (r == 0 && fsync(sink.fd) != 0) r = error_errno(&e->x.err, errno, "%s", path);
    if (sink.fd >= 0 && close(sink.fd) != 0 && r == 0) r = error_errno(&e->x.err, errno, "%s", path);
    return r;
}

static int pull_all(struct export *e, const char *model) {
    Genloop__V1__ReadModelFileReply *first = NULL;
    struct buf text;
    struct json *manifest = NULL;
    char sha256[SHA256_HEX_MAX] = "";
    const struct json *ref;
    struct span name;
    uint64_t total = 0;
    void *it = NULL;
    buf_init(&text, MANIFEST_MAX);
    /* which version the name means is asked once: all that follows is of that one */
    int r = ask_piece(e, model, "", 0, &first);
    if (r == 0 && (!first->version || !first->version->directory)) r = error_set(&e->x.err, E_UNKNOWN, "the platform does not say which version %s is", model);
    if (r == 0) {
        (void)snprintf(e->version, sizeof e->version, "%.200s@%u", first->version->name, first->version->version);
        span_copy(sha256, sizeof sha256, span_str(first->version->directory->sha256));
    }
    if (first) protojson_free(&first->base);
    if (r == 0) r = pull(e, "", sha256, &(struct sink){.fd = -1, .text = &text});
    if (r == 0) r = json_parse(buf_span(&text), &manifest, &e->x.err);
    while (r == 0 && json_next(json_get(manifest, "files"), &it, &name, &ref)) total += (uint64_t)json_int(json_get(ref, "size"), 0);
    it = NULL;
    e->done = 0;
    progress_begin(&e->bar, "pulled", total, "B");
    while (r == 0 && json_next(json_get(manifest, "files"), &it, &name, &ref)) r = pull_file(e, name, ref);
    progress_end(&e->bar, r == 0);
    json_free(manifest);
    buf_fini(&text);
    return r;
}

/* ---- formats ---- */

static int copy_plain(struct export *e, const char *from, const char *name) {
    char a[2 * PATH_SIZE], b[2 * PATH_SIZE];
    struct buf text;
    (void)snprintf(a, sizeof a, "%s/%s", from, name);
    (void)snprintf(b, sizeof b, "%s/%s", e->made, name);
    if (!file_exists(a)) return 0;
    buf_init(&text, 256 << 20);
    int r = file_read(a, &text, &e->x.err);
    if (r == 0) r = file_write_durable(b, buf_span(&text), 0644, &e->x.err);
    buf_fini(&text);
    return r;
}

static int to_gguf(struct export *e, const char *from, const char *name) {
    char path[PATH_SIZE + 32];
    struct model_dir m = {0};
    int r = dir_make(e->made, &e->x.err);
    if (r == 0) r = model_dir_load(&m, from, MODEL_WEIGHTS_MAP, 0, &e->x.err);
    if (r == 0 && m.config.arch->kind == MODEL_ENCODER) { /* how its vectors are used lies beside it, and a file has no beside */
        struct encoder_settings settings = {.labels = NULL};
        r = encoder_settings_load(&settings, from, &m, &e->x.err);
        if (r == 0) r = encoder_settings_tell(&settings, &m, &e->x.err);
        encoder_settings_fini(&settings);
    }
    (void)snprintf(path, sizeof path, "%s/model.gguf", e->made);
    if (r == 0) r = model_write_gguf(&m, name, path, &e->x.err);
    model_dir_fini(&m);
    if (r == 0) r = copy_plain(e, from, "README.md");
    if (r == 0) r = copy_plain(e, from, "LICENSE");
    return r;
}

/* What is stored in a float type keeps it; blocks become F32, which holds each value. */
static int to_safetensors(struct export *e, const char *from) {
    struct model_dir m = {0};
    struct buf card;
    char path[PATH_SIZE + 32];
    buf_init(&card, 16 << 20);
    (void)snprintf(path, sizeof path, "%s/README.md", from);
    int r = file_exists(path) ? file_read(path, &card, &e->x.err) : 0;
    if (r == 0) r = model_dir_load(&m, from, MODEL_WEIGHTS_MAP, 0, &e->x.err);
    if (r == 0 && m.config.arch->kind == MODEL_ENCODER) r = error_set(&e->x.err, E_UNSUPPORTED, "an encoder is exported as it is: leave --format out");
    enum tensor_type type = r ? TENSOR_F32 : model_weights_view(&m.weights, MODEL_ATTN_Q_W, 0) ? model_weights_view(&m.weights, MODEL_ATTN_Q_W, 0)->type : TENSOR_F32;
    for (size_t i = 0; r == 0 && i < m.weights.param_count; i++)
        if (m.weights.views[i].type != type) type = TENSOR_F32;
    model_dir_fini(&m);
    if (r == 0) r = model_dir_load(&m, from, MODEL_WEIGHTS_FLAT, 0, &e->x.err);
    const struct model_dir_parts parts = {.weights = &m.weights, .dtype = type == TENSOR_F16 ? DTYPE_F16 : type == TENSOR_BF16 ? DTYPE_BF16 : DTYPE_F32, .tokenizer = m.tokenizer,
                                          .chat_template = m.chat_template, .generation = &m.generation, .readme = buf_span(&card)};
    if (r == 0) r = model_dir_write(e->made, &parts, &e->x.err);
    model_dir_fini(&m);
    buf_fini(&card);
    return r ? r : copy_plain(e, from, "LICENSE");
}

static bool has(const char *dir, const char *name) {
    char path[2 * PATH_SIZE];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static int convert(struct export *e, enum format format, const char *from, const char *name, bool local) {
    bool gguf = has(from, "model.gguf"), blocks = has(from, MODEL_WEIGHTS_FILE);
    bool already = format == AS_IT_IS || (format == GGUF && gguf) || (format == SAFETENSORS && !gguf && !blocks && !local);
    if (already && local) return error_set(&e->x.err, E_INVALID, "%s is that already: copy it", from);
    if (already) {
        (void)snprintf(e->made, sizeof e->made, "%s", e->pulled);
        return 0;
    }
    return format == GGUF ? to_gguf(e, from, name) : to_safetensors(e, from);
}

static int run_export(struct cli *c) {
    const char *what = cli_operand(c, 0), *out = cli_text(c, "--out"), *word = cli_text(c, "--format");
    char id[ID_TEXT_MAX];
    enum format format = !word ? AS_IT_IS : !strcmp(word, "safetensors") ? SAFETENSORS : GGUF;
    bool local = strchr(what, '/') != NULL;
    if (!out) return cli_usage(c, "--out DIR is missing: where the files are to lie");
    if (local && !word) return cli_usage(c, "%s is of this machine: name the format that it is to be put into", what);
    struct export *e = mem_zalloc(sizeof *e);
    if (!e) return cli_failf(c, "no memory");
    int r = remote_open(&e->x, c);
    struct span name = span_str(out);
    while (name.len > 1 && name.data[name.len - 1] == '/') name.len--;
    if (r == 0 && name.len > PATH_SIZE - 128) r = error_set(&e->x.err, E_INVALID, "--out: the path is too long");
    span_copy(e->target, sizeof e->target, name);
    if (r == 0 && file_exists(e->target)) r = error_set(&e->x.err, E_EXISTS, "%s exists already: name a folder that does not", e->target);
    (void)id_make(id);
    (void)snprintf(e->pulled, sizeof e->pulled, "%.*s.%s.pulled", SPAN_ARG(name), id);
    (void)snprintf(e->made, sizeof e->made, "%.*s.%s.made", SPAN_ARG(name), id);
    const char *slash = strrchr(e->target, '/');
    span_copy(e->parent, sizeof e->parent, !slash ? SPAN(".") : span_of(e->target, slash == e->target ? 1 : (size_t)(slash - e->target)));
    if (r == 0) r = dir_make(e->parent, &e->x.err);
    if (r == 0 && local) span_copy(e->version, sizeof e->version, span_str(what));
    if (r == 0 && !local) r = dir_make(e->pulled, &e->x.err);
    if (r == 0 && !local) r = pull_all(e, what);
    if (r == 0) r = convert(e, format, local ? what : e->pulled, e->version, local);
    if (r == 0) r = dir_sync(e->made, &e->x.err);
    if (r == 0 && renameat2(AT_FDCWD, e->made, AT_FDCWD, e->target, RENAME_NOREPLACE) != 0) r = error_errno(&e->x.err, errno, "%s", e->target);
    if (r == 0) r = dir_sync(e->parent, &e->x.err);
    (void)dir_remove(e->pulled, NULL);
    if (r != 0) (void)dir_remove(e->made, NULL);
    if (r == 0 && cli_json(c)) {
        json_object(&e->x.json);
        json_str(&e->x.json, "version", local ? NULL : e->version);
        json_str(&e->x.json, "out", e->target);
        json_object_end(&e->x.json);
    } else if (r == 0) (void)buf_printf(&e->x.out, "%s lies in %s\n", e->version, e->target);
    int code = remote_close(&e->x, r);
    mem_free(e);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--out", .kind = CLI_TEXT, .value = "DIR", .doc = "The folder that comes to be (needed); nothing may be there yet"},
    {.name = "--format", .kind = CLI_TEXT, .value = "safetensors|gguf", .doc = "Put it into this format; otherwise the files are as they are stored"},
    {0},
};
const struct verb VERBS_EXPORT[] = {
    {.name = "export", .operands = "MODEL|DIR", .operands_min = 1, .operands_max = 1, .summary = "A model of the platform as files here", .options = OPTIONS, .json = true, .run = run_export,
     .help = "MODEL is NAME@VERSION, an alias, or a NAME for its production version. Its files come through the gateway, each held to its SHA-256; DIR appears when all of them are there.\n"
             "A path (with a '/') is a model directory or a GGUF file of this machine, and no platform is asked.\n\n"
             "gguf makes DIR/model.gguf as llama.cpp and its like read it: weights in the type that they are stored in, metadata of the architecture, tokenizer and chat template. It is read back before it is\n"
             "there; what the format cannot say of a model is an error. safetensors makes what transformers opens, weights that are stored in blocks as F32.\n\n"
             "examples:\n"
             "  genloop export smol --out smol/ --format gguf\n"
             "  genloop export ./SmolLM2-135M-Instruct --out smol-gguf --format gguf"},
    {0},
};
