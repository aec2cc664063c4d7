#include "platform.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

extern char **environ;

enum { CONFIG_FILE_MAX = 1 << 20, ENVIRON_MAX = 1 << 20, SWEEP_PATIENCE_MS = 10000, COMMAND_WORDS_MAX = 48, SOCKET_PATH_MAX = sizeof((struct sockaddr_un *)0)->sun_path - 1 };

#define AT(field) offsetof(struct platform_settings, field)
const struct config_row PLATFORM_ROWS[] = {
    {"supervisor", "cache_memory", CONFIG_BYTES, AT(cache_memory), "256MiB", 1 << 20, 0x1p40, "Memory of the private Redis that is the cache; beyond it the least recently used goes."},
    {"supervisor", "log_file_max", CONFIG_BYTES, AT(log_file_max), "10MiB", 4096, 0x1p40, "Size of HOME/logs/NAME.log at which a new one is begun."},
    {"supervisor", "log_files", CONFIG_INT, AT(log_files), "3", 0, 100, "Full log files that are kept of each child, NAME.log.1 the newest."},
    {"supervisor", "redis_server", CONFIG_STRING, AT(redis_server), "redis-server", 0, 0, "The program of the private servers of the log and the cache, version 7 or newer."},
};
const size_t PLATFORM_ROWS_COUNT = sizeof PLATFORM_ROWS / sizeof *PLATFORM_ROWS;

int platform_path(const struct platform *p, const char *relative, char *out, size_t out_size, struct error *err) {
    int n = snprintf(out, out_size, "%s/%s", p->home, relative);
    return n >= 0 && (size_t)n < out_size ? 0 : error_set(err, E_INVALID, "the home %s is too long a path", p->home);
}

int platform_template(const char *listen, struct buf *out) {
    return buf_printf(out,
                      "# The configuration of this platform. Every key is also GENLOOP_SECTION_KEY in the environment, which goes before this file; what is not set has its default.\n"
                      "# `genloop config show` prints what is in force, `genloop config check` what is wrong; `genloop-SERVICE --describe` lists a service's keys.\n"
                      "\n"
                      "# Where topics, objects and the cache are. As it stands everything is in this home, and `genloop up` runs two private Redis servers for it.\n"
                      "# It starts none for what is named here:\n"
                      "# log: kafka://broker-1:9092,broker-2:9092\n"
                      "# store: file:/srv/genloop/store\n"
                      "# redis: redis://127.0.0.1:6379\n"
                      "\n"
                      "# log_level: info           # debug, info, warn or error\n"
                      "\n"
                      "gateway:\n"
                      "  listen: \"%s\"\n"
                      "  # capture: none           # what is kept of prompts and answers: none, hashed or full (sealed, with a key per subject)\n"
                      "\n"
                      "# inference:\n"
                      "#   weights: f32            # or q8: quantized to 8 bits when loaded\n"
                      "#   threads: 0              # per replica; 0: the replicas of this machine share its cores. Their number: genloop scale inference=N\n"
                      "\n"
                      "# feedback:\n"
                      "#   improve_after: 0        # so many new judgements of a model ask for fine-tuning by themselves; 0: on command\n"
                      "\n"
                      "# gates:                    # thresholds that a candidate has to meet: genloop-feedback --describe\n"
                      "#   perplexity_ratio_max: 1.05\n"
                      "\n"
                      "# supervisor:\n"
                      "#   cache_memory: 256MiB\n"
                      "#   log_file_max: 10MiB\n"
                      "#   log_files: 3\n",
                      listen);
}

/* ---- opening ---- */

static int find_programs(struct platform *p, struct error *err) {
    ssize_t n = readlink("/proc/self/exe", p->programs, sizeof p->programs - 1);
    if (n <= 0) return error_errno(err, errno, "the folder of this program");
    p->programs[n] = '\0';
    char *slash = strrchr(p->programs, '/');
    if (slash) *slash = '\0';
    return 0;
}

