/*
 * config: what genloop.yaml and the environment say. Each service knows its own keys, so each is asked (`genloop-SERVICE --check` prints what is in force for it, or what is wrong); the
 * supervisor's section is ours.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "cli.h"
#include "platform.h"

enum { OUTPUT_MAX = 1 << 20 };

static const enum supervise_kind SERVICES[] = {SUPERVISE_GATEWAY, SUPERVISE_INGEST, SUPERVISE_TRAINER, SUPERVISE_INFERENCE, SUPERVISE_FEEDBACK};
enum { SERVICE_COUNT = sizeof SERVICES / sizeof *SERVICES };

/* One service's answer: 0 with what is in force in *out, or E_INVALID with its complaint. */
static int ask_service(const char *programs, enum supervise_kind kind, const char *config, struct buf *out, struct error *err) {
    char program[PATH_MAX + 64];
    int ends[2];
    (void)snprintf(program, sizeof program, "%s/genloop-%s", programs, supervise_kind_name(kind));
    if (access(program, X_OK) != 0) return error_errno(err, errno, "%s, which belongs beside genloop", program);
    if (pipe2(ends, 0) != 0) return error_errno(err, errno, "a pipe");
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(ends[1], 1);
        (void)dup2(ends[1], 2);
        (void)close(ends[0]);
        (void)close(ends[1]);
        if (config) execl(program, program, "--config", config, "--check", (char *)NULL);
        else execl(program, program, "--check", (char *)NULL);
        _exit(127);
    }
    int why = errno, status = 0, r = 0;
    (void)close(ends[1]);
    if (pid < 0) {
        (void)close(ends[0]);
        return error_errno(err, why, "a process for %s", program);
    }
    for (;;) {
        char *at = buf_reserve(out, 4096);
        ssize_t n = at ? read(ends[0], at, 4096) : 0;
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        buf_commit(out, (size_t)n);
    }
    (void)close(ends[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (out->failed) r = error_set(err, out->failed, "%s says too much", program);
    else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        struct span says = span_trim(buf_span(out));
        r = error_set(err, E_INVALID, "%.*s", SPAN_ARG(span_sub(says, 0, 400)));
    }
    return r;
}

static int own_section(const char *config, struct buf *out, struct error *err) {
    struct platform_settings settings = {0};
    size_t n = 0;
    struct config_row *rows = settings_rows(PLATFORM_ROWS, PLATFORM_ROWS_COUNT, &n);
    int r = rows ? config_load(config, rows, n, SERVICE_SECTIONS, &settings, err) : error_set(err, E_NOMEM, "no memory for the configuration");
    if (r == 0) r = config_show(PLATFORM_ROWS, PLATFORM_ROWS_COUNT, &settings, out);
    if (rows && r == 0) config_free(rows, n, &settings);
    mem_free(rows);
    return r;
}

struct picture {
    char home[PATH_MAX], programs[PATH_MAX], path[PATH_MAX + 32];
    const char *config; /* NULL: there is no file, defaults and the environment are in force */
};

static int find(struct cli *c, struct picture *p) {
    int code = cli_home(c, p->home, sizeof p->home);
    if (code != CLI_DONE) return code;
    if (setenv("GENLOOP_HOME", p->home, 1) != 0) return cli_failf(c, "no memory"); /* as `up` gives it to the services */
    ssize_t n = readlink("/proc/self/exe", p->programs, sizeof p->programs - 1);
    if (n <= 0) return cli_failf(c, "the folder of this program: %s", strerror(errno));
    p->programs[n] = '\0';
    *strrchr(p->programs, '/') = '\0';
    (void)snprintf(p->path, sizeof p->path, "%s/genloop.yaml", p->home);
    const char *given = cli_text(c, "--config");
    if (given) span_copy(p->path, sizeof p->path, span_str(given));
    p->config = given || file_exists(p->path) ? p->path : NULL;
    return CLI_DONE;
}

