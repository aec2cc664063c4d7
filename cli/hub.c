#include "hub.h"

#include <curl/curl.h>
#include <errno.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/sha256.h"

enum {
    URL_MAX = 4096,
    ATTEMPTS_MAX = 6,       /* in a row that brought nothing: half a minute of pauses */
    CONNECT_TIMEOUT_MS = 30000,
    STALL_S = 60,
    REDIRECTS_MAX = 5,
    PIECE = 1 << 20,
};

/* ---- asking ---- */

struct fetch {
    CURL *curl;
    char message[CURL_ERROR_SIZE];
    struct curl_slist *headers;
    /* into memory, or a file */
    struct buf *answer;
    int fd;
    const char *path;
    struct sha256 hash;
    uint64_t done, size; /* of the file; size 0: any */
    bool resumes;        /* from `done` on: a server that does not begins anew */
    int result;
    struct error err;
    const struct hub_progress *progress;
    const char *name;
    uint64_t before, total;
    char hub_error[64];  /* x-error-code */
};

static const char *endpoint(void) {
    const char *e = getenv("HF_ENDPOINT");
    return e && *e ? e : "https://huggingface.co";
}

static void tell(struct fetch *f) {
    if (f->progress && f->progress->on_progress) f->progress->on_progress(f->progress->arg, f->name, f->before + f->done, f->total);
}

static size_t on_header(char *data, size_t one, size_t n, void *arg) {
    struct fetch *f = arg;
    struct span line = span_of(data, n), name;
    (void)one;
    if (span_starts(line, SPAN("HTTP/"))) f->hub_error[0] = '\0';
    else if (span_cut(&line, ':', &name) && span_eq_nocase(name, SPAN("x-error-code"))) span_copy(f->hub_error, sizeof f->hub_error, span_trim(line));
    return n;
}

/* A server that answers 200 to a Range sends the whole again. */
static bool begin_anew(struct fetch *f) {
    if (lseek(f->fd, 0, SEEK_SET) < 0 || ftruncate(f->fd, 0) < 0) {
        f->result = error_errno(&f->err, errno, "%s", f->path);
        return false;
    }
    sha256_init(&f->hash);
    f->done = 0;
    f->resumes = false;
    return true;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg) {
    struct fetch *f = arg;
    long status = 0;
    (void)one;
    (void)curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status >= 300) return n; /* an error's words are not the file's */
    if (f->answer) {
        if (buf_append(f->answer, data, n) == 0) return n;
        f->result = error_set(&f->err, E_TOO_LARGE, "the hub's answer has more than %d MiB", HUB_LIST_MAX >> 20);
        return 0;
    }
    if (f->resumes && status != 206 && !begin_anew(f)) return 0;
    if (f->done + n > f->size) {
        f->result = error_set(&f->err, E_DATA_LOSS, "%s is larger than the %llu bytes that the hub says", f->name, (unsigned long long)f->size);
        return 0;
    }
    for (size_t at = 0; at < n;) {
        ssize_t w = write(f->fd, data + at, n - at);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            f->result = error_errno(&f->err, errno, "%s", f->path);
            return 0;
        }
        at += (size_t)w;
    }
    sha256_update(&f->hash, data, n);
    f->done += n;
    tell(f);
    return n;
}

static int add_encoded(struct buf *url, const char *path, bool keeps_slashes) {
    static const char hex[] = "0123456789ABCDEF";
    for (const char *c = path; *c; c++) {
        bool plain = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || *c == '-' || *c == '_' || *c == '.' || *c == '~' || (*c == '/' && keeps_slashes);
        if (plain) (void)buf_append_char(url, *c);
        else {
            (void)buf_append_char(url, '%');
            (void)buf_append_char(url, hex[(unsigned char)*c >> 4]);
            (void)buf_append_char(url, hex[(unsigned char)*c & 15]);
        }
    }
    return url->failed;
}