/* What is the gateway's to check and ours to know. */
static int read_listen(struct platform *p, const struct json *root, int port, struct error *err) {
    const char *set = getenv("GENLOOP_GATEWAY_LISTEN");
    struct span listen = set ? span_str(set) : json_string(json_get(json_get(root, "gateway"), "listen"));
    if (span_empty(listen)) listen = SPAN("127.0.0.1:8080");
    if (listen.len >= sizeof p->listen) return error_set(err, E_INVALID, "gateway.listen: %.*s is too long", SPAN_ARG(span_sub(listen, 0, 80)));
    span_copy(p->listen, sizeof p->listen, listen);
    if (port == 0) return 0;
    char *colon = strrchr(p->listen, ':');
    if (!colon || span_starts(listen, SPAN("unix:"))) return error_set(err, E_INVALID, "--port does not go with gateway.listen %s", p->listen);
    size_t at = (size_t)(colon - p->listen);
    (void)snprintf(p->listen + at, sizeof p->listen - at, ":%d", port);
    return 0;
}

/* What would make several services of one machine one and the same. */
static int check_shared(const struct platform *p, const struct json *root, struct error *err) {
    const struct service_settings *s = &p->settings.shared;
    struct span home = json_string(json_get(root, "home"));
    if (s->instance[0]) return error_set(err, E_INVALID, "instance: \"%s\" would be the name of all services: the supervisor names them, take it out of genloop.yaml and the environment", s->instance);
    if (s->bus[0]) return error_set(err, E_INVALID, "bus: %s would be the address of all services: take it out of genloop.yaml and the environment", s->bus);
    if (!span_ends(span_str(s->admin), SPAN(":0")))
        return error_set(err, E_INVALID, "admin: %s would be the address of all services: with port 0 each takes a free one (genloop status lists them)", s->admin);
    if (!span_empty(home) && !span_eq_str(home, p->home)) return error_set(err, E_INVALID, "home: genloop.yaml of %s names another home, %.*s: take it out", p->home, SPAN_ARG(span_sub(home, 0, 200)));
    return 0;
}

static int read_replicas(struct platform *p, struct error *err) {
    char path[PATH_MAX];
    struct buf text;
    struct json *root = NULL;
    int r = platform_path(p, "supervisor.json", path, sizeof path, err);
    p->replicas = 1;
    if (r != 0 || !file_exists(path)) return r;
    buf_init(&text, 4096);
    r = file_read(path, &text, err);
    if (r == 0 && (r = json_parse(buf_span(&text), &root, err)) != 0) (void)error_prefix(err, "%s", path);
    if (r == 0) {
        int64_t format = json_int(json_get(root, "format"), 0), n = json_int(json_get(root, "inference"), -1);
        if (format != 1) r = error_set(err, E_UNSUPPORTED, "%s is of format %lld, this program knows 1: use a newer genloop", path, (long long)format);
        else if (n < 0 || n > SUPERVISE_REPLICAS_MAX) r = error_set(err, E_INVALID, "%s: inference must be 0 to %d", path, SUPERVISE_REPLICAS_MAX);
        else p->replicas = (int)n;
    }
    json_free(root);
    buf_fini(&text);
    return r;
}

static int find_kinds(struct platform *p, struct error *err) {
    const struct service_settings *s = &p->settings.shared;
    for (int k = 0; k < SUPERVISE_KINDS; k++) {
        char path[PATH_MAX + 64];
        if ((k == SUPERVISE_LOG && strcmp(s->log, "embedded") != 0) || (k == SUPERVISE_CACHE && s->redis[0])) continue;
        (void)snprintf(path, sizeof path, "%s/genloop-%s", p->programs, supervise_kind_name((enum supervise_kind)k));
        if (k != SUPERVISE_LOG && k != SUPERVISE_CACHE && access(path, X_OK) != 0) return error_errno(err, errno, "%s, which belongs beside genloop", path);
        p->kinds |= 1u << k;
    }
    return 0;
}

