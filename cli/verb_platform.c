/* The one-machine platform: up, down, scale, drain. What they ask for is done by the supervisor (supervisor.h), which `up` becomes. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli.h"
#include "client.h"
#include "control.h"
#include "supervisor.h"

enum { END_PATIENCE_MS = 5000 /* between the supervisor's last word and its end */ };

static void print_event(void *arg, struct span text) {
    (void)arg;
    (void)fprintf(stderr, "%.*s\n", SPAN_ARG(text));
}

/* Prints the platform as the supervisor told it, or what `text` makes of it. */
static int print_answer(struct cli *c, const struct json *answer, const char *text) {
    struct buf out;
    buf_init(&out, CONTROL_LINE_MAX * 2);
    if (cli_json(c)) (void)json_write(&out, answer);
    else (void)buf_append_str(&out, text);
    (void)buf_append_char(&out, '\n');
    int code = out.failed ? cli_failf(c, "no memory") : cli_print(c, buf_span(&out));
    buf_fini(&out);
    return code;
}

/* ---- up ---- */

/* Somebody's supervisor has the home. */
static int already_up(struct cli *c, const struct platform *p, bool wait) {
    struct json *answer = NULL;
    struct error err = {0};
    char text[PATH_MAX + 256], url[192];
    int r = control_call(p->home, wait ? SPAN("{\"do\":\"wait\"}") : SPAN("{\"do\":\"status\"}"), NULL, cli_json(c) ? NULL : print_event, &answer, &err);
    if (r != 0) return cli_failf(c, "a supervisor holds %s, but does not answer: %s", p->home, err.message);
    struct span running = json_string(json_get(answer, "url"));
    (void)snprintf(text, sizeof text, "genloop is up already: %.*s (home %s, pid %lld); genloop down stops it", SPAN_ARG(running), p->home, (long long)json_int(json_get(answer, "pid"), 0));
    platform_url(p, url, sizeof url);
    int code;
    if (!span_eq_str(running, url)) code = cli_failf(c, "the platform of %s runs at %.*s already: genloop down stops it, then start it with --port again", p->home, SPAN_ARG(running));
    else if (wait) code = print_answer(c, answer, text);
    else code = cli_failf(c, "%s", text);
    json_free(answer);
    return code;
}

/* The child goes on without the terminal; what it cannot log itself (a sanitizer's last words) goes into its log. */
static void leave_terminal(const struct platform *p) {
    char path[PATH_MAX];
    (void)setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), log = -1;
    if (platform_path(p, "logs/supervisor.log", path, sizeof path, NULL) == 0) log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (null >= 0) (void)dup2(null, 0);
    if (log < 0) log = null;
    if (log >= 0) {
        (void)dup2(log, 1);
        (void)dup2(log, 2);
    }
}

/* What the detached supervisor reports, to stderr, until it says how it went. */
static int follow_report(int fd, bool quiet) {
    struct buf in;
    int code = -1;
    buf_init(&in, 1 << 20);
    while (code < 0) {
        ptrdiff_t end = span_find_char(buf_span(&in), '\n');
        if (end >= 0) {
            struct span line = span_sub(buf_span(&in), 0, (size_t)end);
            int64_t number;
            if (line.len && line.data[0] == SUPERVISOR_REPORT_END && span_to_i64(span_skip(line, 1), &number) == 0) code = (int)number;
            else if (!quiet) (void)fprintf(stderr, "%.*s\n", SPAN_ARG(line));
            buf_consume(&in, (size_t)end + 1);
            continue;
        }
        char *at = buf_reserve(&in, 4096);
        ssize_t n = at ? read(fd, at, 4096) : -1;
        if (n > 0) buf_commit(&in, (size_t)n);
        else if (n == 0 || errno != EINTR) break;
    }
    buf_fini(&in);
    return code;
}

static int up_detached(struct cli *c, struct platform *p, int lock) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return cli_failf(c, "a pipe: %s", strerror(errno));
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        int why = errno;
        (void)close(ends[0]);
        (void)close(ends[1]);
        return cli_failf(c, "a process: %s", strerror(why));
    }
    if (pid == 0) {
        (void)close(ends[0]);
        leave_terminal(p);
        struct supervisor_config config = {.platform = p, .report_fd = ends[1], .detached = true};
        _exit(supervisor_run(&config));
    }
    (void)close(ends[1]);
    (void)close(lock); /* the child has it */
    int code = follow_report(ends[0], cli_json(c));
    (void)close(ends[0]);
    if (code != 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
        return code < 0 ? cli_failf(c, "the supervisor ended before the platform was ready: genloop logs supervisor") : cli_failf(c, "the platform did not start");
    }
    if (!cli_json(c)) return CLI_DONE;
    struct json *answer = NULL;
    struct error err = {0};
    code = control_call(p->home, SPAN("{\"do\":\"status\"}"), NULL, NULL, &answer, &err) == 0 ? print_answer(c, answer, "") : cli_fail(c, &err);
    json_free(answer);
    return code;
}

