#include "lab.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "services/trainer/presets.h"

const char *lab_option(const struct lab_args *a, const char *name, const char *otherwise) {
    for (int i = 0; i + 1 < a->count; i++)
        if (strncmp(a->values[i], "--", 2) == 0 && strcmp(a->values[i] + 2, name) == 0) return a->values[i + 1];
    if (otherwise) return otherwise;
    fprintf(stderr, "loop_lab: --%s is missing\n", name);
    exit(2);
}

double lab_number(const struct lab_args *a, const char *name, double otherwise) {
    double value = otherwise;
    const char *text = lab_option(a, name, "");
    if (text[0] && span_to_f64(span_str(text), &value) != 0) {
        fprintf(stderr, "loop_lab: --%s: %s is no number\n", name, text);
        exit(2);
    }
    return value;
}

char *lab_path(char path[LAB_PATH_MAX], const char *dir, const char *name) {
    snprintf(path, LAB_PATH_MAX, "%s/%s", dir, name);
    return path;
}

int lab_write(const char *dir, const char *name, const struct buf *b, struct error *err) {
    char path[LAB_PATH_MAX];
    return b->failed ? error_set(err, b->failed, "%s does not fit", name) : file_write(lab_path(path, dir, name), buf_span(b), 0600, err);
}

/* A preset that ships, as JSON. */
static int lab_preset(const struct lab_args *a, struct error *err) {
    const char *name = lab_option(a, "name", NULL);
    const struct preset *preset = preset_find(span_str(name));
    struct json *root = NULL;
    struct buf out;
    buf_init(&out, 1 << 20);
    int r = preset ? yaml_parse(span_str(preset->recipe), &root, err) : error_set(err, E_NOT_FOUND, "there is no preset %s", name);
    if (!r) r = json_write(&out, root);
    if (!r) printf("%s\n", buf_cstr(&out));
    json_free(root);
    buf_fini(&out);
    return r;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(const struct lab_args *a, struct error *err);
    } verbs[] = {{"corpus", lab_corpus}, {"rate", lab_rate}, {"preset", lab_preset}, {"spoil", lab_spoil}, {"measure", lab_measure}};
    struct error err = {0};
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (argc < 2 || strcmp(argv[1], verbs[i].name) != 0) continue;
        struct lab_args a = {argc - 2, argv + 2};
        int r = verbs[i].run(&a, &err);
        if (r < 0) fprintf(stderr, "loop_lab %s: %s\n", argv[1], err.message);
        return r < 0 ? 1 : r;
    }
    fprintf(stderr, "usage: loop_lab corpus|rate|preset|spoil|measure --option value …\n");
    return 2;
}
