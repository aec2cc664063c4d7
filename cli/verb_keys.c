/* keys: create, list, revoke. The owner of a home, on its machine, needs no key for it: --home, or whatever client.h finds. */
#include <limits.h>

#include "remote.h"

/* --home: through that home's own door. 0, a code of remote_open, or CLI_USAGE and CLI_FAILED where it names none (*code then, and nothing was opened). */
static int open_keys(struct remote *x, struct cli *c, int *code) {
    char home[PATH_MAX];
    *code = CLI_DONE;
    if (!cli_given(c, "--home")) return remote_open(x, c);
    if ((*code = cli_home(c, home, sizeof home)) != CLI_DONE) return E_INVALID;
    return remote_open_home(x, c, home);
}

static int run_create(struct cli *c) {
    struct remote x;
    int code, r = open_keys(&x, c, &code);
    if (code != CLI_DONE) return code;
    remote_path(&x, "/v1/admin/keys");
    struct json_out w = remote_body(&x);
    if (cli_text(c, "--tenant")) json_str(&w, "tenant", cli_text(c, "--tenant"));
    if (cli_text(c, "--scope")) json_str(&w, "scope", cli_text(c, "--scope"));
    if (cli_text(c, "--note")) json_str(&w, "note", cli_text(c, "--note"));
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true); /* of an answer that was lost a key is left that nobody has: it shows in the list, and can be revoked */
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0)
        (void)buf_printf(&x.out, "%s\n\n%s of tenant %s, with the scope %s. It is shown this once: keep it where secrets are kept.\n  export GENLOOP_API_KEY=%s\n", shown_text(json_get(x.answer, "key")),
                         shown_text(json_get(x.answer, "id")), shown_text(json_get(x.answer, "tenant")), shown_text(json_get(x.answer, "scope")), shown_text(json_get(x.answer, "key")));
    return remote_close(&x, r);
}

struct listing {
    struct remote *x;
    struct table table;
};

static int list_key(void *arg, const struct json *k) {
    struct listing *l = arg;
    if (cli_json(l->x->cli)) {
        json_put_value(&l->x->json, k);
        return 0;
    }
    int64_t revoked = json_int(json_get(k, "revoked_time_ms"), 0);
    table_span(&l->table, json_string(json_get(k, "id")));
    table_span(&l->table, json_string(json_get(k, "scope")));
    table_span(&l->table, json_string(json_get(k, "tenant")));
    table_cell(&l->table, "%s", shown_time(json_get(k, "created_time_ms")));
    table_cell(&l->table, "%s", shown_text(json_get(json_get(k, "created_by"), "id")));
    table_cell(&l->table, "%s", revoked ? shown_time(json_get(k, "revoked_time_ms")) : "-");
    table_cell(&l->table, "%s", shown_text(json_get(k, "note")));
    return 0;
}

static int run_list(struct cli *c) {
    struct remote x;
    struct listing l = {.x = &x};
    int code, r = open_keys(&x, c, &code);
    if (code != CLI_DONE) return code;
    table_init(&l.table, "ID|SCOPE|TENANT|CREATED|BY|REVOKED|NOTE");
    if (cli_json(c)) json_array(&x.json);
    remote_path(&x, "/v1/admin/keys?limit=1000");
    if (r == 0) r = remote_each(&x, "keys", &l, list_key);
    if (cli_json(c)) json_array_end(&x.json);
    if (r < 0) buf_clear(&x.out);
    else if (!cli_json(c)) (void)table_render(&l.table, &x.out);
    table_fini(&l.table);
    return remote_close(&x, r);
}

static int run_revoke(struct cli *c) {
    struct remote x;
    int code, r = open_keys(&x, c, &code);
    if (code != CLI_DONE) return code;
    remote_path(&x, "/v1/admin/keys/");
    remote_add(&x, "", cli_operand(c, 0));
    if (r == 0) r = remote_call(&x, "DELETE", true);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0) (void)buf_printf(&x.out, "%s is revoked, since %s\n", shown_text(json_get(x.answer, "id")), shown_time(json_get(x.answer, "revoked_time_ms")));
    return remote_close(&x, r);
}

#define HOME_OPTION {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "Through the own door of this home, as its owner: no key is needed. Default: the gateway at $GENLOOP_URL"}
static const struct cli_option HOME_OPTIONS[] = {HOME_OPTION, {0}};
static const struct cli_option CREATE_OPTIONS[] = {
    {.name = "--scope", .kind = CLI_TEXT, .value = "client|operator|approver", .doc = "What it may; a higher one includes the lower ones. Default client"},
    {.name = "--tenant", .kind = CLI_TEXT, .value = "T", .doc = "Whose it is; default: the tenant of who makes it"},
    {.name = "--note", .kind = CLI_TEXT, .value = "TEXT", .doc = "What it is for, for the list"},
    HOME_OPTION,
    {0},
};

const struct verb VERBS_KEYS[] = {
    {.name = "keys create", .operands = "", .summary = "Make an API key: it is shown once", .options = CREATE_OPTIONS, .json = true, .run = run_create,
     .help = "With the first key the gateway begins to ask for keys, also on loopback, and goes on to. client: the models and feedback; operator: data, jobs, replicas, keys; approver: releases too. "
             "Nobody makes a key of a higher scope than his own. Without GENLOOP_API_KEY, the owner of the home makes keys on its machine.\n\n"
             "examples:\n  genloop keys create --scope approver --note \"Ada's laptop\"\n  export GENLOOP_API_KEY=$(genloop keys create --tenant shop --json | jq -r .key)"},
    {.name = "keys list", .operands = "", .summary = "The API keys, those that were revoked among them", .options = HOME_OPTIONS, .json = true, .run = run_list},
    {.name = "keys revoke", .operands = "ID", .operands_min = 1, .operands_max = 1, .summary = "Revoke an API key, for good and at once", .options = HOME_OPTIONS, .json = true, .run = run_revoke,
     .help = "ID is the key's name (key_…), not the key.\n\nexample: genloop keys revoke key_0123456789abcdef"},
    {0},
};