/* What each says, once where several say the same (a file that is no YAML). */
static int run_check(struct cli *c) {
    struct picture p;
    struct error err = {0};
    struct buf out, complaints;
    char said[SERVICE_COUNT + 1][ERROR_MESSAGE_MAX];
    struct json_out w;
    int code = find(c, &p), bad = 0;
    if (code != CLI_DONE) return code;
    buf_init(&out, OUTPUT_MAX);
    buf_init(&complaints, OUTPUT_MAX);
    json_begin(&w, &complaints);
    json_array(&w);
    for (int i = 0; i <= SERVICE_COUNT; i++) {
        buf_clear(&out);
        int r = i < SERVICE_COUNT ? ask_service(p.programs, SERVICES[i], p.config, &out, &err) : own_section(p.config, &out, &err);
        if (r == 0) continue;
        /* "genloop-gateway: FILE: …" */
        struct span says = span_str(err.message);
        ptrdiff_t colon = span_find(says, SPAN(": "));
        if (span_starts(says, SPAN("genloop-")) && colon > 0) says = span_skip(says, (size_t)colon + 2);
        bool known = false;
        for (int k = 0; k < bad; k++) known |= span_eq_str(says, said[k]);
        if (known) continue;
        span_copy(said[bad++], sizeof said[0], says);
        json_put_span(&w, says);
        if (!cli_json(c)) (void)cli_failf(c, "%.*s", SPAN_ARG(says));
    }
    json_array_end(&w);
    buf_clear(&out);
    json_begin(&w, &out);
    json_object(&w);
    json_str(&w, "config", p.config);
    json_flag(&w, "valid", bad == 0);
    json_key(&w, "errors");
    json_put_raw(&w, buf_span(&complaints));
    json_object_end(&w);
    (void)buf_append_char(&out, '\n');
    if (cli_json(c)) {
        code = cli_print(c, buf_span(&out));
    } else if (bad == 0) {
        buf_clear(&out);
        (void)buf_printf(&out, p.config ? "%s is valid\n" : "%s is not there: defaults and the environment are in force, and valid\n", p.path);
        code = cli_print(c, buf_span(&out));
    }
    buf_fini(&out);
    buf_fini(&complaints);
    return bad ? CLI_FAILED : code;
}

/* The services' answers repeat the shared keys: those stand once, without the two that each fills in for itself; then each section. */
static void add_sections(struct buf *all, struct span answer, bool with_shared) {
    struct span rest = answer, line;
    bool in_section = false;
    while (span_cut(&rest, '\n', &line)) {
        bool indented = line.len && line.data[0] == ' ', opens = !indented && span_ends(line, SPAN(":"));
        if (!indented) in_section = opens;
        if (!in_section && (!with_shared || span_starts(line, SPAN("instance:")) || span_starts(line, SPAN("bus:")))) continue;
        if (opens && all->len) (void)buf_append_char(all, '\n');
        (void)buf_append_span(all, line);
        (void)buf_append_char(all, '\n');
    }
}

static int run_show(struct cli *c) {
    struct picture p;
    struct error err = {0};
    struct buf out, all;
    int code = find(c, &p), r = 0;
    if (code != CLI_DONE) return code;
    buf_init(&out, OUTPUT_MAX);
    buf_init(&all, OUTPUT_MAX);
    for (int i = 0; r == 0 && i <= SERVICE_COUNT; i++) {
        buf_clear(&out);
        r = i < SERVICE_COUNT ? ask_service(p.programs, SERVICES[i], p.config, &out, &err) : own_section(p.config, &out, &err);
        if (r == 0) add_sections(&all, buf_span(&out), i == 0);
    }
    if (r == 0 && cli_json(c)) {
        struct json *root = NULL;
        buf_clear(&out);
        r = yaml_parse(buf_span(&all), &root, &err);
        if (r == 0 && json_write(&out, root) != 0) r = error_set(&err, E_NOMEM, "no memory");
        (void)buf_append_char(&out, '\n');
        json_free(root);
    }
    code = r != 0 ? cli_fail(c, &err) : cli_print(c, cli_json(c) ? buf_span(&out) : buf_span(&all));
    buf_fini(&out);
    buf_fini(&all);
    return code;
}

static int run_describe(struct cli *c) {
    struct buf out;
    buf_init(&out, OUTPUT_MAX);
    int code = config_describe(PLATFORM_ROWS, PLATFORM_ROWS_COUNT, &out) == 0 ? cli_print(c, buf_span(&out)) : cli_failf(c, "no memory");
    buf_fini(&out);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "Whose genloop.yaml; otherwise $GENLOOP_HOME, then ~/.genloop"},
    {.name = "--config", .kind = CLI_FILE, .value = "FILE", .doc = "Another file"},
    {0},
};
const struct verb VERBS_CONFIG[] = {
    {.name = "config check", .operands = "", .summary = "Say what is wrong with the configuration", .options = OPTIONS, .json = true, .run = run_check,
     .help = "Each service reads the file and the environment as it would at its start. Exit code 1 where one of them would not start with it."},
    {.name = "config show", .operands = "", .summary = "The configuration that is in force", .options = OPTIONS, .json = true, .run = run_show,
     .help = "File, environment and defaults together, as YAML; secrets are shown as ***. `genloop-SERVICE --describe` says what each key means."},
    {.name = "config describe", .operands = "", .summary = "The reference of the section supervisor, as Markdown", .run = run_describe, .help = "The services' own are in genloop-SERVICE --describe."},
    {0},
};