static int run_up(struct cli *c) {
    struct platform *p = &(struct platform){0};
    struct error err = {0};
    char home[PATH_MAX];
    int lock = -1, code = cli_home(c, home, sizeof home);
    bool detach = cli_flag(c, "--detach");
    if (code != CLI_DONE) return code;
    if (cli_json(c) && !detach) return cli_usage(c, "--json goes with --detach: in the foreground there is no end to print");
    int r = platform_open(p, home, (int)cli_int(c, "--port", 0), &err);
    if (r != 0) return cli_fail(c, &err);
    r = platform_lock(p, &lock, &err);
    if (r == E_EXISTS) {
        code = already_up(c, p, detach);
    } else if (r != 0 || (r = platform_sweep(p, &err)) != 0 || (r = platform_check_port(p, &err)) != 0) { /* what a killed supervisor left listens there still */
        code = cli_fail(c, &err);
    } else if (detach) {
        code = up_detached(c, p, lock);
        lock = -1;
    } else {
        struct supervisor_config config = {.platform = p, .report_fd = STDOUT_FILENO};
        code = supervisor_run(&config);
    }
    if (lock >= 0) (void)close(lock);
    platform_close(p);
    return code;
}

/* ---- down, scale, drain ---- */

/* $GENLOOP_URL may name another platform than the home's: then it is not the home's that is meant. */
static bool means_another(struct cli *c, const struct json *platform) {
    const char *url = getenv("GENLOOP_URL");
    struct span meant = span_str(url), own = json_string(json_get(platform, "url"));
    if (!url || !*url || cli_given(c, "--home")) return false;
    if (span_ends(meant, SPAN("/"))) meant.len--;
    return !span_eq(meant, own);
}

/* Another platform's gateway: its Operations service asks whoever supervises it. */
static int call_gateway(struct cli *c, const char *path, const char *body, const char *done) {
    struct client_request request = {.method = "POST", .path = path, .body = span_str(body), .again = true};
    struct client *client = NULL;
    struct json *answer = NULL;
    struct error err = {0};
    int r = client_open(&client, &err);
    if (r == 0) r = client_call(client, &request, &answer, &err);
    int code = r == 0 ? print_answer(c, answer, done) : cli_fail(c, &err);
    json_free(answer);
    client_close(client);
    return code;
}

static int call(struct cli *c, const char *request, const char *path, const char *body, const char *done) {
    struct json *answer = NULL;
    struct error err = {0};
    char home[PATH_MAX];
    int code = cli_home(c, home, sizeof home);
    if (code != CLI_DONE) return code;
    int r = control_call(home, SPAN("{\"do\":\"status\"}"), NULL, NULL, &answer, &err);
    bool another = (r == 0 || r == E_NOT_FOUND) && means_another(c, answer);
    json_free(answer);
    answer = NULL;
    if (another) return call_gateway(c, path, body, done);
    if (r == 0) r = control_call(home, span_str(request), NULL, cli_json(c) ? NULL : print_event, &answer, &err);
    code = r == 0 ? print_answer(c, answer, done) : cli_fail(c, &err);
    json_free(answer);
    return code;
}

static int run_down(struct cli *c) {
    struct json *answer = NULL;
    struct error err = {0};
    char home[PATH_MAX];
    int code = cli_home(c, home, sizeof home);
    if (code != CLI_DONE) return code;
    int r = control_call(home, SPAN("{\"do\":\"down\"}"), NULL, cli_json(c) ? NULL : print_event, &answer, &err);
    if (r == E_NOT_FOUND) { /* it is as was asked for */
        (void)json_parse(SPAN("{\"object\":\"platform\",\"state\":\"stopped\"}"), &answer, NULL);
        code = print_answer(c, answer, err.message);
    } else {
        if (r == 0) r = control_await_end(home, END_PATIENCE_MS, &err);
        code = r == 0 ? cli_json(c) ? print_answer(c, answer, "") : CLI_DONE : cli_fail(c, &err);
    }
    json_free(answer);
    return code;
}