/* What a status that is no success means. */
static int status_error(const struct fetch *f, long status, const struct hub_ref *ref, struct error *err) {
    bool token = getenv("HF_TOKEN") && *getenv("HF_TOKEN");
    if (strcmp(f->hub_error, "GatedRepo") == 0 || status == 403)
        return error_set(err, E_DENIED, "%s is gated: accept its terms at %s/%s, and set HF_TOKEN", ref->repo, endpoint(), ref->repo);
    if (strcmp(f->hub_error, "RevisionNotFound") == 0) return error_set(err, E_NOT_FOUND, "%s has no revision %s", ref->repo, ref->revision);
    if (strcmp(f->hub_error, "EntryNotFound") == 0) return error_set(err, E_NOT_FOUND, "%s has no file %s", ref->repo, f->name);
    if (status == 401 || status == 404)
        return error_set(err, E_NOT_FOUND, "there is no model %s at %s%s", ref->repo, endpoint(), token ? " that HF_TOKEN may see" : ", or it is private: set HF_TOKEN");
    if (status == 429) return error_set(err, E_FULL, "the hub at %s has had enough questions of us: try again later", endpoint());
    return error_set(err, status >= 500 ? E_UNAVAILABLE : E_UNKNOWN, "%s/%s: HTTP %ld", endpoint(), ref->repo, status);
}

static bool worth_again(int code) { return code == E_UNAVAILABLE || code == E_FULL; }

