#include "train/card.h"

#include <math.h>

#include "base/json.h"

int card_write(const struct card_facts *f, struct buf *out) {
    const struct model_config *c = f->config;
    struct json_out w;
    buf_append_str(out, "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- genloop\n");
    buf_printf(out, "- %s\n", recipe_objective_name(f->recipe->objective));
    if (f->base) {
        buf_append_str(out, "base_model: ");
        json_begin(&w, out); /* a JSON string is a YAML string */
        json_put_str(&w, f->base);
        buf_append_char(out, '\n');
    }
    buf_printf(out, "---\n\n# %s\n\n", f->name);
    buf_printf(out, "A %s with %llu parameters: %u layers, width %u, %u heads (%u for keys and values), context %u, vocabulary %u. ", c->arch->architecture,
               (unsigned long long)model_config_param_count(c), c->layers, c->width, c->heads, c->kv_heads, c->context, c->vocab);
    if (f->base) buf_printf(out, "Trained from %s (%s)", f->base, recipe_objective_name(f->recipe->objective));
    else buf_append_str(out, "Trained from scratch");
    buf_printf(out, " by genloop " GENLOOP_VERSION ".\n\n## Training\n\n| | |\n|---|---|\n| data | %s, %llu rows |\n", f->data, (unsigned long long)f->rows);
    buf_printf(out, "| steps | %llu |\n| tokens | %llu |\n", (unsigned long long)f->steps, (unsigned long long)f->tokens);
    if (!isnan(f->loss)) buf_printf(out, "| loss of the last step | %.4f |\n", f->loss);
    if (!isnan(f->evaluate_loss)) buf_printf(out, "| held-out loss | %.4f |\n", f->evaluate_loss);
    buf_printf(out, "| run | sha256:%s |\n\nThe recipe:\n\n```yaml\n", f->run_sha256);
    recipe_write(f->recipe, out);
    buf_append_str(out, "```\n\nThe same recipe on the same data and machine gives the same bytes, whatever the number of threads.\n");
    if (f->extra) buf_printf(out, "\n%s\n", f->extra);
    return out->failed;
}
