/* The pure part of hub.h: names, and which files of a repository make a model. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/sha256.h"
#include "hub.h"

/* ---- names ---- */

static bool name_ok(struct span s) {
    if (!s.len || s.len > 96 || s.data[0] == '.' || s.data[0] == '-') return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.')) return false;
        if (c == '.' && i + 1 < s.len && s.data[i + 1] == '.') return false;
    }
    return true;
}

/* A relative path that stays where it is. */
static bool path_ok(struct span s, size_t max) {
    struct span part;
    if (!s.len || s.len > max || s.data[0] == '/' || s.data[s.len - 1] == '/') return false;
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.data[i] < 0x20 || s.data[i] == 0x7f || s.data[i] == '\\') return false;
    while (span_cut(&s, '/', &part))
        if (!part.len || span_eq_str(part, ".") || span_eq_str(part, "..")) return false;
    return true;
}

int hub_ref_parse(struct span text, struct hub_ref *ref, struct error *err) {
    struct span repo = text, revision = SPAN("main"), file = SPAN(""), org;
    ptrdiff_t colon = span_find_char(repo, ':');
    if (colon >= 0) {
        file = span_skip(repo, (size_t)colon + 1);
        repo = span_sub(repo, 0, (size_t)colon);
        if (!path_ok(file, HUB_FILE_MAX)) return error_set(err, E_INVALID, "hf:%.*s: '%.*s' is no file of a repository", SPAN_ARG(text), SPAN_ARG(file));
    }
    ptrdiff_t at = span_find_char(repo, '@');
    if (at >= 0) {
        revision = span_skip(repo, (size_t)at + 1);
        repo = span_sub(repo, 0, (size_t)at);
        if (!path_ok(revision, HUB_REVISION_MAX)) return error_set(err, E_INVALID, "hf:%.*s: '%.*s' is no branch, tag or commit", SPAN_ARG(text), SPAN_ARG(revision));
    }
    struct span name = repo;
    ptrdiff_t slash = span_find_char(repo, '/');
    if (slash >= 0) {
        org = span_sub(repo, 0, (size_t)slash);
        name = span_skip(repo, (size_t)slash + 1);
        if (!name_ok(org)) name = SPAN("");
    }
    if (!name_ok(name)) return error_set(err, E_INVALID, "hf:%.*s: a model of the hub is hf:ORG/NAME, with @REVISION and :FILE where wanted", SPAN_ARG(text));
    span_copy(ref->repo, sizeof ref->repo, repo);
    span_copy(ref->revision, sizeof ref->revision, revision);
    span_copy(ref->file, sizeof ref->file, file);
    return 0;
}

/* ---- what is fetched ---- */

void hub_files_fini(struct hub_files *files) {
    mem_free(files->list);
    *files = (struct hub_files){0};
}

static bool ends_with(struct span s, const char *end) {
    size_t n = strlen(end);
    return s.len >= n && memcmp(s.data + s.len - n, end, n) == 0;
}

/* "model-00001-of-00003.safetensors" */
static bool is_shard(struct span s) {
    static const char form[] = "model-#####-of-#####.safetensors";
    if (s.len != sizeof form - 1) return false;
    for (size_t i = 0; i < s.len; i++)
        if (form[i] == '#' ? s.data[i] < '0' || s.data[i] > '9' : s.data[i] != form[i]) return false;
    return true;
}

static bool is_weights(struct span s) { return span_eq_str(s, "model.safetensors") || span_eq_str(s, "adapter_model.safetensors") || is_shard(s); }

static bool belongs(struct span s) {
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                        "chat_template.json", "vocab.txt", "vocab.json", "merges.txt", "model.safetensors.index.json", "adapter_config.json", "modules.json",
                                        "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (span_eq_str(s, names[i])) return true;
    return is_weights(s);
}

static int add_file(struct hub_files *files, const struct json *sibling, struct error *err) {
    struct span name = json_string(json_get(sibling, "rfilename")), sha256 = json_string(json_get(json_get(sibling, "lfs"), "sha256"));
    int64_t size = json_int(json_get(sibling, "size"), -1);
    uint8_t digest[SHA256_SIZE];
    if (!path_ok(name, HUB_FILE_MAX)) return error_set(err, E_INVALID, "the hub names a file '%.*s' that would lie elsewhere", (int)(name.len < 200 ? name.len : 200), name.data);
    if (size < 0) return error_set(err, E_INVALID, "the hub says no size of %.*s", SPAN_ARG(name));
    if (sha256.len && (sha256.len != 2 * SHA256_SIZE || hex_decode(sha256, digest) < 0)) return error_set(err, E_INVALID, "the hub names no SHA-256 of %.*s", SPAN_ARG(name));
    if (files->n == HUB_FILES_MAX) return error_set(err, E_TOO_LARGE, "the repository has more than %d files of a model", HUB_FILES_MAX);
    if (array_reserve(&files->list, &files->capacity, files->n + 1, sizeof *files->list)) return error_set(err, E_NOMEM, "no memory for a list of files");
    struct hub_file *f = &files->list[files->n++];
    span_copy(f->name, sizeof f->name, name);
    span_copy(f->sha256, sizeof f->sha256, sha256);
    f->size = (uint64_t)size;
    return 0;
}

/* There are no weights that are read: what there is instead. */
static int refuse(const struct json *siblings, const struct hub_ref *ref, struct error *err) {
    char found[400] = "";
    size_t used = 0;
    bool pickled = false;
    for (size_t i = 0; i < json_size(siblings); i++) {
        struct span name = json_string(json_get(json_at(siblings, i), "rfilename"));
        pickled |= ends_with(name, ".bin") || ends_with(name, ".pt") || ends_with(name, ".pth");
        if (!ends_with(name, ".gguf") || used + name.len + 3 > sizeof found) continue;
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%.*s", used ? ", " : "", SPAN_ARG(name));
    }
    if (used) return error_set(err, E_UNSUPPORTED, "%s has GGUF files: name one of them, hf:%s:FILE; there are %s", ref->repo, ref->repo, found);
    if (pickled) return error_set(err, E_UNSUPPORTED, "%s has pickled weights alone, which can run code when they are read: save them as safetensors", ref->repo);
    return error_set(err, E_UNSUPPORTED, "%s has no safetensors and no GGUF file at its top", ref->repo);
}

int hub_choose(const struct json *answer, const struct hub_ref *ref, struct hub_files *files, struct error *err) {
    const struct json *siblings = json_get(answer, "siblings");
    struct span commit = json_string(json_get(answer, "sha"));
    bool weights = false;
    int r = 0;
    if (json_type(siblings) != JSON_TYPE_ARRAY || !name_ok(commit) || commit.len > 64) return error_set(err, E_INVALID, "the hub's answer about %s is none: is HF_ENDPOINT a hub?", ref->repo);
    span_copy(files->commit, sizeof files->commit, commit);
    for (size_t i = 0; r == 0 && i < json_size(siblings); i++) {
        struct span name = json_string(json_get(json_at(siblings, i), "rfilename"));
        if (ref->file[0] ? !span_eq_str(name, ref->file) : !belongs(name)) continue;
        weights |= is_weights(name);
        r = add_file(files, json_at(siblings, i), err);
    }
    if (r == 0 && ref->file[0] && !files->n) r = error_set(err, E_NOT_FOUND, "%s has no file %s at %s", ref->repo, ref->file, ref->revision);
    if (r == 0 && !ref->file[0] && !weights) r = refuse(siblings, ref, err);
    return r;
}
