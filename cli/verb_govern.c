/* approve, reject, canary, promote, rollback, retire: a person's decisions on a version. services/feedback decides whether they hold; here they are only said. */
#include <stdio.h>

#include "base/random.h"
#include "remote.h"

/* What the verb is called is what the gateway's path is called. */
static int transition(struct cli *c, bool canary) {
    struct remote x;
    char id[ID_TEXT_MAX];
    const char *reason = cli_text(c, "--reason"), *word = cli_verb(c)->name;
    if (!reason || !*reason) return cli_usage(c, "--reason TEXT is missing: the records say why");
    if (canary && cli_flag(c, "--end") && cli_given(c, "--percent")) return cli_usage(c, "--end takes the share away: --percent does not go with it");
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/admin/models/");
    remote_add(&x, "", cli_operand(c, 0));
    (void)buf_printf(&x.path, "/%s", word);
    struct json_out w = remote_body(&x);
    json_str(&w, "id", id_make(id)); /* so that asking again is the same decision */
    json_str(&w, "reason", reason);
    if (cli_text(c, "--by")) json_str(&w, "by", cli_text(c, "--by"));
    if (canary && cli_given(c, "--percent")) json_num(&w, "canary_percent", cli_int(c, "--percent", 0));
    if (canary && cli_flag(c, "--end")) json_flag(&w, "end_canary", true);
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && cli_json(c)) {
        json_put_value(&x.json, x.answer);
    } else if (r == 0) {
        (void)buf_printf(&x.out, "%s is %s", shown_name(x.answer), shown_enum(json_get(x.answer, "state"), "MODEL_STATE_"));
        if (json_int(json_get(x.answer, "canary_percent"), 0)) (void)buf_printf(&x.out, " with %lld %% of the requests", (long long)json_int(json_get(x.answer, "canary_percent"), 0));
        (void)buf_printf(&x.out, ", by %s: %s\n", shown_text(json_get(json_get(x.answer, "actor"), "id")), shown_text(json_get(x.answer, "reason")));
    }
    return remote_close(&x, r);
}

static int run_plain(struct cli *c) { return transition(c, false); }
static int run_canary(struct cli *c) { return transition(c, true); }

#define WHY {.name = "--reason", .kind = CLI_TEXT, .value = "TEXT", .doc = "Why (needed): it goes into the audit log"}
#define WHO {.name = "--by", .kind = CLI_TEXT, .value = "NAME", .doc = "A name beside that of the key that is used: kept as a claim"}
static const struct cli_option OPTIONS[] = {WHY, WHO, {0}};
static const struct cli_option CANARY_OPTIONS[] = {
    WHY, WHO,
    {.name = "--percent", .kind = CLI_INT, .value = "N", .doc = "Its share of the requests to production; default 10", .min = 1, .max = 100},
    {.name = "--end", .kind = CLI_FLAG, .doc = "Take its share away again"},
    {0},
};
#define DECISION(NAME, SUMMARY, HELP, OPTIONS_, RUN) {.name = NAME, .operands = "MODEL@VERSION", .operands_min = 1, .operands_max = 1, .summary = SUMMARY, .help = HELP, .options = OPTIONS_, .json = true, .run = RUN}

const struct verb VERBS_GOVERN[] = {
    DECISION("approve", "Approve a version that passed its gates", "example: genloop approve guide@2 --reason \"read 50 answers, shorter and right\" --by \"Ada Lovelace\"", OPTIONS, run_plain),
    DECISION("reject", "Reject a version for good", "example: genloop reject guide@3 --reason \"invents options\"", OPTIONS, run_plain),
    DECISION("canary", "Give an approved version a share of the requests", "examples:\n  genloop canary guide@2 --percent 20 --reason \"first look\"\n  genloop canary guide@2 --end --reason \"slower\"", CANARY_OPTIONS, run_canary),
    DECISION("promote", "Make a version the one that production means", "The version before it is retired, and stays at hand for a rollback.\n\nexample: genloop promote guide@2 --reason \"a day as canary without a complaint\"", OPTIONS, run_plain),
    DECISION("rollback", "Back to the production version before", "MODEL@VERSION is the one in production that goes.\n\nexample: genloop rollback guide@2 --reason \"answers in the wrong language\"", OPTIONS, run_plain),
    DECISION("retire", "Retire a version that is in no use", NULL, OPTIONS, run_plain),
    {0},
};