static int read_settings(struct platform *p, const char *path, struct error *err) {
    size_t n = 0;
    struct config_row *rows = settings_rows(PLATFORM_ROWS, PLATFORM_ROWS_COUNT, &n);
    int r = rows ? config_load(path, rows, n, SERVICE_SECTIONS, &p->settings, err) : error_set(err, E_NOMEM, "no memory for the configuration");
    mem_free(rows);
    return r;
}

int platform_open(struct platform *p, const char *home, int port, struct error *err) {
    char path[PATH_MAX];
    struct buf text;
    struct json *root = NULL;
    struct bus_keys keys;
    *p = (struct platform){0};
    buf_init(&text, CONFIG_FILE_MAX);
    span_copy(p->home, sizeof p->home, span_str(home));
    int r = platform_path(p, "run/supervisor.sock", path, sizeof path, err);
    if (r == 0 && strlen(path) > SOCKET_PATH_MAX) r = error_set(err, E_INVALID, "%s is longer than a socket's path may be (%d bytes): choose a shorter home", path, SOCKET_PATH_MAX);
    /* Services know their home from here, whatever else the environment said. */
    if (r == 0 && setenv("GENLOOP_HOME", home, 1) != 0) r = error_set(err, E_NOMEM, "no memory for the environment");
    if (r == 0) r = find_programs(p, err);
    if (r == 0) r = dir_make(home, err);
    if (r == 0) r = platform_path(p, "genloop.yaml", path, sizeof path, err);
    if (r == 0 && !file_exists(path)) {
        char listen[64];
        (void)snprintf(listen, sizeof listen, "127.0.0.1:%d", port ? port : 8080);
        r = platform_template(listen, &text);
        if (r == 0) r = file_write_durable(path, buf_span(&text), 0644, err);
        buf_clear(&text);
    }
    if (r == 0) r = read_settings(p, path, err);
    if (r == 0) r = file_read(path, &text, err);
    if (r == 0) r = yaml_parse(buf_span(&text), &root, err);
    if (r == 0) r = check_shared(p, root, err);
    if (r == 0) r = read_listen(p, root, port, err);
    if (r == 0) r = find_kinds(p, err);
    if (r == 0) r = read_replicas(p, err);
    if (r == 0) r = settings_resolve(&p->settings.shared, "supervisor", err);
    if (r == 0) r = settings_make_home(&p->settings.shared, &keys, err);
    if (r == 0) r = platform_path(p, "log", path, sizeof path, err);
    if (r == 0) r = dir_make(path, err);
    if (r == 0 && chmod(path, 0700) != 0) r = error_errno(err, errno, "%s", path);
    explicit_bzero(&keys, sizeof keys);
    json_free(root);
    buf_fini(&text);
    if (r != 0) platform_close(p);
    return r;
}

void platform_close(struct platform *p) {
    size_t n = 0;
    struct config_row *rows = settings_rows(PLATFORM_ROWS, PLATFORM_ROWS_COUNT, &n);
    if (rows) config_free(rows, n, &p->settings);
    mem_free(rows);
}

void platform_url(const struct platform *p, char *out, size_t out_size) { (void)snprintf(out, out_size, "http://%s", p->listen); }

int platform_lock(const struct platform *p, int *out, struct error *err) {
    char path[PATH_MAX];
    int r = platform_path(p, "run/supervisor.lock", path, sizeof path, err);
    if (r != 0) return r;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return error_errno(err, errno, "%s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        r = errno == EWOULDBLOCK ? error_set(err, E_EXISTS, "a platform runs in %s already", p->home) : error_errno(err, errno, "locking %s", path);
        (void)close(fd);
        return r;
    }
    *out = fd;
    return 0;
}

