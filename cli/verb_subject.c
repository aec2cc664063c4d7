/* subject: a person's data. Everything that people wrote is sealed with a key of whom it is about; erasing the key erases every copy. */
#include "remote.h"

static int run_erase(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/admin/subjects/erase");
    struct json_out w = remote_body(&x);
    json_str(&w, "subject", cli_operand(c, 0));
    if (cli_text(c, "--tenant")) json_str(&w, "tenant", cli_text(c, "--tenant"));
    if (cli_text(c, "--reason")) json_str(&w, "reason", cli_text(c, "--reason"));
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true); /* erased twice is erased */
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0 && json_bool(json_get(x.answer, "existed"), false))
        (void)buf_printf(&x.out, "the key of %s (tenant %s) is erased: nothing that was sealed with it can be read any more, and nothing is kept of them from now on\n", cli_operand(c, 0), shown_text(json_get(x.answer, "tenant")));
    else if (r == 0)
        (void)buf_printf(&x.out, "nothing is sealed for %s (tenant %s), and nothing is kept of them from now on: is that whom you meant?\n", cli_operand(c, 0), shown_text(json_get(x.answer, "tenant")));
    return remote_close(&x, r);
}

static const struct cli_option OPTIONS[] = {
    {.name = "--tenant", .kind = CLI_TEXT, .value = "T", .doc = "Whose subject it is; default: the tenant of who asks"},
    {.name = "--reason", .kind = CLI_TEXT, .value = "TEXT", .doc = "Why, for the audit log: without the person's name, which the log would keep"},
    {0},
};

const struct verb VERBS_SUBJECT[] = {
    {.name = "subject erase", .operands = "ID", .operands_min = 1, .operands_max = 1, .summary = "Erase what a person wrote, for good", .options = OPTIONS, .json = true, .run = run_erase,
     .help = "ID is what requests name the person by: user, safety_identifier, the subject of feedback. The key is erased with which conversations, responses and feedback of ID are sealed: none of their copies can be read\n"
             "again, and nothing is kept under ID any more. The audit log says that it was done, by whom and why, with a keyed hash for ID. Documents that were ingested, data sets that were built and models that were\n"
             "trained before stay as they are. It cannot be taken back; done twice it is done once.\n\n"
             "example: genloop subject erase customer-4711 --reason \"request of 3 May\""},
    {0},
};