/* One attempt. E_UNAVAILABLE, E_FULL: another may help. */
static int attempt(struct fetch *f, const char *url, const struct hub_ref *ref, struct error *err) {
    char range[64], bearer[600];
    const char *token = getenv("HF_TOKEN");
    long status = 0;
    int r = 0;
    curl_easy_reset(f->curl);
    f->message[0] = f->hub_error[0] = '\0';
    f->result = 0;
    (void)curl_easy_setopt(f->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(f->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(f->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(f->curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(f->curl, CURLOPT_FOLLOWLOCATION, 1L);
    (void)curl_easy_setopt(f->curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    (void)curl_easy_setopt(f->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    (void)curl_easy_setopt(f->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(f->curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    (void)curl_easy_setopt(f->curl, CURLOPT_USERAGENT, "genloop/" GENLOOP_VERSION);
    (void)curl_easy_setopt(f->curl, CURLOPT_ERRORBUFFER, f->message);
    (void)curl_easy_setopt(f->curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(f->curl, CURLOPT_WRITEDATA, f);
    (void)curl_easy_setopt(f->curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(f->curl, CURLOPT_HEADERDATA, f);
    if (token && *token) { /* as curl's own option it stays with the host that it is for */
        if (snprintf(bearer, sizeof bearer, "%s", token) >= (int)sizeof bearer) return error_set(err, E_INVALID, "HF_TOKEN is longer than any token");
        (void)curl_easy_setopt(f->curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        (void)curl_easy_setopt(f->curl, CURLOPT_XOAUTH2_BEARER, bearer);
    }
    f->resumes = !f->answer && f->done > 0;
    if (f->resumes) {
        (void)snprintf(range, sizeof range, "%llu-", (unsigned long long)f->done);
        (void)curl_easy_setopt(f->curl, CURLOPT_RANGE, range);
    }
    CURLcode code = curl_easy_perform(f->curl);
    (void)curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
    if (f->result < 0) {
        *err = f->err;
        return f->result;
    }
    if (code != CURLE_OK) return error_set(err, E_UNAVAILABLE, "%s: %s", url, f->message[0] ? f->message : curl_easy_strerror(code));
    if (status == 416 && f->resumes) { /* what we have is not of this file */
        if (!begin_anew(f)) r = f->result;
        return r < 0 ? r : error_set(err, E_UNAVAILABLE, "%s changed while it was fetched", f->name);
    }
    return status >= 200 && status < 300 ? 0 : status_error(f, status, ref, err);
}

static int ask(struct fetch *f, const char *url, const struct hub_ref *ref, struct error *err) {
    int r = 0, barren = 0;
    for (;;) {
        uint64_t before = f->done;
        r = attempt(f, url, ref, err);
        if (r == 0 || !worth_again(r)) return r;
        barren = f->done > before ? 0 : barren + 1;
        if (barren == ATTEMPTS_MAX) return r;
        if (f->answer) buf_clear(f->answer);
        int64_t pause_ms = 250LL << barren;
        (void)nanosleep(&(struct timespec){pause_ms / 1000, pause_ms % 1000 * 1000000}, NULL);
    }
}

/* ---- a file ---- */

/* What an earlier run left, taken into the hash. */
static int take_up(struct fetch *f, struct error *err) {
    char *piece = mem_alloc(PIECE);
    ssize_t n = 0;
    if (!piece) return error_set(err, E_NOMEM, "no memory to read %s", f->path);
    sha256_init(&f->hash);
    f->done = 0;
    do {
        n = read(f->fd, piece, PIECE);
        if (n > 0) {
            sha256_update(&f->hash, piece, (size_t)n);
            f->done += (uint64_t)n;
        }
    } while (n > 0 || (n < 0 && errno == EINTR));
    mem_free(piece);
    if (n < 0) return error_errno(err, errno, "%s", f->path);
    return f->done > f->size && !begin_anew(f) ? f->result : 0;
}

static int make_folders(const char *path, struct error *err) {
    char folder[HUB_PATH_MAX];
    (void)snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = '\0';
    return dir_make(folder, err);
}

static int get_file(struct fetch *f, const struct hub_ref *ref, const char *commit, const struct hub_file *file, const char *path, struct error *err) {
    char part[HUB_PATH_MAX + 8];
    struct stat st;
    struct buf url;
    uint8_t digest[SHA256_SIZE];
    char hex[SHA256_HEX_MAX];
    f->name = file->name;
    f->size = file->size;
    f->done = file->size;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == file->size) { /* it has its name: it was checked */
        tell(f);
        return 0;
    }
    (void)snprintf(part, sizeof part, "%s.part", path);
    f->path = part;
    buf_init(&url, URL_MAX);
    (void)buf_printf(&url, "%s/", endpoint());
    (void)add_encoded(&url, ref->repo, true);
    (void)buf_append_str(&url, "/resolve/");
    (void)add_encoded(&url, commit, false);
    (void)buf_append_char(&url, '/');
    (void)add_encoded(&url, file->name, true);
    const char *text = buf_cstr(&url);
    int r = text ? make_folders(path, err) : error_set(err, E_INVALID, "the address of %s is longer than %d bytes", file->name, URL_MAX);
    if (r == 0 && (f->fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0644)) < 0) r = error_errno(err, errno, "%s", part);
    if (r == 0) r = take_up(f, err);
    for (int again = 0; r == 0 && f->done < f->size && again < ATTEMPTS_MAX; again++) r = ask(f, text, ref, err); /* an answer may end early and say nothing of it */
    if (r == 0 && f->done != f->size) r = error_set(err, E_DATA_LOSS, "%s ends after %llu of %llu bytes", file->name, (unsigned long long)f->done, (unsigned long long)f->size);
    sha256_final(&f->hash, digest);
    hex_encode(digest, sizeof digest, hex);
    if (r == 0 && file->sha256[0] && strcmp(hex, file->sha256) != 0) {
        r = error_set(err, E_DATA_LOSS, "%s is not what the hub says (SHA-256 %s, it should be %s): fetch it again", file->name, hex, file->sha256);
        (void)unlink(part);
    }
    if (r == 0 && fsync(f->fd) < 0) r = error_errno(err, errno, "%s", part);
    if (f->fd >= 0 && close(f->fd) < 0 && r == 0) r = error_errno(err, errno, "%s", part);
    f->fd = -1;
    if (r == 0 && rename(part, path) < 0) r = error_errno(err, errno, "%s", path);
    buf_fini(&url);
    return r;
}

/* ---- a model ---- */

static int list(struct fetch *f, const struct hub_ref *ref, struct hub_files *files, struct error *err) {
    struct buf url, answer;
    struct json *root = NULL;
    buf_init(&url, URL_MAX);
    buf_init(&answer, HUB_LIST_MAX);
    (void)buf_printf(&url, "%s/api/models/", endpoint());
    (void)add_encoded(&url, ref->repo, true);
    (void)buf_append_str(&url, "/revision/");
    (void)add_encoded(&url, ref->revision, false);
    (void)buf_append_str(&url, "?blobs=true");
    const char *text = buf_cstr(&url);
    f->name = ref->file;
    f->answer = &answer;
    int r = text ? ask(f, text, ref, err) : error_set(err, E_INVALID, "the address of %s is longer than %d bytes", ref->repo, URL_MAX);
    f->answer = NULL;
    if (r == 0 && json_parse(buf_span(&answer), &root, err) < 0) r = error_set(err, E_UNKNOWN, "%s answers with what is no JSON: is HF_ENDPOINT a hub?", endpoint());
    if (r == 0) r = hub_choose(root, ref, files, err);
    json_free(root);
    buf_fini(&url);
    buf_fini(&answer);
    return r;
}

int hub_get(const struct hub_ref *ref, const char *cache, const struct hub_progress *progress, char path[HUB_PATH_MAX], struct error *err) {
    struct fetch f = {.curl = curl_easy_init(), .fd = -1, .progress = progress};
    struct hub_files files = {0};
    char folder[HUB_PATH_MAX], name[HUB_PATH_MAX];
    size_t n = 0;
    int r = f.curl ? list(&f, ref, &files, err) : error_set(err, E_NOMEM, "no memory to ask the hub");
    if (r < 0) goto out;
    int used = snprintf(folder, sizeof folder, "%s/", cache);
    for (const char *c = ref->repo; *c && used > 0 && (size_t)used + 3 < sizeof folder; c++) {
        if (*c == '/') used += snprintf(folder + used, sizeof folder - (size_t)used, "--");
        else used += snprintf(folder + used, sizeof folder - (size_t)used, "%c", *c);
    }
    n = (size_t)used;
    if (used < 0 || n + sizeof files.commit + HUB_FILE_MAX + 16 > sizeof folder) {
        r = error_set(err, E_INVALID, "%s: the path is too long", cache);
        goto out;
    }
    (void)snprintf(folder + n, sizeof folder - n, "/%s", files.commit);
    for (size_t i = 0; i < files.n; i++) f.total += files.list[i].size;
    for (size_t i = 0; r == 0 && i < files.n; i++) {
        if (snprintf(name, sizeof name, "%s/%s", folder, files.list[i].name) >= (int)sizeof name) r = error_set(err, E_INVALID, "%s: the path is too long", folder);
        if (r == 0) r = get_file(&f, ref, files.commit, &files.list[i], name, err);
        f.before += files.list[i].size;
    }
    if (r == 0) (void)snprintf(path, HUB_PATH_MAX, "%s", ref->file[0] ? name : folder);
out:
    if (f.curl) curl_easy_cleanup(f.curl);
    hub_files_fini(&files);
    return r;
}

int hub_cache(char path[HUB_PATH_MAX], struct error *err) {
    const char *own = getenv("GENLOOP_HUB_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (own && *own) n = snprintf(path, HUB_PATH_MAX, "%s", own);
    else if (xdg && *xdg) n = snprintf(path, HUB_PATH_MAX, "%s/genloop/hub", xdg);
    else if (home && *home) n = snprintf(path, HUB_PATH_MAX, "%s/.cache/genloop/hub", home);
    else return error_set(err, E_INVALID, "there is neither GENLOOP_HUB_CACHE nor HOME to keep a model in");
    return n > 0 && n < HUB_PATH_MAX ? 0 : error_set(err, E_INVALID, "the path of the hub's cache is too long");
}