int platform_check_port(const struct platform *p, struct error *err) {
    char host[128];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    const char *colon = strrchr(p->listen, ':');
    if (!colon || strncmp(p->listen, "unix:", 5) == 0) return 0; /* the gateway says what is wrong with it */
    struct span name = span_of(p->listen, (size_t)(colon - p->listen));
    if (name.len >= 2 && name.data[0] == '[') name = span_sub(name, 1, name.len - 2);
    span_copy(host, sizeof host, name);
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) return 0;
    int r = 0, one = 1, fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 && bind(fd, found->ai_addr, found->ai_addrlen) != 0) {
        if (errno == EADDRINUSE) r = error_set(err, E_EXISTS, "%s is in use by another program: choose another port with --port N, or stop what listens there (ss -ltnp shows it)", p->listen);
        else if (errno == EACCES) r = error_set(err, E_DENIED, "%s may not be used by this user: choose a port above 1023 with --port N", p->listen);
        else r = error_errno(err, errno, "%s", p->listen);
    }
    if (fd >= 0) (void)close(fd);
    freeaddrinfo(found);
    return r;
}

int platform_keep_replicas(const struct platform *p, int replicas, struct error *err) {
    char path[PATH_MAX], text[64];
    int r = platform_path(p, "supervisor.json", path, sizeof path, err);
    int n = snprintf(text, sizeof text, "{\"format\":1,\"inference\":%d}\n", replicas);
    return r == 0 ? file_write_durable(path, span_of(text, (size_t)n), 0644, err) : r;
}

/* ---- what a killed supervisor left ---- */

struct sweep {
    char mark[PATH_MAX + 64]; /* MARK=HOME */
    int found;
};

static int sweep_process(struct sweep *s, const char *entry, struct buf *environment) {
    char path[64];
    int64_t pid = 0;
    if (span_to_i64(span_str(entry), &pid) != 0 || pid <= 1 || pid == getpid()) return 0;
    (void)snprintf(path, sizeof path, "/proc/%lld/environ", (long long)pid);
    buf_clear(environment);
    if (file_read(path, environment, NULL) != 0) return 0; /* another user's, or gone */
    struct span rest = buf_span(environment), variable;
    while (span_cut(&rest, '\0', &variable)) {
        if (!span_eq_str(variable, s->mark)) continue;
        if (kill((pid_t)pid, SIGKILL) == 0) s->found++;
        break;
    }
    return 0;
}

int platform_sweep(const struct platform *p, struct error *err) {
    struct sweep s = {0};
    struct buf environment;
    int64_t until = clock_mono_ms() + SWEEP_PATIENCE_MS;
    int r = 0;
    (void)snprintf(s.mark, sizeof s.mark, "%s=%s", PLATFORM_MARK, p->home);
    buf_init(&environment, ENVIRON_MAX);
    for (;;) {
        DIR *proc = opendir("/proc");
        if (!proc) {
            r = error_errno(err, errno, "/proc");
            break;
        }
        s.found = 0;
        for (struct dirent *e; (e = readdir(proc));) (void)sweep_process(&s, e->d_name, &environment);
        (void)closedir(proc);
        if (s.found == 0) break; /* one that is dead and only not reaped has no environment */
        if (clock_mono_ms() > until) {
            r = error_set(err, E_STATE, "%d processes of a supervisor that was killed do not end: genloop logs, and ps -ef", s.found);
            break;
        }
        (void)usleep(5000);
    }
    buf_fini(&environment);
    return r;
}

/* ---- commands ---- */

