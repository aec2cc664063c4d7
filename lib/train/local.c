#include "train/local.h"

#include <math.h>

#include "base/alloc.h"
#include "base/json.h"
#include "train/train.h"

struct local {
    FILE *out;
    const volatile int *stop;
    bool broken; /* nobody reads any more */
};

static void on_step(void *arg, const struct train_step *s) {
    struct local *l = arg;
    struct buf line;
    struct json_out w;
    buf_init(&line, 1024);
    json_begin(&w, &line);
    json_object(&w);
    json_num(&w, "step", (int64_t)s->step);
    json_flt(&w, "loss", s->loss);
    json_flt(&w, "grad_norm", s->grad_norm);
    json_flt(&w, "lr", s->lr);
    if (!isnan(s->evaluate_loss)) json_flt(&w, "evaluate_loss", s->evaluate_loss);
    json_object_end(&w);
    buf_append_char(&line, '\n');
    struct span text = buf_span(&line);
    if (line.failed || fwrite(text.data, 1, text.len, l->out) != text.len || fflush(l->out)) l->broken = true;
    buf_fini(&line);
}

static enum train_order should_stop(void *arg) {
    const struct local *l = arg;
    return l->broken || (l->stop && *l->stop) ? TRAIN_PAUSE : TRAIN_GO_ON;
}

int train_local_main(const char *recipe_path, const char *out_dir, FILE *out, const volatile int *stop, struct error *err) {
    struct train_recipe *recipe = mem_zalloc(sizeof *recipe);
    char *dir = mem_strdup(recipe_path);
    int r = recipe && dir ? recipe_load(recipe_path, recipe, err) : error_set(err, E_NOMEM, "no memory");
    if (!r) {
        char *slash = strrchr(dir, '/');
        if (slash) slash[slash == dir ? 1 : 0] = '\0';
        struct local l = {.out = out, .stop = stop};
        struct train_paths paths = {.recipe_dir = slash ? dir : NULL, .out_dir = out_dir};
        struct train_events events = {.arg = &l, .on_step = on_step, .should_stop = should_stop};
        r = train_run(recipe, &paths, &events, NULL, err);
    }
    mem_free(recipe);
    mem_free(dir);
    return r;
}