static int run_scale(struct cli *c) {
    char request[96], body[96], done[96];
    struct span rest = span_str(cli_operand(c, 0)), service;
    int64_t n = -1;
    if (!span_cut(&rest, '=', &service) || !span_eq_str(service, "inference"))
        return cli_usage(c, "\"%s\": replicas are of inference (inference=N); the other services are one each on one machine", cli_operand(c, 0));
    if (span_to_i64(rest, &n) != 0 || n < 0 || n > SUPERVISE_REPLICAS_MAX) return cli_usage(c, "\"%s\": N must be 0 to %d", cli_operand(c, 0), SUPERVISE_REPLICAS_MAX);
    (void)snprintf(request, sizeof request, "{\"do\":\"scale\",\"inference\":%lld}", (long long)n);
    (void)snprintf(body, sizeof body, "{\"service\":\"inference\",\"replicas\":%lld}", (long long)n);
    (void)snprintf(done, sizeof done, "inference runs %lld replica%s", (long long)n, n == 1 ? "" : "s");
    return call(c, request, "/v1/admin/scale", body, done);
}

static int run_drain(struct cli *c) {
    struct buf request, path;
    struct json_out w;
    char done[128];
    buf_init(&request, CONTROL_REQUEST_MAX - 1);
    buf_init(&path, 3 * CONTROL_REQUEST_MAX);
    json_begin(&w, &request);
    json_object(&w);
    json_str(&w, "do", "drain");
    json_str(&w, "replica", cli_operand(c, 0));
    json_object_end(&w);
    (void)snprintf(done, sizeof done, "%s has finished its requests and is gone", cli_operand(c, 0));
    (void)buf_append_str(&path, "/v1/admin/replicas/");
    client_encode(&path, span_str(cli_operand(c, 0)));
    (void)buf_append_str(&path, "/drain");
    const char *text = request.failed || path.failed ? NULL : buf_cstr(&request), *at = text ? buf_cstr(&path) : NULL;
    int code = at ? call(c, text, at, "{}", done) : cli_usage(c, "that is no name of a replica");
    buf_fini(&request);
    buf_fini(&path);
    return code;
}

#define HOME_OPTION {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "The platform's home; otherwise $GENLOOP_HOME, then ~/.genloop"}
static const struct cli_option HOME_ONLY[] = {HOME_OPTION, {0}};
static const struct cli_option UP_OPTIONS[] = {
    HOME_OPTION,
    {.name = "--port", .kind = CLI_INT, .value = "N", .min = 1, .max = 65535, .doc = "The gateway's port on 127.0.0.1; otherwise as genloop.yaml says, at first 8080"},
    {.name = "--detach", .kind = CLI_FLAG, .doc = "Return when everything is ready; genloop down stops it", .letter = 'd'},
    {0},
};

const struct verb VERBS_PLATFORM[] = {
    {.name = "up", .operands = "", .summary = "Start the platform of this machine", .options = UP_OPTIONS, .json = true, .run = run_up,
     .help = "Supervises the five services and two private Redis servers in one data directory: what ends is started again, at once at first, then with pauses. Nothing else is needed.\n"
             "Where GENLOOP_LOG, GENLOOP_STORE or GENLOOP_REDIS (or genloop.yaml in the home) name others, these are used and none is started for them. In the foreground it prints\n"
             "what happens, and Ctrl-C takes the platform down in order: open requests are finished first; a second one is less patient."},
    {.name = "down", .operands = "", .summary = "Stop it: requests are finished, then all ends in order", .options = HOME_ONLY, .json = true, .run = run_down},
    {.name = "scale", .operands = "inference=N", .operands_min = 1, .operands_max = 1, .summary = "Run N replicas of inference", .options = HOME_ONLY, .json = true, .run = run_scale,
     .help = "Returns when the new ones serve and the superfluous have finished their requests. The number is kept for the next up. Replicas share the machine's cores.\n"
             "Where $GENLOOP_URL names another platform, its gateway is asked, which asks that platform's supervisor."},
    {.name = "drain", .operands = "REPLICA", .operands_min = 1, .operands_max = 1, .summary = "Take one replica out: it finishes its requests and ends", .options = HOME_ONLY, .json = true,
     .run = run_drain, .help = "One replica less than before; genloop scale brings the number back."},
    {0},
};