static const char *keep(struct platform_command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *keep(struct platform_command *c, const char *format, ...) {
    struct buf text;
    va_list args;
    buf_init(&text, ENVIRON_MAX);
    va_start(args, format);
    int r = buf_vprintf(&text, format, args);
    va_end(args);
    char *owned = r == 0 ? buf_detach(&text, NULL) : NULL;
    buf_fini(&text);
    if (owned) c->texts[c->n_texts++] = owned;
    return owned;
}

static bool is_of(const char *variable, const char *name) {
    size_t n = strlen(name);
    return strncmp(variable, name, n) == 0 && variable[n] == '=';
}

static int word(struct platform_command *c, const char *text) {
    ASSERT(c->n_argv < COMMAND_WORDS_MAX - 1);
    if (!text) return E_NOMEM;
    c->argv[c->n_argv++] = text;
    return 0;
}

static int redis_words(const struct platform *p, bool log, struct platform_command *c) {
    /* Its title would be written over its environment, where platform_sweep looks for the mark. */
    static const char *const common[] = {"--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--save", "", "--databases", "1", "--set-proc-title", "no", NULL};
    static const char *const of_log[] = {"--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "0", "--maxmemory-policy", "noeviction", NULL};
    static const char *const of_cache[] = {"--appendonly", "no", "--maxmemory-policy", "allkeys-lru", NULL};
    int r = word(c, p->settings.redis_server);
    for (const char *const *w = common; r == 0 && *w; w++) r = word(c, *w);
    for (const char *const *w = log ? of_log : of_cache; r == 0 && *w; w++) r = word(c, *w);
    if (r == 0) r = word(c, "--unixsocket");
    if (r == 0) r = word(c, keep(c, "%s/run/%s.sock", p->home, log ? "log" : "cache"));
    if (r == 0) r = word(c, "--dir");
    if (r == 0) r = word(c, keep(c, "%s/%s", p->home, log ? "log" : "run"));
    if (r == 0 && !log) r = word(c, "--maxmemory");
    if (r == 0 && !log) r = word(c, keep(c, "%lld", (long long)p->settings.cache_memory));
    return r;
}

int platform_command(const struct platform *p, const struct supervise_child *child, struct platform_command *c, struct error *err) {
    static const char *const replaced[] = {"GENLOOP_HOME", "GENLOOP_INSTANCE", "GENLOOP_RESTARTS", "GENLOOP_GATEWAY_LISTEN", "NOTIFY_SOCKET", PLATFORM_MARK, NULL};
    size_t n = 0;
    while (environ[n]) n++;
    *c = (struct platform_command){0};
    c->argv = mem_calloc(COMMAND_WORDS_MAX, sizeof *c->argv);
    c->env = mem_calloc(n + 16, sizeof *c->env);
    c->texts = mem_calloc(16, sizeof *c->texts);
    int r = c->argv && c->env && c->texts ? 0 : E_NOMEM;
    if (r == 0 && (child->kind == SUPERVISE_LOG || child->kind == SUPERVISE_CACHE)) {
        r = redis_words(p, child->kind == SUPERVISE_LOG, c);
    } else if (r == 0) {
        r = word(c, keep(c, "%s/genloop-%s", p->programs, supervise_kind_name(child->kind)));
        if (r == 0) r = word(c, "--config");
        if (r == 0) r = word(c, keep(c, "%s/genloop.yaml", p->home));
    }
    for (size_t i = 0; r == 0 && i < n; i++) {
        bool ours = false;
        for (const char *const *name = replaced; *name; name++) ours |= is_of(environ[i], *name);
        if (!ours) c->env[c->n_env++] = environ[i];
    }
    if (r == 0) {
        const char *own[] = {keep(c, "GENLOOP_HOME=%s", p->home), keep(c, "%s=%s", PLATFORM_MARK, p->home), keep(c, "NOTIFY_SOCKET=%s/run/notify.sock", p->home),
                             keep(c, "GENLOOP_GATEWAY_LISTEN=%s", p->listen), keep(c, "GENLOOP_INSTANCE=%s-%d", supervise_kind_name(child->kind), child->index ? child->index : 1),
                             keep(c, "GENLOOP_RESTARTS=%d", child->restarts)};
        for (size_t i = 0; r == 0 && i < sizeof own / sizeof *own; i++) {
            if (own[i]) c->env[c->n_env++] = own[i];
            else r = E_NOMEM;
        }
    }
    if (r == 0) return 0;
    platform_command_free(c);
    return error_set(err, E_NOMEM, "no memory to start %s", child->name);
}

void platform_command_free(struct platform_command *c) {
    for (size_t i = 0; i < c->n_texts; i++) mem_free(c->texts[i]);
    mem_free(c->texts);
    mem_free(c->argv);
    mem_free(c->env);
    *c = (struct platform_command){0};
}
